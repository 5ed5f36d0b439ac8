"""Questions that compare, rank, sum, or ask what a study cannot show. A model that is always right (`oracle`) answers
for the image, so that the rules alone are tested."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from vol3d.checkpoint import Calibration
from vol3d.text.questions import NONE, normalise, question_kind
from vol3d.workflows.answer import Answerer
from vol3d.workflows.drafts import Context
from vol3d.workflows.evidence import Evidence, Evidences
from vol3d.workflows.known import Known
from vol3d.workflows.lesions import Lesions
from vol3d.workflows.template_writer import TemplateWriter

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("oracle", Path(__file__).with_name("oracle.py"))
oracle_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle_module)
oracle, TRAINED = oracle_module.oracle, oracle_module.TRAINED
PET_CT, CT = "phantom-0031-000001", "phantom-0032-000000"


class Yes:
    """A writer that says yes to everything."""

    def write_report(self, entry, context):
        return []

    def write_answers(self, entry, questions, context):
        return ["yes"] * len(questions)


@pytest.fixture(scope="module", name="ask")
def answerers(oracle_cache):
    """(question, study, phrases trained, model, writer) -> answer; what was asked before is kept."""
    kept = {}

    def of(question, study=PET_CT, trained=TRAINED, model=oracle, writer=None):
        key = (study, trained, model)
        if key not in kept:
            entry = oracle_cache.entry(study)
            known, evidences = Known(trained), Evidences(model, Calibration())
            reporter = SimpleNamespace(known=known, evidences=evidences, writer=TemplateWriter(known, evidences))
            kept[key] = Answerer(entry, reporter, Lesions(evidences.of(entry), None, {}, "answers"))
        kept[key].writer = writer
        (given,) = kept[key]([question], Context())
        return given

    return of


def measured(ask, phrase):
    """Of every thing that a phrase finds."""
    return [lesion.measurement for lesion in ask(f"Is there a {phrase}?").lesions]


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("Is the nodule in the right lung larger than 100 mm?", "No, 48.3 mm."),
        ("Is the nodule in the right lung smaller than 10 cm?", "Yes, 48.3 mm."),
        ("Is the nodule in the right lung 48 mm in size?", "Yes, 48.3 mm."),
        ("Is the lesion in the liver 5 mm in size?", "No, 34.2 mm and 39.4 mm."),
        ("Is there a lesion larger than 35 mm in the liver?", "Yes, 39.4 mm."),
        ("Is there a lesion larger than 40 mm in the liver?", "No, 34.2 mm and 39.4 mm."),
        ("Are all lesions in the liver larger than 35 mm?", "No, 34.2 mm and 39.4 mm."),
        ("Are there no lesions larger than 4 cm in the liver?", "Yes, 34.2 mm and 39.4 mm."),
        ("Is the volume of the nodule in the right lung at most 40 ml?", "No, 41.6 ml."),
        ("Is the SUVmax of the nodule in the right lung above 5?", "Yes, SUVmax 6.2."),
        ("Is the largest lesion in the liver larger than 35 mm?", "Yes, 39.4 mm."),
        ("Are there more than 3 lesions in the liver?", "No, 2."),
        ("Are there at least two lesions in the liver?", "Yes, 2."),
        ("Is there only one lesion in the liver?", "No, 2."),
        ("Is the lesion in the liver solitary?", "No, 2."),
        ("Is there more than one lesion larger than 35 mm in the liver?", "No, 1."),
        ("Are there lesions in both lungs?", "No, on the right only."),
        ("Is the largest lesion in the liver?", "No."),  # it is in the lung
        ("Is the largest lesion in the right lung?", "Yes."),
    ],
)
def test_yes_or_no_by_measurement_or_count(ask, question, text):
    given = ask(question)
    assert (given.text, given.source) == (text, "measurement")
    assert normalise(given.text, "yes_no") == text.split(",")[0].lower().strip(".")


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("Is the nodule in the right lung new?", "prior study"),
        ("Has the nodule in the right lung grown?", "prior study"),
        ("Is the lesion in the liver stable?", "prior study"),
        ("Is the nodule in the right lung malignant?", "no words for malignant"),
        ("Is the nodule in the right lung benign?", "no words for benign"),
        ("Is there an infected lesion in the liver?", "no words for infected"),
        ("Is there a nodule with cavitation in the right lung?", "no words for cavitation"),
        ("Is the lesion in the liver larger than 35 mm?", "there are 2, which differ: 34.2 mm and 39.4 mm"),
        ("Is the nodule in the right lung larger than 5?", "no unit"),
        ("Is the nodule in the right lung larger than the lesion in the liver?", "no number"),
        ("Are there lesions in both the liver and the spleen?", "several places"),
        ("Is there a third largest lesion in the liver of 5 mm?", "there are only 2"),
    ],
)
def test_what_nothing_can_tell_is_refused_whatever_the_writer_says(ask, question, reason):
    given = ask(question, writer=Yes())
    assert given.text.startswith("That cannot be answered: ")
    assert reason in given.reason
    assert given.source == "none"
    assert normalise(given.text, given.kind) is None


def test_words_that_the_checkpoint_was_taught_are_asked(ask):
    given = ask("Is there a malignant lesion in the liver?", trained=(*TRAINED, "malignant lesion"))
    assert given.text == "Yes."


def test_each_figure_is_the_one_asked_for(ask):
    (nodule,) = measured(ask, "nodule in the right lung")
    long, short = nodule.longest_diameter_mm, nodule.short_diameter_mm
    of = "of the nodule in the right lung"
    for figure, text in {
        "short axis diameter": f"{short:.1f} mm", "short axis": f"{short:.1f} mm", "diameter": f"{long:.1f} mm",
        "mean diameter": f"{(long + short) / 2:.1f} mm", "volume": f"{nodule.volume_ml:.1f} ml",
        "TLG": f"TLG {nodule.tlg_g:.1f} g", "total lesion glycolysis": f"TLG {nodule.tlg_g:.1f} g",
        "peak uptake": f"SUVpeak {nodule.suv_peak:.1f}", "SUVmean": f"SUVmean {nodule.suv_mean:.1f}",
        "slice number": f"ct slice {nodule.slice}, z = {nodule.z_mm:.1f} mm",
    }.items():  # fmt: skip
        assert ask(f"What is the {figure} {of}?").text == text, figure
    assert abs(nodule.tlg_g / nodule.suv_mean - nodule.volume_ml) < 0.15 * nodule.volume_ml  # g = g/ml x ml of the PET
    assert ask("What are the dimensions of the nodule in the right lung?").text == f"{long:.1f} x {short:.1f} mm"


def test_slices(ask):
    (nodule,) = measured(ask, "nodule in the right lung")
    thing = "the nodule in the right lung"
    assert ask(f"On which slice is {thing}?").text == f"ct slice {nodule.slice}, z = {nodule.z_mm:.1f} mm"
    assert ask(f"On which PET slice is {thing}?").text == f"pet slice {nodule.pet_slice}, z = {nodule.pet_z_mm:.1f} mm"
    assert ask(f"On which slice does {thing} start?").text == f"ct slice {nodule.first_slice}"
    assert ask(f"On which slice does {thing} end?").text == f"ct slice {nodule.last_slice}"
    assert f"ct slices {nodule.first_slice}-{nodule.last_slice}" in ask(f"Which slices show {thing}?").text


def test_ranks_and_sums(ask):
    first, second = measured(ask, "lesion in the liver")
    small, large = sorted(m.longest_diameter_mm for m in (first, second))
    total = first.volume_ml + second.volume_ml
    for question, text in {
        "What is the total volume of the lesions in the liver?": f"{total:.1f} ml",
        "What is the size of the largest lesion in the liver?": f"{large:.1f} mm",
        "What is the size of the smallest lesion in the liver?": f"{small:.1f} mm",
        "What is the smallest lesion in the liver?": f"{small:.1f} mm",
        "What is the diameter of the second largest lesion in the liver?": f"{small:.1f} mm",
        "How large are the lesions in the liver?": f"{first.longest_diameter_mm:.1f} mm, "
        f"{second.longest_diameter_mm:.1f} mm",
        "What is the SUVmax of the hottest lesion in the liver?": f"SUVmax {max(first.suv_max, second.suv_max):.1f}",
        "How many lesions larger than 35 mm are there in the liver?": "1",
        "Where is the largest lesion?": "right lung",
    }.items():
        assert ask(question).text == text, question
    assert ask("What is the size of the third largest lesion in the liver?").reason == "there are only 2"


@pytest.mark.parametrize(
    ("question", "missing"),
    [
        ("What is the craniocaudal length of the nodule in the right lung?", "the craniocaudal extent"),
        ("How wide is the lesion in the liver?", "the transverse extent"),
        ("What is the density in HU of the lesion in the liver?", "density in HU"),
        ("Is the density of the lesion in the liver above 20 HU?", "density in HU"),
        ("How far is the nodule in the right lung from the pleura?", "a distance"),
    ],
)
def test_figures_that_nobody_measures_are_refused(ask, question, missing):
    given = ask(question)
    assert given.text == f"That cannot be measured: {missing} is not measured."
    assert given.source == "none"
    assert given.lesions == ()


@pytest.mark.parametrize(
    "question",
    [
        "Is there an FDG-avid nodule in the left lung?", "How many FDG-avid lesions are there?",
        "What is the SUVmax of the nodule in the right lung?", "What is the TLG of the lesion in the right lung?",
        "Where is the hottest lesion?", "Is there a lesion without FDG uptake in the liver?",
        "Is the nodule in the right lung hypermetabolic?",
    ],
)  # fmt: skip
def test_a_ct_answers_nothing_about_uptake(ask, question):
    def deaf(entry, phrases):  # a model that finds the lesions whatever is said of their uptake
        return oracle(entry, [p.replace("FDG-avid ", "") for p in phrases])

    for writer in (None, Yes()):
        given = ask(question, CT, (*TRAINED, "FDG-avid lesion", "FDG-avid nodule in the left lung"), deaf, writer)
        assert given.text == "That cannot be answered: no PET, and only a PET can show it."
        assert given.source == "none"
        assert normalise(given.text, question_kind(question)) is None
    assert ask("How many lesions are there?", CT).source == "measurement"


def blind(entry, phrases):
    """Finds no lesion, and every structure."""
    presence = [-8.0 if "lesion" in p or "nod" in p else 8.0 for p in phrases]
    masks, _ = oracle(entry, phrases)
    for mask, logit in zip(masks, presence, strict=True):
        mask[...] = mask if logit > 0 else 0
    return masks, oracle_module.np.array(presence, oracle_module.np.float32)


def test_an_absence_says_for_what_it_holds(ask):
    lungs = ("lung lesion", "liver lesion", "adrenal lesion", "liver", "heart", "aorta")  # no mask of the adrenals
    for question, kind, text, normal in (
        ("Is there a lesion in the left adrenal gland?", "yes_no", "No. That holds for the imaged part.", "no"),
        ("Is the left adrenal gland free of lesions?", "yes_no", "Yes. That holds for the imaged part.", "yes"),
        ("How many lesions are there?", "count", "0 in the imaged part", "0"),
        ("Where is the adrenal lesion?", "location", "There is no such lesion. That holds for the imaged part.", NONE),
        ("How large is the adrenal lesion?", "size", "There is no such lesion. That holds for the imaged part.", NONE),
        ("Is there a lesion in the liver?", "yes_no", "No.", "no"),
    ):
        given = ask(question, trained=lungs, model=blind)
        assert given.text.replace(" That holds for the part shown.", "") == text, question
        assert given.source == "segmentation"
        assert normalise(given.text, kind) == normal


def test_nothing_is_free_of_lesions_out_of_view(ask):
    assert ask("Is the left kidney free of lesions?").text == "It is not in the field of view."


def hiding(*structures):
    """The oracle, blind to some structures and to the lesions in them."""

    def answer(entry, phrases):
        probability_PZYX, logits_P = oracle(entry, phrases)
        for i, phrase in enumerate(phrases):
            if phrase in structures or ("renal" in phrase and "lesion" in phrase):
                probability_PZYX[i], logits_P[i] = 0, -8.0
        return probability_PZYX, logits_P

    return answer


def test_an_organ_whose_twin_is_seen_whole_was_taken_out_and_is_not_out_of_view(ask, oracle_cache):
    kidneys = {"left_kidney", "right_kidney"}
    study = next(s for s in oracle_cache.study_ids if kidneys <= {m.name for m in oracle_cache.entry(s).masks})
    out_of_view = ask("Is there a lesion in the right kidney?", study, model=hiding("right kidney", "left kidney"))
    assert out_of_view.text == "It is not in the field of view."
    for kidney in ("left kidney", "right kidney"):
        gone = hiding(kidney)
        assert ask(f"Is there a lesion in the {kidney}?", study, model=gone).text == "No."
        assert ask(f"Is the {kidney} present?", study, model=gone).text == "No."
        told = ask(f"What is seen in the {kidney}?", study, model=gone).text
        assert told == f"{kidney.capitalize()} not seen: removed, or never there."


def test_a_lesion_is_asked_for_in_the_words_of_training_that_mean_the_same():
    known = Known(["left paraspinal lesion", "paraspinal lesions", "FDG-avid paraspinal lesion", "small lesion"])
    for phrase, own in (
        ("abnormality in the paravertebral muscles on the left", "left paraspinal lesion"),
        ("paravertebral abnormalities", "paraspinal lesions"),
        ("paravertebral lesion demonstrating increased tracer accumulation", "FDG-avid paraspinal lesion"),
        ("small-volume focal lesion", "small lesion"),
        ("gluteal lesion", "gluteal lesion"),
        ("paravertebral cyst", "paravertebral cyst"),
        ("hypodense paravertebral lesion", "hypodense paravertebral lesion"),
    ):
        assert known.in_own_words(phrase) == own


def test_a_place_is_asked_in_the_words_of_training():
    known = Known(["right renal lesion", "lung lesion", "hepatic lesion"])
    assert known.in_own_words("FDG-avid intrarenal lesion") == "FDG-avid renal lesion"
    assert known.in_own_words("Intra-hepatic lesion") == "hepatic lesion"
    assert known.in_own_words("intrapulmonary lesion") == "lung lesion"
    assert known.in_own_words("intracardiac lesion") == "intracardiac lesion"  # training had no "cardiac"
    assert Known(["intrarenal lesion", "renal lesion"]).in_own_words("intrarenal lesion") == "intrarenal lesion"
    assert known.in_own_words("perirenal lesion") == "perirenal lesion"  # another place


def test_a_whole_structure_is_asked_in_the_words_of_training_and_a_part_of_it_is_not():
    known = Known(["spleen", "left lung", "right lung", "right kidney", "liver", "lesion in the liver"])
    for phrase, own in (
        ("splenic tissue", "spleen"),
        ("the entire spleen", "spleen"),
        ("Left pulmonary tissue", "left lung"),
        ("lung located on the right", "right lung"),
        ("liver in its entirety", "liver"),
    ):
        assert known.in_own_words(phrase) == own
    for phrase in ("dome of the liver", "left lung apex", "liver wall and lumen", "upper lobe of the left lung",
                   "left kidney", "lung", "lesion in the entire liver", "hilum of the right kidney"):  # fmt: skip
        assert known.in_own_words(phrase) == phrase


def faint(entry, phrases):
    """Sure that everything is there, and of no voxel."""
    probability_PZYX, _ = oracle(entry, phrases)
    return np.minimum(probability_PZYX, 51), np.full(len(phrases), 8.0, np.float32)


@pytest.mark.parametrize("question", ["Is there a lesion in the liver?", "How many liver lesions are there?"])
def test_what_is_likely_and_has_no_voxel_is_not_denied(ask, question):
    given = ask(question, model=faint)
    assert "no voxel" in given.reason
    assert not given.text.lower().startswith(("no", "0"))


def test_no_side_is_told_on_the_midline(ask, monkeypatch):
    question = "On which side is the largest liver lesion?"
    assert ask(question).text == "right"
    assert "midline" in ask("On which side is the bone lesion?", study=CT).reason  # in the spine
    monkeypatch.setattr(Evidence, "near_midline", lambda self, part: True)
    assert "midline" in ask(question).reason
    assert ask("On which side is the right lung nodule?").text == "right"  # a paired organ tells

"""Sentences against the image: a phantom's true report holds, every lie is found, every number comes out of the masks
again. The image is answered for by a model that is always right (`oracle`), so that the rules alone are tested."""

import importlib.util
import json
import re
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from preprocessing.phantom_questions import questions_of
from vol3d.checkpoint import Calibration
from vol3d.measure import diameters, slices, suv_statistics, volume_ml
from vol3d.text.questions import score_answer
from vol3d.text.reports import sentences
from vol3d.text.slots import take_numbers
from vol3d.workflows.answer import Answerer
from vol3d.workflows.drafts import Context, Draft
from vol3d.workflows.evidence import Evidences
from vol3d.workflows.ground import ground
from vol3d.workflows.known import Known
from vol3d.workflows.lesions import Lesions
from vol3d.workflows.template_writer import TemplateWriter

ROOT = Path(__file__).parents[2]
_spec = importlib.util.spec_from_file_location("oracle", Path(__file__).with_name("oracle.py"))
oracle_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle_module)
oracle, TRAINED = oracle_module.oracle, oracle_module.TRAINED


@pytest.fixture(scope="module", name="ask")
def study(oracle_cache):
    """Study id -> what is needed to check sentences about it; a phrase is asked once in the whole module."""
    known = Known(TRAINED)
    kept = {}

    def of(study_id, folder=None):
        entry = oracle_cache.entry(study_id) if study_id not in kept else kept[study_id].entry
        kept.setdefault(study_id, SimpleNamespace(entry=entry, evidences=Evidences(oracle, Calibration())))
        evidence = kept[study_id].evidences.of(entry)

        def told(*drafts):
            rows = [d if isinstance(d, Draft) else Draft(*d) for d in drafts]
            return ground(rows, evidence, known, Lesions(evidence, folder, {}))

        return SimpleNamespace(
            entry=entry, evidence=evidence, known=known, evidences=kept[study_id].evidences, told=told,
            lesions=Lesions(evidence, folder, {}),
        )  # fmt: skip

    return of


TWO, FIVE, CT = "phantom-0031-000000", "phantom-0031-000001", "phantom-0032-000000"


def drafts_of(entry):
    """The phantom's own report, its numbers as slots."""
    rows = [line.partition(": ")[::2] for line in entry.report["findings"].splitlines()]
    rows += [("impression", entry.report["impression"])]
    return [Draft(title.lower(), take_numbers(s).template) for title, text in rows for s in sentences(text)]


@pytest.mark.parametrize("study_id", [TWO, FIVE])
def test_the_true_report_holds_and_nothing_else_is_printed(ask, study_id):
    study = ask(study_id)
    told = study.told(*drafts_of(study.entry))
    unclear = re.compile(r"physiological|[Aa]rms at|resected|cholecystectomy|No further|Mediastinum not included")
    for grounded in told:
        expected = "cannot be checked" if unclear.search(grounded.draft.sentence) else "supported"
        assert grounded.status == expected, grounded
    lesions = [f for f in study.entry.findings if f["present"]]
    findings = [g for g in told if g.lesions and g.draft.section != "impression"]
    assert len(findings) == len(lesions)
    for finding in lesions:  # each is told, with its own SUVmax and size
        numbers = finding["measurements"]
        found = [g.lesions[0].measurement for g in findings]
        assert any(
            abs(m.suv_max - numbers["suv_max"]) < 0.4 and abs(m.longest_diameter_mm - numbers["diameter_mm"]) < 8
            for m in found
        ), finding["name"]
    assert len({g.lesions[0].id for g in findings}) == len(lesions)
    again = [g for g in told if g.lesions and g.draft.section == "impression"]
    assert {g.lesions[0].id for g in again} == {g.lesions[0].id for g in findings}  # the same things, the same numbers


LIES = [
    ("liver", "There is a <size_1> calcified lesion in the liver.", "contradicted", "found is hyp"),
    ("lungs", "Solid nodule in the left lung.", "not supported", "absent"),
    ("spine", "Lytic focal lesion in the spine without FDG uptake.", "contradicted", "found is "),
    ("spine", "No focal lesion of the imaged spine.", "contradicted", "found: bone lesion"),
    ("liver", "Homogeneous liver without focal lesion.", "contradicted", "found: liver lesion"),
    ("liver", "No FDG-avid lesion in the liver.", "contradicted", "found"),
    ("liver", "Liver not included in the field of view.", "contradicted", "in the field of view: liver"),
    ("kidneys", "Kidneys only partly included.", "contradicted", "ends within"),
    ("liver", "Three lesions in the liver.", "contradicted", "says 3, found 2"),
    ("liver", "Solitary lesion in the liver.", "contradicted", "says 1, found 2"),
    ("liver", "There is a 14 mm lesion in the liver.", "not supported", "numbers that no measurement fills: 14"),
    ("liver", "No focal lesion of the spleen, <size_1>.", "not supported", "numbers of nothing"),
    ("liver", "The lesion in the liver has increased in size.", "cannot be checked", "by measurement"),
    ("pleura", "Pleural effusion on the left.", "cannot be checked", "not trained"),
    ("pleura", "No pleural effusion.", "cannot be checked", "not trained"),
    ("other", "Status after cholecystectomy.", "cannot be checked", ""),
    ("other", "The examination was performed on a new scanner.", "cannot be checked", ""),
    ("bladder", "Lesion in the bladder.", "cannot be checked", "in this place"),
    (
        "lungs",
        "No lesion, emphysema or consolidation in the left lung.",
        "cannot be checked",
        "was not trained on what",
    ),
    (
        "lungs",
        "No mass, bronchiectasis or atelectasis in the left lung.",
        "cannot be checked",
        "was not trained on what",
    ),
    ("spine", "No fracture or lesion in the spine.", "cannot be checked", "was not trained on what"),
    ("spleen", "No lesion or cirrhosis in the spleen.", "cannot be checked", "was not trained on what"),
    ("spleen", "No lesion or rupture in the spleen.", "cannot be checked", "nothing tells what it means by rupture"),
    ("liver", "Lesion in the liver, emphysema in the lungs.", "cannot be checked", ""),
    ("liver", "Lesion in the liver and pneumonia.", "cannot be checked", "pneumonia"),
    ("liver", "Lesion in the liver, likely benign.", "cannot be checked", "likely"),
    (
        "liver",
        "A <size_1> FDG-avid lesion and a <size_2> non-avid lesion in the liver.",
        "cannot be checked",
        "several",
    ),
    ("liver", "Twelve millimetre lesion in the liver.", "not supported", "Twelve"),
    ("liver", "Lesion in the liver, Bosniak IV.", "not supported", "Bosniak IV"),
]


@pytest.mark.parametrize(("section", "sentence", "status", "reason"), LIES)
def test_every_lie_is_flagged(ask, section, sentence, status, reason):
    (told,) = ask(TWO).told((section, sentence))
    assert told.status == status, told
    assert reason in told.reason
    assert not told.lesions


def test_a_mask_on_the_other_side_contradicts(ask):
    """A model that hears no sides: the lesion of the right lung answers to the left one."""
    study = ask(FIVE)

    def deaf(entry, phrases):
        return oracle(entry, [p.replace("left", "right") for p in phrases])

    evidence = Evidences(deaf, Calibration()).of(study.entry)
    drafts = [Draft("lungs", "Calcified nodule in the left lung."), Draft("lungs", "Calcified nodule in both lungs.")]
    wrong, both = ground(drafts, evidence, study.known, Lesions(evidence, None, {}))
    assert (wrong.status, both.status) == ("contradicted", "contradicted")
    assert "right" in wrong.reason
    assert "only" in both.reason


def test_a_side_is_not_told_of_what_lies_on_the_midline(ask, monkeypatch):
    """One arm in view moves the body's centroid by nearly 20 mm."""
    study = ask(CT)
    draft = Draft("soft tissue", "Lesion in the left paraspinal muscles.")
    (part, *_) = study.evidence.parts("left paraspinal lesion")
    for shift_mm, status in ((40.0, "supported"), (10.0, "cannot be checked"), (-30.0, "contradicted")):
        x, y, z = part.centroid_mm
        center = (x + shift_mm, y, z)
        monkeypatch.setattr("vol3d.workflows.evidence.body_center_mm", lambda entry, center=center: center)
        (told,) = study.told(draft)
        assert told.status == status, told


def test_like_sentences_get_things_by_size_and_no_thing_is_told_twice(ask):
    sentence = "Lesion in the liver, volume <volume_1>."
    first, second, third = ask(FIVE).told(*[("liver", sentence)] * 3)
    assert (first.status, second.status, third.status) == ("supported", "supported", "not supported")
    assert first.lesions[0].measurement.volume_ml > second.lesions[0].measurement.volume_ml
    assert "described by another sentence" in third.reason
    # a narrow sentence keeps its thing even if a wide one came first
    wide, narrow = ask(FIVE).told(("liver", "Lesion in the liver."), ("liver", "Calcified lesion in the liver."))
    assert wide.lesions[0].id != narrow.lesions[0].id
    (several,) = ask(FIVE).told(("liver", "Two lesions in the liver, <size_1> and <size_2>."))
    assert len(several.lesions) == 2
    sizes = [lesion.measurement.longest_diameter_mm for lesion in several.lesions]
    assert several.text == f"Two lesions in the liver, {sizes[0]:.1f} mm and {sizes[1]:.1f} mm."


def test_each_part_of_a_sentence_has_its_own_numbers(ask, tmp_path):
    """Checked by hand against the masks of the lesions told alone."""
    liver, nodule = ask(FIVE).told(("liver", "Hyperdense lesion in the liver."), ("lungs", "Nodule in the right lung."))
    (both,) = ask(FIVE, tmp_path).told(
        ("other", "Hyperdense lesion in the liver, <size_1>; nodule in the right lung, <size_2>, volume <volume_1>.")
    )
    one, other = liver.lesions[0].measurement, nodule.lesions[0].measurement
    assert abs(one.longest_diameter_mm - other.longest_diameter_mm) > 1
    assert both.text == (
        f"Hyperdense lesion in the liver, {one.longest_diameter_mm:.1f} mm; nodule in the right lung, "
        f"{other.longest_diameter_mm:.1f} mm, volume {other.volume_ml:.1f} ml."
    )
    assert [(n.figure, n.thing) for n in both.numbers] == [
        ("longest_diameter_mm", 0), ("longest_diameter_mm", 1), ("volume_ml", 1),
    ]  # fmt: skip


def test_numbers_of_which_nothing_tells_whose_they_are_are_left_out(ask):
    study = ask(CT)
    places, second = study.told(
        ("lungs", "Nodules in the right lung (<size_1>) and in the left lung (<size_2>)."),
        ("liver", "Lesion in the liver, <size_1>, <size_2>."),
    )  # fmt: skip
    for grounded in (places, second):
        assert not re.search(r"\d", grounded.text), grounded
        assert "without numbers" in grounded.reason or grounded.status != "supported"
    assert ask(FIVE).told(("liver", "Lesion in the liver, <size_1>, <size_2>."))[0].text == "Lesion in the liver."


def test_the_short_axis_is_the_short_axis(ask):
    (told,) = ask(FIVE).told(("lungs", "Nodule in the right lung, short axis <size_1>."))
    size = told.lesions[0].measurement
    assert size.short_diameter_mm < size.longest_diameter_mm - 1
    assert told.text == f"Nodule in the right lung, short axis {size.short_diameter_mm:.1f} mm."
    (length,) = ask(FIVE).told(("lungs", "Nodule in the right lung, craniocaudal extent <size_1>."))
    assert not re.search(r"\d", length.text)


def test_what_is_out_of_view_is_neither_denied_nor_claimed(ask):
    study = ask(FIVE)  # no kidneys in it, the spleen is cut
    denied, visible, outside, spleen = study.told(
        ("kidneys", "No focal renal lesion."), ("kidneys", "No visible renal lesion."),
        ("kidneys", "Kidneys not included in the field of view."),
        ("spleen", "No focal splenic lesion."),
    )  # fmt: skip
    assert (denied.status, outside.status, spleen.status) == ("cannot be checked", "supported", "supported")
    assert visible.status == "cannot be checked"
    assert "left kidney" in denied.reason
    assert spleen.text == "No focal splenic lesion in the part shown."


def test_without_a_pet_no_uptake_is_told(ask):
    """Of a model that hears no words of uptake, so that only the rule can know."""
    study = ask(CT)
    present = [f for f in study.entry.findings if f["present"]]
    assert present, "the phantom needs a lesion"
    where = present[0]["name"]

    def deaf(entry, phrases):
        return oracle(entry, [re.sub(r"(?:FDG|tracer)-avid ", "", p) for p in phrases])

    known = Known([*TRAINED, "FDG-avid liver lesion"])
    evidences = Evidences(deaf, Calibration())
    lesions = Lesions(evidences.of(study.entry), None, {})
    drafts = [
        Draft("other", f"FDG-avid {where}, SUVmax <suv_max_1>."), Draft("other", f"{where}, SUVmax <suv_max_1>."),
        Draft("impression", f"{where}, <size_1>."), Draft("spleen", "No FDG-avid lesion of the spleen."),
    ]  # fmt: skip
    avid, plain, size, denied = ground(drafts, evidences.of(study.entry), known, lesions)
    assert avid.status == denied.status == "cannot be checked"
    assert "only a PET" in avid.reason
    assert plain.status == "supported"
    assert "SUV" not in plain.text
    assert "without numbers" in plain.reason
    assert size.status == "supported"
    assert re.search(r"\d mm\.$", size.text)
    written = TemplateWriter(known, evidences).write_report(study.entry, Context())
    assert not any("FDG" in d.sentence for d in written)


def test_every_printed_number_comes_out_of_the_exported_masks(ask, tmp_path):
    study = ask(FIVE, tmp_path)
    writer = TemplateWriter(study.known, study.evidences)
    told = study.told(*writer.write_report(study.entry, Context()), *drafts_of(study.entry))
    grids, pet, checked = study.entry.source_grids, study.entry.pet_native(), 0
    for grounded in (g for g in told if g.lesions):
        (lesion,) = grounded.lesions
        mask, pet_mask = (
            np.asarray(nibabel.load(tmp_path / name).dataobj).transpose() for name in (lesion.file, lesion.pet_file)
        )
        where = slices(mask, grids["ct"], study.entry.slice_numbers["ct"])
        again = {
            r"(\d+(?:\.\d+)?) mm": diameters(mask, grids["ct"]).axial_long_mm,
            r"volume (\d+(?:\.\d+)?) ml": volume_ml(mask, grids["ct"]),
            r"SUVmax (\d+(?:\.\d+)?)": suv_statistics(pet_mask, pet).suv_max,
            r"ct slice (\d+)": where.largest,
        }
        text = re.sub(r", z = ([-\d.]+) mm", "", grounded.text)
        if z := re.search(r"z = ([-\d.]+) mm", grounded.text):
            assert z[1] == f"{where.largest_z_mm:.1f}"
        for pattern, value in again.items():
            for number in re.findall(pattern, text):
                assert number == f"{value:.{len(number.partition('.')[2])}f}", grounded.text
                checked += 1
        assert len(re.findall(r"\d+(?:\.\d+)?", text)) == sum(len(re.findall(p, text)) for p in again), text
    assert checked > 20


def test_template_writer_tells_every_lesion_once_and_only_truth(ask):
    for study_id in (TWO, FIVE, CT):
        study = ask(study_id)
        told = study.told(*TemplateWriter(study.known, study.evidences).write_report(study.entry, Context()))
        findings = [g for g in told if g.lesions and g.draft.section != "impression"]
        assert len(findings) == sum(f["present"] for f in study.entry.findings)
        assert all(g.status in ("supported", "cannot be checked") for g in told)


def test_a_checkpoint_of_one_tumour_and_one_of_organs(ask):
    study = ask(TWO)
    tumour = TemplateWriter(Known(["soft tissue sarcoma", "primary tumour"]), study.evidences)
    known = tumour.known
    told = ground(tumour.write_report(study.entry, Context()), study.evidence, known, Lesions(study.evidence, None, {}))
    assert next(g.text for g in told if g.status == "supported") == "No soft tissue sarcoma in the imaged region."
    assert not any("liver" in g.text.lower() for g in told)
    organs = TemplateWriter(Known(["liver", "spleen", "left kidney"]), study.evidences)
    told = ground(
        organs.write_report(study.entry, Context()), study.evidence, organs.known, Lesions(study.evidence, None, {})
    )
    assert [re.match(r"(.+): volume [\d.]+ ml \(ct slices \d+-\d+, z = [-\d.]+ mm\)\.$", g.text)[1] for g in told] == [
        "Spleen", "Left kidney", "Liver",
    ]  # fmt: skip


def test_questions_are_answered_by_rule_and_measurement(ask):
    right, wrong = 0, []
    for study_id in (TWO, FIVE, CT):
        study = ask(study_id)
        reporter = SimpleNamespace(
            known=study.known, evidences=study.evidences, writer=TemplateWriter(study.known, study.evidences)
        )
        answerer = Answerer(study.entry, reporter, study.lesions)
        for wording in ("seen", "unseen"):
            rows = [r for r in questions_of(study.entry.attributes, wording) if r["type"] != "open"]
            for row, given in zip(rows, answerer([r["q"] for r in rows], Context()), strict=True):
                verdict = score_answer(given.text, row["a"], row["type"], row.get("tolerance"))
                right += verdict.right
                wrong += [] if verdict.right else [(row["q"], row["a"], given.text)]
    print(*wrong, sep="\n")
    assert len(wrong) <= 0.03 * right, wrong


class Parrot:
    """A writer that always drafts the same."""

    def __init__(self, *drafts, answer=""):
        self.drafts, self.answer = [Draft(*d) for d in drafts], answer

    def write_report(self, entry, context):
        return self.drafts

    def write_answers(self, entry, questions, context):
        return [self.answer] * len(questions)


@pytest.mark.parametrize(
    ("question", "drafted", "text", "source"),
    [
        ("Is there a lesion in the liver?", "no", "Yes.", "segmentation"),
        ("Is there a lesion in the spleen?", "yes", "No.", "segmentation"),
        ("Is the spleen free of lesions?", "no", "Yes.", "segmentation"),
        ("Is there a lesion in the left kidney?", "yes", "It is not in the field of view.", "segmentation"),
        ("How large is the lesion in the spleen?", "<size_1>", "There is no such lesion.", "segmentation"),
        ("How many lesions are in the liver?", "7", "2", "measurement"),
        ("Which side is the lung lesion on?", "left", "right", "measurement"),
        ("Where is the FDG-avid nodule?", "left kidney", "right lung", "measurement"),
        ("What is the diagnosis?", "Lymphoma.", "Lymphoma.", "writer"),
        ("What is the diagnosis?", "Stage 3.", "This checkpoint cannot answer that", "none"),
        ("Is there a fracture?", "", "This checkpoint cannot answer that", "none"),
        ("Which modality is this?", "CT", "PET/CT", "header"),
    ],
)
def test_the_image_has_the_last_word_on_answers(ask, question, drafted, text, source):
    study = ask(FIVE)
    reporter = SimpleNamespace(known=study.known, evidences=study.evidences, writer=Parrot(answer=drafted))
    (given,) = Answerer(study.entry, reporter, study.lesions)([question], Context())
    assert given.text.startswith(text)
    assert given.source == source
    assert given.drafted == drafted
    json.dumps(given.lesions[0].record() if given.lesions else {})


def test_what_is_likely_and_has_no_voxel_is_not_denied(ask):
    def faint(entry, phrases):
        probability_PZYX, _ = oracle(entry, phrases)
        return np.minimum(probability_PZYX, 51), np.full(len(phrases), 8.0, np.float32)

    study = ask(TWO)
    evidence = Evidences(faint, Calibration()).of(study.entry)
    (told,) = ground([Draft("liver", "No liver lesion.")], evidence, study.known, Lesions(evidence, None, {}))
    assert (told.status, told.reason) == ("cannot be checked", "likely there, and no voxel of it found: liver lesion")

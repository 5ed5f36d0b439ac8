"""Phantom studies: masks where the words say, every phrase true, too hard for shortcuts."""

import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from preprocessing.phantom import PhantomOptions, PhantomStudy, generate_study, split_of
from preprocessing.phantom_grounding import absent_phrases
from preprocessing.phantom_lesions import Traits
from preprocessing.phantom_report import SECTIONS
from preprocessing.phantom_text import Query
from vol3d.errors import ConfigError
from vol3d.metrics.subgroups import ATTRIBUTES
from vol3d.text.grounding import grounding_phrase
from vol3d.text.looks import uptake_of
from vol3d.text.plainly import plainly
from vol3d.text.reports import sentences
from vol3d.types import Array

SMALL = PhantomOptions(ct_spacing_mm=(4.5, 5.5), pet_spacing_mm=((5.0, 5.0, 5.0),))
TINY = replace(SMALL, ct_spacing_mm=(6.0, 7.0), pet_spacing_mm=((7.0, 7.0, 7.0),), views=("chest", "abdomen"))


@pytest.fixture(scope="module")
def studies() -> list[PhantomStudy]:
    return [generate_study(i, 5, options=SMALL) for i in range(20)]


def centroid(study: PhantomStudy, label: str) -> Array:
    return study.ct.grid.index_to_mm(np.argwhere(study.masks[label]).mean(axis=0))


def dice(a: Array, b: Array) -> float:
    return 2.0 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def present(study: PhantomStudy) -> list[dict]:
    return [f for f in study.row["findings"] if f["present"]]


def test_masks_lie_where_the_words_say(studies: list[PhantomStudy]):
    pairs = 0
    for study in studies:
        midline = centroid(study, "spine")[0]
        for label in study.masks:
            if label.startswith("left_"):
                assert centroid(study, label)[0] < midline - 20  # RAS: left is negative x
                pairs += 1
            if label.startswith("right_"):
                assert centroid(study, label)[0] > midline + 20
        if {"liver", "spleen"} <= set(study.masks):
            assert centroid(study, "liver")[0] > midline > centroid(study, "spleen")[0]
        if {"bladder", "liver"} <= set(study.masks):
            assert centroid(study, "bladder")[2] < centroid(study, "liver")[2] - 80
        if {"heart", "spine"} <= set(study.masks):
            assert centroid(study, "heart")[1] > centroid(study, "spine")[1] + 40
    assert pairs > 20


def test_tissues_have_the_hu_and_suv_of_their_kind(studies: list[PhantomStudy]):
    for study in studies:
        hu = {label: float(np.median(study.ct.array_ZYX[m])) for label, m in study.masks.items()}
        assert hu.get("left_lung", -800) < -700
        assert hu["spine"] > 120
        assert 45 < hu.get("liver", 60) < 140
        assert hu.get("bladder", 5) < 25
        assert study.ct.array_ZYX.dtype == np.int16
        pet = study.pet
        assert pet is not None
        assert pet.array_ZYX.dtype == np.float32
        assert float(pet.array_ZYX.min()) >= 0
        resampled = pet.resample_to(study.ct.grid).array_ZYX
        if "liver" in study.masks and not any(f["organ"] == "liver" for f in present(study)):
            assert 1.4 < float(np.median(resampled[study.masks["liver"]])) < 2.8
        if "bladder" in study.masks:
            assert float(resampled[study.masks["bladder"]].max()) > 4.5


def test_lesions_lie_in_their_organ_and_stand_out_as_their_words_say(studies: list[PhantomStudy]):
    seen = 0
    for study in studies:
        assert study.pet is not None
        resampled = study.pet.resample_to(study.ct.grid).array_ZYX
        for finding in present(study):
            mask = study.masks.get(finding["id"])
            if mask is None:
                continue
            seen += 1
            organ = "_".join(w for w in (finding["side"], finding["organ"]) if w)
            if organ in study.masks:
                assert (study.masks[organ] & mask).sum() == mask.sum()
            else:
                assert finding["organ"] in ("mediastinum", "soft tissue") or study.row["meta"]["view"] != "torso"
            numbers = finding["measurements"]
            assert 2 < numbers["volume_ml"] < 110
            assert numbers["volume_ml"] == pytest.approx(mask.sum() * study.ct.grid.voxel_ml, abs=1e-3)
            low, high = {"small": (18, 33), "medium": (25, 45), "large": (35, 68)}[finding["size"]]
            assert low < numbers["diameter_mm"] < high
            if finding["uptake"] == "avid":
                assert numbers["suv_max"] > 2.5
            assert abs(numbers["suv_max"] - float(resampled[mask].max())) < 0.5 * numbers["suv_max"] + 0.3
    assert seen > 50


def test_twins_and_contrasts_occur(studies: list[PhantomStudy]):
    sides, uptakes = 0, 0
    for study in studies:
        for a, b in itertools.combinations(present(study), 2):
            if a["organ"] == b["organ"]:
                sides += a["side"] != b["side"] and a["uptake"] == b["uptake"] and a["density"] == b["density"]
                uptakes += a["side"] == b["side"] and a["uptake"] != b["uptake"]
    assert sides >= 8
    assert uptakes >= 8


def test_a_phrase_names_one_mask_and_nothing_that_is_absent(studies: list[PhantomStudy]):
    for study in studies:
        row, meta = study.row, study.row["meta"]
        assert [m["label"] for m in row["masks"]] == list(study.masks)
        said = [p for m in row["masks"] for p in m["phrases"]]
        unseen = [p for phrases in meta["unseen_phrases"].values() for p in phrases]
        every = [*said, *unseen, *row["absent"], *meta["unseen_absent"]]
        assert len(every) == len({" ".join(p.lower().split()) for p in every})
        assert all(mask.any() for mask in study.masks.values())
        assert {m["label"] for m in row["masks"]} == set(meta["unseen_phrases"])


def test_unseen_wordings_are_never_trained_on(studies: list[PhantomStudy]):
    def bare(phrase: str) -> str:
        return phrase.lower().removeprefix("the ")

    rows = [s.row for s in studies]
    trained = {bare(p) for row in rows for m in row["masks"] for p in m["phrases"]}
    trained |= {bare(p) for row in rows for p in row["absent"]}
    held = {bare(p) for row in rows for phrases in row["meta"]["unseen_phrases"].values() for p in phrases}
    held |= {bare(p) for row in rows for p in row["meta"]["unseen_absent"]}
    assert len(held) > 150
    assert not trained & held


def test_phrases_hold_all_lesions_they_speak_of(studies: list[PhantomStudy]):
    """Checked against the findings by another reading of the words than the one that made them."""
    checked = 0
    for study in studies:
        lesions = present(study)
        unseen = study.row["meta"]["unseen_phrases"]
        for mask in study.row["masks"]:
            if not mask["label"].startswith("lesion"):
                continue
            for phrase in [*mask["phrases"], *unseen[mask["label"]]]:
                expected = {f["id"] for f in lesions if speaks_of(phrase, f)}
                assert expected == set(mask["finding_id"].split("+")), phrase
                checked += 1
        for phrase in [*study.row["absent"], *study.row["meta"]["unseen_absent"]]:
            if "lesion" in phrase or "nod" in phrase or "abnormal" in phrase:
                assert not any(speaks_of(phrase, f) for f in lesions), phrase
    assert checked > 500


ORGAN_WORDS = {
    "lung": "lung|pulmonary", "liver": "liver|hepatic", "spleen": "spleen|splenic", "kidney": "kidney|renal",
    "mediastinum": "mediastin", "spine": r"spine|\bspinal|(?<!para)vertebra|bone|bony",
    "soft tissue": "paraspinal|paravertebral|soft tis",
}  # fmt: skip


def speaks_of(phrase: str, finding: dict) -> bool:
    text = plainly(phrase.lower())
    for words, known in (
        ("muscles alongside the spine|back muscles|paraspinous", "paraspinal"), ("osseous", "bone"),
        ("hypoattenuating|low-attenuation|low-density", "hypodense"), ("calcific(?!i)|calcium-containing", "calcified"),
        ("hyperattenuating|high-attenuation|high-density", "hyperdense"), ("equal-density|isoattenuating", "isodense"),
        ("lucent|osteolytic", "lytic"), ("osteoblastic|blastic", "sclerotic"), ("nonsolid", "ground-glass"),
    ):  # fmt: skip
        text = re.sub(words, known, text)
    organs = [o for o, words in ORGAN_WORDS.items() if re.search(words, text)]
    if organs and finding["organ"] not in organs:
        return False
    if any(f"{s}" in re.split(r"[\s-]", text) and finding["side"] != s for s in ("left", "right")):
        return False
    pale = r"non-|without|not fdg|(?:pet|fdg)-negative|lacking|with no |inactive|silent|no fdg|no increased|not taking"
    if re.search(pale, text):
        if finding["uptake"] != "non-avid":
            return False
    elif (
        re.search(r"avid|(?:pet|fdg)-positive|metaboli|accumulation|uptake|taking up|\bhot\b", text)
        and finding["uptake"] != "avid"
    ):
        return False
    sizes = {
        "small": "small|little",
        "medium": "medium|intermediate|mid-|moderate|average",
        "large": r"\blarge|sizeable|big|bulky|voluminous",
    }
    if any(re.search(words, text) and finding["size"] != size for size, words in sizes.items()):
        return False
    kinds = ("hypodense", "hyperdense", "isodense", "calcified", "solid", "ground-glass", "lytic", "sclerotic")
    return not any(kind in text and finding["density"] != kind for kind in kinds)


def test_organs_outside_the_field_of_view_are_not_called_absent(studies: list[PhantomStudy]):
    chest = [s for s in studies if s.row["meta"]["view"] == "chest"]
    assert chest
    for study in chest:
        assert "bladder" not in study.masks
        assert not [p for p in study.row["absent"] if "bladder" in p or "kidney" in p or "renal" in p]


def test_a_resected_organ_is_absent_and_the_other_one_is_not():
    options = replace(TINY, resections=1.0, views=("torso",))
    found = set()
    for index in range(7):
        study = generate_study(index, 1, options=options)
        gone = {"spleen", "left kidney", "right kidney", "gallbladder"} & set(study.row["absent"])
        for organ in gone:
            assert organ.replace(" ", "_") not in study.masks
        if "left kidney" in gone:
            assert "right_kidney" in study.masks
            assert "The left kidney has been resected." in study.row["report"]["findings"]
        found |= gone
    assert len(found) >= 2


def test_orientation_changes_the_grid_and_leaves_the_body_where_it_is():
    options = replace(SMALL, views=("torso",), lesions=(3, 4))
    for index in range(2):
        plain, flipped, oblique = (
            generate_study(index, 2, options=replace(options, orientation=o)) for o in ("plain", "flipped", "oblique")
        )
        assert plain.ct.grid.orientation == "SAR"
        assert flipped.ct.grid.is_axis_aligned
        assert not oblique.ct.grid.is_axis_aligned
        labels = [k for k in plain.masks if k.startswith("lesion") or k in ("left_kidney", "right_kidney", "heart")]
        assert len(labels) >= 5
        for label in labels:
            for other in (flipped, oblique):
                assert np.linalg.norm(centroid(plain, label) - centroid(other, label)) < 2.0, label

    codes = {generate_study(i, 2, options=replace(TINY, orientation="flipped")).ct.grid.orientation for i in range(6)}
    assert len(codes) >= 3


def test_the_report_mentions_every_lesion_and_denies_the_rest(studies: list[PhantomStudy]):
    denied = 0
    for study in studies:
        report = study.row["report"]
        sections = dict(line.split(": ", 1) for line in report["findings"].splitlines())
        assert set(SECTIONS) <= set(sections)
        for finding in present(study):
            numbers = finding["measurements"]
            assert re.search(rf"SUVmax {numbers['suv_max']:.1f}|{numbers['suv_max'] + 1e-9:.1f}", report["findings"])
            lengths = f"{numbers['diameter_mm']:.0f} mm|{numbers['diameter_mm'] / 10:.1f} cm"
            assert re.search(lengths.replace(".", r"\."), report["findings"]), (lengths, report["findings"])
            assert finding["name"].lower() in report["impression"].lower()
        if not any(f["organ"] == "liver" for f in present(study)) and "liver" in study.masks:
            assert re.search("No focal hepatic|without focal|only partly", sections["Liver"])
            denied += 1
        for number, z in re.findall(r"ct slice (\d+), z = (-?[\d.]+) mm", report["findings"]):
            assert 1 <= int(number) <= study.ct.grid.shape[0]
            z_range = study.ct.grid.corners_mm()[:, 2]
            assert z_range.min() - 1 <= float(z) <= z_range.max() + 1
        json.dumps(study.row)
    assert denied >= 3


def test_every_sentence_about_a_lesion_is_a_phrase_of_just_the_lesions_it_speaks_of(studies: list[PhantomStudy]):
    checked = 0
    for study in studies:
        lines = [line.split(": ", 1)[-1] for line in study.row["report"]["findings"].splitlines()]
        lines += study.row["report"]["impression"].splitlines()
        for sentence in sentences("\n".join(lines)):
            if not re.search(r"\bct slice \d|\d mm", sentence):
                continue
            phrase = grounding_phrase(sentence)
            owners = [m["finding_id"] for m in study.row["masks"] if phrase in m["phrases"]]
            meant = {f["id"] for f in present(study) if speaks_of(phrase, f)}
            assert [set(o.split("+")) for o in owners] == [meant], sentence
            checked += 1
    assert checked > 100


def test_what_a_report_denies_is_listed_absent_in_its_own_words(studies: list[PhantomStudy]):
    denied, alike = 0, 0
    for study in studies:
        for sentence in sentences(study.row["report"]["findings"].replace(": ", "\n")):
            known = re.fullmatch(
                r"No (focal (?:hepatic|splenic|renal|lung) lesion|.* lymph node|.*adenopathy)\.", sentence
            )
            if known:
                assert known[1] in study.row["absent"], sentence
                denied += 1
        forms = [p for p in study.row["absent"] if re.search("on CT|shows no increased", p)]
        assert not any(speaks_of(p, f) for p in forms for f in present(study))
        alike += len(forms)
    assert denied > 15
    assert alike > 15  # the form of a report's sentence does not tell that it is true


def test_every_study_has_questions_and_groups_that_no_image_tells(studies: list[PhantomStudy]):
    for study in studies:
        assert {q["wording"] for q in study.row["qa"]} == {"seen", "unseen"}
        assert set(ATTRIBUTES) <= set(study.row["meta"])
    assert len({s.row["meta"]["centre"] for s in studies}) == 3
    again = generate_study(3, 5, options=SMALL)
    assert again.row == studies[3].row


def test_ct_only_studies_say_nothing_about_uptake():
    study = generate_study(1, 3, kind="ct", options=replace(SMALL, lesions=(3, 4)))
    assert study.pet is None
    assert "pet" not in study.row
    kept = ("masks", "absent", "report", "findings")
    text = json.dumps([[study.row[k] for k in kept], [q["q"] for q in study.row["qa"]]])
    assert not re.search("FDG|SUV|metabolic|avid|suv_max", text)
    kinds = {generate_study(i, 3, kind="mixed", options=TINY).pet is None for i in range(6)}
    assert kinds == {True, False}


def test_a_threshold_does_not_find_the_lesions(studies: list[PhantomStudy]):
    """41% of the study's SUVmax finds the bladder and the heart, not what a phrase asks for."""
    scores, union = [], []
    for study in studies:
        assert study.pet is not None
        lesions = [m for label, m in study.masks.items() if label.startswith("lesion")]
        hot = study.pet.resample_to(study.ct.grid).array_ZYX >= 0.41 * float(study.pet.array_ZYX.max())
        scores += [dice(hot, mask) for mask in lesions]
        union += [dice(np.any(lesions, axis=0), mask) for mask in lesions]
    assert len(scores) > 80
    assert np.mean(scores) <= 0.2
    assert np.mean(union) <= 0.5  # not even all lesions, drawn without a fault, answer the phrases


def test_splits_follow_their_shares_in_every_prefix():
    names = [split_of(i, (0.7, 0.1, 0.2)) for i in range(100)]
    assert [names.count(s) for s in ("train", "val", "test")] == [70, 10, 20]
    assert {names[:10].count("train"), names[:10].count("test")} == {7, 2}
    with pytest.raises(ConfigError, match="sum to 1"):
        split_of(0, (0.5, 0.1, 0.1))


def test_wrong_options_are_refused():
    with pytest.raises(ConfigError, match="low <= high"):
        PhantomOptions(lesions=(3, 1))
    with pytest.raises(ConfigError, match="at least 1 mm"):
        PhantomOptions(ct_spacing_mm=(0.1, 2.0))


def test_no_phrase_is_denied_that_is_true_of_a_lesion_by_its_hu():
    """A calcified lesion is hyperdense: a study that has one does not list hyperdense lesions there as absent."""
    calcium = Traits("liver", "large", "calcified", "avid")
    assert not Query("liver", density="hyperdense").matches(calcium)
    assert Query("liver", density="hyperdense").is_true_of(calcium)
    assert Query("right lung", density="solid").is_true_of(replace(calcium, place="right lung"))
    assert not Query("spleen", density="hyperdense").is_true_of(calcium)
    assert not Query("liver", "non-avid", density="hyperdense").is_true_of(calcium)
    assert not Query("liver", density="hypodense").is_true_of(calcium)
    rng = np.random.default_rng(0)
    said = [p for _ in range(50) for p in absent_phrases(rng, [calcium], lambda place: True, True)]
    here = [p for p in said if "liver" in p or "hepatic" in p]
    assert any("hypodense" in p for p in here)
    assert not any("hyperdense" in p and uptake_of(p) != "non-avid" for p in here), here

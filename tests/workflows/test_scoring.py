"""Scores of answers that are known voxel by voxel."""

import numpy as np
import pytest

from vol3d.cache import Cache, Entry, MaskRecord
from vol3d.cache_write import EntryData, create_cache, write_entry
from vol3d.checkpoint import Calibration
from vol3d.errors import ConfigError
from vol3d.geometry import Grid
from vol3d.volume import Volume
from vol3d.workflows.calibrate import calibrate, presence_threshold
from vol3d.workflows.evaluate import summarise
from vol3d.workflows.scoring import Said, ask_study, probes_of, score_probe, study_answers, truth_of

GRID = Grid.from_spacing((10, 12, 20), (2.0, 2.0, 2.0), (-19.0, 0.0, 0.0))  # x from -19 to 19 mm: the midline is at 0
LEFT, RIGHT = (slice(2, 6), slice(2, 8), slice(2, 6)), (slice(2, 6), slice(2, 8), slice(14, 18))


def mask_of(*boxes):
    mask = np.zeros(GRID.shape, np.uint8)
    for box in boxes:
        mask[box] = 1
    return mask


def kidney(side):
    return MaskRecord(name=f"{side}_kidney", image="ct", phrases=(f"{side} kidney",), label=f"{side}_kidney")


@pytest.fixture
def entry(tmp_path):
    lesion = mask_of((slice(7, 9), slice(2, 4), slice(3, 5)))  # 8 voxels, on the left
    pet = np.ones(GRID.shape, np.float32)
    pet[8, 3, 4] = 9.0
    data = EntryData(
        study_id="s",
        images={"ct": Volume(np.zeros(GRID.shape, np.float32), GRID, "ct"), "pet": Volume(pet, GRID, "pet")},
        masks=[
            (kidney("left"), mask_of(LEFT)),
            (kidney("right"), mask_of(RIGHT)),
            (MaskRecord(name="lesion_1", image="ct", phrases=("left lesion",), finding_id="f1"), lesion),
        ],
        source_grids={"ct": GRID, "pet": GRID}, pet_native=Volume(pet, GRID, "pet"),
        native_masks={"left_kidney": mask_of(LEFT), "right_kidney": mask_of(RIGHT), "lesion_1": lesion},
        attributes={
            "recipe_digest": "r", "fingerprint": "f", "split": "test", "absent": ["right lesion"], "patient_key": "p",
            "body_center_mm": [0.0, 0.0, 0.0], "meta": {"unseen_phrases": {"lesion_1": ["sinister spot"]}},
        },
    )  # fmt: skip
    create_cache(tmp_path, {}, "r")
    write_entry(tmp_path, data)
    return Cache(tmp_path).entry("s")


def test_probes_name_everything_once(entry):
    found = [(p.phrase, p.kind, p.wording) for p in probes_of(entry)]
    assert found == [
        ("left kidney", "organ", "seen"), ("right kidney", "organ", "seen"), ("left lesion", "lesion", "seen"),
        ("sinister spot", "lesion", "unseen"), ("right lesion", "absent", "absent"),
    ]  # fmt: skip
    assert probes_of(entry, absent_limit=0) == probes_of(entry)[:-1]


def answers(**by_phrase):
    """phrase (with _ for a blank) -> (mask, logit)."""

    def ask(entry, phrases):
        found = [by_phrase.get(p.replace(" ", "_"), (mask_of(), -9.0)) for p in phrases]
        return np.stack([m * np.uint8(255) for m, _ in found]), np.array([x for _, x in found], np.float32)

    return ask


def scored(entry, **by_phrase):
    probes = probes_of(entry)
    probability_PZYX, presence_P = ask_study(answers(**by_phrase), entry, probes)
    return {
        p.phrase: score_probe(p, entry, m, float(x), Calibration())
        for p, m, x in zip(probes, probability_PZYX, presence_P, strict=True)
    }


def test_half_of_a_kidney(entry):
    half = mask_of((slice(2, 6), slice(2, 5), slice(2, 6)))  # 48 of 96 voxels
    case = scored(entry, left_kidney=(half, 3.0))["left kidney"]
    assert case.dice == pytest.approx(2 * 48 / (48 + 96))
    assert case.truth_ml == pytest.approx(0.768)
    assert case.answer_ml == pytest.approx(0.384)
    assert case.wrong_side == 0
    assert case.probability == pytest.approx(1 / (1 + np.exp(-3)))


def test_the_other_kidney_is_the_wrong_side(entry):
    cases = scored(entry, left_kidney=(mask_of(RIGHT), 3.0), right_kidney=(mask_of(RIGHT), 3.0))
    assert cases["left kidney"].wrong_side == 1
    assert cases["left kidney"].dice == 0
    assert cases["right kidney"].wrong_side == 0
    assert scored(entry)["left kidney"].wrong_side == 1  # empty counts as wrong


def test_a_lesion_is_mirrored_about_the_body(entry):
    mirrored = mask_of((slice(7, 9), slice(2, 4), slice(15, 17)))
    assert scored(entry, left_lesion=(mirrored, 3.0))["left lesion"].wrong_side == 1


def test_suv_match_needs_the_hottest_voxel(entry):
    true = entry.read_mask("lesion_1", (0, 0, 0), GRID.shape)
    without = true.copy()
    without[8, 3, 4] = 0
    hit, miss = (scored(entry, left_lesion=(m, 3.0))["left lesion"] for m in (true, without))
    assert (hit.suv_match, miss.suv_match) == (1.0, 0.0)
    assert miss.dice_native_pet == pytest.approx(2 * 7 / 15)
    assert (hit.lesion_tp, hit.lesion_fp, hit.lesion_fn) == (1, 0, 0)


def test_a_phrase_called_absent_has_no_mask(entry):
    case = scored(entry, left_kidney=(mask_of(LEFT), -1.0))["left kidney"]
    assert not case.answered_present
    assert case.dice == 0
    wrong = scored(entry, right_lesion=(mask_of(LEFT), 2.0))["right lesion"]
    assert wrong.answered_present
    assert np.isnan(wrong.nsd_2mm) or wrong.nsd_2mm == 0
    assert wrong.answer_ml == pytest.approx(0.768)


def test_summary_by_hand(entry):
    true = entry.read_mask("lesion_1", (0, 0, 0), GRID.shape)
    cases = scored(
        entry, left_kidney=(mask_of(LEFT), 4.0), right_kidney=(mask_of(LEFT), 4.0), left_lesion=(true, 2.0),
        sinister_spot=(mask_of(), 2.0), right_lesion=(mask_of(), -4.0),
    )  # fmt: skip
    summary = summarise(list(cases.values()))
    headline = summary["headline"]
    assert headline["organ_dice"] == 0.5
    assert headline["lesion_dice"] == 1.0
    assert headline["lesion_f1"] == 1.0
    assert headline["wrong_side"] == pytest.approx(1 / 3, abs=1e-4)
    assert headline["absent_answered_empty"] == 1.0
    assert headline["unseen_gap"] == 1.0  # the unseen wording found nothing
    assert headline["presence_auroc"] == 1.0
    assert summary["probes"] == {"organ": 2, "lesion": 1, "absent": 1, "unseen": 1}


def test_calibration_is_fitted_on_what_it_is_shown(entry):
    ask = answers(
        left_kidney=(mask_of(LEFT), -1.0), right_kidney=(mask_of(RIGHT), -1.5), left_lesion=(mask_of(), -2.0),
        right_lesion=(mask_of(), -6.0),
    )  # fmt: skip
    entry.attributes["split"] = "val"
    learnt = calibrate(ask, [entry] * 5)
    assert learnt.chosen_by["probes"] == 20
    assert learnt.chosen_by["present"] == 15
    calibration = learnt.calibration
    assert calibration.probability(-2.0) >= calibration.presence_threshold > calibration.probability(-6.0)
    assert learnt.findings is None  # no labels
    assert calibrate(ask, []).calibration == Calibration()


def kinds_and_probabilities(**probabilities):
    kinds = np.array([kind for kind, values in probabilities.items() for _ in values])
    return kinds, np.concatenate([np.asarray(values, float) for values in probabilities.values()])


def test_the_presence_threshold_is_that_of_findings_where_there_are_enough():
    """With the 100 sure organs Youden's point lies at 0.75, where half of the findings are lost."""
    organ, finding, absent = np.full(100, 0.99), [0.5] * 10 + [0.8] * 10, [0.1] * 72 + [0.6] * 3 + [0.7] * 25
    few = kinds_and_probabilities(organ=organ, lesion=finding[8:12], absent=absent)
    assert presence_threshold(*few) == pytest.approx(0.75)
    by_findings = kinds_and_probabilities(organ=organ, lesion=finding, absent=[0.1] * 97 + [0.6] * 3)
    assert presence_threshold(*by_findings) == pytest.approx(0.3)


def test_the_presence_threshold_keeps_absences_empty_unless_most_findings_were_lost():
    """Youden's point is 0.2 (sensitivity 1, specificity 0.9); 0.55 has specificity 0.96 or more."""
    absent = [0.1] * 90 + [0.5] * 6 + [0.58] * 4
    kept = kinds_and_probabilities(lesion=[0.3] * 2 + [0.6] * 10, absent=absent)
    assert presence_threshold(*kept) == pytest.approx(0.54)
    lost = kinds_and_probabilities(lesion=[0.3] * 10 + [0.6] * 2, absent=absent)
    assert presence_threshold(*lost) == pytest.approx(0.2)


def test_without_absences_nothing_can_be_chosen():
    assert presence_threshold(*kinds_and_probabilities(lesion=[0.9] * 12)) == 0.5


def test_nothing_is_chosen_on_test_studies(entry):
    def ask(entry, phrases):
        raise AssertionError("a test study was asked")

    with pytest.raises(ConfigError, match="split 'test' \\(s, "):
        calibrate(ask, [entry])


def test_one_pass_answers_probes_and_further_phrases(entry):
    asked = []

    def ask(entry, phrases):
        asked.append(phrases)
        return answers(left_kidney=(mask_of(LEFT), 2.0), tumour=(mask_of(RIGHT) * 0, 1.0))(entry, phrases)

    (study,) = study_answers(ask, [entry], lambda e: ["tumour", "left kidney"])
    assert asked == [["left kidney", "right kidney", "left lesion", "right lesion", "tumour"]]
    assert [a.probe.phrase for a in study.answers] == asked[0][:4]
    assert study.said == {"tumour": Said(1.0, 0), "left kidney": Said(2.0, 255)}
    assert study.said["left kidney"].present(Calibration())
    assert not study.said["tumour"].present(Calibration())  # likely, but nowhere


def test_a_phrase_of_two_masks_is_one_question_about_both(entry):
    for record in entry.attributes["masks"][:2]:
        record["phrases"].append("kidneys")
    fresh = Entry(entry.path)
    fresh.attributes["masks"] = entry.attributes["masks"]
    probes = [p for p in probes_of(fresh, wordings="all") if p.phrase == "kidneys"]
    assert len(probes) == 1
    np.testing.assert_array_equal(truth_of(probes[0], fresh), mask_of(LEFT, RIGHT))
    np.testing.assert_array_equal(truth_of(probes[0], fresh, native=True), mask_of(LEFT, RIGHT))

import re
from collections import Counter

import numpy as np
import pytest

from vol3d.metrics.report_findings import (
    LEVELS,
    StudyScore,
    label_score,
    score_report,
    summarise_reports,
    truths_of,
)
from vol3d.metrics.report_match import SizeTolerance
from vol3d.text.perturb import perturb
from vol3d.text.reports import sentences


def lesion(number, organ, side=None, size="medium", density="solid", uptake="avid", mm=30.0):
    name = f"{uptake or ''} {density} lesion in the {side or ''} {organ}"
    return {
        "id": f"lesion_{number}", "name": name, "organ": organ, "side": side, "present": True, "size": size,
        "density": density, "uptake": uptake, "measurements": {"diameter_mm": mm},
    }  # fmt: skip


def free(organ, side=None):
    name = f"focal lesion in the {organ}"
    return {"id": f"none_{side}{organ}", "name": name, "organ": organ, "side": side, "present": False}


TRUTH = [
    lesion(1, "lung", "right"),
    free("lung", "left"),
    free("liver"),
    free("kidney", "left"),
    free("kidney", "right"),
]
GOOD = "There is a 30 mm FDG-avid solid nodule in the right lung. No focal hepatic lesion. No focal renal lesion."


def totals(score: StudyScore) -> dict:
    return {level: score.total(level) for level in score.counts}


def test_reports_of_phantoms_lose_nothing_at_any_level(phantom_reports):
    rows = phantom_reports(150)
    scores = [score_report(r["text"], r["findings"]) for r in rows]
    for row, score in zip(rows, scores, strict=True):
        assert all(score.f1(level) == 1 for level in score.counts), (totals(score), row["text"])
        assert score.unknown == 0
        assert all(score.found.values())
    for name, level in summarise_reports(scores, [r["patient_id"] for r in rows], samples=50).items():
        assert name in LEVELS
        assert level.f1.value == level.macro_f1.value == level.f1.low == 1


def findings_only(row: dict) -> list[str]:
    """Without slices, which `perturb` takes for a statement of their own."""
    return [re.sub(r" \(ct slice[^)]*\)", "", line) for line in row["report"]["findings"].splitlines()]


def test_a_perturbed_sentence_loses_just_what_was_changed(phantom_reports):
    done = Counter()
    for row in phantom_reports(120, seed=2):
        lines = findings_only(row)
        truth = {t.place: t for t in truths_of(row["findings"])}
        places = Counter(t.place for t in truths_of(row["findings"]) if t.present)
        before = totals(score_report("\n".join(lines), row["findings"]))
        for line in lines:
            for sentence in sentences(line.split(": ", 1)[1]):
                if not re.search(r"\d [cm]m\b", sentence):
                    continue
                told = [t for t in truth.values() if places[t.place] == 1 and t.present and speaks_of(sentence, t)]
                if len(told) != 1:
                    continue
                place = told[0].place
                twin = re.sub("left|right", lambda m: "left" if m.group() == "right" else "right", place)
                for kind in ("side", "presence", "density"):
                    changed = perturb(sentence, kind)
                    if changed is None or (kind == "side" and (twin not in truth or truth[twin].present)):
                        continue
                    after = totals(score_report("\n".join(lines).replace(sentence, changed.text), row["findings"]))
                    wrong = int(kind != "presence")
                    assert lost(before, after, "lesion") == (1, wrong, 1), (sentence, changed.text)
                    assert lost(before, after, "place") == (
                        (1, int(kind == "side"), 1) if kind != "density" else (0, 0, 0)
                    )
                    done[kind] += 1
    assert min(done[k] for k in ("side", "presence", "density")) >= 10, done


def speaks_of(sentence: str, truth) -> bool:
    words = {"bone": "spine", "soft_tissue": "paraspinal"}
    place = " ".join(w for w in (truth.side, words.get(truth.organ, truth.organ)) if w)
    return f"the {place}" in sentence


def lost(before: dict, after: dict, level: str) -> tuple[int, int, int]:
    """True positives gone, false positives and false negatives come."""
    (tp, fp, fn), (tp2, fp2, fn2) = before[level], after[level]
    return tp - tp2, fp2 - fp, fn2 - fn


@pytest.mark.parametrize(
    ("text", "place", "uptake", "found"),
    [
        (GOOD, (1, 0, 0), (1, 0, 0), (1, 0, 0)),
        (GOOD.replace("FDG-avid", "non-avid"), (1, 0, 0), (0, 1, 1), (0, 1, 1)),
        (GOOD.replace("FDG-avid ", ""), (1, 0, 0), (0, 0, 1), (0, 0, 1)),  # left open: recall, not precision
        (GOOD.replace("solid", "calcified"), (1, 0, 0), (1, 0, 0), (0, 1, 1)),
        (GOOD.replace("30 mm ", ""), (1, 0, 0), (1, 0, 0), (0, 0, 1)),
        (GOOD.replace("30 mm", "medium-sized"), (1, 0, 0), (1, 0, 0), (1, 0, 0)),
        (GOOD.replace("30 mm", "60 mm"), (1, 0, 0), (1, 0, 0), (0, 1, 1)),
        (GOOD.replace("right lung", "left lung"), (0, 1, 1), (0, 1, 1), (0, 1, 1)),
        (GOOD.replace("right lung", "lung"), (0, 0, 1), (0, 0, 1), (0, 0, 1)),
        (GOOD.replace("No focal renal lesion", "Renal lesion of 12 mm"), (1, 1, 0), (1, 1, 0), (1, 1, 0)),
        (GOOD + " " + GOOD, (1, 0, 0), (1, 0, 0), (1, 1, 0)),  # one lesion stated twice in the findings is one too many
        ("", (0, 0, 1), (0, 0, 1), (0, 0, 1)),
    ],
)  # fmt: skip
def test_levels_by_hand(text, place, uptake, found):
    score = score_report(text, TRUTH)
    assert totals(score)["place"] == place
    assert totals(score)["place_uptake"] == uptake
    assert totals(score)["lesion"] == found
    assert score.found["lesion_1"] == (found[0] == 1)


def test_an_impression_repeats_and_one_that_contradicts_adds_a_lesion():
    report = f"FINDINGS: {GOOD}\nIMPRESSION: FDG-avid nodule in the right lung."
    assert totals(score_report(report, TRUTH))["lesion"] == (1, 0, 0)
    wrong = report.replace("IMPRESSION: FDG-avid nodule in the right", "IMPRESSION: FDG-avid nodule in the left")
    assert totals(score_report(wrong, TRUTH))["lesion"] == (1, 1, 0)
    details = "FINDINGS: 30 mm nodule in the right lung.\nIMPRESSION: FDG-avid solid nodule in the right lung."
    assert totals(score_report(details, TRUTH))["lesion"] == (1, 0, 0)


def test_lesions_are_matched_one_to_one_and_by_their_sizes():
    truth = [lesion(1, "liver", mm=20.0), lesion(2, "liver", mm=40.0)]
    both = "FDG-avid solid lesion in the liver, 41 mm. FDG-avid solid lesion in the liver, 21 mm."
    assert totals(score_report(both, truth))["lesion"] == (2, 0, 0)
    one = score_report("FDG-avid solid lesion in the liver, 39 mm.", truth)
    assert (totals(one)["lesion"], one.found) == ((1, 0, 1), {"lesion_1": False, "lesion_2": True})
    tight = score_report(both, truth, SizeTolerance(mm=0.5, share=0.0))
    assert totals(tight)["lesion"] == (0, 2, 2)
    assert totals(score_report("Multiple FDG-avid solid lesions in the liver.", truth))["lesion"] == (0, 0, 2)


def test_denials_count_for_places_that_are_free():
    assert totals(score_report(GOOD, TRUTH))["denied"] == (4, 0, 0)  # the left lung, by silence beside the right one
    assert totals(score_report("No focal hepatic lesion.", TRUTH))["denied"] == (1, 0, 3)
    assert totals(score_report("No pulmonary nodule.", TRUTH))["denied"] == (1, 1, 3)
    assert totals(score_report("No FDG-avid lesion in the liver.", TRUTH))["denied"] == (0, 0, 4)


def test_what_the_truth_does_not_know_counts_nowhere():
    score = score_report(GOOD + " Small nodule in the spleen. Arterial calcification.", TRUTH)
    assert totals(score) == totals(score_report(GOOD, TRUTH))
    assert score.unknown == 1


def test_truth_of_other_kinds_and_without_sides():
    truth = [
        {"id": "e", "name": "pleural effusion", "organ": "pleura", "side": "left", "present": True},
        {"id": "m", "name": "soft tissue mass", "organ": "thigh", "side": None, "present": True},
        {"id": "u", "name": "nodule", "organ": "lung", "present": None},
    ]  # fmt: skip
    kinds = [(t.kind, t.organ, t.place) for t in truths_of(truth)]
    assert kinds == [("pleural_effusion", "pleura", "pleural_effusion left pleura"), ("lesion", "thigh", "thigh")]
    score = score_report("Left pleural effusion. No pneumothorax.", truth[:1])
    assert totals(score)["place"] == totals(score)["lesion"] == (1, 0, 0)
    assert totals(score_report("Right pleural effusion.", truth[:1]))["place"] == (0, 0, 1)


def test_ct_alone_is_scored_without_uptake():
    truth = [lesion(1, "liver", uptake=None, density="hypodense")]
    assert totals(score_report("Hypodense lesion in the liver, 30 mm.", truth))["place_uptake"] == (1, 0, 0)


def test_without_structured_truth_the_labeler_decides():
    score = label_score("Right pleural effusion. No nodule.", "Pleural effusion on the right. Emphysema.")
    assert score.counts["labels"]["pleural_effusion"] == (1, 0, 0)
    assert score.counts["labels"]["emphysema"] == (0, 0, 1)
    assert np.isnan(score.f1("lesion"))


def test_summaries_are_micro_and_macro_with_intervals_by_patient():
    good, empty = score_report(GOOD, TRUTH), score_report("", TRUTH)
    table = summarise_reports([good, empty, good, empty], ["a", "a", "b", "b"], samples=200)
    place = table["place"]
    assert place.recall.value == 0.5
    assert place.precision.value == 1
    assert place.f1.value == pytest.approx(2 / 3)
    assert place.f1.low == place.f1.high == pytest.approx(2 / 3)  # both patients have one right and one wrong report
    assert place.by_place["right lung"] == (2, 0, 2)
    assert place.macro_f1.value == pytest.approx(2 / 3)  # over places that the truth has
    assert (place.f1.cases, place.f1.patients) == (4, 2)

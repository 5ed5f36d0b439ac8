import numpy as np
import pytest

from vol3d.errors import Vol3dError
from vol3d.metrics.consistency import consistency, report_consistency

REPORTS = ["A nodule in the right lung.", "Pleural effusion on the left.", "No focal lesion."]


def test_other_words_for_the_same_findings_are_consistent():
    noisy = ["Right lung: nodule is seen.", "There is a pleural effusion.", "Normal."]
    found = report_consistency(REPORTS, {"noise": noisy}, ["a", "b", "c"], samples=50)["noise"]
    assert found.identical.value == 1
    assert found.overlap.value == 1
    assert found.between_studies == 0
    assert found.beyond_chance == 1
    assert found.appeared == found.vanished == {}


def test_what_appears_and_vanishes_is_named():
    shifted = ["A nodule in the right lung.", "No effusion.", "Pleural effusion on the left."]
    found = report_consistency(REPORTS, {"shift": shifted}, ["a", "b", "c"], samples=50)["shift"]
    assert found.identical.value == pytest.approx(1 / 3)
    assert found.vanished == {"pleural_effusion": 1}
    assert found.appeared == {"pleural_effusion": 1}


def test_overlap_by_hand_and_chance():
    base = [{"x": 1, "y": 1}, {"x": 1, "y": 0}, {}]
    changed = [{"x": 1, "y": 0}, {"x": 1}, {"y": 0}]
    found = consistency(base, changed, ["a", "b", "c"], samples=50)
    assert found.overlap.value == pytest.approx((0.5 + 1 + 1) / 3)
    assert found.between_studies == pytest.approx((0.5 + 0 + 0) / 3)
    assert found.beyond_chance == pytest.approx((2.5 / 3 - 0.5 / 3) / (1 - 0.5 / 3))


def test_one_text_for_everybody_is_worth_nothing():
    same = ["A nodule in the right lung."] * 3
    found = report_consistency(same, {"noise": same}, ["a", "b", "c"], samples=20)["noise"]
    assert found.identical.value == 1
    assert found.between_studies == 1
    assert np.isnan(found.beyond_chance)


def test_unpaired_reports_are_refused():
    with pytest.raises(Vol3dError, match="found 1, 2 and 1"):
        consistency([{}], [{}, {}], ["a"])

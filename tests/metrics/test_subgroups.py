import numpy as np
import pytest

from vol3d.errors import Vol3dError
from vol3d.metrics.findings import auroc
from vol3d.metrics.subgroups import by_subgroup


def test_rows_counts_and_gap_by_hand():
    values = [1.0, 1.0, 0.0, 0.0, 1.0, np.nan]
    patients = ["a", "a", "b", "c", "d", "e"]
    table, gaps = by_subgroup(values, patients, {"sex": ["F", "F", "F", "M", "M", "M"]}, few=2, samples=50)
    rows = {r.group: r for r in table}
    assert rows["F"].figure.value == pytest.approx(2 / 3)
    assert (rows["F"].figure.cases, rows["F"].figure.patients) == (3, 2)
    assert (rows["M"].figure.cases, rows["M"].figure.patients) == (2, 2)
    assert [(g.attribute, g.best, g.worst) for g in gaps] == [("sex", "F", "M")]
    assert gaps[0].value == pytest.approx(2 / 3 - 1 / 2)


def test_small_and_unknown_groups_take_no_part_in_the_gap():
    values = np.array([1.0] * 30 + [0.9] * 30 + [0.0] * 3 + [0.0] * 30)
    patients = [str(i) for i in range(93)]
    scanner = ["A"] * 30 + ["B"] * 30 + ["C"] * 3 + [None] * 29 + [" "]
    table, gaps = by_subgroup(values, patients, {"scanner": scanner}, samples=20, permutations=50)
    assert [(r.group, r.few) for r in table] == [("A", False), ("B", False), ("C", True), ("unknown", False)]
    assert (gaps[0].best, gaps[0].worst) == ("A", "B")
    assert gaps[0].value == pytest.approx(0.1)
    assert gaps[0].p_value < 0.05


def test_a_gap_of_chance_is_told_from_a_real_one():
    generator = np.random.default_rng(0)
    sex = ["F", "M"] * 100
    patients = [str(i) for i in range(200)]
    luck = (generator.random(200) < 0.8).astype(float)
    real = (generator.random(200) < np.where(np.array(sex) == "F", 0.9, 0.6)).astype(float)
    assert by_subgroup(luck, patients, {"sex": sex}, samples=10)[1][0].p_value > 0.05
    assert by_subgroup(real, patients, {"sex": sex}, samples=10)[1][0].p_value < 0.01


def test_any_statistic_of_rows():
    rows = np.array([[1, 0.9], [0, 0.1], [1, 0.2], [0, 0.8]])
    table, gaps = by_subgroup(
        rows, list("abcd"), {"centre": ["x", "x", "y", "y"]}, lambda r: auroc(r[:, 0], r[:, 1]), few=1, samples=20
    )
    assert [r.figure.value for r in table] == [1.0, 0.0]
    assert gaps[0].value == 1.0


def test_a_patient_in_two_groups_gets_no_p_value_and_one_group_no_gap():
    _, gaps = by_subgroup([1.0, 0.0, 1.0], ["a", "a", "b"], {"age_band": ["50s", "60s", "60s"]}, few=1, samples=10)
    assert gaps[0].value == pytest.approx(0.5)
    assert np.isnan(gaps[0].p_value)
    _, alone = by_subgroup([1.0, 0.0], ["a", "b"], {"sex": ["F", "F"]}, few=1, samples=10)
    assert np.isnan(alone[0].value)


def test_missing_groups_are_refused():
    with pytest.raises(Vol3dError, match="sex: expected a patient and a group for each of 2 cases, found 2 and 1"):
        by_subgroup([1.0, 0.0], ["a", "b"], {"sex": ["F"]})

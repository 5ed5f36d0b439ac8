import numpy as np
import pytest

from vol3d.errors import Vol3dError
from vol3d.metrics.finding_table import finding_row, macro
from vol3d.metrics.findings import auroc
from vol3d.metrics.operating import choose_operating_point

NAN = float("nan")


def test_a_row_holds_every_figure_with_its_interval():
    generator = np.random.default_rng(1)
    truth = generator.integers(0, 2, 80).astype(float)
    score = np.clip(0.5 + 0.25 * (truth - 0.5) + generator.normal(0, 0.2, 80), 0, 1)
    patients = [f"p{i // 2}" for i in range(80)]
    truth[:3] = NAN
    point = choose_operating_point(truth, score, "specificity", 0.9)
    row = finding_row("nodule", truth, score, patients, point, samples=100)
    assert row.positives + row.negatives == 77
    assert row.unknown == 3
    assert row.undefined == {}
    assert row.figures["auroc"].value == auroc(truth, score)
    assert row.figures["auroc"].patients == 39  # the first patient has no known case
    assert row.figures["sensitivity"].value == row.figures["sensitivity_at_specificity_0.9"].value == point.sensitivity
    assert row.figures["f1"].low < row.figures["f1"].value < row.figures["f1"].high


def test_a_row_of_one_class_says_why():
    row = finding_row("nodule", [0, 0, None], [0.1, 0.2, 0.9], ["a", "b", "c"], samples=20)
    assert np.isnan(row.figures["auroc"].value)
    assert row.undefined["auroc"] == row.undefined["average_precision"] == "no present case among 2"
    assert row.figures["brier"].value == pytest.approx(0.025)
    assert "brier" not in row.undefined
    silent = choose_operating_point([0, 1], [0.1, 0.9])
    quiet = finding_row("nodule", [0, 1], [0.1, 0.2], ["a", "b"], silent, samples=20)
    assert quiet.undefined == {"precision": "nothing answered present"}
    with pytest.raises(Vol3dError, match="nodule: expected a patient for each of 2 cases, found 1"):
        finding_row("nodule", [0, 1], [0.1, 0.2], ["a"])


def test_macro_leaves_out_what_is_not_defined_and_keeps_unknown_cases_of_other_findings():
    truth = {"a": [1, 0, 1, 0], "b": [1, None, 0, 0], "c": [0, 0, 0, None]}
    score = {"a": [0.9, 0.1, 0.8, 0.2], "b": [0.4, 0.9, 0.5, 0.1], "c": [0.1] * 4}
    found = macro(truth, score, ["p", "q", "r", "s"], samples=50)
    assert found.interval.value == pytest.approx((1 + 0.5) / 2)
    assert found.interval.cases == 4
    assert found.findings == ("a", "b")
    assert found.left_out == {"c": "no present case among 3"}
    assert np.isnan(macro({"c": [0, 0]}, {"c": [0.1, 0.2]}, ["p", "q"]).interval.value)

import json
from dataclasses import asdict

import numpy as np
import pytest

from vol3d.errors import Vol3dError
from vol3d.metrics.findings import (
    adaptive_calibration_error,
    auroc,
    average_precision,
    brier,
    calibration_error,
    fit_temperature,
)
from vol3d.metrics.operating import (
    choose_operating_point,
    counts_at,
    precision_recall_curve,
    roc_curve,
    sensitivity_at,
    specificity_at,
)

NAN = float("nan")
TRUTH = [0, 0, 0, 1, 0, 1]
SCORE = [0.1, 0.2, 0.3, 0.4, 0.6, 0.9]


def test_counts_and_rates_by_hand():
    counts = counts_at(TRUTH, SCORE, 0.4)
    assert (counts.tp, counts.fp, counts.tn, counts.fn) == (2, 1, 3, 0)
    assert (counts.sensitivity, counts.specificity) == (1.0, 0.75)
    assert (counts.precision, counts.f1) == pytest.approx((2 / 3, 0.8))
    nothing = counts_at([0, 0], [0.1, 0.2], 0.5)
    assert np.isnan([nothing.sensitivity, nothing.precision, nothing.f1]).all()
    assert counts_at([0, 0], [0.1, 0.7], 0.5).f1 == 0.0


def test_none_and_nan_are_unknown():
    assert counts_at([1, None, NAN, 0], [0.9, 0.9, 0.9, 0.1], 0.5).fp == 0
    assert auroc([1, None, 0], [0.9, 0.0, 0.1]) == 1.0


def test_curves_by_hand():
    roc = roc_curve([1, 0, 1, 0], [0.9, 0.5, 0.5, 0.1])
    assert roc.x.tolist() == [0, 0, 0.5, 1]
    assert roc.y.tolist() == [0, 0.5, 1, 1]
    assert roc.threshold.tolist() == [np.inf, 0.9, 0.5, 0.1]
    pr = precision_recall_curve([1, 0, 1, 0], [0.9, 0.5, 0.5, 0.1])
    assert pr.x.tolist() == [0, 0.5, 1, 1]
    assert pr.y.tolist() == pytest.approx([1, 1, 2 / 3, 0.5])
    assert np.isnan(roc_curve([1, 1], [0.1, 0.2]).x).all()
    assert np.isnan(precision_recall_curve([0, 0], [0.1, 0.2]).x).all()


@pytest.mark.parametrize("levels", [5, 1000])
def test_curves_and_figures_agree_with_scikit_learn(levels):
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(levels)
    truth, score = generator.integers(0, 2, 300), generator.integers(0, levels, 300) / levels
    fpr, tpr, thresholds = metrics.roc_curve(truth, score, drop_intermediate=False)
    ours = roc_curve(truth, score)
    np.testing.assert_allclose(ours.x, fpr, atol=1e-12)
    np.testing.assert_allclose(ours.y, tpr, atol=1e-12)
    np.testing.assert_allclose(ours.threshold[1:], thresholds[1:])
    precision, recall, _ = metrics.precision_recall_curve(truth, score)
    pr = precision_recall_curve(truth, score)
    np.testing.assert_allclose(pr.x[::-1], recall, atol=1e-12)
    np.testing.assert_allclose(pr.y[::-1], precision, atol=1e-12)
    assert auroc(truth, score) == pytest.approx(metrics.roc_auc_score(truth, score), abs=1e-12)
    assert average_precision(truth, score) == pytest.approx(metrics.average_precision_score(truth, score), abs=1e-12)
    assert brier(truth, score) == pytest.approx(metrics.brier_score_loss(truth, score), abs=1e-12)
    assert counts_at(truth, score, 0.4).f1 == pytest.approx(metrics.f1_score(truth, score >= 0.4), abs=1e-12)
    for target in (0.5, 0.9, 1.0):
        assert sensitivity_at(target, truth, score) == pytest.approx(max(tpr[1 - fpr >= target - 1e-12]))
        assert specificity_at(target, truth, score) == pytest.approx(max(1 - fpr[tpr >= target - 1e-12]))


def test_rates_read_from_the_curve_by_hand():
    assert sensitivity_at(0.75, TRUTH, SCORE) == 1.0
    assert sensitivity_at(0.8, TRUTH, SCORE) == 0.5  # above 0.6 only
    assert specificity_at(1.0, TRUTH, SCORE) == 0.75
    assert specificity_at(0.5, TRUTH, SCORE) == 1.0
    assert np.isnan(sensitivity_at(0.9, [0, 0], [0.1, 0.2]))


def test_operating_points_by_hand():
    youden = choose_operating_point(TRUTH, SCORE)
    assert (youden.threshold, youden.sensitivity, youden.specificity) == pytest.approx((0.35, 1.0, 0.75))
    assert (youden.positives, youden.negatives, youden.reason) == (2, 4, "")
    strict = choose_operating_point(TRUTH, SCORE, "specificity", 0.9)
    assert (strict.threshold, strict.sensitivity, strict.specificity) == pytest.approx((0.75, 0.5, 1.0))
    catching = choose_operating_point(TRUTH, SCORE, "sensitivity", 0.9)
    assert (catching.threshold, catching.sensitivity, catching.specificity) == pytest.approx((0.35, 1.0, 0.75))
    assert choose_operating_point(TRUTH, SCORE, "f1").threshold == pytest.approx(0.35)
    never = choose_operating_point([0, 1, 0], [0.9, 0.5, 0.1], "specificity", 1.0)
    assert 0.9 < never.threshold < 0.9001
    assert (never.sensitivity, never.specificity) == (0.0, 1.0)
    always = choose_operating_point([0, 1, 0], [0.4, 0.3, 0.9], "sensitivity", 1.0)
    assert (always.threshold, always.specificity) == (0.3, 0.0)


@pytest.mark.parametrize("criterion", ["sensitivity", "specificity"])
def test_a_fixed_rate_is_reached_and_no_other_threshold_is_better(criterion):
    generator = np.random.default_rng(4)
    truth, score = generator.integers(0, 2, 90), generator.integers(0, 15, 90) / 15
    point = choose_operating_point(truth, score, criterion, 0.8)
    other = {"sensitivity": "specificity", "specificity": "sensitivity"}[criterion]
    every = [counts_at(truth, score, t) for t in np.linspace(-0.01, 1.01, 400)]
    best = max(getattr(c, other) for c in every if getattr(c, criterion) >= 0.8)
    assert getattr(point, criterion) >= 0.8
    assert getattr(point, other) == pytest.approx(best)


def test_nothing_is_chosen_from_one_class():
    point = choose_operating_point([1, 1, None], [0.9, 0.8, 0.1], "sensitivity", 0.9)
    assert (point.threshold, point.sensitivity) == (0.5, None)
    assert point.reason == "no absent case among 2: the default"
    assert json.loads(json.dumps(asdict(point)))["positives"] == 2


def test_targets_are_checked():
    with pytest.raises(Vol3dError, match=r"a target in 0\.\.1 for the criterion sensitivity, found None"):
        choose_operating_point(TRUTH, SCORE, "sensitivity")
    with pytest.raises(Vol3dError, match=r"no target for the criterion youden, found 0\.9"):
        choose_operating_point(TRUTH, SCORE, "youden", 0.9)
    with pytest.raises(Vol3dError, match=r"found 1\.2"):
        choose_operating_point(TRUTH, SCORE, "specificity", 1.2)


def test_adaptive_bins_see_what_equal_bins_hide():
    # four cases within the first equal bin: mean 0.05, a half present -> 0.45; in two bins of two 0.02 and 0.92
    truth, probability = [0, 0, 1, 1], [0.01, 0.03, 0.07, 0.09]
    assert calibration_error(truth, probability) == pytest.approx(0.45)
    assert adaptive_calibration_error(truth, probability, bins=2) == pytest.approx((0.02 + 0.92) / 2)
    tied = [0.2, 0.2, 0.2, 0.8]
    for order in ([0, 1, 2, 3], [2, 1, 0, 3], [1, 2, 0, 3]):
        found = adaptive_calibration_error(np.array([0, 1, 1, 1])[order], np.array(tied)[order], 2)
        assert found == pytest.approx(0.75 * (2 / 3 - 0.2) + 0.25 * 0.2)
    assert np.isnan(adaptive_calibration_error([], []))


def test_temperature_recovers_a_known_one_at_any_scale():
    generator = np.random.default_rng(0)
    logit = generator.normal(0, 2, 20000)
    truth = generator.random(20000) < 1 / (1 + np.exp(-logit))
    assert fit_temperature(truth, logit * 3) == pytest.approx(3, rel=0.04)
    assert fit_temperature(truth, logit * 300) == pytest.approx(300, rel=0.04)
    assert fit_temperature([1, 1], [0.3, 1.0]) == 1.0
    assert 0.05 < fit_temperature([0, 0, 1, 1], [-2.0, -1.0, 1.0, 2.0]) < 2  # separated, yet finite

"""Ranking and calibration against numbers worked out by hand."""

import numpy as np
import pytest
from scipy.special import expit

from vol3d.errors import Vol3dError
from vol3d.metrics.findings import (
    MIN_SCALE,
    auroc,
    average_precision,
    brier,
    calibration_error,
    choose_threshold,
    fit_platt,
    reliability,
)

NAN = float("nan")


def test_auroc_counts_ties_half():
    # pairs (present, absent): .9>.5, .9>.1, .5=.5, .5>.1 -> 3.5 of 4
    assert auroc([1, 1, 0, 0], [0.9, 0.5, 0.5, 0.1]) == pytest.approx(3.5 / 4)
    assert auroc([1, 0, 1, 0], [0.3] * 4) == 0.5
    assert auroc([1, 0], [0.1, 0.9]) == 0.0


def test_auroc_agrees_with_every_pair():
    generator = np.random.default_rng(0)
    truth, score = generator.integers(0, 2, 60), generator.integers(0, 8, 60) / 8
    pairs = [(p > n) + 0.5 * (p == n) for p in score[truth == 1] for n in score[truth == 0]]
    assert auroc(truth, score) == pytest.approx(np.mean(pairs))


def test_auroc_needs_both_classes():
    assert np.isnan(auroc([1, 1], [0.2, 0.9]))
    assert np.isnan(auroc([0], [0.2]))
    assert np.isnan(auroc([], []))


def test_unknown_truth_is_left_out():
    assert auroc([1, NAN, 0], [0.9, 0.0, 0.1]) == 1.0
    assert brier([1, NAN], [0.5, 0.9]) == 0.25


def test_average_precision_by_hand():
    # ranked: present (1/1), absent, present (2/3), absent -> (1 + 2/3) / 2
    assert average_precision([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.6]) == pytest.approx((1 + 2 / 3) / 2)
    # the two in the middle are tied: recall 1 is reached at 3 asked
    assert average_precision([1, 1, 0, 0], [0.9, 0.5, 0.5, 0.1]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision([1, 0], [0.3, 0.3]) == pytest.approx(0.5)
    assert np.isnan(average_precision([0, 0], [0.3, 0.4]))


def test_brier_by_hand():
    assert brier([1, 0, 0], [0.8, 0.4, 0.0]) == pytest.approx((0.04 + 0.16) / 3)


def test_reliability_bins_and_their_error():
    truth, probability = [1, 0, 1, 1, 0], [0.05, 0.05, 0.95, 1.0, 0.5]
    curve = reliability(truth, probability, bins=10)
    assert curve.predicted.tolist() == pytest.approx([0.05, 0.5, 0.975])
    assert curve.observed.tolist() == pytest.approx([0.5, 0.0, 1.0])
    assert curve.count.tolist() == [2, 1, 2]
    assert calibration_error(truth, probability) == pytest.approx((2 * 0.45 + 1 * 0.5 + 2 * 0.025) / 5)
    assert np.isnan(calibration_error([], []))


def test_platt_recovers_a_known_scale_and_bias():
    generator = np.random.default_rng(0)
    logit = generator.normal(0, 3, 20000)
    truth = generator.random(20000) < expit(0.6 * logit - 1.1)
    scale, bias = fit_platt(truth, logit)
    assert scale == pytest.approx(0.6, abs=0.03)
    assert bias == pytest.approx(-1.1, abs=0.06)
    raw, calibrated = calibration_error(truth, expit(logit)), calibration_error(truth, expit(scale * logit + bias))
    assert calibrated < 0.02 < raw


def test_platt_is_a_minimum_of_its_loss():
    truth, logit = np.array([0, 0, 1, 0, 1, 1, 1]), np.array([-2.0, -1.0, -0.5, 0.4, 0.7, 1.5, 3.0])
    target = np.where(truth == 1, 5 / 6, 1 / 5)

    def loss(scale, bias):
        z = scale * logit + bias
        return np.mean(np.logaddexp(0, z) - target * z)

    scale, bias = fit_platt(truth, logit)
    for step in [(1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)]:
        assert loss(scale + step[0], bias + step[1]) > loss(scale, bias)


@pytest.mark.parametrize("size", [1.0, 1e3, 1e-3])
def test_platt_stays_finite_where_the_classes_separate(size):
    truth, logit = np.array([0, 0, 0, 1, 1, 1]), np.array([-3.0, -2.0, -1.0, 1.0, 2.0, 3.0]) * size
    scale, bias = fit_platt(truth, logit)
    probability = expit(scale * logit + bias)
    assert np.isfinite([scale, bias]).all()
    assert 0.01 < probability[0] < 0.3 < 0.7 < probability[-1] < 0.99


def test_platt_never_turns_the_order_round():
    scale, bias = fit_platt([1, 1, 0, 0], [-2.0, -1.0, 1.0, 2.0])
    assert scale == pytest.approx(MIN_SCALE, rel=1e-6)
    assert expit(bias) == pytest.approx(0.5, abs=1e-3)


def test_platt_without_both_classes_is_the_model_itself():
    assert fit_platt([1, 1], [0.3, 2.0]) == (1.0, 0.0)
    assert fit_platt([], []) == (1.0, 0.0)


def test_platt_of_equal_logits_is_the_prevalence():
    scale, bias = fit_platt([1] * 30 + [0] * 10, [2.0] * 40)
    assert expit(scale * 2.0 + bias) == pytest.approx(0.75, abs=0.03)


def test_threshold_by_youden_and_f1():
    truth, score = [0, 0, 0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4, 0.6, 0.9]
    assert choose_threshold(truth, score) == pytest.approx(0.35)  # sensitivity 1, specificity 3/4
    assert choose_threshold(truth, score, "f1") == pytest.approx(0.35)  # F1 0.8
    rare = [0, 1, 0, 0, 0, 0, 0, 1]
    levels = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]
    assert choose_threshold(rare, levels, "f1") == pytest.approx(0.75)  # 2/3 against 4/9


def test_threshold_separates_and_ties_go_to_the_middle():
    assert choose_threshold([0, 1], [0.2, 0.6]) == pytest.approx(0.4)
    # above 0.1 or above 0.5 both have sensitivity + specificity 1.5: nearest to 0.5 wins
    assert choose_threshold([0, 1, 0, 1], [0.1, 0.3, 0.5, 0.7]) == pytest.approx(0.6)


def test_threshold_works_as_greater_or_equal():
    generator = np.random.default_rng(3)
    truth, score = generator.integers(0, 2, 80), generator.integers(0, 12, 80) / 12
    chosen = choose_threshold(truth, score)

    def youden(threshold):
        return (score[truth == 1] >= threshold).mean() - (score[truth == 0] >= threshold).mean()

    assert youden(chosen) == pytest.approx(max(youden(t) for t in np.linspace(0, 1, 500)))


def test_threshold_without_both_classes_is_one_half():
    assert choose_threshold([1, 1], [0.9, 0.8]) == 0.5


def test_malformed_cases_are_refused():
    with pytest.raises(Vol3dError, match="each of 2 cases, found 1"):
        auroc([1, 0], [0.1])
    with pytest.raises(Vol3dError, match="0, 1 or NaN"):
        auroc([1, 2], [0.1, 0.2])
    with pytest.raises(Vol3dError, match="finite"):
        auroc([1, 0], [0.1, NAN])
    with pytest.raises(Vol3dError, match=r"0\.\.1, found 0\.1\.\.1\.2"):
        brier([1, 0], [0.1, 1.2])

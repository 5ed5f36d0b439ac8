"""Intervals cover what they claim, by patient, and repeat with their seed."""

import numpy as np
import pytest

from vol3d.errors import Vol3dError
from vol3d.metrics.bootstrap import bootstrap_interval, paired_difference
from vol3d.metrics.findings import auroc

NAN = float("nan")


def test_constant_values_have_no_width():
    found = bootstrap_interval([0.7] * 6, ["a", "a", "b", "c", "d", "e"])
    assert (found.value, found.low, found.high) == pytest.approx((0.7, 0.7, 0.7))
    assert (found.cases, found.patients) == (6, 5)


def test_one_patient_cannot_be_resampled_into_its_cases():
    found = bootstrap_interval([0.0, 1.0, 0.5, 0.5], ["a"] * 4)
    assert (found.low, found.high) == (0.5, 0.5)


def test_interval_is_that_of_two_patients():
    # means of two draws from {0, 1}: 0 (1/4), 0.5 (1/2), 1 (1/4)
    found = bootstrap_interval([0.0, 1.0], ["a", "b"], level=0.4)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    assert bootstrap_interval([0.0, 1.0], ["a", "b"], level=0.8).low == 0.0


def test_clustered_cases_widen_the_interval():
    generator = np.random.default_rng(0)
    effect = np.repeat(generator.normal(size=20), 10)
    by_patient = bootstrap_interval(effect, np.repeat(np.arange(20), 10).astype(str))
    by_case = bootstrap_interval(effect, np.arange(200).astype(str))
    assert by_patient.high - by_patient.low > 2 * (by_case.high - by_case.low)


def test_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(1)
    hits = 0
    for run in range(200):
        found = bootstrap_interval(generator.normal(3, 1, 40), np.arange(40).astype(str), samples=400, seed=run)
        hits += found.low <= 3 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_nan_is_left_out_and_nothing_is_nan():
    found = bootstrap_interval([0.5, NAN, 0.5], ["a", "b", "c"])
    assert (found.value, found.cases, found.patients) == (0.5, 2, 2)
    assert np.isnan(bootstrap_interval([NAN], ["a"]).value)
    assert bootstrap_interval([], []).cases == 0


def test_a_statistic_of_rows():
    generator = np.random.default_rng(2)
    truth = np.arange(60) % 2
    rows = np.stack([truth, truth + generator.normal(0, 0.8, 60)], axis=1)
    found = bootstrap_interval(rows, np.arange(60).astype(str), lambda r: auroc(r[:, 0], r[:, 1]), samples=300)
    assert found.value == auroc(rows[:, 0], rows[:, 1])
    assert 0.6 < found.low < found.value < found.high <= 1.0


def test_a_mean_given_as_statistic_equals_the_fast_way():
    generator = np.random.default_rng(4)
    values, patients = generator.random(30), generator.integers(0, 9, 30).astype(str)
    slow, fast = (
        bootstrap_interval(values, patients, np.mean, samples=200),
        bootstrap_interval(values, patients, samples=200),
    )
    assert (slow.value, slow.low, slow.high) == pytest.approx((fast.value, fast.low, fast.high))


def test_the_seed_decides():
    values, patients = np.random.default_rng(5).random(20), np.arange(20).astype(str)
    assert bootstrap_interval(values, patients, seed=1) == bootstrap_interval(values, patients, seed=1)
    assert bootstrap_interval(values, patients, seed=1) != bootstrap_interval(values, patients, seed=2)


def test_paired_difference_sees_what_unpaired_noise_hides():
    generator = np.random.default_rng(6)
    hard = generator.normal(0.5, 0.3, 26)
    patients = np.arange(26).astype(str)
    better = paired_difference(hard + 0.02 + generator.normal(0, 0.01, 26), hard, patients)
    assert better.value == pytest.approx(0.02, abs=0.01)
    assert 0 < better.low < better.high
    assert better.p_value < 0.01
    same = paired_difference(hard, hard, patients)
    assert (same.value, same.p_value) == (0.0, 1.0)


def test_paired_difference_leaves_out_half_known_cases():
    found = paired_difference([0.9, NAN, 0.5], [0.8, 0.1, NAN], ["a", "b", "c"])
    assert (found.value, found.cases) == (pytest.approx(0.1), 1)
    assert np.isnan(paired_difference([NAN], [0.1], ["a"]).p_value)


def test_p_value_is_small_as_often_as_it_says_under_no_difference():
    generator = np.random.default_rng(7)
    patients = np.arange(30).astype(str)
    values = [
        paired_difference(generator.normal(size=30), generator.normal(size=30), patients, samples=400, seed=i).p_value
        for i in range(200)
    ]
    assert 0.01 <= np.mean(np.array(values) < 0.05) <= 0.12


def test_lengths_must_agree():
    with pytest.raises(Vol3dError, match="patient for each of 2"):
        bootstrap_interval([1.0, 2.0], ["a"])
    with pytest.raises(Vol3dError, match="paired"):
        paired_difference([1.0, 2.0], [1.0], ["a", "b"])

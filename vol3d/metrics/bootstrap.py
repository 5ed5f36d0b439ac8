"""Intervals by patient-level bootstrap: patients are drawn with replacement, each with all of its cases.

Cases of one patient are not independent; drawing cases would make intervals too narrow. Percentile intervals, seeded,
so that the same table yields the same numbers. NaN values (a Dice of two empty masks) are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vol3d.errors import Vol3dError
from vol3d.types import Array

Statistic = Callable[[Array], float]
"""From the rows of the drawn cases ([N] or [N, K]) to one number; NaN where it is not defined."""


@dataclass(frozen=True)
class Interval:
    """A statistic and its bootstrap interval; NaN throughout if there is no case."""

    value: float
    low: float
    high: float
    cases: int
    patients: int


@dataclass(frozen=True)
class Difference:
    """Mean of a - b over paired cases, its interval, and a two-sided p-value for "no difference"."""

    value: float
    low: float
    high: float
    p_value: float
    cases: int
    patients: int


def bootstrap_interval(
    values_N: Array,
    patients_N: Sequence[str],
    statistic: Statistic | None = None,
    *,
    samples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Interval of a statistic over cases.

    Args:
        values_N: one value a case, or one row ([N, K], e.g. truth and score); rows with a NaN are left out.
        patients_N: the patient of each case.
        statistic: of the rows; None is the mean of [N], which is much faster.
        samples: draws.
        level: coverage.
        seed: of the draws.
    """
    values, patient = _rows(values_N, patients_N)
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"), 0, 0)
    draws_SP = _draws(int(patient.max()) + 1, samples, seed)
    if statistic is None:
        value, drawn = float(values.mean()), _drawn_means(values, patient, draws_SP)
    else:
        own = [np.flatnonzero(patient == p) for p in range(draws_SP.shape[1])]
        value = float(statistic(values))
        drawn = np.array([statistic(values[np.concatenate([own[p] for p in draw])]) for draw in draws_SP])
    low, high = _percentiles(drawn, level)
    return Interval(value, low, high, len(values), draws_SP.shape[1])


def paired_difference(
    a_N: Array,
    b_N: Array,
    patients_N: Sequence[str],
    *,
    samples: int = 10000,
    level: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Mean of a - b with both methods scored on the same cases; a case that is NaN for either is left out of both.

    The p-value is twice the smaller share of draws on one side of zero, with one added to both counts: it is never 0.
    """
    if np.shape(a_N) != np.shape(b_N):
        raise Vol3dError(f"expected paired cases, found {np.shape(a_N)} against {np.shape(b_N)}")
    difference, patient = _rows(np.asarray(a_N, np.float64) - np.asarray(b_N, np.float64), patients_N)
    if not len(difference):
        nan = float("nan")
        return Difference(nan, nan, nan, nan, 0, 0)
    draws_SP = _draws(int(patient.max()) + 1, samples, seed)
    drawn = _drawn_means(difference, patient, draws_SP)
    low, high = _percentiles(drawn, level)
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    p_value = min(1.0, 2.0 * (tail + 1) / (samples + 1))
    return Difference(float(difference.mean()), low, high, p_value, len(difference), draws_SP.shape[1])


def _rows(values_N: Array, patients_N: Sequence[str]) -> tuple[Array, Array]:
    """Rows without NaN, and the number of the patient of each."""
    values, patients = np.asarray(values_N, np.float64), np.asarray(patients_N)
    if len(values) != len(patients):
        raise Vol3dError(f"expected a patient for each of {len(values)} cases, found {len(patients)}")
    known = ~np.isnan(values.reshape(len(values), -1)).any(axis=1) if len(values) else np.zeros(0, bool)
    return values[known], np.unique(patients[known], return_inverse=True)[1]


def _draws(patients: int, samples: int, seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, patients, (samples, patients))


def _drawn_means(values: Array, patient: Array, draws_SP: Array) -> Array:
    """Mean over the drawn cases: patients weigh by their number of cases, as in the plain mean."""
    total, count = np.bincount(patient, values), np.bincount(patient)
    return total[draws_SP].sum(axis=1) / count[draws_SP].sum(axis=1)


def _percentiles(drawn: Array, level: float) -> tuple[float, float]:
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return float("nan"), float("nan")
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)

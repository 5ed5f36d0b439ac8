"""A row of figures for each finding, and means over findings, with intervals by patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vol3d.errors import Vol3dError
from vol3d.metrics.bootstrap import Interval, bootstrap_interval
from vol3d.metrics.findings import (
    adaptive_calibration_error,
    auroc,
    average_precision,
    brier,
    calibration_error,
    known_cases,
)
from vol3d.metrics.operating import OperatingPoint, counts_at, one_class, sensitivity_at, specificity_at
from vol3d.types import Array


@dataclass(frozen=True)
class FindingRow:
    """All figures of one finding, each with its interval."""

    finding: str
    positives: int
    negatives: int
    unknown: int
    point: OperatingPoint | None
    figures: dict[str, Interval]
    """NaN where it is not defined; then `undefined` says why."""
    undefined: dict[str, str]


def finding_row(
    finding: str,
    truth_N: Array,
    probability_N: Array,
    patients_N: Sequence[str],
    point: OperatingPoint | None = None,
    *,
    fixed: float = 0.9,
    samples: int = 1000,
) -> FindingRow:
    """Ranking, calibration and, if a stored operating point is given, the decisions it makes on these cases.

    Args:
        finding: its name.
        truth_N: 1, 0 or unknown; unknown cases count nowhere.
        probability_N: calibrated.
        patients_N: the patient of each case, for the intervals.
        point: chosen on validation.
        fixed: the sensitivity and specificity at which the other is read from the curve.
        samples: bootstrap draws.
    """
    truth, probability = known_cases(truth_N, probability_N, probability=True)
    known = ~np.isnan(np.asarray(truth_N, np.float64).ravel())
    if len(known) != len(patients_N):
        raise Vol3dError(f"{finding}: expected a patient for each of {len(known)} cases, found {len(patients_N)}")
    patients = [p for p, keep in zip(patients_N, known, strict=True) if keep]
    rows = np.stack([truth.astype(float), probability], axis=1)
    positive = int(truth.sum())
    figures = {
        name: bootstrap_interval(rows, patients, lambda r, f=f: f(r[:, 0], r[:, 1]), samples=samples)  # type: ignore[misc]
        for name, f in _figures(point, fixed).items()
    }
    why = one_class(positive, len(truth) - positive)
    undefined = {name: why or "nothing answered present" for name, i in figures.items() if np.isnan(i.value)}
    return FindingRow(
        finding, positive, len(truth) - positive, int((~known).sum()), point, figures, undefined
    )  # fmt: skip


def _figures(point: OperatingPoint | None, fixed: float) -> dict[str, Callable[[Array, Array], float]]:
    figures: dict[str, Callable[[Array, Array], float]] = {
        "auroc": auroc,
        "average_precision": average_precision,
        f"sensitivity_at_specificity_{fixed:g}": lambda t, p: sensitivity_at(fixed, t, p),
        f"specificity_at_sensitivity_{fixed:g}": lambda t, p: specificity_at(fixed, t, p),
        "brier": brier,
        "calibration_error": calibration_error,
        "adaptive_calibration_error": adaptive_calibration_error,
    }
    if point is not None:
        at = point.threshold
        figures |= {
            "sensitivity": lambda t, p: counts_at(t, p, at).sensitivity,
            "specificity": lambda t, p: counts_at(t, p, at).specificity,
            "precision": lambda t, p: counts_at(t, p, at).precision,
            "f1": lambda t, p: counts_at(t, p, at).f1,
        }
    return figures


@dataclass(frozen=True)
class Macro:
    """Mean of a figure over findings, and the findings for which it is not defined and which are left out."""

    interval: Interval
    findings: tuple[str, ...]
    left_out: dict[str, str]


def macro(
    truth: Mapping[str, Array],
    probability: Mapping[str, Array],
    patients_N: Sequence[str],
    figure: Callable[[Array, Array], float] = auroc,
    *,
    samples: int = 1000,
) -> Macro:
    """Mean over findings, patients drawn once for all of them; `truth` and `probability` hold [N] for each finding.

    Within a draw a finding that has lost one of its classes is left out of that draw's mean.
    """
    values = {name: figure(t, probability[name]) for name, t in truth.items()}
    names = tuple(n for n, v in values.items() if not np.isnan(v))
    left_out = {n: one_class(*_classes(truth[n])) or "not defined" for n in truth if n not in names}
    pairs = [(np.asarray(truth[n], np.float64), np.asarray(probability[n], np.float64)) for n in names]

    def mean(drawn: Array) -> float:
        rows = drawn.astype(int)
        each = np.array([figure(t[rows], p[rows]) for t, p in pairs])
        return float(np.nanmean(each)) if len(each) and not np.isnan(each).all() else float("nan")

    cases = np.arange(len(patients_N) if names else 0, dtype=float)
    return Macro(bootstrap_interval(cases, patients_N if names else [], mean, samples=samples), names, left_out)


def _classes(truth_N: Array) -> tuple[int, int]:
    truth = np.asarray(truth_N, np.float64)
    return int((truth == 1).sum()), int((truth == 0).sum())

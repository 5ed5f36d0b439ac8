"""Where a probability becomes a "yes": curves and operating points.

An operating point is chosen on validation cases, stored with the model and then only applied. `sensitivity_at` and
`specificity_at` read the curve of the cases at hand, so they describe the ranking, not a decision that could have been
taken beforehand; a table that holds both (`finding_table`) shows how far the stored point has moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from vol3d.errors import Vol3dError
from vol3d.metrics.findings import choose_threshold, known_cases
from vol3d.types import Array

Criterion = Literal["youden", "f1", "sensitivity", "specificity"]


@dataclass(frozen=True)
class Counts:
    """Answers against truth at one threshold; a rate without a case to rate is NaN."""

    tp: int
    fp: int
    tn: int
    fn: int

    @property
    def sensitivity(self) -> float:
        """Share of the present that is answered present."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def specificity(self) -> float:
        """Share of the absent that is answered absent."""
        return _ratio(self.tn, self.tn + self.fp)

    @property
    def precision(self) -> float:
        """Share of the answers "present" that are right."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and sensitivity; NaN if nothing is present and nothing is answered present."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """A threshold, to be used as ``score >= threshold``, and what it was chosen by; plain numbers, fit for JSON."""

    threshold: float
    criterion: Criterion
    target: float | None = None
    """The sensitivity or specificity asked for."""
    sensitivity: float | None = None
    """On the validation cases, as are the counts below; None where nothing could be chosen."""
    specificity: float | None = None
    positives: int = 0
    negatives: int = 0
    reason: str = ""
    """Why the threshold is the default of 0.5; empty where it was chosen."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Points of a ROC curve (x: 1 - specificity, y: sensitivity) or a precision-recall curve (x: recall, y: precision).

    `threshold` falls from infinity (nothing is answered present) to the lowest score; equal scores are one point.
    """

    x: Array
    y: Array
    threshold: Array


def counts_at(truth_N: Array, score_N: Array, threshold: float) -> Counts:
    """Answers ``score >= threshold`` against the known truth."""
    truth, score = known_cases(truth_N, score_N)
    answer = score >= threshold
    return Counts(
        int((truth & answer).sum()), int((~truth & answer).sum()),
        int((~truth & ~answer).sum()), int((truth & ~answer).sum()),
    )  # fmt: skip


def roc_curve(truth_N: Array, score_N: Array) -> Curve:
    """Every point of the ROC curve; the axis of a class without a case is NaN."""
    tp, fp, positive, negative, threshold = _steps(truth_N, score_N)
    return Curve(_share(fp, negative), _share(tp, positive), threshold)


def precision_recall_curve(truth_N: Array, score_N: Array) -> Curve:
    """Every point; precision at the first one, where nothing is answered present, is 1 by convention."""
    tp, fp, positive, _, threshold = _steps(truth_N, score_N)
    return Curve(_share(tp, positive), np.append(1.0, tp[1:] / (tp[1:] + fp[1:])), threshold)


def sensitivity_at(specificity: float, truth_N: Array, score_N: Array) -> float:
    """Highest sensitivity on these cases' ROC curve where the specificity is at least the one given."""
    curve = roc_curve(truth_N, score_N)
    reached = curve.y[1 - curve.x >= specificity - 1e-12]
    return float(reached.max()) if len(reached) else float("nan")


def specificity_at(sensitivity: float, truth_N: Array, score_N: Array) -> float:
    """Highest specificity on these cases' ROC curve where the sensitivity is at least the one given."""
    curve = roc_curve(truth_N, score_N)
    reached = 1 - curve.x[curve.y >= sensitivity - 1e-12]
    return float(reached.max()) if len(reached) else float("nan")


def choose_operating_point(
    truth_N: Array, score_N: Array, criterion: Criterion = "youden", target: float | None = None
) -> OperatingPoint:
    """The point that is best on these validation cases; never to be called with test labels.

    Args:
        truth_N: 1, 0 or unknown.
        score_N: probabilities.
        criterion: "youden" (sensitivity + specificity), "f1", "sensitivity" (highest specificity with at least the
            target sensitivity) or "specificity" (the converse).
        target: in 0..1, for the last two.

    With one class only nothing can be chosen: the threshold is 0.5 and `reason` says so. A threshold lies half-way
    between two neighbouring scores. A specificity that only the answer "never" reaches puts it just above all scores.

    Raises:
        Vol3dError: a target is missing, needless or not in 0..1.
    """
    fixed = criterion in ("sensitivity", "specificity")
    if fixed != (target is not None) or (target is not None and not 0 <= target <= 1):
        wanted = "a target in 0..1" if fixed else "no target"
        raise Vol3dError(f"expected {wanted} for the criterion {criterion}, found {target}")
    truth, score = known_cases(truth_N, score_N)
    positive = int(truth.sum())
    if not 0 < positive < len(truth):
        reason = one_class(positive, len(truth) - positive)
        return OperatingPoint(
            threshold=0.5, criterion=criterion, target=target, positives=positive, negatives=len(truth) - positive,
            reason=f"{reason}: the default",
        )  # fmt: skip
    if criterion == "youden" or criterion == "f1":
        threshold = choose_threshold(truth, score, criterion)
    else:
        threshold = _threshold_for(truth, score, criterion == "sensitivity", float(target or 0.0))
    counts = counts_at(truth, score, threshold)
    return OperatingPoint(
        threshold=threshold, criterion=criterion, target=target, sensitivity=counts.sensitivity,
        specificity=counts.specificity, positives=positive, negatives=len(truth) - positive,
    )  # fmt: skip


def _threshold_for(truth: Array, score: Array, sensitivity: bool, target: float) -> float:
    """Among the points that reach the target the one best in the other rate; the rates are monotonous, so an end."""
    curve = roc_curve(truth, score)
    reached = np.flatnonzero((curve.y if sensitivity else 1 - curve.x) >= target - 1e-12)
    best = int(reached[0] if sensitivity else reached[-1])  # the curve runs from "never" to "always"
    if best == 0:
        return float(np.nextafter(curve.threshold[1], np.inf))
    if best == len(curve.threshold) - 1:
        return float(curve.threshold[-1])
    return float((curve.threshold[best] + curve.threshold[best + 1]) / 2)


def one_class(positive: int, negative: int) -> str:
    """Why nothing can be ranked, or an empty string."""
    if positive and negative:
        return ""
    if not positive and not negative:
        return "no case of known truth"
    return f"no absent case among {positive}" if positive else f"no present case among {negative}"


def _steps(truth_N: Array, score_N: Array) -> tuple[Array, Array, int, int, Array]:
    """Present and absent cases at or above each distinct score, from infinity down."""
    truth, score = known_cases(truth_N, score_N)
    order = np.argsort(-score, kind="stable")
    truth, score = truth[order], score[order]
    last = np.append(score[1:] != score[:-1], True) if len(score) else np.zeros(0, bool)
    tp = np.append(0, np.cumsum(truth)[last])
    fp = np.append(0, np.cumsum(~truth)[last])
    return tp, fp, int(truth.sum()), int((~truth).sum()), np.append(np.inf, score[last])


def _share(count: Array, total: int) -> Array:
    return count / total if total else np.full(len(count), np.nan)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")

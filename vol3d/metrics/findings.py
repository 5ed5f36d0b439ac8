"""How well probabilities answer "is it there?": ranking, calibration, and the thresholds chosen on validation.

Truth is 1, 0, or unknown (NaN or None), which is left out, as it gives no loss in training. A figure that is not
defined (AUROC with one class only) is NaN, never a guess. Curves, operating points and tables are in `operating`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import expit

from vol3d.errors import Vol3dError
from vol3d.types import Array

MIN_SCALE = 1e-3
"""Calibration never reverses the order of the logits."""


@dataclass(frozen=True, eq=False)
class Reliability:
    """Points of the calibration curve, one per bin that holds a case."""

    predicted: Array
    """Mean probability in the bin."""
    observed: Array
    """Share of present cases in the bin."""
    count: Array


def auroc(truth_N: Array, score_N: Array) -> float:
    """Chance that a present case scores above an absent one, ties counting half (Mann-Whitney); NaN with one class."""
    truth, score = known_cases(truth_N, score_N)
    positive = int(truth.sum())
    negative = len(truth) - positive
    if not positive or not negative:
        return float("nan")
    ranks = _ranks(score)
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


def average_precision(truth_N: Array, score_N: Array) -> float:
    """Mean precision over the recall steps, equal scores taken as one step; NaN if nothing is present."""
    truth, score = known_cases(truth_N, score_N)
    if not truth.any():
        return float("nan")
    order = np.argsort(-score, kind="stable")
    hits, score = np.cumsum(truth[order]), score[order]
    last = np.append(score[1:] != score[:-1], True)  # of each group of equal scores
    hits, asked = hits[last], np.flatnonzero(last) + 1
    return float(np.sum(np.diff(hits, prepend=0) * hits / asked) / hits[-1])


def brier(truth_N: Array, probability_N: Array) -> float:
    """Mean squared difference of probability and truth; NaN without a case."""
    truth, probability = known_cases(truth_N, probability_N, probability=True)
    return float(np.mean((probability - truth) ** 2)) if len(truth) else float("nan")


def reliability(truth_N: Array, probability_N: Array, bins: int = 10) -> Reliability:
    """Calibration curve over `bins` equal bins of 0..1 (the last one closed); empty bins are left out."""
    truth, probability = known_cases(truth_N, probability_N, probability=True)
    return _binned(truth, probability, np.minimum((probability * bins).astype(int), bins - 1), bins)


def calibration_error(truth_N: Array, probability_N: Array, bins: int = 10) -> float:
    """Expected calibration error: |observed - predicted| averaged over the bins by their count; NaN without a case."""
    curve = reliability(truth_N, probability_N, bins)
    if not curve.count.sum():
        return float("nan")
    return _gap(curve)


def adaptive_calibration_error(truth_N: Array, probability_N: Array, bins: int = 10) -> float:
    """The same over bins that hold about as many cases each (Nguyen and O'Connor 2015); NaN without a case.

    Rare findings crowd near 0, where equal bins of 0..1 see one bin only. Equal probabilities share a bin, so that the
    order of the cases does not matter.
    """
    truth, probability = known_cases(truth_N, probability_N, probability=True)
    if not len(truth):
        return float("nan")
    middle = (_ranks(probability) - 0.5) / len(probability)  # of each group of ties, in 0..1
    return _gap(_binned(truth, probability, (middle * bins).astype(int), bins))


def _binned(truth: Array, probability: Array, where: Array, bins: int) -> Reliability:
    count = np.bincount(where, minlength=bins)
    held = count > 0
    predicted = np.bincount(where, probability, minlength=bins)[held] / count[held]
    observed = np.bincount(where, truth, minlength=bins)[held] / count[held]
    return Reliability(predicted, observed, count[held])


def _gap(curve: Reliability) -> float:
    return float(np.average(np.abs(curve.observed - curve.predicted), weights=curve.count))


def _ranks(score_N: Array) -> Array:
    from scipy.stats import rankdata  # a second of imports that a checkpoint, which knows operating points, can spare

    return rankdata(score_N)


def fit_temperature(truth_N: Array, logit_N: Array) -> float:
    """T > 0 such that sigmoid(logit / T) is the probability that a case is present (Guo et al. 2017).

    Maximum likelihood on Platt's softened targets, which keep it finite where the logits separate the classes. It moves
    no case across a probability of one half; where the model is biased, `fit_platt` is the better choice. With fewer
    than two classes the answer is 1.
    """
    from scipy.optimize import minimize_scalar

    truth, logit = known_cases(truth_N, logit_N)
    positive = int(truth.sum())
    if not 0 < positive < len(truth) or not logit.any():
        return 1.0
    target = _softened(truth, positive)
    size = float(np.sqrt(np.mean(logit**2)))  # fitted on logits of size 1, so that any scale converges
    unit = logit / size

    def loss(log_scale: float) -> float:
        z = np.exp(log_scale) * unit
        return float(np.mean(np.logaddexp(0, z) - target * z))

    found = minimize_scalar(loss, bounds=(np.log(MIN_SCALE), np.log(1 / MIN_SCALE)), method="bounded")
    return size / float(np.exp(found.x))


def fit_platt(truth_N: Array, logit_N: Array) -> tuple[float, float]:
    """(scale, bias) such that sigmoid(scale * logit + bias) is the probability that a case is present.

    Maximum likelihood on Platt's softened targets (Platt 1999; Lin, Lin and Weng 2007), which keep it finite where the
    logits separate the classes. The scale is at least `MIN_SCALE`. With fewer than two classes there is nothing to
    learn from and the answer is (1.0, 0.0): the model's own probability.
    """
    from scipy.optimize import minimize

    truth, logit = known_cases(truth_N, logit_N)
    positive = int(truth.sum())
    negative = len(truth) - positive
    if not positive or not negative:
        return 1.0, 0.0
    target = _softened(truth, positive)
    spread = float(logit.std()) or 1.0  # fitted on logits of mean 0 and deviation 1, so that any scale converges
    centre = float(logit.mean())
    unit = (logit - centre) / spread

    def loss(parameters: Array) -> tuple[float, Array]:
        z = parameters[0] * unit + parameters[1]
        slope = (expit(z) - target) / len(z)
        return float(np.mean(np.logaddexp(0, z) - target * z)), np.array([slope @ unit, slope.sum()])

    start = np.array([spread, centre])  # the identity
    bounds = [(MIN_SCALE * spread, None), (None, None)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-9})
    scale = float(found.x[0]) / spread
    return scale, float(found.x[1]) - scale * centre


def _softened(truth: Array, positive: int) -> Array:
    """Platt's targets: as if one more case of each class had been seen."""
    return np.where(truth, (positive + 1) / (positive + 2), 1 / (len(truth) - positive + 2))


def choose_threshold(truth_N: Array, score_N: Array, criterion: Literal["youden", "f1"] = "youden") -> float:
    """The threshold t, to be used as ``score >= t``, that is best on these (validation) cases.

    Candidates lie half-way between neighbouring scores, plus the lowest score itself (everything present). `youden`
    maximises sensitivity + specificity, `f1` the F1 of presence. Of equally good ones the nearest to 0.5 wins. With one
    class only nothing can be chosen, and the answer is 0.5.
    """
    truth, score = known_cases(truth_N, score_N)
    positive = int(truth.sum())
    negative = len(truth) - positive
    if not positive or not negative:
        return 0.5
    order = np.argsort(score, kind="stable")
    score, truth = score[order], truth[order]
    first = np.append(True, score[1:] != score[:-1])
    below = np.flatnonzero(first)  # cases under each candidate
    missed = np.append(0, np.cumsum(truth))[below]
    tp, fp = positive - missed, negative - (below - missed)
    value = tp / positive - fp / negative if criterion == "youden" else 2 * tp / (positive + tp + fp)
    levels = score[first]
    candidates = np.append(levels[0], (levels[1:] + levels[:-1]) / 2)
    best = np.flatnonzero(value >= value.max() - 1e-12)
    return float(candidates[best[np.abs(candidates[best] - 0.5).argmin()]])


def known_cases(truth_N: Array, score_N: Array, probability: bool = False) -> tuple[Array, Array]:
    """Truth as bool and scores as float64 of the cases whose truth is known.

    Raises:
        Vol3dError: lengths differ, truth is not 0, 1 or unknown, a score is not finite, or no probability where asked.
    """
    truth, score = np.asarray(truth_N, np.float64).ravel(), np.asarray(score_N, np.float64).ravel()
    if truth.shape != score.shape:
        raise Vol3dError(f"expected a score for each of {truth.size} cases, found {score.size}")
    truth, score = truth[~np.isnan(truth)], score[~np.isnan(truth)]
    strange = truth[(truth != 0) & (truth != 1)]
    if strange.size:
        raise Vol3dError(f"expected truth of 0, 1 or NaN (unknown), found {strange[0]:g}")
    if not np.isfinite(score).all():
        raise Vol3dError(f"expected finite scores, found {int((~np.isfinite(score)).sum())} that are NaN or infinite")
    if probability and score.size and (score.min() < 0 or score.max() > 1):
        raise Vol3dError(f"expected probabilities in 0..1, found {score.min():g}..{score.max():g}")
    return truth.astype(bool), score

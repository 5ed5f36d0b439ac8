"""From a model's answers to wordings to a score, a probability and a decision for each finding.

The score of a finding is the mean presence logit of its positive wordings, less (where validation showed that the model
hears a "no") the mean of its negative ones.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from vol3d.cache import Entry
from vol3d.checkpoint import Checkpoint, FindingCalibration, Findings
from vol3d.errors import ConfigError
from vol3d.metrics.findings import auroc, fit_platt
from vol3d.metrics.operating import Criterion, OperatingPoint, choose_operating_point
from vol3d.text.prompts import FindingPrompts, prompts_for
from vol3d.types import Array

log = logging.getLogger(__name__)

LEAST = 5
"""Validation studies with a finding, and without it, from which on it has an operating point of its own."""

GAIN = 0.01
"""Macro AUROC that negative wordings must add on validation before they count."""

CRITERIA: dict[str, tuple[Criterion, float | None]] = {
    "youden": ("youden", None), "f1": ("f1", None), "sensitivity": ("sensitivity", 0.9),
    "specificity": ("specificity", 0.9),
}  # fmt: skip
PointName = Literal["youden", "f1", "sensitivity", "specificity"]


@dataclass(frozen=True)
class Decided:
    """The answer to a finding."""

    score: float
    probability: float
    present: bool
    """The probability reaches the threshold."""
    by_wording: tuple[float, ...]
    """The probability that each positive wording alone would give."""
    calibration: Literal["own", "all findings", "phrases"]
    """Whose: its own, that of all findings together, or that of single phrases."""
    point: OperatingPoint
    """With the threshold."""


def phrases_of(prompts: Iterable[FindingPrompts], negative: bool) -> list[str]:
    """Every wording once; the negative ones only if wanted."""
    return list(dict.fromkeys(w for p in prompts for w in (p.wordings if negative else p.positive)))


def labelled(entries: Iterable[Entry]) -> list[FindingPrompts]:
    """Findings of which a study states that they are there, or not, by name; not labels that deny ("no_finding")."""
    out = []
    for name in sorted({name for e in entries for name, value in labels_of(e).items() if value is not None}):
        try:
            found = prompts_for(name)
        except ConfigError as error:
            log.warning("label %s is not asked for: %s", name, error)
            continue
        out.append(replace(found, name=name))  # as the labels spell it
    return out


def labels_of(entry: Entry) -> dict[str, int | None]:
    """1 present, 0 absent, None not known."""
    return entry.attributes.get("labels") or {}


def truth_of_labels(name: str, labels: Sequence[Mapping[str, int | None]]) -> Array:
    """[N] of 1, 0 and NaN."""
    return np.array([np.nan if row.get(name) is None else float(row[name] or 0) for row in labels])


def decide(
    prompts: FindingPrompts, logits: Mapping[str, float], checkpoint: Checkpoint, point: PointName = "youden"
) -> Decided:
    """Score, calibrated probability and decision of a finding from the presence logits of its wordings."""
    findings = checkpoint.findings or Findings()
    logit_W = wording_logits(prompts, logits, findings.negative_weight)
    score = float(logit_W.mean())
    own = findings.by_name.get(prompts.name)
    if own is not None and own.prompts is not None and own.prompts.wordings != prompts.wordings:
        own = None  # other wordings than those it was fitted with
    fitted = own or findings.general
    if fitted is not None:
        chosen, whose = fitted.points[point], "own" if own else "all findings"
        probability, each = fitted.probability(score), [fitted.probability(float(x)) for x in logit_W]
    else:
        phrases, whose = checkpoint.calibration, "phrases"
        chosen = OperatingPoint(
            threshold=phrases.presence_threshold, criterion="youden", reason="that of single phrases: no labels"
        )
        probability, each = phrases.probability(score), [phrases.probability(float(x)) for x in logit_W]
    return Decided(score, probability, probability >= chosen.threshold, tuple(each), whose, chosen)  # type: ignore[arg-type]


def wording_logits(prompts: FindingPrompts, logits: Mapping[str, float], negative_weight: float) -> Array:
    """[W], one for each positive wording; their mean is the score."""
    positive_W = np.array([logits[w] for w in prompts.positive], np.float64)
    if negative_weight and prompts.negative:
        return positive_W - negative_weight * np.mean([logits[w] for w in prompts.negative])
    return positive_W


def macro_auroc(
    prompts: Sequence[FindingPrompts],
    labels: Sequence[Mapping[str, int | None]],
    logits: Sequence[Mapping[str, float]],
    negative_weight: float = 0.0,
) -> float:
    """Mean AUROC over the findings for which it is defined; NaN without one."""
    each = [
        auroc(truth_of_labels(p.name, labels), np.array([wording_logits(p, r, negative_weight).mean() for r in logits]))
        for p in prompts
    ]
    known = [a for a in each if not np.isnan(a)]
    return float(np.mean(known)) if known else float("nan")


def fit_findings(
    prompts: Sequence[FindingPrompts],
    labels: Sequence[Mapping[str, int | None]],
    logits: Sequence[Mapping[str, float]],
) -> tuple[Findings | None, dict[str, float]]:
    """Calibration and operating points, chosen on these (validation) studies; never to be called with test labels.

    Args:
        prompts: of every labelled finding.
        labels: of each study.
        logits: the presence logit of the wordings `needed_to_fit`, of each study.

    Returns:
        What was fitted (None if nothing could be), and what it was chosen by.
    """
    truth = {p.name: truth_of_labels(p.name, labels) for p in prompts}
    enough = [p for p in prompts if _both(truth[p.name]) >= LEAST]

    def scores(p: FindingPrompts, weight: float) -> Array:
        return np.array([wording_logits(p, row, weight).mean() for row in logits])

    chosen_by: dict[str, float] = {"findings": len(enough)}
    weight = 0.0
    if enough:
        alone, with_negative = (macro_auroc(enough, labels, logits, weight) for weight in (0.0, 1.0))
        weight = 1.0 if with_negative > alone + GAIN else 0.0
        chosen_by |= {"finding_auroc": alone, "finding_auroc_with_negatives": with_negative}
    by_name = {p.name: _fit(truth[p.name], scores(p, weight), p) for p in enough}
    pooled = np.concatenate([truth[p.name] for p in prompts]) if prompts else np.zeros(0)
    if _both(pooled) < LEAST:
        return None, chosen_by
    general = _fit(pooled, np.concatenate([scores(p, weight) for p in prompts]), None)
    return Findings(by_name=by_name, general=general, negative_weight=weight), chosen_by


def needed_to_fit(prompts: Sequence[FindingPrompts], labels: Sequence[Mapping[str, int | None]]) -> list[str]:
    """The wordings that `fit_findings` asks for: none where there are too few labels to learn anything from."""
    truth = [truth_of_labels(p.name, labels) for p in prompts]
    if not truth or _both(np.concatenate(truth)) < LEAST:
        return []
    return phrases_of(prompts, negative=any(_both(t) >= LEAST for t in truth))


def _both(truth_N: Array) -> int:
    """Cases of the rarer kind."""
    return int(min((truth_N == 1).sum(), (truth_N == 0).sum()))


def _fit(truth_N: Array, score_N: Array, prompts: FindingPrompts | None) -> FindingCalibration:
    scale, bias = fit_platt(truth_N, score_N)
    plain = FindingCalibration(scale=scale, bias=bias, points={}, prompts=prompts)
    probability_N = np.array([plain.probability(float(s)) for s in score_N])
    points = {name: choose_operating_point(truth_N, probability_N, *by) for name, by in CRITERIA.items()}
    return FindingCalibration(scale=scale, bias=bias, points=points, prompts=prompts)


def refuse_test(entries: Iterable[Entry]) -> None:
    """Thresholds are chosen on validation studies.

    Raises:
        ConfigError: one of the studies is of the test split.
    """
    tested = [e.study_id for e in entries if e.attributes.get("split") == "test"]
    if tested:
        raise ConfigError(
            f"expected studies of a validation split to choose thresholds on, found {len(tested)} of the split 'test' "
            f"({tested[0]}, ..); name another data.val_split"
        )

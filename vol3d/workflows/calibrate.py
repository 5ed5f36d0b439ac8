"""Thresholds and calibration, fitted on validation studies and stored in the checkpoint. Never on test labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vol3d.cache import Entry
from vol3d.checkpoint import Calibration, Findings
from vol3d.metrics.findings import fit_platt
from vol3d.metrics.operating import choose_operating_point
from vol3d.metrics.segmentation import dice
from vol3d.types import Array
from vol3d.workflows.finding_scores import fit_findings, labelled, labels_of, needed_to_fit, refuse_test
from vol3d.workflows.known import Known
from vol3d.workflows.looks import ask_measured, plain_phrase
from vol3d.workflows.scoring import Answer, Ask, study_answers, truth_of

MASK_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
ABSENT_PER_STUDY = 24

LEAST_FINDINGS = 10
"""With fewer findings among the phrases the organs decide about the presence threshold too."""

LEAST_SPECIFICITY = 0.96
"""Share of absent phrases that are to be answered empty, unless half of the findings would be lost by it."""


@dataclass(frozen=True)
class Calibrated:
    """What validation studies taught."""

    calibration: Calibration = field(default_factory=Calibration)
    """Of single phrases."""
    findings: Findings | None = None
    """Of findings, where the studies have labels."""
    chosen_by: dict[str, float] = field(default_factory=lambda: {"probes": 0.0})
    """Numbers of probes and of findings, mean Dice at each mask threshold, AUROC of the findings."""


def calibrate(ask: Ask, entries: Sequence[Entry]) -> Calibrated:
    """Platt scaling and thresholds of phrases and findings, and the mask threshold of the highest mean Dice.

    Every study is asked once. Without studies, or with phrases of one kind only, the defaults stand.

    Raises:
        ConfigError: a study is of the test split.
    """
    refuse_test(entries)
    prompts = labelled(entries)
    wordings = needed_to_fit(prompts, [labels_of(entry) for entry in entries])
    phrases = _Phrases()
    labels: list[dict[str, int | None]] = []
    logits: list[dict[str, float]] = []
    for study in study_answers(ask, entries, lambda entry: wordings, absent_limit=ABSENT_PER_STUDY):
        for answer in study.answers:
            phrases.add(answer)
        labels.append(labels_of(study.entry))
        logits.append({phrase: said.logit for phrase, said in study.said.items()})
    calibration, chosen_by = phrases.fit()
    findings, more = fit_findings(prompts, labels, logits)
    return Calibrated(calibration, findings, chosen_by | more)


def calibrate_as_asked(ask: Ask, entries: Sequence[Entry], known: Known) -> Calibrated:
    """`calibrate` on the answers that are given in use: where phrases say how a lesion looks, with what was measured.

    The model alone is calibrated first, for measurement needs masks and thus thresholds. Measurement takes most wrong
    answers out, so that fewer right ones have to go.

    Args:
        ask: the model alone.
        entries: validation studies.
        known: what the model was trained on.
    """
    alone = calibrate(ask, entries)
    if not known.hears or not any(plain_phrase(thing.phrase, known) for thing in known.things):
        return alone
    return calibrate(lambda entry, phrases: ask_measured(ask, entry, phrases, known, alone.calibration), entries)


class _Phrases:
    """Collects what the thresholds of single phrases are fitted on."""

    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.logits: list[float] = []
        self.dice_at: dict[float, list[float]] = {t: [] for t in MASK_THRESHOLDS}

    def add(self, answer: Answer) -> None:
        self.kinds.append(answer.probe.kind)
        self.logits.append(answer.logit)
        if answer.probe.mask is not None:
            truth = truth_of(answer.probe, answer.entry)
            if not truth.any():  # Dice is not defined where there is nothing to find
                return
            for threshold, scores in self.dice_at.items():
                scores.append(dice(answer.probability_ZYX >= np.ceil(threshold * 255), truth))

    def fit(self) -> tuple[Calibration, dict[str, float]]:
        if not self.logits:
            return Calibration(), {"probes": 0}
        kinds, logit = np.array(self.kinds), np.array(self.logits)
        truth = kinds != "absent"
        scale, bias = fit_platt(truth, logit)
        fitted = Calibration(scale=scale, bias=bias)
        probabilities = np.array([fitted.probability(x) for x in self.logits])
        means = {t: float(np.mean(scores)) for t, scores in self.dice_at.items() if scores}
        calibration = Calibration(
            scale=scale,
            bias=bias,
            presence_threshold=presence_threshold(kinds, probabilities),
            mask_threshold=max(means, key=lambda t: (round(means[t], 4), -abs(t - 0.5))) if means else 0.5,
        )
        chosen_by = {"probes": len(self.logits), "present": int(truth.sum())}
        return calibration, {**chosen_by, **{f"dice_at_{t}": value for t, value in means.items()}}


def presence_threshold(kind_N: Array, probability_N: Array) -> float:
    """From which probability on a phrase is called present: Youden's point of findings against absences.

    Organs are nearly always there and sure; counted with the findings they would let a third of these go for a few
    absences. Where Youden's point answers too many absences, the threshold is raised to `LEAST_SPECIFICITY`.

    Args:
        kind_N: ``lesion``, ``organ`` or ``absent``.
        probability_N: calibrated.
    """
    absent_N, finding_N = kind_N == "absent", kind_N == "lesion"
    hard_N = finding_N if finding_N.sum() >= LEAST_FINDINGS else ~absent_N
    counted_N = absent_N | hard_N
    truth, score = hard_N[counted_N], probability_N[counted_N]
    chosen = choose_operating_point(truth, score)
    surer = choose_operating_point(truth, score, "specificity", LEAST_SPECIFICITY)
    enough = (chosen.specificity or 0.0) >= LEAST_SPECIFICITY
    costly = (surer.sensitivity or 0.0) < (chosen.sensitivity or 0.0) / 2
    return chosen.threshold if enough or costly else surer.threshold

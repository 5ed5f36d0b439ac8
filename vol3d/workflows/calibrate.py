"""Thresholds and calibration, fitted on validation studies and stored in the checkpoint. Never on test labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vol3d.cache import Entry
from vol3d.checkpoint import Calibration
from vol3d.metrics.findings import choose_threshold, fit_platt
from vol3d.metrics.segmentation import dice
from vol3d.workflows.scoring import Ask, answers, truth_of

MASK_THRESHOLDS = (0.3, 0.4, 0.5, 0.6, 0.7)
ABSENT_PER_STUDY = 24


def calibrate(ask: Ask, entries: Sequence[Entry]) -> tuple[Calibration, dict[str, float]]:
    """Platt scaling and threshold of presence (Youden), and the mask threshold of the highest mean Dice.

    Returns:
        The calibration, and what it was chosen by: mean Dice at each mask threshold, numbers of probes. Without
        entries, or with phrases of one kind only, the defaults stand.
    """
    truths: list[bool] = []
    logits: list[float] = []
    dice_at: dict[float, list[float]] = {t: [] for t in MASK_THRESHOLDS}
    for answer in answers(ask, entries, absent_limit=ABSENT_PER_STUDY):
        truths.append(answer.probe.mask is not None)
        logits.append(answer.logit)
        if answer.probe.mask is not None:
            truth = truth_of(answer.probe, answer.entry)
            for threshold, scores in dice_at.items():
                scores.append(dice(answer.probability_ZYX >= np.ceil(threshold * 255), truth))
    if not logits:
        return Calibration(), {"probes": 0}
    scale, bias = fit_platt(np.array(truths), np.array(logits))
    fitted = Calibration(scale=scale, bias=bias)
    probabilities = np.array([fitted.probability(x) for x in logits])
    means = {t: float(np.mean(scores)) for t, scores in dice_at.items() if scores}
    calibration = Calibration(
        scale=scale,
        bias=bias,
        presence_threshold=choose_threshold(np.array(truths), probabilities),
        mask_threshold=max(means, key=lambda t: (round(means[t], 4), -abs(t - 0.5))) if means else 0.5,
    )
    chosen_by = {"probes": len(logits), "present": int(sum(truths))}
    return calibration, {**chosen_by, **{f"dice_at_{t}": value for t, value in means.items()}}

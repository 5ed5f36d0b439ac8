"""Plots of an evaluation: ROC and calibration of the presence probability."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from vol3d.metrics.findings import auroc, reliability
from vol3d.workflows.scoring import Case


def plot_presence(cases: Sequence[Case], path: Path) -> None:
    """Two panels: ROC curve, and observed share against predicted probability."""
    asked = [c for c in cases if c.wording != "unseen"]
    truth = np.array([c.kind != "absent" for c in asked])
    probability = np.array([c.probability for c in asked])
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2))
    if truth.any() and not truth.all():
        order = np.argsort(-probability, kind="stable")
        hits, falls = np.cumsum(truth[order]), np.cumsum(~truth[order])
        left.plot(np.r_[0, falls / falls[-1]], np.r_[0, hits / hits[-1]])
        left.set_title(f"presence: AUROC {auroc(truth, probability):.3f}")
        curve = reliability(truth, probability)
        right.plot(curve.predicted, curve.observed, "o-")
    left.plot([0, 1], [0, 1], ":", color="grey")
    left.set(xlabel="share of absent phrases called present", ylabel="share of present phrases called present")
    right.plot([0, 1], [0, 1], ":", color="grey")
    right.set(xlabel="predicted probability", ylabel="observed share", title=f"calibration ({len(asked)} phrases)")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)

"""Plots of an evaluation: curves of the presence of phrases and of findings, with their operating points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from vol3d.metrics.findings import auroc, average_precision, reliability
from vol3d.metrics.operating import counts_at, one_class, precision_recall_curve, roc_curve
from vol3d.workflows.evaluate_findings import FindingCase
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


def plot_findings(cases: Sequence[FindingCase], folder: Path) -> None:
    """``findings_roc.png`` and ``findings_pr.png``: a panel a finding, the stored operating point marked."""
    names = list(dict.fromkeys(c.finding for c in cases))
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    for kind in ("roc", "pr"):
        figure, axes = plt.subplots(rows, columns, figsize=(2.9 * columns, 2.9 * rows), squeeze=False)
        for ax, name in zip(axes.flat, names, strict=False):
            _curve_panel(ax, kind, name, [c for c in cases if c.finding == name and not np.isnan(c.truth)])
        for ax in axes.flat[len(names) :]:
            ax.set_visible(False)
        figure.tight_layout()
        figure.savefig(folder / f"findings_{kind}.png", dpi=100)
        plt.close(figure)


def _curve_panel(ax: Axes, kind: str, name: str, cases: Sequence[FindingCase]) -> None:
    truth = np.array([c.truth for c in cases], float)
    probability = np.array([c.probability for c in cases], float)
    positive = int(truth.sum())
    ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    ax.set_title(f"{name.replace('_', ' ')} ({positive} of {len(truth)})", fontsize=8)
    x, y = ("1 - specificity", "sensitivity") if kind == "roc" else ("recall", "precision")
    ax.set_xlabel(x, fontsize=7)
    ax.set_ylabel(y, fontsize=7)
    ax.tick_params(labelsize=6)
    if not 0 < positive < len(truth):
        ax.text(0.5, 0.5, one_class(positive, len(truth) - positive), ha="center", va="center", fontsize=7)
        return
    curve = roc_curve(truth, probability) if kind == "roc" else precision_recall_curve(truth, probability)
    ax.step(curve.x, curve.y, where="post") if kind == "roc" else ax.plot(curve.x, curve.y)
    at = counts_at(truth, probability, cases[0].threshold)
    point = (1 - at.specificity, at.sensitivity) if kind == "roc" else (at.sensitivity, at.precision)
    if not np.isnan(point).any():
        ax.plot(*point, "o", color="crimson", label=f"at {cases[0].threshold:.2f} ({cases[0].threshold_of})")
        ax.legend(fontsize=6, loc="lower right" if kind == "roc" else "lower left")
    figure_of = f"AUROC {auroc(truth, probability):.3f}" if kind == "roc" else (
        f"AP {average_precision(truth, probability):.3f}"
    )  # fmt: skip
    ax.text(0.5, 0.35, figure_of, ha="center", fontsize=7)

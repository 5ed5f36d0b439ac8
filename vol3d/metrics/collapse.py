"""Has a report generator collapsed to a template? How much its reports vary, and how much of them the image decided.

A text that says the same of every patient can score well where most patients are alike. So every score is set beside
the score of the same reports handed to other patients: the difference is what the image contributed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vol3d.errors import Vol3dError
from vol3d.metrics.bootstrap import Interval, bootstrap_interval
from vol3d.metrics.report_claims import Claim
from vol3d.metrics.report_findings import Level, StudyScore, micro_f1, score_claims
from vol3d.metrics.report_match import Truth
from vol3d.metrics.text import Diversity, diversity
from vol3d.text.reports import sentences
from vol3d.text.slots import SLOT, take_numbers
from vol3d.types import Array


@dataclass(frozen=True)
class Variety:
    """How much a set of reports varies, numbers taken out: a template filled with measurements is a template."""

    words: Diversity
    """Of the texts as they are."""
    reports: int
    unique_reports: int
    identical_share: float
    """Studies whose report another study has, too."""
    most_common_share: float
    """Studies with the most frequent report."""
    sentences: int
    unique_sentences: int
    sentence_entropy_bits: float
    """Of the distribution of sentences; 0 if there is only one, log2(sentences) if all differ."""
    report_entropy_bits: float


def variety(texts: Sequence[str]) -> Variety:
    """Variety of reports.

    Raises:
        TextMetricError: no texts.
    """
    words = diversity(texts)
    per_report = [[_plain(s) for s in sentences(text)] for text in texts]
    reports = Counter(" | ".join(own) for own in per_report)
    single = Counter(sentence for own in per_report for sentence in own)
    return Variety(
        words, len(texts), len(reports), sum(n for n in reports.values() if n > 1) / len(texts),
        max(reports.values()) / len(texts), sum(single.values()), len(single), _entropy(single), _entropy(reports),
    )  # fmt: skip


def _plain(sentence: str) -> str:
    template = sentence if SLOT.search(sentence) else take_numbers(sentence).template
    return " ".join(SLOT.sub("#", template).lower().split())


def _entropy(counts: Counter[str]) -> float:
    share = np.array(list(counts.values()), float) / max(1, sum(counts.values()))
    return float(-(share * np.log2(share)).sum()) + 0.0


@dataclass(frozen=True)
class Contribution:
    """What reports owe to their images, at one level."""

    own: Interval
    """Micro-F1 of each report against its own study."""
    shuffled: Interval
    """Against studies of other patients: what the reports are worth without looking."""
    contributed: Interval
    """Own minus shuffled."""


def contribution(
    claims: Sequence[Sequence[Claim]],
    truths: Sequence[Sequence[Truth]],
    patients: Sequence[str],
    level: Level = "place",
    *,
    shuffles: int = 10,
    samples: int = 1000,
) -> Contribution:
    """Scores every report against its own truth and against those of up to `shuffles` other patients.

    Raises:
        Vol3dError: not one set of claims, truths and patient a study, or all of one patient.
    """
    if not len(claims) == len(truths) == len(patients) or len(set(patients)) < 2:
        raise Vol3dError(
            f"expected claims, a truth and a patient for each study, of at least two patients, found {len(claims)}, "
            f"{len(truths)} and {len(patients)} of {len(set(patients))} patients"
        )
    order = np.random.default_rng(0).permutation(len(claims))
    rows = []
    for place, i in enumerate(order):
        others = [j for j in np.roll(order, -place) if patients[j] != patients[i]][:shuffles]
        own = score_claims(claims[i], truths[i]).total(level)
        away = np.mean([score_claims(claims[i], truths[j]).total(level) for j in others], axis=0)
        rows.append([*own, *away])
    table, who = np.array(rows, float), [patients[i] for i in order]

    def difference(values: Array) -> float:
        return micro_f1(values[:, :3]) - micro_f1(values[:, 3:])

    return Contribution(
        bootstrap_interval(table[:, :3], who, micro_f1, samples=samples),
        bootstrap_interval(table[:, 3:], who, micro_f1, samples=samples),
        bootstrap_interval(table, who, difference, samples=samples),
    )


@dataclass(frozen=True)
class Information:
    """Mutual information of what reports state and what is true, over places."""

    share: float
    """Of the truth's entropy: 1 if every place is right, 0 if reports tell nothing, NaN if all studies are alike."""
    shuffled: float
    """The same with reports and truths shuffled: the bias of small numbers."""


def information(scores: Sequence[StudyScore], *, shuffles: int = 50) -> Information:
    """Over places that are known in at least two studies; bits summed over places before dividing."""
    by_place: dict[str, list[tuple[bool, bool]]] = {}
    for score in scores:
        for place, (tp, fp, fn) in score.counts.get("place", {}).items():
            by_place.setdefault(place, []).append((tp + fn > 0, tp + fp > 0))
    tables = [np.array(rows) for rows in by_place.values() if len(rows) > 1]
    whole = sum(_bits(t[:, 0], t[:, 0]) for t in tables)
    if not whole:
        return Information(float("nan"), float("nan"))
    generator = np.random.default_rng(0)
    drawn = [sum(_bits(t[:, 0], generator.permutation(t[:, 1])) for t in tables) for _ in range(shuffles)]
    return Information(sum(_bits(t[:, 0], t[:, 1]) for t in tables) / whole, float(np.mean(drawn)) / whole)


def _bits(a_N: Array, b_N: Array) -> float:
    """Mutual information of two binary columns."""
    joint = np.histogram2d(a_N, b_N, bins=2, range=[[-0.5, 1.5]] * 2)[0] / len(a_N)
    product = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    held = joint > 0
    return float((joint[held] * np.log2(joint[held] / product[held])).sum())

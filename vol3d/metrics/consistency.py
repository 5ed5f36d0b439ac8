"""Do equivalent inputs get the same report? Noise, a shift or another orientation change no finding.

Reports are compared by the findings they state, not by their words. A model that writes one text for everybody agrees
with itself perfectly, so agreement is always given beside that between reports of different studies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vol3d.errors import Vol3dError
from vol3d.metrics.bootstrap import Interval, bootstrap_interval
from vol3d.text import label_findings

Findings = Mapping[str, int]
"""Finding to 1 or 0; what is not named is 0."""

MOST_PAIRS = 2000


@dataclass(frozen=True)
class Consistency:
    """Agreement of reports before and after one kind of change."""

    identical: Interval
    """Share of studies whose findings are all the same."""
    overlap: Interval
    """Mean Jaccard overlap of the findings stated; 1 if neither report states any."""
    between_studies: float
    """The same overlap between unchanged reports of different patients: what agreement is worth nothing."""
    beyond_chance: float
    """(overlap - between) / (1 - between); NaN if all studies have one and the same set of findings."""
    appeared: dict[str, int]
    """Studies in which the change made a finding appear, most frequent first."""
    vanished: dict[str, int]


def report_consistency(
    reports: Sequence[str],
    changed: Mapping[str, Sequence[str]],
    patients: Sequence[str],
    *,
    samples: int = 1000,
) -> dict[str, Consistency]:
    """Reports of the inputs as they are against reports of the changed inputs, by kind of change.

    Args:
        reports: one a study.
        changed: by kind ("noise", "shift", "orientation"), the reports of the same studies in the same order.
        patients: of the studies.
        samples: bootstrap draws.
    """
    base = [label_findings(text) for text in reports]
    return {
        kind: consistency(base, [label_findings(text) for text in texts], patients, samples=samples)
        for kind, texts in changed.items()
    }


def consistency(
    base: Sequence[Findings], changed: Sequence[Findings], patients: Sequence[str], *, samples: int = 1000
) -> Consistency:
    """Agreement of the findings of the same studies, before and after.

    Raises:
        Vol3dError: no study, or different numbers of them.
    """
    if not base or not len(base) == len(changed) == len(patients):
        raise Vol3dError(
            f"expected as many reports before as after a change and a patient for each, at least one; found "
            f"{len(base)}, {len(changed)} and {len(patients)}"
        )
    before, after = [_stated(f) for f in base], [_stated(f) for f in changed]
    same = np.array([float(a == b) for a, b in zip(before, after, strict=True)])
    overlaps = np.array([_jaccard(a, b) for a, b in zip(before, after, strict=True)])
    within, between = float(overlaps.mean()), _between(before, patients)
    gains = Counter(name for a, b in zip(before, after, strict=True) for name in sorted(b - a))
    losses = Counter(name for a, b in zip(before, after, strict=True) for name in sorted(a - b))
    return Consistency(
        bootstrap_interval(same, patients, samples=samples),
        bootstrap_interval(overlaps, patients, samples=samples),
        between,
        (within - between) / (1 - between) if between < 1 else float("nan"),
        dict(gains.most_common()),
        dict(losses.most_common()),
    )


def _stated(findings: Findings) -> frozenset[str]:
    return frozenset(name for name, value in findings.items() if value)


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b) if a | b else 1.0


def _between(sets: Sequence[frozenset[str]], patients: Sequence[str]) -> float:
    """Mean overlap over pairs of different patients; an even sample of the pairs where there are many."""
    pairs = [(i, j) for i in range(len(sets)) for j in range(i) if patients[i] != patients[j]]
    chosen = pairs[:: max(1, len(pairs) // MOST_PAIRS)]
    return float(np.mean([_jaccard(sets[i], sets[j]) for i, j in chosen])) if chosen else float("nan")

"""Any figure by sex, age band, scanner or centre, with counts and intervals, and how far the groups lie apart.

Among many small groups some always differ. So a group of few patients is flagged and takes no part in the gap, and the
gap comes with the chance that groups drawn at random would differ as much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vol3d.errors import Vol3dError
from vol3d.metrics.bootstrap import Interval, Statistic, bootstrap_interval
from vol3d.types import Array

ATTRIBUTES = ("sex", "age_band", "scanner", "centre")
"""Keys of a manifest row's `meta`."""
FEW = 20
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Subgroup:
    """A figure in one group."""

    attribute: str
    group: str
    figure: Interval
    few: bool
    """Under `few` patients: not to be relied on, and left out of the gap."""


@dataclass(frozen=True)
class Gap:
    """Best group minus worst group, both large enough; NaN with fewer than two of them."""

    attribute: str
    value: float
    best: str
    worst: str
    p_value: float
    """Share of random assignments of patients to groups of these sizes with at least this gap; NaN where a patient is
    in several groups."""


def by_subgroup(
    values_N: Array,
    patients_N: Sequence[str],
    groups: Mapping[str, Sequence[str | None]],
    statistic: Statistic | None = None,
    *,
    few: int = FEW,
    samples: int = 1000,
    permutations: int = 500,
    seed: int = 0,
) -> tuple[list[Subgroup], list[Gap]]:
    """A row for each group of each attribute, sorted by name, and a gap for each attribute.

    Args:
        values_N: one value a case, or one row ([N, K]) for `statistic`; rows with a NaN are left out.
        patients_N: the patient of each case.
        groups: by attribute, the group of each case; None is unknown, a row of its own that takes no part in the gap.
        statistic: of the rows, larger is better; None is the mean of [N].
        few: fewer patients than this are flagged.
        samples: bootstrap draws.
        permutations: random assignments for the p-value.
        seed: of both.

    Raises:
        Vol3dError: an attribute does not name a group for every case.
    """
    values = np.asarray(values_N, np.float64)
    known = ~np.isnan(values.reshape(len(values), -1)).any(axis=1) if len(values) else np.zeros(0, bool)
    figure = statistic or (lambda rows: float(np.mean(rows)))
    table: list[Subgroup] = []
    gaps: list[Gap] = []
    for attribute, given in groups.items():
        if not len(values) == len(patients_N) == len(given):
            raise Vol3dError(
                f"{attribute}: expected a patient and a group for each of {len(values)} cases, found {len(patients_N)} "
                f"and {len(given)}"
            )
        group = np.array([UNKNOWN if g is None or not str(g).strip() else str(g) for g in given], dtype=object)
        rows = [
            Subgroup(attribute, name, interval, interval.patients < few)
            for name in sorted(set(group))
            for interval in [_figure(values, patients_N, group == name, statistic, samples, seed)]
        ]
        table += rows
        large = [r.group for r in rows if not r.few and r.group != UNKNOWN and not np.isnan(r.figure.value)]
        keep = known & np.isin(group, large)
        gaps.append(
            _gap(attribute, values[keep], np.asarray(patients_N)[keep], group[keep], figure, permutations, seed)
        )
    return table, gaps


def _figure(
    values: Array, patients: Sequence[str], own: Array, statistic: Statistic | None, samples: int, seed: int
) -> Interval:
    return bootstrap_interval(values[own], np.asarray(patients)[own].tolist(), statistic, samples=samples, seed=seed)


def _gap(
    attribute: str, values: Array, patients: Array, group: Array, figure: Statistic, permutations: int, seed: int
) -> Gap:
    names, where = np.unique(group.astype(str), return_inverse=True)
    nan = float("nan")
    if len(names) < 2:
        return Gap(attribute, nan, "", "", nan)
    each = np.array([figure(values[where == i]) for i in range(len(names))])
    gap = float(each.max() - each.min())
    people, first, of_case = np.unique(patients, return_index=True, return_inverse=True)
    own = where[first]
    p_value = nan
    if (own[of_case] == where).all():  # else a patient's cases lie in several groups and cannot be moved together
        generator = np.random.default_rng(seed)
        hits = 0
        for _ in range(permutations):
            drawn = own[generator.permutation(len(people))][of_case]
            others = np.array([figure(values[drawn == i]) for i in range(len(names))])
            others = others[~np.isnan(others)]
            hits += bool(len(others) and others.max() - others.min() >= gap - 1e-12)
        p_value = (hits + 1) / (permutations + 1)
    return Gap(attribute, gap, str(names[each.argmax()]), str(names[each.argmin()]), p_value)

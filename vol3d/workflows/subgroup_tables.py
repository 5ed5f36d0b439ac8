"""Figures by sex, age band, scanner and centre, as JSON holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vol3d.metrics.bootstrap import Statistic
from vol3d.metrics.subgroups import ATTRIBUTES, by_subgroup
from vol3d.types import Array
from vol3d.workflows.tables import record

Groups = Mapping[str, Sequence[str | None]]
"""By attribute, the group of each case."""


def groups_of_meta(meta: Sequence[Mapping[str, Any]]) -> dict[str, list[str | None]]:
    """From the `meta` of each case; attributes that no case states are left out."""
    stated = {a: [_group(m.get(a)) for m in meta] for a in ATTRIBUTES}
    return {a: own for a, own in stated.items() if any(own)}


def subgroup_table(
    values_N: Array, patients: Sequence[str], groups: Groups, statistic: Statistic | None = None, *, samples: int
) -> dict[str, Any]:
    """``groups`` and ``gaps`` of `vol3d.metrics.subgroups.by_subgroup`."""
    table, gaps = by_subgroup(values_N, patients, groups, statistic, samples=samples, permutations=samples // 2)
    return {
        "groups": [{"attribute": s.attribute, "group": s.group, "few": s.few, **record(s.figure)} for s in table],
        "gaps": [record(g) for g in gaps],
    }


def _group(value: Any) -> str | None:
    return str(value) if value is not None and str(value).strip() else None

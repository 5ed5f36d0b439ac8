"""The other way: masks without a report -> what a report would say of them, as triplets and as a phrase.

A triplet is (finding, relation, value): where it is (organ, side), how large, how hot, and where it lies relative to
its nearest neighbour. Numbers come from `vol3d.measure`; the phrase holds none, so that it can train. Left is the
patient's left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vol3d.geometry import Grid
from vol3d.measure import diameters, suv_statistics, volume_ml
from vol3d.text.organs import Side, side_of
from vol3d.text.reports import organs_in
from vol3d.types import Array
from vol3d.volume import Volume

SIZES_MM = ((10.0, "small"), (30.0, "medium-sized"), (float("inf"), "large"))
"""Word for a longest axial diameter under each length."""
UPTAKES_SUV = ((2.5, "non-avid"), (5.0, "mildly hypermetabolic"), (10.0, "hypermetabolic"),
               (float("inf"), "intensely hypermetabolic"))  # fmt: skip
"""Word for an SUVmax under each value, where nothing is said of the tracer but that it is FDG-like."""
NEIGHBOUR_MM = 150.0
_DIRECTIONS = (("to the left of", "to the right of"), ("posterior to", "anterior to"), ("below", "above"))
"""Of a negative and a positive difference along world x (to the right), y (to the front), z (up)."""

Triplet = tuple[str, str, str]


@dataclass(frozen=True, eq=False)
class NamedMask:
    """A mask with what is known of it in words."""

    name: str
    mask_ZYX: Array
    words: str = ""
    """Its label and phrases: may name an organ and a side."""


@dataclass(frozen=True)
class Description:
    """What can be said of one finding."""

    name: str
    phrase: str
    triplets: tuple[Triplet, ...]
    organ: str | None
    side: Side | None
    measurements: dict[str, float] = field(default_factory=dict)


def describe(
    findings: Sequence[NamedMask], organs: Sequence[NamedMask], grid: Grid, pet: Volume | None = None
) -> list[Description]:
    """Every finding as triplets and a phrase; those with an empty mask are left out.

    Args:
        findings: masks of lesions on `grid`.
        organs: masks of organs on `grid`; may be none.
        grid: where sizes are measured.
        pet: SUVbw on the same grid; without it nothing is said of uptake.
    """
    centres = {m.name: _centre_mm(m.mask_ZYX, grid) for m in (*findings, *organs) if m.mask_ZYX.any()}
    return [_described(m, findings, organs, centres, grid, pet) for m in findings if m.name in centres]


def _described(
    finding: NamedMask,
    findings: Sequence[NamedMask],
    organs: Sequence[NamedMask],
    centres: dict[str, Array],
    grid: Grid,
    pet: Volume | None,
) -> Description:
    home = _home(finding, organs)
    words = home.words if home else finding.words
    named = organs_in(words)
    organ, side = (named[0][2] if named else None), side_of(words)
    size = diameters(finding.mask_ZYX, grid)
    assert size is not None, "empty masks are left out"
    measured = {"diameter_mm": round(size.axial_long_mm, 1), "volume_ml": round(volume_ml(finding.mask_ZYX, grid), 3)}
    triplets: list[Triplet] = []
    place = " ".join(filter(None, (side, (organ or "").replace("_", " ")))).strip()
    if organ:
        triplets.append((finding.name, "is in", place))
    if side:
        triplets.append((finding.name, "is on the", side))
    triplets.append((finding.name, "measures", f"{measured['diameter_mm']:.1f} mm"))
    traits = [_word(size.axial_long_mm, SIZES_MM)]
    if pet is not None:
        measured["suv_max"] = round(suv_statistics(finding.mask_ZYX, pet).suv_max or 0.0, 2)
        traits.append(_word(measured["suv_max"], UPTAKES_SUV))
        triplets.append((finding.name, "has SUVmax", f"{measured['suv_max']:.1f}"))
    neighbour = _neighbour(finding, [m for m in (*organs, *findings) if m is not home], centres)
    relation = ""
    if neighbour:
        direction = _direction(centres[finding.name] - centres[neighbour.name])
        triplets.append((finding.name, f"lies {direction}", neighbour.name.replace("_", " ")))
        if neighbour in organs:
            relation = f", {direction} the {neighbour.words or neighbour.name}".replace("_", " ")
    where = f" in the {place}" if organ else f" on the {side}" if side else ""
    return Description(
        finding.name, f"{' '.join(traits)} lesion{where}{relation}", tuple(triplets), organ, side, measured
    )


def _home(finding: NamedMask, organs: Sequence[NamedMask]) -> NamedMask | None:
    """The organ that holds most of a finding: at least half; of equals the smaller, a lobe before the lung."""
    inside = finding.mask_ZYX != 0
    total = int(inside.sum())
    held = [(int(np.count_nonzero(o.mask_ZYX[inside])), -int(np.count_nonzero(o.mask_ZYX)), o) for o in organs]
    best = max(held, key=lambda h: h[:2], default=None)
    return best[2] if best and 2 * best[0] >= total else None


def _neighbour(finding: NamedMask, others: Sequence[NamedMask], centres: dict[str, Array]) -> NamedMask | None:
    near = [
        (float(np.linalg.norm(centres[o.name] - centres[finding.name])), i, o)
        for i, o in enumerate(others)
        if o is not finding and o.name in centres and not (o.mask_ZYX != 0)[finding.mask_ZYX != 0].any()
    ]
    best = min(near, key=lambda n: n[:2], default=None)
    return best[2] if best and 0 < best[0] <= NEIGHBOUR_MM else None


def _direction(difference_mm: Array) -> str:
    axis = int(np.abs(difference_mm).argmax())
    return _DIRECTIONS[axis][int(difference_mm[axis] > 0)]


def _centre_mm(mask_ZYX: Array, grid: Grid) -> Array:
    return np.asarray(grid.index_to_mm(np.argwhere(mask_ZYX).mean(axis=0)))


def _word(value: float, table: Sequence[tuple[float, str]]) -> str:
    return next(word for limit, word in table if value < limit)

"""The other way: masks without a report -> what a report would say of them, as triplets and as a phrase.

A triplet is (finding, relation, value): where it is (organ, side), how large, how hot, and where it lies relative to
its nearest neighbour. A mask of several components, such as one of all lesions, is told in the plural, without size or
neighbour. Numbers come from `vol3d.measure`; the phrase holds none, so that it can train. Left is the
patient's left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vol3d.geometry import Grid
from vol3d.measure import Component, components, diameters, suv_statistics, volume_ml
from vol3d.text.label_names import label_phrases
from vol3d.text.organs import Side, side_of
from vol3d.text.reports import organs_in
from vol3d.types import Array
from vol3d.volume import Volume

SIZES_MM = ((10.0, "small"), (30.0, "medium-sized"), (float("inf"), "large"))
"""Word for a longest axial diameter under each length."""
UPTAKES_SUV = ((2.5, "non-avid"), (5.0, "mildly {avid}"), (10.0, "{avid}"), (float("inf"), "intensely {avid}"))
"""Word for an SUVmax under each value."""
AVID = {"FDG": "hypermetabolic", "PSMA": "PSMA-avid", "DOTA": "DOTA-avid", "fluciclovine": "fluciclovine-avid",
        "FAPI": "FAPI-avid", "choline": "choline-avid", "fluoride": "fluoride-avid"}  # fmt: skip
"""What takes up each tracer; only FDG shows metabolism. Where the tracer is not known it is "tracer-avid"."""
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
    findings: Sequence[NamedMask],
    organs: Sequence[NamedMask],
    grid: Grid,
    pet: Volume | None = None,
    tracer: str | None = None,
) -> list[Description]:
    """Every finding as triplets and a phrase; those with an empty mask are left out.

    Args:
        findings: masks of lesions on `grid`.
        organs: masks of organs on `grid`; may be none.
        grid: where sizes are measured.
        pet: SUVbw on the same grid; without it nothing is said of uptake.
        tracer: of the PET, one of `AVID`; None where it is not known.
    """
    shown = [m for m in findings if m.mask_ZYX.any()]
    centres = {m.name: _centre_mm(m.mask_ZYX, grid) for m in (*shown, *organs) if m.mask_ZYX.any()}
    avid = AVID.get(tracer or "", "tracer-avid")
    out = []
    for mask in shown:
        parts = components(mask.mask_ZYX, grid)
        if len(parts) == 1:
            out.append(_described(mask, shown, organs, centres, grid, pet, avid))
        elif len(shown) == 1:  # beside others a plural would mean these as well
            out.append(_several(mask, parts, organs, grid, pet, avid))
    return out


def _several(
    finding: NamedMask,
    parts: Sequence[Component],
    organs: Sequence[NamedMask],
    grid: Grid,
    pet: Volume | None,
    avid: str,
) -> Description:
    """What holds for every lesion of a mask: no size, which each has its own of, and the organ only if it is one."""
    boxes = [tuple(slice(a, b) for a, b in zip(part.start, part.stop, strict=True)) for part in parts]
    homes = [_home(part.mask_ZYX, box, organs) for part, box in zip(parts, boxes, strict=True)]
    words = homes[0].words if homes[0] and all(home is homes[0] for home in homes) else finding.words
    organ, side, where, triplets = _place(finding, words)
    triplets.insert(0, (finding.name, "counts", f"{len(parts)} lesions"))
    measured = {"volume_ml": round(volume_ml(finding.mask_ZYX, grid), 3)}
    trait = ""
    if pet is not None:
        measured["suv_max"] = round(suv_statistics(finding.mask_ZYX, pet).suv_max or 0.0, 2)
        triplets.append((finding.name, "has SUVmax", f"{measured['suv_max']:.1f}"))
        levels = {
            _word(float(pet.array_ZYX[box][part.mask_ZYX].max()), UPTAKES_SUV)
            for part, box in zip(parts, boxes, strict=True)
        }
        trait = levels.pop() if len(levels) == 1 else "" if "non-avid" in levels else "{avid}"
    named = " ".join(filter(None, (trait.format(avid=avid), "lesions")))
    return Description(finding.name, f"{named}{where}", tuple(triplets), organ, side, measured)


def _described(
    finding: NamedMask,
    findings: Sequence[NamedMask],
    organs: Sequence[NamedMask],
    centres: dict[str, Array],
    grid: Grid,
    pet: Volume | None,
    avid: str,
) -> Description:
    home = _home(finding.mask_ZYX != 0, (slice(None),) * 3, organs)
    organ, side, where, triplets = _place(finding, home.words if home else finding.words)
    size = diameters(finding.mask_ZYX, grid)
    assert size is not None, "empty masks are left out"
    measured = {"diameter_mm": round(size.axial_long_mm, 1), "volume_ml": round(volume_ml(finding.mask_ZYX, grid), 3)}
    triplets.append((finding.name, "measures", f"{measured['diameter_mm']:.1f} mm"))
    traits = [_word(size.axial_long_mm, SIZES_MM)]
    if pet is not None:
        measured["suv_max"] = round(suv_statistics(finding.mask_ZYX, pet).suv_max or 0.0, 2)
        traits.append(_word(measured["suv_max"], UPTAKES_SUV).format(avid=avid))
        triplets.append((finding.name, "has SUVmax", f"{measured['suv_max']:.1f}"))
    neighbour = _neighbour(finding, [m for m in (*organs, *findings) if m is not home], centres)
    relation = ""
    if neighbour:
        direction = _direction(centres[finding.name] - centres[neighbour.name])
        is_organ = neighbour in organs
        called = label_phrases(neighbour.words or neighbour.name)[0] if is_organ else neighbour.name.replace("_", " ")
        triplets.append((finding.name, f"lies {direction}", called))
        relation = f", {direction} the {called}" if is_organ else ""
    return Description(
        finding.name, f"{' '.join(traits)} lesion{where}{relation}", tuple(triplets), organ, side, measured
    )


def _place(finding: NamedMask, words: str) -> tuple[str | None, Side | None, str, list[Triplet]]:
    """Organ, side, how a phrase says them, and their triplets."""
    named = organs_in(words)
    organ, side = (named[0][2] if named else None), side_of(words)
    place = " ".join(filter(None, (side, (organ or "").replace("_", " ")))).strip()
    triplets = [(finding.name, "is in", place)] if organ else []
    triplets += [(finding.name, "is on the", side)] if side else []
    return organ, side, f" in the {place}" if organ else f" on the {side}" if side else "", triplets


def _home(inside_ZYX: Array, box: tuple[slice, ...], organs: Sequence[NamedMask]) -> NamedMask | None:
    """The organ that holds most of a lesion, cropped to a box: at least half; of equals the smaller, a lobe before the
    lung."""
    held = [int(np.count_nonzero(o.mask_ZYX[box][inside_ZYX])) for o in organs]
    most = max(held, default=0)
    if 2 * most < int(inside_ZYX.sum()) or not most:
        return None
    return min((o for o, n in zip(organs, held, strict=True) if n == most), key=lambda o: np.count_nonzero(o.mask_ZYX))


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

"""Many masks as one label map that loses nothing where they overlap.

A viewer draws one label map as fast as one mask. A plain label map holds one mask a voxel; here a value stands for the
set of all masks that hold the voxel, so that each can still be shown, hidden and named.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vol3d.boxes import bounding_box
from vol3d.errors import GeometryError, Vol3dError
from vol3d.geometry import Grid
from vol3d.types import Array, Zyx


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Sets of masks, voxel by voxel."""

    array_ZYX: Array
    """uint8 or uint16: index into `sets`."""
    grid: Grid
    """The part of the masks' grid that holds them all, and one empty voxel round it: a viewer that repeats the last
    voxel outwards then repeats nothing."""
    sets: tuple[tuple[int, ...], ...]
    """Ids of the masks; the first set is empty."""


def combine(masks: Iterable[tuple[int, Array]], grid: Grid) -> LabelMap | None:
    """One label map of (id, mask_ZYX) on `grid`; None if no mask has a voxel. Masks are taken one by one.

    Raises:
        GeometryError: a mask is not of the grid's shape.
        Vol3dError: more than 65,535 different sets.
    """
    parts: list[tuple[int, Zyx, Zyx, Array]] = []
    for number, mask_ZYX in masks:
        if mask_ZYX.shape != grid.shape:
            raise GeometryError(f"expected masks of the grid's shape {grid.shape}, found {mask_ZYX.shape}")
        if (box := bounding_box(mask_ZYX)) is not None:
            where = tuple(slice(a, b) for a, b in zip(*box, strict=True))
            parts.append((number, *box, mask_ZYX[where] != 0))
    if not parts:
        return None
    low = np.min([start for _, start, _, _ in parts], axis=0) - 1
    high = np.max([stop for _, _, stop, _ in parts], axis=0) + 1
    codes_ZYX = np.zeros(high - low, np.uint32)
    sets: list[tuple[int, ...]] = [()]
    for number, start, stop, member in parts:
        where = tuple(slice(a - o, b - o) for a, b, o in zip(start, stop, low, strict=True))
        inside = codes_ZYX[where][member]
        table = np.arange(len(sets), dtype=np.uint32)
        for code in np.unique(inside):
            table[code] = len(sets)
            sets.append((*sets[code], number))
        codes_ZYX[where][member] = table[inside]
    used = np.unique(codes_ZYX)  # sets that later masks have split up are gone; the empty margin keeps the first
    if len(used) > np.iinfo(np.uint16).max:
        raise Vol3dError(f"expected at most 65,535 different overlaps of masks, found {len(used)}; show fewer masks")
    array_ZYX = np.searchsorted(used, codes_ZYX).astype(np.uint8 if len(used) <= 256 else np.uint16)
    part = grid.crop((int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2])))
    return LabelMap(array_ZYX, part, tuple(sets[c] for c in used))

"""Where the evidence for a mask is looked at: one point of the patient.

With a PET it is the centre of the mask's hottest voxel on the PET's own grid, the voxel that SUVmax was read from;
without, the member voxel nearest to the mask's centroid, so that the point never lies in the hole of a ring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from vol3d.boxes import bounding_box
from vol3d.geometry import Grid
from vol3d.measure import suv_statistics
from vol3d.types import Array, Zyx
from vol3d.volume import Volume

_ANY_NEIGHBOUR = ndimage.generate_binary_structure(3, 3)


@dataclass(frozen=True, kw_only=True)
class Point:
    """A place to look at."""

    mm: tuple[float, float, float]
    """World (x, y, z), RAS+."""
    kind: Literal["hottest", "centre"]
    suv: float | None = None
    """Of the voxel there, of the native PET."""


def evidence_point(
    mask_ZYX: Array,
    grid: Grid,
    pet: Volume | None = None,
    pet_mask_ZYX: Array | None = None,
    suv_max: float | None = None,
) -> Point | None:
    """The point to look at; None for an empty mask.

    Args:
        mask_ZYX: non-zero voxels are members.
        grid: of the mask.
        pet: SUVbw on the scanner's grid.
        pet_mask_ZYX: the same thing on the PET's grid. Without it the mask is carried there: voxels of which at least
            half lies in the mask, or, of a mask too small for that, the one with the largest share.
        suv_max: as measured when the mask was made. Where a voxel at the carried mask has just this value, it is the
            point: masks are carried as probabilities then, and as members here.
    """
    box = bounding_box(mask_ZYX)
    if box is None:
        return None
    if pet is not None:
        found = _hottest(mask_ZYX, grid, box, pet, pet_mask_ZYX, suv_max)
        if found is not None:
            return found
    members_N3 = np.argwhere(mask_ZYX[tuple(slice(a, b) for a, b in zip(*box, strict=True))]) + box[0]
    offset_N3 = (members_N3 - members_N3.mean(axis=0)) * grid.spacing_mm
    nearest = members_N3[np.square(offset_N3).sum(axis=1).argmin()]
    return Point(mm=_xyz(grid.index_to_mm(nearest)), kind="centre")


def _hottest(
    mask_ZYX: Array, grid: Grid, box: tuple[Zyx, Zyx], pet: Volume, pet_mask_ZYX: Array | None, suv_max: float | None
) -> Point | None:
    """None where the PET does not reach."""
    if pet_mask_ZYX is None and grid.same_as(pet.grid):
        pet_mask_ZYX = mask_ZYX
    if pet_mask_ZYX is not None and (uptake := suv_statistics(pet_mask_ZYX, pet)).max_mm is not None:
        return Point(mm=uptake.max_mm, kind="hottest", suv=uptake.suv_max)
    start, stop = (_shifted(box[0], -1), _shifted(box[1], 1))
    own = Volume((mask_ZYX != 0).astype(np.uint8), grid, "mask").crop(start, stop)
    near = _part_of(pet.grid, own.grid)
    if near is None:
        return None
    around = pet.crop(*near)
    share_ZYX = own.resample_to(around.grid).array_ZYX
    if not share_ZYX.any():
        return None
    member_ZYX = share_ZYX >= min(0.5, float(share_ZYX.max()))
    if suv_max is not None:
        reach_ZYX = ndimage.binary_dilation(member_ZYX, _ANY_NEIGHBOUR)
        same_ZYX = reach_ZYX & np.isclose(around.array_ZYX, suv_max, rtol=1e-6, atol=0)
        member_ZYX = same_ZYX if same_ZYX.any() else member_ZYX
    index = np.unravel_index(np.where(member_ZYX, around.array_ZYX, -np.inf).argmax(), share_ZYX.shape)
    at = np.array([int(i) for i in index])
    return Point(mm=_xyz(around.grid.index_to_mm(at)), kind="hottest", suv=float(around.array_ZYX[tuple(at)]))


def _part_of(grid: Grid, box: Grid) -> tuple[Zyx, Zyx] | None:
    """The voxels of a grid that a box of space can touch, and one more on each side; None if it holds none."""
    index_N3 = grid.mm_to_index(box.corners_mm())
    low = np.maximum(np.floor(index_N3.min(axis=0)).astype(int) - 1, 0)
    high = np.minimum(np.ceil(index_N3.max(axis=0)).astype(int) + 2, grid.shape)
    if (low >= high).any():
        return None
    (a, b, c), (d, e, f) = low.tolist(), high.tolist()
    return (a, b, c), (d, e, f)


def _shifted(index: Zyx, step: int) -> Zyx:
    return index[0] + step, index[1] + step, index[2] + step


def _xyz(point: Array) -> tuple[float, float, float]:
    return float(point[0]), float(point[1]), float(point[2])

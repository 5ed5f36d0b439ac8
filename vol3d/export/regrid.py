"""From the common grid of the cache back to the source grid: the last spatial step, in one place.

The probability is interpolated linearly and then thresholded; interpolating the thresholded mask instead would give
steps the size of the common grid's voxels.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vol3d.boxes import bounding_box
from vol3d.errors import GeometryError, Vol3dError
from vol3d.geometry import Grid
from vol3d.resampling import resample
from vol3d.types import Array, Zyx

SLAB_VOXELS = 1 << 22
"""Source voxels that are float at one time: 16 MB."""

_TIE = 1e-4
"""A probability that equals the threshold is a member, whatever the rounding of the interpolation."""


def to_source_grid(
    probability_ZYX: Array, grid: Grid, source: Grid, threshold: float, slab_voxels: int = SLAB_VOXELS
) -> Array:
    """Mask on the source grid: 1 where the interpolated probability is at least the threshold.

    Outside `grid` the mask is 0. Only the part of the source that non-zero probability can reach is computed, in slabs
    along the source's first axis (oblique grids: at once), so memory is the uint8 result and little more.

    Args:
        probability_ZYX: uint8 0..255, float 0..1 or bool (a mask), on `grid`.
        grid: the common grid.
        source: the grid of the file the mask is for.
        threshold: in 0..1, not 0.
        slab_voxels: how much to resample at a time.

    Returns:
        uint8 0/1 of the source's shape.

    Raises:
        GeometryError: the probability does not lie on `grid`.
        Vol3dError: a threshold or a type of number that has no meaning as a probability.
    """
    if probability_ZYX.shape != grid.shape:
        raise GeometryError(f"expected probabilities of the grid's shape {grid.shape}, found {probability_ZYX.shape}")
    if not 0 < threshold <= 1:
        raise Vol3dError(f"expected a mask threshold above 0 and up to 1, found {threshold}")
    level = (threshold - _TIE) * _full_scale(probability_ZYX)
    mask_ZYX = np.zeros(source.shape, np.uint8)
    for where, value_ZYX in _slabs(probability_ZYX, grid, source, slab_voxels):
        mask_ZYX[where] = value_ZYX >= level
    return mask_ZYX


def probability_on(probability_ZYX: Array, grid: Grid, source: Grid, slab_voxels: int = SLAB_VOXELS) -> Array:
    """The probability itself on the source grid, uint8 0..255 for 0..1 and 0 outside `grid`; see `to_source_grid`."""
    if probability_ZYX.shape != grid.shape:
        raise GeometryError(f"expected probabilities of the grid's shape {grid.shape}, found {probability_ZYX.shape}")
    full = _full_scale(probability_ZYX)
    out_ZYX = np.zeros(source.shape, np.uint8)
    for where, value_ZYX in _slabs(probability_ZYX, grid, source, slab_voxels):
        out_ZYX[where] = np.rint(value_ZYX * (255 / full)).clip(0, 255)
    return out_ZYX


def _slabs(
    probability_ZYX: Array, grid: Grid, source: Grid, slab_voxels: int
) -> Iterator[tuple[tuple[slice, ...], Array]]:
    """Where in the source, and the interpolated values there; what non-zero probability cannot reach is left out."""
    held = bounding_box(probability_ZYX)
    reached = None if held is None else _reach(held, grid, source)
    if reached is None:
        return
    (z0, y0, x0), (z1, y1, x1) = reached
    step = max(1, slab_voxels // ((y1 - y0) * (x1 - x0))) if _along_axes(grid, source) else z1 - z0
    for z in range(z0, z1, step):
        start, stop = (z, y0, x0), (min(z + step, z1), y1, x1)
        needed = _reach((start, stop), source, grid)
        if needed is None:
            continue
        crop_ZYX = probability_ZYX[tuple(slice(a, b) for a, b in zip(*needed, strict=True))]
        if crop_ZYX.dtype == bool:
            crop_ZYX = crop_ZYX.view(np.uint8)
        value_ZYX = resample(crop_ZYX, grid.crop(*needed), source.crop(start, stop), 0.0)
        yield (slice(z, stop[0]), slice(y0, y1), slice(x0, x1)), value_ZYX


def _full_scale(probability_ZYX: Array) -> float:
    if probability_ZYX.dtype == np.uint8:
        return 255.0
    if probability_ZYX.dtype == bool or np.issubdtype(probability_ZYX.dtype, np.floating):
        return 1.0
    raise Vol3dError(f"expected probabilities as uint8 0..255 or float 0..1, found {probability_ZYX.dtype}")


def _along_axes(grid: Grid, source: Grid) -> bool:
    """True if both grids have the same axis directions, in any order: slabs then interpolate exactly as the whole."""
    linear = np.abs(source.inverse[:3, :3] @ grid.affine[:3, :3])
    return bool((linear.sum(axis=1) - linear.max(axis=1)).max() * max(grid.shape) < 1e-2)


def _reach(box: tuple[Zyx, Zyx], of: Grid, on: Grid) -> tuple[Zyx, Zyx] | None:
    """The box of voxels of `on` that interpolation can connect with a box of voxels of `of`; None if there is none.

    Interpolation reaches one voxel of either grid; the mean over a coarser target reaches half of one of its voxels
    more. Two of each are on the safe side.
    """
    corner = of.crop(*box)
    index = on.mm_to_index(corner.corners_mm())
    ratio = np.abs(on.inverse[:3, :3] @ of.affine[:3, :3]).sum(axis=1)  # voxels of `on` per voxel of `of`
    start = np.maximum(np.floor(index.min(axis=0) - 2 - 2 * ratio), 0).astype(int)
    stop = np.minimum(np.ceil(index.max(axis=0) + 3 + 2 * ratio), on.shape).astype(int)
    if (start >= stop).any():
        return None
    return (int(start[0]), int(start[1]), int(start[2])), (int(stop[0]), int(stop[1]), int(stop[2]))

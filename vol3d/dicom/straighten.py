"""A stack of slices that is no regular grid -> one that is, where the user asked for it: gantry tilt and uneven steps.

A tilted gantry shifts each slice in its plane against the one before; the slices themselves are undistorted. So each
is moved back by its own shift (a shear of the volume), along rows and columns by linear interpolation, and the grid is
widened so that no pixel is lost. Uneven steps are interpolated linearly between the two nearest slices. Both leave a
ramp of intensity exactly as it is. A missing slice is never interpolated: what lies there nobody has seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vol3d.dicom.geometry import Layout, lps_grid, step_summary
from vol3d.geometry import Grid
from vol3d.types import Array

LEAST_SHARE_OF_MEDIAN = 0.5
"""A step under this share of the median step is a seam between two blocks, not a spacing to resample to."""


@dataclass(frozen=True)
class Straight:
    """A regular grid, how to fill it from the stacked slices, and what that does, in words."""

    grid: Grid
    notes: tuple[str, ...]
    apply: Callable[[Array, float], Array]
    """(stacked slices [slice, row, column] in the layout's order, fill) -> float32 on `grid`."""
    resliced: bool
    """True if the slices of the grid are not those of the series."""


def straighten(layout: Layout, *, tilt: bool, spacing: bool) -> Straight | None:
    """How to make a stack regular; None if it is so already.

    Args:
        layout: of the series.
        tilt: a gantry tilt may be corrected.
        spacing: uneven steps may be resampled.

    Raises:
        GeometryError: a fault that is not allowed, or a missing or displaced slice, which no option allows.
    """
    layout.require_regular(tilt_allowed=tilt, steps_allowed=spacing)
    if not layout.faults:
        return None
    notes = []
    rows, columns = (np.arange(n, dtype=np.float64) for n in layout.shape[1:])
    shift_row_N = shift_column_N = np.zeros(len(layout.along_mm))
    if layout.tilt:
        shift_row_N = layout.along_mm * float(layout.drift @ layout.column) / layout.spacing_mm[0]
        shift_column_N = layout.along_mm * float(layout.drift @ layout.row) / layout.spacing_mm[1]
        rows, columns = _widened(rows, shift_row_N), _widened(columns, shift_column_N)
        angle = np.degrees(np.arctan(np.linalg.norm(layout.drift)))
        notes.append(
            f"gantry tilt of {angle:.2f} degrees corrected by linear shear: the grid is not that of the files, "
            f"{len(rows) - layout.shape[1]} rows and {len(columns) - layout.shape[2]} columns wider"
        )
    along = layout.along_mm
    if layout.uneven:
        along = _even(layout.along_mm)
        steps = step_summary(np.diff(layout.along_mm))
        notes.append(
            f"steps of {steps} mm resampled linearly to {along[1]:.4g} mm: {len(along)} slices from {layout.shape[0]}"
        )
    elif layout.tilt:
        along = np.linspace(0.0, layout.along_mm[-1], len(layout.along_mm))
    origin = layout.origin_mm + layout.column * rows[0] * layout.spacing_mm[0]
    origin = origin + layout.row * columns[0] * layout.spacing_mm[1]
    grid = lps_grid(layout, origin, layout.normal * along[1], (len(along), len(rows), len(columns)))

    def apply(array_NYX: Array, fill: float) -> Array:
        moved = np.empty((len(array_NYX), len(rows), len(columns)), np.float32)
        for index, slice_YX in enumerate(array_NYX):
            upright = _sample(slice_YX.astype(np.float32), rows - shift_row_N[index], 0, fill)
            moved[index] = _sample(upright, columns - shift_column_N[index], 1, fill)
        return (
            _sample(moved, np.interp(along, layout.along_mm, np.arange(len(moved))), 0, fill)
            if layout.uneven
            else moved
        )

    return Straight(grid, tuple(notes), apply, layout.uneven is not None)


def _widened(index: Array, shift_N: Array) -> Array:
    """Whole pixels from the first to the last that any shifted slice reaches."""
    low, high = np.floor(min(0.0, shift_N.min()) + 1e-6), np.ceil(max(0.0, shift_N.max()) - 1e-6)
    return np.arange(index[0] + low, index[-1] + high + 1)


def _even(along_mm: Array) -> Array:
    """Equal steps from the first slice to the last, near the finest spacing that the series really has."""
    steps = np.diff(along_mm)
    step = float(steps[steps >= LEAST_SHARE_OF_MEDIAN * np.median(steps)].min())
    return np.linspace(0.0, along_mm[-1], max(2, round(along_mm[-1] / step) + 1))


def _sample(array: Array, where: Array, axis: int, fill: float) -> Array:
    """Linear interpolation at fractional indices along one axis; `fill` beyond the outer faces of its voxels."""
    size = array.shape[axis]
    at = np.clip(where, 0, size - 1)
    low = np.minimum(at.astype(int), max(size - 2, 0))
    shape = [1] * array.ndim
    shape[axis] = len(where)
    share = (at - low).astype(np.float32).reshape(shape)
    out = np.take(array, low, axis) * (1 - share) + np.take(array, np.minimum(low + 1, size - 1), axis) * share
    beyond = (where < -0.5 - 1e-6) | (where > size - 0.5 + 1e-6)
    out[(slice(None),) * axis + (beyond,)] = fill
    return out

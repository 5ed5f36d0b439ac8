"""From one grid to another: linear, or the mean over a target voxel where that is coarser.

`Volume.resample_to` is the way in; here are bare arrays.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from vol3d.boxes import bounding_box
from vol3d.geometry import Grid
from vol3d.types import Array, Zyx

_SLAB_VOXELS = 1 << 18
"""About how many voxels are resampled at a time: 1 MB."""


def resample(
    array_ZYX: Array, source: Grid, target: Grid, fill: float, nearest: bool = False, *, mask: bool = False
) -> Array:
    """`Volume.resample_to` on bare arrays; see there. With `mask` only the box round what is not zero is computed."""
    if source.same_as(target, 1e-4):
        return array_ZYX if nearest else array_ZYX.astype(np.float32)
    index_map = source.inverse @ target.affine
    if _is_separable(index_map, target.shape):
        return _resample_separable(array_ZYX, index_map, target.shape, fill, nearest, mask)
    return _resample_oblique(array_ZYX, source, target, fill, nearest)


def _is_separable(index_map: Array, shape: Zyx) -> bool:
    """True if each target axis runs along one source axis, to within 1/100 voxel over its whole length."""
    linear = np.abs(index_map[:3, :3]) * np.array(shape)
    off_axis = linear.sum(axis=1) - linear.max(axis=1)
    return bool(off_axis.max() < 1e-2 and len(set(linear.argmax(axis=1))) == 3)


def _resample_separable(
    array_ZYX: Array, index_map: Array, shape: Zyx, fill: float, nearest: bool, mask: bool
) -> Array:
    """One weight matrix an axis. `index_map` takes target indices to source indices and is axis-wise."""
    target_axis = np.abs(index_map[:3, :3]).argmax(axis=1)  # of source axis i
    array = array_ZYX.transpose(np.argsort(target_axis))  # now axis j runs along target axis j
    steps, outside = [], []
    for axis in range(3):
        source_axis = int(np.flatnonzero(target_axis == axis)[0])
        step, start = index_map[source_axis, axis], index_map[source_axis, 3]
        where = start + step * np.arange(shape[axis])
        outside.append((where < -0.5) | (where > array.shape[axis] - 0.5))
        steps.append((where, abs(step)))
    if nearest:
        picks = [np.clip(np.rint(w), 0, n - 1).astype(int) for (w, _), n in zip(steps, array.shape, strict=True)]
        out = np.ascontiguousarray(array[np.ix_(*picks)])
    else:
        weights = [_weights(where, step, n) for (where, step), n in zip(steps, array.shape, strict=True)]
        out = (_members if mask else _linear)(array, weights)
    for axis, away in enumerate(outside):
        out[(slice(None),) * axis + (away,)] = fill
    return out


def _weights(where: Array, step: float, size: int) -> Array:
    """[len(where), size]: mean of the linear interpolant over a box round `where`.

    The box has width sqrt(step^2 - 1) voxels, so nothing is blurred where the target is as fine as the source, and it
    is integrated exactly, so that a linear ramp comes back as itself: no shift of a fraction of a voxel.
    """
    offset = np.clip(where, 0, size - 1)[:, None] - np.arange(size)[None]
    width = np.sqrt(max(step**2 - 1, 0.0))
    if width < 1e-6:
        return np.clip(1 - np.abs(offset), 0, None).astype(np.float32)

    def integral(u: Array) -> Array:  # of the tent max(0, 1 - |u|) from minus infinity
        u = np.clip(u, -1, 1)
        return np.where(u < 0, (1 + u) ** 2 / 2, 1 - (1 - u) ** 2 / 2)

    weights = integral(offset + width / 2) - integral(offset - width / 2)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _members(mask: Array, weights: list[Array]) -> Array:
    """`_linear` of a mask: the box round its members, and the voxels that it reaches; all else is zero."""
    out = np.zeros([len(w) for w in weights], np.float32)
    box = bounding_box(mask)
    if box is None:
        return out
    within = [slice(*ends) for ends in zip(*box, strict=True)]
    reached = [np.flatnonzero(w[:, s].any(axis=1)) for w, s in zip(weights, within, strict=True)]
    if min(map(len, reached)):
        rows = [slice(r[0], r[-1] + 1) for r in reached]
        part = [w[r, s] for w, r, s in zip(weights, rows, within, strict=True)]
        out[tuple(rows)] = _linear(mask[tuple(within)], part)
    return out


def _linear(array: Array, weights: list[Array]) -> Array:
    """Every axis, a few slices at a time, so that no more than those are float beside the result.

    A row of weights reaches a few slices only, so the first axis costs next to nothing. It goes first, unless it adds
    slices while the plane shrinks. Of the other two the one that shrinks the most goes first.
    """
    inner = sorted((1, 2), key=lambda axis: len(weights[axis]) / array.shape[axis])

    def in_plane(slab: Array) -> Array:
        for axis in inner:
            slab = slab @ weights[2].T if axis == 2 else weights[1] @ slab
        return slab

    first, source = weights[0], array.shape[1] * array.shape[2]
    shrinks = len(weights[1]) * len(weights[2]) < source
    plane = max(source, len(weights[1]) * len(weights[2]))
    if len(first) <= array.shape[0] or not shrinks:
        return _by_slabs(len(first), plane, lambda a, b: in_plane(_across(first[a:b], array)))
    # BLAS needs contiguous arrays: flipped views are a hundred times slower
    middle = _by_slabs(array.shape[0], plane, lambda a, b: in_plane(np.ascontiguousarray(array[a:b], np.float32)))
    return _by_slabs(len(first), plane, lambda a, b: _across(first[a:b], middle))


def _by_slabs(count: int, plane: int, make: Callable[[int, int], Array]) -> Array:
    """Stacks ``make(a, b)`` of consecutive slices of `plane` voxels."""
    out: Array | None = None
    step = max(1, _SLAB_VOXELS // plane)
    for start in range(0, count, step):
        stop = min(start + step, count)
        slab = make(start, stop)
        if out is None:
            out = np.empty((count, *slab.shape[1:]), np.float32)
        out[start:stop] = slab
        del slab  # before the next one is made
    assert out is not None
    return out


def _across(weights: Array, array: Array) -> Array:
    """Weighted sums of slices, of those that any row reaches."""
    used = np.flatnonzero(weights.any(axis=0))
    low, high = int(used[0]), int(used[-1]) + 1
    slab = np.ascontiguousarray(array[low:high], np.float32)
    return (weights[:, low:high] @ slab.reshape(high - low, -1)).reshape(len(weights), *array.shape[1:])


def _resample_oblique(array_ZYX: Array, source: Grid, target: Grid, fill: float, nearest: bool) -> Array:
    import SimpleITK as sitk  # noqa: N813

    if not nearest:  # shrink along the source's own axes first, so that the plain linear step below does not alias
        span = np.linalg.norm(source.inverse[:3, :3] @ target.affine[:3, :3], axis=1)
        if span.max() > 1.5:
            z, y, x = np.array(source.spacing_mm) * np.maximum(span, 1.0)
            shrunk = source.resample((float(z), float(y), float(x)))
            array_ZYX, source = resample(array_ZYX, source, shrunk, fill), shrunk
    kept = array_ZYX.dtype.newbyteorder("=") if nearest else np.dtype(np.float32)
    carried = np.dtype(np.uint8) if kept.kind == "b" else kept  # ITK knows no bool and no foreign byte order
    image = sitk.GetImageFromArray(np.ascontiguousarray(array_ZYX, carried))
    reference = sitk.Image(*target.shape[::-1], sitk.sitkUInt8)
    for grid, put in ((source, image), (target, reference)):
        affine = grid.affine_xyz  # ITK's physical space is only a name here: both grids use RAS
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        put.SetSpacing(spacing.tolist())
        put.SetOrigin(affine[:3, 3].tolist())
        put.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    method = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    out = sitk.Resample(image, reference, sitk.Transform(), method, float(fill), image.GetPixelID())
    return sitk.GetArrayFromImage(out).astype(kept, copy=False)

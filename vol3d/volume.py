"""`Volume`: an array with its grid and its physical unit, and the one way to resample it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vol3d.errors import GeometryError
from vol3d.geometry import Grid
from vol3d.types import AIR_HU, UNIT_OF, Array, Modality, Unit, Zyx

_SLAB_VOXELS = 1 << 18
"""About how many voxels are resampled at a time: 1 MB."""

FILL: dict[Modality, float] = {"ct": AIR_HU, "pet": 0.0, "mask": 0.0}
"""What stands outside the source grid: air, no uptake, not a member."""


@dataclass(frozen=True, eq=False)
class Volume:
    """One scalar image.

    Args:
        array_ZYX: HU (ct), SUVbw (pet) or 0/1 (mask).
        grid: where its voxels lie; same shape as the array.
        modality: what the numbers are; the unit follows from it.

    Raises:
        GeometryError: array and grid differ in shape.
    """

    array_ZYX: Array
    grid: Grid
    modality: Modality

    def __post_init__(self) -> None:
        if self.array_ZYX.shape != self.grid.shape:
            raise GeometryError(
                f"expected an array of the grid's shape (z, y, x) {self.grid.shape}, found {self.array_ZYX.shape}"
            )

    @property
    def unit(self) -> Unit:
        """Physical unit of the numbers."""
        return UNIT_OF[self.modality]

    def crop(self, start: Zyx, stop: Zyx) -> Volume:
        """Voxels start <= index < stop; outside the array the modality's `FILL` stands."""
        array = crop_or_fill(self.array_ZYX, start, stop, FILL[self.modality])
        return Volume(array, self.grid.crop(start, stop), self.modality)

    def flip(self, axes: tuple[int, ...]) -> Volume:
        """Reverses axes (0 = z, 1 = y, 2 = x); nothing moves in the world."""
        return Volume(np.flip(self.array_ZYX, axes), self.grid.flip(axes), self.modality)

    def permute(self, order: Zyx) -> Volume:
        """New axis i is old axis order[i]."""
        return Volume(self.array_ZYX.transpose(order), self.grid.permute(order), self.modality)

    def to_orientation(self, codes: str = "SAR") -> Volume:
        """Lossless: permutes and flips until the axes grow towards `codes`."""
        _, order, flips = self.grid.to_orientation(codes)
        return self.permute(order).flip(flips)

    def resample_to(self, grid: Grid, *, nearest: bool = False) -> Volume:
        """Values at the voxel centres of `grid`; float32, or the own type if `nearest`.

        Linear; where the target is coarser than the source, the mean over a target voxel rather than its centre, so
        that noise and thin structures do not alias. Voxels of the target outside the source's box get `FILL`. Masks
        come out as a share of membership in 0..1: threshold at one half.
        """
        return Volume(resample(self.array_ZYX, self.grid, grid, FILL[self.modality], nearest), grid, self.modality)


def crop_or_fill(array_ZYX: Array, start: Zyx, stop: Zyx, fill: float) -> Array:
    """A copy of array[start:stop], where indices outside the array are legal and yield `fill`."""
    shape = array_ZYX.shape
    out = np.full([b - a for a, b in zip(start, stop, strict=True)], fill, array_ZYX.dtype)
    inner = tuple(slice(max(a, 0), min(b, n)) for a, b, n in zip(start, stop, shape, strict=True))
    if all(s.start < s.stop for s in inner):
        out[tuple(slice(s.start - a, s.stop - a) for s, a in zip(inner, start, strict=True))] = array_ZYX[inner]
    return out


def resample(array_ZYX: Array, source: Grid, target: Grid, fill: float, nearest: bool = False) -> Array:
    """`Volume.resample_to` on bare arrays; see there."""
    if source.same_as(target, 1e-4):
        return array_ZYX if nearest else array_ZYX.astype(np.float32)
    index_map = source.inverse @ target.affine
    if _is_separable(index_map, target.shape):
        return _resample_separable(array_ZYX, index_map, target.shape, fill, nearest)
    return _resample_oblique(array_ZYX, source, target, fill, nearest)


def _is_separable(index_map: Array, shape: Zyx) -> bool:
    """True if each target axis runs along one source axis, to within 1/100 voxel over its whole length."""
    linear = np.abs(index_map[:3, :3]) * np.array(shape)
    off_axis = linear.sum(axis=1) - linear.max(axis=1)
    return bool(off_axis.max() < 1e-2 and len(set(linear.argmax(axis=1))) == 3)


def _resample_separable(array_ZYX: Array, index_map: Array, shape: Zyx, fill: float, nearest: bool) -> Array:
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
        out = _linear(array, [_weights(where, step, n) for (where, step), n in zip(steps, array.shape, strict=True)])
    for axis, mask in enumerate(outside):
        out[(slice(None),) * axis + (mask,)] = fill
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

"""Boxes of voxels: what is cut out of an array, and where its members are."""

from __future__ import annotations

import numpy as np

from vol3d.types import Array, Zyx


def crop_or_fill(array_ZYX: Array, start: Zyx, stop: Zyx, fill: float) -> Array:
    """A copy of array[start:stop], where indices outside the array are legal and yield `fill`."""
    shape = array_ZYX.shape
    out = np.full([b - a for a, b in zip(start, stop, strict=True)], fill, array_ZYX.dtype)
    inner = tuple(slice(max(a, 0), min(b, n)) for a, b, n in zip(start, stop, shape, strict=True))
    if all(s.start < s.stop for s in inner):
        out[tuple(slice(s.start - a, s.stop - a) for s, a in zip(inner, start, strict=True))] = array_ZYX[inner]
    return out


def bounding_box(mask_ZYX: Array) -> tuple[Zyx, Zyx] | None:
    """(start, stop) of the smallest box that holds every member voxel; None for an empty mask."""
    held = [(0, n) for n in mask_ZYX.shape]
    for axis in range(3):  # each search runs inside what the one before left
        left = mask_ZYX[tuple(slice(*ends) for ends in held)]
        hit = np.flatnonzero(np.any(left, axis=tuple(a for a in range(3) if a != axis)))
        if not len(hit):
            return None
        held[axis] = int(hit[0]), int(hit[-1]) + 1
    (z0, z1), (y0, y1), (x0, x1) = held
    return (z0, y0, x0), (z1, y1, x1)

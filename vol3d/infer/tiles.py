"""Where the tiles of a sliding window lie, and how much each counts for each voxel.

Tiles are weighted by a Gaussian of an eighth of their size (nnU-Net, Isensee et al. 2021). The Gaussian is a product of
one factor per axis, and tiles lie on a regular lattice, so the weights of all tiles over a voxel can be made to sum to
one in advance, axis by axis: predictions are then only added up and never divided.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from vol3d.data.patch import centred_start
from vol3d.errors import ConfigError
from vol3d.types import Array, Zyx

SIGMA = 1 / 8
"""Standard deviation of the weights, as a share of the tile."""

_FLOOR = 1e-3  # of the largest factor: also a voxel that only tile corners reach gets a full weight


def tile_starts(size: int, patch: int, overlap: float) -> list[int]:
    """First voxels of the tiles along one axis: evenly spread, overlapping by at least `overlap`, the last one flush.

    A volume that is smaller than the patch gets one tile that begins before it, so that both ends are padded alike.

    Raises:
        ConfigError: the overlap is not in 0..0.9.
    """
    if not 0 <= overlap <= 0.9:
        raise ConfigError(f"expected an overlap of tiles in 0..0.9, found {overlap}")
    if size <= patch:
        return [centred_start(size, patch)]
    count = math.ceil((size - patch) / max(1, int(patch * (1 - overlap)))) + 1
    return [round(i * (size - patch) / (count - 1)) for i in range(count)]


def tile_rows(shape: Zyx, patch: Zyx, overlap: float) -> list[tuple[int, list[Zyx]]]:
    """All tiles, grouped by their start along z, in growing order: (z, starts)."""
    along = [tile_starts(n, p, overlap) for n, p in zip(shape, patch, strict=True)]
    return [(z, [(z, y, x) for y, x in itertools.product(along[1], along[2])]) for z in along[0]]


def axis_weights(size: int, patch: int, overlap: float) -> dict[int, Array]:
    """By tile start: float32 [patch], the share of the tile in each voxel along one axis.

    Over every voxel of the volume the shares of all tiles sum to one.
    """
    starts = tile_starts(size, patch, overlap)
    offset = np.arange(patch) - (patch - 1) / 2
    factor = np.maximum(np.exp(-0.5 * (offset / (SIGMA * patch)) ** 2), _FLOOR)
    first = min(starts)
    total = np.zeros(max(starts) + patch - first)
    for start in starts:
        total[start - first : start - first + patch] += factor
    return {s: (factor / total[s - first : s - first + patch]).astype(np.float32) for s in starts}

"""How masks lie on volumes where their headers cannot be trusted: every way is tried on some studies.

A mask that lies right has edges where the image has them: the mean HU inside and in the shell round it differ. A mask
turned by 180 degrees in the slice lands on other tissue, and a finding of the lung outside the lung. The way with the
larger difference wins a finding; one way has to win most of them, or nothing is assumed.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from preprocessing.manifest import Placed
from preprocessing.read_channel import read_channel
from preprocessing.read_nifti import read_nifti
from vol3d.boxes import bounding_box
from vol3d.errors import ManifestError, ReadError
from vol3d.geometry import Grid
from vol3d.types import Array

STUDIES = 12
"""Looked at, evenly over the list; those that cannot be read are passed over."""

LEAST_SHARE = 0.75
"""Of the findings, which one way has to win."""

SHELL_VOXELS = 3
SMALLEST_VOXELS = 20
SAME_GRID_MM = 0.1

log = logging.getLogger("vol3d")


@dataclass(frozen=True)
class Pair:
    """A volume, its 4D file of masks, and which channels hold one."""

    volume: Path
    masks: Path
    channels: tuple[int, ...]


def placement(pairs: Sequence[Pair]) -> Placed:
    """``array``: voxel by voxel; ``turned``: so, with both in-plane axes reversed; ``header``: as the affine says,
    where that is another way than these two.

    Raises:
        ManifestError: no way wins, with the counts.
    """
    step = max(1, len(pairs) // STUDIES)
    evenly = pairs[::step][:STUDIES]
    wins: Counter[str] = Counter()
    looked_at, unread = 0, []
    for pair in [*evenly, *(p for p in pairs if p not in evenly)]:
        if looked_at == STUDIES:
            break
        try:
            wins.update(_winners(pair))
            looked_at += 1
        except ReadError as error:
            unread.append(str(error))
    if unread:
        log.warning("%d volumes or masks cannot be read, the first: %s", len(unread), unread[0])
    if not looked_at:
        raise ManifestError(
            f"expected volumes and masks that can be read, found none among {len(pairs)}, the first: {unread[0]}"
        )
    total = sum(wins.values())
    best: tuple[Placed, int] = max(
        ((way, wins[way]) for way in ("array", "turned", "header")), key=lambda entry: entry[1]
    )
    if not total or best[1] < LEAST_SHARE * total:
        raise ManifestError(
            f"expected masks whose edges are edges of the image in one way of laying them on it, found {dict(wins)} "
            f"for {total} findings (array: voxel by voxel; turned: 180 degrees in the slice; header: by the affine); "
            f"are these the volumes that the masks were drawn on?"
        )
    return best[0]


def _winners(pair: Pair) -> list[str]:
    volume = read_nifti(pair.volume)
    out = []
    for channel in pair.channels:
        if channel < 0:
            raise ReadError(f"{pair.masks}: expected channels that count from 0, found {channel}")
        mask, grid = read_channel(pair.masks, channel)
        ways = _ways(mask, grid, volume.grid)
        if ways and np.count_nonzero(mask) >= SMALLEST_VOXELS:
            out.append(max(ways, key=lambda way: contrast(volume.array_ZYX, ways[way])))
    return out


def _ways(mask_ZYX: Array, grid: Grid, wanted: Grid) -> dict[str, Array]:
    """The mask on the volume's array, by way; ``header`` only where it differs from both others."""
    if mask_ZYX.shape != wanted.shape:
        return {}
    out = {"array": mask_ZYX, "turned": mask_ZYX[:, ::-1, ::-1]}
    for axes in ((0,), (1,), (2,), (0, 1), (0, 2), (0, 1, 2)):
        if grid.flip(axes).same_as(wanted, SAME_GRID_MM):
            out["header"] = np.flip(mask_ZYX, axes)
    return out


def contrast(array_ZYX: Array, mask_ZYX: Array) -> float:
    """Difference of the mean HU inside a mask and in a shell round it; 0 for an empty one."""
    box = bounding_box(mask_ZYX)
    if box is None:
        return 0.0
    where = tuple(slice(max(a - SHELL_VOXELS, 0), b + SHELL_VOXELS) for a, b in zip(*box, strict=True))
    member, values = mask_ZYX[where] > 0, np.clip(array_ZYX[where].astype(np.float32), -1024, 1500)
    shell = ndimage.binary_dilation(member, iterations=SHELL_VOXELS) & ~member
    return float(abs(values[member].mean() - values[shell].mean())) if shell.any() else 0.0

"""`Volume`: an array with its grid and its physical unit, and the one way to resample it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vol3d.boxes import crop_or_fill
from vol3d.errors import GeometryError
from vol3d.geometry import Grid
from vol3d.resampling import resample
from vol3d.types import AIR_HU, UNIT_OF, Array, Modality, Unit, Zyx

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
        fill, mask = FILL[self.modality], self.modality == "mask"
        return Volume(resample(self.array_ZYX, self.grid, grid, fill, nearest, mask=mask), grid, self.modality)

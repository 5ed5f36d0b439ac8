"""Peaks of the native PET that a claim can mean: the right SUVmax, on or near the slice, a lesion of their own.

Three kinds, in this order of trust: the peak lies within `NEAR_SLICES` of the slice; the peak lies further off but its
lesion is cut by the slice (reports also name the slice where a lesion is largest); and, for contours that leave out the
very hottest voxels, a voxel of that SUV on that very slice in a lesion at most `CONTOUR_SHARE` hotter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage

from preprocessing.weak_labels_region import Growth, Region, grow
from preprocessing.weak_labels_slices import Numbering, Series, slices_off
from preprocessing.weak_labels_text import Claim, SeriesName
from vol3d.measure import CONNECTIVITY_18
from vol3d.types import Array, Zyx
from vol3d.volume import Volume

NEAR_SLICES = 3.0
ON_SLICE = 0.5
CONTOUR_SHARE = 0.15


@dataclass(frozen=True, eq=False)
class Fit:
    """What a claim can mean under one numbering."""

    regions: list[Region]
    near: bool
    """True if their hottest voxels lie near the slice, False if the slice only cuts them."""
    reasons: list[str]
    """Why other peaks are not meant."""


@dataclass(eq=False)
class Peaks:
    """The local maxima of one PET, its lesions grown once each."""

    pet: Volume
    series: Mapping[SeriesName, Series]
    growth: Growth
    index_N3: Array = field(init=False)
    """Voxels that are no cooler than any of their 26 neighbours."""
    _grown: dict[tuple[Zyx, float], Region | str] = field(init=False, default_factory=dict)
    _found: dict[tuple[float, float], tuple[Array, Array, list[str]]] = field(init=False, default_factory=dict)

    _parted: tuple[float, Array, Array] | None = field(init=False, default=None)
    """What `_pieces` found last: it is asked for one claim several times."""

    def __post_init__(self) -> None:
        suv_ZYX = self.pet.array_ZYX
        self.index_N3 = np.argwhere((suv_ZYX == ndimage.maximum_filter(suv_ZYX, 3)) & (suv_ZYX > 0))
        self.suv_N = suv_ZYX[tuple(self.index_N3.T)]
        self.axial_mm = self.pet.grid.spacing_mm[Series(self.pet.grid).axial]

    def lesions(self, claim: Claim, numbering: Numbering) -> Fit:
        """Lesions whose hottest voxel has the claim's SUVmax and lies near its slice; if there is none, those that the
        slice cuts further off."""
        seeds_N3, faint_N3, reasons = self._of_value(claim)
        found: list[Region] = []
        cut: list[Region] = []
        near_N = self._off(claim, numbering, seeds_N3) <= NEAR_SLICES + 1e-6
        for seed, near in zip(seeds_N3, near_N, strict=True):
            region = self._lesion(_zyx(seed), claim.suv_max)
            if isinstance(region, str):
                reasons = [*reasons, region] if near else reasons
            elif near:
                _add(found, region)
            elif self._cut_by(region, claim, numbering):
                _add(cut, region)
        if not found and not cut and len(faint_N3) and (self._off(claim, numbering, faint_N3) <= NEAR_SLICES).any():
            reasons = [*reasons, f"SUV {claim.suv_max:g} is found only beside something hotter, not as a lesion's own"]
        return Fit(found or cut, bool(found), reasons)

    def beside(self, claim: Claim, numbering: Numbering) -> list[Region]:
        """Lesions a little hotter than the claim, with a voxel of its SUV on the very slice."""
        suv_ZYX = self.pet.array_ZYX
        index_N3 = np.argwhere(np.abs(suv_ZYX - claim.suv_max) <= claim.half_unit)
        index_N3 = index_N3[self._off(claim, numbering, index_N3) <= ON_SLICE]
        if not len(index_N3):
            return []
        labels_ZYX, hottest_L = self._pieces(claim)
        found: list[Region] = []
        for label in np.unique(labels_ZYX[tuple(index_N3.T)]):
            if label == 0 or hottest_L[label] * (1 - CONTOUR_SHARE) > claim.suv_max:
                continue
            seed = _zyx(np.argwhere((labels_ZYX == label) & (suv_ZYX == hottest_L[label]))[0])
            region = self._lesion(seed, claim.suv_max)
            if not isinstance(region, str) and region.mask_ZYX[tuple(index_N3.T)].any():
                found.append(region)
        return found

    def _of_value(self, claim: Claim) -> tuple[Array, Array, list[str]]:
        """Peaks of the claim's SUVmax: those that are the hottest of their lesion, the others, and reasons so far."""
        key = (claim.suv_max, claim.half_unit)
        if key not in self._found:
            matching_N = claim.matches(self.suv_N)
            index_N3, suv_N = self.index_N3[matching_N], self.suv_N[matching_N]
            own_N = np.zeros(0, bool)
            if len(index_N3):
                labels_ZYX, hottest_L = self._pieces(claim)
                own_N = hottest_L[labels_ZYX[tuple(index_N3.T)]] <= suv_N
            reasons = [] if len(index_N3) else [f"nothing in the PET has its maximum at SUV {claim.suv_max:g}"]
            self._found[key] = index_N3[own_N], index_N3[~own_N], reasons
        return self._found[key]

    def _pieces(self, claim: Claim) -> tuple[Array, Array]:
        """Pieces of the PET above the level that parts lesions of that SUVmax; the hottest value of each label."""
        level = (1 - self.growth.least_drop) * claim.suv_max
        if self._parted and self._parted[0] == level:
            return self._parted[1:]
        labels_ZYX, count = ndimage.label(self.pet.array_ZYX >= level, CONNECTIVITY_18)
        hottest = ndimage.maximum(self.pet.array_ZYX, labels_ZYX, np.arange(1, count + 1)) if count else []
        self._parted = level, labels_ZYX, np.concatenate([[np.inf], np.asarray(hottest)])
        return self._parted[1:]

    def _lesion(self, seed: Zyx, suv_max: float) -> Region | str:
        if (seed, suv_max) not in self._grown:
            self._grown[seed, suv_max] = grow(self.pet, seed, self.growth, suv_max)
        return self._grown[seed, suv_max]

    def _cut_by(self, region: Region, claim: Claim, numbering: Numbering) -> bool:
        return bool((self._off(claim, numbering, np.argwhere(region.mask_ZYX)) <= ON_SLICE).any())

    def _off(self, claim: Claim, numbering: Numbering, index_N3: Array) -> Array:
        return slices_off(claim, self.pet.grid.index_to_mm(index_N3), self.series, numbering, self.axial_mm)


def _add(found: list[Region], region: Region) -> None:
    """Two voxels of one lesion are one lesion."""
    if not any(other.mask_ZYX[region.seed] for other in found):
        found.append(region)


def _zyx(index: Array) -> Zyx:
    return int(index[0]), int(index[1]), int(index[2])

"""A lesion grown from its hottest voxel on the native PET: adaptive threshold, parting from hotter neighbours, leaks.

The threshold lies above the local background by `Growth.gain` times the square root of the contrast, so that its share
of the SUVmax falls as lesions get hotter (about 40% at SUV 3, 20% at SUV 8), as adaptive methods find it does
(Jentzen et al. 2007, doi 10.2967/jnumed.106.031864). A lesion so small that the scanner's blur makes its edge is cut at
a fixed share of the contrast instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage
from skimage.segmentation import watershed

from vol3d.boxes import bounding_box
from vol3d.errors import ConfigError
from vol3d.measure import CONNECTIVITY_18
from vol3d.types import Array, Zyx, ZyxMm
from vol3d.volume import Volume


@dataclass(frozen=True, kw_only=True)
class Growth:
    """How a region is grown; fitted on training patients (`benchmarks/weak_labels.py`)."""

    gain: float = 0.4
    """Threshold above background, in units of sqrt(SUV)."""
    closing_mm: float = 14.0
    """Gaps and necrotic hollows up to twice this wide are closed."""
    small_ml: tuple[float, float] = (15.0, 45.0)
    """Under the first volume blur makes the edge, over the second it does not; between them both rules are mixed."""
    small_share: float = 0.42
    """Share of the contrast at which a small lesion is cut."""
    least_drop: float = 0.4
    """Uptake must fall by this share of the SUVmax on every way to anything hotter, else the peak is part of that."""
    least_contrast: float = 1.5
    """SUVmax over local background."""
    reach_mm: tuple[float, ...] = (90.0, 250.0)
    """A lesion is looked for within the first distance of its hottest voxel along each axis, then within the next if
    it reaches that far: most are small, and searching a whole body for each takes seconds."""

    def __post_init__(self) -> None:
        if self.gain <= 0 or not 0 < self.small_share < 1 or not 0 < self.least_drop < 1 or self.closing_mm < 0:
            raise ConfigError(f"expected gain > 0, shares within 0 to 1 and closing_mm >= 0, found {self}")


@dataclass(frozen=True, eq=False)
class Region:
    """A lesion on the native PET grid."""

    mask_ZYX: Array
    """bool."""
    seed: Zyx
    """Its hottest voxel."""
    suv_max: float
    threshold_suv: float
    background_suv: float
    parted: bool
    """True if it touched something hotter and was cut at the valley between them."""


LEAST_VOXELS = 3
LARGEST_ML = 5000.0
_LEAKS = "leaks into its surroundings"
_SHELL_MM = (8.0, 25.0)
_AIR_SUV = 0.15
_AS_HOT, _APART = 0.98, 0.4
"""Foci of one tumour may be as hot as each other; two lesions are apart at 40% of the SUVmax."""
_TIGHTER, _JUMP, _JUMP_ML = 1.15, 3.0, 60.0
"""A threshold leaks if one 15% higher gives less than a third of its volume, and that is no small lesion's blur."""


def grow(pet: Volume, seed: Zyx, growth: Growth, suv_max: float | None = None) -> Region | str:
    """The lesion whose hottest voxel is `seed`, or why there is none.

    Args:
        pet: SUVbw on its own grid.
        seed: voxel index (z, y, x), a local maximum.
        growth: see there.
        suv_max: what the threshold is computed from; the seed's own value if not given.
    """
    found: Region | str = ""
    for number, reach_mm in enumerate(growth.reach_mm, 1):
        reach = [int(np.ceil(reach_mm / s)) for s in pet.grid.spacing_mm]
        start = tuple(max(0, p - r) for p, r in zip(seed, reach, strict=True))
        ends = zip(seed, reach, pet.grid.shape, strict=True)
        stop = tuple(min(n, p + r + 1) for p, r, n in ends)
        found = _grow_within(pet, seed, growth, suv_max, (start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))
        if number == len(growth.reach_mm) or not _reaches_out(found, start, stop, pet.grid.shape):
            break
    return found


def _grow_within(pet: Volume, seed: Zyx, growth: Growth, suv_max: float | None, start: Zyx, stop: Zyx) -> Region | str:
    spacing = pet.grid.spacing_mm
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    suv_ZYX = np.ascontiguousarray(pet.array_ZYX[box], np.float32)
    here = (seed[0] - start[0], seed[1] - start[1], seed[2] - start[2])
    hottest = float(suv_ZYX[here])
    hotter_ZYX = _rivals(suv_ZYX, here)
    valley = _valley(suv_ZYX, hotter_ZYX, here)
    if valley > (1 - growth.least_drop) * hottest:
        return f"SUV {hottest:.2f} is a secondary peak: a hotter voxel is reached without falling under {valley:.2f}"
    for share in (0.4, 0.7, 0.9):  # a faint lesion is one piece with its surroundings at the lower ones
        own_ZYX = _component(suv_ZYX >= max(share * hottest, np.nextafter(valley, np.inf, dtype=np.float32)), here)
        if own_ZYX.sum() * pet.grid.voxel_ml < LARGEST_ML / 5:
            break
    background = _background(suv_ZYX, own_ZYX, hotter_ZYX, spacing)
    if hottest < growth.least_contrast * background:
        return f"SUV {hottest:.2f} does not stand out from its surroundings ({background:.2f})"
    contrast = (hottest if suv_max is None else suv_max) - background
    threshold = background + min(growth.gain * contrast**0.5, 0.5 * contrast)
    loose_ml = float(_grown(suv_ZYX, hotter_ZYX, here, threshold, valley).sum()) * pet.grid.voxel_ml
    large = float(np.interp(np.log(loose_ml), np.log(growth.small_ml), (0.0, 1.0)))
    threshold = max(threshold, large * threshold + (1 - large) * (background + growth.small_share * contrast))
    found = _tightened(suv_ZYX, hotter_ZYX, here, threshold, valley, pet.grid.voxel_ml)
    if found is None:
        return f"the region of SUV {hottest:.2f} {_LEAKS} (background {background:.2f})"
    threshold, mask_ZYX = found
    voxels = int(mask_ZYX.sum())
    if voxels < LEAST_VOXELS:
        return f"SUV {hottest:.2f} is a spike of {voxels} voxels, smaller than any PET can show"
    mask_ZYX = _closed(mask_ZYX, growth.closing_mm, spacing) & ~hotter_ZYX if growth.closing_mm else mask_ZYX
    whole_ZYX = np.zeros(pet.grid.shape, bool)
    whole_ZYX[box] = mask_ZYX
    return Region(whole_ZYX, seed, hottest, threshold, background, valley >= threshold)


def _reaches_out(found: Region | str, start: Sequence[int], stop: Sequence[int], shape: Zyx) -> bool:
    """Whether a box was too small: the region ends at one of its faces within the image, or leaks."""
    if isinstance(found, str):
        return _LEAKS in found
    box = bounding_box(found.mask_ZYX)
    assert box is not None, "a region has voxels"
    return any(
        (low <= a and a > 0) or (high >= b and b < n)
        for low, high, a, b, n in zip(*box, start, stop, shape, strict=True)
    )


def _rivals(suv_ZYX: Array, seed: Zyx) -> Array:
    """What is hotter than the seed, and what is as hot but another piece at `_APART` of it: a lesion of its own."""
    hottest = float(suv_ZYX[seed])
    apart_ZYX = (suv_ZYX >= _AS_HOT * hottest) & ~_component(suv_ZYX >= _APART * hottest, seed)
    return (suv_ZYX > hottest) | apart_ZYX


def _component(members_ZYX: Array, seed: Zyx) -> Array:
    labels_ZYX, _ = ndimage.label(members_ZYX, CONNECTIVITY_18)
    return (labels_ZYX == labels_ZYX[seed]) & members_ZYX


def _valley(suv_ZYX: Array, hotter_ZYX: Array, seed: Zyx) -> float:
    """The highest level at which the seed and something hotter are one piece; 0 if under a tenth of the seed's."""
    low, high = 0.1 * float(suv_ZYX[seed]), float(suv_ZYX[seed])
    if not hotter_ZYX.any():
        return 0.0
    if not (_component(suv_ZYX >= low, seed) & hotter_ZYX).any():
        return 0.0
    for _ in range(7):  # to within a hundredth of the SUVmax
        middle = (low + high) / 2
        if (_component(suv_ZYX >= middle, seed) & hotter_ZYX).any():
            low = middle
        else:
            high = middle
    return low


def _grown(suv_ZYX: Array, hotter_ZYX: Array, seed: Zyx, threshold: float, valley: float) -> Array:
    """The component at a threshold; where it holds something hotter, the seed's side of the watershed."""
    region_ZYX = _component(suv_ZYX >= threshold, seed)
    if threshold > valley or not (region_ZYX & hotter_ZYX).any():
        return region_ZYX
    markers_ZYX = np.where(hotter_ZYX & region_ZYX, 2, 0)
    markers_ZYX[seed] = 1
    return watershed(-suv_ZYX, markers_ZYX, connectivity=CONNECTIVITY_18, mask=region_ZYX) == 1


def _tightened(
    suv_ZYX: Array, hotter_ZYX: Array, seed: Zyx, threshold: float, valley: float, voxel_ml: float
) -> tuple[float, Array] | None:
    """The first threshold from the given one up that does not leak, and its region; None if all do."""
    region_ZYX = _grown(suv_ZYX, hotter_ZYX, seed, threshold, valley)
    while threshold <= 0.7 * float(suv_ZYX[seed]):
        higher = threshold * _TIGHTER
        core_ZYX = _grown(suv_ZYX, hotter_ZYX, seed, higher, valley)
        volume, core = float(region_ZYX.sum()) * voxel_ml, float(core_ZYX.sum()) * voxel_ml
        if volume <= LARGEST_ML and (volume < _JUMP_ML or volume <= _JUMP * core):
            return threshold, region_ZYX
        threshold, region_ZYX = higher, core_ZYX
    return None


def _background(suv_ZYX: Array, own_ZYX: Array, hotter_ZYX: Array, spacing_mm: ZyxMm) -> float:
    """Median uptake of the tissue round a core; air and what is hotter are left out."""
    where = np.argwhere(own_ZYX)
    margin = [int(np.ceil(_SHELL_MM[1] / s)) + 1 for s in spacing_mm]
    low = np.maximum(where.min(axis=0) - margin, 0)
    box = tuple(slice(a, b) for a, b in zip(low, where.max(axis=0) + 1 + margin, strict=True))
    away_mm = ndimage.distance_transform_edt(~own_ZYX[box], sampling=spacing_mm)
    shell_ZYX = (away_mm > _SHELL_MM[0]) & (away_mm <= _SHELL_MM[1]) & (suv_ZYX[box] > _AIR_SUV) & ~hotter_ZYX[box]
    return float(np.median(suv_ZYX[box][shell_ZYX])) if shell_ZYX.any() else _AIR_SUV


def _closed(mask_ZYX: Array, radius_mm: float, spacing_mm: ZyxMm) -> Array:
    """Morphological closing with a ball, then holes filled; the image's edge is no tissue."""
    ball_ZYX = _ball(radius_mm, spacing_mm)
    reach = [n // 2 + 1 for n in ball_ZYX.shape]
    where = np.argwhere(mask_ZYX)
    low, high = np.maximum(where.min(axis=0) - reach, 0), where.max(axis=0) + 1 + reach
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    framed_ZYX = np.pad(mask_ZYX[box], [(r, r) for r in reach])
    closed_ZYX = ndimage.binary_fill_holes(ndimage.binary_closing(framed_ZYX, ball_ZYX))
    out_ZYX = mask_ZYX.copy()
    out_ZYX[box] |= closed_ZYX[tuple(slice(r, -r) for r in reach)]
    return out_ZYX


@lru_cache(maxsize=64)
def _ball(radius_mm: float, spacing_mm: ZyxMm) -> Array:
    half = [int(radius_mm / s + 1e-6) for s in spacing_mm]
    z, y, x = np.ogrid[tuple(slice(-h, h + 1) for h in half)]
    return (z * spacing_mm[0]) ** 2 + (y * spacing_mm[1]) ** 2 + (x * spacing_mm[2]) ** 2 <= radius_mm**2 + 1e-6

"""How a thing looks, measured: its density on CT and its tracer uptake, each beside the tissue around it.

Words such as "hyperdense" or "FDG-avid" compare a lesion with its surroundings, and "calcified" or "ground-glass" name
a range of CT numbers. Both can be measured in a mask, and then a word holds, does not hold, or cannot be told.
Arrays are [z, y, x] of one grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from vol3d.text.looks import Density, Uptake, density_of, uptake_of
from vol3d.types import Array, ZyxMm

LEAST_CORE, LEAST_AROUND = 8, 20
"""Voxels from which on a median is taken: of the thing without its edge, of the tissue around it."""
AROUND_MM = (5.0, 20.0)
"""The tissue around a thing lies this far from its edge: nearer, both share voxels."""
MUSCLE_HU = (-29.0, 150.0)
"""Skeletal muscle (as in Long et al., PLoS One 2019; 14:e0211629); also parenchyma, and neither fat, lung nor bone."""
AIR_HU, AIRED_HU = -950.0, -500.0
"""Lung lies between; below is air outside the body."""
GLASS_HU, SOLID_HU = -400.0, -160.0
"""A nodule of the lung is ground glass up to the first and solid from the second on; both thresholds are in use (Lee et
al., PLoS One 2018; 13:e0205490), so between them it may be either."""
CALCIUM_HU, CALCIFIED_HU = 130.0, 200.0
"""A small nodule may be calcified from the first on, and is from the second."""
CALCIUM_OVER = 150.0
"""HU over its surroundings from which on no contrast medium explains a bright thing in an enhanced organ."""
EQUAL_HU, APART_HU = 10.0, 20.0
"""A thing is called isodense up to the first difference to its organ, hypo- or hyperdense from the second on."""
BONE_EQUAL_HU, LYTIC_HU, SCLEROTIC_HU = 60.0, -100.0, 150.0
"""The same for bone, which varies more."""
AVID_TIMES, PALE_TIMES = 1.5, 1.4
"""Times the median uptake around it: avid from the first on, non-avid below the second."""
AVID_SUV, PALE_SUV = 2.0, 1.7
"""SUVbw, about that of the blood pool: what stays below the second is not called avid, whatever is around it."""


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """What was measured of one thing; None where there is no such image, or too little of it."""

    hu: float | None = None
    """Median CT number of its core, HU."""
    around_hu: float | None = None
    """Median of the organ around it."""
    densities: tuple[Density, ...] = ()
    """What it may be called, the most telling word first; none: it cannot be told."""
    certain: bool = False
    """The first of them holds beyond doubt."""
    suv: float | None = None
    """Highest uptake of its core, SUVbw in g/ml."""
    around_suv: float | None = None
    """Median uptake around it."""
    uptake: Uptake | None = None

    @property
    def density(self) -> Density | None:
        """The word for its density, where it is beyond doubt."""
        return self.densities[0] if self.certain else None

    def fits(self, text: str) -> bool | None:
        """Whether the words of a text on density and uptake hold; None if it has none, or they cannot be told."""
        density, uptake = density_of(text), uptake_of(text)
        verdicts = [
            density in self.densities if density and self.densities and density != "part-solid" else None,
            uptake == self.uptake if uptake and self.uptake else None,
        ]
        told = [v for v in verdicts if v is not None]
        return all(told) if told else None

    def called(self, text: str) -> bool:
        """Whether the text's word for density, where it has one, is the most telling one."""
        return density_of(text) in (None, *self.densities[:1])


def core_of(mask_ZYX: Array) -> Array:
    """The mask without its outermost voxels, which hold some of the surroundings; whole where too little would stay."""
    core = ndimage.binary_erosion(mask_ZYX)
    return core if np.count_nonzero(core) >= LEAST_CORE else mask_ZYX


def around(mask_ZYX: Array, spacing_ZYX_mm: ZyxMm) -> Array:
    """The tissue around a mask, between `AROUND_MM` from its edge."""
    distance = ndimage.distance_transform_edt(~mask_ZYX, sampling=spacing_ZYX_mm)
    return (distance > AROUND_MM[0]) & (distance <= AROUND_MM[1])


def organ_hu(ct_ZYX: Array, shell_ZYX: Array, organ_ZYX: Array | None) -> float | None:
    """Median CT number of the organ around a thing: within the organ's mask, else of soft tissue, else of air.

    None where neither makes up a good part of what is around.
    """
    if organ_ZYX is not None and np.count_nonzero(shell_ZYX & organ_ZYX) >= LEAST_AROUND:
        return float(np.median(ct_ZYX[shell_ZYX & organ_ZYX]))
    values = ct_ZYX[shell_ZYX]
    for low, high in (MUSCLE_HU, (AIR_HU, AIRED_HU)):
        inside = values[(values >= low) & (values <= high)]
        if inside.size >= max(LEAST_AROUND, 0.3 * values.size):
            return float(np.median(inside))
    return None


def organ_suv(pet_ZYX: Array, shell_ZYX: Array, organ_ZYX: Array | None) -> float | None:
    """Median SUVbw around a thing, within the organ's mask where enough of it is there; None where nothing is."""
    inside_ZYX = shell_ZYX if organ_ZYX is None else shell_ZYX & organ_ZYX
    if np.count_nonzero(inside_ZYX) < LEAST_AROUND:
        inside_ZYX = shell_ZYX
    return float(np.median(pet_ZYX[inside_ZYX])) if np.count_nonzero(inside_ZYX) >= LEAST_AROUND else None


def densities(hu: float, around_hu: float | None, organ: str | None) -> tuple[tuple[Density, ...], bool]:
    """What a thing may be called by its CT number, and whether the first word is beyond doubt.

    Args:
        hu: median of the thing.
        around_hu: of its organ.
        organ: as in vocabulary/places.yaml; None: not known.
    """
    if organ == "lung" or (around_hu is not None and around_hu <= AIRED_HU):
        return _of_nodule(hu)
    if organ == "bone":
        if around_hu is None:
            return (), False
        difference = hu - around_hu
        return _compared(difference, BONE_EQUAL_HU, LYTIC_HU, SCLEROTIC_HU, ("lytic", "isodense", "sclerotic"))
    if hu >= max(CALCIFIED_HU, -np.inf if around_hu is None else around_hu + CALCIUM_OVER):
        return ("calcified", "hyperdense"), True
    if organ == "mediastinum":
        return (("solid",), True) if hu >= EQUAL_HU else (("hypodense",), False)
    if around_hu is None:
        return (), False
    words: tuple[Density, Density, Density] = ("hypodense", "isodense", "hyperdense")
    found, certain = _compared(hu - around_hu, EQUAL_HU, -APART_HU, APART_HU, words)
    return (*found, "solid") if hu >= EQUAL_HU else found, certain


def _of_nodule(hu: float) -> tuple[tuple[Density, ...], bool]:
    if hu <= GLASS_HU or hu >= CALCIFIED_HU or SOLID_HU <= hu < CALCIUM_HU:
        return ("ground-glass" if hu <= GLASS_HU else "calcified" if hu >= CALCIFIED_HU else "solid",), True
    return (("ground-glass", "solid") if hu < SOLID_HU else ("calcified", "solid")), False


def uptake(suv: float, around_suv: float | None) -> Uptake | None:
    """Whether a thing is avid; None in the band between, or where nothing is known of its surroundings."""
    if suv < PALE_SUV:
        return "non-avid"
    if around_suv is None or suv < AVID_SUV:
        return None
    return "avid" if suv >= AVID_TIMES * around_suv else "non-avid" if suv < PALE_TIMES * around_suv else None


def _compared(
    difference: float, equal: float, low: float, high: float, words: tuple[Density, Density, Density]
) -> tuple[tuple[Density, ...], bool]:
    """Below, like or above; both words in the bands between, the nearer first."""
    below, like, above = words
    if difference <= low:
        return (below,), True
    if difference >= high:
        return (above,), True
    if abs(difference) <= equal:
        return (like,), True
    other = below if difference < 0 else above
    edge = low if difference < 0 else high
    return ((other, like) if abs(difference) > (equal + abs(edge)) / 2 else (like, other)), False

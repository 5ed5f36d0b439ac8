"""How a thing looks, measured: its density on CT and its tracer uptake, each beside the tissue around it.

Words such as "hyperdense" or "FDG-avid" compare a lesion with its surroundings, and "calcified" or "ground-glass" name
a range of CT numbers. Both can be measured in a mask, and then a word holds, does not hold, or cannot be told.
Arrays are [z, y, x] of one grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

from vol3d.text.looks import Density, Uptake, density_of, size_of, uptake_of
from vol3d.text.reports import organs_in
from vol3d.types import Array, ZyxMm

LEAST_CORE, LEAST_AROUND = 8, 20
"""Voxels from which on a median is taken: of the thing without its edge, of the tissue around it."""
AROUND_MM = (5.0, 20.0)
"""The tissue around a thing lies this far from its edge: nearer, both share voxels."""
SOFT_HU = (10.0, 150.0)
"""Muscle and parenchyma; below, voxels hold some fat (muscle: -29 to 150, Long et al., PLoS One 2019; 14:e0211629)."""
AIR_HU, AIRED_HU = -950.0, -500.0
"""Lung lies between; below is air outside the body."""
HOLLOW_HU, OVER_LUNG_HU = -800.0, 50.0
"""A thing in the lung that is darker than the first, or not lighter than its lung by the second, is no nodule."""
GLASS_HU, SOLID_HU = -400.0, -160.0
"""A nodule of the lung is ground glass up to the first and solid from the second on; both thresholds are in use (Lee et
al., PLoS One 2018; 13:e0205490), so between them it may be either."""
CALCIUM_HU, CALCIFIED_HU, CALCIFIED_ALONE_HU = 130.0, 200.0, 400.0
"""No calcium below the first; a nodule is calcified from the second on, and a thing in an unknown or enhanced place,
where contrast medium may be as bright, from the third."""
CALCIUM_OVER, NO_CALCIUM_OVER = 150.0, 120.0
"""HU over its organ from which on no contrast medium explains a bright thing, and below which none needs calcium."""
EQUAL_HU, APART_HU = 10.0, 20.0
"""A thing is isodense up to the first difference to its organ, hypo- or hyperdense from the second on."""
FLUID_HU, FIRM_HU = 10.0, 30.0
"""A node that is not denser than the first may be necrotic; from the second on it is not hypodense."""
BONE_EQUAL_HU, SCLEROTIC_HU = (-20.0, 60.0), 150.0
"""The same for bone, which varies more."""
AVID_TIMES, PALE_TIMES = 1.5, 1.4
"""Times the median uptake around it: avid from the first on, non-avid below the second."""
AVID_SUV, PALE_SUV = 2.0, 1.7
"""SUVbw, about that of the blood pool: what stays below the second is not called avid, whatever is around it."""

_EVERY: frozenset[Density] = frozenset(("ground-glass", "calcified", "hypodense", "isodense", "hyperdense"))


@dataclass(frozen=True)
class Judged:
    """What a CT number says of words for density; a word in neither cannot be told."""

    words: tuple[Density, ...] = ()
    """That may hold, the most telling first."""
    certain: bool = False
    """The first of them holds beyond doubt."""
    refuted: frozenset[Density] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Appearance:
    """What was measured of one thing; None where there is no such image, or too little of it."""

    hu: float | None = None
    """Median CT number of its core, HU."""
    around_hu: float | None = None
    """Median of the organ around it."""
    density: Judged = Judged()
    suv: float | None = None
    """Highest uptake of its core, SUVbw in g/ml."""
    around_suv: float | None = None
    """Median uptake around it."""
    uptake: Uptake | None = None
    organ: str | None = None
    """Where it lies, as in vocabulary/places.yaml; None: not known."""
    diameter_mm: float | None = None
    """Longest axial diameter."""
    sizes: Mapping[str, bool] = field(default_factory=dict)
    """Whether words for size hold, those that can be told."""

    @property
    def word(self) -> Density | None:
        """The word for its density, where it is beyond doubt."""
        return self.density.words[0] if self.density.certain else None

    def fits(self, text: str) -> bool | None:
        """Whether the words of a text on density, uptake and size hold; None if it has none, or they cannot be told.

        A text that names no organ means one in which its word is in use: "the lytic lesion" lies in a bone.
        """
        density, uptake = density_of(text), uptake_of(text)
        told: list[bool] = []
        if density in self.density.words or density in self.density.refuted:
            told.append(density in self.density.words)
        elif density and self.organ and not organs_in(text) and not in_use(density, self.organ):
            told.append(False)
        if uptake and self.uptake:
            told.append(uptake == self.uptake)
        if (size := size_of(text)) in self.sizes:
            told.append(self.sizes[str(size)])
        return all(told) if told else None

    def called(self, text: str) -> bool:
        """Whether the text's word for density, where it has one, is the most telling one."""
        return density_of(text) in (None, *self.density.words[:1])

    def record(self) -> dict[str, Any]:
        """For report.json."""
        own = {name: getattr(self, name) for name in ("hu", "around_hu", "suv", "around_suv", "uptake")}
        return {**own, "density": self.word, "possible_densities": list(self.density.words)}


def in_use(density: Density, organ: str) -> bool:
    """Whether a word for density is said of things in an organ: nobody calls a nodule of the lung hyperdense, for all
    are denser than lung."""
    match density:
        case "lytic" | "sclerotic":
            return organ == "bone"
        case "ground-glass" | "part-solid":
            return organ == "lung"
        case "hypodense" | "hyperdense":
            return organ not in ("lung", "bone")
        case "isodense":
            return organ != "lung"
        case "calcified":
            return organ != "bone"
    return True


def core_of(mask_ZYX: Array) -> Array | None:
    """The mask without its outermost voxels, which hold some of the surroundings; None where too little would stay."""
    core = ndimage.binary_erosion(mask_ZYX)
    return core if np.count_nonzero(core) >= LEAST_CORE else None


def around(mask_ZYX: Array, spacing_ZYX_mm: ZyxMm) -> Array:
    """The tissue around a mask, between `AROUND_MM` from its edge."""
    distance = ndimage.distance_transform_edt(~mask_ZYX, sampling=spacing_ZYX_mm)
    return (distance > AROUND_MM[0]) & (distance <= AROUND_MM[1])


def organ_hu(ct_ZYX: Array, shell_ZYX: Array, organ_ZYX: Array | None, *, only_organ: bool = False) -> float | None:
    """Median CT number of the organ around a thing: within the organ's mask, else of soft tissue, else of lung.

    None where neither makes up a good part of what is around.

    Args:
        ct_ZYX: HU.
        shell_ZYX: what is `around` it.
        organ_ZYX: the organ's mask, where there is one.
        only_organ: the organ is unlike the soft tissue beside it, so that nothing stands in for its mask.
    """
    if organ_ZYX is not None and np.count_nonzero(shell_ZYX & organ_ZYX) >= LEAST_AROUND:
        return float(np.median(ct_ZYX[shell_ZYX & organ_ZYX]))
    if only_organ:
        return None
    values = ct_ZYX[shell_ZYX]
    for low, high in (SOFT_HU, (AIR_HU, AIRED_HU)):
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


def judge_density(hu: float, around_hu: float | None, organ: str | None, *, small: bool = False) -> Judged:
    """What a thing may be called by its CT number, and what it may not.

    Args:
        hu: median of the thing.
        around_hu: of its organ.
        organ: as in vocabulary/places.yaml; None: not known.
        small: it has no core, so that `hu` is drawn towards its surroundings.
    """
    if organ == "lung" or (around_hu is not None and around_hu <= AIRED_HU):
        return _in_lung(hu, around_hu, small)
    if organ == "bone":
        return Judged() if around_hu is None else _in_bone(hu, around_hu)
    if around_hu is None or organ == "mediastinum":
        return _in_fat(hu, organ)
    difference = hu - around_hu
    if hu >= CALCIFIED_HU and difference >= CALCIUM_OVER:
        return Judged(("calcified", "hyperdense"), True, frozenset(("hypodense", "isodense", "ground-glass")))
    no_calcium = hu < CALCIUM_HU or difference < NO_CALCIUM_OVER
    spared: set[Density] = set() if no_calcium else {"calcified"}
    if abs(difference) <= EQUAL_HU:
        return Judged(("isodense",)) if small else Judged(("isodense",), True, _EVERY - {"isodense"})
    outer: Density = "hypodense" if difference < 0 else "hyperdense"
    if abs(difference) >= APART_HU:
        return Judged((outer,), True, _EVERY - {outer, *spared})
    nearer = abs(difference) > (EQUAL_HU + APART_HU) / 2
    return Judged((outer, "isodense") if nearer else ("isodense", outer), False, _EVERY - {outer, "isodense"})


def judge_uptake(suv: float, around_suv: float | None, organ: str | None = None) -> Uptake | None:
    """Whether a thing is avid; None in the band between, where its surroundings are not known, or in urine."""
    if suv < PALE_SUV:
        return "non-avid"
    if around_suv is None or (organ == "bladder" and suv < AVID_TIMES * around_suv):
        return None
    if suv < PALE_TIMES * around_suv:
        return "non-avid"
    return "avid" if suv >= max(AVID_SUV, AVID_TIMES * around_suv) else None


def _in_lung(hu: float, around_hu: float | None, small: bool) -> Judged:
    if hu < HOLLOW_HU or (around_hu is not None and hu < around_hu + OVER_LUNG_HU):
        return Judged()  # a cavity, a bulla
    if hu >= CALCIFIED_HU:
        return Judged(("calcified", "hyperdense"), True, frozenset(("ground-glass", "hypodense")))
    if hu >= CALCIUM_HU:
        return Judged(("calcified", "solid"), False, frozenset(("ground-glass",)))
    if hu >= SOLID_HU:
        doubt = small and hu >= 0  # calcium drawn below it would be smaller than a voxel
        return Judged(("solid",), True, frozenset(("ground-glass",) if doubt else ("ground-glass", "calcified")))
    if hu > GLASS_HU or small:
        return Judged(("ground-glass", "solid"), False, frozenset(() if small else ("calcified",)))
    return Judged(("ground-glass",), True, frozenset(("solid", "calcified")))


def _in_bone(hu: float, around_hu: float) -> Judged:
    difference = hu - around_hu
    lytic = -max(40.0, min(100.0, 0.5 * around_hu))  # bone that is thin already cannot lose as much
    if difference <= lytic:
        return Judged(("lytic", "hypodense"), True, frozenset(("sclerotic", "isodense", "hyperdense", "calcified")))
    if difference >= SCLEROTIC_HU:
        return Judged(("sclerotic", "hyperdense"), True, frozenset(("lytic", "isodense", "hypodense")))
    if BONE_EQUAL_HU[0] <= difference <= BONE_EQUAL_HU[1]:
        return Judged(("isodense",), True, frozenset(("lytic", "sclerotic")))
    outer: Density = "lytic" if difference < 0 else "sclerotic"
    edge, equal = (lytic, BONE_EQUAL_HU[0]) if difference < 0 else (SCLEROTIC_HU, BONE_EQUAL_HU[1])
    other: Density = "sclerotic" if difference < 0 else "lytic"
    nearer = abs(difference) > abs(equal + edge) / 2
    return Judged((outer, "isodense") if nearer else ("isodense", outer), False, frozenset((other,)))


def _in_fat(hu: float, organ: str | None) -> Judged:
    """Beside fat or what is not known: no word that compares, calcium only where no contrast medium is as bright."""
    if hu >= CALCIFIED_ALONE_HU:
        return Judged(("calcified", "hyperdense"), True, frozenset(("ground-glass", "hypodense")))
    if hu >= CALCIUM_HU:
        return Judged((), False, frozenset(("ground-glass",)))
    if organ != "mediastinum":
        return Judged((), False, frozenset(("calcified",)))
    words: tuple[Density, ...] = ("solid",) if hu >= FLUID_HU else ("hypodense", "solid")
    firm: tuple[Density, ...] = ("hypodense",) if hu >= FIRM_HU else ()
    return Judged(words, hu >= FLUID_HU, frozenset(("ground-glass", "calcified", *firm)))

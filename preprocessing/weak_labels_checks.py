"""Is a lesion where the sentence says, and is it none of the organs that every scan of this tracer shows?

Organs are known where the cache holds their masks (of TotalSegmentator, say, brought by the manifest); sides where the
whole width of the body is in view. What is not known decides nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from preprocessing.weak_labels_region import Region
from preprocessing.weak_labels_text import Claim
from vol3d.text.organs import side_of
from vol3d.text.reports import organs_in
from vol3d.types import Array, Zyx
from vol3d.volume import Volume

PHYSIOLOGICAL: dict[str, tuple[str, ...]] = {
    "FDG": ("brain", "heart", "kidney", "bladder"),
    "PSMA": ("kidney", "bladder", "liver", "spleen", "duodenum", "salivary", "parotid", "submandibular", "lacrimal"),
    "DOTA": ("spleen", "kidney", "bladder", "liver", "adrenal", "pituitary"),
    "fluciclovine": ("liver", "pancreas", "bladder"),
    "FAPI": ("kidney", "bladder"),
    "choline": ("liver", "kidney", "bladder", "spleen", "pancreas", "salivary", "parotid"),
    "fluoride": ("kidney", "bladder"),
}
"""Organs that a tracer always shows: a peak inside one is no lesion, unless the sentence names that organ."""

ORGAN_REACH_MM = 15.0
"""A lesion of an organ may bulge out of it, and the organ's mask may leave the lesion out."""
MIDLINE_MM = 25.0
"""Nearer to the middle than this, a lesion has no side."""
BODY_WIDTH_MM = 400.0
"""A field of view narrower than this is a cut-out, and the middle of it means nothing."""
BRAIN_ML = 150.0

_BODY_SUV = 0.2
_OF_HEAD = re.compile(
    r"\b(?:brain|cerebr\w*|cerebell\w*|intracranial|skull|head|frontal|temporal|parietal|occipital)\b"
)


@dataclass(frozen=True)
class Organs:
    """Masks of organs on the native PET grid, loaded when first asked for."""

    names: Mapping[str, str]
    """Mask name to its label in words, "left kidney"; masks of findings are no organs."""
    load: Callable[[str], Array]

    def near(self, wanted: Callable[[str], bool], seed: Zyx, reach: tuple[int, int, int]) -> bool | None:
        """Whether any mask whose label is wanted comes within `reach` voxels of the seed; None if there is no such."""
        box = tuple(slice(max(0, p - r), p + r + 1) for p, r in zip(seed, reach, strict=True))
        found = [name for name, label in self.names.items() if wanted(label)]
        return any(self.load(name)[box].any() for name in found) if found else None


def why_not(region: Region, claim: Claim, pet: Volume, organs: Organs) -> str | None:
    """What speaks against a lesion being the sentence's; None if nothing does."""
    spacing = pet.grid.spacing_mm
    where = f"the lesion of SUV {region.suv_max:.1f} at (x, y, z) {_mm(pet, region.seed)} mm"
    side = side_in_body(pet, region.seed)
    if claim.side and side and side != claim.side:
        return f"{where} is on the {side}, the sentence says {claim.side}"
    reach = tuple(int(np.ceil(ORGAN_REACH_MM / s)) for s in spacing)
    if (
        claim.organ
        and organs.near(lambda label: _is(label, claim), region.seed, (reach[0], reach[1], reach[2])) is False
    ):
        return f"{where} is not near the {claim.organ.replace('_', ' ')} that the sentence names"
    for organ in PHYSIOLOGICAL.get(claim.tracer or "", ()):
        named = organ == claim.organ or re.search(rf"\b{organ}", claim.sentence.lower())
        if not named and organs.near(lambda label, o=organ: o in label.split(), region.seed, (0, 0, 0)):  # type: ignore[misc]
            return f"{where} lies in the {organ}, which {claim.tracer} always shows, and the sentence does not name it"
    if claim.tracer == "FDG" and _brain_like(region, pet) and not _OF_HEAD.search(claim.sentence.lower()):
        return f"{where} is as large and high up as the brain, which the sentence does not name"
    return None


def side_in_body(pet: Volume, index: Zyx) -> str | None:
    """Left or right of the middle of the body's width around a voxel; None in the middle or where that is unknown."""
    axes = pet.grid.orientation
    lateral, axial = (next(a for a, code in enumerate(axes) if code in pair) for pair in ("RL", "SI"))
    spacing = pet.grid.spacing_mm
    if pet.grid.shape[lateral] * spacing[lateral] < BODY_WIDTH_MM:
        return None
    slab = int(np.ceil(10.0 / spacing[axial]))
    around = pet.array_ZYX.take(
        range(max(0, index[axial] - slab), min(pet.grid.shape[axial], index[axial] + slab + 1)), axial
    )
    held = (around > _BODY_SUV).sum(axis=tuple(a for a in range(3) if a != lateral))
    body = np.flatnonzero(held >= 4)
    if not len(body) or body[0] == 0 or body[-1] == pet.grid.shape[lateral] - 1:
        return None
    off_mm = (index[lateral] - (body[0] + body[-1]) / 2) * spacing[lateral]
    if abs(off_mm) < MIDLINE_MM:
        return None
    return "right" if (off_mm > 0) == (axes[lateral] == "R") else "left"


def _is(label: str, claim: Claim) -> bool:
    """Whether a mask's label is of the claim's organ, and of its side where both name one."""
    side = side_of(label)
    if claim.side and side and side != claim.side:
        return False
    return any(organ == claim.organ for _, _, organ in organs_in(label))


def _brain_like(region: Region, pet: Volume) -> bool:
    axial = next(a for a, code in enumerate(pet.grid.orientation) if code in "SI")
    size_mm = pet.grid.shape[axial] * pet.grid.spacing_mm[axial]
    if size_mm < 600 or region.mask_ZYX.sum() * pet.grid.voxel_ml < BRAIN_ML:
        return False
    top = region.seed[axial] * pet.grid.spacing_mm[axial]
    below_mm = size_mm - top if pet.grid.orientation[axial] == "S" else top
    return bool(below_mm < 200 and size_mm - below_mm > 400)


def _mm(pet: Volume, index: Zyx) -> str:
    return ", ".join(f"{v:.0f}" for v in pet.grid.index_to_mm(index))

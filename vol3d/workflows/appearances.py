"""How a found thing looks, measured on the common grid beside the tissue around it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy import ndimage

from vol3d.appearance import (
    AIR_HU,
    AROUND_MM,
    Appearance,
    around,
    core_of,
    judge_density,
    judge_uptake,
    organ_hu,
    organ_suv,
)
from vol3d.measure import diameters
from vol3d.text.reports import organs_in
from vol3d.types import Array, Zyx
from vol3d.workflows.evidence import Evidence, Part
from vol3d.workflows.found import place_of
from vol3d.workflows.known import Known
from vol3d.workflows.size_words import judge_size

OWN_MASK = frozenset({"lung", "liver", "spleen", "kidney", "pancreas", "adrenal", "bladder", "gallbladder", "bone"})
"""Organs that the structures of `known.WITNESSES` are themselves, so that the tissue around a thing lies in them."""


def phrases_near(known: Known) -> list[str]:
    """What has to be asked to know what lies around a thing."""
    return [*(t.phrase for t in known.plain), *known.sites.values()]


def appearance_of(part: Part, evidence: Evidence, known: Known) -> Appearance:
    """Measured once for each part, on the common grid."""
    if part not in evidence.appearances:
        evidence.appearances[part] = _measured(part, evidence, known)
    return evidence.appearances[part]


def _measured(part: Part, evidence: Evidence, known: Known) -> Appearance:
    entry, grid = evidence.entry, evidence.entry.grid
    start, stop = _window(part, grid.shape, grid.spacing_mm)
    mask_ZYX = _pasted([part], start, stop)
    near_ZYX = ndimage.binary_dilation(_pasted(_others(part, evidence, known), start, stop))
    core_ZYX, shell_ZYX = core_of(mask_ZYX), around(mask_ZYX, grid.spacing_mm) & ~near_ZYX
    small = core_ZYX is None
    inner_ZYX = mask_ZYX if core_ZYX is None else core_ZYX
    organ = next((o for _, _, o in reversed(organs_in(part.phrase))), None) or place_of(part, known, evidence)[1]
    organ_ZYX = _organ_mask(part, organ, evidence, known, start, stop)
    found = Appearance(organ=organ)
    if known.sizes and (size := diameters(mask_ZYX, grid.crop(start, stop))) is not None:
        sizes = judge_size(size.axial_long_mm, known.sizes)
        found = replace(found, diameter_mm=size.axial_long_mm, sizes=sizes)
    if "ct" in entry.images:
        ct_ZYX, seen_ZYX = entry.read("ct", start, stop), entry.coverage("ct", start, stop)
        if _mostly(seen_ZYX, inner_ZYX):
            hu = float(np.median(ct_ZYX[inner_ZYX & seen_ZYX]))
            around_hu = organ_hu(ct_ZYX, shell_ZYX & seen_ZYX, organ_ZYX, only_organ=organ in OWN_MASK - {"lung"})
            judged = judge_density(hu, around_hu, organ, small=small)
            found = replace(found, hu=hu, around_hu=around_hu, density=judged)
        shell_ZYX &= ct_ZYX > AIR_HU
    if "pet" in entry.images:
        pet_ZYX = entry.read("pet", start, stop)
        seen_ZYX = entry.coverage("pet", start, stop) & np.isfinite(pet_ZYX)
        if _mostly(seen_ZYX, inner_ZYX):
            suv = float(pet_ZYX[inner_ZYX & seen_ZYX].max())
            around_suv = organ_suv(pet_ZYX, shell_ZYX & seen_ZYX, organ_ZYX)
            found = replace(found, suv=suv, around_suv=around_suv, uptake=judge_uptake(suv, around_suv, organ))
    return found


def _mostly(seen_ZYX: Array, mask_ZYX: Array) -> bool:
    """Whether at least half of a mask was scanned: the rest is fill."""
    return bool(2 * np.count_nonzero(seen_ZYX & mask_ZYX) >= np.count_nonzero(mask_ZYX) > 0)


def _window(part: Part, shape: Zyx, spacing_mm: tuple[float, float, float]) -> tuple[Zyx, Zyx]:
    """The part's crop with room for the tissue around it."""
    reach = np.ceil(AROUND_MM[1] / np.array(spacing_mm)).astype(int)
    start, stop = np.maximum(np.array(part.start) - reach, 0), np.minimum(np.array(part.stop) + reach, shape)
    return (int(start[0]), int(start[1]), int(start[2])), (int(stop[0]), int(stop[1]), int(stop[2]))


def _others(part: Part, evidence: Evidence, known: Known) -> list[Part]:
    """Whatever else was found, and so is no healthy tissue."""
    phrases = [part.phrase, *(t.phrase for t in known.shown_by(evidence.entry.images))]
    evidence.ask(phrases)
    return [p for phrase in dict.fromkeys(phrases) for p in evidence.parts(phrase) if p is not part]


def _pasted(parts: list[Part], start: Zyx, stop: Zyx) -> Array:
    """bool, the crop start <= index < stop: members of any of the parts."""
    out_ZYX = np.zeros([b - a for a, b in zip(start, stop, strict=True)], bool)
    for part in parts:
        low = [max(a, b) for a, b in zip(part.start, start, strict=True)]
        high = [min(a, b) for a, b in zip(part.stop, stop, strict=True)]
        if all(a < b for a, b in zip(low, high, strict=True)):
            here = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, start, strict=True))
            there = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, part.start, strict=True))
            out_ZYX[here] |= part.member_ZYX[there]
    return out_ZYX


def _organ_mask(part: Part, organ: str | None, evidence: Evidence, known: Known, start: Zyx, stop: Zyx) -> Array | None:
    """The organ's own mask in the crop; None where the checkpoint knows none, or does not see it."""
    places = known.places("", (organ,), evidence.side_of(part)) if organ in OWN_MASK else None
    evidence.ask(places or [])
    if not places or not all(evidence.likely(p) for p in places):
        return None
    where = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    return np.any([evidence.mask(p)[where] for p in places], axis=0)

"""Lesions of a phantom: drawn so that only the words of a phrase tell them apart.

A lesion has a place (organ and side), a size, a density on CT and, in PET/CT, an uptake. Studies come as twins (left
and right of one organ, alike in everything else), as contrasts (an avid and a non-avid lesion in one organ) or mixed;
avid lesions may be invisible on CT and non-avid ones show on CT alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from preprocessing.phantom_anatomy import Anatomy, label_of
from preprocessing.phantom_shapes import Blob, rotation
from vol3d.types import Array

Uptake = Literal["avid", "non-avid"]

SIZES: dict[str, tuple[float, float]] = {"small": (10.5, 12.2), "medium": (15.5, 17.5), "large": (21.5, 26.0)}
"""Mean radius in mm; the gaps keep the words true for every measured lesion."""

PLACES: dict[str, tuple[str, ...]] = {
    "left lung": ("solid", "ground-glass", "calcified"), "right lung": ("solid", "ground-glass", "calcified"),
    "liver": ("hypodense", "hyperdense", "calcified", "isodense"),
    "spleen": ("hypodense", "hyperdense", "calcified", "isodense"),
    "left kidney": ("hypodense", "hyperdense", "isodense"), "right kidney": ("hypodense", "hyperdense", "isodense"),
    "mediastinum": ("solid", "calcified"),
    "spine": ("lytic", "sclerotic", "isodense"),
    "left paraspinal": ("hypodense", "calcified", "isodense"),
    "right paraspinal": ("hypodense", "calcified", "isodense"),
}  # fmt: skip
"""Tissues that can hold a lesion, and the densities that make sense there. Isodense lesions are always avid."""

PLACE_SIZES: dict[str, tuple[str, ...]] = {
    "left kidney": ("small", "medium"), "right kidney": ("small", "medium"), "mediastinum": ("small", "medium"),
    "spleen": ("small", "medium"), "spine": ("medium",),
    "left paraspinal": ("small", "medium"), "right paraspinal": ("small", "medium"),
}  # fmt: skip
"""Where the place has no room for every size."""

TWIN = {"left lung": "right lung", "left kidney": "right kidney", "left paraspinal": "right paraspinal"}
TWIN |= {right: left for left, right in TWIN.items()}

WEIGHT = {"left lung": 1.5, "right lung": 1.5, "liver": 2.2, "spleen": 1.0, "mediastinum": 1.3, "spine": 1.2}
"""How often a place is drawn; 0.7 for the others."""

_FIBONACCI = np.arange(40) + 0.5
_SPHERE = np.stack(
    [
        np.sqrt(1 - (1 - _FIBONACCI / 20) ** 2) * np.cos(2.399963 * _FIBONACCI),
        np.sqrt(1 - (1 - _FIBONACCI / 20) ** 2) * np.sin(2.399963 * _FIBONACCI),
        1 - _FIBONACCI / 20,
    ],
    axis=1,
)


@dataclass(frozen=True)
class Traits:
    """What words can say about a lesion; uptake is None where there is no PET to tell."""

    place: str
    size: str
    density: str
    uptake: Uptake | None


@dataclass(frozen=True, eq=False)
class Lesion:
    """A lesion with its traits, its shape and its ideal values; `suv` is None without PET."""

    id: str
    traits: Traits
    shape: Blob
    hu: float
    suv: float | None


def draw_lesions(
    rng: np.random.Generator,
    anatomy: Anatomy,
    places: list[str],
    inside_view: Callable[[Array, float], Array],
    number: tuple[int, int],
    with_pet: bool,
) -> list[Lesion]:
    """Between `number[0]` and `number[1]` lesions in `places`, apart from each other; fewer where there is no room.

    `inside_view(anatomy_N3, radius_mm)` says which spheres are wholly within the field of view.
    """
    lesions: list[Lesion] = []
    counts = np.arange(number[0], number[1] + 1)
    weights = counts**1.5 + 0.12 / 0.88 * (counts == 0) * max((counts**1.5).sum(), 1e-9)  # none in 12% of studies
    count = int(rng.choice(counts, p=weights / weights.sum()))
    for traits in _plan(rng, places, count, with_pet):
        radius = float(rng.uniform(*SIZES[traits.size]))
        centre = _find_room(rng, anatomy, traits.place, radius, inside_view, lesions)
        if centre is None:
            continue
        radii = radius * rng.uniform(0.88, 1.12, 3)
        wave = rng.normal(size=3) * 2
        shape = Blob(
            (float(centre[0]), float(centre[1]), float(centre[2])),
            (float(radii[0]), float(radii[1]), float(radii[2])),
            rotation(rng.uniform(-0.8, 0.8, 3)), 2.0, 0.06,
            (float(wave[0]), float(wave[1]), float(wave[2])), float(rng.uniform(0, 6.28)),
        )  # fmt: skip
        suv = _suv(rng, anatomy, traits) if with_pet else None
        lesions.append(Lesion(f"lesion_{len(lesions) + 1}", traits, shape, _hu(rng, anatomy, traits), suv))
    return lesions


def _plan(rng: np.random.Generator, places: list[str], count: int, with_pet: bool) -> list[Traits]:
    """Traits of the lesions to place, as twins, contrasts or single ones."""
    plan: list[Traits] = []
    if not places:
        return plan
    weights = np.array([WEIGHT.get(p, 0.7) for p in places])
    while len(plan) < count:
        first = _draw_traits(rng, str(rng.choice(places, p=weights / weights.sum())), with_pet)
        plan.append(first)
        kind = rng.random()
        if len(plan) == count:
            break
        twin = TWIN.get(first.place)
        if kind < 0.45 and twin in places:
            plan.append(replace(first, place=str(twin)))
        elif kind < 0.8 and first.uptake is not None:
            plan.append(_opposite(rng, first))
    return plan


def _draw_traits(rng: np.random.Generator, place: str, with_pet: bool) -> Traits:
    uptake: Uptake | None = ("avid" if rng.random() < 0.6 else "non-avid") if with_pet else None
    densities = [d for d in PLACES[place] if uptake == "avid" or d != "isodense"]
    density = str(rng.choice(densities))
    sizes = [
        s for s in PLACE_SIZES.get(place, tuple(SIZES)) if density not in ("isodense", "ground-glass") or s != "small"
    ]
    return Traits(place, str(rng.choice(sizes)), density, uptake)


def _opposite(rng: np.random.Generator, traits: Traits) -> Traits:
    """The same place with the other uptake."""
    while True:
        other = _draw_traits(rng, traits.place, True)
        if other.uptake != traits.uptake:
            return other


def _find_room(
    rng: np.random.Generator,
    anatomy: Anatomy,
    place: str,
    radius: float,
    inside_view: Callable[[Array, float], Array],
    taken: list[Lesion],
) -> Array | None:
    """A centre whose sphere (all but a thin rim, so that lesions may touch the surface) lies in the place."""
    parts = anatomy.parts_of(place)
    boxes = np.array([part.box() for part in parts])
    low, high = np.clip(boxes[:, 0].min(axis=0), -270, 270), np.clip(boxes[:, 1].max(axis=0), -270, 270)
    centres = rng.uniform(low, high, (400, 3))
    good = inside_view(centres, radius)
    for other in taken:
        apart = np.linalg.norm(centres - np.array(other.shape.centre), axis=1)
        good &= apart > radius + max(other.shape.radii) + 9.0
    depth = np.max([part.depth((centres[:, 0], centres[:, 1], centres[:, 2])) for part in parts], axis=0)
    centres = centres[good & (depth > 0.6 * radius)][:50]
    if not len(centres):
        return None
    rim = centres[:, None] + _SPHERE * (0.9 * radius)
    fits = (anatomy.tissue_at(rim.reshape(-1, 3)) == label_of(place)).reshape(len(centres), -1).all(axis=1)
    return centres[fits][0] if fits.any() else None


def _hu(rng: np.random.Generator, anatomy: Anatomy, traits: Traits) -> float:
    tissue = {"left kidney": "kidney", "right kidney": "kidney", "liver": "liver", "spleen": "spleen"}
    base = anatomy.hu[tissue.get(traits.place, "muscle")]
    boost = 40.0 if anatomy.contrast else 0.0
    low, high = {
        "hypodense": (max(base - 75 - boost, -35), max(base - 55 - boost, -15)),
        "hyperdense": (base + 70, base + 110),
        "calcified": (380, 650),
        "isodense": (base - 4, base + 4),
        "solid": (25, 60),
        "ground-glass": (-520, -380),
        "lytic": (30, 70),
        "sclerotic": (650, 950),
    }[traits.density]
    if traits.place == "spine" and traits.density == "isodense":
        low, high = anatomy.hu["bone"] - 45, anatomy.hu["bone"] - 35
    return float(rng.uniform(low, high))


def _suv(rng: np.random.Generator, anatomy: Anatomy, traits: Traits) -> float:
    """Avid: well over the organ's own uptake, and higher where blur will take more of it; else at or below it."""
    tissue = {"left lung": "lung", "right lung": "lung", "liver": "liver", "spleen": "spleen", "spine": "bone",
              "left kidney": "kidney", "right kidney": "kidney", "mediastinum": "blood"}  # fmt: skip
    base = anatomy.suv[tissue.get(traits.place, "muscle")]
    if traits.uptake == "non-avid":
        return float(max(base, 0.7) * rng.uniform(0.75, 1.0))
    recovery = {"small": 1.5, "medium": 1.1, "large": 1.0}[traits.size]
    return float(base + rng.uniform(3.5, 9.0) * recovery)

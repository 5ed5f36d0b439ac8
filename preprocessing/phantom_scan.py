"""The scanner of the phantoms: field of view, grids, blur, noise, and the tracer injection that SUV refers to."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter

from preprocessing.phantom_anatomy import TORSO_MM, Anatomy, label_of, paint
from preprocessing.phantom_lesions import PLACES, Lesion
from preprocessing.phantom_shapes import Lattice, rotation
from vol3d.errors import ConfigError
from vol3d.geometry import Grid
from vol3d.types import AIR_HU, Affine, Array, ZyxMm

View = Literal["torso", "chest", "abdomen"]
Orientation = Literal["plain", "varied", "oblique", "flipped"]

AXIS_CODES = ("SPL", "SAR", "SAL", "IPL", "SPR", "ASL", "LSP", "PIR")
"""Orders and directions that array axes come in; the first, a DICOM axial series, is the most frequent."""

F18_HALF_LIFE_S = 6586.2
OBLIQUE_MARGIN_MM = 20.0
"""Lesions keep this far from both ends of the field of view, so that a rotated grid holds them too."""


@dataclass(frozen=True, kw_only=True)
class PhantomOptions:
    """How large, how fine and how hard the studies are."""

    ct_spacing_mm: tuple[float, float] = (2.7, 3.5)
    """Range of CT voxel sizes; in-plane and between slices are drawn apart."""
    pet_spacing_mm: tuple[ZyxMm, ...] = ((3.0, 4.07, 4.07), (5.0, 4.07, 4.07), (3.27, 3.65, 3.65), (4.0, 4.0, 4.0))
    """PET voxel sizes (z, y, x) to draw from."""
    lesions: tuple[int, int] = (0, 6)
    """Fewest and most lesions of a study. The larger numbers are more frequent: with one lesion alone its phrase
    selects nothing, and a model that ignores the words would be right."""
    views: tuple[View, ...] = ("torso", "torso", "chest", "abdomen")
    """Fields of view to draw from."""
    orientation: Orientation = "varied"
    """Array axes: "plain" z, y, x growing to S, A, R; "flipped" any order and direction; "oblique" that and rotated by
    a few degrees; "varied" a mix of all. The body and its lesions do not depend on it."""
    ct_noise_hu: tuple[float, float] = (8.0, 16.0)
    """Range of the standard deviation of CT noise."""
    pet_noise: tuple[float, float] = (0.05, 0.12)
    """Range of PET noise: standard deviation at SUV 1, growing with the square root of SUV."""
    arms: float = 0.3
    """Share of studies with arms down."""
    resections: float = 0.12
    """Share of studies with one organ taken out (spleen, a kidney or the gallbladder)."""

    def __post_init__(self) -> None:
        for name in ("ct_spacing_mm", "ct_noise_hu", "pet_noise", "lesions"):
            low, high = getattr(self, name)
            if low < 0 or high < low:
                raise ConfigError(f"{name}: expected 0 <= low <= high, found {(low, high)}")
        if self.ct_spacing_mm[0] < 1 or not self.pet_spacing_mm or min(min(s) for s in self.pet_spacing_mm) < 1:
            raise ConfigError(
                f"expected voxel sizes of at least 1 mm, found ct_spacing_mm {self.ct_spacing_mm}, "
                f"pet_spacing_mm {self.pet_spacing_mm}"
            )
        if not self.views:
            raise ConfigError("views: expected at least one of torso, chest, abdomen, found none")


@dataclass(frozen=True, kw_only=True)
class Acquisition:
    """Who was scanned and how; everything is invented."""

    sex: Literal["F", "M"]
    age_years: int
    weight_kg: float
    scanner: str
    view: View
    scan_start: datetime.datetime
    """Start of the PET acquisition, the time SUV is decay-corrected to."""
    injection: datetime.datetime
    dose_bq: float
    """Activity at injection."""
    ct_noise_hu: float
    pet_noise: float
    psf_fwhm_mm: float

    @property
    def bq_per_ml_at_suv_1(self) -> float:
        """Activity concentration (Bq/ml at `scan_start`) of SUV 1: the decayed dose per gram of body weight."""
        waited_s = (self.scan_start - self.injection).total_seconds()
        return self.dose_bq * 2 ** (-waited_s / F18_HALF_LIFE_S) / (self.weight_kg * 1000)


def draw_acquisition(rng: np.random.Generator, options: PhantomOptions) -> Acquisition:
    """Draws patient, scanner, times and noise."""
    start = datetime.datetime(2023, 1, 2, 8) + datetime.timedelta(
        days=int(rng.integers(0, 700)), seconds=int(rng.integers(0, 8 * 3600))
    )
    weight = round(float(rng.uniform(52, 104)), 1)
    return Acquisition(
        sex="F" if rng.random() < 0.5 else "M",
        age_years=int(rng.integers(25, 86)),
        weight_kg=weight,
        scanner=str(rng.choice(["Simulated 16", "Simulated 64", "Simulated 128"])),
        view=str(rng.choice(options.views)),  # type: ignore[arg-type]
        scan_start=start,
        injection=start - datetime.timedelta(seconds=int(rng.integers(50 * 60, 75 * 60))),
        dose_bq=round(float(weight * rng.uniform(3.0e6, 4.5e6)), -4),
        ct_noise_hu=float(rng.uniform(*options.ct_noise_hu)),
        pet_noise=float(rng.uniform(*options.pet_noise)),
        psf_fwhm_mm=float(rng.uniform(6.0, 7.0)),
    )


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grids of a study, and the stretch of the world (mm along z) that both images surely hold."""

    ct: Grid
    pet: Grid | None
    z_range_mm: tuple[float, float]
    oblique: bool


def draw_geometry(
    rng: np.random.Generator, anatomy: Anatomy, view: View, options: PhantomOptions, with_pet: bool, stack: bool
) -> Geometry:
    """Field of view and grids; `stack` turns each grid into a right-handed stack of slices, as DICOM needs."""
    low, high = {
        "torso": TORSO_MM,
        "chest": (float(rng.uniform(-75, -30)), 174.0),
        "abdomen": (-238.0, float(rng.uniform(15, 55))),
    }[view]
    low, high = (float(v * anatomy.z_scale + anatomy.warp.shift[2]) for v in (low, high))
    across = 2 * (anatomy.half_width_mm + (72 if anatomy.arms else 16))
    above, below = anatomy.half_depth_mm + 16, anatomy.half_depth_mm + 34
    x, y, _ = anatomy.warp.shift
    centre = np.array([x, y + (above - below) / 2, (low + high) / 2])
    in_plane, between = (round(float(v), 3) for v in rng.uniform(*options.ct_spacing_mm, 2))
    ct = _box((high - low, above + below, across), (between, in_plane, in_plane), centre)
    spacing = options.pet_spacing_mm[int(rng.integers(len(options.pet_spacing_mm)))]
    ends = rng.uniform(-14, 14, 2)  # PET beds start and end elsewhere
    pet_centre = centre + np.array([0, 0, (ends[1] - ends[0]) / 2])
    pet = _box((high - low + ends.sum(), above + below + 12, across + 24), spacing, pet_centre)

    kind, (first, second), angles = (
        rng.random(),
        rng.random(2),
        np.radians(rng.uniform(2, 5, 3) * rng.choice([-1, 1], 3)),
    )
    wanted = options.orientation
    if wanted == "varied":
        wanted = "plain" if kind < 0.25 else "flipped" if kind < 0.75 else "oblique"
    if wanted == "oblique":
        turn = _about(centre, rotation(angles))
        ct, pet = Grid(ct.shape, turn @ ct.affine), Grid(pet.shape, turn @ pet.affine)
    if wanted != "plain":
        ct, pet = ct.to_orientation(_codes(first))[0], pet.to_orientation(_codes(second))[0]
    if stack:
        ct, pet = legal_stack(ct), legal_stack(pet)
    z_range = (low + OBLIQUE_MARGIN_MM + max(0.0, -ends[0]), high - OBLIQUE_MARGIN_MM - max(0.0, -ends[1]))
    return Geometry(ct, pet if with_pet else None, z_range, wanted == "oblique")


def _codes(draw: float) -> str:
    return AXIS_CODES[0] if draw < 0.4 else AXIS_CODES[int((draw - 0.4) / 0.6 * len(AXIS_CODES))]


def _box(size_mm: ZyxMm, spacing_mm: ZyxMm, centre: Array) -> Grid:
    """Canonical grid of about this size round a world (x, y, z), its origin rounded as a scanner would."""
    z, y, x = (round(size / step) for size, step in zip(size_mm, spacing_mm, strict=True))
    half = (np.array([x, y, z]) - 1) / 2 * np.array(spacing_mm[::-1])
    a, b, c = np.round(centre - half, 3).tolist()
    return Grid.from_spacing((z, y, x), spacing_mm, (a, b, c))


def _about(centre: Array, turn: Array) -> Affine:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn, centre - turn @ centre
    return affine


def legal_stack(grid: Grid) -> Grid:
    """The same voxels with slices (axis 0) in the order of the slice normal, row direction x column direction.

    PS3.3 C.7.6.2.1.1: the voxel axes (column index, row index, slice) of a DICOM series form a right-handed system.
    """
    return grid.flip((0,)) if is_left_handed(grid) else grid


def is_left_handed(grid: Grid) -> bool:
    """True if (x, y, z) voxel axes form a left-handed system in the world."""
    return bool(np.linalg.det(grid.affine_xyz[:3, :3]) < 0)


def share_in_view(anatomy: Anatomy, tissue: str, geometry: Geometry) -> float:
    """Share of a tissue (of its torso-long stretch, if it has no ends) that both images hold."""
    world = anatomy.sample(tissue)
    if not len(world):
        return 0.0
    inside = np.ones(len(world), bool)
    for grid in (geometry.ct, geometry.pet):
        if grid is not None:
            index = grid.mm_to_index(world)
            inside &= ((index >= -0.5) & (index <= np.array(grid.shape) - 0.5)).all(axis=1)
    return float(inside.mean())


def view_for_lesions(anatomy: Anatomy, geometry: Geometry) -> tuple[list[str], Callable[[Array, float], Array]]:
    """Places of which enough is in view to put lesions there, and the test whether a sphere is wholly in view.

    Both depend on the field of view along z alone, not on the orientation of the grids.
    """
    low, high = geometry.z_range_mm

    def inside(anatomy_N3: Array, radius_mm: float) -> Array:
        z = anatomy.warp.to_world(anatomy_N3)[:, 2]
        return (z - radius_mm >= low) & (z + radius_mm <= high)

    places = []
    for place in PLACES:
        z = anatomy.sample(place)[:, 2]
        if place not in anatomy.resected and len(z) and ((z > low) & (z < high)).mean() > 0.3:
            places.append(place)
    return places, inside


def scan_ct(
    rng: np.random.Generator, anatomy: Anatomy, lesions: list[Lesion], grid: Grid, noise_hu: float
) -> tuple[Array, Array, dict[str, Array]]:
    """CT in HU (int16), tissue labels (uint8) and a mask (bool) per lesion id."""
    lattice = Lattice.of_grid(grid, anatomy.warp)
    hu, _, labels = paint(anatomy, lattice, ct=True)
    masks = {}
    for lesion in lesions:
        masks[lesion.id] = _add_lesion(hu, labels, lattice, lesion, lesion.hu)
    hu = gaussian_filter(hu, [1.2 / s for s in grid.spacing_mm], truncate=2.5)
    hu += _noise(rng, grid, 1.4) * noise_hu
    return np.clip(np.rint(hu), AIR_HU, 3071).astype(np.int16), labels, masks


def scan_pet(
    rng: np.random.Generator, anatomy: Anatomy, lesions: list[Lesion], grid: Grid, noise: float, psf_fwhm_mm: float
) -> Array:
    """PET in SUVbw (float32): blurred by the point spread function, noise as of counts."""
    lattice = Lattice.of_grid(grid, anatomy.warp)
    _, suv, labels = paint(anatomy, lattice, pet=True)
    for lesion in lesions:
        _add_lesion(suv, labels, lattice, lesion, float(lesion.suv or 0.0))
    suv = gaussian_filter(suv, [psf_fwhm_mm / 2.3548 / s for s in grid.spacing_mm], truncate=3.0)
    suv += _noise(rng, grid, 2.5) * noise * np.sqrt(np.maximum(suv, 0.02))
    return np.maximum(suv, 0.0).astype(np.float32)


def _add_lesion(image: Array, labels: Array, lattice: Lattice, lesion: Lesion, value: float) -> Array:
    """Paints one lesion, within its own tissue only; returns its mask."""
    mask = np.zeros(labels.shape, bool)
    window = lattice.window(lesion.shape)
    depth = lesion.shape.depth(lattice.at(window))
    home = labels[window] == label_of(lesion.traits.place)
    mask[window] = (depth > 0) & home
    weight = np.clip(0.5 + depth / lattice.edge_mm, 0, 1).astype(np.float32) * home
    image[window] += weight * (value - image[window])
    return mask


def _noise(rng: np.random.Generator, grid: Grid, fwhm_mm: float) -> Array:
    """Smooth noise of standard deviation 1."""
    white = rng.standard_normal(grid.shape, dtype=np.float32)
    smooth = gaussian_filter(white, [fwhm_mm / 2.3548 / s for s in grid.spacing_mm], truncate=2.5)
    return smooth / smooth.std()

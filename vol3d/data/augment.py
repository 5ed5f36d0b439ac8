"""Augmentation of a patch: one affine step for space, then noise, blur and small shifts in physical units.

The patient is imagined rotated, scaled and mirrored about the centre of the body, so position channels stay on the
axes of the grid as they are at inference. Left and right are exchanged only together with the words
(`AugmentConfig.mirror_lr`). PET intensity is never scaled: an SUV is a measurement.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from vol3d.errors import ConfigError
from vol3d.types import Array, Zyx, ZyxMm


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What is varied, how far and how often. Every `*_probability` is per sample."""

    spatial_probability: float = 0.5
    """Rotation and scaling."""
    rotation_deg: tuple[float, float, float] = (15.0, 10.0, 10.0)
    """Largest angle about z, y and x."""
    scale: tuple[float, float] = (0.85, 1.15)
    """Smallest and largest factor; above 1 structures appear larger."""
    mirror_axes: tuple[Literal["z", "y"], ...] = ()
    """Mirrored half of the time, unless a phrase of the sample speaks of that direction (upper, anterior, L5)."""
    mirror_lr: Literal["none", "swap_words"] = "none"
    """swap_words: left and right are mirrored half of the time, with the sides in all phrases of the sample exchanged,
    where that is well defined for all of them. The body is then a mirrored one, its liver on the left."""
    wording: bool = True
    """Half of the time a phrase is put in other words: "the ...", "segment the ...", lower case."""
    intensity_probability: float = 0.2
    """Each of noise, blur, HU shift and contrast, low resolution."""
    ct_noise_hu: float = 20.0
    """Largest standard deviation of Gaussian noise."""
    ct_shift_hu: float = 10.0
    """Largest shift of the whole patch."""
    ct_contrast: float = 0.05
    """HU are multiplied by up to 1 plus or minus this: about water, as another tube voltage does."""
    blur_voxels: float = 1.0
    """Largest standard deviation of the blur of CT and PET."""
    low_resolution: float = 2.0
    """Largest factor by which CT or PET is sampled down and up again; 1 for never."""
    pet_noise: float = 0.1
    """Largest a in noise of standard deviation a * sqrt(SUV)."""
    misalign_probability: float = 0.0
    """CT moved against PET, as breathing and posture do."""
    misalign_deg: float = 5.0
    """Largest angle of that about each axis."""
    misalign_mm: float = 5.0
    """Largest shift of that along each axis."""
    masks_follow: Literal["pet", "ct"] = "pet"
    """Which of the two the masks stay on."""
    drop_ct_probability: float = 0.0
    """A PET/CT study is shown without its CT."""
    drop_pet_probability: float = 0.0
    """A PET/CT study is shown without its PET, which trains for CT alone."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith("_probability") and not 0 <= value <= 1:
                raise ConfigError(f"expected {name} between 0 and 1, found {value}")
        if self.drop_ct_probability + self.drop_pet_probability > 1:
            raise ConfigError("expected drop_ct_probability + drop_pet_probability of at most 1: one image must stay")
        if not 0.25 <= self.scale[0] <= self.scale[1] <= 4:
            raise ConfigError(f"expected scale (smallest, largest) within 0.25..4, found {self.scale}")
        if any(not 0 <= a <= 180 for a in (*self.rotation_deg, self.misalign_deg)):
            raise ConfigError("expected rotation_deg and misalign_deg within 0..180")
        for name in ("ct_noise_hu", "ct_shift_hu", "blur_voxels", "pet_noise", "misalign_mm"):
            if getattr(self, name) < 0:
                raise ConfigError(f"expected {name} of 0 or more, found {getattr(self, name)}")
        if not 0 <= self.ct_contrast < 1 or self.low_resolution < 1:
            raise ConfigError("expected ct_contrast in 0..1 and low_resolution of at least 1")


OFF = AugmentConfig(spatial_probability=0, intensity_probability=0, wording=False)
"""Changes nothing."""


# -- space ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Placement:
    """Where the voxels of a patch come from: offset_mm in the source = matrix @ offset_mm in the patch + shift_mm.

    Both offsets are (z, y, x) from the same point, the centre of the patch.
    """

    matrix: Array
    shift_mm: Array

    def box(self, start: Zyx, size: Zyx, spacing_mm: ZyxMm) -> tuple[Zyx, Zyx]:
        """The source voxels start <= index < stop that the patch at `start` needs."""
        reach, centre = self._voxels(start, size, spacing_mm)
        half = np.abs(reach) @ ((np.array(size) - 1) / 2)
        low = np.floor(centre - half - 1e-4).astype(int)
        high = np.ceil(centre + half + 1e-4).astype(int) + 1
        return (int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2]))

    def grid(self, start: Zyx, size: Zyx, spacing_mm: ZyxMm, box: tuple[Zyx, Zyx]) -> Tensor:
        """Sampling positions [1, Z, Y, X, 3] of the patch inside the source box, for `grid_sample`."""
        reach, centre = self._voxels(start, size, spacing_mm)
        span = np.maximum(np.array(box[1]) - np.array(box[0]) - 1, 1)
        linear = reach * (np.array(size) - 1)[None] / span[:, None]
        offset = 2 * (centre - np.array(box[0])) / span - 1
        theta = np.concatenate([linear[::-1, ::-1], offset[::-1, None]], axis=1)  # torch wants x, y, z
        theta_133 = torch.from_numpy(theta.astype(np.float32))[None]
        return functional.affine_grid(theta_133, [1, 1, *size], align_corners=True)

    def _voxels(self, start: Zyx, size: Zyx, spacing_mm: ZyxMm) -> tuple[Array, Array]:
        spacing = np.array(spacing_mm)
        matrix = np.asarray(self.matrix) * spacing[None] / spacing[:, None]
        return matrix, np.array(start) + (np.array(size) - 1) / 2 + self.shift_mm / spacing


@dataclass(frozen=True)
class Motion:
    """One draw of the spatial augmentation: where CT, PET and masks come from, and whether sides changed."""

    ct: Placement
    pet: Placement
    masks: Placement
    flips: tuple[int, ...]
    """Mirrored axes."""
    turned: bool
    """False: nothing but the flips happened, and voxels need no interpolation."""

    @property
    def mirrored(self) -> bool:
        """True if left and right were exchanged."""
        return 2 in self.flips

    def body_offset_mm(self, offset_mm_3: Array) -> Array:
        """Where the patch's centre, `offset_mm_3` (z, y, x) from the body's centre, lies in the moved body."""
        return np.linalg.solve(np.asarray(self.masks.matrix, float), offset_mm_3)


def draw_motion(
    rng: np.random.Generator, config: AugmentConfig, may_flip: tuple[bool, bool, bool], paired: bool
) -> Motion:
    """Draws one motion; always takes the same number of random values, so that options do not shift later draws.

    Args:
        rng: this sample's generator.
        config: ranges.
        may_flip: whether the sample's phrases allow mirroring along z, y and x.
        paired: whether there are a CT and a PET to misalign.
    """
    values = rng.random(3 + 1 + 3 + 1 + 1 + 6)
    wanted = ("z" in config.mirror_axes, "y" in config.mirror_axes, config.mirror_lr == "swap_words")
    flips = tuple(a for a in range(3) if wanted[a] and may_flip[a] and values[a] < 0.5)
    matrix = np.diag([-1.0 if a in flips else 1.0 for a in range(3)])
    turned = bool(values[3] < config.spatial_probability)
    if turned:
        factor = np.exp(np.log(config.scale[0]) + values[7] * np.log(config.scale[1] / config.scale[0]))
        matrix = _rotation((2 * values[4:7] - 1) * config.rotation_deg) @ matrix / factor
    still = Placement(matrix, np.zeros(3))
    moved = still
    if paired and values[8] < config.misalign_probability:
        turn = _rotation((2 * values[9:12] - 1) * config.misalign_deg)
        moved, turned = Placement(turn @ matrix, (2 * values[12:15] - 1) * config.misalign_mm), True
    return Motion(moved, still, still if config.masks_follow == "pet" or not paired else moved, flips, turned)


def _rotation(angles_deg: Array) -> Array:
    """Rotation of (z, y, x) vectors by angles about z, y and x."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(angles_deg)):
        i, j = [a for a in range(3) if a != axis]
        step = np.eye(3)
        step[i, i] = step[j, j] = np.cos(angle)
        step[i, j], step[j, i] = -np.sin(angle), np.sin(angle)
        matrix = step @ matrix
    return matrix


def resample_CZYX(arrays: list[Tensor], grid: Tensor) -> Tensor:
    """float32 [C, Z, Y, X]: linear samples of equally large boxes at the positions of `Placement.grid`."""
    stack = torch.stack([a.to(torch.float32) for a in arrays])[None]
    return functional.grid_sample(stack, grid, mode="bilinear", padding_mode="border", align_corners=True)[0]


# -- intensity ------------------------------------------------------------------------------------------------------


def vary_ct(ct_ZYX: Tensor, rng: np.random.Generator, config: AugmentConfig) -> Tensor:
    """HU with noise, blur, a small shift and contrast about water, and low resolution; each now and then."""
    draws, sizes = rng.random(5), rng.random(5)
    on = draws < config.intensity_probability
    out = ct_ZYX
    if on[0]:
        out = _blur(out, sizes[0] * config.blur_voxels)
    if on[1]:
        out = _low_resolution(out, 1 + sizes[1] * (config.low_resolution - 1))
    if on[2]:
        out = out * float(1 + (2 * sizes[2] - 1) * config.ct_contrast)
    if on[3]:
        out = out + float((2 * sizes[3] - 1) * config.ct_shift_hu)
    if on[4]:
        out = out + _noise(rng, out) * float(sizes[4] * config.ct_noise_hu)
    return out


def vary_pet(pet_ZYX: Tensor, rng: np.random.Generator, config: AugmentConfig) -> Tensor:
    """SUV with blur, low resolution and zero-mean noise; never scaled."""
    draws, sizes = rng.random(3), rng.random(3)
    on = draws < config.intensity_probability
    out = pet_ZYX
    if on[0]:
        out = _blur(out, sizes[0] * config.blur_voxels)
    if on[1]:
        out = _low_resolution(out, 1 + sizes[1] * (config.low_resolution - 1))
    if on[2]:
        out = out + _noise(rng, out) * out.clamp(min=0).sqrt() * float(sizes[2] * config.pet_noise)
    return out


def _noise(rng: np.random.Generator, like: Tensor) -> Tensor:
    return torch.from_numpy(rng.standard_normal(like.shape, dtype=np.float32))


def _blur(image_ZYX: Tensor, sigma: float) -> Tensor:
    if sigma < 0.2:  # the kernel would be a delta
        return image_ZYX
    return torch.from_numpy(ndimage.gaussian_filter(image_ZYX.numpy(), sigma, mode="nearest", truncate=3.0))


def _low_resolution(image_ZYX: Tensor, factor: float) -> Tensor:
    size = [max(1, round(n / factor)) for n in image_ZYX.shape]
    small = functional.interpolate(image_ZYX[None, None], size=size, mode="nearest-exact")
    return functional.interpolate(small, size=list(image_ZYX.shape), mode="trilinear")[0, 0]

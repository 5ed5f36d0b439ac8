"""What the speed benchmarks work on: a realistic whole-body CT with PET, written once, and small phantoms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from preprocessing.manifest import write_manifest
from preprocessing.phantom import PhantomOptions, generate_study
from vol3d.export.nifti import write_nifti
from vol3d.geometry import Grid
from vol3d.resampling import resample
from vol3d.types import AIR_HU, Array, Zyx

CT_SHAPE, CT_SPACING_MM = (600, 512, 512), (1.0, 0.84, 0.84)
PET_SHAPE, PET_SPACING_MM = (200, 168, 168), (3.0, 4.07, 4.07)
NOISE_HU, NOISE_VOXELS = 12.0, 0.7
"""Standard deviation of the CT's noise, and how far it reaches from voxel to voxel: that of a soft-tissue kernel."""
MASKS = ("liver", "spleen", "left lung", "right lung")


def whole_body(folder: Path, shape: Zyx = CT_SHAPE) -> Path:
    """A study folder with ``ct.nii.gz`` (int16 HU), ``pet.nii.gz`` (SUV), masks and ``manifest.jsonl``; made once.

    The anatomy is a phantom's, stretched over the field of view; the noise is drawn on the final grid, so that nothing
    compresses better than in a real scan.
    """
    study = folder / "x".join(map(str, shape))
    if (study / "manifest.jsonl").exists():
        return study
    study.mkdir(parents=True, exist_ok=True)
    options = PhantomOptions(
        ct_spacing_mm=(2.0, 2.0), ct_noise_hu=(0.0, 0.0), pet_noise=(0.0, 0.0), views=("torso",), orientation="plain",
        arms=0.0, resections=0.0,
    )  # fmt: skip
    plain = generate_study(0, 7, kind="petct", options=options)
    assert plain.pet is not None
    rng = np.random.default_rng(0)
    spacing = tuple(s * f / n for s, f, n in zip(CT_SPACING_MM, CT_SHAPE, shape, strict=True))
    grid = Grid.from_spacing(shape, (spacing[0], spacing[1], spacing[2]), (-215.0, -215.0, -300.0))
    write_nifti(study / "ct.nii.gz", _ct(plain.ct.array_ZYX, shape, rng), grid)
    centre = grid.index_to_mm((np.array(shape) - 1) / 2)
    x, y, z = centre - (np.array(PET_SHAPE[::-1]) - 1) / 2 * np.array(PET_SPACING_MM[::-1])
    pet_grid = Grid.from_spacing(PET_SHAPE, PET_SPACING_MM, (float(x), float(y), float(z)))
    write_nifti(study / "pet.nii.gz", _pet(plain.pet.array_ZYX, rng), pet_grid)
    rows = []
    for name in MASKS:
        label = name.replace(" ", "_")
        if label not in plain.masks:
            continue
        mask_ZYX = _stretched(plain.masks[label].astype(np.float32), shape, 0.0) >= 0.5
        write_nifti(study / f"{label}.nii.gz", mask_ZYX, grid)
        rows.append({"path": f"{label}.nii.gz", "phrases": [name], "label": label})
    row = {"study_id": "whole-body", "ct": "ct.nii.gz", "pet": "pet.nii.gz", "masks": rows, "split": "train"}
    write_manifest([row], study / "manifest.jsonl")
    return study


def _ct(plain_ZYX: Array, shape: Zyx, rng: np.random.Generator) -> Array:
    out_ZYX = _stretched(plain_ZYX.astype(np.float32), shape, float(AIR_HU))
    scale = NOISE_HU * (2 * np.sqrt(np.pi) * NOISE_VOXELS) ** 1.5  # what the filter takes from the deviation
    edge = 4
    for first in range(0, shape[0], 50):  # in slabs: the noise of the whole would take as much memory as the volume
        depth = min(50, shape[0] - first)
        noise_ZYX = rng.standard_normal((depth + 2 * edge, *shape[1:]), dtype=np.float32)
        out_ZYX[first : first + depth] += gaussian_filter(noise_ZYX, NOISE_VOXELS)[edge : edge + depth] * scale
    return np.clip(np.rint(out_ZYX), AIR_HU, 3071).astype(np.int16)


def _pet(plain_ZYX: Array, rng: np.random.Generator) -> Array:
    out_ZYX = np.zeros(PET_SHAPE, np.float32)
    y, x = ((n - m) // 2 for n, m in zip(PET_SHAPE[1:], plain_ZYX.shape[1:], strict=True))
    body = (PET_SHAPE[0], plain_ZYX.shape[1], plain_ZYX.shape[2])
    out_ZYX[:, y : y + body[1], x : x + body[2]] = _stretched(plain_ZYX, body, 0.0)
    noise_ZYX = gaussian_filter(rng.standard_normal(PET_SHAPE, dtype=np.float32), 0.8)
    out_ZYX += noise_ZYX / noise_ZYX.std() * 0.08 * np.sqrt(np.maximum(out_ZYX, 0.02))
    return np.maximum(out_ZYX, 0.0)


def _stretched(array_ZYX: Array, shape: Zyx, fill: float) -> Array:
    """Linear; in plane at its own aspect ratio, with `fill` round it."""
    _, y, x = array_ZYX.shape
    scale = min(shape[1] / y, shape[2] / x)
    inside = (shape[0], min(shape[1], round(y * scale)), min(shape[2], round(x * scale)))
    box = tuple(n / m for n, m in zip(inside, array_ZYX.shape, strict=True))
    source = Grid.from_spacing(array_ZYX.shape, (box[0], box[1], box[2]), _first(array_ZYX.shape, box))
    target = Grid.from_spacing(shape, (1.0, 1.0, 1.0), _first(shape, (1.0, 1.0, 1.0)))
    return resample(array_ZYX, source, target, fill)


def _first(shape: Sequence[int], spacing: Sequence[float]) -> tuple[float, float, float]:
    """World (x, y, z) of the first voxel of a grid about 0."""
    z, y, x = (-(n - 1) / 2 * s for n, s in zip(shape, spacing, strict=True))
    return x, y, z

"""Equivalent inputs: the same study with other noise, in a frame shifted by some voxels, or stored along other axes.

Where an array changes, its grid changes with it: nothing moves in the world, the field of view stays but for a rim in
plane, and so the truth is the same. A reader must report the same of each.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from preprocessing.manifest import BadRow, Row, write_manifest
from preprocessing.options import DEFAULT
from preprocessing.reading import read_image
from vol3d.errors import Vol3dError
from vol3d.export.nifti import write_nifti
from vol3d.types import Array, Zyx
from vol3d.volume import Volume
from vol3d.workflows.inputs import studies_in

VariantKind = Literal["noise", "shift", "orientation"]
KINDS: tuple[VariantKind, ...] = get_args(VariantKind)

CT_NOISE_HU, PET_NOISE = 10.0, 0.03
"""Standard deviations: of a voxel's HU, and of its SUV relative to itself."""
SHIFT: Zyx = (0, 3, -3)
"""Voxels by which the frame moves; in plane alone, so that the ends of the scan stay where they are."""


def variant(volume: Volume, kind: VariantKind, seed: int = 0) -> Volume:
    """An equivalent of one image.

    Args:
        volume: CT or PET.
        kind: what changes.
        seed: of the noise.

    Raises:
        Vol3dError: no such kind.
    """
    if kind not in KINDS:
        raise Vol3dError(f"expected one of {', '.join(KINDS)}, found {kind!r}")
    return _MAKERS[kind](volume, seed)


def _noise(volume: Volume, seed: int) -> Volume:
    drawn_ZYX = np.random.default_rng(seed).standard_normal(volume.grid.shape, np.float32)
    if volume.modality == "ct":
        noisy_ZYX = volume.array_ZYX + CT_NOISE_HU * drawn_ZYX
        return Volume(_like(noisy_ZYX, volume.array_ZYX), volume.grid, volume.modality)
    noisy_ZYX = np.maximum(volume.array_ZYX * (1 + PET_NOISE * drawn_ZYX), 0)
    return Volume(noisy_ZYX.astype(np.float32), volume.grid, volume.modality)


def _like(array_ZYX: Array, old_ZYX: Array) -> Array:
    if old_ZYX.dtype.kind == "f":
        return array_ZYX.astype(old_ZYX.dtype)
    limits = np.iinfo(old_ZYX.dtype)
    return np.clip(np.rint(array_ZYX), limits.min, limits.max).astype(old_ZYX.dtype)


def _shift(volume: Volume, seed: int) -> Volume:
    z, y, x = volume.grid.shape
    return volume.crop(SHIFT, (z + SHIFT[0], y + SHIFT[1], x + SHIFT[2]))


def _orientation(volume: Volume, seed: int) -> Volume:
    return volume.permute((0, 2, 1)).flip((0, 2))


_MAKERS: dict[VariantKind, Callable[[Volume, int], Volume]] = {
    "noise": _noise, "shift": _shift, "orientation": _orientation,
}  # fmt: skip


def write_variants(source: Path, out: Path, kinds: Sequence[VariantKind] = KINDS) -> dict[str, Path]:
    """Writes every study of INPUT in each kind, as ``out/<kind>/<study>/{ct,pet}.nii.gz`` with a manifest.

    Args:
        source: a study folder or a manifest.
        out: folder, made if missing.
        kinds: what to change.

    Returns:
        The manifest of each kind: an INPUT of `vol3d report`.

    Raises:
        Vol3dError: a study cannot be read, or a kind is none.
    """
    rows = studies_in(source)
    manifests: dict[str, Path] = {}
    for kind in kinds:
        written = [_write(row, kind, out / kind) for row in rows]
        manifests[kind] = write_manifest(written, out / kind / "manifest.jsonl")
    return manifests


def _write(row: Row | BadRow, kind: VariantKind, folder: Path) -> dict[str, str]:
    if isinstance(row, BadRow):
        raise Vol3dError(f"expected studies that can be read, found {row.study_id}: {row.reason}")
    out = {"study_id": row.study_id, "patient_id": row.patient_id}
    (folder / row.study_id).mkdir(parents=True, exist_ok=True)
    for image in ("ct", "pet"):
        path = getattr(row, image)
        if path is None:
            continue
        volume = read_image(path, "ct" if image == "ct" else "pet", options=row.reading or DEFAULT).volume
        changed = variant(volume, kind, zlib.crc32(f"{row.study_id} {image}".encode()))
        out[image] = f"{row.study_id}/{image}.nii.gz"
        write_nifti(folder / out[image], np.ascontiguousarray(changed.array_ZYX), changed.grid)
    return out

"""Small volumes for folders of published layouts, and the caches that come of them."""

from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

from preprocessing.build_cache import preprocess
from preprocessing.manifest import write_manifest
from preprocessing.transforms import PreprocessConfig
from vol3d.cache import Cache
from vol3d.export.nifti import write_nifti
from vol3d.geometry import Grid

GRID = Grid.from_spacing((24, 40, 40), (4.0, 5.0, 5.0), (-97.5, -97.5, 0.0))
RECIPE = PreprocessConfig(
    spacing_mm=(4.0, 5.0, 5.0), extent="ct", body_crop=False, body_margin_mm=0.0, levels=1, chunk=32
)


def chest(seed=0):
    """HU, float: a body with two lungs and a spine, in air; anterior and posterior differ."""
    rng = np.random.default_rng(seed)
    _, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in GRID.shape], indexing="ij")
    hu = np.full(GRID.shape, -1000.0)
    hu[(x / 0.8) ** 2 + (y / 0.6) ** 2 < 1] = 40
    for side in (-0.38, 0.38):
        hu[((x - side) / 0.25) ** 2 + ((y - 0.1) / 0.35) ** 2 < 1] = -850
    hu[(x / 0.12) ** 2 + ((y + 0.4) / 0.12) ** 2 < 1] = 300
    return np.rint(hu + rng.normal(0, 12, hu.shape))


def box(start, stop):
    mask = np.zeros(GRID.shape, np.uint8)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 1
    return mask


def ct_file(path, array=None, grid=GRID):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(path, (chest() if array is None else array).astype(np.int16), grid)
    return path


def mask_file(path, array, grid=GRID):
    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(path, array.astype(np.uint8), grid)
    return path


def channels_file(path, masks, affine):
    """(findings, X, Y, Z), as ReXGroundingCT writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.stack([m.transpose(2, 1, 0) for m in masks]), affine), path)
    return path


def csv_file(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def cached(rows, folder):
    """The cache of manifest rows, and what was quarantined."""
    manifest = write_manifest(rows, Path(folder) / "manifest.jsonl")
    summary = preprocess(manifest, RECIPE, Path(folder) / "cache", show_progress=False)
    return Cache(Path(folder) / "cache"), summary


@pytest.fixture(name="make")
def maker():
    return SimpleNamespace(
        grid=GRID, recipe=RECIPE, chest=chest, box=box, ct=ct_file, mask=mask_file, channels=channels_file,
        csv=csv_file, cached=cached,
    )  # fmt: skip

"""A small cache of known content, written and read by the real code."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vol3d.cache import Cache, MaskRecord
from vol3d.cache_write import EntryData, create_cache, write_entry
from vol3d.geometry import Grid
from vol3d.volume import Volume

SPACING_MM = (4.0, 3.0, 2.0)
SHAPE = (40, 44, 48)


def study(
    study_id: str,
    *,
    images: tuple[str, ...] = ("ct", "pet"),
    masks: list[tuple[MaskRecord, np.ndarray]] | None = None,
    absent: tuple[str, ...] = (),
    split: str = "train",
    source_grids: dict[str, Grid] | None = None,
    body_center_mm: tuple[float, float, float] | None = None,
    arrays: dict[str, np.ndarray] | None = None,
    shape: tuple[int, int, int] = SHAPE,
) -> EntryData:
    """CT value 2*z + 20*y + 5*x - 500 HU and PET value (z + y + x) / 20 at voxel (z, y, x)."""
    grid = Grid.from_spacing(shape, SPACING_MM, (-50.0, -60.0, -70.0))
    z, y, x = np.ogrid[tuple(slice(n) for n in shape)]
    made = {"ct": (2 * z + 20 * y + 5 * x - 500).astype(np.int16), "pet": ((z + y + x) / 20).astype(np.float32)}
    made.update(arrays or {})
    attributes: dict[str, Any] = {
        "absent": list(absent),
        "split": split,
        "recipe_digest": "test",
        "fingerprint": study_id,
        "patient_key": study_id,
        "findings": [],
        "labels": {},
        "report": {},
        "meta": {},
        "slice_numbers": {},
        "body_center_mm": list(body_center_mm or grid.index_to_mm((np.array(shape) - 1) / 2)),
    }
    return EntryData(
        study_id=study_id,
        images={name: Volume(made[name], grid, name) for name in images},
        masks=masks or [],
        source_grids={name: (source_grids or {}).get(name, grid) for name in images},
        attributes=attributes,
        chunk=16,
    )


def box_mask(
    name: str,
    phrases: tuple[str, ...],
    start: tuple[int, int, int],
    stop: tuple[int, int, int],
    shape: tuple[int, int, int] = SHAPE,
    **more: Any,
) -> tuple[MaskRecord, np.ndarray]:
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = 1
    return MaskRecord(name=name, image="ct", phrases=phrases, **more), mask


def write(root: Path, *studies: EntryData) -> Cache:
    cache = create_cache(root, {}, "test")
    for data in studies:
        write_entry(cache.root, data)
    return Cache(cache.root)


@pytest.fixture
def make_cache(tmp_path: Path) -> Callable[..., Cache]:
    return lambda *studies: write(tmp_path / "cache", *studies)


@pytest.fixture
def make_study() -> Callable[..., EntryData]:
    return study


@pytest.fixture
def make_mask() -> Callable[..., tuple[MaskRecord, np.ndarray]]:
    return box_mask


@pytest.fixture(scope="session")
def torso(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """Six studies: two kidneys and a liver in each, a lesion in every second, absences in all."""
    studies = []
    for i in range(6):
        masks = [
            box_mask("kidney_left", ("left kidney", "Lt. kidney"), (5, 20, 4), (15, 30, 14), label="kidney_left"),
            box_mask("kidney_right", ("right kidney", "Rt. kidney"), (5, 20, 34), (15, 30, 44), label="kidney_right"),
            box_mask("adrenals", ("adrenal glands",), (16, 20, 4), (20, 30, 44), label="adrenals"),
        ]
        if i % 2:
            lesion = ("nodule in the left lung", "left pulmonary nodule")
            masks.append(box_mask("nodule", lesion, (30, 20, 8), (34, 24, 12), label="nodule", finding_id="f1"))
        absent = ("nodule in the right lung", "ascites")
        studies.append(study(f"s{i}", masks=masks, absent=absent, split="train" if i < 5 else "val"))
    return write(tmp_path_factory.mktemp("torso") / "cache", *studies)

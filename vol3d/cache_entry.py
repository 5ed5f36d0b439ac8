"""One study of the cache: a Zarr v3 group, written once (`vol3d.cache_write`), read lazily here.

Layout of ``<root>/studies/<study_id>.zarr`` (schema 1; `docs/cache-format.md`)::

    zarr.json                     our attributes under "vol3d": grids, masks, phrases, fingerprint, steps
    ct/  pet/                     OME-Zarr 0.5 multiscale images on one canonical grid: int16 HU, float32 SUVbw
    <image>/labels/<name>/        uint8 0/1, one array a mask, so that overlapping masks never erase each other
    pet_native/  and its labels/  float32 SUVbw on the scanner's grid: every SUV figure is computed here
    index/foreground              int32 [N, 3], voxels of every mask, so that the loader scans nothing

Attributes are plain JSON and read with `json`; arrays are read by `vol3d.arrays`, opened on first use in each process.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from vol3d.arrays import Stored, open_array
from vol3d.boxes import crop_or_fill
from vol3d.errors import CacheError, ManifestError
from vol3d.geometry import Grid
from vol3d.types import Array, Zyx
from vol3d.volume import FILL, Volume

SCHEMA = 1

_REQUIRED = ("study_id", "images", "grid", "source_grids", "masks", "levels")
"""What every entry's record has, whoever wrote it."""

_STUDY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def check_study_id(study_id: str) -> str:
    """The id itself, if it can be a file name on every system.

    Raises:
        ManifestError: anything but 1 to 128 letters, digits, ``.``, ``_`` and ``-``, starting with a letter or digit.
    """
    if not isinstance(study_id, str) or not _STUDY_ID.fullmatch(study_id):
        raise ManifestError(
            f"expected a study_id of 1 to 128 letters, digits, '.', '_' or '-', starting with a letter or digit, "
            f"found {study_id!r}; rename the study in the manifest"
        )
    return study_id


@dataclass(frozen=True, kw_only=True)
class MaskRecord:
    """One mask of an entry."""

    name: str
    """Array name under ``<image>/labels/``; unique in the entry, safe as a file name."""
    image: str
    """The image under which it is stored: ``ct`` where there is one, else ``pet``."""
    phrases: tuple[str, ...]
    """Wordings, each true of exactly this mask."""
    label: str | None = None
    """Class shared across studies (an organ's name), for balancing and tables."""
    finding_id: str | None = None
    """Id in the entry's `findings`."""
    source: str = "ct"
    """The image on whose grid the truth was drawn."""
    voxels: int = 0
    """Members on the common grid."""
    foreground: tuple[int, int] = (0, 0)
    """Rows of ``index/foreground``."""


class Entry:
    """One study of the cache, opened for reading.

    Raises:
        CacheError: there is no entry at the path, it is broken, or of another schema.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self.attributes: dict[str, Any] = json.loads((self.path / "zarr.json").read_text())["attributes"]["vol3d"]
            schema = self.attributes["schema"]
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise CacheError(
                f"expected a cache entry at {self.path}, found none that can be read ({error}); preprocess it again"
            ) from None
        if schema != SCHEMA:
            raise CacheError(f"expected cache schema {SCHEMA} at {self.path}, found {schema}; preprocess it again")
        if missing := [key for key in _REQUIRED if key not in self.attributes]:
            raise CacheError(
                f"expected {', '.join(_REQUIRED)} in {self.path / 'zarr.json'}, found no {missing[0]}; remove the "
                f"entry and preprocess it again"
            )
        self._stores: dict[tuple[int, str], Stored] = {}

    def __getattr__(self, name: str) -> Any:
        """Fields of the record that need no conversion: study_id, absent, findings, labels, report, meta, split..."""
        if name != "attributes" and name in self.__dict__.get("attributes", {}):
            return self.attributes[name]
        raise AttributeError(name)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "attributes": self.attributes, "_stores": {}}

    @cached_property
    def grid(self) -> Grid:
        """Common canonical grid of the images and masks."""
        return Grid.from_dict(self.attributes["grid"])

    @cached_property
    def source_grids(self) -> dict[str, Grid]:
        """Grid of each image as it came from its source."""
        return {name: Grid.from_dict(record) for name, record in self.attributes["source_grids"].items()}

    @property
    def images(self) -> tuple[str, ...]:
        """Which of ``ct`` and ``pet`` the study has."""
        return tuple(self.attributes["images"])

    @cached_property
    def masks(self) -> tuple[MaskRecord, ...]:
        """What is known to be there."""
        return tuple(
            MaskRecord(**{**m, "phrases": tuple(m["phrases"]), "foreground": tuple(m["foreground"])})
            for m in self.attributes["masks"]
        )

    def mask(self, name: str) -> MaskRecord:
        """The record of one mask."""
        for record in self.masks:
            if record.name == name:
                return record
        raise CacheError(f"{self.study_id}: no mask {name!r}; there are {[m.name for m in self.masks]}")

    def read(self, image: str, start: Zyx, stop: Zyx) -> Array:
        """Voxels start <= index < stop of ``ct`` (int16 HU) or ``pet`` (float32 SUVbw); outside the grid air or 0."""
        return self._read(f"{image}/0", start, stop, FILL["ct"] if image == "ct" else FILL["pet"])

    def read_mask(self, name: str, start: Zyx, stop: Zyx) -> Array:
        """The same of a mask, uint8 0/1."""
        return self._read(f"{self.mask(name).image}/labels/{name}/0", start, stop, 0)

    def read_level(self, image: str, level: int) -> Volume:
        """A whole level of the pyramid with its grid; level 0 is the common grid."""
        array = self._whole(f"{image}/{level}")
        return Volume(array, level_grid(self.grid, level), "ct" if image == "ct" else "pet")

    def coverage(self, image: str, start: Zyx, stop: Zyx) -> Array:
        """bool: the voxel lies inside the grid and inside what that image's scanner measured."""
        box = self.grid.crop(start, stop)
        if image not in self.source_grids:
            return np.zeros(box.shape, dtype=bool)
        return self.source_grids[image].covers(box) & self.grid.covers(box)

    def foreground(self, name: str) -> Array:
        """int32 [N, 3], voxel indices of a mask: all of them, or an even sample of 4096."""
        first, last = self.mask(name).foreground
        return self._fetch("index/foreground", (first, 0), (last, 3))

    def pet_native(self) -> Volume:
        """SUVbw, float32, on the PET's own grid."""
        if "pet" not in self.images:
            raise CacheError(f"{self.study_id} has no PET, so nothing can be measured on it")
        return Volume(self._whole("pet_native/0"), self.source_grids["pet"], "pet")

    def native_mask(self, name: str) -> Array:
        """A mask on the PET's own grid, uint8."""
        return self._whole(f"pet_native/labels/{self.mask(name).name}/0")

    def _read(self, key: str, start: Zyx, stop: Zyx, fill: float) -> Array:
        store = self._open(key)
        inner = [(max(a, 0), min(b, n)) for a, b, n in zip(start, stop, store.shape, strict=True)]
        if any(a >= b for a, b in inner):
            return np.full([b - a for a, b in zip(start, stop, strict=True)], fill, store.dtype)
        array = self._fetch(key, [a for a, _ in inner], [b for _, b in inner])
        if all(i == (a, b) for i, a, b in zip(inner, start, stop, strict=True)):
            return array
        offset = [a for a, _ in inner]
        low = tuple(a - o for a, o in zip(start, offset, strict=True))
        high = tuple(b - o for b, o in zip(stop, offset, strict=True))
        return crop_or_fill(array, (low[0], low[1], low[2]), (high[0], high[1], high[2]), fill)

    def _whole(self, key: str) -> Array:
        shape = self._open(key).shape
        return self._fetch(key, [0] * len(shape), shape)

    def _fetch(self, key: str, start: Sequence[int], stop: Sequence[int]) -> Array:
        store = self._open(key)
        try:
            return store.read(start, stop)
        except ValueError as error:
            raise CacheError(
                f"{self.study_id}: {key} is damaged; remove {self.path} and preprocess it again"
            ) from error
        except OSError as error:
            raise CacheError(f"{self.study_id}: {key} in {self.path} cannot be read: {error}") from error

    def _open(self, key: str) -> Stored:
        handle = (os.getpid(), key)  # tensorstore's threads do not survive a fork
        if handle not in self._stores:
            try:
                self._stores[handle] = open_array(self.path / key, keep=key in ("ct/0", "pet/0"))
            except (ValueError, OSError) as error:
                raise CacheError(f"{self.study_id}: expected an array {key!r} in {self.path}, found none") from error
            self._require_data(key, self._stores[handle].shape)
        return self._stores[handle]

    def _require_data(self, key: str, shape: tuple[int, ...]) -> None:
        """Zarr reads a file that is gone as zeros: water for a CT. Only masks on the native PET may hold nothing."""
        first = self.path / key / "/".join(["c", *["0"] * len(shape)])
        if 0 not in shape and not key.startswith("pet_native/labels/") and not first.is_file():
            raise CacheError(
                f"{self.study_id}: {key} is damaged, its data ({first.relative_to(self.path)}) is gone; remove "
                f"{self.path} and preprocess it again"
            )


def level_grid(grid: Grid, level: int) -> Grid:
    """Grid of a pyramid level: blocks of 2^level voxels, the last one possibly short."""
    factor = 2**level
    affine = grid.affine.copy()
    affine[:3, :3] *= factor
    affine[:3, 3] = grid.index_to_mm(((factor - 1) / 2,) * 3)
    z, y, x = (math.ceil(n / factor) for n in grid.shape)
    return Grid((z, y, x), affine)

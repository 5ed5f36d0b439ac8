"""Writes the cache: an entry appears whole or not at all. What it looks like is said in `vol3d.cache`."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vol3d.cache import SCHEMA, Cache, MaskRecord, entry_path, level_grid
from vol3d.errors import CacheError, FingerprintError, Vol3dError
from vol3d.files import write_whole
from vol3d.geometry import Grid
from vol3d.study_table import retire
from vol3d.types import AIR_HU, Array
from vol3d.volume import Volume

FOREGROUND_SAMPLES = 4096
"""Voxels kept per mask in the sampling index; larger masks are sampled evenly."""

_CODECS: dict[str, dict[str, Any]] = {
    "int16": {"cname": "lz4hc", "clevel": 6, "shuffle": "shuffle"},
    "float16": {"cname": "lz4", "clevel": 5, "shuffle": "noshuffle"},
    "float32": {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle"},
    "rare": {"cname": "zstd", "clevel": 3, "shuffle": "bitshuffle"},
    "native": {"cname": "zstd", "clevel": 3, "shuffle": "shuffle"},
    "uint8": {"cname": "zstd", "clevel": 3, "shuffle": "bitshuffle"},
}
"""Patches come from level 0: shuffled bytes of HU are read twice as fast as shuffled bits, for 12% more of them, and
SUV as it lies 1.4 times as fast as shuffled, for 30% more. zstd takes 3 to 6 times as long and saves 5 to 15%: it is
for masks, of which it halves what is next to nothing, and for what is read whole and rarely, further levels ("rare")
and the native PET. lz4hc at level 9 would take three times as long to pack and save 1% of the bytes."""

HALF_MOST = 65504.0
"""Largest number of a float16."""


@dataclass(kw_only=True)
class EntryData:
    """All of one study, in memory, ready to be written."""

    study_id: str
    images: dict[str, Volume]
    """``ct`` and ``pet`` on one canonical grid."""
    masks: list[tuple[MaskRecord, Array]]
    """uint8 on the common grid."""
    source_grids: dict[str, Grid]
    pet_native: Volume | None = None
    native_masks: dict[str, Array] = field(default_factory=dict)
    """By mask name, uint8 on the native PET grid."""
    attributes: dict[str, Any] = field(default_factory=dict)
    """The rest of the record, JSON-ready: absent, findings, labels, report, split, patient_key, steps, ..."""
    levels: int = 1
    chunk: int = 48


def create_cache(root: Path, recipe: dict[str, Any], recipe_digest: str) -> Cache:
    """Makes the folder, or opens it if it was made with the same recipe.

    Raises:
        FingerprintError: the folder holds entries of another recipe.
        CacheError: it is joined of other caches.
    """
    root = Path(root)
    (root / "studies").mkdir(parents=True, exist_ok=True)
    header = {"schema": SCHEMA, "recipe": recipe, "recipe_digest": recipe_digest}
    if not (root / "cache.json").exists():
        write_whole(root / "cache.json", json.dumps(header, indent=1))
    cache = Cache(root)
    if cache.parts:
        raise CacheError(
            f"expected a cache to write entries to at {root}, found one joined of {len(cache.parts)} parts; name a part"
        )
    if cache.recipe_digest != recipe_digest:
        raise FingerprintError(
            f"expected a cache of recipe {recipe_digest} at {root}, found one of {cache.recipe_digest}; "
            f"use another --out, or remove the old cache"
        )
    return cache


def write_entry(root: Path, data: EntryData) -> Path:
    """Writes a study under a temporary name and renames it into place: it appears whole or not at all."""
    final = entry_path(root, data.study_id)
    temporary = final.parent / f".{data.study_id}~{socket.gethostname()}~{os.getpid()}~{uuid.uuid4().hex[:8]}"
    try:
        _write_group(temporary, data)
        retire(Path(root))
        if final.exists():
            old = temporary.with_name(temporary.name + ".old")
            final.rename(old)
            temporary.rename(final)
            shutil.rmtree(old)
        else:
            temporary.rename(final)
        retire(Path(root))  # one that was written meanwhile knows nothing of this entry
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def join_caches(roots: Sequence[Path], out: Path) -> Cache:
    """Makes `out` all these caches in one: a `cache.json` that names them, relative to it where they lie beside it.

    Raises:
        CacheError: `out` holds entries of its own, or is one of the caches, or a study lies in two of them; what
            `out` joined before stays.
        FingerprintError: they are of different recipes.
    """
    caches, out = [Cache(root) for root in roots], Path(out)
    if (out / "studies").exists():
        raise CacheError(f"expected a new folder for the joined cache, found entries in {out / 'studies'}")
    if out.resolve() in {root.resolve() for cache in caches for root in _joined(cache)}:
        raise CacheError(f"expected a folder for the joined cache that is none of its parts, found {out} among them")
    out.mkdir(parents=True, exist_ok=True)
    parts = [os.path.relpath(c.root, out) if c.root.parent == out.parent else str(c.root.resolve()) for c in caches]
    header = {"schema": SCHEMA, "recipe": caches[0].recipe, "recipe_digest": caches[0].recipe_digest, "parts": parts}
    file = out / "cache.json"
    before = file.read_bytes() if file.exists() else None
    write_whole(file, json.dumps(header, indent=1))
    try:
        joined = Cache(out)
        joined.study_ids  # noqa: B018 - refuses a study that lies in two of them
    except Vol3dError:
        if before is None:
            file.unlink()
        else:
            write_whole(file, before)
        raise
    return joined


def _joined(cache: Cache) -> list[Path]:
    """Its root and those of its parts, theirs too."""
    return [cache.root, *(root for part in cache.parts for root in _joined(part))]


def abandoned(root: Path) -> list[Path]:
    """Temporary folders left by writers on this host that are no longer alive."""
    left = []
    for path in (Path(root) / "studies").glob(".*~*~*~*"):
        _, host, pid, _ = path.name.split("~")
        if host == socket.gethostname() and not Path(f"/proc/{pid}").exists():
            left.append(path)
    return left


def _write_group(path: Path, data: EntryData) -> None:
    import zarr

    main = data.images.get("ct") or data.images["pet"]
    stored, records, points, row = {}, [], [], 0
    group = zarr.open_group(path, mode="w", zarr_format=3)
    for name, volume in data.images.items():
        stored[name] = _write_pyramid(group.create_group(name), volume, data)
    for record, mask in data.masks:
        index = _sample_foreground(mask)
        points.append(index)
        _write_label(group[record.image], record.name, mask, main.grid, data.chunk)
        records.append({**asdict(record), "voxels": int(np.count_nonzero(mask)), "foreground": [row, row + len(index)]})
        row += len(index)
    if data.pet_native is not None:
        native = group.create_group("pet_native")
        _array(native, "0", data.pet_native.array_ZYX.astype(np.float32), data.chunk, "native")
        for name, mask in data.native_masks.items():
            _write_label(native, name, mask, None, data.chunk)
    stacked = np.concatenate(points) if points else np.zeros((0, 3), np.int32)
    group.create_group("index").create_array("foreground", data=stacked.astype(np.int32), chunks=(4096, 3))
    for holder, names in (*_labels_by_image(data), ("pet_native", list(data.native_masks))):
        if names:
            group[f"{holder}/labels"].attrs["ome"] = {"version": "0.5", "labels": sorted(names)}
    record_of_study = {
        "schema": SCHEMA,
        "study_id": data.study_id,
        "images": list(data.images),
        "grid": main.grid.to_dict(),
        "source_grids": {name: grid.to_dict() for name, grid in data.source_grids.items()},
        "masks": records,
        "levels": data.levels,
        "stored": stored,
        **data.attributes,
    }
    group.attrs["vol3d"] = record_of_study


def _labels_by_image(data: EntryData) -> list[tuple[str, list[str]]]:
    return [(image, [r.name for r, _ in data.masks if r.image == image]) for image in data.images]


def _write_pyramid(group: Any, volume: Volume, data: EntryData) -> str:
    """OME-Zarr 0.5 multiscales; a level's translation includes (scale_n - scale_0) / 2. Returns the type of level 0."""
    ct = volume.modality == "ct"
    array = volume.array_ZYX.astype(np.float32)
    datasets, dtypes = [], []
    for level in range(data.levels):
        if level:
            array = _halve(array)
        stored = np.clip(np.rint(array), AIR_HU * 2, 32767).astype(np.int16) if ct else half(array)
        _array(group, str(level), stored, data.chunk, "rare" if level else "")
        datasets.append(_dataset(level_grid(volume.grid, level), str(level)))
        dtypes.append(stored.dtype.name)
    group.attrs["ome"] = _multiscales(datasets, volume.modality)
    return dtypes[0]


def _dataset(grid: Grid, path: str) -> dict[str, Any]:
    x, y, z = grid.origin_mm
    return {
        "path": path,
        "coordinateTransformations": [
            {"type": "scale", "scale": list(grid.spacing_mm)},
            {"type": "translation", "translation": [z, y, x]},
        ],
    }


def _multiscales(datasets: list[dict[str, Any]], name: str) -> dict[str, Any]:
    axes = [{"name": axis, "type": "space", "unit": "millimeter"} for axis in "zyx"]
    return {"version": "0.5", "multiscales": [{"name": name, "axes": axes, "datasets": datasets, "type": "mean"}]}


def _write_label(parent: Any, name: str, mask: Array, grid: Grid | None, chunk: int) -> None:
    label = parent.require_group("labels").create_group(name)
    _array(label, "0", mask.astype(np.uint8), chunk)
    if grid is not None:
        label.attrs["ome"] = {**_multiscales([_dataset(grid, "0")], name), "image-label": {"version": "0.5"}}


def half(array: Array) -> Array:
    """SUV of the common grid, which models see: float16, a relative error of at most 2^-11 from 6e-5 on and an absolute
    one of at most 2^-25 below. All figures are measured on the native PET, which keeps every bit; further bits here are
    noise that no codec packs. float32 as it is where a number is not finite or above 65,504."""
    return array.astype(np.float16 if (np.abs(array) <= HALF_MOST).all() else np.float32)


def _array(group: Any, name: str, array: Array, chunk: int, codec: str = "") -> None:
    """One shard an array (a few files a study), chunks of `chunk` cubed, each with a checksum."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    shard = tuple(math.ceil(n / chunk) * chunk for n in array.shape)
    group.create_array(
        name,
        data=np.ascontiguousarray(array),
        chunks=(chunk,) * 3,
        shards=shard,
        compressors=[BloscCodec(**_CODECS[codec or array.dtype.name]), Crc32cCodec()],
        fill_value=0,
        dimension_names=("z", "y", "x"),  # OME-Zarr 0.5 wants the names of its axes here
    )


def _halve(array: Array) -> Array:
    """Mean over blocks of 2x2x2; an odd end is averaged over what is there."""
    for axis in range(3):
        first, second = (array[(slice(None),) * axis + (slice(start, None, 2),)] for start in (0, 1))
        array = first.copy()
        pairs = array[(slice(None),) * axis + (slice(second.shape[axis]),)]
        pairs += second
        pairs *= 0.5
    return array


def _sample_foreground(mask: Array) -> Array:
    index = np.argwhere(mask)
    if len(index) > FOREGROUND_SAMPLES:
        index = index[np.linspace(0, len(index) - 1, FOREGROUND_SAMPLES).astype(int)]
    return index.astype(np.int32)

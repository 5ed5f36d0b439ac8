"""`vol3d verify`: reads every byte of a cache and says what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vol3d import study_table
from vol3d.cache import Cache, Entry
from vol3d.cache_write import abandoned
from vol3d.errors import Vol3dError
from vol3d.progress import progress

HU_RANGE = (-2048, 32767)
SUV_RANGE = (-50.0, 1e4)
"""Reconstructions leave some noise below 0, and no tissue concentrates a tracer ten-thousandfold: beyond it the numbers
are not SUV."""


def verify(root: Path, show_progress: bool = True) -> dict[str, list[str]]:
    """Faults by study id (``""`` for the cache itself); empty if all is well.

    Raises:
        CacheError: there is no cache at all.
    """
    cache = Cache(root)
    faults: dict[str, list[str]] = {}
    if not cache.study_ids:
        faults[""] = ["expected at least one study, found none"]
    indexed: dict[str, str] = {}  # fingerprint by study
    for root in cache.roots:
        if (known := study_table.load(root / study_table.INDEX)) is not None:
            indexed |= dict(zip(known.study_ids, known.column("fingerprint"), strict=True))
            if set(known.study_ids) != (there := study_table.listed(root)):
                faults.setdefault("", []).append(
                    f"expected the {len(there)} studies of {root} in its {study_table.INDEX}, found {len(known)} or "
                    f"others; run vol3d index {root}"
                )
    for path in (path for root in cache.roots for path in abandoned(root)):
        faults.setdefault("", []).append(f"left over from a writer that died: {path.name}; the next run removes it")
    for study_id, reason in cache.stale.items():
        faults[study_id] = [
            f"an entry of an earlier run, although the last one quarantined the study ({reason}); it is not used: mend "
            f"the study and preprocess it again, or remove the entry"
        ]
    with progress("verify", len(cache.study_ids), "studies", enabled=show_progress) as advance:
        for study_id in cache.study_ids:
            try:
                entry = cache.entry(study_id)
                found = list(entry_faults(entry))
                if indexed.get(study_id, own := entry.attributes.get("fingerprint", "")) != own:
                    found.append("not the entry that the index knows; run vol3d index")
            except Vol3dError as error:
                found = [str(error)]
            if found:
                faults[study_id] = found
            advance()
    return faults


def entry_faults(entry: Entry) -> Iterator[str]:
    """What is wrong with one entry; every array is read whole, so checksums are tested too."""
    whole = (0, 0, 0), entry.grid.shape
    for name in entry.images:
        if not _placed(entry, name):
            yield f"{name}: the place that its OME-Zarr metadata give is not the grid's {entry.grid}"
        for level in range(entry.levels):
            array = entry.read_level(name, level).array_ZYX
            low, high = HU_RANGE if name == "ct" else SUV_RANGE
            if not np.isfinite(array).all() or array.min() < low or array.max() > high:
                yield f"{name}/{level}: expected finite values in {low}..{high}, found {array.min()}..{array.max()}"
    if "pet" in entry.images:
        native = entry.pet_native().array_ZYX
        if not np.isfinite(native).all():
            yield "pet_native: expected finite SUV, found NaN or infinity"
    for mask in entry.masks:
        array = entry.read_mask(mask.name, *whole)
        if array.max(initial=0) > 1 or np.count_nonzero(array) != mask.voxels:
            yield f"mask {mask.name}: expected {mask.voxels} voxels of 0/1, found {np.count_nonzero(array)}"
        index = entry.foreground(mask.name)
        if len(index) and not array[tuple(index.T)].all():
            yield f"mask {mask.name}: the foreground index points outside the mask"
        if not mask.phrases:
            yield f"mask {mask.name}: expected at least one phrase"


def _placed(entry: Entry, image: str) -> bool:
    """True if scale and translation of level 0 are the record's grid: they are stored twice."""
    try:
        ome = json.loads((entry.path / image / "zarr.json").read_text())["attributes"]["ome"]
        scale, shift = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"]
        stated = [*scale["scale"], *shift["translation"]]
    except (OSError, KeyError, IndexError, TypeError, ValueError):
        return False
    return np.allclose(stated, [*entry.grid.spacing_mm, *entry.grid.origin_mm[::-1]], atol=1e-6)

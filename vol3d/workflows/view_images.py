"""The images of a study that `vol3d view` shows: as acquired, or of a cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from preprocessing.manifest import BadRow
from preprocessing.options import DEFAULT
from preprocessing.reading import read_image
from vol3d.cache import Cache
from vol3d.errors import ConfigError, ManifestError
from vol3d.geometry import Grid
from vol3d.volume import Volume
from vol3d.workflows.inputs import studies_in


@dataclass(frozen=True, eq=False)
class Images:
    """A study's images as they are shown, and the grids that masks may lie on."""

    shown: Mapping[str, Volume]
    source_grids: Mapping[str, Grid]
    notes: tuple[str, ...] = ()


def from_source(study_id: str, source: Path, assume_hu: bool) -> Images:
    """As they were acquired.

    Raises:
        ManifestError: the study is not there, or its row is bad.
    """
    rows = studies_in(source)
    row = next((r for r in rows if r.study_id == study_id), None)
    if row is None:
        found = ", ".join(r.study_id for r in rows[:5]) + (", ..." if len(rows) > 5 else "")
        raise ManifestError(
            f"expected study {study_id} in {source}, found {found}; name the manifest, or the folder of that name"
        )
    if isinstance(row, BadRow):
        raise ManifestError(f"{study_id}: {row.reason}")
    options = row.reading or DEFAULT
    shown, notes = {}, []
    if row.ct is not None:
        reading = read_image(row.ct, "ct", assume_hu=assume_hu, options=options)
        shown["ct"], notes = reading.volume, [f"CT: {note}" for note in reading.notes]
    if row.pet is not None:
        reading = read_image(row.pet, "pet", options=options)
        shown["pet"] = reading.volume
        notes += [f"PET: {note}" for note in reading.notes]
    return Images(shown, {name: volume.grid for name, volume in shown.items()}, ("Shown as acquired.", *notes))


def from_cache(study_id: str, cache: Path) -> Images:
    """The CT as preprocessed, the PET as acquired.

    Raises:
        ConfigError: the study is not in the cache.
    """
    root = Cache(cache)
    if study_id not in root.study_ids:
        raise ConfigError(
            f"expected study {study_id} in {cache}, found {len(root.study_ids)} others; use its own cache"
        )
    entry = root.entry(study_id)
    shown: dict[str, Volume] = {}
    if "ct" in entry.images:
        shown["ct"] = entry.read_level("ct", 0)
    if "pet" in entry.images:
        shown["pet"] = entry.pet_native()
    note = "CT as preprocessed in the cache; PET as acquired." if "ct" in shown else "PET as acquired."
    return Images(shown, entry.source_grids, (note,))

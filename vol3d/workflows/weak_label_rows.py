"""Manifest rows that weak labels are added to: those of the cache's own manifest, or written anew from the cache."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from preprocessing.study import KEYED
from vol3d.cache import Entry
from vol3d.errors import ManifestError
from vol3d.export.nifti import write_if_other
from vol3d.types import Array
from vol3d.workflows.prepare import intake_folder

_KEPT = ("absent", "labels", "findings", "report", "prior", "qa", "meta", "split")


def source_manifest(cache: Path, manifest: Path | None) -> Path | None:
    """The manifest named, else the one that `preprocess --source` wrote: in the cache, or in ``CACHE.intake`` where
    its rows may name people or dates. None if there is none.

    Raises:
        ManifestError: the one named is not there.
    """
    if manifest is not None:
        if not Path(manifest).is_file():
            raise ManifestError(f"expected the manifest that the cache was made from at {manifest}, found no file")
        return Path(manifest)
    return next((path for path in (cache / "manifest.jsonl", private_manifest(cache)) if path.is_file()), None)


def private_manifest(cache: Path) -> Path:
    """Where `preprocess --source` keeps rows that may name people or dates."""
    return intake_folder(cache.absolute()) / "manifest.jsonl"


def source_rows(path: Path | None) -> dict[str, dict[str, Any]] | None:
    """Rows of the source manifest by study, their paths absolute; None without a manifest.

    Raises:
        ManifestError: it holds no JSON lines.
    """
    if path is None:
        return None
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except ValueError as error:
        raise ManifestError(f"expected JSON lines in {path}, found {error}") from None
    return {row["study_id"]: _absolute(row, path.parent) for row in rows if isinstance(row, dict) and "study_id" in row}


def _absolute(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    def whole(value: str) -> str:
        return os.path.normpath(folder.absolute() / value)

    out = {**row, **{k: whole(row[k]) for k in ("ct", "pet", "reading") if row.get(k)}}
    out["masks"] = [{**mask, "path": whole(mask["path"])} for mask in row.get("masks") or []]
    out["findings"] = [dict(finding) for finding in row.get("findings") or []]
    return out


def base_row(rows: dict[str, dict[str, Any]] | None, entry: Entry, out: Path) -> dict[str, Any]:
    """A study's row; without a manifest its files are written beside `out`.

    Raises:
        ManifestError: there is a manifest and it has no such study.
    """
    if rows is None:
        return _from_cache(entry, out)
    if entry.study_id not in rows:
        raise ManifestError(
            f"expected a row of {entry.study_id} in the manifest, found none; pass the manifest that made the cache"
        )
    return rows[entry.study_id]


def _from_cache(entry: Entry, out: Path) -> dict[str, Any]:
    """A row whose files are written from the cache: the PET as it was, the CT and masks as they are kept there."""
    folder = out.with_name(f"{out.stem}-images") / entry.study_id
    row: dict[str, Any] = {"study_id": entry.study_id, "patient_id": f"{KEYED}{entry.patient_key}", "masks": []}
    for image in entry.images:
        volume = entry.pet_native() if image == "pet" else entry.read_level("ct", 0)
        path = folder / f"{image}.nii.gz"
        write_if_other(path, volume.array_ZYX, volume.grid)
        row[image] = path.relative_to(out.parent).as_posix()
    for record in entry.masks:
        path = folder / f"{record.name}.nii.gz"
        native = record.source == "pet"
        array_ZYX = entry.native_mask(record.name) if native else common_mask(entry)(record.name)
        write_if_other(path, array_ZYX != 0, entry.source_grids["pet"] if native else entry.grid)
        mask = {"path": path.relative_to(out.parent).as_posix(), "label": record.label or record.name,
                "finding_id": record.finding_id, "phrases": list(record.phrases)}  # fmt: skip
        row["masks"].append({k: v for k, v in mask.items() if v is not None})
    for key in _KEPT:
        if entry.attributes.get(key):
            row[key] = entry.attributes[key]
    return row


def common_mask(entry: Entry) -> Callable[[str], Array]:
    """Loads whole masks on the common grid."""
    return lambda name: entry.read_mask(name, (0, 0, 0), entry.grid.shape)

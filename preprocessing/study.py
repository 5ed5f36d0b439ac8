"""One manifest row -> one `EntryData`: read, check, transform, record."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from preprocessing.belonging import require_one_study
from preprocessing.manifest import MaskRow, Row
from preprocessing.options import DEFAULT
from preprocessing.read_dicom_masks import DrawnOn, is_dicom, read_dicom_mask
from preprocessing.reading import Reading, read_image, read_mask
from preprocessing.site_key import keyed
from preprocessing.transforms import PreprocessConfig, compose
from vol3d.cache import SCHEMA, MaskRecord
from vol3d.cache_write import EntryData
from vol3d.config import digest
from vol3d.dicom.listing import files_of
from vol3d.errors import GeometryError, ManifestError
from vol3d.geometry import Grid
from vol3d.types import Array
from vol3d.volume import Volume

MASK_GRID_TOLERANCE_MM = 0.1
"""A mask belongs to an image if no corner voxel is further off: tools that rewrite headers round."""


KEYED = "key:"
"""Before a patient id that is a patient key already."""


def build_entry(row: Row, config: PreprocessConfig, *, assume_hu: bool = False) -> EntryData:
    """Everything that the cache keeps of a study.

    Raises:
        ReadError, GeometryError, UnitError, ManifestError: why this study cannot be used.
    """
    readings: dict[str, Reading] = {}
    options = row.reading or DEFAULT
    if row.ct is not None:
        readings["ct"] = read_image(row.ct, "ct", assume_hu=assume_hu, options=options)
    if row.pet is not None:
        readings["pet"] = read_image(row.pet, "pet", options=options)
    if len(readings) == 2:
        noted = require_one_study(readings["ct"].files, readings["pet"].files, options.frames)
        readings["pet"] = replace(readings["pet"], notes=(*readings["pet"].notes, *noted))
    truths = [_read_truth(mask, readings) for mask in row.masks]
    groups, empty_phrases = _group_by_finding(row.masks, truths, readings)
    study: dict[str, Any] = {name: reading.volume for name, reading in readings.items()}
    study |= {f"mask:{name}": truth for name, (_, truth, _) in groups.items()}
    done = compose(config)({**study, "steps": []})
    present = {phrase for mask, _, _ in groups.values() for phrase in mask.phrases}
    main = "ct" if "ct" in readings else "pet"
    masks = []
    for name, (mask, truth, _) in groups.items():
        record = MaskRecord(
            name=name, image=main, phrases=mask.phrases, label=mask.label, finding_id=mask.finding_id,
            source=_home(truth.grid, readings) or main,
        )  # fmt: skip
        masks.append((record, done[f"mask:{name}"].array_ZYX))
    native = readings["pet"].volume if "pet" in readings else None
    return EntryData(
        study_id=row.study_id,
        images={name: done[name] for name in readings},
        masks=masks,
        source_grids={name: reading.volume.grid for name, reading in readings.items()},
        pet_native=native,
        native_masks={} if native is None else _native_masks(groups, native.grid),
        attributes=_attributes(row, config, readings, done, present, empty_phrases, assume_hu),
        levels=config.levels,
        chunk=config.chunk,
    )


def fingerprint(row: Row, config: PreprocessConfig, *, assume_hu: bool = False) -> str:
    """Changes with the source files (name, size, time of change), the row, the recipe or the cache schema."""
    files = []
    for path in [p for p in (row.ct, row.pet, *(m.path for m in row.masks)) if p is not None]:
        members = [p for p in files_of(path) if p.is_file()]
        files += [[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in members]
    record = {**asdict(row), "ct": None, "pet": None, "masks": [_keyed(asdict(m)) for m in row.masks]}
    if row.reading is None:
        del record["reading"]  # so that the entries of rows without options keep their key
    else:
        for later, default in (("rescale", None), ("frames", "refuse")):
            if record["reading"][later] == default:
                del record["reading"][later]
    text = json.dumps([SCHEMA, digest(config), assume_hu, files, record], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _keyed(mask: dict[str, Any]) -> dict[str, Any]:
    """Of a mask's row, what its entry's key covers: fields at the default that came later than the first caches not."""
    later = {"channel": None, "placed": "header", "if_empty": "absent"}
    return {**{k: v for k, v in mask.items() if k not in later or v != later[k]}, "path": None}


def patient_key(patient_id: str) -> str:
    """HMAC-SHA256 of the id under the site key: links a patient's studies without naming the patient.

    An id that starts with `KEYED` is such a key already: intake writes it, so that its manifest names nobody.
    """
    return patient_id.removeprefix(KEYED) if patient_id.startswith(KEYED) else keyed(patient_id)


def _read_truth(mask: MaskRow, readings: dict[str, Reading]) -> Volume:
    if is_dicom(mask.path):
        if isinstance(mask.value, tuple):
            raise ManifestError(f"expected one 'value' for the DICOM mask {mask.path.name}, found {list(mask.value)}")
        return read_dicom_mask(
            mask.path, mask.value, {name: DrawnOn(r.volume.grid, r.files) for name, r in readings.items()}
        )
    volume = read_mask(mask.path, value=mask.value, channel=mask.channel).volume
    if mask.placed != "header":
        return _on_array(mask, volume, readings)
    if _home(volume.grid, readings) is None:
        grids = "; ".join(f"{name}: {r.volume.grid}" for name, r in readings.items())
        raise GeometryError(f"expected mask {mask.path.name} on the CT or PET grid ({grids}), found {volume.grid}")
    return volume


def _on_array(mask: MaskRow, volume: Volume, readings: dict[str, Reading]) -> Volume:
    """The mask voxel by voxel on the array of the CT, or of the PET where there is none."""
    grid = (readings.get("ct") or readings["pet"]).volume.grid
    if volume.array_ZYX.shape != grid.shape:
        raise GeometryError(
            f"expected mask {mask.path.name} of the image's shape (z, y, x) {grid.shape}, found "
            f"{volume.array_ZYX.shape}"
        )
    return Volume(volume.array_ZYX[:, ::-1, ::-1] if mask.placed == "turned" else volume.array_ZYX, grid, "mask")


def _home(grid: Grid, readings: dict[str, Reading]) -> str | None:
    """The image on whose grid a mask was drawn; axes may be stored in another order or direction."""
    canonical = grid.to_orientation("SAR")[0]
    for name, reading in readings.items():
        if canonical.same_as(reading.volume.grid.to_orientation("SAR")[0], MASK_GRID_TOLERANCE_MM):
            return name
    return None


def _group_by_finding(
    rows: tuple[MaskRow, ...], truths: list[Volume], readings: dict[str, Reading]
) -> tuple[dict[str, tuple[MaskRow, Volume, Volume | None]], list[str]]:
    """Masks by unique array name: (row, truth, truth on the PET grid if drawn there too), and phrases of empty masks.

    One finding drawn on both grids is one mask: the finer drawing makes the common grid's mask, the PET's stays native.
    """
    groups: dict[str, tuple[MaskRow, Volume, Volume | None]] = {}
    by_finding: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    empty: list[str] = []
    for row, truth in zip(rows, truths, strict=True):
        if not truth.array_ZYX.any():
            empty += row.phrases if row.if_empty == "absent" else ()
            continue
        same = by_finding.setdefault((row.finding_id, row.phrases), []) if row.finding_id else []
        twin = _twin(truth, {name: groups[name][1] for name in same}, readings)
        if twin:
            first_row, first, _ = groups[twin]
            fine = min(first, truth, key=lambda v: v.grid.voxel_ml)
            groups[twin] = (first_row, fine, first if _home(first.grid, readings) == "pet" else truth)
            same.remove(twin)  # a drawing has one twin
            continue
        name = _unique(row.label or row.finding_id or row.phrases[0], groups)
        groups[name] = (row, truth, None)
        same.append(name)
    return groups, empty


def _twin(truth: Volume, others: dict[str, Volume], readings: dict[str, Reading]) -> str | None:
    """Of masks of the same finding, the one that was drawn on the other image and overlaps this one most."""
    home = _home(truth.grid, readings)
    shared = {
        name: float(other.resample_to(truth.grid).array_ZYX[truth.array_ZYX != 0].sum())
        for name, other in others.items()
        if _home(other.grid, readings) != home
    }
    best = max(shared, key=lambda name: shared[name], default=None)
    return best if best is not None and shared[best] > 0 else None


def _unique(text: str, taken: dict[str, Any]) -> str:
    slug = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:60] or "mask"
    name, number = slug, 2
    while name in taken:
        name, number = f"{slug}_{number}", number + 1
    return name


def _native_masks(groups: dict[str, tuple[MaskRow, Volume, Volume | None]], grid: Grid) -> dict[str, Array]:
    """Every mask on the PET's own grid: as drawn there, or carried there from the CT (half a voxel decides)."""
    out = {}
    for name, (_, truth, twin) in groups.items():
        drawn = twin or truth
        share = drawn.resample_to(grid).array_ZYX
        out[name] = (share >= 0.5).astype(np.uint8)
        if not out[name].any() and share.any():
            out[name] = (share == share.max()).astype(np.uint8)
    return out


def _attributes(
    row: Row,
    config: PreprocessConfig,
    readings: dict[str, Reading],
    done: dict[str, Any],
    present: set[str],
    empty_phrases: list[str],
    assume_hu: bool,
) -> dict[str, Any]:
    """The rest of the record. No patient name, id or date enters.

    A phrase with one empty and one drawn mask is present: a small finding may be empty on the coarser of two grids.
    """
    contradicted = set(row.absent) & present
    if contradicted:
        raise ManifestError(f"expected a phrase to be present or absent, found {sorted(contradicted)[0]!r} as both")
    return {
        "absent": list(dict.fromkeys([*row.absent, *(p for p in empty_phrases if p not in present)])),
        "findings": [dict(f) for f in row.findings],
        "labels": row.labels,
        "report": row.report,
        "prior": row.prior,
        "qa": [dict(q) for q in row.qa],
        "meta": row.meta,
        "split": row.split,
        "patient_key": patient_key(row.patient_id),
        "fingerprint": fingerprint(row, config, assume_hu=assume_hu),
        "recipe_digest": digest(config),
        "steps": done["steps"],
        "body_center_mm": list(done["body_center_mm"]),
        "slice_numbers": {name: r.slice_numbers and list(r.slice_numbers) for name, r in readings.items()},
        "notes": {name: list(r.notes) for name, r in readings.items()},
    }

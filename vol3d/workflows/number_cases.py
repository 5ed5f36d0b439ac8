"""The lesions that a report measured against the true ones: which mask is which, and what its numbers say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preprocessing.reading import read_mask
from vol3d.cache import Entry
from vol3d.export.regrid import to_source_grid
from vol3d.geometry import Grid
from vol3d.measure import slices, suv_statistics
from vol3d.metrics.report_numbers import NumberCase, match_masks, number_case
from vol3d.types import Array
from vol3d.workflows.printed import SUPPORTED

HALF = 0.5


def number_cases(entry: Entry, folder: Path, told: Mapping[str, Any]) -> list[NumberCase]:
    """A case for every true lesion that has a mask of its own; masks are compared on the entry's grid.

    Args:
        entry: with masks that carry a `finding_id`; its `findings` give the true numbers, else the masks' SUVmax does.
        folder: of the report.
        told: the report.json; what its printed sentences measured.
    """
    truths = {str(m.finding_id): m for m in entry.masks if m.finding_id and "+" not in str(m.finding_id) and m.voxels}
    if not truths:
        return []
    measured: dict[str, Mapping[str, Any]] = {}
    for sentence in told["sentences"]:
        for row in sentence["measurements"] if sentence["status"] == SUPPORTED else ():
            measured.setdefault(row["file"], row)
    masks = [_on_common(folder / file, entry) for file in measured]
    whole = ((0, 0, 0), entry.grid.shape)
    true_masks = [entry.read_mask(m.name, *whole) for m in truths.values()]
    findings = {str(f.get("id")): f for f in entry.attributes.get("findings") or ()}
    series = "ct" if "ct" in entry.images else "pet"
    voxel_mm = _in_plane_mm(entry.source_grids[series])
    out = []
    pairs = match_masks(masks, true_masks)
    for (name, mask), true_mask, (match, overlap) in zip(truths.items(), true_masks, pairs, strict=True):
        finding = findings.get(name) or {"id": name, "measurements": _suv_of(entry, mask.name)}
        row = list(measured.values())[match] if match is not None else None
        own = _own_slices(true_mask, entry, series)
        out.append(number_case(entry.study_id, entry.patient_key, finding, overlap, row, voxel_mm, own))
    return out


def _on_common(path: Path, entry: Entry) -> Array:
    mask = read_mask(path).volume
    return to_source_grid(mask.array_ZYX != 0, mask.grid, entry.grid, HALF)


def _own_slices(mask_ZYX: Array, entry: Entry, series: str) -> tuple[int, int] | None:
    grid = entry.source_grids[series]
    found = slices(to_source_grid(mask_ZYX != 0, entry.grid, grid, HALF), grid, entry.slice_numbers.get(series))
    return (found.first, found.last) if found else None


def _in_plane_mm(grid: Grid) -> float:
    return max(s for s, code in zip(grid.spacing_mm, grid.orientation, strict=True) if code not in "SI")


def _suv_of(entry: Entry, name: str) -> dict[str, float]:
    if "pet" not in entry.images:
        return {}
    found = suv_statistics(entry.native_mask(name), entry.pet_native()).suv_max
    return {"suv_max": found} if found is not None else {}

"""What the commands that answer about raw studies share: study after study, the grid that masks return to, and what is
measured in them."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from preprocessing.manifest import BadRow, Row
from preprocessing.read_nifti import SUFFIXES
from preprocessing.transforms import PreprocessConfig
from vol3d.cache import Entry
from vol3d.checkpoint import Checkpoint
from vol3d.config import from_tree
from vol3d.errors import ConfigError, Vol3dError, unforeseen
from vol3d.export.regrid import to_source_grid
from vol3d.geometry import Grid
from vol3d.measure import SUV_FIGURES, slices, suv_statistics, volume_ml
from vol3d.progress import progress
from vol3d.text.organs import Structure
from vol3d.types import Array
from vol3d.volume import Volume
from vol3d.workflows.inputs import scratch_entry, studies_in

State = Literal["done", "kept", "failed"]


@dataclass
class BatchSummary:
    """What a run did."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Study id to reason."""


def each_study(
    source: Path,
    checkpoint: Checkpoint,
    answer: Callable[[Entry, Row], None],
    *,
    name: str,
    assume_hu: bool = False,
    show_progress: bool = True,
    shard: tuple[int, int] = (1, 1),
    skip: Callable[[Row], bool] | None = None,
    note: Callable[[str, State, float, str], None] = lambda study, state, seconds, reason: None,
) -> BatchSummary:
    """Preprocesses every study of INPUT as for training and answers it; a bad one is reported and the rest goes on.

    `shard` I/N takes rows I, I + N, ... (1-based); a study that `skip` says is done is left alone. `note` is told of
    every study how it ended, after how many seconds and, if it failed, why.

    Raises:
        CheckpointError, ManifestError, ConfigError: nothing can be done at all.
    """
    rows = studies_in(source, shard)
    recipe = from_tree(PreprocessConfig, checkpoint.recipe, "the checkpoint's recipe")
    summary = BatchSummary()
    with progress(name, len(rows), "studies", enabled=show_progress) as advance:
        for row in rows:
            start, reason = time.monotonic(), ""
            state: State = "kept"
            try:
                if isinstance(row, BadRow):
                    state, reason = "failed", row.reason
                elif skip is None or not skip(row):
                    with scratch_entry(row, recipe, assume_hu=assume_hu) as entry:
                        answer(entry, row)
                    state = "done"
            except (Vol3dError, OSError, MemoryError, torch.OutOfMemoryError) as error:  # the next may well be smaller
                state, reason = "failed", f"{type(error).__name__}: {error}"
            except Exception as error:
                state, reason = "failed", unforeseen(error)
            if state == "done":
                summary.done.append(row.study_id)
            elif state == "failed":
                summary.failed[row.study_id] = reason
            note(row.study_id, state, time.monotonic() - start, reason)
            advance()
    return summary


@dataclass(frozen=True, eq=False)
class Target:
    """The series on whose grid a study's masks return."""

    series: str
    grid: Grid
    template: Path | None
    """The source NIfTI, whose header they copy."""
    native: Volume | None
    """The PET on its own grid, where every SUV is measured."""


def target_of(entry: Entry, row: Row, grid: str | None) -> Target:
    """CT where there is one, unless `grid` says otherwise.

    Raises:
        ConfigError: the study has no such series.
    """
    series = grid or ("ct" if "ct" in entry.images else "pet")
    if series not in entry.images:
        raise ConfigError(f"expected a study with a {series.upper()} for --grid {series}, found only {entry.images}")
    native = entry.pet_native() if "pet" in entry.images else None
    return Target(series, entry.source_grids[series], templates_of(row)[series], native)


def templates_of(row: Row) -> dict[str, Path | None]:
    """The source NIfTI of CT and PET, whose header masks copy; None for DICOM, of which a file may be a series, too."""
    return {
        name: path if path is not None and path.is_file() and path.name.lower().endswith(SUFFIXES) else None
        for name, path in (("ct", row.ct), ("pet", row.pet))
    }


def measured(
    mask: Array, probability_ZYX: Array | None, entry: Entry, target: Target, threshold: float
) -> dict[str, Any]:
    """Volume and slices of a mask on the target's grid, SUV figures of the same answer on the native PET, which may
    reach further than the target; None where there is nothing to measure.

    Args:
        mask: on the target's grid.
        probability_ZYX: the answer on the entry's grid; None if nothing is there.
        entry: the study.
        target: the series on whose grid the mask lies.
        threshold: of the mask.
    """
    figures: dict[str, Any] = {
        "volume_ml": volume_ml(mask, target.grid), **dict.fromkeys(SUV_FIGURES), "slices": None,
    }  # fmt: skip
    on_slices = slices(mask, target.grid, entry.slice_numbers.get(target.series))
    if on_slices is not None:
        figures["slices"] = {"series": target.series, **asdict(on_slices)}
    if probability_ZYX is not None and target.native is not None:
        on_pet = to_source_grid(probability_ZYX, entry.grid, target.native.grid, threshold)
        uptake = suv_statistics(on_pet, target.native)
        if uptake.voxels:
            figures |= {name: getattr(uptake, name) for name in SUV_FIGURES}
    return figures


def trained_phrase(structure: Structure, checkpoint: Checkpoint) -> str | None:
    """The phrase that asks this checkpoint for a structure; None if it was not trained on it."""
    trained = set(checkpoint.provenance.get("trained_phrases", []))
    return next((p for p in structure.phrases if p in trained), None)


def record_of(entry: Entry, checkpoint: Checkpoint, series: str) -> dict[str, Any]:
    """What every record about a study says of its making."""
    return {
        "study_id": entry.study_id,
        "grid": series,
        "created": datetime.datetime.now().isoformat(timespec="seconds"),
        "recipe_digest": checkpoint.recipe_digest,
        "calibration": asdict(checkpoint.calibration),
        "notes": entry.notes,
        "provenance": checkpoint.provenance,
    }


def slug(text: str) -> str:
    """A short, safe file name part; the number before it makes names unique."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "prompt"

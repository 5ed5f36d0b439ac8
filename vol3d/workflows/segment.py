"""`vol3d segment`: raw studies and phrases -> masks on the source grid, and what was measured in them."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.manifest import BadRow, Row
from preprocessing.transforms import PreprocessConfig
from vol3d.cache import Entry
from vol3d.checkpoint import Checkpoint, load_checkpoint
from vol3d.config import from_tree
from vol3d.errors import ConfigError, Vol3dError
from vol3d.export.nifti import read_array, write_multilabel, write_nifti
from vol3d.export.regrid import to_source_grid
from vol3d.files import write_whole
from vol3d.geometry import Grid
from vol3d.measure import SUV_FIGURES, slices, suv_statistics, volume_ml
from vol3d.progress import progress
from vol3d.text.organs import structure_in
from vol3d.types import Array
from vol3d.volume import Volume
from vol3d.workflows.asking import Asker
from vol3d.workflows.inputs import scratch_entry, studies_in


@dataclass
class SegmentSummary:
    """What a run did."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Study id to reason."""


def segment(
    checkpoint_path: Path,
    source: Path,
    prompts: Sequence[str],
    out: Path,
    *,
    grid: str | None = None,
    device: str = "cpu",
    assume_hu: bool = False,
    show_progress: bool = True,
) -> SegmentSummary:
    """Masks of every prompt for every study; a study that cannot be read is reported and the rest goes on.

    Args:
        checkpoint_path: a run folder or an exported model folder.
        source: a study folder or a manifest.
        prompts: phrases, answered in this order.
        out: ``<study>/masks/<nn>-<slug>.nii.gz``, ``<study>/labels.nii.gz`` with ``labels.json`` (all masks in
            one file), and ``<study>/segmentation.json``.
        grid: ``ct`` or ``pet``, on whose grid masks return; None takes the CT's where there is one.
        device: where the model runs.
        assume_hu: accept a CT that looks windowed or rescaled twice; recorded in the output.
        show_progress: show a progress bar.

    Raises:
        CheckpointError, ManifestError, ConfigError: nothing can be done at all.
    """
    prompts = clean_prompts(prompts)
    rows = studies_in(source)
    checkpoint = load_checkpoint(checkpoint_path, device)
    recipe = from_tree(PreprocessConfig, checkpoint.recipe, f"{checkpoint_path}: recipe")
    asker = Asker(checkpoint, device)
    summary = SegmentSummary()
    with progress("segment", len(rows), "studies", enabled=show_progress) as advance:
        for row in rows:
            if isinstance(row, BadRow):
                summary.failed[row.study_id] = row.reason
                advance()
                continue
            try:
                with scratch_entry(row, recipe, assume_hu=assume_hu) as entry:
                    write_answers(entry, row, prompts, asker, checkpoint, out / row.study_id, grid)
                summary.done.append(row.study_id)
            except (Vol3dError, OSError) as error:
                summary.failed[row.study_id] = f"{type(error).__name__}: {error}"
            advance()
    return summary


def clean_prompts(prompts: Sequence[str]) -> list[str]:
    """Stripped, in order, at least one.

    Raises:
        ConfigError: no prompt, or an empty one.
    """
    cleaned = [" ".join(p.split()) for p in prompts]
    if not cleaned or not all(cleaned):
        raise ConfigError("expected at least one prompt with words in it; pass --prompt TEXT or --prompts FILE")
    return cleaned


def write_answers(
    entry: Entry,
    row: Row,
    prompts: list[str],
    asker: Asker,
    checkpoint: Checkpoint,
    folder: Path,
    grid: str | None,
) -> None:
    """Asks, carries the masks to the source grid, measures and writes one study."""
    series = grid or ("ct" if "ct" in entry.images else "pet")
    if series not in entry.images:
        raise ConfigError(f"expected a study with a {series.upper()} for --grid {series}, found only {entry.images}")
    source_grid = entry.source_grids[series]
    path = getattr(row, series)
    template = path if path is not None and path.is_file() else None
    sites = _sites(prompts, checkpoint)
    probability_PZYX, presence_P = asker(entry, list(dict.fromkeys([*prompts, *sites.values()])))
    index_of = {p: i for i, p in enumerate(dict.fromkeys([*prompts, *sites.values()]))}
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    for old in (folder / "masks").glob("*.nii.gz"):  # of an earlier run with other prompts
        old.unlink()
    native = entry.pet_native() if "pet" in entry.images else None
    answers, files = [], {}
    for number, prompt in enumerate(prompts, 1):
        i = index_of[prompt]
        site = index_of.get(sites.get(prompt, ""))
        answer, mask = _answer(entry, probability_PZYX, presence_P, i, site, checkpoint, source_grid, series, native)
        name = f"{number:02d}-{slug(prompt)}"
        write_nifti(folder / "masks" / f"{name}.nii.gz", mask, source_grid, template)
        answers.append({"prompt": prompt, "file": f"masks/{name}.nii.gz", **answer})
        files[name] = prompt
    stored = ((name, read_array(folder / "masks" / f"{name}.nii.gz")) for name in files)  # one in memory at a time
    write_multilabel(folder / "labels.nii.gz", stored, source_grid, template, files)
    record = {
        "study_id": entry.study_id,
        "grid": series,
        "created": datetime.datetime.now().isoformat(timespec="seconds"),
        "answers": answers,
        "recipe_digest": checkpoint.recipe_digest,
        "calibration": asdict(checkpoint.calibration),
        "notes": entry.notes,
        "provenance": checkpoint.provenance,
    }
    write_whole(folder / "segmentation.json", json.dumps(record, indent=1))


def _sites(prompts: list[str], checkpoint: Checkpoint) -> dict[str, str]:
    """For each prompt that names a structure the model was trained on: the phrase that asks for that structure."""
    trained = set(checkpoint.provenance.get("trained_phrases", []))
    out = {}
    for prompt in prompts:
        structure = structure_in(prompt)
        known = [p for p in structure.phrases if p in trained] if structure else []
        if known:
            out[prompt] = prompt if prompt in known else known[0]
    return out


def _answer(
    entry: Entry,
    probability_PZYX: Array,
    presence_P: Array,
    i: int,
    site: int | None,
    checkpoint: Checkpoint,
    source_grid: Grid,
    series: str,
    native: Volume | None,
) -> tuple[dict[str, Any], Array]:
    calibration = checkpoint.calibration
    probability = calibration.probability(float(presence_P[i]))
    threshold = calibration.mask_threshold
    mask = np.zeros(source_grid.shape, np.uint8)
    if probability >= calibration.presence_threshold:
        mask = to_source_grid(probability_PZYX[i], entry.grid, source_grid, threshold)
    in_view = site is None or calibration.probability(float(presence_P[site])) >= calibration.presence_threshold
    state = "present" if mask.any() else "absent" if in_view else "not in field of view"
    answer: dict[str, Any] = {
        "state": state,
        "probability": round(probability, 6),
        "volume_ml": volume_ml(mask, source_grid),
        **dict.fromkeys(SUV_FIGURES),
        "slices": None,
    }
    if state == "present":
        numbers = entry.slice_numbers.get(series)
        on_slices = slices(mask, source_grid, numbers)
        assert on_slices is not None, "the mask is not empty"
        answer["slices"] = {"series": series, **asdict(on_slices)}
        if native is not None:
            on_pet = to_source_grid(probability_PZYX[i], entry.grid, native.grid, threshold)
            uptake = suv_statistics(on_pet, native)
            if uptake.voxels:
                answer |= {name: getattr(uptake, name) for name in SUV_FIGURES}
    return answer, mask


def slug(text: str) -> str:
    """A short, safe file name part; the number before it makes names unique."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40].strip("-") or "prompt"

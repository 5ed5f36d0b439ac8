"""`vol3d segment`: raw studies and phrases -> masks on the source grid, and what was measured in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.manifest import Row
from vol3d.cache import Entry
from vol3d.checkpoint import Checkpoint, load_checkpoint
from vol3d.errors import ConfigError
from vol3d.export.nifti import read_array, write_multilabel, write_nifti
from vol3d.export.regrid import to_source_grid
from vol3d.files import write_json
from vol3d.text.organs import structure_in
from vol3d.types import Array
from vol3d.workflows.asking import Asker
from vol3d.workflows.prior import patient_of
from vol3d.workflows.scoring import Ask, Said
from vol3d.workflows.studies import (
    BatchSummary,
    Target,
    each_study,
    measured,
    record_of,
    slug,
    target_of,
    trained_phrase,
)

OUTSIDE = "found where the {} does not reach, or so small that no voxel of its grid is in the mask; see --grid"
"""What is said of an answer that is present and has no voxel on the target's grid."""


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
) -> BatchSummary:
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
    phrases = clean_prompts(prompts)
    checkpoint = load_checkpoint(checkpoint_path, device)
    asker = Asker(checkpoint, device)

    def answer(entry: Entry, row: Row) -> None:
        write_answers(entry, row, phrases, asker, checkpoint, out / row.study_id, grid)

    return each_study(source, checkpoint, answer, name="segment", assume_hu=assume_hu, show_progress=show_progress)


def clean_prompts(prompts: Sequence[str]) -> list[str]:
    """Stripped, in order, at least one.

    Raises:
        ConfigError: no prompt, or an empty one.
    """
    cleaned = [" ".join(p.split()) for p in prompts]
    if not cleaned or not all(cleaned):
        raise ConfigError("expected at least one prompt with words in it; pass --prompt TEXT or --prompts FILE")
    return cleaned


def phrases_asked(prompts: Sequence[str], checkpoint: Checkpoint) -> list[str]:
    """The prompts, and the structures that say whether they are in view."""
    return list(dict.fromkeys([*prompts, *_sites(list(prompts), checkpoint).values()]))


def write_answers(
    entry: Entry,
    row: Row,
    prompts: list[str],
    ask: Ask,
    checkpoint: Checkpoint,
    folder: Path,
    grid: str | None,
) -> None:
    """Asks, carries the masks to the source grid, measures and writes one study."""
    target = target_of(entry, row, grid)
    sites = _sites(prompts, checkpoint)
    index_of = {p: i for i, p in enumerate(phrases_asked(prompts, checkpoint))}
    probability_PZYX, presence_P = ask(entry, list(index_of))
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    for old in (folder / "masks").glob("*.nii.gz"):  # of an earlier run with other prompts
        old.unlink()
    answers, files = [], {}
    for number, prompt in enumerate(prompts, 1):
        i, site = index_of[prompt], index_of.get(sites.get(prompt, ""))
        site_logit = None if site is None else float(presence_P[site])
        answer, mask = _answer(entry, probability_PZYX[i], float(presence_P[i]), site_logit, checkpoint, target)
        name = f"{number:02d}-{slug(prompt)}"
        write_nifti(folder / "masks" / f"{name}.nii.gz", mask, target.grid, target.template)
        answers.append({"prompt": prompt, "file": f"masks/{name}.nii.gz", **answer})
        files[name] = prompt
    stored = ((name, read_array(folder / "masks" / f"{name}.nii.gz")) for name in files)  # one in memory at a time
    write_multilabel(folder / "labels.nii.gz", stored, target.grid, target.template, files)
    made = record_of(entry, checkpoint, target.series)
    record = {**made, "patient": asdict(patient_of(row)), "answers": answers}
    write_json(folder / "segmentation.json", record)


def _sites(prompts: list[str], checkpoint: Checkpoint) -> dict[str, str]:
    """For each prompt that names a structure the model was trained on: the phrase that asks for that structure."""
    trained = set(checkpoint.provenance.get("trained_phrases", []))
    out = {}
    for prompt in prompts:
        structure = structure_in(prompt)
        known = trained_phrase(structure, checkpoint) if structure else None
        if structure and known:
            out[prompt] = prompt if prompt in structure.phrases and prompt in trained else known
    return out


def _answer(
    entry: Entry,
    probability_ZYX: Array,
    logit: float,
    site_logit: float | None,
    checkpoint: Checkpoint,
    target: Target,
) -> tuple[dict[str, Any], Array]:
    calibration = checkpoint.calibration
    probability = calibration.probability(logit)
    mask = np.zeros(target.grid.shape, np.uint8)
    present = Said(logit, int(probability_ZYX.max())).present(calibration)
    if present:
        mask = to_source_grid(probability_ZYX, entry.grid, target.grid, calibration.mask_threshold)
    in_view = site_logit is None or calibration.probability(site_logit) >= calibration.presence_threshold
    state = "present" if present else "absent" if in_view else "not in field of view"
    note = OUTSIDE.format(target.series.upper()) if present and not mask.any() else None
    figures = measured(mask, probability_ZYX if present else None, entry, target, calibration.mask_threshold)
    return {"state": state, "probability": round(probability, 6), "note": note, **figures}, mask

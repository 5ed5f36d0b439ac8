"""`vol3d findings`: raw studies -> which findings are present, how sure that is, and where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.manifest import Row
from vol3d.cache import Entry
from vol3d.checkpoint import Checkpoint, load_checkpoint
from vol3d.errors import ConfigError
from vol3d.export.nifti import write_nifti
from vol3d.export.regrid import probability_on, to_source_grid
from vol3d.files import write_json
from vol3d.text.organs import structures
from vol3d.text.prompts import FindingPrompts, distinct, prompts_for, read_prompts
from vol3d.types import Array
from vol3d.workflows.asking import Asker
from vol3d.workflows.finding_scores import PointName, decide, phrases_of
from vol3d.workflows.scoring import Ask
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

HEAT_SLOPE = 1 / 255
"""A heat map stores 0..255 and names this as its ``scl_slope``: readers see probabilities."""


@dataclass(frozen=True)
class Question:
    """What is asked of every study, and how the answers are judged."""

    prompts: tuple[FindingPrompts, ...]
    point: PointName = "youden"
    heat_maps: bool = False
    grid: str | None = None


def find(
    checkpoint_path: Path,
    source: Path,
    out: Path,
    *,
    prompts: Path | None = None,
    names: Sequence[str] = (),
    point: PointName = "youden",
    heat_maps: bool = False,
    grid: str | None = None,
    device: str = "cpu",
    assume_hu: bool = False,
    show_progress: bool = True,
) -> BatchSummary:
    """Asks every study for findings; a study that cannot be read is reported and the rest goes on.

    Args:
        checkpoint_path: a run folder or an exported model folder.
        source: a study folder or a manifest.
        out: ``<study>/findings.json``, and ``<study>/findings/<nn>-<slug>.nii.gz`` for each finding that is present.
        prompts: a file of findings (`vol3d.text.prompts.read_prompts`).
        names: more findings, in words or by name. Without both, those the checkpoint has operating points for.
        point: which operating point decides.
        heat_maps: a heat map of every finding, not only of those that are present without a mask.
        grid: ``ct`` or ``pet``, on whose grid masks return; None takes the CT's where there is one.
        device: where the model runs.
        assume_hu: accept a CT that looks windowed or rescaled twice; recorded in the output.
        show_progress: show a progress bar.

    Raises:
        CheckpointError, ManifestError, ConfigError: nothing can be done at all.
    """
    checkpoint = load_checkpoint(checkpoint_path, device)
    wanted = [*(read_prompts(prompts) if prompts else ()), *(prompts_for(name) for name in names)]
    question = Question(tuple(asked_of(checkpoint, wanted)), point, heat_maps, grid)
    asker = Asker(checkpoint, device)

    def answer(entry: Entry, row: Row) -> None:
        write_findings(entry, row, question, asker, checkpoint, out / row.study_id)

    return each_study(source, checkpoint, answer, name="findings", assume_hu=assume_hu, show_progress=show_progress)


def asked_of(checkpoint: Checkpoint, wanted: list[FindingPrompts]) -> list[FindingPrompts]:
    """The findings wanted, those of the vocabulary with the wordings that the checkpoint was calibrated with; without
    any, all that it has operating points for.

    Raises:
        ConfigError: nothing is asked and the checkpoint has none, or a finding is asked for twice.
    """
    stored = {n: f.prompts for n, f in checkpoint.findings.by_name.items() if f.prompts} if checkpoint.findings else {}
    if not wanted:
        if not stored:
            raise ConfigError(
                "expected operating points of findings in the checkpoint, found none: its validation studies had too "
                "few labels; name the findings with --prompt TEXT or --prompts FILE"
            )
        return list(stored.values())
    plain = [p == prompts_for(p.name) for p in wanted]
    return distinct([stored.get(p.name, p) if own else p for p, own in zip(wanted, plain, strict=True)])


def write_findings(
    entry: Entry, row: Row, question: Question, ask: Ask, checkpoint: Checkpoint, folder: Path
) -> list[dict[str, Any]]:
    """Asks all wordings in one pass, decides, writes masks and heat maps and then ``findings.json``."""
    target = target_of(entry, row, question.grid)
    sites = _sites(question, checkpoint)
    hears_no = _hears_no(checkpoint)
    phrases = wordings_asked(question, checkpoint)
    probability_PZYX, presence_P = ask(entry, phrases)
    logits = dict(zip(phrases, map(float, presence_P), strict=True))
    at = {phrase: i for i, phrase in enumerate(phrases)}
    (folder / "findings").mkdir(parents=True, exist_ok=True)
    for old in (folder / "findings").glob("*.nii.gz"):  # of an earlier run with other findings
        old.unlink()
    found = []
    for number, prompts in enumerate(question.prompts, 1):
        where = [sites[s] for s in prompts.sites if s in sites]
        answer = _judged(prompts, logits, where, entry, checkpoint, question.point, hears_no)
        own_ZYX = _mean(probability_PZYX, [at[w] for w in prompts.positive])
        name = f"{number:02d}-{slug(prompts.name)}"
        answer["evidence"] = _evidence(answer["state"], name, own_ZYX, entry, target, checkpoint, question, folder)
        found.append(answer)
    record = {**record_of(entry, checkpoint, target.series), "point": question.point, "findings": found}
    write_json(folder / "findings.json", record)
    return found


def wordings_asked(question: Question, checkpoint: Checkpoint) -> list[str]:
    """Every wording of the findings, and the structures that say whether they are in view."""
    wordings = phrases_of(question.prompts, _hears_no(checkpoint))
    return list(dict.fromkeys([*wordings, *_sites(question, checkpoint).values()]))


def _hears_no(checkpoint: Checkpoint) -> bool:
    return bool(checkpoint.findings and checkpoint.findings.negative_weight)


def _sites(question: Question, checkpoint: Checkpoint) -> dict[str, str]:
    return {name: phrase for p in question.prompts for name in p.sites if (phrase := _site(name, checkpoint))}


def _site(structure: str, checkpoint: Checkpoint) -> str | None:
    return trained_phrase(structures()[structure], checkpoint)


def _judged(
    prompts: FindingPrompts,
    logits: dict[str, float],
    sites: list[str],
    entry: Entry,
    checkpoint: Checkpoint,
    point: PointName,
    hears_no: bool,
) -> dict[str, Any]:
    """Name, state, probability, spread over wordings and threshold, fit for JSON."""
    decided = decide(prompts, logits, checkpoint, point)
    phrases = checkpoint.calibration
    seen = [phrases.probability(logits[s]) >= phrases.presence_threshold for s in sites]
    reason = ""
    if prompts.needs_pet and "pet" not in entry.images:
        reason = "the study has no PET"
    elif not decided.present and seen and not any(seen):
        reason = f"found none of: {', '.join(sites)}"
    state = "not in field of view" if reason else "present" if decided.present else "absent"
    each = np.array(decided.by_wording)
    return {
        "name": prompts.name,
        "statement": prompts.statement,
        "state": state,
        **({"reason": reason} if reason else {}),
        "probability": round(decided.probability, 6),
        "spread": {
            "sd": round(float(each.std()), 6),
            "low": round(float(each.min()), 6),
            "high": round(float(each.max()), 6),
            "wordings_present": int((each >= decided.point.threshold).sum()),
            "wordings": len(each),
        },
        "threshold": decided.point.threshold,
        "threshold_of": decided.calibration,
        "operating_point": asdict(decided.point),
        "prompts": {"positive": prompts.positive, "negative": prompts.negative if hears_no else ()},
        "sites": list(prompts.sites),
    }


def _mean(probability_PZYX: Array, rows: list[int]) -> Array:
    """uint8 mean over the wordings' probability maps."""
    total_ZYX = np.zeros(probability_PZYX.shape[1:], np.uint16)
    for row in rows:
        total_ZYX += probability_PZYX[row]
    return ((total_ZYX + len(rows) // 2) // len(rows)).astype(np.uint8)


def _evidence(
    state: str,
    name: str,
    probability_ZYX: Array,
    entry: Entry,
    target: Target,
    checkpoint: Checkpoint,
    question: Question,
    folder: Path,
) -> dict[str, Any]:
    """Mask of what is present; a heat map where the mask is empty, or where all are wanted."""
    threshold = checkpoint.calibration.mask_threshold
    mask = np.zeros(target.grid.shape, np.uint8)
    if state == "present":
        mask = to_source_grid(probability_ZYX, entry.grid, target.grid, threshold)
    files: dict[str, str | None] = {"mask": None, "heat_map": None}
    if mask.any():
        files["mask"] = f"findings/{name}.nii.gz"
        write_nifti(folder / f"findings/{name}.nii.gz", mask, target.grid, target.template)
    if question.heat_maps or (state == "present" and not mask.any()):
        files["heat_map"] = f"findings/{name}-heat.nii.gz"
        heat = probability_on(probability_ZYX, entry.grid, target.grid)
        write_nifti(folder / f"findings/{name}-heat.nii.gz", heat, target.grid, target.template, slope=HEAT_SLOPE)
    return {**files, **measured(mask, probability_ZYX, entry, target, threshold)}

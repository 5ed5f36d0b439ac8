"""`vol3d infer`: masks, findings and a report for every study of a manifest, in one batch that can be stopped and run
again.

Each study is preprocessed once. When all that was asked for is written, ``<study>/done.json`` says from what: a study
whose record still fits is skipped, anything else is done again from the start.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from preprocessing.manifest import Row
from preprocessing.study import fingerprint
from preprocessing.transforms import PreprocessConfig
from vol3d.cache import Entry
from vol3d.checkpoint import Checkpoint, load_checkpoint
from vol3d.config import from_tree, to_tree
from vol3d.files import write_whole
from vol3d.train import stop
from vol3d.types import Array
from vol3d.workflows.appearances import phrases_near
from vol3d.workflows.drafts import Context
from vol3d.workflows.findings import Question, asked_of, wordings_asked, write_findings
from vol3d.workflows.looks import ask_measured, plain_phrase
from vol3d.workflows.reading import writer_of
from vol3d.workflows.report import Reporter
from vol3d.workflows.scoring import Ask
from vol3d.workflows.segment import clean_prompts, phrases_asked, write_answers
from vol3d.workflows.studies import BatchSummary, State, each_study

DONE = "done.json"


@dataclass
class InferSummary(BatchSummary):
    """What a run did."""

    kept: list[str] = field(default_factory=list)
    """Done before, from the same study with the same checkpoint and prompts."""


@stop.listening()
def infer(
    checkpoint_path: Path,
    manifest: Path,
    out: Path,
    *,
    prompts: Sequence[str] = (),
    shard: tuple[int, int] = (1, 1),
    device: str = "cpu",
    assume_hu: bool = False,
    show_progress: bool = True,
) -> InferSummary:
    """Runs segment (where there are prompts), findings (where the checkpoint has operating points) and report.

    Args:
        checkpoint_path: a run folder or an exported model folder.
        manifest: or a study folder.
        out: a folder a study, as the single commands write it, and ``done.json``; ``studies.jsonl``, or
            ``studies-I-of-N.jsonl`` of a shard, has a line of every study: how it ended, after how long, why not.
        prompts: phrases to segment.
        shard: (I, N): rows I, I + N, ... of the manifest, 1-based.
        device: where the model runs.
        assume_hu: accept a CT that looks windowed or rescaled twice; recorded in the output.
        show_progress: show a progress bar.

    Raises:
        CheckpointError, ManifestError, ConfigError: nothing can be done at all.
        StoppedError: SIGTERM or SIGUSR1 came; the same call goes on with the study that was broken off.
    """
    phrases = clean_prompts(prompts) if prompts else []
    checkpoint = load_checkpoint(checkpoint_path, device)
    reporter = Reporter(checkpoint, device, writer_of(checkpoint_path, checkpoint, device))
    wanted = asked_of(checkpoint, []) if checkpoint.findings and checkpoint.findings.by_name else []
    question = Question(tuple(wanted)) if wanted else None
    summary = InferSummary()
    recipe = from_tree(PreprocessConfig, checkpoint.recipe, "the checkpoint's recipe")

    def key(row: Row) -> str:
        images = Row(study_id=row.study_id, patient_id=row.patient_id, ct=row.ct, pet=row.pet, reading=row.reading)
        return _key(checkpoint, phrases, fingerprint(images, recipe, assume_hu=assume_hu))

    def skip(row: Row) -> bool:
        fits = _done_with(out / row.study_id) == key(row)
        if fits:
            summary.kept.append(row.study_id)
        return fits

    def answer(entry: Entry, row: Row) -> None:
        folder = out / row.study_id
        (folder / DONE).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        ask = _asking_once(entry, reporter, phrases, question)
        if phrases:
            write_answers(entry, row, phrases, ask, checkpoint, folder, None)
        if question is not None:
            write_findings(entry, row, question, ask, checkpoint, folder)
        reporter.write(entry, row, folder, Context())
        write_whole(folder / DONE, json.dumps({"key": key(row), "study_id": row.study_id}))

    out.mkdir(parents=True, exist_ok=True)
    path = out / ("studies.jsonl" if shard == (1, 1) else f"studies-{shard[0]}-of-{shard[1]}.jsonl")
    with path.open("a", buffering=1) as lines:  # a file a shard: nodes that append to one may overwrite each other

        def note(study: str, state: State, seconds: float, reason: str) -> None:
            when = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            record = {"study_id": study, "state": state, "seconds": round(seconds, 1), "time": when}
            lines.write(json.dumps(record | ({"reason": reason} if reason else {})) + "\n")

        done = each_study(
            manifest, checkpoint, answer, name="infer", assume_hu=assume_hu, show_progress=show_progress, shard=shard,
            skip=skip, note=note,
        )  # fmt: skip
    summary.done, summary.failed = done.done, done.failed
    return summary


def _asking_once(entry: Entry, reporter: Reporter, prompts: Sequence[str], question: Question | None) -> Ask:
    """An `Ask` that answers as the single commands would, after one pass for all that they and the report ask.

    With views mirrored from left to right they ask apart: a phrase that names a side leaves those views out, and would
    do so for all phrases of its pass.
    """
    checkpoint, known = reporter.checkpoint, reporter.known
    if "x" in checkpoint.predict.mirror_axes:
        return reporter.asker
    asked = phrases_asked(prompts, checkpoint)
    asked += wordings_asked(question, checkpoint) if question is not None else []
    asked = [known.in_own_words(phrase) for phrase in asked] if known.hears else asked
    asked += [plain for phrase in asked if (plain := plain_phrase(phrase, known))]
    evidence = reporter.evidences.of(entry)
    evidence.ask([*asked, *phrases_near(known)])

    def ask(entry: Entry, phrases: list[str]) -> tuple[Array, Array]:
        return ask_measured(evidence.answers, entry, phrases, known, checkpoint.calibration)

    return ask


def _key(checkpoint: Checkpoint, phrases: Sequence[str], study: str) -> str:
    """Changes with the study's files, the recipe, the weights, their calibration and what is asked."""
    weights = checkpoint.provenance["weights_sha256"]
    record = [
        study,
        weights,
        asdict(checkpoint.calibration),
        to_tree(checkpoint.findings) if checkpoint.findings else None,
        list(phrases),
    ]
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:32]


def _done_with(folder: Path) -> str | None:
    """The key a finished study was made with; None if it is not finished."""
    try:
        return str(json.loads((folder / DONE).read_text())["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return None

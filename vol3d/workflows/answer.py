"""`vol3d answer`: a question about a raw study, answered by measurement where it asks for a number, and never against
what was found.

The order is always the same: what nothing in the image can tell is refused; what the question is about is segmented; if
it is not there or out of view, that is the answer. Counts, sizes, sides, places, comparisons and yes or no come from
the mask. What no mask can tell is left to the checkpoint's writer, and the answer says that it was not checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from preprocessing.manifest import Row
from vol3d.cache import Entry
from vol3d.checkpoint import load_checkpoint
from vol3d.errors import ConfigError
from vol3d.files import write_json
from vol3d.workflows.answer_types import Answer
from vol3d.workflows.answerer import Answerer
from vol3d.workflows.drafts import Context
from vol3d.workflows.lesions import Lesions
from vol3d.workflows.reading import writer_of
from vol3d.workflows.report import Reporter
from vol3d.workflows.studies import BatchSummary, each_study, record_of, templates_of

__all__ = ["Answer", "Answerer", "answer"]


def answer(
    checkpoint_path: Path,
    source: Path,
    questions: Sequence[str],
    *,
    out: Path | None = None,
    context: Context | None = None,
    device: str = "cpu",
    assume_hu: bool = False,
    show_progress: bool = True,
) -> tuple[dict[str, list[Answer]], BatchSummary]:
    """Answers questions about every study.

    Args:
        checkpoint_path: a run folder or an exported model folder.
        source: a study folder or a manifest.
        questions: each with words in it.
        out: where given, ``<study>/answers.json`` and the evidence masks in ``<study>/answers/``.
        context: what is known besides the image.
        device: where the model runs.
        assume_hu: accept a CT that looks windowed or rescaled twice.
        show_progress: show a progress bar.

    Returns:
        Answers by study, and what failed.

    Raises:
        CheckpointError, ManifestError, ConfigError: nothing can be done at all.
    """
    asked = [" ".join(q.split()) for q in questions]
    if not asked or not all(any(c.isalpha() for c in q) for q in asked):
        raise ConfigError(f"expected questions in words, found {list(questions)}; pass --question TEXT")
    checkpoint = load_checkpoint(checkpoint_path, device)
    reporter = Reporter(checkpoint, device, writer_of(checkpoint_path, checkpoint, device))
    found: dict[str, list[Answer]] = {}

    def each(entry: Entry, row: Row) -> None:
        folder = None if out is None else out / row.study_id
        answerer = Answerer(
            entry, reporter, Lesions(reporter.evidences.of(entry), folder, templates_of(row), "answers")
        )
        found[row.study_id] = answerer(asked, context or Context())
        if folder is not None:
            record = {
                **record_of(entry, checkpoint, answerer.lesions.series),
                "answers": [{**asdict(a), "lesions": [f.record() for f in a.lesions]} for a in found[row.study_id]],
            }
            write_json(folder / "answers.json", record)

    summary = each_study(source, checkpoint, each, name="answer", assume_hu=assume_hu, show_progress=show_progress)
    return found, summary

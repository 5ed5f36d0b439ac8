"""Reports and questions of a split, written from the cache and scored, beside the same decoder without an image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preprocessing.manifest import Row
from vol3d.cache import Cache, Entry
from vol3d.checkpoint import load_checkpoint
from vol3d.errors import CacheError, Vol3dError
from vol3d.files import write_json
from vol3d.metrics.learned import Learned, open_learned
from vol3d.progress import progress
from vol3d.workflows.answer import Answerer
from vol3d.workflows.drafts import Context, Draft
from vol3d.workflows.embed_split import score_retrieval
from vol3d.workflows.equivalent_reports import even_sample, figures, report_again
from vol3d.workflows.evaluate_consistency import evaluate_consistency
from vol3d.workflows.evaluate_drafts import score_drafts, unsized
from vol3d.workflows.evaluate_questions import evaluate_questions
from vol3d.workflows.evaluate_reports import evaluate_reports
from vol3d.workflows.lesions import Lesions
from vol3d.workflows.reading import ReaderWriter, writer_of
from vol3d.workflows.report import Reporter
from vol3d.workflows.trained_on import require_unseen

SAMPLES = 1000


def evaluate_language(
    checkpoint_path: Path,
    cache_root: Path,
    out: Path,
    *,
    split: str = "test",
    device: str = "cpu",
    samples: int = SAMPLES,
    consistency: int = 0,
    learned: Learned | None = None,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Writes every study's report and answers its questions; ``language.json`` and the tables of both in `out`.

    A model with an alignment head is also scored by retrieval of reports by images and the other way round.

    With a language decoder, two controls stand beside it: its drafts before any was checked (`drafts`, `drafted`), and
    what the same decoder writes when it is shown nothing (`blank`). Their sentences have slots for numbers: what they
    may be compared with is the level `lesion_unsized` of the reports.

    Args:
        checkpoint_path: a run folder or an exported model folder.
        cache_root: a cache of the checkpoint's recipe.
        out: folder, made if missing.
        split: of the cache.
        device: where the model runs.
        samples: bootstrap draws.
        consistency: studies reported on again with other noise, in a shifted frame and along other axes.
        learned: metrics with models of their own (`learned_of`).
        show_progress: show progress bars.

    Raises:
        CacheError: no study in the split has a report, structured findings or questions.
        LeakageError: see `evaluate`.
    """
    checkpoint, cache = load_checkpoint(checkpoint_path, device), Cache(cache_root)
    entries = [cache.entry(study) for study in cache.select(split)]
    asked = [e for e in entries if getattr(e, "qa", None)]
    told = [e for e in entries if getattr(e, "report", None) or getattr(e, "findings", None)]
    if not asked and not told:
        raise CacheError(f"expected studies of split {split!r} with reports or questions in {cache_root}, found none")
    require_unseen(checkpoint_path, cache, split)
    learned = learned or Learned({}, {})
    writer = writer_of(checkpoint_path, checkpoint, device)
    blank = ReaderWriter(checkpoint, writer.reader, device, writer.generation, blank=True) if writer else None
    reporter = Reporter(checkpoint, device, writer)
    answers: dict[str, dict[tuple[str, str], str]] = {"answers": {}, "drafted": {}, "blank": {}}
    drafts: dict[str, list[list[Draft]]] = {"drafts": [], "blank": []}
    with progress("write", len(entries), "studies", enabled=show_progress) as advance:
        for entry in entries:
            if writer is not None and blank is not None:
                questions = [str(row["q"]) for row in getattr(entry, "qa", None) or ()]
                seen = writer.see(entry, questions)
                blank.show(entry, seen)
                drafts["drafts"].append(writer.write_report(entry, Context()))
                drafts["blank"].append(blank.write_report(entry, Context()))
                for name, drafting in (("drafted", writer), ("blank", blank)):
                    said = drafting.write_answers(entry, questions, Context())
                    answers[name] |= {(entry.study_id, q): a for q, a in zip(questions, said, strict=True)}
            row = Row(study_id=entry.study_id, patient_id="")
            reporter.write(entry, row, out / "reports" / entry.study_id, Context())
            answers["answers"] |= _answer_all(entry, reporter)
            advance()
    table: dict[str, Any] = {"split": split, "studies": len(entries), "writer": type(reporter.writer).__name__}
    if told:
        table["reports"] = evaluate_reports(
            out / "reports", cache_root, out, split=split, scorers=learned.scorers, given_scores=learned.given,
            samples=samples, show_progress=False,
        )  # fmt: skip
        table["reports"]["findings"] |= unsized(entries, out / "reports", samples)
        table |= {f"reports_{name}": score_drafts(entries, own, samples) for name, own in drafts.items() if own}
    if told and consistency:
        again = even_sample(told, consistency)
        changed = report_again(reporter, again, out / "reports-changed", show_progress=show_progress)
        table["consistency"] = evaluate_consistency(
            out / "reports", changed, cache_root, out, split=split, studies=[e.study_id for e in again], samples=samples
        )
    for name, own in answers.items():
        if asked and own:
            folder = out / "questions" / name
            found = evaluate_questions(asked, lambda e, q, own=own: own[e.study_id, q], folder, samples=samples)  # type: ignore[misc]
            table[f"questions_{name}"] = found
    reported = [e for e in entries if getattr(e, "report", None)]
    if checkpoint.model.config.alignment_width and len(reported) > 1:
        try:
            table["retrieval"] = score_retrieval(reporter.asker, reported, samples=samples)
        except Vol3dError as error:  # what was written in hours stays
            table["retrieval"] = {"left_out": str(error)}
    table["headline"] = _headline(table)
    write_json(out / "language.json", table)
    return table


def learned_of(cache_root: Path, split: str, named: Mapping[str, Path]) -> Learned:
    """Metrics for the reports of a split: by name, a folder with models or a file with a score a study.

    Raises:
        LearnedMetricError: one cannot be had; the message says what to get where.
    """
    cache = Cache(cache_root)
    entries = (cache.entry(study) for study in cache.select(split)) if named else ()
    return open_learned(named, [e.study_id for e in entries if getattr(e, "report", None)])


def _headline(table: dict[str, Any]) -> dict[str, float | None]:
    """The numbers to look at first."""
    out: dict[str, float | None] = {}
    for name in ("reports", "reports_drafts", "reports_blank"):
        levels = table.get(name, {})
        for level, own in levels.get("findings", levels).items():
            if isinstance(own, dict) and "f1" in own:
                out[f"{name}_{level}_f1"] = own["f1"]["value"]
    for name in ("answers", "drafted", "blank"):
        if own := table.get(f"questions_{name}"):
            for wording in ("seen", "unseen"):
                if wording in own:
                    out[f"questions_{name}_{wording}"] = own[wording]["micro"]["value"]
            out[f"questions_{name}"] = own["all"]["micro"]["value"]
            out["questions_majority"] = own["all"]["majority_micro"]
            if unseen := own.get("unseen_combinations"):
                out[f"questions_{name}_unseen_combinations"] = unseen["micro"]["value"]
    reports = table.get("reports", {})
    out |= {f"unseen_combinations_{k}": v["value"] for k, v in reports.get("unseen_combinations", {}).items()}
    out |= {f"learned_{k}": v["value"] for k, v in reports.get("learned", {}).items()}
    out |= figures(table.get("consistency", {}))
    return out


def _answer_all(entry: Entry, reporter: Reporter) -> dict[tuple[str, str], str]:
    questions = [str(row["q"]) for row in getattr(entry, "qa", None) or ()]
    if not questions:
        return {}
    answerer = Answerer(entry, reporter, Lesions(reporter.evidences.of(entry), None, {}, "answers"))
    found = answerer(questions, Context())
    return {(entry.study_id, q): a.text for q, a in zip(questions, found, strict=True)}

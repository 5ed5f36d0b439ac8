"""Reports and questions of a split, written from the cache and scored, beside the same decoder without an image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preprocessing.manifest import Row
from vol3d.cache import Cache, Entry
from vol3d.checkpoint import load_checkpoint
from vol3d.errors import CacheError
from vol3d.files import write_whole
from vol3d.metrics.report_claims import report_text
from vol3d.metrics.report_findings import score_report, summarise_reports
from vol3d.progress import progress
from vol3d.workflows.answer import Answerer
from vol3d.workflows.drafts import Context, Draft
from vol3d.workflows.embed_split import score_retrieval
from vol3d.workflows.evaluate_questions import evaluate_questions
from vol3d.workflows.evaluate_reports import evaluate_reports
from vol3d.workflows.lesions import Lesions
from vol3d.workflows.reading import ReaderWriter, writer_of
from vol3d.workflows.report import Reporter
from vol3d.workflows.tables import record

SAMPLES = 1000


def evaluate_language(
    checkpoint_path: Path,
    cache_root: Path,
    out: Path,
    *,
    split: str = "test",
    device: str = "cpu",
    samples: int = SAMPLES,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Writes every study's report and answers its questions; ``language.json`` and the tables of both in `out`.

    A model with an alignment head is also scored by retrieval of reports by images and the other way round.

    With a language decoder, two controls stand beside it: its drafts before any was checked (`drafts`, `drafted`), and
    what the same decoder writes when it is shown nothing (`blank`).

    Raises:
        CacheError: no study in the split has a report, structured findings or questions.
    """
    checkpoint, cache = load_checkpoint(checkpoint_path, device), Cache(cache_root)
    entries = [cache.entry(study) for study in cache.select(split)]
    asked = [e for e in entries if getattr(e, "qa", None)]
    told = [e for e in entries if getattr(e, "report", None) or getattr(e, "findings", None)]
    if not asked and not told:
        raise CacheError(f"expected studies of split {split!r} with reports or questions in {cache_root}, found none")
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
                for name, own in (("drafted", writer), ("blank", blank)):
                    given = own.write_answers(entry, questions, Context())
                    answers[name] |= {(entry.study_id, q): a for q, a in zip(questions, given, strict=True)}
            row = Row(study_id=entry.study_id, patient_id="")
            reporter.write(entry, row, out / "reports" / entry.study_id, Context())
            answers["answers"] |= _answer_all(entry, reporter)
            advance()
    table: dict[str, Any] = {"split": split, "studies": len(entries), "writer": type(reporter.writer).__name__}
    if told:
        table["reports"] = evaluate_reports(
            out / "reports", cache_root, out, split=split, samples=samples, show_progress=False
        )
        table |= {f"reports_{name}": _score_drafts(entries, own, samples) for name, own in drafts.items() if own}
    for name, said in answers.items():
        if asked and said:
            folder = out / "questions" / name
            found = evaluate_questions(asked, lambda e, q, said=said: said[e.study_id, q], folder, samples=samples)  # type: ignore[misc]
            table[f"questions_{name}"] = found
    reported = [e for e in entries if getattr(e, "report", None)]
    if checkpoint.model.config.alignment_width and len(reported) > 1:
        table["retrieval"] = score_retrieval(reporter.asker, reported, samples=samples)
    table["headline"] = _headline(table)
    write_whole(out / "language.json", json.dumps(table, indent=1) + "\n")
    return table


def _headline(table: dict[str, Any]) -> dict[str, float]:
    """The numbers to look at first."""
    out = {}
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
    return out


def _answer_all(entry: Entry, reporter: Reporter) -> dict[tuple[str, str], str]:
    questions = [str(row["q"]) for row in getattr(entry, "qa", None) or ()]
    if not questions:
        return {}
    answerer = Answerer(entry, reporter, Lesions(reporter.evidences.of(entry), None, {}, "answers"))
    found = answerer(questions, Context())
    return {(entry.study_id, q): a.text for q, a in zip(questions, found, strict=True)}


def _score_drafts(entries: Sequence[Entry], drafts: Sequence[list[Draft]], samples: int) -> dict[str, Any]:
    """Finding-level scores of unchecked drafts, for studies with structured truth."""
    scores, patients = [], []
    for entry, own in zip(entries, drafts, strict=True):
        truth = getattr(entry, "findings", None)
        if truth:
            lines: dict[str, list[str]] = {}
            for draft in own:
                lines.setdefault(draft.section, []).append(draft.sentence)
            impression = " ".join(lines.pop("impression", []))
            findings = "\n".join(f"{name.capitalize()}: {' '.join(told)}" for name, told in lines.items())
            scores.append(score_report(report_text({"findings": findings, "impression": impression}), truth))
            patients.append(entry.patient_key)
    levels = summarise_reports(scores, patients, samples=samples) if scores else {}
    return {level: {"f1": record(own.f1), "recall": record(own.recall)} for level, own in levels.items()}

"""Drafts against truth at the levels that a draft can be right at.

A draft has slots where numbers will stand, so no size is asked of it: `UNSIZED` is the level of lesions by place, side,
uptake and density alone. Checked reports are scored at it too, which is what a draft may be compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vol3d.cache import Entry
from vol3d.metrics.report_claims import claims_of, report_text
from vol3d.metrics.report_findings import StudyScore, score_claims, summarise_reports, truths_of
from vol3d.metrics.report_match import without_size
from vol3d.workflows.drafts import Draft
from vol3d.workflows.printed import printed_text
from vol3d.workflows.records import load_record
from vol3d.workflows.tables import record

UNSIZED = "lesion_unsized"


def score_unsized(text: str, findings: Sequence[dict[str, Any]]) -> StudyScore:
    """What a text claims, whatever it says or leaves open of sizes; `lesion` is of lesions without theirs."""
    return score_claims(without_size(claims_of(text)), without_size(truths_of(findings)))


def text_of_drafts(drafts: Sequence[Draft]) -> str:
    """Unchecked drafts as a report: findings under their organ, and the impression."""
    lines: dict[str, list[str]] = {}
    for draft in drafts:
        lines.setdefault(draft.section, []).append(draft.sentence)
    impression = " ".join(lines.pop("impression", []))
    findings = "\n".join(f"{name.capitalize()}: {' '.join(told)}" for name, told in lines.items())
    return report_text({"findings": findings, "impression": impression})


def score_drafts(entries: Sequence[Entry], drafts: Sequence[Sequence[Draft]], samples: int) -> dict[str, Any]:
    """F1 and recall of drafts at each level, for studies with structured truth; sizes count nowhere."""
    return _levels(entries, [text_of_drafts(own) for own in drafts], samples)


def unsized(entries: Sequence[Entry], reports: Path, samples: int) -> dict[str, Any]:
    """The level `UNSIZED` of written reports, which is the one to set beside that of drafts; {} without truth."""
    texts = [printed_text(load_record(reports / entry.study_id)) for entry in entries]
    levels = _levels(entries, texts, samples)
    return {UNSIZED: levels[UNSIZED]} if levels else {}


def _levels(entries: Sequence[Entry], texts: Sequence[str], samples: int) -> dict[str, Any]:
    told = [(e, text) for e, text in zip(entries, texts, strict=True) if getattr(e, "findings", None)]
    if not told:
        return {}
    scores = [score_unsized(text, entry.findings) for entry, text in told]
    levels = summarise_reports(scores, [e.patient_key for e, _ in told], samples=samples)
    return {
        UNSIZED if level == "lesion" else level: {
            name: record(getattr(own, name)) for name in ("f1", "precision", "recall")
        }
        for level, own in levels.items()
    }

"""Questions of the cache's entries, asked and judged: right answers by kind, against luck, and what is made up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vol3d.cache import Entry
from vol3d.errors import CacheError
from vol3d.files import write_json
from vol3d.metrics.bootstrap import bootstrap_interval
from vol3d.metrics.probes import QuestionAnswer, QuestionTable, score_questions
from vol3d.metrics.report_claims import organ_key
from vol3d.text.looks import density_of, size_of, uptake_of
from vol3d.text.organs import side_of
from vol3d.text.questions import KINDS, question_kind, score_answer
from vol3d.text.reports import organs_in
from vol3d.types import Array
from vol3d.workflows.subgroup_tables import groups_of_meta, subgroup_table
from vol3d.workflows.tables import null, record, write_rows

Answer = Callable[[Entry, str], str]
"""(entry, question) -> answer."""

SAMPLES = 1000


@dataclass(frozen=True)
class QuestionRow:
    """One question, answered and judged; a row of ``questions.csv``."""

    study_id: str
    patient_key: str
    wording: str
    """seen or unseen in training; "" where the manifest does not say."""
    kind: str
    adversarial: bool
    question: str
    expected: str
    given: str
    normal: str
    """The true answer in its normal form."""
    right: bool
    score: float
    made_up: bool
    unseen_combination: bool
    """It is about an organ with a trait that were kept apart in training (`preprocessing.holdout`)."""


def evaluate_questions(
    entries: Iterable[Entry],
    answer: Answer,
    out: Path,
    *,
    wordings: Sequence[str] | None = None,
    most: int | None = None,
    samples: int = SAMPLES,
) -> dict[str, Any]:
    """Asks every entry its questions; writes ``questions.csv`` and ``questions.json``.

    Args:
        entries: whose `qa` has rows ``{"q", "a", "type"?, "wording"?, "adversarial"?, "tolerance"?}``.
        answer: who answers; called once for each question.
        out: folder, made if missing.
        wordings: only questions in these; None asks all.
        most: questions a study, spread evenly over its list; None asks all.
        samples: bootstrap draws.

    Raises:
        CacheError: no entry has a question. QuestionError: a true answer of the manifest cannot be read.
    """
    rows: list[QuestionRow] = []
    meta: list[dict[str, Any]] = []
    for entry in entries:
        asked = [q for q in entry.attributes.get("qa") or () if wordings is None or q.get("wording", "") in wordings]
        if most is not None and len(asked) > most:
            asked = [asked[i] for i in np.linspace(0, len(asked) - 1, most).astype(int)]
        own = [ask_one(entry, q, answer) for q in asked]
        rows += own
        meta += [entry.attributes.get("meta") or {}] * len(own)
    if not rows:
        raise CacheError("expected questions (`qa`) in the entries, found none; write them into the manifest")
    table = question_tables(rows, meta, samples=samples)
    out.mkdir(parents=True, exist_ok=True)
    write_rows(rows, QuestionRow, out / "questions.csv")
    write_json(out / "questions.json", table)
    return table


def ask_one(entry: Entry, question: dict[str, Any], answer: Answer) -> QuestionRow:
    """One question of an entry."""
    text = str(question["q"])
    kind = next((k for k in KINDS if k == question.get("type")), None) or question_kind(text)
    given = answer(entry, text)
    verdict = score_answer(given, str(question["a"]), kind, question.get("tolerance"))
    return QuestionRow(
        entry.study_id, entry.patient_key, str(question.get("wording", "")), kind, bool(question.get("adversarial")),
        text, str(question["a"]), given, verdict.expected, verdict.right, verdict.score, verdict.made_up,
        _unseen(entry, f"{text} {question['a']}"),
    )  # fmt: skip


def _unseen(entry: Entry, text: str) -> bool:
    held = (entry.attributes.get("meta") or {}).get("held_out", ())
    organs = {organ for _, _, organ in organs_in(text)}
    traits = {density_of(text), uptake_of(text), size_of(text), side_of(text)}
    return any(organ_key(str(organ)) in organs and trait in traits for organ, trait in held)


def question_tables(
    rows: Sequence[QuestionRow], meta: Sequence[dict[str, Any]], *, samples: int = SAMPLES
) -> dict[str, Any]:
    """All questions, those of each wording, those about combinations kept out of training, and subgroups."""
    out: dict[str, Any] = {"all": _table(rows, samples)}
    wordings = sorted({r.wording for r in rows})
    out |= {name or "unmarked": _table([r for r in rows if r.wording == name], samples) for name in wordings}
    if unseen := [r for r in rows if r.unseen_combination]:
        out["unseen_combinations"] = _table(unseen, samples)
    if groups := groups_of_meta(meta):
        right = np.array([r.right for r in rows], float)
        out["subgroups"] = subgroup_table(right, [r.patient_key for r in rows], groups, samples=samples)
    return out


def _table(rows: Sequence[QuestionRow], samples: int) -> dict[str, Any]:
    scored: QuestionTable = score_questions(
        [QuestionAnswer(r.kind, r.normal, r.right, r.score, r.patient_key, r.adversarial, r.made_up) for r in rows],
        samples=samples,
    )
    kinds = [k for k in scored.by_kind if k != "all"]
    coded = np.array([[kinds.index(r.kind), r.right] for r in rows], float)
    macro = bootstrap_interval(coded, [r.patient_key for r in rows], _macro, samples=samples)
    vain = [r for r in rows if r.adversarial]
    return {
        "questions": len(rows),
        "by_kind": {
            name: {
                "questions": s.right.cases,
                "right": record(s.right),
                "score": record(s.score),
                "majority": s.majority,
            }
            for name, s in scored.by_kind.items()
        },
        "micro": record(scored.by_kind["all"].right),
        "macro": record(macro),
        "majority_micro": scored.by_kind["all"].majority,
        "majority_macro": float(np.mean([scored.by_kind[k].majority for k in kinds])),
        "adversarial": len(vain),
        "adversarial_right": record(scored.adversarial_right),
        "made_up": record(scored.made_up),
        "made_up_anywhere": null(float(np.mean([r.made_up for r in rows]))),
    }


def _macro(rows_N2: Array) -> float:
    """Mean over kinds of the share right."""
    kinds = np.unique(rows_N2[:, 0])
    return float(np.mean([rows_N2[rows_N2[:, 0] == k, 1].mean() for k in kinds]))

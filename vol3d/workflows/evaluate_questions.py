"""Questions of the cache's entries, asked and judged: right answers by kind, against luck, and what is made up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vol3d.cache import Entry
from vol3d.errors import CacheError
from vol3d.files import write_whole
from vol3d.metrics.bootstrap import bootstrap_interval
from vol3d.metrics.probes import QuestionAnswer, QuestionTable, score_questions
from vol3d.metrics.subgroups import ATTRIBUTES, by_subgroup
from vol3d.text.questions import KINDS, question_kind, score_answer
from vol3d.types import Array
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
    groups: dict[str, list[str | None]] = {a: [] for a in ATTRIBUTES}
    for entry in entries:
        asked = [q for q in entry.attributes.get("qa") or () if wordings is None or q.get("wording", "") in wordings]
        if most is not None and len(asked) > most:
            asked = [asked[i] for i in np.linspace(0, len(asked) - 1, most).astype(int)]
        own = [ask_one(entry, q, answer) for q in asked]
        rows += own
        for attribute, groups_of in groups.items():
            value = (entry.attributes.get("meta") or {}).get(attribute)
            groups_of += [str(value) if value is not None and str(value).strip() else None] * len(own)
    if not rows:
        raise CacheError("expected questions (`qa`) in the entries, found none; write them into the manifest")
    table = question_tables(rows, groups, samples=samples)
    out.mkdir(parents=True, exist_ok=True)
    write_rows(rows, QuestionRow, out / "questions.csv")
    write_whole(out / "questions.json", json.dumps(table, indent=1) + "\n")
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
    )  # fmt: skip


def question_tables(
    rows: Sequence[QuestionRow], groups: dict[str, list[str | None]], *, samples: int = SAMPLES
) -> dict[str, Any]:
    """All questions, those of each wording, and the shares right by subgroup."""
    out: dict[str, Any] = {"all": _table(rows, samples)}
    wordings = sorted({r.wording for r in rows})
    out |= {name or "unmarked": _table([r for r in rows if r.wording == name], samples) for name in wordings}
    stated = {a: own for a, own in groups.items() if any(own)}
    if stated:
        right, patients = np.array([r.right for r in rows], float), [r.patient_key for r in rows]
        table, gaps = by_subgroup(right, patients, stated, samples=samples, permutations=samples // 2)
        out["subgroups"] = {
            "groups": [{"attribute": s.attribute, "group": s.group, "few": s.few, **record(s.figure)} for s in table],
            "gaps": [record(g) for g in gaps],
        }
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

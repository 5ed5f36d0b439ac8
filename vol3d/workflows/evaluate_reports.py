"""The reports of `vol3d report` against the cache's truth: findings, numbers, text, evidence, what the image gave.

Reports are read from their text; nothing that the writer says of its own sentences decides whether they are right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vol3d.cache import Cache, Entry
from vol3d.errors import CacheError, Vol3dError
from vol3d.files import write_json
from vol3d.metrics.bootstrap import bootstrap_interval
from vol3d.metrics.collapse import contribution, information, variety
from vol3d.metrics.learned import Scorer
from vol3d.metrics.report_claims import Claim, claims_of, organ_key, report_text
from vol3d.metrics.report_findings import (
    LEVELS,
    Level,
    StudyScore,
    label_score,
    micro_f1,
    score_claims,
    summarise_reports,
    truths_of,
)
from vol3d.metrics.report_match import SizeTolerance, Truth
from vol3d.metrics.report_numbers import NumberCase, summarise_numbers
from vol3d.metrics.text import bleu, cider, meteor, rouge_l
from vol3d.progress import progress
from vol3d.workflows.number_cases import number_cases
from vol3d.workflows.printed import SUPPORTED, Reproduction, printed_sections, reproduced, without_evidence
from vol3d.workflows.records import RECORD, load_record
from vol3d.workflows.subgroup_tables import groups_of_meta, subgroup_table
from vol3d.workflows.tables import null, record, write_rows

SAMPLES = 1000
STRUCTURED: tuple[Level, ...] = ("place", "place_uptake", "lesion")


@dataclass(frozen=True, kw_only=True)
class ReportRow:
    """One study; a row of ``reports.csv``. F1 is NaN where a level has no truth."""

    study_id: str
    patient_key: str
    place_f1: float
    place_uptake_f1: float
    lesion_f1: float
    denied_f1: float
    labels_f1: float
    lesions: int
    """True ones."""
    lesions_found: int
    unknown_claims: int
    """About places of which the truth says nothing."""
    printed: int
    left_out: int
    """Sentences that the image did not support."""
    without_evidence: int
    numbers: int
    """Printed numbers measured again."""
    numbers_wrong: int


@dataclass
class StudyReport:
    """What is scored of one study."""

    study_id: str
    patient: str
    meta: dict[str, Any]
    text: str
    reference: str
    claims: tuple[Claim, ...]
    truths: tuple[Truth, ...]
    score: StudyScore
    row: ReportRow
    again: Reproduction
    bare: list[str]
    numbers: list[NumberCase] = field(default_factory=list)


def evaluate_reports(
    reports: Path,
    cache_root: Path,
    out: Path,
    *,
    split: str = "test",
    tolerance: SizeTolerance | None = None,
    scorers: Mapping[str, Scorer] | None = None,
    given_scores: Mapping[str, Mapping[str, float]] | None = None,
    samples: int = SAMPLES,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Scores ``reports/<study>/report.json`` of every study of a split; writes ``reports.csv`` and ``reports.json``.

    Args:
        reports: output of `vol3d report`.
        cache_root: the cache with the same studies.
        out: folder, made if missing.
        split: of the cache.
        tolerance: of diameters at the lesion level.
        scorers: learned metrics by name (`vol3d.metrics.learned`).
        given_scores: by name, a score a study, made by another program.
        samples: bootstrap draws.
        show_progress: show a progress bar.

    Raises:
        CacheError: no study in the split. Vol3dError: a study has no report.
    """
    cache = Cache(cache_root)
    studies = cache.select(split)
    if not studies:
        raise CacheError(f"expected studies of split {split!r} in {cache_root}, found none")
    missing = [s for s in studies if not (reports / s / RECORD).is_file()]
    if missing:
        raise Vol3dError(
            f"expected a report of each of {len(studies)} studies of split {split!r} in {reports}, found none of "
            f"{len(missing)}: {', '.join(missing[:5])}; report on them first, an unwritten report is no empty one"
        )
    scored = []
    with progress("reports", len(studies), "studies", enabled=show_progress) as advance:
        for study in studies:
            scored.append(score_study(cache.entry(study), reports / study, tolerance))
            advance()
    table = {"split": split, "studies": len(studies), **report_tables(scored, samples=samples)}
    learned = _learned(scored, scorers or {}, given_scores or {}, samples)
    table |= {"learned": learned} if learned else {}
    out.mkdir(parents=True, exist_ok=True)
    write_rows([s.row for s in scored], ReportRow, out / "reports.csv")
    write_json(out / "reports.json", table)
    return table


def score_study(entry: Entry, folder: Path, tolerance: SizeTolerance | None = None) -> StudyReport:
    """One report against its entry: structured truth where there is some, else the labels of the reference report."""
    told = load_record(folder)
    sections = printed_sections(told)
    text, reference = report_text(sections), reference_of(entry)
    claims, truths = claims_of(text), truths_of(entry.attributes.get("findings") or ())
    if truths:
        score = score_claims(claims, truths, tolerance)
    elif reference:
        score = label_score(text, reference)
    else:
        score = StudyScore({}, {}, 0, claims)
    again, bare = reproduced(told, folder, entry), without_evidence(told)
    printed = [s for s in told["sentences"] if s["status"] == SUPPORTED]
    row = ReportRow(
        study_id=entry.study_id, patient_key=entry.patient_key, **{f"{v}_f1": score.f1(v) for v in LEVELS},
        lesions=len(score.found), lesions_found=sum(score.found.values()), unknown_claims=score.unknown,
        printed=len(printed), left_out=len(told["sentences"]) - len(printed), without_evidence=len(bare),
        numbers=again.numbers, numbers_wrong=len(again.wrong),
    )  # fmt: skip
    return StudyReport(
        entry.study_id, entry.patient_key, entry.attributes.get("meta") or {}, text, reference, claims, truths, score,
        row, again, bare, number_cases(entry, folder, told),
    )  # fmt: skip


def reference_of(entry: Entry) -> str:
    """Findings and impression of the study's own report; "" without one."""
    report = entry.attributes.get("report") or {}
    return report_text({k: v for k, v in report.items() if k in ("findings", "impression")})


def report_tables(scored: Sequence[StudyReport], *, samples: int = SAMPLES) -> dict[str, Any]:
    """Everything of ``reports.json`` but the learned metrics; sections without a case are left out."""
    patients = [s.patient for s in scored]
    out: dict[str, Any] = {
        "findings": {
            level: {
                **{name: record(getattr(table, name)) for name in ("precision", "recall", "f1", "macro_f1")},
                "by_place": {place: list(counts) for place, counts in table.by_place.items()},
            }
            for level, table in summarise_reports([s.score for s in scored], patients, samples=samples).items()
        },
        "evidence": _evidence(scored),
        "text": text_table(scored),
        "variety": asdict(variety([s.text for s in scored])),
    }
    numbers = [case for s in scored for case in s.numbers]
    if numbers:
        out["numbers"] = {k: record_of(v) for k, v in asdict(summarise_numbers(numbers, samples=samples)).items()}
    known = [s for s in scored if s.truths]
    if len({s.patient for s in known}) > 1:
        out["image"] = _image(known, samples)
    if unseen := unseen_table(scored, samples):
        out["unseen_combinations"] = unseen
    if groups := subgroup_tables(scored, samples):
        out["subgroups"] = groups
    return out


def record_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """NaN as null."""
    return {name: null(value) for name, value in values.items()}


def _evidence(scored: Sequence[StudyReport]) -> dict[str, Any]:
    wrong = [f"{s.study_id}: {line}" for s in scored for line in s.again.wrong]
    bare = [f"{s.study_id}: {line}" for s in scored for line in s.bare]
    return {
        "printed": sum(s.row.printed for s in scored), "left_out": sum(s.row.left_out for s in scored),
        "masks": sum(s.again.masks for s in scored), "numbers": sum(s.again.numbers for s in scored),
        "not_reproduced": wrong[:50], "numbers_not_reproduced": len(wrong),
        "without_evidence": bare[:50], "sentences_without_evidence": len(bare),
    }  # fmt: skip


def text_table(scored: Sequence[StudyReport]) -> dict[str, Any]:
    """Overlap with the reference reports, where there are any."""
    pairs = [(s.text, s.reference) for s in scored if s.reference]
    if not pairs:
        return {"references": 0}
    mine, references = [m for m, _ in pairs], [[r] for _, r in pairs]
    return {
        "references": len(pairs), **{f"bleu_{n}": v for n, v in enumerate(bleu(mine, references), 1)},
        "rouge_l": rouge_l(mine, references), "meteor_2007": meteor(mine, references),
        "cider_d": null(cider(mine, references)),
    }  # fmt: skip


def _image(known: Sequence[StudyReport], samples: int) -> dict[str, Any]:
    claims, truths, patients = [s.claims for s in known], [s.truths for s in known], [s.patient for s in known]
    out: dict[str, Any] = {}
    for level in STRUCTURED:
        found = contribution(claims, truths, patients, level, samples=samples)
        out[level] = {name: record_of(value) for name, value in asdict(found).items()}
    told = information([s.score for s in known])
    return {**out, "information_share": null(told.share), "information_share_shuffled": null(told.shuffled)}


def unseen_table(scored: Sequence[StudyReport], samples: int) -> dict[str, Any]:
    """Recall of lesions of combinations kept out of training (`preprocessing.holdout`), and of all others."""
    held: list[tuple[float, str]] = []
    others: list[tuple[float, str]] = []
    for study in scored:
        combinations = {(str(o), str(t)) for o, t in study.meta.get("held_out", ())}
        for truth in study.truths if combinations else ():
            if truth.present and truth.id in study.score.found:
                traits = {truth.density, truth.uptake, truth.size, truth.side}
                own = any(truth.organ == organ_key(o) and t in traits for o, t in combinations)
                (held if own else others).append((float(study.score.found[truth.id]), study.patient))
    if not held:
        return {}
    return {
        name: record(bootstrap_interval(np.array([v for v, _ in rows]), [p for _, p in rows], samples=samples))
        for name, rows in (("lesions_found", held), ("other_lesions_found", others))
    }


def subgroup_tables(scored: Sequence[StudyReport], samples: int) -> dict[str, Any]:
    """Micro-F1 at each level that was scored, and right numbers of found lesions, in each group of every attribute."""
    groups = groups_of_meta([s.meta for s in scored])
    if not groups:
        return {}
    out: dict[str, Any] = {}
    patients = [s.patient for s in scored]
    for level in LEVELS:
        if any(level in s.score.counts for s in scored):
            rows = np.array([s.score.total(level) for s in scored], float)
            out[level] = subgroup_table(rows, patients, groups, micro_f1, samples=samples)
    cases = [(s.meta, case) for s in scored for case in s.numbers if case.found]
    own = groups_of_meta([meta for meta, _ in cases])
    for name in ("suv_right", "diameter_right") if own else ():
        values = np.array([getattr(case, name) for _, case in cases], float)
        out[name] = subgroup_table(values, [case.patient for _, case in cases], own, samples=samples)
    return out


def _learned(
    scored: Sequence[StudyReport],
    scorers: Mapping[str, Scorer],
    given: Mapping[str, Mapping[str, float]],
    samples: int,
) -> dict[str, Any]:
    own = [s for s in scored if s.reference]
    values = {name: scorer([s.text for s in own], [s.reference for s in own]) for name, scorer in scorers.items()}
    values |= {name: [scores[s.study_id] for s in own] for name, scores in given.items()}
    patients = [s.patient for s in own]
    return {n: record(bootstrap_interval(np.array(v, float), patients, samples=samples)) for n, v in values.items()}

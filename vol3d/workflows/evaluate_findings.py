"""The findings part of `vol3d evaluate`: a row a finding, macro and micro, pairs of phrases, subgroups.

Decisions are those of the operating points in the checkpoint; nothing is chosen on the cases at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from preprocessing.phantom_pairs import PAIRS, Pair, pairs_of, presence_pairs
from vol3d.cache import Entry
from vol3d.checkpoint import Checkpoint
from vol3d.metrics.bootstrap import bootstrap_interval
from vol3d.metrics.finding_table import finding_row, macro
from vol3d.metrics.findings import auroc, average_precision, calibration_error
from vol3d.metrics.operating import OperatingPoint, counts_at, sensitivity_at
from vol3d.metrics.probes import PairAnswer, score_pairs
from vol3d.metrics.subgroups import ATTRIBUTES, by_subgroup
from vol3d.text.prompts import FindingPrompts
from vol3d.types import Array
from vol3d.workflows.finding_scores import decide, labelled, labels_of, phrases_of
from vol3d.workflows.findings import asked_of
from vol3d.workflows.scoring import Said
from vol3d.workflows.tables import record

SAMPLES = 1000
FIXED = 0.9
"""Specificity at which the sensitivity is read from the curve."""


@dataclass(frozen=True)
class FindingCase:
    """One finding of one study; a row of ``findings.csv``."""

    study_id: str
    patient_key: str
    finding: str
    truth: float
    """1, 0, or NaN: not known."""
    score: float
    probability: float
    spread: float
    """Standard deviation over the wordings."""
    answered_present: bool
    threshold: float
    threshold_of: str


class FindingsPlan:
    """Which phrases every study of a split is asked besides its own, and what becomes of the answers."""

    def __init__(self, checkpoint: Checkpoint, entries: Sequence[Entry], pairs_per_study: int = PAIRS) -> None:
        self.checkpoint = checkpoint
        found = labelled(entries)
        self.prompts: list[FindingPrompts] = asked_of(checkpoint, found) if found else []
        hears_no = bool(checkpoint.findings and checkpoint.findings.negative_weight)
        self._wordings = phrases_of(self.prompts, hears_no)
        self.pairs = phantom_pairs(entries, pairs_per_study)
        self._asked: dict[str, list[str]] = {}
        for pair in self.pairs:
            self._asked.setdefault(pair.present_study, []).append(pair.present)
            self._asked.setdefault(pair.absent_study, []).append(pair.absent)
        self.cases: list[FindingCase] = []
        self._said: dict[tuple[str, str], Said] = {}
        self._patient: dict[str, str] = {}
        self._meta: dict[str, dict[str, Any]] = {}

    def phrases(self, entry: Entry) -> list[str]:
        """To ask of this study."""
        return [*self._wordings, *self._asked.get(entry.study_id, [])]

    def add(self, entry: Entry, said: dict[str, Said]) -> None:
        """The answers of one study."""
        study, patient = entry.study_id, entry.patient_key
        self._patient[study] = patient
        self._meta[study] = entry.attributes.get("meta") or {}
        self._said |= {(study, phrase): said[phrase] for phrase in self._asked.get(study, [])}
        logits = {phrase: answer.logit for phrase, answer in said.items()}
        for prompts in self.prompts:
            known = labels_of(entry).get(prompts.name)
            d = decide(prompts, logits, self.checkpoint)
            truth = float("nan") if known is None else float(known)
            self.cases.append(
                FindingCase(study, patient, prompts.name, truth, d.score, d.probability, float(np.std(d.by_wording)),
                            d.present, d.point.threshold, d.calibration)
            )  # fmt: skip

    def pair_answers(self) -> list[tuple[PairAnswer, bool]]:
        """Each pair judged as `vol3d segment` answers, and whether the true phrase has the higher presence."""
        out = []
        calibration = self.checkpoint.calibration
        for pair in self.pairs:
            true, false = self._said[pair.present_study, pair.present], self._said[pair.absent_study, pair.absent]
            patient = self._patient[pair.present_study]
            answer = PairAnswer(pair.kind, true.present(calibration), not false.present(calibration), patient)
            out.append((answer, true.logit > false.logit))
        return out

    def table(self, samples: int = SAMPLES) -> dict[str, Any]:
        """Everything for ``metrics.json``; sections without a case are left out."""
        out: dict[str, Any] = {}
        if self.cases:
            out |= findings_table(self.cases, self._points(), samples)
            groups = {a: [self._meta[c.study_id].get(a) for c in self.cases] for a in ATTRIBUTES}
            out["subgroups"] = subgroup_tables(self.cases, groups, samples)
        if self.pairs:
            out["pairs"] = pair_table(self.pair_answers(), samples)
        return out

    def _points(self) -> dict[str, OperatingPoint]:
        zeros = dict.fromkeys(self._wordings, 0.0)
        return {p.name: decide(p, zeros, self.checkpoint).point for p in self.prompts}


def phantom_pairs(entries: Sequence[Entry], most: int) -> list[Pair]:
    """Pairs of phrases about phantoms, whose records say what is not there; none about other studies."""
    centres = [str((e.attributes.get("meta") or {}).get("centre")) for e in entries]
    records = [e.attributes for e, c in zip(entries, centres, strict=True) if c.startswith("phantom")]
    return [*(pair for r in records for pair in pairs_of(r, most=most)), *presence_pairs(records, most=most)]


def findings_table(
    cases: Sequence[FindingCase], points: dict[str, OperatingPoint], samples: int = SAMPLES
) -> dict[str, Any]:
    """``by_finding``, ``macro`` and ``micro``; decisions are those made, whatever `points` says."""
    by_name: dict[str, list[FindingCase]] = {}
    for case in cases:
        by_name.setdefault(case.finding, []).append(case)
    rows = {}
    for name, own in by_name.items():
        row = finding_row(
            name, _truth(own), _column(own, "probability"), [c.patient_key for c in own], points[name], fixed=FIXED,
            samples=samples,
        )  # fmt: skip
        rows[name] = {
            "positives": row.positives, "negatives": row.negatives, "unknown": row.unknown,
            "threshold": points[name].threshold, "threshold_of": own[0].threshold_of,
            "operating_point": asdict(points[name]), "spread": float(np.mean(_column(own, "spread"))),
            "figures": {k: record(i) for k, i in row.figures.items()}, "undefined": row.undefined,
        }  # fmt: skip
    return {"by_finding": rows, "macro": _macro(by_name, samples), "micro": _micro(cases, samples)}


def _macro(by_name: dict[str, list[FindingCase]], samples: int) -> dict[str, Any]:
    truth = {n: _truth(own) for n, own in by_name.items()}
    probability = {n: _column(own, "probability") for n, own in by_name.items()}
    decision = {n: _column(own, "answered_present") for n, own in by_name.items()}
    patients = [c.patient_key for c in next(iter(by_name.values()))]  # every study has a case of every finding
    out: dict[str, Any] = {}
    for figure, (statistic, of) in _figures().items():
        mean = macro(truth, decision if of == "decision" else probability, patients, statistic, samples=samples)
        out[figure] = record(mean.interval) | {"findings": len(mean.findings), "left_out": mean.left_out}
    return out


def _micro(cases: Sequence[FindingCase], samples: int) -> dict[str, Any]:
    """All findings of all studies in one list."""
    patients = [c.patient_key for c in cases]
    out = {}
    for figure, (statistic, of) in _figures().items():
        scores = _column(cases, "answered_present" if of == "decision" else "probability")
        rows = np.stack([_truth(cases), scores], axis=1)
        interval = bootstrap_interval(rows, patients, lambda r, f=statistic: f(r[:, 0], r[:, 1]), samples=samples)  # type: ignore[misc]
        out[figure] = record(interval)
    return out


def _figures() -> dict[str, tuple[Callable[[Array, Array], float], str]]:
    """Figures of probabilities, and of the decisions (0 or 1) that were made from them."""
    return {
        "auroc": (auroc, "probability"),
        "average_precision": (average_precision, "probability"),
        f"sensitivity_at_specificity_{FIXED:g}": (lambda t, p: sensitivity_at(FIXED, t, p), "probability"),
        "calibration_error": (calibration_error, "probability"),
        "sensitivity": (lambda t, d: counts_at(t, d, 0.5).sensitivity, "decision"),
        "specificity": (lambda t, d: counts_at(t, d, 0.5).specificity, "decision"),
        "precision": (lambda t, d: counts_at(t, d, 0.5).precision, "decision"),
        "f1": (lambda t, d: counts_at(t, d, 0.5).f1, "decision"),
    }


def pair_table(answers: Sequence[tuple[PairAnswer, bool]], samples: int = SAMPLES) -> dict[str, Any]:
    """By kind and over all: both members right, single members right, only one, and how often the true one ranks
    higher."""
    out = {}
    for kind, score in score_pairs([a for a, _ in answers], samples=samples).items():
        own = [(a, higher) for a, higher in answers if kind in ("all", a.kind)]
        ranked = bootstrap_interval(
            np.array([h for _, h in own], float), [a.patient for a, _ in own], samples=samples
        )  # fmt: skip
        out[kind] = {
            "pairs": len(own), "both": record(score.both), "single": record(score.single),
            "one_only": score.one_only, "ranked": record(ranked),
        }  # fmt: skip
    return out


def subgroup_tables(
    cases: Sequence[FindingCase], groups: dict[str, list[Any]], samples: int = SAMPLES
) -> dict[str, Any]:
    """AUROC and right decisions over all findings in each group of every attribute that the studies state."""
    stated = {a: [None if g is None else str(g) for g in own] for a, own in groups.items() if any(map(_says, own))}
    known = [i for i, c in enumerate(cases) if not np.isnan(c.truth)]
    if not stated or not known:
        return {}
    rows = np.array([[cases[i].truth, cases[i].probability, cases[i].answered_present] for i in known], float)
    patients = [cases[i].patient_key for i in known]
    by = {a: [own[i] for i in known] for a, own in stated.items()}
    measures: dict[str, Callable[[Array], float]] = {
        "auroc": lambda r: auroc(r[:, 0], r[:, 1]),
        "accuracy": lambda r: float(np.mean(r[:, 0] == r[:, 2])),
    }
    out: dict[str, Any] = {}
    for name, statistic in measures.items():
        table, gaps = by_subgroup(rows, patients, by, statistic, samples=samples, permutations=samples // 2)
        out[name] = {
            "groups": [{"attribute": s.attribute, "group": s.group, "few": s.few, **record(s.figure)} for s in table],
            "gaps": [record(g) for g in gaps],
        }
    return out


def headline(table: dict[str, Any]) -> dict[str, Any]:
    """The few numbers that are printed."""
    out: dict[str, Any] = {}
    for mean in ("macro", "micro"):
        for figure in ("auroc", "average_precision", "f1") if mean in table else ():
            out[f"finding_{mean}_{figure}"] = table[mean][figure]["value"]
    for kind, row in table.get("pairs", {}).items():
        out[f"pairs_{kind}_both_right"] = row["both"]["value"]
    return {name: round(value, 4) for name, value in out.items() if value is not None}


def _truth(cases: Sequence[FindingCase]) -> Array:
    return _column(cases, "truth")


def _column(cases: Sequence[FindingCase], name: str) -> Array:
    return np.array([getattr(c, name) for c in cases], float)


def _says(group: Any) -> bool:
    return group is not None and bool(str(group).strip())

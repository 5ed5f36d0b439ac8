"""Are a report's findings right? Precision, recall and F1 of what its text claims, against structured truth.

Three levels, each harder than the one before:

``place``         is there a lesion in this organ, on this side: counted once a place
``place_uptake``  and is it avid, or is it not: counted once a place and uptake
``lesion``        one claim for one lesion, with the right place, uptake, density and size

and ``denied``: of the places free of lesions, those that the report says are free; a report that speaks of one kidney
has said of the other that nothing is there.

What a report leaves open costs recall and not precision. Places of which the truth says nothing (partly in view) count
nowhere; claims about them are counted in `StudyScore.unknown`. Where there is no structured truth, `label_score`
compares what the labeler reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from vol3d.metrics.bootstrap import Interval, bootstrap_interval
from vol3d.metrics.report_claims import (
    LESION,
    Claim,
    claims_of,
    is_lesion,
    organ_key,
    organ_named,
)
from vol3d.metrics.report_match import Counts, SizeTolerance, Truth, match_lesions, merged, same_thing
from vol3d.text import find_mentions, label_findings
from vol3d.text.looks import density_of, size_of
from vol3d.types import Array

Level = Literal["place", "place_uptake", "lesion", "denied", "labels"]
LEVELS: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True)
class StudyScore:
    """One report against its truth."""

    counts: dict[Level, dict[str, Counts]]
    """By level and place (or finding label)."""
    found: dict[str, bool]
    """Id of every true lesion, and whether a claim states all that is known of it."""
    unknown: int = 0
    """Claims about places of which the truth says nothing."""
    claims: tuple[Claim, ...] = field(default=(), repr=False)

    def total(self, level: Level) -> Counts:
        """Counts over all places."""
        return _sum(self.counts.get(level, {}).values())

    def f1(self, level: Level) -> float:
        """Of this study; 1 if nothing was there and nothing is claimed, NaN if the level was not scored."""
        tp, fp, fn = self.total(level)
        if level not in self.counts:
            return float("nan")
        return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0


def truths_of(findings: Sequence[Mapping[str, Any]]) -> tuple[Truth, ...]:
    """The entry's `findings` in the terms in which texts are read; those without `present` are not known."""
    out = []
    for number, row in enumerate(findings):
        if row.get("present") is None:
            continue
        name, organ = str(row.get("name") or ""), row.get("organ")
        numbers = row.get("measurements") or {}
        labels = [] if is_lesion(name) or not name else [m.finding for m in find_mentions(name)]
        kind = LESION if is_lesion(name) or not name else labels[0] if labels else "_".join(name.lower().split())
        size, density, uptake = row.get("size"), row.get("density"), row.get("uptake")
        place = organ_key(str(organ)) if organ else organ_named(name)
        out.append(
            Truth(
                id=str(row.get("id", number)), kind=kind, organ=place, side=row.get("side"),
                present=bool(row["present"]), uptake=str(uptake).lower() if uptake else None,
                density=(density_of(str(density)) or str(density).lower()) if density else None,
                size=(size_of(f"{size}-sized") or str(size).lower()) if size else None,
                diameter_mm=numbers.get("diameter_mm"),
            )
        )  # fmt: skip
    return tuple(out)


def score_report(
    report: str, findings: Sequence[Mapping[str, Any]], tolerance: SizeTolerance | None = None
) -> StudyScore:
    """What a report's text claims against the `findings` of its study.

    Args:
        report: text with its headings; sections other than findings and impression are not read.
        findings: rows with name, organ, side, present, and size, density, uptake, measurements where known.
        tolerance: of diameters.
    """
    return score_claims(claims_of(report), truths_of(findings), tolerance)


def score_claims(
    claims: Sequence[Claim], truths: Sequence[Truth], tolerance: SizeTolerance | None = None
) -> StudyScore:
    """`score_report` on what was read."""
    kinds = {(t.kind, t.organ) for t in truths}
    heard = [c for c in claims if any(same_thing(c, kind, organ) for kind, organ in kinds)]
    stated = [c for c in heard if c.present]
    lesions = [t for t in truths if t.present]
    by_lesion, found = match_lesions(merged(stated), lesions, tolerance or SizeTolerance())
    places = {t.place: t for t in truths}
    counts: dict[Level, dict[str, Counts]] = {
        "place": _with_unsided(_place_level(stated, lesions, places), stated, truths),
        "place_uptake": _with_unsided(_uptake_level(stated, lesions, places), stated, truths),
        "lesion": by_lesion,
        "denied": _denied_level(heard, lesions, places),
    }
    unknown = sum(c.present and c.kind == LESION and c not in stated for c in claims)
    return StudyScore(counts, found, unknown, tuple(claims))


def label_score(report: str, reference: str) -> StudyScore:
    """Findings that the labeler reads in a report against those in the reference."""
    mine, truth = label_findings(report), label_findings(reference)
    counts = {n: (int(mine[n] and t), int(mine[n] and not t), int(t and not mine[n])) for n, t in truth.items()}
    return StudyScore({"labels": {n: c for n, c in counts.items() if sum(c)}}, {})


# -- levels ---------------------------------------------------------------------------------------------------------


def _covers(claim: Claim, truth: Truth, *, denial: bool = False) -> bool:
    """Whether a claim speaks of a place; a denial without a side speaks of both, an assertion of neither."""
    if not same_thing(claim, truth.kind, truth.organ) or (claim.organ is None and not denial):
        return False
    return truth.side in (None, claim.side) or claim.side == "bilateral" or (denial and claim.side is None)


def _place_level(stated: Sequence[Claim], lesions: Sequence[Truth], places: Mapping[str, Truth]) -> dict[str, Counts]:
    out = {}
    for name, place in places.items():
        there = any(t.place == name for t in lesions)
        said = any(_covers(c, place) for c in stated)
        out[name] = (int(there and said), int(said and not there), int(there and not said))
    return out


def _uptake_level(stated: Sequence[Claim], lesions: Sequence[Truth], places: Mapping[str, Truth]) -> dict[str, Counts]:
    out = {}
    for name, place in places.items():
        there = {t.uptake for t in lesions if t.place == name}
        about = [c for c in stated if _covers(c, place)]
        if None in there:  # uptake is not known here: a place like on the level before
            said: set[str | None] = {None} if about else set()
            there = {None}
        else:
            said = {c.uptake for c in about if c.uptake is not None or not there}
        out[name] = (len(there & said), len(said - there), len(there - said))
    return out


def _with_unsided(counts: dict[str, Counts], stated: Sequence[Claim], truths: Sequence[Truth]) -> dict[str, Counts]:
    """A lesion stated without its side, in an organ that has none on either side, is wrong all the same."""
    for organ in {c.organ for c in stated if c.side is None and c.kind == LESION}:
        known = [t for t in truths if t.kind == LESION and t.organ == organ]
        if known and all(t.side and not t.present for t in known):
            counts[f"{organ}, no side"] = (0, 1, 0)
    return counts


def _denied_level(heard: Sequence[Claim], lesions: Sequence[Truth], places: Mapping[str, Truth]) -> dict[str, Counts]:
    denials = [c for c in heard if not c.present and not (c.uptake or c.density or c.size)]
    stated = [c for c in heard if c.present]
    out = {}
    for name, place in places.items():
        there = any(t.place == name for t in lesions)
        denied = any(_covers(c, place, denial=True) for c in denials)
        silent = place.side is not None and any(
            c.organ == place.organ and c.side not in (None, place.side) for c in heard
        )
        said = (denied or (silent and not there)) and not any(_covers(c, place) for c in stated)
        out[name] = (int(said and not there), int(said and there), int(not there and not said))
    return out


# -- over studies ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LevelSummary:
    """A level over all studies, with 95% intervals by patient."""

    precision: Interval
    recall: Interval
    f1: Interval
    """Micro: over all places and studies."""
    macro_f1: Interval
    """Mean over places that the truth has at least once."""
    by_place: dict[str, Counts]


def summarise_reports(
    scores: Sequence[StudyScore], patients: Sequence[str], *, samples: int = 1000
) -> dict[Level, LevelSummary]:
    """Every level that was scored, in the order of `LEVELS`."""
    found = [level for level in LEVELS if any(level in s.counts for s in scores)]
    return {level: _summary(level, scores, patients, samples) for level in found}


def _summary(level: Level, scores: Sequence[StudyScore], patients: Sequence[str], samples: int) -> LevelSummary:
    own = [(s.counts[level], p) for s, p in zip(scores, patients, strict=True) if level in s.counts]
    places = sorted({name for counts, _ in own for name in counts})
    rows = np.array([[n for name in places for n in counts.get(name, (0, 0, 0))] for counts, _ in own], float)
    rows, who = rows.reshape(len(own), -1), [p for _, p in own]
    totals = rows.reshape(len(own), -1, 3).sum(axis=1)

    def interval(statistic: Any, values: Array = totals) -> Interval:
        return bootstrap_interval(values, who, statistic, samples=samples)

    by_place = {name: _sum(counts.get(name, (0, 0, 0)) for counts, _ in own) for name in places}
    return LevelSummary(
        interval(lambda r: _ratio(r[:, 0].sum(), r[:, 1].sum())),
        interval(lambda r: _ratio(r[:, 0].sum(), r[:, 2].sum())),
        interval(micro_f1),
        interval(_macro_f1, rows),
        by_place,
    )


def micro_f1(counts_N3: Array) -> float:
    """F1 of summed true positives, false positives and false negatives; NaN without any."""
    tp, fp, fn = counts_N3.sum(axis=0)
    return _ratio(2 * tp, fp + fn)


def _macro_f1(rows: Array) -> float:
    each = rows.sum(axis=0).reshape(-1, 3)
    there = each[each[:, 0] + each[:, 2] > 0]
    return (
        float(np.mean(2 * there[:, 0] / (2 * there[:, 0] + there[:, 1] + there[:, 2]))) if len(there) else float("nan")
    )


def _ratio(right: float, wrong: float) -> float:
    return float(right / (right + wrong)) if right + wrong else float("nan")


def _sum(counts: Any) -> Counts:
    tp, fp, fn = (int(sum(column)) for column in zip(*counts, (0, 0, 0), strict=True))
    return tp, fp, fn

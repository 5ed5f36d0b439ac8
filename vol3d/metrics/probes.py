"""Pairs that differ in one detail, and questions: what is right, how much of it luck would get, what is made up.

A model that always says "yes" gets half of the single members of a pair right and not one pair.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vol3d.metrics.bootstrap import Interval, bootstrap_interval


@dataclass(frozen=True)
class PairAnswer:
    """Answers to the two members of a pair."""

    kind: str
    """What differs: presence, side, organ, size, uptake."""
    first_right: bool
    second_right: bool
    patient: str


@dataclass(frozen=True)
class PairScore:
    """How often both members are answered rightly."""

    both: Interval
    single: Interval
    """Mean over the members; what is usually reported, and flatters."""
    one_only: float
    """Share of pairs with just one right: the same answer given to both, as a rule."""


def score_pairs(answers: Sequence[PairAnswer], *, samples: int = 1000) -> dict[str, PairScore]:
    """By kind, sorted, and over all kinds under "all"."""
    by_kind: dict[str, list[PairAnswer]] = defaultdict(list)
    for answer in answers:
        by_kind[answer.kind].append(answer)
    groups = {**{kind: by_kind[kind] for kind in sorted(by_kind)}, "all": list(answers)}
    return {kind: _pair_score(own, samples) for kind, own in groups.items() if own}


def _pair_score(answers: Sequence[PairAnswer], samples: int) -> PairScore:
    right = np.array([[a.first_right, a.second_right] for a in answers], float)
    patients = [a.patient for a in answers]
    return PairScore(
        bootstrap_interval(right.min(axis=1), patients, samples=samples),
        bootstrap_interval(right.mean(axis=1), patients, samples=samples),
        float((right.sum(axis=1) == 1).mean()),
    )


@dataclass(frozen=True)
class QuestionAnswer:
    """One question, judged."""

    kind: str
    """yes_no, location, organ, side, count, size, modality, open."""
    expected: str
    """The true answer in its normal form (`vol3d.text.questions.normalise`), so that equal ones can be counted."""
    right: bool
    score: float
    patient: str
    adversarial: bool = False
    """It speaks of something that is not there."""
    made_up: bool = False
    """The answer speaks of it as if it were."""


@dataclass(frozen=True)
class QuestionScore:
    """Answers to questions of one kind."""

    right: Interval
    score: Interval
    """With partial credit for open questions."""
    majority: float
    """Share right of a model that always gives this kind's most frequent answer: the least that looking must beat."""


@dataclass(frozen=True)
class QuestionTable:
    """All questions."""

    by_kind: dict[str, QuestionScore]
    """Sorted, then "all", whose majority is that of each kind on its own questions."""
    adversarial_right: Interval
    made_up: Interval
    """Share of questions about absent things that are answered as if they were there."""


def score_questions(answers: Sequence[QuestionAnswer], *, samples: int = 1000) -> QuestionTable:
    """Shares by kind and over all, with intervals by patient."""
    by_kind: dict[str, list[QuestionAnswer]] = defaultdict(list)
    for answer in answers:
        by_kind[answer.kind].append(answer)
    commonest = {kind: Counter(a.expected for a in own).most_common(1)[0][1] for kind, own in by_kind.items()}
    table = {
        kind: _question_score(by_kind[kind], commonest[kind] / len(by_kind[kind]), samples) for kind in sorted(by_kind)
    }
    if answers:
        table["all"] = _question_score(answers, sum(commonest.values()) / len(answers), samples)
    absent = [a for a in answers if a.adversarial]
    patients = [a.patient for a in absent]
    return QuestionTable(
        table,
        bootstrap_interval(np.array([a.right for a in absent], float), patients, samples=samples),
        bootstrap_interval(np.array([a.made_up for a in absent], float), patients, samples=samples),
    )


def _question_score(answers: Sequence[QuestionAnswer], majority: float, samples: int) -> QuestionScore:
    patients = [a.patient for a in answers]
    return QuestionScore(
        bootstrap_interval(np.array([a.right for a in answers], float), patients, samples=samples),
        bootstrap_interval(np.array([a.score for a in answers], float), patients, samples=samples),
        majority,
    )

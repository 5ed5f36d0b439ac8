"""What was found, sorted by whether it looks as the words say: density and uptake are measured, not believed.

A checkpoint asked for a "hyperdense lesion in the liver" may answer with any lesion there. So the plain thing is asked
for as well, every part is measured (`vol3d.appearance`), and those that do not look as said are set apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vol3d.cache import Entry
from vol3d.checkpoint import Calibration
from vol3d.text.looks import (
    density_of,
    plain_of,
    says_how_it_looks,
    says_what_is_not_measured,
    size_of,
    without_size,
)
from vol3d.text.statements import SideWord
from vol3d.text.things import FOCAL, NODE, families_in
from vol3d.types import Array
from vol3d.workflows.appearances import appearance_of, phrases_near
from vol3d.workflows.evidence import Evidence, Part
from vol3d.workflows.found import overlaps
from vol3d.workflows.known import Known
from vol3d.workflows.scoring import Ask

REFUTED = 0.01
"""Probability of a phrase whose every part was measured to look otherwise."""


@dataclass(frozen=True)
class Sorted:
    """Parts that a phrase finds."""

    fitting: list[Part]
    """Those that surely look so first, larger ones before smaller ones."""
    other: list[Part]
    """Things of the kind in the place that do not look as the phrase says, and the phrase's own parts for which others
    stand."""


def plain_phrase(phrase: str, known: Known) -> str | None:
    """What to ask besides a phrase that says how a lesion looks, in the checkpoint's own words; None if it says nothing
    that is measured."""
    sized = bool(known.sizes) and size_of(phrase) is not None and not says_what_is_not_measured(phrase)
    if not says_how_it_looks(phrase) and not sized:
        return None
    plain = without_size(plain_of(phrase)) if sized else plain_of(phrase)
    names = families_in(plain) & {FOCAL, NODE} or re.search(r"\bfindings?\b", plain, re.I)
    return known.in_own_words(plain) if plain != phrase and names else None


def sort_parts(phrase: str, side: SideWord, evidence: Evidence, known: Known) -> Sorted:
    """The parts of a phrase, and of the plain thing where the phrase says how it looks, by what they look like.

    Of a thing that both found the plain phrase's part is taken, for training asked it most, unless the other looks more
    as said, or the plain one runs together what the phrase tells apart. Those whose most telling word is the one said
    keep out others of which it is true as well, or of which another word is certain: a calcified lesion is hyperdense
    too, and not meant where another is only that. What cannot be told fits if the phrase itself found it, comes last.
    """
    own, plain = evidence.parts(phrase, side), plain_phrase(phrase, known)
    if plain is None or not known.hears:
        return Sorted(own, [])
    others = evidence.parts(plain, side)
    looks = {p: appearance_of(p, evidence, known) for p in (*own, *others)}
    fits = {p: looks[p].fits(phrase) for p in looks}

    def rank(part: Part) -> int:
        return 0 if fits[part] is False else 1 if fits[part] is None else 2 + looks[part].called(phrase)

    same = {o: [p for p in own if overlaps(p, [o])] for o in others}
    taken = [o for o, twins in same.items() if len(twins) == 1 and rank(o) >= rank(twins[0])]
    parts = [*taken, *(p for p in own if not overlaps(p, taken))]
    more = [o for o, twins in same.items() if not twins]
    untold = [p for p in parts if rank(p) == 1]
    sure = [p for p in (*parts, *more) if rank(p) == 3]
    if sure:
        told = density_of(phrase) is not None
        fitting = [*_by_size(sure), *_by_size(p for p in untold if not told or looks[p].word is None)]
    else:
        fitting = [*_by_size(p for p in parts if rank(p) == 2), *_by_size(untold)]
    wrong = [p for p in more if p not in fitting and rank(p) == 0]
    return Sorted(fitting, [*wrong, *(p for p in (*own, *taken) if p not in fitting)])


def _by_size(parts: Iterable[Part]) -> list[Part]:
    return sorted(parts, key=lambda p: -p.voxels)


def ask_measured(
    ask: Ask, entry: Entry, phrases: list[str], known: Known, calibration: Calibration
) -> tuple[Array, Array]:
    """As the model says in its own words for the same things, but where a phrase says how a lesion looks: what does not
    look so is taken out of its mask, what does and was found by the plain phrase is put in, and the presence follows.

    The plain phrases, and those of what lies around, are asked in the same pass.

    Args:
        ask: the model.
        entry: the study.
        phrases: each once.
        known: what the model was trained on.
        calibration: its thresholds.

    Returns:
        probability_PZYX (uint8) and presence_P (logits), of the phrases.
    """
    own = [known.in_own_words(phrase) for phrase in phrases] if known.hears else phrases
    asked = list(dict.fromkeys(own))
    plain = [p for phrase in asked if (p := plain_phrase(phrase, known))]
    if plain and known.hears and calibration.scale > 0:  # the last: else it knows nothing of presence
        probability_PZYX, presence_P = _measured(ask, entry, asked, plain, known, calibration)
    else:
        probability_PZYX, presence_P = ask(entry, asked)
    if asked == phrases:
        return probability_PZYX, presence_P
    rows = [asked.index(phrase) for phrase in own]
    return probability_PZYX[rows], presence_P[rows]


def _measured(
    ask: Ask, entry: Entry, phrases: list[str], plain: list[str], known: Known, calibration: Calibration
) -> tuple[Array, Array]:
    asked = list(dict.fromkeys([*phrases, *plain, *phrases_near(known)]))
    probability_PZYX, presence_P = ask(entry, asked)
    evidence = Evidence(entry, ask, calibration)
    evidence.hear(asked, probability_PZYX, presence_P)
    found = {p: sort_parts(p, None, evidence, known) for p in phrases if plain_phrase(p, known)}
    for phrase, parts in found.items():
        row = asked.index(phrase)
        _keep(phrase, parts, probability_PZYX[row])
        if parts.fitting:
            presence_P[row] = max(presence_P[row], *(presence_P[asked.index(p.phrase)] for p in parts.fitting))
        elif parts.other:
            refuted = calibration.logit(min(REFUTED, calibration.presence_threshold / 2))
            presence_P[row] = min(presence_P[row], refuted)
    return probability_PZYX[: len(phrases)], presence_P[: len(phrases)]


def _keep(phrase: str, parts: Sorted, probability_ZYX: Array) -> None:
    """Takes out of the phrase's map, in place, what does not fit, and puts in what does."""
    if not parts.fitting and parts.other:
        probability_ZYX[:] = 0  # crumbs that are no parts too
    for part in parts.other:
        if part.phrase == phrase:
            probability_ZYX[part.window][part.probability_ZYX > 0] = 0
    for part in parts.fitting:
        if part.phrase != phrase:
            np.maximum(probability_ZYX[part.window], part.probability_ZYX, out=probability_ZYX[part.window])

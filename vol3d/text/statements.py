"""What a report's sentence states, so that the image can be asked: something there, something not there, a place out of
view, or nothing that a mask could show.

The kinds are told apart by words alone. What they are worth is decided by `vol3d.workflows.ground`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from vol3d.text.assertion import status_of
from vol3d.text.grounding import grounding_phrase
from vol3d.text.labeler import find_mentions
from vol3d.text.mentions import laterality, references_to_prior
from vol3d.text.questions import NOT_IN_VIEW, normalise
from vol3d.text.reports import organs_in
from vol3d.text.slots import SLOT

Kind = Literal["present", "absent", "outside", "partly", "change", "other"]
SideWord = Literal["left", "right", "bilateral"] | None

FOCAL, NODE = "focal", "node"
_FOCAL = re.compile(
    r"\b(?:lesions?|nodul\w*|mass(?:es)?|tumou?rs?|metasta\w+|malignan\w+|neoplas\w+|sarcomas?|carcinomas?|lymphomas?|"
    r"abnormalit(?:y|ies)|foc(?:us|i)|neoformations?)\b"
)
_NODE = re.compile(r"\b(?:lymph )?nod(?:es?|al)\b|\blymphadenopath\w+|\badenopath\w+")
_ATTRIBUTES = ("fdg_avid", "physiological_uptake")
"""Findings of the labeler that say how something looks, not that it is there: "nodule without FDG uptake"."""
_CLEAR = re.compile(r"\b(?:clear|unremarkable|normal|homogeneous|intact|within normal limits|no abnormalit\w+)\b")
_PARTLY = re.compile(
    r"\b(?:only )?(?:partly|partially|incompletely) (?:included|imaged|covered|shown|visible|in view)\b"
)
_IMAGED = re.compile(
    r"\b(?:imaged|scanned)\b|\b(?:shown|visible|included) (?:part|portion|section|region)s?\b|"
    r"\b(?:part|portion|section|region)s? (?:shown|visible|included|in view)\b|"
    r"\bin (?:the )?(?:field of view|fov|images?|scan|view)\b"
)
_PART = re.compile(r";\s*|,?\s*\bbut\s+|,\s*(?:and\s+)?(?=(?:no|without)\b)|\.\s+(?=[A-Z])")
_CUE = re.compile(
    r"\b(?:no|without|absence of|lack of|free of|free from|negative for|nor|not any)\b"
    r"(?:\s+(?:\w+\s+)?(?:evidence|signs?|suspicion|indications?) (?:of|for))?\s*",
    re.I,
)
_DENIED_VERB = re.compile(
    r"\b(?:is|are|was|were|has|have|could|can)(?: been| be)? ?not\b(?: be)?(?: \w+(?:ed|en|nd))?", re.I
)
_GENERAL = re.compile(
    r"(?:an?|the|of|in|on|at|or|and|with|to|is|are|was|were|there|any|no|not|without|evidence|signs?|suspicion|focal|"
    r"suspicious|other|further|definite|obvious|significant|abnormal|pathologic(?:al)?|enlarged|clear|unremarkable|"
    r"normal|homogeneous|intact|within|limits|both|left|right|bilateral|either|imaged|scanned|shown|visible|included|"
    r"parts?|field|view|region|area|scan|images?|seen|observed|detected|identified|found|noted|present|sided?)"
)
"""Words that make a denial no narrower."""
_SEVERAL = re.compile(r"\b(?:multiple|several|numerous|many|both|bilateral\w*|all|scattered|various|few)\b", re.I)
_COUNTS = {
    "single": 1, "solitary": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10,
}  # fmt: skip
_COUNT = re.compile(rf"\b({'|'.join(_COUNTS)})\b(?! (?:of|side))", re.I)
_NAMES_WITH_DIGITS = re.compile(
    r"\b[CTLS]\d{1,2}(?:\s*[-/]\s*[CTLS]?\d{1,2})?\b|\bsegments?\s+\d\w*(?:\s*(?:/|and|,)\s*\d\w*)*|"
    r"\b(?:18-?F|F-?18|68-?Ga|Ga-?68)\b|\bstations?\s+\d{1,2}[RL]?\b|\b\d{1,2}[RL]\b",
    re.I,
)


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One thing that a sentence states."""

    kind: Kind
    phrase: str = ""
    """What to segment (present), or what exactly is denied where more than thing and place are named; else empty."""
    families: frozenset[str] = frozenset()
    """Kinds of things stated or denied: `FOCAL`, `NODE`, names of findings; empty: anything in the organs."""
    organs: tuple[str, ...] = ()
    """As in vocabulary/places.yaml; empty: anywhere."""
    side: SideWord = None
    imaged: bool = False
    """Says itself that it speaks of the imaged part only."""
    several: bool = False
    """About more than one thing."""
    count: int | None = None
    """How many it says there are, in words."""


def loose_numbers(sentence: str) -> list[str]:
    """Digits that no slot stands for and that name no vertebra, segment, station or isotope."""
    text = re.sub(r"^\s*\d{1,2}[.)]\s+", "", SLOT.sub(" ", sentence))
    return re.findall(r"[\w.,]*\d[\w.,]*", _NAMES_WITH_DIGITS.sub(" ", text))


def families_in(text: str) -> frozenset[str]:
    """Kinds of things that a text names, whatever it says of them."""
    lower = text.lower()
    found = {m.finding for m in find_mentions(text) if not m.finding.startswith(_ATTRIBUTES)}
    found |= {FOCAL} if _FOCAL.search(lower) else set()
    return frozenset(found | ({NODE} if _NODE.search(lower) else set()))


@lru_cache(maxsize=4096)
def statements_of(sentence: str, section: str = "") -> tuple[Statement, ...]:
    """What one sentence or template states; organ and side carry on from part to part.

    Args:
        sentence: as drafted, with slots.
        section: under which it stands; its organ counts where the sentence names none.
    """
    if references_to_prior(re.sub(r"\b(?:enlarged|comparatively)\b", " ", sentence, flags=re.I)):
        return (Statement(kind="change"),)
    organs = tuple(dict.fromkeys(organ for _, _, organ in organs_in(section)))
    place = section if organs else ""
    side: SideWord = None
    out: list[Statement] = []
    for part in _PART.split(sentence):
        if not re.search(r"\w", SLOT.sub("", part)):
            continue
        named = tuple(dict.fromkeys(organ for _, _, organ in organs_in(part)))
        side = laterality(part) or (side if not named else None)
        if named:
            organs, place = named, ""
        out.append(replace(_statement(part, place), organs=organs, side=side))
    told = [s for s in out if s.kind != "other"]
    return tuple(told or out[:1] or [Statement(kind="other")])


def _statement(part: str, place: str) -> Statement:
    lower = part.lower()
    imaged = _IMAGED.search(lower) is not None
    if normalise(part, "open") == NOT_IN_VIEW:
        return Statement(kind="outside")
    spans = _spans(part)
    said = {status_of(part, *span) for span in spans}
    families = families_in(part)
    if said - {"absent"}:
        number = _COUNT.search(part)
        count = _COUNTS[number[1].lower()] if number else None
        several = (count or 1) > 1 or bool(_SEVERAL.search(lower)) or any(_plural(lower[a:b]) for a, b in spans)
        phrase = _placed(grounding_phrase(part), place)
        return Statement(kind="present", phrase=phrase, families=families, several=several, count=count)
    if said:
        return Statement(kind="absent", phrase=_specific(part, place, spans), families=families, imaged=imaged)
    if _PARTLY.search(lower):
        return Statement(kind="partly")
    if _CLEAR.search(lower) and (organs_in(part) or place):
        return Statement(kind="absent", imaged=imaged)
    return Statement(kind="other")


def _spans(part: str) -> list[tuple[int, int]]:
    """Where things are named."""
    lower = part.lower()
    found = [(m.start(), m.end()) for pattern in (_FOCAL, _NODE) for m in pattern.finditer(lower)]
    for mention in find_mentions(part):
        if not mention.finding.startswith(_ATTRIBUTES):
            shift = max(part.find(mention.sentence), 0)
            found.append((mention.start + shift, mention.end + shift))
    return sorted(set(found))


def _plural(word: str) -> bool:
    return re.search(r"(?:[^s]s|foci|ies|ses)$", word) is not None


def _placed(phrase: str, place: str) -> str:
    return f"{phrase} in the {place}" if place and phrase else phrase


def _specific(part: str, place: str, spans: list[tuple[int, int]]) -> str:
    """What is denied, where it is narrower than a thing in a place: "calcified nodule in the lung"; else empty."""
    blanked = list(part.lower())
    for start, end in [*spans, *((a, b) for a, b, _ in organs_in(part))]:
        blanked[start:end] = " " * (end - start)
    words = re.findall(r"[a-z-]+", SLOT.sub(" ", "".join(blanked)))
    if not [w for w in words if not _GENERAL.fullmatch(w)]:
        return ""
    cue = _CUE.search(part)
    phrase = grounding_phrase(part[cue.end() :] if cue else _DENIED_VERB.sub(" ", part))
    if not organs_in(phrase) and organs_in(part):
        start, end, _ = organs_in(part)[0]
        place = part[start:end].lower()
    return phrase if organs_in(phrase) else _placed(phrase, place)

"""What a report's sentence states, so that the image can be asked: something there, something not there, a place out of
view, or nothing that a mask could show.

The kinds are told apart by words alone. What they are worth is decided by `vol3d.workflows.ground`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from vol3d.text.assertion import status_of
from vol3d.text.grounding import grounding_phrase
from vol3d.text.mentions import laterality, references_to_prior
from vol3d.text.questions import NOT_IN_VIEW, normalise
from vol3d.text.reports import organs_in
from vol3d.text.slots import SLOT
from vol3d.text.things import families_in, names_several, specific_families, stray_words, thing_spans

Kind = Literal["present", "absent", "outside", "partly", "change", "other"]
SideWord = Literal["left", "right", "bilateral"] | None

_CLEAR = re.compile(r"\b(?:clear|unremarkable|normal|homogeneous|intact|within normal limits|no abnormalit\w+)\b")
_PARTLY = re.compile(
    r"\b(?:only )?(?:partly|partially|incompletely) (?:included|imaged|covered|shown|visible|in view)\b"
)
_IMAGED = re.compile(
    r"\b(?:imaged|scanned)\b|\b(?:shown|visible|included) (?:part|portion|section|region)s?\b|"
    r"\b(?:part|portion|section|region)s? (?:shown|visible|included|in view)\b|"
    r"\bin (?:the )?(?:field of view|fov|images?|scan|view)\b"
)
_PART = re.compile(
    r";\s*|,?\s*\bbut\s+|,\s*(?:and\s+)?(?=(?:no|without)\b)|\s+and\s+(?=(?:no|without)\b)|\.\s+(?=[A-Z])"
)
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
_OPINION = re.compile(
    r"\b(?:likely|probabl[ey]|possibl[ey]|presumabl[ey]|suspicious (?:for|of)|suspected|suggest(?:s|ive|ing)?|"
    r"(?:consistent|compatible|in keeping) with|favou?r(?:s|ed|ing)?|represent(?:s|ing)?)\b",
    re.I,
)
"""What a reader concludes from a thing; no mask shows it."""
_SEVERAL = re.compile(r"\b(?:multiple|several|numerous|many|both|bilateral\w*|all|scattered|various|few)\b", re.I)
COUNTS = {
    "single": 1, "solitary": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10,
}  # fmt: skip
_COUNT = re.compile(rf"\b({'|'.join(COUNTS)})\b(?! (?:of|side))", re.I)
_NAMES_WITH_DIGITS = re.compile(
    r"\b[CTLS]\d{1,2}(?:\s*[-/]\s*[CTLS]?\d{1,2})?\b|\bsegments?\s+\d\w*(?:\s*(?:/|and|,)\s*\d\w*)*|"
    r"\b(?:18-?F|F-?18|68-?Ga|Ga-?68)\b|\bstations?\s+\d{1,2}[RL]?\b|\b\d{1,2}[RL]\b",
    re.I,
)

_GRADE = re.compile(
    r"\b(?:(?i:bosniak|grade|stage|deauville|fleischner|(?:bi|li|pi|ti|lung|coronary)-?rads|category|class)\s+"
    r"(?:[IVX]+[ab]?|\d[abcx]?)|[pc]?T[0-4][a-c]?N[0-3][a-c]?(?:M[01][a-c]?)?)\b"
)
_TEENS = "eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen|dozens?|hundreds?"
_TENS = "twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_IN_WORDS = re.compile(
    rf"\b(?:{_TEENS}|(?:{_TENS})(?:-\w+)?)\b|\b(?:{'|'.join(COUNTS)}|half a|a)[\s-]+"
    r"(?:mm|cm|ml|millimet\w+|centimet\w+|millilit\w+)\b",
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
    specific: frozenset[str] = frozenset()
    """Those of `families` that words about lesions or nodes do not cover: an effusion, emphysema."""
    stray: tuple[str, ...] = ()
    """Words of its own items that name nothing known: "pneumonia" in "lesion in the liver and pneumonia"."""
    apart: bool = False
    """It names several things, each with its own article or place, in one clause."""
    start: int = 0
    """Where its words begin in the sentence; they end where the next statement's begin."""


def loose_numbers(sentence: str) -> list[str]:
    """Numbers that no slot stands for and that name no vertebra, segment, station or isotope.

    Digits; words before a unit ("twelve millimetres"); grades and classes ("Bosniak IV"); counts above ten.
    """
    text = re.sub(r"^\s*\d{1,2}[.)]\s+", "", SLOT.sub(" ", sentence))
    text = _NAMES_WITH_DIGITS.sub(" ", text)
    graded = [m.group() for m in _GRADE.finditer(text)]
    digits = re.findall(r"[\w.,]*\d[\w.,]*", _GRADE.sub(" ", text))
    return [*graded, *digits, *(m.group() for m in _IN_WORDS.finditer(text))]


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
    for start, part in _parts(sentence):
        if not re.search(r"\w", SLOT.sub("", part)):
            continue
        named = tuple(dict.fromkeys(organ for _, _, organ in organs_in(part)))
        side = laterality(part) or (side if not named else None)
        if named:
            organs, place = named, ""
        out.append(replace(_statement(part, place), organs=organs, side=side, start=start))
    told = [s for s in out if s.kind != "other"]
    return tuple(told or out[:1] or [Statement(kind="other")])


def _parts(sentence: str) -> Iterator[tuple[int, str]]:
    at = 0
    for between in _PART.finditer(sentence):
        yield at, sentence[at : between.start()]
        at = between.end()
    yield at, sentence[at:]


def _statement(part: str, place: str) -> Statement:
    lower = part.lower()
    imaged = _IMAGED.search(lower) is not None
    if normalise(part, "open") == NOT_IN_VIEW:
        return Statement(kind="outside")
    spans = thing_spans(part)
    said = {status_of(part, *span) for span in spans}
    families = families_in(part)
    if said - {"absent"}:
        number = _COUNT.search(part)
        count = COUNTS[number[1].lower()] if number else None
        several = (count or 1) > 1 or bool(_SEVERAL.search(lower)) or any(_plural(lower[a:b]) for a, b in spans)
        phrase = _placed(grounding_phrase(part), place)
        return Statement(
            kind="present",
            phrase=phrase,
            families=families,
            several=several,
            count=count,
            specific=specific_families(part, denied=False),
            stray=(*stray_words(part), *_OPINION.findall(part)),
            apart=names_several(part),
        )
    if said:
        return Statement(
            kind="absent", phrase=_specific(part, place, spans), families=families, imaged=imaged,
            specific=specific_families(part, denied=True), stray=stray_words(_CUE.sub(" ", part)),
        )  # fmt: skip
    if _PARTLY.search(lower):
        return Statement(kind="partly")
    if _CLEAR.search(lower) and (organs_in(part) or place):
        return Statement(kind="absent", imaged=imaged)
    return Statement(kind="other")


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

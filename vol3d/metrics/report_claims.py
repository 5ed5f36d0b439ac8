"""What a report's text claims about lesions, sentence by sentence: place, side, uptake, density, size, number.

Read from the words alone, whoever wrote them: a generator's own account of its sentences is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from vol3d.text.assertion import status_of, unit_at
from vol3d.text.labeler import find_mentions
from vol3d.text.looks import Uptake, density_of, size_of, uptake_of
from vol3d.text.mentions import laterality, quantities
from vol3d.text.organs import SIDES, Side
from vol3d.text.reports import Placed, organ_at, organs_in, place

LESION = "lesion"
"""Kind of every focal lesion: nodule, mass, enlarged node, metastasis. Other kinds are findings of the vocabulary."""
OUTSIDE = "not in the field of view"
"""Kind of a statement that a place was not imaged."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One thing that a sentence says is there, or is not; None is left open."""

    kind: str
    organ: str | None
    """As `vol3d.text.reports.organs_in` names it."""
    side: Side | Literal["bilateral"] | None = None
    present: bool
    uptake: Uptake | None = None
    """Of an absent one: what alone is denied ("no FDG-avid lesion"); likewise density and size."""
    density: str | None = None
    size: str | None = None
    """small, medium or large."""
    diameter_mm: float | None = None
    suv_max: float | None = None
    many: bool = False
    """Several, of a number that is not told."""
    section: str = "findings"
    sentence: str = ""


_NOUN = re.compile(
    r"\b(?:lesions?|nodules?|mass(?:es)?(?! effect)|metasta\w+|tumou?rs?|lymph ?nodes?|(?:lymph)?adenopath\w+|"
    r"malignanc(?:y|ies)|foc(?:us|i)(?= of)|abnormalit(?:y|ies)|cysts?)\b"
)
_PLURAL = re.compile(r"(?:lesions|nodules|masses|metastases|tumou?rs|nodes|foci|abnormalities|cysts)$")
_NODE = re.compile(r"node|adenopath")
_INNOCENT = re.compile(
    r"\b(?:normal|benign|physiolog\w+|reactive|non-?patholog\w+|not (?:enlarged|patholog\w+)|sub-?centimet\w+)\b"
)
"""Nodes that are there and are no finding."""
_MORE = re.compile(r"\b(?:other|further|additional|more|new|else)\b")
_OUTSIDE = re.compile(
    r"\bnot (?:in|within|inside|included|covered|imaged|scanned|part of)\b|\b(?:outside|beyond|out of)\b.{0,20}\bview\b"
)
_CLEAR = re.compile(
    r"\b(?:is|are|appears?|remains?) (?:both |otherwise )?(?:clear|unremarkable|normal)\b(?! (?:in )?(?!appearance)\w)"
    r"|^(?:[a-z][a-z ,/&]{1,40}: )?(?:unremarkable|clear) (?!.*\b(?:is|are)\b)"
)
_NOTHING = re.compile(r"^(?:\w+: )?(?:none of the findings|nothing abnormal|no abnormal findings?)\b")
_GONE = re.compile(r"\b(?:has|have) been (?:resected|removed)\b|\bsurgically absent\b|\bis (?:resected|removed)\b")
_LISTED = re.compile(r"[\s,]*(?:(?:and|or|nor|as well as)\s+)?(?:(?:in|of|the|both|either|left|right)\s+)*")
_SEPARATOR = re.compile(r",\s*(?:and\s+)?|\s+and\s+")
_NUMBERS = {
    "two": 2,
    "both": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
}
_COUNT = re.compile(
    rf"\b(?P<n>{'|'.join(_NUMBERS)}|\d{{1,2}})(?! ?(?:mm|cm|ml)\b)\s+(?:[a-z][\w-]*\s+){{0,5}}?(?:{_NOUN.pattern})"
)


def is_lesion(text: str) -> bool:
    """Whether words name a focal lesion."""
    return _NOUN.search(text.lower()) is not None


def organ_named(text: str) -> str | None:
    """The first organ that a text names."""
    found = organs_in(text)
    return found[0][2] if found else None


def organ_key(name: str) -> str:
    """An organ's name as `organs_in` has it, or the words themselves: "soft tissue" is soft_tissue, "thigh" thigh."""
    return organ_named(name) or "_".join(name.lower().split())


def claims_of(report: str) -> tuple[Claim, ...]:
    """Everything that findings and impression claim, in reading order; lesions first, then other findings."""
    lesions = [claim for placed in place(report) for claim in _of_sentence(placed)]
    others = {
        Claim(kind=m.finding, organ=m.organ, side=m.side, present=m.status != "absent", sentence=m.sentence): None
        for m in find_mentions(report)
        if not _lesion_label(m.finding)
    }
    return (*lesions, *others)


def report_text(report: Mapping[str, str]) -> str:
    """Sections by name as one text with headings."""
    return "\n".join(f"{name.upper()}:\n{text}" for name, text in report.items() if text)


def _lesion_label(name: str) -> bool:
    endings = ("_lesion", "_nodule", "_mass", "_metastasis", "_cyst", "lymphadenopathy", "lymph_nodes")
    return name.startswith("fdg_avid_") or name.endswith(endings)


def _of_sentence(placed: Placed) -> Iterator[Claim]:
    if placed.section not in ("findings", "impression"):
        return
    sentence, lower = placed.text, placed.text.lower()
    nouns = [m for m in _NOUN.finditer(lower) if not _innocent(sentence, m)]
    if not nouns:
        yield from _of_plain(placed, lower)
        return
    said: set[Claim] = set()
    for noun, (start, stop) in zip(nouns, _stretches(sentence, nouns), strict=True):
        for claim, sizes in _of_noun(placed, noun, sentence[start:stop]):
            if claim not in said:  # "nodule or mass": one claim
                said.add(claim)
                yield from _counted(claim, sizes, lower, noun)


def _of_plain(placed: Placed, lower: str) -> Iterator[Claim]:
    """What a sentence without the name of a lesion says of places: out of view, unremarkable, removed."""
    nothing = _NOTHING.search(lower) is not None
    kind = OUTSIDE if _OUTSIDE.search(lower) else LESION
    if kind == LESION and not (nothing or _CLEAR.search(lower) or _GONE.search(lower)):
        return
    for organ in dict.fromkeys(o for _, _, o in organs_in(placed.text)) or [placed.organ]:
        if organ is not None or nothing:
            side = laterality(placed.text)
            yield Claim(
                kind=kind, organ=organ, side=side, present=False, section=placed.section, sentence=placed.text
            )  # fmt: skip


def _stretches(sentence: str, nouns: list[re.Match[str]]) -> list[tuple[int, int]]:
    """What may describe each noun: all of the sentence, up to where another unit or the next noun's own words begin."""
    spans = []
    for noun in nouns:
        unit = unit_at(sentence, noun.start())
        alone = all(unit.start <= other.start() < unit.end for other in nouns)
        spans.append([0, len(sentence)] if alone else [unit.start, unit.end])
    for i, (one, other) in enumerate(pairwise(nouns)):
        if spans[i] == spans[i + 1] and _organ(sentence, one) != _organ(sentence, other):
            cuts = list(_SEPARATOR.finditer(sentence, one.end(), other.start()))
            if cuts:
                spans[i], spans[i + 1] = [spans[i][0], cuts[-1].start()], [cuts[-1].end(), spans[i + 1][1]]
    return [(a, b) for a, b in spans]


def _organ(sentence: str, noun: re.Match[str]) -> str | None:
    unit = unit_at(sentence, noun.start())
    return organ_at(sentence, *noun.span(), unit.start, unit.end)


def _innocent(sentence: str, noun: re.Match[str]) -> bool:
    unit = unit_at(sentence, noun.start())
    return bool(_NODE.search(noun.group()) and _INNOCENT.search(unit.text))


def _of_noun(placed: Placed, noun: re.Match[str], about: str) -> Iterator[tuple[Claim, list[float]]]:
    """A claim for every organ that the noun is said to lie in, with all diameters told."""
    sentence = placed.text
    unit = unit_at(sentence, noun.start())
    present = status_of(sentence, *noun.span()) != "absent"
    if not present and _MORE.search(unit.text):
        return  # "no other lesion" denies nothing that was named
    found = quantities(about) if present else []
    sizes = [max(q.values) for q in found if q.kind == "size" and not q.is_range]
    suvs = [max(q.values) for q in found if q.kind in ("suv_max", "suv")]
    for organ, side in _places(placed, noun, unit.start, unit.end):
        claim = Claim(
            kind=LESION, organ=organ, side=side, present=present, uptake=uptake_of(about), density=density_of(about),
            size=size_of(about), diameter_mm=max(sizes, default=None), suv_max=max(suvs, default=None),
            section=placed.section, sentence=sentence,
        )  # fmt: skip
        yield claim, sizes


def _places(
    placed: Placed, noun: re.Match[str], low: int, high: int
) -> Iterator[tuple[str | None, Side | Literal["bilateral"] | None]]:
    """Organs with their sides: the noun's own, and those listed after it ("in the liver, spleen or left kidney")."""
    sentence = placed.text
    first = organ_at(sentence, *noun.span(), low, high)
    here = [o for o in organs_in(sentence) if low <= o[0] < high]
    at = next((i for i, o in enumerate(here) if o[2] == first and o[0] >= noun.start()), None)
    if at is None:
        at = next((i for i in reversed(range(len(here))) if here[i][2] == first), None)
    if at is None:
        side = laterality(sentence[low:high]) or laterality(sentence)
        yield first or placed.organ, side
        return
    listed = [at]
    while listed[-1] + 1 < len(here) and here[listed[-1]][0] >= noun.start():
        between = sentence[here[listed[-1]][1] : here[listed[-1] + 1][0]].lower()
        if not _LISTED.fullmatch(between):
            break
        listed.append(listed[-1] + 1)
    for i in listed:
        start = _words_from(sentence, here, i, low)
        later = [o[0] for o in here[i + 1 :]] + [m.start() for m in _NOUN.finditer(sentence.lower(), here[i][1], high)]
        after = sentence[here[i][1] : min(later, default=high)]
        side = laterality(sentence[start : here[i][1]])
        yield here[i][2], side or (laterality(after) if i == listed[-1] else None)


def _words_from(sentence: str, here: list[tuple[int, int, str]], i: int, low: int) -> int:
    """Where the words that may name the i-th organ's side begin: after the organ before, unless it is the same one
    ("left upper lobe of the lung")."""
    while i:
        end, organ = here[i - 1][1], here[i - 1][2]
        if organ != here[i][2] or _NOUN.search(sentence.lower(), end, here[i][0]):
            return end
        i -= 1
    return low


def _counted(claim: Claim, sizes: list[float], lower: str, noun: re.Match[str]) -> Iterator[Claim]:
    """A claim for each lesion where their number is told, one for each side where both are."""
    if not claim.present:
        yield claim
        return
    counted = next((m for m in _COUNT.finditer(lower) if m.start() < noun.start() < m.end()), None)
    number = (_NUMBERS.get(counted["n"]) or int(counted["n"])) if counted else 1
    plural = number == 1 and _PLURAL.search(noun.group()) is not None
    if claim.side == "bilateral":
        for side in SIDES:
            yield replace(claim, side=side, many=plural or number > len(SIDES))
    elif number > 1 and len(sizes) == number:
        yield from (replace(claim, diameter_mm=size) for size in sizes)
    else:
        yield from [replace(claim, many=plural)] * number

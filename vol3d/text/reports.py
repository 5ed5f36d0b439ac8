"""Reports as text: sections, sentences, and the organ that each sentence speaks of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from itertools import pairwise
from typing import Literal, get_args

import yaml

Section = Literal["findings", "impression", "indication", "technique", "comparison"]
SECTIONS: tuple[Section, ...] = get_args(Section)

_HEADINGS: dict[Section, tuple[str, ...]] = {
    "findings": ("findings?", "report", "description", "body of report", "observations?", "results?", "bulgular"),
    "impression": (
        "(?:diagnostic )?impressions?", "conclusions?", "opinion", "summary", "assessment", "interpretation",
        "(?:final )?diagnos[ie]s", "final impression", "sonu\u00e7",
    ),
    "indication": (
        "indications?(?: for (?:exam(?:ination)?|study))?", "history", "clinical",
        "clinical (?:information|history|indications?|data|details|question|context|background)",
        "reason for (?:the )?(?:exam(?:ination)?|study|test|visit)",
    ),
    "technique": (
        "techniques?", "procedure(?: comments)?", "protocol", "methods?", "exam(?:ination)?",
        "scan (?:protocol|parameters)",
    ),
    "comparison": (
        "comparisons?(?: stud(?:y|ies))?", "comparison made", "priors?", "correlation",
        "(?:prior|previous) (?:stud(?:y|ies)|exams?|examinations?)",
    ),
}  # fmt: skip
_HEADING = re.compile(
    r"(?:^|(?<=[.!?\n\"\u2022])[ \t]*)[ \t*#_>\-\d.)]{0,6}(?:"
    + "|".join(f"(?P<{name}>{'|'.join(words)})" for name, words in _HEADINGS.items())
    + r")(?:\s+and\s+(?:recommendations?|impressions?|plan))?[ \t*_]*(?::[ \t*_]*|[ \t]*(?=\n)|[ \t]+[-\u2013][ \t]+)",
    re.IGNORECASE | re.MULTILINE,
)

_ALWAYS_SHORT = ("e.g", "i.e", "dr", "prof", "assist", "assoc", "doc", "mr", "mrs", "ms", "vs", "approx", "cf", "fig")
_SOMETIMES_SHORT = (
    "ca", "no", "nos", "st", "ant", "post", "lat", "inf", "sup", "max", "min", "etc", "incl", "resp", "iv", "i.v", "im",
    "ser", "img", "ima", "se", "vol", "a.m", "p.m", "diam", "op", "postop", "preop", "temp", "[a-z]",
)  # fmt: skip
"""Abbreviations that a sentence may end with: they do not end it before a small letter or a digit."""
_ALWAYS = re.compile(r"(?:^|[\s(\"])(?:" + "|".join(map(re.escape, _ALWAYS_SHORT)) + r")$", re.IGNORECASE)
_SOMETIMES = re.compile(r"(?:^|[\s(\"])(?:" + "|".join(_SOMETIMES_SHORT) + r")$", re.IGNORECASE)
_LINE = re.compile(r"\s*(?:\n|\"\"+|[\u2022\u00b7\u25cf\u25aa\u201c\u201d])\s*")
"""What parts items: line ends, bullets, doubled quotes."""
_STOP = re.compile(r"[.!?]+[\"')\]\u2019]*(?=\s|$)|(?<=[a-z)\]])\.(?=[A-Z][a-z])")
_NUMBER = re.compile(r"^\W*(?:\d{1,2}|[a-h])$")
_ITEM = re.compile(r"^\s*(?:(?:\d{1,2}|[a-hA-H])\s*[.)]\s+|\d{1,2}\s*-\s+|[-*\u2013]+\s*|\"+\s*)+")


@dataclass(frozen=True)
class Placed:
    """A sentence with its section and its organ (None if none is named or carried on)."""

    text: str
    section: Section
    organ: str | None


def sections(report: str) -> dict[Section, str]:
    """The parts of a report by their headings, in whatever spelling; text before any heading counts as findings.

    A report without headings is all findings. Parts that occur twice are joined.
    """
    marks = [(m.start(), m.end(), str(m.lastgroup)) for m in _HEADING.finditer(report)]
    told = any(name in ("findings", "impression") for _, _, name in marks)
    out: dict[Section, str] = {}
    cuts = [(0, 0, "findings"), *marks, (len(report), len(report), "")]
    for (_, start, name), (end, _, _) in pairwise(cuts):
        text = report[start:end].strip()
        if not told and name != "findings":  # "Comparison: CT of May. The heart is ...": the rest is no comparison
            first = next(iter(sentences(text)), "")
            head = text.find(first) + len(first)
            _add(out, name, text[:head])
            name, text = "findings", text[head:].strip()
        _add(out, name, text)
    return out


def _add(out: dict[Section, str], name: str, text: str) -> None:
    section = next(s for s in SECTIONS if s == name)
    if text:
        out[section] = f"{out[section]}\n{text}" if section in out else text


def sentences(text: str) -> list[str]:
    """Sentences and list items, without their numbers or bullets; decimals and abbreviations do not end one."""
    out: list[str] = []
    for line in _LINE.split(text):
        start = 0
        for m in _STOP.finditer(line):
            if not _goes_on(line, start, m):
                out.append(line[start : m.end()])
                start = m.end()
        out.append(line[start:])
    items = (_ITEM.sub("", piece.strip()).strip() for piece in out)
    return [item for item in items if re.search(r"\w", item)]


def _goes_on(line: str, start: int, mark: re.Match[str]) -> bool:
    """Whether a mark ends no sentence: abbreviation, number of a list item, question in brackets."""
    follows = line[mark.end() :].lstrip()[:1]
    if mark.group()[0] in "!?":
        return bool(follows) and not (follows.isupper() or follows.isdigit())
    low = max(start, mark.start() - 8)
    if _ALWAYS.search(line, low, mark.start()) or _NUMBER.match(line[start : mark.start()]):
        return True
    return (follows.islower() or follows.isdigit()) and _SOMETIMES.search(line, low, mark.start()) is not None


@cache
def _places(key: Literal["words", "weak"]) -> re.Pattern[str]:
    """One expression for all organs, a group each: one pass over a sentence is what speed allows."""
    table = yaml.safe_load((files("vol3d.text") / "vocabulary" / "places.yaml").read_text())
    groups = (f"(?P<{organ}>{'|'.join(row[key])})" for organ, row in table.items() if row.get(key))
    return re.compile(rf"\b(?:{'|'.join(groups)})\b")


@cache
def _beside() -> re.Pattern[str]:
    """A place that is only near: "adjacent to the pleura" is not in the pleura."""
    return re.compile(
        r"\b(?:adjacent to|next to|near|close to|abutting|neighbou?rhood of|vicinity of|level of|extending to|reaching|"
        r"from|behind|anterior to|posterior to|lateral to|medial to|superior to|inferior to)"
        r"(?: the| both| its)?\s*$"
    )


@lru_cache(maxsize=4096)
def organs_in(text: str) -> tuple[tuple[int, int, str], ...]:
    """Organs that a text names, (start, end, organ) in reading order; weak words only where no strong one stands."""
    lower = text.lower()
    for pattern in (_places("words"), _places("weak")):
        found = tuple(
            (m.start(), m.end(), str(m.lastgroup))
            for m in pattern.finditer(lower)
            if not _beside().search(lower, max(0, m.start() - 28), m.start())
        )
        if found:
            return found
    return ()


def organ_at(text: str, start: int, end: int, low: int = 0, high: int | None = None) -> str | None:
    """The organ that the words at [start, end) belong to: the first named after them, else the last before.

    Looked for within [low, high) first, then in the whole text.
    """
    high = len(text) if high is None else high
    here = organs_in(text)
    for a, b in ((low, high), (0, len(text))):
        near = [o for o in here if a <= o[0] < b]
        on = [o for o in near if o[0] < end and o[1] > start]
        after = [o for o in near if o[0] >= end]
        before = [o for o in near if o[1] <= start]
        if on or before or after:
            adjective = before and re.fullmatch(r"[\s-]*(?:\w+[\s-]+){0,2}", text[before[-1][1] : start])
            if on:
                return on[-1][2]
            return before[-1][2] if adjective or not after else after[0][2]
    return None


def place(report: str) -> Iterator[Placed]:
    """Every sentence with its section and organ; a sentence that names none carries on with the last one's organ.

    A sub-heading ("Lungs: ...") names the organ for its line.
    """
    for section, text in sections(report).items():
        organ: str | None = None
        for sentence in sentences(text):
            named = organs_in(sentence)
            head = re.match(r"^[A-Z][A-Za-z ,/&]{2,40}:", sentence)
            in_head = organs_in(head.group()) if head else ()
            organ = in_head[0][2] if in_head else named[0][2] if named else organ
            yield Placed(sentence, section, organ)

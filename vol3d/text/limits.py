"""Limits that a question sets: "larger than 10 mm", "SUVmax above 5", "between 1 and 2 cm", "at least two lesions".

Each is taken out of the text, so that what remains names the thing alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from vol3d.text.figures import Figure, figure_in
from vol3d.text.questions import RELATIVE_TOLERANCE
from vol3d.text.statements import COUNTS

Relation = Literal["more", "less", "at least", "at most", "exactly", "about", "between"]

THING = (
    r"(?:lesions?|nodul\w*|mass(?:es)?|tumou?rs?|metastas[ei]s|malignanc(?:y|ies)|neoplasms?|sarcomas?|carcinomas?|"
    r"lymphomas?|abnormalit(?:y|ies)|findings?|foc(?:us|i)|(?:lymph\s)?nodes?|cysts?|effusions?|calcifications?)"
)
_RELATIONS: tuple[tuple[Relation, str], ...] = (
    ("at most", r"(?:no|not)\s(?:more|larger|bigger|greater|longer|higher)\sthan|at\s(?:the\s)?most|up\sto|"
     r"<=|\u2264|(?:smaller|less|fewer|lower)\sthan\sor\sequal\sto"),
    ("at least", r"(?:no|not)\s(?:less|smaller|fewer|lower|shorter)\sthan|at\s(?:the\s)?least|>=|\u2265|"
     r"(?:larger|bigger|greater|more|higher)\sthan\sor\sequal\sto"),
    ("more", r"(?:larger|bigger|greater|longer|higher|more)\sthan|above|over|exceed(?:s|ing)?|>"),
    ("less", r"(?:smaller|less|fewer|lower|shorter)\sthan|below|under|<"),
    ("about", r"about|approximately|approx\.?|around|roughly|circa|nearly"),
    ("between", r"between|from"),
    ("exactly", r"exactly|precisely|equal\sto|only|just"),
)  # fmt: skip
_OR: tuple[tuple[Relation, str], ...] = (
    ("at least", r"\sor\s(?:more|larger|bigger|greater|above|over|longer|higher)\b|\sand\s(?:above|more)\b"),
    ("at most", r"\sor\s(?:less|smaller|fewer|below|under|shorter|lower)\b"),
)
_RELATION = "|".join(f"(?:{p})" for _, p in _RELATIONS)
_SUFFIX = "|".join(f"(?:{p})" for _, p in _OR)
_NUMBER = r"\d+(?:[.,]\d+)?"
_UNIT = (
    r"mm|millimet(?:er|re)s?|cm|centimet(?:er|re)s?|ml|millilit(?:er|re)s?|cc|cm3|cm\u00b3|"
    r"cubic\scentimet(?:er|re)s?|hu|hounsfield\sunits?"
)
_LIMIT = re.compile(
    rf"(?:(?<![\w-])(?P<relation>{_RELATION})\s*)?(?<![\w.,-])(?P<low>{_NUMBER})"
    rf"(?:(?:\s?-?(?:{_UNIT}))?\s*(?:-|\u2013|\bto\b|\band\b)\s*(?P<high>{_NUMBER}))?"
    rf"(?:\s?-?(?P<unit>{_UNIT})(?![\w\u00b2\u00b3]))?(?P<suffix>{_SUFFIX})?",
    re.I,
)
FIGURE = (
    r"(?:(?:longest|largest|greatest|maxim\w+|axial|short(?:est)?|long|mean|average|peak|total|combined|overall|"
    r"metabolic|cranio-?caudal|transverse|antero-?posterior)\s)*(?:diameters?|sizes?|volumes?|extent|dimensions?|length|width|"
    r"height|thickness|ax[ei]s(?:\s(?:diameter|length))?|uptake|density|attenuation|tlg|"
    r"suv(?:[ -]?(?:max(?:imum)?|mean|peak|bw))?)(?:\svalues?)?"
)
_BEFORE = re.compile(
    rf"(?:,?\s*\b(?:that|which)\s(?:is|are|has|have|measures?|reach(?:es)?))?(?:\s*\b(?:with|has|have|having|of|measures?|"
    rf"measuring|reach(?:es|ing)?|sized|is|are))?(?:\s*\b(?:an?|the|its|their))?(?:\s*\b{FIGURE})?"
    r"(?:\s*\b(?:of|is|are|that\sis|measuring))?\s*$",
    re.I,
)
_AFTER = re.compile(
    rf"\s*(?:\b(?:in|along|on|at)\s(?:(?:the|its|their)\s)?{FIGURE}|\b{FIGURE}|\b(?:long|large|big|small|across))?",
    re.I,
)
_WORDS = {"a single": 1, "a couple of": 2, "a pair of": 2, **COUNTS}
_COUNT = re.compile(
    rf"(?<![\w-])(?:(?P<relation>{_RELATION})\s*)?(?<![\w.,-])(?P<number>{'|'.join(_WORDS)}|\d{{1,3}})(?P<suffix>{_SUFFIX})?\s"
    rf"(?=(?:(?!in\b|on\b|of\b)[\w-]+\s){{0,4}}?{THING}\b)",
    re.I,
)
_SOLE = re.compile(r"\b(?:(?:only|just)\s)?(?:a\s)?(?:single|solitary)\b", re.I)
_MANY = re.compile(r"\b(?:multiple|several|numerous|many)\b", re.I)
_TIMES = re.compile(rf"\d\s*(?:mm|cm)?\s*(?:x|\u00d7|\*|by)\s*{_NUMBER}\s*(?:mm|cm)", re.I)


@dataclass(frozen=True)
class Limit:
    """A number that a question compares with."""

    figure: Figure | None
    """None: how many there are, or a figure that is not known."""
    relation: Relation
    values: tuple[float, ...]
    """mm, ml, g/ml, g, or things; two of "between"."""
    step: float = 1.0
    """The last digit that was said, in the same unit: 34.2 mm is "34 mm", and no "34.0 mm"."""

    def holds(self, value: float) -> bool:
        """Whether a measured value (same unit) keeps it; "exactly" to the digits that were said, "about" to 10%."""
        low = self.values[0]
        match self.relation:
            case "more":
                return value > low
            case "less":
                return value < low
            case "at least":
                return value >= low
            case "at most":
                return value <= low
            case "between":
                return min(self.values) <= value <= max(self.values)
            case "about":
                return abs(value - low) <= RELATIVE_TOLERANCE * low
        return abs(value - low) <= self.step / 2


def take_limits(text: str, figure: Figure | None) -> tuple[str, tuple[Limit, ...], str]:
    """The text without its limits on figures, these in reading order, and why one cannot be read ("" where all can).

    Args:
        text: a question.
        figure: that the question as a whole is about; it tells what a number without a unit is.
    """
    limits: list[Limit] = []
    trouble = ""
    for found in reversed(list(_LIMIT.finditer(text))):
        start, end = _span(text, found)
        own = figure_in(text[start:end])
        if not found["unit"]:
            own = _unitless(own, figure, text[found.end() :])
            if own is None or not (found["relation"] or start < found.start() - 1):
                continue
        limit, why = _limit(found, own or figure)
        limits, trouble = ([limit, *limits] if limit else limits), trouble or why
        text = " ".join(f"{text[:start]} {text[end:]}".split())
        text = re.sub(r"(?:,|\b(?:and|with|but|or|of|that|which))+\s*$", "", text, flags=re.I).strip()
    if limits and _TIMES.search(text):
        trouble = trouble or "its limits cannot be read"
    return text, tuple(limits), trouble


def _span(text: str, found: re.Match[str]) -> tuple[int, int]:
    """Of the limit with the words that belong to it; the verb that a question starts with stays."""
    before, after = _BEFORE.search(text[: found.start()]), _AFTER.match(text[found.end() :])
    start = before.start() if before and before.group().strip() and before.start() > 0 else found.start()
    return start, found.end() + (after.end() if after else 0)


def _unitless(own: Figure | None, figure: Figure | None, right: str) -> Figure | None:
    """What a number without a unit is: uptake, where its own words or the question say so, else nothing."""
    counted = re.match(rf"\s(?:[\w-]+\s){{0,4}}?{THING}\b", right, re.I)
    for named in (own, None if counted else figure):
        if named is not None and named.startswith(("suv", "tlg")):
            return named
    return None


def _limit(found: re.Match[str], figure: Figure | None) -> tuple[Limit | None, str]:
    unit = (found["unit"] or "").lower()
    if unit.startswith(("hu", "hounsfield")):
        return None, "density in HU is not measured"
    lengths: tuple[Figure, ...] = ("size", "short", "mean")
    scale = 10.0 if unit == "cm" or unit.startswith("centimet") else 1.0
    if unit.startswith(("ml", "millilit", "cc", "cm3", "cm\u00b3", "cubic")):
        figure = "volume"
    elif unit:
        figure = figure if figure in lengths else "size"
    if figure is None or (found["high"] and _relation(found) not in ("between", "exactly")):
        return None, "its limits cannot be read"
    words = [w for w in (found["low"], found["high"]) if w]
    decimals = max(len(w.replace(",", ".").partition(".")[2]) for w in words)
    values = tuple(float(w.replace(",", ".")) * scale for w in words)
    relation = "between" if len(values) == 2 else _relation(found)
    return Limit(figure, relation, values, scale * 10.0**-decimals), ""


def _relation(found: re.Match[str]) -> Relation:
    """As said; a number alone is meant exactly."""
    if found["suffix"]:
        return next(name for name, pattern in _OR if re.fullmatch(pattern, found["suffix"], re.I))
    said = found["relation"]
    return next((name for name, pattern in _RELATIONS if said and re.fullmatch(pattern, said, re.I)), "exactly")


def take_count(text: str) -> tuple[str, Limit | None]:
    """The text without how many things it asks for, and that: "only one", "more than 3", "several"."""
    if found := _COUNT.search(text):
        word = found["number"].lower()
        number = float(_WORDS.get(word, word))
        return without(text, found), Limit(None, _relation(found), (number,))
    if found := _SOLE.search(text):
        return without(text, found), Limit(None, "exactly", (1.0,))
    if found := _MANY.search(text):
        return without(text, found), Limit(None, "at least", (2.0,))
    return text, None


def without(text: str, found: re.Match[str]) -> str:
    """The text without a match, with single spaces."""
    return " ".join(f"{text[: found.start()]} {text[found.end() :]}".split())

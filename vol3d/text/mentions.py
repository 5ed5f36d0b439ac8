"""What a sentence states besides findings: numbers with their units, sides, and references to a prior study."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from vol3d.text.organs import Side, side_of

Kind = Literal["size", "volume", "suv_max", "suv_mean", "suv_peak", "suv", "slice", "z", "hu"]
Change = Literal["compared", "stable", "new", "larger", "smaller", "resolved"]

_NUMBER = r"\d+(?:[.,]\d{1,3})?"
_LENGTH = r"(?:mm|cm|millimet(?:er|re)s?|centimet(?:er|re)s?)\b(?![\u00b2\u00b323])"
_TIMES = r"\s*(?:x|\u00d7|\*|by)\s*"
_TO = r"\s*(?:-|\u2013|to)\s*"
_PATTERNS: dict[Kind, str] = {
    "z": r"\bz\s*=\s*(?P<z>[-+]?\d+(?:\.\d+)?\s*mm)\b",
    "size": rf"(?<![\w.,/])(?P<size>"
    rf"{_NUMBER}(?:\s*{_LENGTH})?(?:{_TIMES}{_NUMBER}(?:\s*{_LENGTH})?){{1,2}}(?<=[mrse])"
    rf"|{_NUMBER}(?:{_TIMES}{_NUMBER}){{0,2}}(?:(?:{_TO}|\s+(?:and|or)\s+){_NUMBER})?\s*-?{_LENGTH})",
    "volume": rf"(?<![\w.,/])(?P<volume>{_NUMBER}(?:{_TO}{_NUMBER})?\s*(?:m[lL]|cc|cm3|cm\u00b3|cubic cent\w+)\b)",
    "suv_max": rf"\bSUV[ -]?max(?:imum)?(?:\s*(?:value|level))?{{link}}(?P<suv_max>{_NUMBER})",
    "suv_mean": rf"\bSUV[ -]?mean{{link}}(?P<suv_mean>{_NUMBER})",
    "suv_peak": rf"\bSUV[ -]?peak{{link}}(?P<suv_peak>{_NUMBER})",
    "suv": rf"\bSUV(?:bw|lbm|bsa)?{{link}}(?P<suv>{_NUMBER})",
    "slice": r"(?:\b(?:slices?|images?|img|ima|im)(?:\s*(?:number|no\.?|#))?\s*[:=#]?\s*"
    r"|(?<=[(\s])\d{1,3}:(?=\d{1,4}[),;\s]))"
    rf"(?P<slice>\d{{1,4}}(?:{_TO}\d{{1,4}})?)\b(?!\s*(?:mm|cm|[.]\d))",
    "hu": r"(?P<hu>[-+]?\d+(?:\.\d+)?\s*HU)\b",
}
_LINK = r"(?:\s*(?:of|is|was|are|value|values|measured|measuring|up to|approximately|about|around|[:=~\u2248(]))*\s*"

_CHANGES: dict[Change, str] = {
    "compared": r"\bcompar(?:ed|ison|atively)\b|\b(?:previous|prior|earlier|old|former|last)(?:ly)?\b|\bsince\b"
    r"|\bagain\b|\bfollow-?up of known|\bdated\b|\binterval\b",
    "stable": r"\bstable\b|\bunchanged\b|\bno (?:significant |interval |obvious )*(?:change|difference)\b"
    r"|\bsimilar to\b|\bpersist\w*|\bwithout (?:significant )?change",
    "new": r"\bnew(?:ly)?\b(?!-?born)|\bnot (?:seen|observed|present|detected) (?:in|on) the (?:previous|prior)"
    r"|\bjust emerged\b|\brecently developed\b",
    "larger": r"\b(?:has |have )?(?:increased|enlarged|grown|progress\w+|larger than (?:in|before|prev))\b"
    r"(?! (?:density|uptake|fdg|tracer|attenuation|trabec))|\bincrease in (?:the )?(?:size|number|extent|amount)",
    "smaller": r"\b(?:has |have )?(?:decreased in size|regress\w+|shrunk|smaller than|reduced in size)\b"
    r"|\bdecrease in (?:the )?(?:size|number|extent|amount)",
    "resolved": r"\bresol(?:ved|ution)\b|\bdisappeared\b|\bno longer\b|\bcomplete(?:ly)? regress\w*",
}


@dataclass(frozen=True)
class Quantity:
    """One number or group of numbers that the image must answer.

    `values` are in mm, ml, SUV, HU, or slice numbers; a size keeps its order ("12 x 8 mm" is (12, 8)), a range has its
    two ends.
    """

    kind: Kind
    values: tuple[float, ...]
    is_range: bool
    start: int
    end: int
    """Where the number with its unit stands; for SUV and slices the number alone."""


def quantities(text: str) -> list[Quantity]:
    """Every quantity in reading order; what one pattern has taken is not read twice."""
    taken: list[Quantity] = []
    for kind, pattern in _patterns().items():
        for m in pattern.finditer(text):
            start, end = m.span(kind)
            if not any(q.start < end and start < q.end for q in taken):
                taken.append(_read(kind, m[kind], start, end))
    return sorted(taken, key=lambda q: q.start)


def laterality(text: str) -> Side | Literal["bilateral"] | None:
    """The side that a text names, "bilateral" if it names both."""
    lower = text.lower()
    if re.search(r"\b(?:bilateral(?:ly)?|both|either)\b", lower):
        return "bilateral"
    if side := side_of(text):
        return side
    both = re.search(r"\bleft\b", lower) and re.search(r"\bright\b", lower)
    return "bilateral" if both else None


def references_to_prior(text: str) -> frozenset[Change]:
    """What a sentence says about an earlier study: compared with, stable, new, larger, smaller, resolved."""
    lower = text.lower()
    return frozenset(name for name, pattern in _changes().items() if pattern.search(lower))


def without_prior(sentences: list[str]) -> Iterator[str]:
    """The sentences that one image alone can answer."""
    return (s for s in sentences if not references_to_prior(s))


@cache
def _patterns() -> dict[Kind, re.Pattern[str]]:
    return {k: re.compile(p.replace("{link}", _LINK), re.IGNORECASE) for k, p in _PATTERNS.items()}


@cache
def _changes() -> dict[Change, re.Pattern[str]]:
    return {k: re.compile(p) for k, p in _CHANGES.items()}


def _read(kind: Kind, text: str, start: int, end: int) -> Quantity:
    lower = text.lower()
    signed = kind in ("z", "hu")
    found = re.findall(r"[-+]?\d+(?:\.\d+)?" if signed else r"\d+(?:[.,]\d+)?", lower)
    values = [float(v.replace(",", ".")) for v in found]
    is_range = not signed and re.search(rf"\d{_TO}\d", lower) is not None
    if kind == "size":
        units = re.findall(r"mm|millim|cm|centim", lower)
        each = units if len(units) == len(values) else [units[-1]] * len(values)
        values = [round(v * 10, 6) if u in ("cm", "centim") else v for v, u in zip(values, each, strict=True)]
    return Quantity(kind, tuple(values), is_range, start, end)

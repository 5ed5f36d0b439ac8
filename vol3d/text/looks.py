"""Words for how a thing looks: its density on CT, its tracer uptake, its size."""

from __future__ import annotations

import re
from typing import Literal, TypeVar

Uptake = Literal["avid", "non-avid"]
Density = Literal[
    "part-solid", "ground-glass", "calcified", "hypodense", "hyperdense", "isodense", "lytic", "sclerotic", "solid"
]
_T = TypeVar("_T")

_UPTAKES: tuple[tuple[Uptake, re.Pattern[str]], ...] = (
    ("non-avid", re.compile(
        r"\bnon-?(?:fdg-|tracer-)?avid\b|\bnot (?:fdg-|tracer-)?avid\b|metabolically inactive|\bhypometabolic\b|"
        r"\bnon-?metabolic\b|"
        r"\b(?:without|no|lacks?|absent)(?: \w+){0,2}? ?(?:fdg|tracer|metabolic|increased|pathologic\w*)?"
        r"(?: \w+)? ?(?:uptake|avidity|hypermetabolism|metabolic activity)\b"
    )),
    ("avid", re.compile(
        r"\bavid\b|\b(?:fdg|tracer)-avid\b|hypermetaboli\w+|metabolically active|"
        r"\b(?:increased|intense|high|marked|moderate|strong|elevated|abnormal|patholog\w+|showing|with)"
        r"(?: \w+){0,2} uptake\b|\buptake of\b"
    )),
)  # fmt: skip
_DENSITY_WORDS: dict[Density, str] = {
    "part-solid": r"part(?:ly|ially)?[- ]solid|sub-?solid|semi-?solid", "ground-glass": r"ground[- ]glass",
    "calcified": r"calcified", "hypodense": r"hypodense|hypoattenuating|low[- ](?:attenuation|density)",
    "hyperdense": r"hyperdense|hyperattenuating|high[- ](?:attenuation|density)",
    "isodense": r"isodense|isoattenuating", "lytic": r"(?:osteo)?lytic",
    "sclerotic": r"(?:osteo)?sclerotic|osteoblastic|blastic", "solid": r"(?<!-)solid|soft[- ]tissue density",
}  # fmt: skip
_DENSITIES: tuple[tuple[Density, re.Pattern[str]], ...] = tuple(
    (name, re.compile(rf"(?<!non-)(?<!not )\b(?:{words})\b")) for name, words in _DENSITY_WORDS.items()
)
_SIZES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("small", re.compile(r"\b(?:small|tiny|minute|millimetric)\b(?! (?:bowel|intestin))")),
    ("medium", re.compile(r"\b(?:medium|moderate|intermediate)[- ]size")),
    ("large", re.compile(r"\b(?:large|huge|big|bulky|giant)\b(?! (?:bowel|intestin|vessel))")),
)


def density_of(text: str) -> Density | None:
    """The one density that a text names; None if it names none."""
    return _first(_DENSITIES, text.lower())


def size_of(text: str) -> str | None:
    """small, medium or large; None if no such word stands there."""
    return _first(_SIZES, text.lower())


def uptake_of(text: str) -> Uptake | None:
    """Whether a text calls a lesion avid, or says that it is not."""
    lower = text.lower()
    return next((name for name, pattern in _UPTAKES if pattern.search(lower)), None)


def plain_of(text: str) -> str:
    """A phrase without its words on density and uptake: "calcified lesion in the liver without FDG uptake" is a
    "lesion in the liver"."""
    for _, pattern in _UPTAKES:
        text = re.sub(rf"(?:\b(?:with|showing)\s+)?(?:{pattern.pattern})", " ", text, flags=re.I)
    for _, pattern in _DENSITIES:
        text = re.sub(
            rf"(?:\b(?:of|with|densely|heavily|coarsely|partly)\s+)?{pattern.pattern}(?:\s+(?:density|attenuation)\b)?",
            " ",
            text,
            flags=re.I,
        )
    return re.sub(r"(?:^[\s,-]+|[\s,-]+$)", "", re.sub(r"\s+(,)|\s+", r"\1 ", text)).strip()


def _first(table: tuple[tuple[_T, re.Pattern[str]], ...], lower: str) -> _T | None:
    found = [(m.start(), i) for i, (_, pattern) in enumerate(table) if (m := pattern.search(lower))]
    return table[min(found)[1]][0] if found else None

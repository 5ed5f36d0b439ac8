"""The lesion that a question is about where no frame fits: what is left of its words without those that only ask."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files

import yaml

from vol3d.text.meaning import meaning_of

_LOOSE = re.compile(r"^(?:(?:the|an?|of|in|on|is|are|that|which|this|these|and|to|with)\b\s*)+|"
                    r"(?:\s*\b(?:the|an?|of|in|on|is|are|that|which|this|these|and|to))+$", re.I)  # fmt: skip
_FIRST = re.compile(r"^(?:(?:is|are|that|which|this|these|and|to|on)\b\s*)+", re.I)
_SIDES = re.compile(
    r"(?:\bon\s)?(?:\bthe\s)?\b(?:left|right)(?:\sside|-sided)?,?\s(?:or|and)\s(?:on\s)?(?:the\s)?(?:left|right)\b(?:\sside|-sided)?",
    re.I,
)
"""What a question about the side may offer."""
_FIGURE = re.compile(
    r"\b(?:(?:highest|maximum|maximal|peak|mean|average)\s)?standardi[sz]ed\suptake(?:\svalues?)?\b|\btakes?\sup\b|\bhow\s(?:large|big)\b|"
    r"\bhow\s(?:intense|strong|high|marked|hot)\s(?:is|are)\s(?:the\s)?(?:(?:fdg|tracer|metabolic)\s)?(?:uptake|activity)\b|"
    r"\b(?:from\s(?:one\s)?)?end\sto\s(?:the\sother|end)\b|\bat\sall\b|\bif\sany\b|\byes\sor\sno\b|\bof\sorigin\b|"
    r"\bturn(?:s|ed)\sup\b|\bto\s(?:what|which)\b(?=.*\srises?\b)|\brises?$|['\u2019]s\b|\bof\sthe\s(?:two|pair\sof)\b",
    re.I,
)
_IN_SCAN = re.compile(r"\b(?:in|on|from|by)\s(?:(?:the|this|these|his|her)\s)?(?:imaging|ct|pet(?:/ct)?)(?=$|\s)", re.I)


def gathered(text: str, *, place_alone: bool) -> str | None:
    """The phrase, if all words of a question either ask or belong to one lesion that is understood; else None.

    Args:
        text: of a question.
        place_alone: a place without a thing stands for a lesion there: "What do you see in the liver?".
    """
    for pattern in (_IN_SCAN, _SIDES, _FIGURE):
        text = pattern.sub(" ", text)
    words = re.findall(r"[\w/'-]+", text)
    rest = " ".join(w for w in words if not _asking().fullmatch(w))
    phrase, rest = _LOOSE.sub("", rest), _FIRST.sub("", rest)
    if meaning_of(phrase) is not None:
        return phrase
    if place_alone and (meaning := meaning_of(f"lesion {rest}")) is not None and meaning.organ is not None:
        placed = re.match(r"(?:in|of|within|inside)\b", rest)
        return f"lesion {rest}" if placed else f"lesion in the {rest}"
    return None


@cache
def _asking() -> re.Pattern[str]:
    """Words that only ask, from `vocabulary/asking.yaml`."""
    table: dict[str, list[str]] = yaml.safe_load((files("vol3d.text") / "vocabulary" / "asking.yaml").read_text())
    return re.compile("|".join(word for words in table.values() for word in words), re.I)

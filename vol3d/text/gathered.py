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
_OWNER = re.compile(r"['\u2019]s\b")
_IN_SCAN = re.compile(r"\b(?:in|on|from|by)\s(?:(?:the|this|these|his|her)\s)?(?:imaging|ct|pet(?:/ct)?)(?=$|\s)", re.I)


def gathered(text: str, *, place_alone: bool) -> str | None:
    """The phrase, if all words of a question either ask or belong to one lesion that is understood; else None.

    Args:
        text: of a question.
        place_alone: a place without a thing stands for a lesion there: "What do you see in the liver?".
    """
    phrases, asking = _asking()
    for pattern in (_IN_SCAN, phrases, _OWNER):
        text = pattern.sub(" ", " ".join(text.split()))
    words = re.findall(r"[\w/'-]+", text)
    rest = " ".join(w for w in words if not asking.fullmatch(w))
    phrase, rest = _LOOSE.sub("", rest), _FIRST.sub("", rest)
    if meaning_of(phrase) is not None:
        return phrase
    if place_alone and (meaning := meaning_of(f"lesion {rest}")) is not None and meaning.organ is not None:
        placed = re.match(r"(?:in|of|within|inside)\b", rest)
        return f"lesion {rest}" if placed else f"lesion in the {rest}"
    return None


@cache
def _asking() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """What only asks, from `vocabulary/asking.yaml`: phrases, then words."""
    table: dict[str, list[str]] = yaml.safe_load((files("vol3d.text") / "vocabulary" / "asking.yaml").read_text())
    phrases = "|".join(table.pop("phrases"))
    words = "|".join(word for words in table.values() for word in words)
    return re.compile(rf"(?:\bon )?(?:\bthe )?\b(?:{phrases})(?!\w)", re.I), re.compile(words, re.I)

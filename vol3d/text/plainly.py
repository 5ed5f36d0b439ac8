"""Ways of saying things put in the plainer words that the vocabularies have, before anything is read from a text.

Only what means exactly the same is put in other words; all else stays as it was written.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from importlib.resources import files

import yaml


@lru_cache(maxsize=65536)
def plainly(text: str) -> str:
    """The same text in plainer words: "in the imaged volume" is "in the scan", "musculature flanking the spine"
    "paraspinal muscles"."""
    text = " ".join(text.split())
    for pattern, words in _plain():
        text = pattern.sub(words, text)
    return " ".join(text.split())


@cache
def _plain() -> tuple[tuple[re.Pattern[str], str], ...]:
    """Of `vocabulary/plain.yaml`, in its order: what is written, and the plain words for it."""
    table = yaml.safe_load((files("vol3d.text") / "vocabulary" / "plain.yaml").read_text())
    parts: dict[str, str] = table.pop("parts")
    return tuple(
        (_whole(re.sub(r"<(\w+)>", lambda m: parts[m[1]], way)), words)
        for rows in table.values()
        for words, *ways in rows
        for way in ways
    )


def _whole(way: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![\w-])(?:{way})(?![\w-])", re.I)

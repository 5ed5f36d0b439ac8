"""Structures by name: wordings for an organ's label, and the organ that a phrase speaks of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

import yaml

Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("left", "right")

_SIDE_WORDS = {"left": r"\bleft\b|\bleft-sided\b|\bsinister\b", "right": r"\bright\b|\bright-sided\b|\bdexter\b"}


@dataclass(frozen=True)
class Structure:
    """One structure, of one side where it is paired."""

    name: str
    """snake_case, with _left or _right: ``kidney_left``."""
    side: Side | None
    words: tuple[str, ...]
    phrases: tuple[str, ...]
    classes: tuple[str, ...]
    """TotalSegmentator class names."""


@cache
def structures() -> dict[str, Structure]:
    """Every structure by name."""
    table = yaml.safe_load((files("vol3d.text") / "vocabulary" / "organs.yaml").read_text())
    out: dict[str, Structure] = {}
    for base, row in table.items():
        for side in SIDES if row.get("sided") else (None,):
            name = f"{base}_{side}" if side else base
            texts = [tuple(t.format(side=side) for t in row.get(key, [])) for key in ("phrases", "classes")]
            out[name] = Structure(name, side, tuple(row["words"]), texts[0], texts[1])
    return out


def side_of(phrase: str) -> Side | None:
    """The side a phrase names; None if it names none or both."""
    found = [side for side in SIDES if re.search(_SIDE_WORDS[side], phrase.lower())]
    return found[0] if len(found) == 1 else None


def structure_named(phrase: str) -> tuple[str, str] | None:
    """The structure that a phrase names by its longest word, whatever the side, and that word: "left renal lesion" ->
    ("kidney", "renal")."""
    text = phrase.lower()
    found = [
        (len(word), structure.name.removesuffix(f"_{structure.side}"), word)
        for structure in structures().values()
        for word in structure.words
        if re.search(rf"\b{re.escape(word)}\b", text)
    ]
    return max(found)[1:] if found else None


def structure_in(phrase: str) -> Structure | None:
    """The structure that a phrase speaks of: ``"FDG-avid nodule in the right lung"`` -> lung_right.

    The longest word wins (``spinal cord`` before ``spinal``). None where no structure is named, or a paired one
    without its side.
    """
    text = phrase.lower()
    best, best_length = None, 0
    for structure in structures().values():
        if structure.side is not None and side_of(phrase) != structure.side:
            continue
        for word in structure.words:
            if len(word) > best_length and re.search(rf"\b{re.escape(word)}\b", text):
                best, best_length = structure, len(word)
    return best


_WHOLE = re.compile(
    r"the|an?|its|whole|entire|entirety|complete|full|total|all|of|in|on|to|as|at|side|sided|left|right|patient'?s?|"
    r"located|situated|lying|tissue|parenchymal?|organ|gland|extent|length|volume|visible|alone|both|sides|two|and|pair|outline|"
    r"contour|together|vessel"
)
"""Words beside a structure's own that leave it whole; a wall, an apex, a lobe or a tumour are something else."""


def names_the_whole(phrase: str, structure: Structure) -> bool:
    """Whether a phrase says no more than the structure, all of it: "the entire liver", not "dome of the liver"."""
    text = phrase.lower()
    for word in sorted(structure.words, key=len, reverse=True):
        text = re.sub(rf"\b{re.escape(word)}\b", " ", text)
    return all(_WHOLE.fullmatch(word) for word in re.findall(r"[\w']+", text))


def pair_named(phrase: str) -> str | None:
    """The structure of which a phrase names both, all of it, and nothing else: "both kidneys" -> "kidney"."""
    text = phrase.lower()
    named = structure_named(text)
    if named is None or len(re.findall(r"[\w']+", text)) > 8:
        return None
    own = [s for s in structures().values() if s.side is not None and s.name == f"{named[0]}_{s.side}"]
    left_and_right = re.search(r"\bleft\b", text) and re.search(r"\bright\b", text)
    plural = re.search(r"\b(?:both|two|bilateral|pair)\b", text) or named[1].endswith("s") or left_and_right
    one_side = bool(re.search(r"\bleft\b", text)) != bool(re.search(r"\bright\b", text))
    if not own or not plural or one_side or " or " in text:
        return None
    rest = text.replace("bilateral", " ")
    return named[0] if names_the_whole(rest, own[0]) else None


def class_phrases(class_name: str) -> tuple[str, ...]:
    """Wordings for a TotalSegmentator class; one spelt from the name itself where the vocabulary has none."""
    for structure in structures().values():
        if class_name in structure.classes:
            return structure.phrases
    words = class_name.split("_")
    if words[0] == "vertebrae":
        return (f"{words[1]} vertebra", f"vertebral body {words[1]}")
    if words[0] == "rib":
        return (f"{words[1]} rib {words[2]}", f"rib {words[2]} on the {words[1]}")
    sides = [w for w in words if w in SIDES]
    rest = [w for w in words if w not in SIDES]
    return (" ".join([*sides, *rest]),)

"""Names in label tables and label maps -> phrases: synonyms, short forms, sides.

``Left_Kidney``, ``kidney_left``, ``LK`` and ``l kidney`` are one structure (`vol3d.text.organs`); ``liver_tumor`` is a
lesion of one; ``Coronary artery wall calcification`` is a finding of a whole study (`vocabulary/findings.yaml`).
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from vol3d.text.organs import SIDES, class_phrases, structures

_ADJECTIVES = ("hepatic", "renal", "pancreatic", "splenic", "colonic", "pulmonary", "adrenal", "gastric", "esophageal",
               "prostatic", "vesical", "duodenal")  # fmt: skip


def label_phrases(name: str) -> tuple[str, ...]:
    """Wordings for a class of a label map; at least the name itself, spelt out."""
    words = _words(name)
    key = frozenset(words)
    if key in _organs():
        return _organs()[key]
    lesion = next((w for w in words if w in _table("labels")["lesions"]), None)
    if lesion is None:
        return (_sided(words),)
    return _lesion_phrases([w for w in words if w != lesion], _table("labels")["lesions"][lesion])


def is_lesion(name: str) -> bool:
    """True if a class is something that a healthy body lacks: if its mask is empty, it is not there."""
    lesions = _table("labels")["lesions"]
    return any(w in lesions or w in ("opacity", "ground-glass") for w in _words(name))


def finding_name(name: str) -> str:
    """The vocabulary's name of a finding in a label table: ``gallstones`` -> gallstone; else the name in snake_case."""
    plain = _plain(name)
    return _aliases().get(plain, plain.replace(" ", "_"))


def finding_phrases(name: str) -> tuple[str, ...]:
    """Wordings for a finding by any of its names."""
    found = finding_name(name)
    row = _table("findings").get(found)
    return tuple(row["phrases"]) if row else (found.replace("_", " "),)


def _plain(name: str) -> str:
    return " ".join(re.sub(r"[_\-./]+", " ", name).lower().split())


def _words(name: str) -> list[str]:
    """Words of a name: camel case split, short forms spelt out, words that say nothing dropped."""
    table = _table("labels")
    split = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    out: list[str] = []
    for word in _plain(split).split():
        out += str(table["short"].get(word, word)).split()
    kept = [w for w in out if w not in table["empty"]]
    return list(dict.fromkeys(kept or out))


def _sided(words: list[str]) -> str:
    """Sides first, as in speech."""
    return " ".join([*(w for w in words if w in SIDES), *(w for w in words if w not in SIDES)])


def _lesion_phrases(where: list[str], wordings: list[str]) -> tuple[str, ...]:
    if not where:
        return tuple(wordings)
    organ, key = _sided(where), frozenset(where)
    out = [f"{organ} {wording}" for wording in wordings]
    out.append(f"{wordings[0]} of the {_organs().get(key, (organ,))[0]}")
    for structure in structures().values():
        if key & set(structure.words) and structure.side is None:
            out += [f"{word} {wordings[0]}" for word in structure.words if word in _ADJECTIVES]
    return tuple(dict.fromkeys(out))


@cache
def _organs() -> dict[frozenset[str], tuple[str, ...]]:
    """Phrases of every structure by the set of words of each of its names."""
    out: dict[frozenset[str], tuple[str, ...]] = {}
    for structure in structures().values():
        side = [structure.side] if structure.side else []
        names = [*structure.phrases, *structure.classes, structure.name]
        names += [" ".join([*side, word]) for word in structure.words if word not in _ADJECTIVES]
        for name in names:
            out.setdefault(frozenset(_words(name)), structure.phrases)
    for name in _TOTALSEGMENTATOR_ONLY:
        out.setdefault(frozenset(_words(name)), class_phrases(name))
    return out


_TOTALSEGMENTATOR_ONLY = tuple(f"rib_{side}_{n}" for side in SIDES for n in range(1, 13)) + tuple(
    f"vertebrae_{letter}{n}" for letter, last in (("C", 7), ("T", 12), ("L", 5), ("S", 1)) for n in range(1, last + 1)
)


@cache
def _aliases() -> dict[str, str]:
    out: dict[str, str] = {}
    for name, row in _table("findings").items():
        for alias in (name, *row.get("aliases", []), *row["phrases"]):
            out.setdefault(_plain(alias), name)
    return out


@cache
def _table(name: str) -> dict[str, Any]:
    return yaml.safe_load((files("vol3d.text") / "vocabulary" / f"{name}.yaml").read_text())

"""What a phrase names, in codes: SNOMED CT where it is a known structure or lesion, else a private code for the phrase.

Only a phrase that names a *whole* structure gets the structure's code. "Nodule in the right lung" is a nodule whose
site is the right lung; it is never coded as lung. The tables lie in `vol3d/export/codes`.
"""

from __future__ import annotations

import csv
import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pydicom.sr.coding import Code

from vol3d.text.organs import SIDES, class_phrases, structure_in, structures

PRIVATE_SCHEME = "99VOL3D"
"""Coding Scheme Designator of codes that stand for a phrase; its meaning is the phrase itself (PS3.16, section 8)."""

MORPHOLOGY = Code("49755003", "SCT", "Morphologically Altered Structure")
PLACE = Code("309825002", "SCT", "Spatial and Relational Concept")
PROBABILITY = Code("present-prob", PRIVATE_SCHEME, "Probability that what the phrase says is present")


_DENIALS = {"no", "not", "without", "free", "except", "excluding"}
"""A liver without metastases is no metastasis."""


@dataclass(frozen=True)
class Site:
    """An anatomic region and its side."""

    region: Code
    modifier: Code | None = None


@dataclass(frozen=True)
class SegmentCodes:
    """Codes of one segment (PS3.3 C.8.20.4)."""

    category: Code
    kind: Code
    modifier: Code | None = None
    """Of `kind`: the side of a paired structure."""
    site: Site | None = None
    """Where a lesion lies."""
    rgb: tuple[int, int, int] | None = None
    """Recommended colour."""


def codes_for(phrase: str) -> SegmentCodes:
    """The codes of a phrase; never fails, since a private code can stand for any."""
    name = _structure_names().get(_plain(phrase))
    if name is not None:
        return _structure_codes()[name]
    words = set(_plain(phrase).split())
    kind = next((code for named, code in _findings() if named & words), None)
    if kind is not None and not words & _DENIALS:
        return SegmentCodes(MORPHOLOGY, kind, site=_site_of(phrase))
    digest = hashlib.sha256(_plain(phrase).encode()).hexdigest()[:15]
    return SegmentCodes(PLACE, Code(f"P{digest}", PRIVATE_SCHEME, one_line(phrase)), site=_site_of(phrase))


def one_line(text: str, limit: int = 64) -> str:
    """For LO and SH values: no control characters, no backslash (it separates values), at most `limit` bytes of UTF-8.

    The standard limits characters (PS3.5 6.2); validators and databases count bytes, so the stricter rule is kept.
    """
    plain = " ".join("".join(c if c.isprintable() else " " for c in text).replace("\\", "/").split())
    if len(plain.encode()) <= limit:
        return plain
    return plain.encode()[: limit - 3].decode(errors="ignore").rstrip() + "..."


def _site_of(phrase: str) -> Site | None:
    structure = structure_in(phrase)
    name = _structure_names().get(_plain(structure.name)) if structure else None
    if name is None:
        return None
    found = _structure_codes()[name]
    return found.site or Site(found.kind, found.modifier)


def _plain(phrase: str) -> str:
    return " ".join(re.sub(r"[^a-z0-9]+", " ", phrase.lower()).split())


def _rows(table: str) -> list[dict[str, str]]:
    text = (files("vol3d.export") / "codes" / table).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


@cache
def _structure_codes() -> dict[str, SegmentCodes]:
    """By class name (``kidney_left``)."""

    def code(row: dict[str, str], column: str) -> Code | None:
        return Code(row[column], "SCT", row[f"{column}_meaning"]) if row[column] else None

    out = {}
    for row in _rows("structures.csv"):
        category, kind, region = code(row, "category"), code(row, "type"), code(row, "region")
        assert category, row["name"]
        assert kind, row["name"]
        site = Site(region, code(row, "region_modifier")) if region else None
        rgb = (int(row["red"]), int(row["green"]), int(row["blue"])) if row["red"] else None
        out[row["name"]] = SegmentCodes(category, kind, code(row, "type_modifier"), site, rgb)
    return out


@cache
def _structure_names() -> dict[str, str]:
    """Wordings of whole structures to class names: the class's own words in any order of its side, and `organs.yaml`'s
    wordings where a structure is one class."""
    known = _structure_codes()
    out: dict[str, str] = {}
    parts = {name for structure in structures().values() if len(structure.classes) > 1 for name in structure.classes}
    for structure in structures().values():
        only = structure.classes[0] if len(structure.classes) == 1 else structure.name
        if only in known:
            for wording in (structure.name, *structure.phrases):
                out[_plain(wording)] = only
    for name in known:
        words = name.split("_")
        sided = [*(w for w in words if w in SIDES), *(w for w in words if w not in SIDES)]
        more = class_phrases(name) if len(words) > 1 and name not in parts else ()
        for wording in (" ".join(words), " ".join(sided), *more):
            out.setdefault(_plain(wording), name)
    return out


@cache
def _findings() -> list[tuple[set[str], Code]]:
    return [(set(row["words"].split()), Code(row["type"], "SCT", row["type_meaning"])) for row in _rows("findings.csv")]

"""What a phrase about a lesion means, so that two phrases can be told to mean the same: what sort of thing, where, and
how it looks. A phrase with any word that is not understood has no meaning here, and is asked as it is written.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from vol3d.text.looks import (
    Density,
    Uptake,
    density_of,
    plain_of,
    says_what_is_not_measured,
    size_of,
    uptake_of,
    without_size,
)
from vol3d.text.mentions import laterality
from vol3d.text.organs import SIDES, Side, structure_named
from vol3d.text.plainly import plainly
from vol3d.text.reports import organs_in

_SORTS: dict[str, re.Pattern[str]] = {
    "node": re.compile(r"\b(?:lymph )?nodes?\b|\blymphadenopath(?:y|ies)\b|\badenopath(?:y|ies)\b", re.I),
    "nodule": re.compile(r"\bnodules?\b", re.I),
    "mass": re.compile(r"\bmass(?:es)?\b", re.I),
    "lesion": re.compile(r"\b(?:lesions?|abnormalit(?:y|ies)|anomal(?:y|ies)|findings?|foc(?:us|i))\b", re.I),
}  # fmt: skip
"""What may stand for each other; a metastasis or a cyst is more than a lesion, and no sort of it."""
_MANY = re.compile(
    r"\b(?:lesions|nodules|masses|nodes|abnormalities|anomalies|findings|foci|lymphadenopathies)\b", re.I
)
_INSIDE = re.compile(r"\bintra-?(?=[a-z]{5})", re.I)
_OWN_NAME: dict[str, re.Pattern[str]] = {
    "mediastinum": re.compile(r"mediastin(?:um|al(?:ly)?)"),
    "bone": re.compile(r"bon(?:e|es|y)|osseous|skelet(?:on|al)"),
    "soft_tissue": re.compile(r"soft tissues?"),
}
"""Words for the whole of an organ that has no structure of its own; the others of vocabulary/places.yaml name parts."""
_VERTEBRAE = re.compile(r"vertebra(?:l|e)?")
_PLAIN = re.compile(
    r"an?|the|all|any|some|every|of|in|on|at|to|and|or|within|inside|throughout|from|which|that|is|are|located|situated|"
    r"affecting|involving|inside|occupying|based|back|scanned|one|space|soft-tissue|lying|seen|visible|present|found|focal|(?:left|right)(?:-sided)?|sided?|both|either|bilateral(?:ly)?|parenchymal?|tissues?|"
    r"arising|originating|growing|substance|fields?|compartment|muscles?|muscular|musculature|columns?|bod(?:y|ies)|organ|anywhere|imaged|shown|region|area|"
    r"this|these|ct|scans?|stud(?:y|ies)|images?|examinations?|exam",
    re.I,
)
"""Words that narrow nothing; "wall", "apex", "cortex" or "peripheral" would."""


@dataclass(frozen=True)
class Meaning:
    """What a phrase about a lesion asks for."""

    sort: str
    organ: str | None
    """As in vocabulary/places.yaml; None: anywhere."""
    structure: str | None
    """As in vocabulary/organs.yaml, without its side."""
    side: Side | None
    """None: whichever."""
    density: Density | None
    uptake: Uptake | None
    size: str | None

    @property
    def plain(self) -> Meaning:
        """Without how it looks."""
        return replace(self, density=None, uptake=None)


def meaning_of(phrase: str) -> Meaning | None:
    """What a phrase means; None if it names no lesion, several places, or holds a word that is not understood."""
    phrase = plainly(phrase)
    text = " ".join(_INSIDE.sub("", phrase).split())
    if says_what_is_not_measured(text):
        return None
    sorts = [name for name, pattern in _SORTS.items() if pattern.search(text)]
    if len(sorts) != 1:
        return None
    rest = _SORTS[sorts[0]].sub(" ", without_size(plain_of(text)))
    spans, structure = organs_in(rest), structure_named(rest)
    organs = {organ for _, _, organ in spans}
    if len(organs) > 1:
        return None
    organ = next(iter(organs), None)
    if structure is None and organ == "bone" and all(_VERTEBRAE.fullmatch(rest[a:b].lower()) for a, b, _ in spans):
        structure = ("spine", "")
    name, words = structure if structure is not None else (None, "")
    if not all(_names_whole(organ, rest[a:b].lower(), name, words) for a, b, organ in spans):
        return None  # "subpleural lung"
    for start, end, _ in reversed(spans):
        rest = f"{rest[:start]} {rest[end:]}"
    left = [w for w in re.findall(r"[^\W\d_][\w'-]*|\d+", rest) if w.lower() not in words.split()]
    if not all(_PLAIN.fullmatch(word) for word in left) or (organ is None and "soft-tissue" in left):
        return None  # "soft-tissue lesion": a place or a density
    side = laterality(phrase)
    return Meaning(
        sorts[0], organ, name, side if side in SIDES else None, density_of(text), uptake_of(text), size_of(text)
    )


def is_of_many(phrase: str) -> bool:
    """Whether the thing stands in the plural."""
    return _MANY.search(phrase) is not None


def _names_whole(organ: str, place: str, structure: str | None, words: str) -> bool:
    """Whether words for a place only name the organ, or the structure that `words` name with it."""
    own = _OWN_NAME.get(organ)
    if own is not None and own.fullmatch(place):
        return True
    named = "spine" if _VERTEBRAE.fullmatch(place) else (structure_named(place) or ("",))[0]
    return structure is not None and (
        named == structure or place in words.split() or _PLAIN.fullmatch(place) is not None
    )

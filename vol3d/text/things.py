"""Things that a report's words name: of which kind, where they stand, and which words name nothing that is known.

A clause is read item by item, an item being what stands between commas and words such as "and" or "with". In "no solid
nodule or consolidation in the lung" two items name a thing; in "lesion in the liver and pneumonia" the second names one
that no mask was asked for, and that must not pass with the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from vol3d.text.claims import DESCRIBED, NEUTRAL, undescribed
from vol3d.text.labeler import find_mentions
from vol3d.text.reports import organs_in
from vol3d.text.slots import SLOT

FOCAL, NODE = "focal", "node"
_FOCAL = re.compile(
    r"\b(?:lesions?|nodul\w*|mass(?:es)?|tumou?rs?|metasta\w+|malignan\w+|neoplas\w+|sarcomas?|carcinomas?|lymphomas?|"
    r"abnormalit(?:y|ies)|anomal(?:y|ies)|foc(?:us|i)|neoformations?)\b",
    re.I,
)
_NODE = re.compile(r"\b(?:lymph )?nod(?:es?|al)\b|\blymphadenopath\w+|\badenopath\w+", re.I)
_ATTRIBUTES = ("fdg_avid", "physiological_uptake")
"""Findings of the labeler that say how something looks, not that it is there: "nodule without FDG uptake"."""
_BETWEEN = re.compile(r"\s*[,;:()]\s*|\b(?:and|or|nor|with|plus|as well as|together with|but)\b", re.I)
_ARTICLE = re.compile(r"\s*(?:an?|another|one|two|three|four|further)\b", re.I)
_MEASURED = re.compile(
    r"(?:largest|longest|long|short|shortest|greatest|axis|axes|axial|diameters?|volumes?|suv\w*|measur\w*|slices?|"
    r"images?|series|ct|pet|z|mm|cm|ml|max\w*|mean|peak|up|to|by|approximately|approx|about|sizes?|sized|x|levels?|each|"
    r"respectively|together|total|its|their|which|that|these|those|them|one|other|another|further|only|partly|shown|"
    r"visible|included|fdg|tracer|uptake|metabolic|activity|increased|low|high|intense|mild|avid|non|not|hypermetabolic|"
    r"iso-?(?:dense|attenuating)|(?:hyper|hypo)-?attenuating|attenuation|density|(?:osteo)?(?:lytic|sclerotic))",
    re.I,
)  # fmt: skip
"""Words about numbers, uptake, density and how much is seen: measured or asked, so no claim of their own."""


def families_in(text: str) -> frozenset[str]:
    """Kinds of things that a text names, whatever it says of them: `FOCAL`, `NODE`, names of findings."""
    found = {m.finding for m in find_mentions(text) if not m.finding.startswith(_ATTRIBUTES)}
    found |= {FOCAL} if _FOCAL.search(text) else set()
    return frozenset(found | ({NODE} if _NODE.search(text) else set()))


def thing_spans(text: str) -> list[tuple[int, int]]:
    """(start, end) of every word or words that name a thing, in reading order."""
    found = [(m.start(), m.end()) for pattern in (_FOCAL, _NODE) for m in pattern.finditer(text)]
    return sorted({*found, *((start, end) for start, end, _ in _mentioned(text))})


def specific_families(text: str, *, denied: bool) -> frozenset[str]:
    """Findings of a text that are no kind of lesion or node, so that words about lesions do not cover them.

    "Emphysema" in "no lesion or emphysema"; none in "ground-glass nodule", whose first word describes the nodule, nor
    in "nodule in the left lung, ground-glass", unless it is denied: without nodules there may still be ground glass.
    """
    general = [m.start() for pattern in (_FOCAL, _NODE) for m in pattern.finditer(text)]
    items = [(a, b) for a, b in _items(text) if any(a <= at < b for at in general)]
    return frozenset(
        name
        for start, end, name in _mentioned(text)
        if not any(a <= start < b for a, b in items)
        and not (general and not denied and any(p.fullmatch(text[start:end]) for p in DESCRIBED))
    )


def stray_words(text: str) -> tuple[str, ...]:
    """Words of items that name no thing of the vocabulary and neither place, describe nor measure one: "pneumonia"."""
    things = thing_spans(text)
    blank = list(SLOT.sub(lambda m: " " * len(m.group()), text))
    for start, end, _ in organs_in(text):
        blank[start:end] = " " * (end - start)
    out: list[str] = []
    for a, b in _items(text):
        if any(a <= start < b for start, _ in things):
            continue
        words = re.findall(r"[A-Za-z][\w-]*", undescribed("".join(blank[a:b])))
        out += [w for w in words if not (NEUTRAL.fullmatch(w) or _MEASURED.fullmatch(w))]
    return tuple(dict.fromkeys(out))


def names_several(text: str) -> bool:
    """Whether a clause names things apart, each with its own article or organ: "a lesion in the liver and a nodule"."""
    things, organs = thing_spans(text), [start for start, _, _ in organs_in(text)]
    items = [(a, b) for a, b in _items(text) if any(a <= start < b for start, _ in things)]
    placed = [any(a <= at < b for at in organs) for a, b in items]
    again = [bool(_ARTICLE.match(text[a:b])) for a, b in items]
    return any(again[1:]) or sum(placed) > 1


def _items(text: str) -> Iterator[tuple[int, int]]:
    at = 0
    for between in _BETWEEN.finditer(text):
        yield at, between.start()
        at = between.end()
    yield at, len(text)


def _mentioned(text: str) -> Iterator[tuple[int, int, str]]:
    """(start, end, finding) within the text, of which the labeler gives places within sentences."""
    for mention in find_mentions(text):
        if not mention.finding.startswith(_ATTRIBUTES):
            shift = max(text.find(mention.sentence), 0)
            yield mention.start + shift, mention.end + shift, mention.finding

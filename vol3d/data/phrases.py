"""Words: the ways to say a phrase, and what becomes of them when the image is mirrored.

Every text that can be drawn in training is known in advance (`wordings`), so that the embedding bank is filled once.
A mirrored image needs words whose sides are swapped; where that is not certainly right, `swap_sides` says so with
None and the image stays as it is.
"""

from __future__ import annotations

import re

MAX_WORDINGS = 3
_LONG = 14  # words; what is longer is a sentence of a report and is not wrapped into "segment the ..."

_ARTICLE = re.compile(r"(the|a|an|all|any|both|each|every|some|this|that|my|his|her|patient's)\s", re.I)
_NOT_A_NOUN = re.compile(
    r"(no|not|without|absence|there|is|are|was|were|where|what|which|who|how|does|do|has|have|can|please|segment|show|"
    r"find|mark|outline|delineate|locate|highlight|contour|give)\b",
    re.I,
)

_SIDE = re.compile(r"(?<![a-z0-9])(left|right)(?=(?:wards?|most|sided?|hand(?:ed)?)?(?![a-z0-9]))", re.I)
_SHORT_SIDE = re.compile(r"(?<![a-z0-9.-])(lt|rt|l|r)(?![a-z0-9'])(?!\.?\s*-?\s*\d)", re.I)
_LOBE = re.compile(r"(?<![a-z0-9])([rl])(?=(?:ul|ll|uq|lq)(?![a-z0-9]))", re.I)  # RUL, LLQ
_HIDDEN = re.compile(r"(?!(?:up|b|f)right|cleft|leftover|rightly)\b\w*(?:left|right)\w*", re.I)
_OTHER = {"left": "right", "right": "left", "l": "r", "r": "l", "lt": "rt", "rt": "lt"}

# Words whose side is part of the name of something that has no mirror image of that name.
_UNDEFINED = re.compile(
    r"dextr|sinist|levo|laevo|situs|invers|isomeri|heterotax|middle lobe|lingula|\bRML\b|port[- ]side|starboard", re.I
)
_ONE_SIDED = re.compile(
    r"liver|hepat|spleen|splen|stomach|gastr|heart|cardi|atri|ventric|colon|colic|flexure|aort|coronar|cava|pancrea|"
    r"bronch|portal|gallbladder|biliar|bile|duoden|c(?:ae|e)cum|append|thyroid isthmus|azyg|vagus|thoracic duct",
    re.I,
)
_FOREIGN_SIDE = re.compile(
    r"\b(link|recht)(s|e[rnms]?)?(seitig\w*)?\b|izquierd|derech|\bgauche|\bdroite?s?\b|\bdestr[aoie]\b|esquerd|direit|"
    r"\bvänster|\bhöger|\bvenstre|\bhøjre|\bhøyre|\blewy\b|\blewa\b|\blewe\w*|\bpraw[yae]\w*",
    re.I,
)

_ALONG = {
    0: re.compile(
        r"upper|lower|superior|inferior|above|below|apical|apex|apices|basal|\bbases?\b|cranial|caudal|cephal|proximal|"
        r"distal|\btop|bottom|supra|infra|sub(?:phren|diaphragm|carin|hepat)|\b[CTLS]\d|cervical|lumbar|\bR[UL]L\b|\bL[UL]L\b",
        re.I,
    ),
    1: re.compile(r"anterior|posterior|ventral|dorsal|front|back\b|behind|retro|presacral|prevertebral", re.I),
}


def wordings(phrase: str) -> tuple[str, ...]:
    """At most three ways to say it, the phrase itself first: as it is, "the ..." and "segment the ...", lower case.

    Sentences, questions, commands and negations are only put into lower case.
    """
    lower = phrase.lower()
    plain = not _NOT_A_NOUN.match(phrase) and phrase.rstrip()[-1:] not in ".?!:;" and len(phrase.split()) <= _LONG
    if plain:
        named = lower if _ARTICLE.match(phrase) else f"the {lower}"
        variants = [phrase, named, f"segment {named}"]
    else:
        variants = [phrase, lower]
    return tuple(dict.fromkeys(variants))[:MAX_WORDINGS]


def names_side(phrase: str) -> bool:
    """True if the text speaks of left or right, in any form that is recognised."""
    return any(p.search(phrase) for p in (_SIDE, _SHORT_SIDE, _LOBE, _HIDDEN, _UNDEFINED, _FOREIGN_SIDE))


def names_direction(phrase: str, axis: int) -> bool:
    """True if mirroring along `axis` (0: head to foot, 1: front to back) could make the text untrue."""
    return bool(_ALONG[axis].search(phrase))


def swap_sides(phrase: str) -> str | None:
    """The same phrase of the mirrored body, or None where that is not certain.

    "left kidney" becomes "right kidney", "Lt. renal cyst" "Rt. renal cyst", "RUL" "LUL"; "aorta" stays. None: "left
    atrium" (the mirrored heart still has its left atrium), "dextrocardia", "middle lobe", sides in other languages.
    """
    if _UNDEFINED.search(phrase) or _FOREIGN_SIDE.search(phrase):
        return None
    if any(not _SIDE.match(word) for word in _HIDDEN.findall(phrase)):
        return None
    if not names_side(phrase):
        return phrase
    if _ONE_SIDED.search(phrase):
        return None
    for pattern in (_SIDE, _SHORT_SIDE, _LOBE):
        phrase = pattern.sub(lambda found: _like(found.group(1)), phrase)
    return phrase


def _like(word: str) -> str:
    other = _OTHER[word.lower()]
    if word.isupper():
        return other.upper()
    return other.capitalize() if word[0].isupper() else other

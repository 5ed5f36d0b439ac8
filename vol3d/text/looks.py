"""Words for how a thing looks: its density on CT, its tracer uptake, its size."""

from __future__ import annotations

import re
from typing import Literal, TypeVar

Uptake = Literal["avid", "non-avid"]
Density = Literal[
    "part-solid", "ground-glass", "calcified", "hypodense", "hyperdense", "isodense", "lytic", "sclerotic", "solid"
]
_T = TypeVar("_T")

_TAKEN_UP = (
    r"(?:uptake|avidity|hypermetabolism|metabolism|accumulation|(?:metabolic|fdg|(?:radio)?tracer|glucose) activity)"
)
_TRACER = r"(?:fdg|(?:radio)?tracer|pet|psma|dota\w*|glucose)"
_ABOVE = r"(?: (?:above|over|beyond) (?:the )?background\b)"
_THING = r"(?= (?:[\w-]+ ){0,3}(?:lesion|nodule|node|mass|focus|foci|spot|lymph|abnormal|anomal|finding))"
_UPTAKES: tuple[tuple[Uptake, re.Pattern[str]], ...] = (
    ("non-avid", re.compile(
        rf"\b(?:{_TRACER} )?(?:non|not|never)[- ]?(?:longer |clearly )?(?:{_TRACER}[- ])?"
        r"(?:avid|hypermetabolic|active)\b|"
        r"metabolically (?:inactive|silent|quiet|cold)|\bhypometabolic\b|\bphotopenic\b|\b(?:non-?|a)metabolic\b|"
        rf"\b{_TRACER}[- ](?:negative|cold)\b|\bcold{_THING}|"
        r"\bcold on (?:the )?pet\b|"
        rf"\bnot (?:taking up|accumulating) {_TRACER}\b|"
        rf"\b(?:does|do|did) not (?:show|demonstrate|have|display|take up|accumulate)(?: \w+){{0,3}}? ?"
        rf"(?:{_TAKEN_UP}|fdg|tracer)\b|"
        r"\b(?:without|no|lack(?:s|ing)?|absent|devoid of|free of)(?: \w+){0,2}? ?"
        rf"(?:fdg|tracer|metabolic|increased|pathologic\w*)?(?: \w+)? ?{_TAKEN_UP}\b"
        rf"{_ABOVE}?"
    )),
    ("avid", re.compile(
        rf"\b(?:{_TRACER}[- ])?avid\b(?! (?:{_TRACER} )?uptake)|"
        rf"\b{_TRACER}[- ](?:positive|hot|(?:accumulat|concentrat|retain)ing)\b|"
        rf"hyper-?metaboli\w+(?: on (?:the )?pet\b)?|metabolically (?:active|hot)|"
        rf"\bhot{_THING}|\bhot on (?:the )?pet\b|"
        rf"\b(?:takes?|taking) up {_TRACER}\b|\baccumulat(?:es?|ing) {_TRACER}\b|"
        r"\b(?:increased|intense|high|marked|moderate|strong|elevated|raised|avid|abnormal|patholog\w+|with|has|have|"
        rf"show(?:s|ing)?|demonstrat\w+|exhibit\w+|display\w*)(?: \w+){{0,2}} {_TAKEN_UP}\b|"
        rf"\b(?:shows?|has|with) {_TAKEN_UP}\b{_ABOVE}?|\buptake of\b"
    )),
)  # fmt: skip
_DEGREE = (
    r"\b(?:very|strongly|intensely|highly|markedly|clearly|definitely|completely|entirely|purely|pure|fully|wholly|"
    r"uniformly|homogeneously|densely|heavily|coarsely)\s+"
)
_LOOK = r"(?:calcified|lytic|sclerotic|solid|hypodense|hyperdense|isodense|avid|hypermetabolic)"
_OF_PARTS = re.compile(
    rf"\b(?:partly|partially|rim|eggshell|peripherally|centrally|mixed|predominantly|not clearly)[- ]{_LOOK}|"
    rf"\b(?:not solid|(?:non|not|un)[- ]?(?:calcified|lytic|sclerotic|hypodense|hyperdense|isodense))\b|"
    r"(?:calcified|solid|dense|attenuating|attenuation|density|avid|lytic|sclerotic) (?:rims?|walls?|margins?|septa\w*|"
    r"cent(?:re|er)s?|cores?|components?|portions?|parts?|areas?|capsules?|aort\w+|arter\w+|vessels?|organs?|"
    r"materials?)\b|(?:dense|attenuating) (?:relative|compared|to|than)\b|"
    r"\b(?:low|faint|mild|minimal|decreased|reduced|physiologic\w*|poor|weak|scant|subtle|negligible|modest|limited|"
    r"borderline|equivocal|doubtful|hardly|barely|scarcely)(?:ly)?(?: \w+){0,2}[ -](?:uptake|avid|hypermetabolic)\b|"
    r"\b(?:little|slight|poor|low|weak|faint|mild) (?:(?:metabolic|tracer|fdg|glucose) )?(?:uptake|avidity|activity|"
    r"metabolism|accumulation)\b|\bdeauville\b|"
    r"\buptake (?:above(?! (?:the )?background)|below|higher|lower|like|similar|equal|of \d)",
    re.I,
)
_DENIES_LOOK = re.compile(
    rf"\b(?:is|are|was|were)(?: \w+)? not\b(?: \w+)?[ -](?:\w+-)?(?:{_LOOK}|ground-glass|hypo|hyper|iso)|"
    r"\b(?:does|do|did) not\b.*\b(?:uptake|fdg|tracer)\b|"
    r"\b(?:is|are|was|were) (?:non|un)-?\w*(?:avid|calcified|solid|hypermetabolic)\b",
    re.I,
)

_DENSITY_WORDS: dict[Density, str] = {
    "part-solid": r"part(?:ly|ially)?[- ]solid|sub-?solid|semi-?solid",
    "ground-glass": r"ground[- ]glass|non[- ]?solid",
    "calcified": r"calcified|calcific|calcium-(?:containing|bearing)|minerali[sz]ed",
    "hypodense": r"hypo-?dense|hypo-?attenuat(?:ing|ed)|(?:low|reduced|decreased)[- ](?:attenuat(?:ion|ing)|density)",
    "hyperdense": r"hyper-?dense|hyper-?attenuat(?:ing|ed)|"
    r"(?:high|raised|increased)[- ](?:attenuat(?:ion|ing)|density)",
    "isodense": r"iso-?dense|iso-?attenuat(?:ing|ed)|(?:equal|same)[- ](?:density|attenuation)|equally dense",
    "lytic": r"(?:osteo)?lytic|(?:radio)?lucent", "sclerotic": r"(?:osteo)?sclerotic|sclerosed|osteoblastic|blastic",
    "solid": r"(?<!-)(?<!non )solid|soft[- ]tissue[- ](?:density|attenuation)",
}  # fmt: skip
_DENSITIES: tuple[tuple[Density, re.Pattern[str]], ...] = tuple(
    (name, re.compile(rf"(?<!non-)(?<!not )\b(?:{words})\b")) for name, words in _DENSITY_WORDS.items()
)
_SIZES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("small", re.compile(r"\b(?:small|smallish|tiny|minute|millimetric|little)\b(?! (?:bowel|intestin))")),
    ("medium", re.compile(r"\b(?:medium|moderate(?:ly)?|intermediate|mid|middle|average)[- ]?size")),
    (
        "large",
        re.compile(r"\b(?:large|huge|big|bulky|giant|sizeable|sizable|voluminous)\b(?! (?:bowel|intestin|vessel))"),
    ),
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


def says_how_it_looks(text: str) -> bool:
    """Whether a phrase says of a thing as a whole that it has one density, one uptake or both.

    Not of its rim or a part, not by comparison with something else, not by degree, and not two at once: "partly
    calcified", "isodense to muscle", "faintly avid" and "solid and ground-glass" are in no measurement of the whole.
    """
    return _looks_in(text) in ((0, 1), (1, 0), (1, 1)) and not _OF_PARTS.search(text)


def says_what_is_not_measured(text: str) -> bool:
    """Whether a phrase speaks of a look as `says_how_it_looks` does not understand it."""
    return bool(_OF_PARTS.search(text)) or max(_looks_in(text)) > 1


def _looks_in(text: str) -> tuple[int, int]:
    """How many densities and how many kinds of uptake are named."""
    lower = text.lower()
    pale, avid = (pattern for _, pattern in _UPTAKES)
    uptakes = bool(pale.search(lower)) + bool(avid.search(pale.sub(" ", lower)))
    return sum(bool(pattern.search(lower)) for _, pattern in _DENSITIES), uptakes


def denies_look(sentence: str) -> bool:
    """Whether a sentence says how a thing does not look, "the lesion is not calcified": it denies no thing."""
    return _DENIES_LOOK.search(sentence) is not None


def plain_of(text: str) -> str:
    """A phrase without its words on density and uptake: "calcified lesion in the liver without FDG uptake" is a
    "lesion in the liver"."""
    for _, pattern in _UPTAKES:
        text = re.sub(
            rf"(?:\b(?:with|(?:which|that)(?: is| shows?| has)?|showing|and)\s+)?(?:{_DEGREE})?(?:{pattern.pattern})",
            " ",
            text,
            flags=re.I,
        )
    for _, pattern in _DENSITIES:
        text = re.sub(
            rf"(?:\b(?:of|with)\s+)?(?:{_DEGREE})?{pattern.pattern}(?:\s+(?:density|attenuation)\b)?",
            " ",
            text,
            flags=re.I,
        )
    text = re.sub(r"(?<!\w)-(?:appearing|looking|type|like|attenuation|density)\b", " ", text, flags=re.I)
    return re.sub(r"(?:^[\s,-]+|[\s,-]+$)", "", re.sub(r"\s+(,)|\s+", r"\1 ", text)).strip()


def without_size(text: str) -> str:
    """A phrase without its words for size."""
    for _, pattern in _SIZES:
        text = re.sub(rf"(?:{pattern.pattern})d?(?:[- ](?:volume|sized))?\b", " ", text, flags=re.I)
    return " ".join(text.split())


def _first(table: tuple[tuple[_T, re.Pattern[str]], ...], lower: str) -> _T | None:
    found = [(m.start(), i) for i, (_, pattern) in enumerate(table) if (m := pattern.search(lower))]
    return table[min(found)[1]][0] if found else None

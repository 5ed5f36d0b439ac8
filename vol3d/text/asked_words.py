"""Words of a question that no mask can answer: change since an earlier study, and attributes that nobody taught."""

from __future__ import annotations

import re
from functools import cache

from vol3d.text.claims import NEUTRAL, undescribed
from vol3d.text.mentions import references_to_prior
from vol3d.text.organs import structures
from vol3d.text.reports import organs_in
from vol3d.text.things import thing_spans

_CHANGE = re.compile(
    r"\b(?:chang(?:e|es|ed|ing)|grow(?:s|n|ing|th)?|shr(?:ink|inks|ank|unk|inking)|respon(?:d|ds|ded|ding|se)|recur\w*|"
    r"relaps\w*|evol\w+|improv\w+|wors\w+|unchanged|rose|risen|dropped|fell|fallen|did\b.*\srise|progress\w*|regress\w*|doubling|follow-?up|stable|"
    r"come\sback|came\sback|(?:go(?:es|ing|ne)?|went)\s(?:up|down|away)|disappear\w*|persist\w*|"
    r"how\slong\s(?:has|have|had|did|since|ago)|how\sold|last\stime|any\s?more|gone(?=\W*$))\b",
    re.I,
)
_NO_CHANGE = re.compile(
    r"\b(?:enlarged|comparatively|grow(?:s|ing)?(?=\s(?:in|on|within|inside|from|out)\b)|(?:first|last|previous|next)(?=\s(?:\w+\s)?(?:slice|image)s?\b)|"
    r"smaller(?=\sthan\s(?!in\b|on\b|at\b|before|last|prev|prior|earlier)))\b",
    re.I,
)
_JUDGED = re.compile(
    r"\b(?:malignant|benign|cancerous|metastatic|neoplastic|infected|infectious|inflam\w+|acute|chronic|"
    r"primary|secondary|dangerous|operable|resectable|treated|alive|viable)\b",
    re.I,
)
"""What a reader concludes, though some of these words may stand in a thing's name."""
_UPTAKE = (
    r"metabolically|(?:in)?active|(?:hyper|hypo|iso)-?metabolic\w*|fdg|psma|tracer|avid\w*|uptake|suv\w*|metabolic\w*|photopenic|"
    r"increased|intense|physiological|showing|non|positive|negative|hot|glucose|radiotracer|metabolism|appreciable|pet|accumulat\w+|activity|marked|strong|"
    r"elevated|significant|exhibiting|displaying|demonstrating|taking|up|lacking|devoid|silent|quiet"
)
_LOOKS = (
    r"(?:osteo)?(?:lytic|sclerotic|blastic)|(?:hyper|hypo|iso)-?(?:attenuat(?:ing|ed)|dense|echoic)|calcific|solid|glass|volume|lucent|equal|pure|appearing|"
    r"reduced|decreased|raised|(?:low|high|soft-tissue)-?(?:attenuation|"
    r"density)?|attenuation|density|densely|sized?|(?:small|medium|moderate(?:ly)?|intermediate|large|mid|average)-?sized|sizea?ble|little|part-solid|moderate|tiny|largest|"
    r"biggest|main|dominant|intra\w+|vertebral|bod(?:y|ies)|parenchym\w+|tissue|focal"
)
_FILLING = (
    r"an?|the|all|any|some|of|in|on|at|to|or|and|by|with|without|within|from|for|inside|throughout|anywhere|either|other|"
    r"further|is|are|was|were|be|been|do|does|did|has|have|can|there|here|examinations?|imaged|compartment|fields?|located|situated|lying|involving|affecting|inside|region|area|this|that|these|those|it|its|his|her|patient\S*|"
    r"scan\w*|stud(?:y|ies)|image[sd]?|ct|pet|field|view|what|which|where|who|wrong|abnormal|anything|something|nothing|seen|"
    r"show[ns]?|visible|left|right|both|sides?|sided|lesion|structures?|organs?|whole|entire|two|lobes?"
)
_KNOWN = re.compile(rf"(?:{_UPTAKE}|{_LOOKS}|{_FILLING})", re.I)


_DONE = r"(?:do|done|treat\w*|remov\w+|resect\w*|biops\w+|operat\w+|worr\w+|recommend\w*|advi[sc]e\w*|follow\w*)"
_BEYOND = re.compile(
    r"^(?:please )?(?:why|when|who|whose)\b|\bhow (?:certain|sure|confident|likely|accurate|dangerous|"
    r"serious|urgent)\b|"
    rf"\b(?:should|must|could|can|would) (?:it|they|we|you|i|the [\w ]+?) (?:be )?{_DONE}\b|"
    r"\b(?:cause[sd]?|because|reason|recommend\w*|treatment|biops\w+|operable|resectable|prognosis|diagnosis|differential|"
    r"likely to be)\b",
    re.I,
)


_LEFT_OUT = re.compile(
    r"\b(?:nothing|anything|everything|anywhere|everywhere|all|none) but\b|\b(?:except|excluding|besides)\b|"
    r"\b(?:other than|apart from|aside from|rather than|instead of)\b|\bnot (?:in|on|within|inside|of|from)\b|"
    r"\b(?:which|what) (?:organ|side|lung|kidney|structure)\b.*\b(?:no|without|free)\b"
    r"(?! (?:\w+ )?(?:fdg|uptake|tracer|increased|metabolic|glucose))",
    re.I,
)


def leaves_out(question: str) -> bool:
    """Whether it asks for what is elsewhere, or for all but something: "lesions that are not in the left lung"."""
    return _LEFT_OUT.search(question) is not None


def asks_beyond(question: str) -> bool:
    """Whether it asks for a reason, a time, advice, a judgement or how sure one is: what no measurement says."""
    return _BEYOND.search(question) is not None


def asks_for_change(question: str) -> bool:
    """Whether an earlier study is needed: "Is the nodule new?", "Has it grown?"; not "enlarged lymph nodes"."""
    text = _NO_CHANGE.sub(" ", question)
    return bool(_CHANGE.search(text) or references_to_prior(text))


def unknown_words(phrase: str, taught: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Words of a phrase that no thing, place or look of the vocabulary has, and that are not among those taught.

    Args:
        phrase: to be segmented.
        taught: words of the checkpoint's own phrases, lower case.
    """
    judged = [word.lower() for word in _JUDGED.findall(phrase)]
    rest = list(phrase)
    for start, end in [*thing_spans(phrase), *((a, b) for a, b, _ in organs_in(phrase))]:
        whole = len(re.sub(r"\w+$", "", phrase[:start]))  # "osteolytic lesion"
        rest[whole:end] = " " * (end - whole)
    text = undescribed("".join(rest))
    words = [w for w in re.findall(r"[^\W\d_][\w'-]*", text.lower()) if w not in _anatomy()]
    stray = [w for w in words if not (_KNOWN.fullmatch(w) or NEUTRAL.fullmatch(w) or _parts_known(w))]
    return tuple(w for w in dict.fromkeys([*judged, *stray]) if w not in taught)


def _parts_known(word: str) -> bool:
    parts = word.split("-")
    return len(parts) > 1 and all(_KNOWN.fullmatch(p) or NEUTRAL.fullmatch(p) or p == "not" for p in parts if p)


@cache
def _anatomy() -> frozenset[str]:
    texts = [t for s in structures().values() for t in (*s.words, *s.phrases)]
    words = {w for text in texts for w in re.findall(r"[\w'-]+", text.lower())}
    return frozenset(words - {"along", "alongside", "beside"})  # "muscles beside the spine", but not a lesion beside it

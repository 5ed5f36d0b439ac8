"""A report's sentence as a phrase that can be asked: what is where, without numbers and without "there is".

"There is a 14 mm solid nodule in the right lung, SUVmax 4.2 (ct slice 31)." becomes "solid nodule in the right lung".
Numbers are what the image must answer, so a phrase holds none of them. Sides and denials stay: where a change would
touch one, or the labeler would read something else, the words stay as they are and the numbers alone go.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from vol3d.text.labeler import find_mentions
from vol3d.text.reports import organs_in
from vol3d.text.slots import SLOT, take_numbers


@lru_cache(maxsize=65536)
def grounding_phrase(sentence: str) -> str:
    """The phrase of one sentence, with or without its numbers already taken out; "" if nothing is left of it.

    Deterministic, and a phrase is its own phrase: ``grounding_phrase(grounding_phrase(s)) == grounding_phrase(s)``.
    """
    text = re.sub(r"\s+", " ", sentence).strip()
    template = text if SLOT.search(text) else take_numbers(text).template
    told = _told(_tidy(SLOT.sub("", template)))
    for shorten in (_shorter, _less_short, _settled):
        phrase = shorten(template)
        if _told(phrase) == told:
            return phrase
    return _settled(template)


def _shorter(template: str) -> str:
    return _fixed_point(lambda t: _without_frame(_without_slots(t)), template)


def _less_short(template: str) -> str:
    """ "Liver lesion SUVmax 7.9": the lesion is what was found, not the lesion's SUVmax."""
    return _fixed_point(lambda t: _without_frame(_without_slots(t, _NUMBERS_ALONE)), template)


def _settled(template: str) -> str:
    """Nothing but numbers is taken out."""
    return _fixed_point(lambda t: _tidy(_bare_numbers(SLOT.sub("", t))), template)


def _fixed_point(change: Callable[[str], str], text: str) -> str:
    for _ in range(8):
        new = change(text)
        if new == text:
            break
        text = new
    return text


_KEPT = re.compile(
    r"\b(?:no|not|nor|none|cannot|without|absent|absence|negative|free|left|right|bilateral\w*|both|either)\b|n't\b",
    re.I,
)


def _told(text: str) -> tuple[list[str], set[tuple[str, str, str | None]]]:
    """What a phrase must keep: words of denial and of side, and what the labeler reads."""
    kept = [m.group().lower() for m in _KEPT.finditer(text)]
    return kept, {(m.finding, m.status, m.side) for m in find_mentions(text)}


# -- numbers ------------------------------------------------------------------------------------------------------

_Q = r"<(?:size|volume|suv_max|suv_mean|suv_peak|suv|slice|z|hu)_\d+>"
_SOME = (
    r"(?:(?:approximately|approx\.?|about|around|nearly|roughly|almost|circa|ca\.?|up to|at least|at most|over|only|"
    r"(?:more|less|greater|smaller|larger) than|exceeding|maximum|max\.?|minimum|[~\u2248<>])\s*)*"
)
_M = rf"{_SOME}{_Q}(?:\s*(?:,|x|and|or|to|-|/|by)?\s*{_Q})*"
_DEGREE = (
    r"(?:(?:largest|longest|greatest|biggest|maximum|maximal|max\.?|minimum|widest|thickest|deepest|short(?:est)?|long|"
    r"transverse|axial|anteroposterior|anterior-posterior|ap|cranio-?caudal|sagittal|coronal|vertical|horizontal|mean|"
    r"average|total|overall|approximate|lesion|nodule|respective)\s+)*"
)
_OWNERS = "|lesion|nodule"
_EXTENT = (
    r"(?:diameters?|dimensions?|sizes?|length|width|height|thickness|depth|cali(?:ber|bre)|volumes?|ax[ei]s|extent)"
)
_NOUN = (
    rf"(?:{_EXTENT}|suv[ -]?(?:max(?:imum)?|mean|peak|bw|lbm|bsa)?|values?|levels?|densit(?:y|ies)|attenuation|hu|"
    r"measurements?)"
)
_LINK = (
    r"(?:\s*(?:\b(?:of|is|was|are|were|being|as|at|with|reach(?:es|ed|ing)?|measur(?:es|ed|ing)|calculated|found|"
    r"determined|values?|level|up to|to be)\b|[:=~\u2248]))*"
)
_TAIL = (
    rf"(?:\s*-?\s*(?:(?:in|at|along|on)\s+)?(?:(?:its|the|their|a)\s+)?{_DEGREE}{_EXTENT}\b"
    r"|\s*(?:in|at)\s+(?:its|the|their)\s+(?:largest|thickest|widest|deepest|longest|broadest)\s+(?:part|point|place|area|"
    r"section|level|site)\b|\s*-?\s*(?:thick|long|wide|large|sized|deep|(?:in )?each)\b)?"
)
_WHICH = r"(?:\s*,?\s*\b(?:and|which|that|it|they)\b)?"
_END = (
    r"(?=\s*(?:$|[.,;:()\[\]]|(?:in|on|of|at|with|and|or|but|is|are|was|were|which|that|has|have|to|from|within|without|"
    r"located|locali[sz]ed|seen|observed|noted|detected|extending|near|between|adjacent|by|for|compatible|consistent|"
    r"suggest\w*|shows?|showing|containing|causing|not|no|as|along|around|above|below)\b))"
)
"""What follows a size that describes what stood before it; anything else is the thing that it describes."""

_SLICE = (
    r"(?:[\s,;]*\b(?:on|in|at|from|see|also|series|ser|se|image|images|img|ima|im|slices?|sections?|frames?|number|no|"
    r"ct|pet|mr|axial|coronal|sagittal|sequence|levels?|the|of|z)\b\.?|\s*[:=#/]|(?<![\w.])\s*\d{1,3}\s*[:/,])*"
)
_NUMBERS: tuple[re.Pattern[str], ...] = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        # "(series 4, image 31)", "on ct slice 31, z = 12.0 mm"
        rf"{_SLICE}\s*<(?:slice|z)_\d+>(?:\s*(?:-|to|and|,)?{_SLICE}\s*<(?:slice|z)_\d+>)*(?:\s*/\s*\d+)?",
        # ", the largest of which is 12 mm in diameter"
        r"[\s,;]*(?:\b(?:the|with|and)\s+)*\b(?:largest|biggest|widest|thickest|greatest|longest|smallest|larger|"
        r"most prominent)(?: (?:one|ones|nodule|lesion|node|cyst|diameter|size|thickness))?"
        r"(?: of (?:them|these|which|all))?"
        rf"(?:\s+(?:is|was|being|has|reach\w*|measur\w*))*{_LINK}\s*{_M}{_TAIL}{_END}",
        # "with a diameter of 12 mm", ", SUVmax 4.2"
        rf"{_WHICH}(?:\s*,?\s*\b(?:with|and|has|have|having|had|is|are|was|were|at|to|in|of|showing|shows?|reach\w*))*"
        rf"\s*,?\s*\b(?:(?:an?|the|its|their)\s+)?{_DEGREE}{_NOUN}(?:\s+{_NOUN})*{_LINK}\s*{_M}{_TAIL}",
        # "measuring 12 x 8 mm", "and is measured as 12 mm"
        rf"{_WHICH}(?:\s*,?\s*\b(?:is|are|was|were|has been|have been))?\s*,?\s*\b(?:measur\w+|sized|reach\w+|"
        rf"calculated|estimated|extending)(?:\s+(?:to be|as|at|up to|to|by|approximately))*\s*{_M}{_TAIL}",
        # "which is 12 mm", "the nodule is 12 mm"
        rf"(?:\s*,?\s*\b(?:which|that))?(?<!there)\s+\b(?:is|are|was|were|being)\s+{_M}{_TAIL}{_END}",
        # "of 12 mm", "up to 12 mm"
        rf"(?:\s*,?\s*\b(?:of|up to|at|to|with|by|in)){{1,2}}\s+{_M}{_TAIL}{_END}",
        # "4 cm from the hilum"
        rf"[\s,;]*\b(?:at\s+)?(?:a\s+distance\s+of\s+)?{_M}\s+(?:away\s+)?from\s+the(?:\s+\w+){{1,3}}(?=[.,;)]|$)",
        rf"\s*{_M}{_TAIL}",
    )
)
_NUMBERS_ALONE = tuple(re.compile(pattern.pattern.replace(_OWNERS, ""), re.I) for pattern in _NUMBERS)
_EMPTY = re.compile(
    r"\s*[(\[](?:[\s,;:.=/#-]|\b(?:ct|pet|series|ser|se|image|images|img|ima|im|slices?|z|and|or|on|in|at|measuring|"
    r"measured|size|diameter|suv|suvmax|see|max|mean|to|by|x|the|no|previously|formerly|prior|was)\b)*[)\]]",
    re.I,
)
_UNITS = (
    r"(?:(?:mm|cm|m|ml|cc|dl|l|lt|hu|suv|mg|kg|g|mbq|mci|kv|ma|mas|years?|months?|weeks?|days?|hours?|minutes?|min|"
    r"degrees?|percent)(?:[23]\b|[\u00b2\u00b3]|\b)|[%\u00b0])"
)
_BARE: tuple[re.Pattern[str], ...] = tuple(
    re.compile(pattern, re.I)
    for pattern in (
        r"\b(?:dated|of|on|from)?\s*\b\d{1,4}[./-]\d{1,2}[./-]\d{1,4}\b",
        r"\b(?:in|dated|of|since|from)?\s*\b(?:19|20)\d\d\b",
        rf"(?<![\w-]){_SOME}[-+%]?\d+(?:[.,]\d+)?(?:\s*(?:x|\u00d7|\*|-|\u2013|to|by|/)\s*\d+(?:[.,]\d+)?)*\s*-?{_UNITS}",
        r"(?<![\w-])%\s*\d+(?:[.,]\d+)?|(?<![\w-])\d+(?:[.,]\d+)?(?:\s*(?:x|\u00d7|\*)\s*\d+(?:[.,]\d+)?)+\b",
        r"(?<![\w-])[-+]?\d+[.,]\d+\b",
    )
)
"""Numbers that no pattern of `mentions` takes: dates, units that nothing measures, sizes without a unit."""
_NAMING = (
    "segment", "segments", "level", "levels", "grade", "stage", "type", "zone", "station", "stations", "rib", "ribs",
    "rads", "bosniak", "category", "deauville", "score", "class", "and",
)  # fmt: skip
_LOOSE = re.compile(
    r"(?<![\w.-])"
    + "".join(f"(?<!{word} )" for word in _NAMING)
    + r"\d+\b(?!\s*(?:-\s*)?[a-z])(?!\s*(?:,|and|-|/)\s*\d)",
    re.I,
)
"""A number that counts nothing and names no place: neither "2 nodules" nor "segment 4"."""


def _without_slots(text: str, patterns: tuple[re.Pattern[str], ...] = _NUMBERS) -> str:
    for pattern in patterns:
        text = pattern.sub("", text)
    return _bare_numbers(text)


def _bare_numbers(text: str) -> str:
    for pattern in _BARE:
        text = pattern.sub(" ", text)
    return _LOOSE.sub(" ", text)


# -- words --------------------------------------------------------------------------------------------------------

_SEEN = (
    r"(?:seen|observed|detected|identified|noted|visible|visuali[sz]ed|present|found|demonstrated|recogni[sz]ed|evident|"
    r"appreciated|noticed|monitored|watched|depicted)"
)
_FRAME = re.compile(
    r"^(?P<head>[a-z][a-z ,/&-]{1,40}:\s*)?"
    r"(?:(?:(?:also|again|additionally|in addition|incidentally|however)\b\s*,?\s*)?"
    r"(?:there|here) (?:is|are|was|were|has been|have been) (?:(?:also|again|still|now)\s+)?)?"
    r"(?:(?:seen|noted|observed)\s+)?(?:(?:an?|the)\s+(?!few\b|little\b))?",
    re.I,
)
_PASSIVE = re.compile(
    rf"(?<!\bwhich)(?<!\bthat)(?<!\bwho)(?<!\bnot)(?<!\bit)\s*,?\s+(?:is|are|was|were|(?:has|have) been)\s+"
    rf"(?:(?:also|again|clearly|still|now|newly|incidentally)\s+)?{_SEEN}\b(?!\s+(?:to|as|by|that)\b)",
    re.I,
)
_PLACE_FIRST = re.compile(
    r"^(?P<place>(?:in|at|on|within) [^,.;:()]+), (?:an?\s+)?(?P<what>(?!.*\b(?:is|are|was|were|has|have|had|not|no|in|"
    r"shows?|the|which|that)\b)[^,.;:()]+)$",
    re.I,
)
"""The usual order of translated reports: "in the right lung, a nodule"."""
_DANGLING = re.compile(
    r"(?:[\s,;:=-]|(?<![\w-])(?:and|or|with|of|at|to|by|measuring|measures?|measured|sized|is|are|was|were|has|have|up|before|between|"
    r"approximately|about|the|an?|which|that|its|suv ?max|suv|from|as|reaching|now measures?|previously)(?![\w-]))+$",
    re.I,
)


def _without_frame(text: str) -> str:
    text = _PASSIVE.sub("", _tidy(text))
    text = _without_heading(_FRAME.sub(lambda m: m["head"] or "", text, count=1))
    text = _tidy(text)
    return _tidy(_PLACE_FIRST.sub(lambda m: f"{m['what']} {m['place'][0].lower()}{m['place'][1:]}", text))


def _without_heading(text: str) -> str:
    """ "lungs: nodule in the left lung" says the organ twice; "other: ..." says none."""
    head, colon, rest = text.partition(": ")
    if not colon or len(head.split()) > 4 or not rest:
        return text
    return f"{head}: {_small(rest)}" if organs_in(head) and not organs_in(rest) else rest


def _tidy(text: str) -> str:
    """Spaces, commas, empty brackets, words left without what they belonged to, the article, the first letter."""
    for _ in range(4):
        old = text
        text = _EMPTY.sub("", text)
        text = re.sub(r"([(\[])[\s,;]+", r"\1", re.sub(r"[\s,;]+([)\]])", r"\1", text))
        text = re.sub(r"\s+([,;:.)\]])", r"\1", re.sub(r"\s+", " ", text))
        text = re.sub(r"[,;](?:\s*[,;.])+", ",", text)
        text = re.sub(r"\b(with|of|at|to|by|in) (?=(?:with|of|at|by|and|in|on)\b)", "", text, flags=re.I)
        text = re.sub(r"(?:,\s*)?\b(?:with|and|is|are|was|were)\s*(?=,)", "", text, flags=re.I)
        text = re.sub(r"^(?:and|with|of|at|,|;|-|\.)+(?=\s)\s*", "", text.strip(), flags=re.I)
        text = re.sub(r"[\s.;,!:]+$", "", text)
        text = _DANGLING.sub("", text)
        if text == old:
            break
    text = re.sub(r"\b([Aa])n (?=[bcdfgjklmnpqrstvwxyz])", r"\1 ", text)
    text = re.sub(r"\b([Aa]) (?=[aeio]|un(?!i)|FDG)", r"\1n ", text)
    return _small(text)


def _small(text: str) -> str:
    """With a small first letter, unless the first word is "FDG" or "T5"."""
    first = re.match(r"[^\s-]+", text)
    if first and first.group()[:1].isupper() and (first.group()[1:].islower() or first.group() == "A"):
        return text[0].lower() + text[1:]
    return text

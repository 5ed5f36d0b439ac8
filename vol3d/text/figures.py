"""Which figure of a thing words ask for: a diameter, a volume, an uptake, a slice; and figures that nobody measures."""

from __future__ import annotations

import re
from typing import Literal

Figure = Literal[
    "size", "short", "mean", "dimensions", "volume", "suv_max", "suv_mean", "suv_peak", "tlg", "slice", "first_slice",
    "last_slice", "slices", "z",
]  # fmt: skip
"""``size``: the longest axial diameter; ``short``: the one at right angles; ``mean``: of both; ``dimensions``: both."""
UPTAKE: tuple[Figure, ...] = ("suv_max", "suv_mean", "suv_peak", "tlg")

_START = (
    r"^\W*(?:please\s)?(?:what|which|how|give|state|name|tell|report|measure|show)\b(?:\s(?:me|is|are|was|were|does|the|"
    r"an?|high|much|strong|intense|max\w*|peak|mean|average|highest|fdg|tracer|metabolic|minimum|lowest))*\s"
)
"""The figure must follow: "lesion without FDG uptake" and "ground-glass density" belong to a thing."""
_SLICE = r"\b(?:which|what)\s(?:\w+\s){0,2}?slices?\b|\bslices?\s(?:numbers?|ranges?)\b|\bimage\snumbers?\b"
_NOT_MEASURED: tuple[tuple[str, str], ...] = (
    ("the number of slices", r"\bhow\smany\s(?:\w+\s)?(?:slices|images)\b"),
    ("the craniocaudal extent", r"\bcranio-?\s?caudal|\bheights?\b|\bvertical|\bhow\stall\b|\bsuperior-?\s?inferior|"
     r"\bhead[ -]to[ -](?:foot|feet|toe)\b"),
    ("the anteroposterior extent", r"\bantero-?\s?posterior\s(?:\w+\s)?(?:diameter|extent|size|length|dimension)|\bap\s"
     r"(?:diameter|extent|size|length|dimension)"),
    ("the transverse extent", r"\bwidths?\b|\bhow\swide\b|\btransverse\s(?:\w+\s)?(?:diameter|extent|size|length)"),
    ("a share", r"\bhow\smuch\sof\b|\bpercent\w*|\b(?:share|fraction|proportion|ratio)\b"),
    ("a thickness", r"\bthickness\b|\bhow\s(?:thick|deep)\b|\bdepths?\b"),
    ("a 3D diameter", r"\b(?:3-?d|three-dimensional)\b"),
    ("a surface", rf"\bsurface\sarea\b|{_START}area\sof\b|\bcircumference\b|\bperimeter\b"),
    ("an average of several", r"\b(?:mean|average)\s(?:\w+\s)?(?:diameter|size|volume|length)\s(?:of|for|across)\b"
     r".*\b(?:lesions|nodules|masses|metastas[ei]s|tumou?rs|findings|nodes|foci)\b"),
    ("a distance", r"\bdistances?\b|\bhow\s(?:far|close|near)\b"),
    ("density in HU", rf"\bhu\b|\bhounsfield|{_START}(?:densit(?:y|ies)|attenuation)\b(?!\s\w+\s(?:is|are)\b)|"
     r"\bhow\sdense\b"),
)  # fmt: skip
_FIGURES: tuple[tuple[Figure, str], ...] = (
    ("first_slice", rf"(?:{_SLICE}).*\b(?:start|starts|begin|begins|first)\b|\bfirst\sslice\b"),
    ("last_slice", rf"(?:{_SLICE}).*\b(?:end|ends|stop|stops|last)\b|\blast\sslice\b"),
    ("slices", r"\b(?:which|what)\s(?:\w+\s)?slices\b|\bslice\sranges?\b"),
    ("slice", _SLICE),
    ("z", r"\bz[ -](?:position|coordinate|level|value)\b|\b(?:which|what)\sz\b"),
    ("tlg", r"\btlg\b|\blesion\sglycolysis\b"),
    ("suv_peak", rf"\bsuv[ -]?peak|\bpeak\s(?:suv|standardi[sz]ed)|{_START}(?<=peak\s)(?:(?:fdg|tracer)\s)?uptake\b"),
    ("suv_mean", rf"\bsuv[ -]?mean|\b(?:mean|average)\s(?:suv|standardi[sz]ed)|"
     rf"{_START}(?<=mean\s)(?:(?:fdg|tracer)\s)?uptake\b"),
    ("suv_max", rf"\bsuv|\bstandardi[sz]ed\suptake|{_START}(?:uptake|metabolic\sactivity)\b|"
     r"\bhow\s(?:\w+[- ])?(?:avid|hot|active|"
     r"hypermetabolic)\b"),
    ("mean", r"\b(?:mean|average)\s(?:axial\s)?(?:diameter|size)"),
    ("short", r"\bshort(?:est)?[ -](?:axial\s)?(?:ax[ei]s|diameter)|\bsmallest\s(?:axial\s)?diameter|\bminor\sax[ei]s"),
    ("volume", r"(?<!-)\bvolumes?\b|\bvolumetric|\bhow\svoluminous\b|\bmillilit\w+|\bml\b|\bcc\b|\bvolumetry\b|"
     r"\bcubic\scentimet\w+"),
    ("dimensions", r"\bdimensions\b|\bboth\sdiameters\b"),
    ("size", r"\bhow\s(?:large|big|long|small|much)\b|\bhow\smany\s(?:mm|cm|millimet\w+|centimet\w+)\b|"
     r"\bmeasure(?:[sd]|ments?)?\b|\blong(?:est)?\sax[ei]s|"
     r"\b(?:greatest|major|maxim\w+)\sax[ei]s\b|\b(?:sizes?|diameters?|extent|dimension|length)\b"),
)  # fmt: skip
_MEASURED = tuple((figure, re.compile(pattern, re.I)) for figure, pattern in _FIGURES)
_UNMEASURED = tuple((name, re.compile(pattern, re.I)) for name, pattern in _NOT_MEASURED)


def figure_in(text: str) -> Figure | None:
    """The figure that a question or a part of one names; None where it names none."""
    clean = " ".join(text.split())
    return next((figure for figure, pattern in _MEASURED if pattern.search(clean)), None)


def not_measured(text: str) -> str | None:
    """What a question asks for that no mask is measured for: "the craniocaudal extent", "density in HU"; else None."""
    clean = " ".join(text.split())
    return next((name for name, pattern in _UNMEASURED if pattern.search(clean)), None)

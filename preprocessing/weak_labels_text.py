"""What a report sentence claims about one lesion of the PET: its SUVmax, its slice, and the words that name it.

Only sentences of the findings and the impression that state an SUV are looked at. Each becomes a `Claim`, or a
`Refusal` with the reason: what is denied, physiological, not avid, a range, or several lesions in one breath is no
label. Peers take the numbers by pattern alone (ConTEXTual Net 3D, arXiv 2502.00528); here the assertion decides first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vol3d.text.assertion import status_of
from vol3d.text.grounding import grounding_phrase
from vol3d.text.mentions import Quantity, quantities, references_to_prior
from vol3d.text.organs import Side, side_of
from vol3d.text.reports import place
from vol3d.types import Array

SeriesName = Literal["ct", "pet"]
ROUNDING_SLACK = 2e-3
"""Added to half a unit of the last decimal written: what float32 and a report's own rounding may differ by."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One sentence that names one SUVmax and where it is."""

    sentence: str
    phrase: str
    """The words without SUV and slice numbers: what trains."""
    suv_max: float
    half_unit: float
    """Half a unit of the last decimal written: 7.9 means 7.85 to 7.95."""
    slices: tuple[int, int] | None
    """First and last slice number named; 1-based in some series."""
    series: SeriesName | None
    """The series that the slice number is said to be of; None if the sentence does not say."""
    z_mm: float | None
    """World z, where the sentence states it."""
    organ: str | None
    side: Side | None
    tracer: str | None

    def matches(self, suv: Array) -> Array:
        """Whether measured SUVs are written as this claim's, within rounding."""
        return np.abs(suv - self.suv_max) <= self.half_unit + ROUNDING_SLACK


@dataclass(frozen=True)
class Refusal:
    """A sentence that states an SUV and gets no label, and why."""

    sentence: str
    reason: str


_TRACERS: dict[str, str] = {
    "FDG": r"\bfdg\b|fluoro-?deoxy-?glucose|deoxyglucose|hypermetabol|\bglucose metaboli",
    "PSMA": r"\bpsma\b|dcfpyl|pylarify|piflufolastat|illuccix|locametz|flotufolastat",
    "DOTA": r"dota-?t[ao][tc]\w*|dotanoc|detectnet|netspot|somatostatin",
    "fluciclovine": r"fluciclovine|axumin|\bfacbc\b",
    "FAPI": r"\bfapi\b",
    "choline": r"choline",
    "fluoride": r"\bnaf\b|sodium fluoride",
}
_NO_LESION = (
    (
        r"physiolog\w*|\bexcret\w+|\burinary activity|\bblood[ -]?pool|\bbackground\b|\breference\b|"
        r"\bbrown (?:fat|adipose)|\binjection site|\bextravasat\w*|"
        r"\bnormal (?:\w+ ){0,2}(?:uptake|activity|distribution)",
        "uptake that is no lesion",
    ),
    (
        r"\bnon-?\s?(?:fdg-?|psma-?|tracer-?)?avid|\bnot (?:\w+ly )?(?:fdg-|tracer-|psma-)?(?:avid|hypermetabol\w+)|"
        r"\b(?:without|no|lack of|absent) (?!(?:\w+ )?(?:change|difference|progression))(?:\w+ ){0,3}"
        r"(?:uptake|activity|avidity|hypermetabolism)|\bphotop[eo]ni\w+|\bmetabolically inactive",
        "a lesion without uptake",
    ),
)
_EARLIER = re.compile(
    r"\b(?:previous\w*|prior\w*|formerly|earlier|before|from|versus|vs\.?|compared \w+)\W*(?:\w+\W+){0,2}"
    r"SUV\W*\w*\W*(?:of|was|:|=)?\W*$",
    re.IGNORECASE,
)
_RANGE = re.compile(r"\s*(?:-|\u2013|to|and|or|/)\s*\d+(?:[.,]\d+)?(?![\d.,]*\s*(?:mm|cm|ml|x|\u00d7))")
_SERIES = re.compile(r"\b(?:(ct)|(pet))\b[^0-9,;()]{0,16}$", re.IGNORECASE)


def claims(report: Mapping[str, str], default_tracer: str | None = None) -> list[Claim | Refusal]:
    """Every sentence of findings and impression that states an SUV, in reading order.

    Args:
        report: texts by section, as a manifest's ``report``.
        default_tracer: where neither the sentence nor the technique names one.
    """
    tracer = tracer_of(" ".join(report.get(k, "") for k in ("technique", "indication", "findings"))) or default_tracer
    out: list[Claim | Refusal] = []
    for section in ("findings", "impression"):
        for placed in place(report.get(section, "")):
            if placed.section not in ("findings", "impression"):
                continue
            numbers = quantities(placed.text)
            if any(q.kind in ("suv_max", "suv") for q in numbers):
                out.append(_claim(placed.text, numbers, placed.organ, tracer_of(placed.text) or tracer))
    return out


def tracer_of(text: str) -> str | None:
    """The tracer that a text names; the first of the table if it names several."""
    lower = text.lower()
    return next((name for name, pattern in _TRACERS.items() if re.search(pattern, lower)), None)


def _claim(sentence: str, numbers: list[Quantity], organ: str | None, tracer: str | None) -> Claim | Refusal:
    found = [q for q in numbers if q.kind == "suv_max"] or [q for q in numbers if q.kind == "suv"]
    now = [q for q in found if not _EARLIER.search(sentence[: q.start])] or found
    slices = [q for q in numbers if q.kind == "slice"]
    z = [q for q in numbers if q.kind == "z"]
    reason = _why_not(sentence, now, slices, z)
    phrase = "" if reason else grounding_phrase(sentence)
    if not reason and not re.search(r"[a-z]{3}", phrase.lower()):
        reason = "nothing is left to name the lesion by once the numbers are gone"
    if reason:
        return Refusal(sentence, reason)
    written = sentence[now[0].start : now[0].end]
    decimals = len(written.replace(",", ".").partition(".")[2])
    series = _SERIES.search(sentence[: slices[0].start]) if slices else None
    return Claim(
        sentence=sentence, phrase=phrase, suv_max=now[0].values[0], half_unit=0.5 * 10.0**-decimals,
        slices=(int(min(slices[0].values)), int(max(slices[0].values))) if slices else None,
        series=None if series is None else "ct" if series[1] else "pet",
        z_mm=z[0].values[0] if z else None, organ=organ, side=side_of(sentence), tracer=tracer,
    )  # fmt: skip


def _why_not(sentence: str, suv: list[Quantity], slices: list[Quantity], z: list[Quantity]) -> str | None:
    lower = sentence.lower()
    for pattern, what in _NO_LESION:
        if word := re.search(pattern, lower):
            return f"the sentence speaks of {what} ({word.group()!r})"
    if "resolved" in references_to_prior(sentence):
        return "the sentence speaks of a lesion that has resolved"
    if status_of(sentence, suv[0].start, suv[0].end) == "absent":
        return "the sentence denies what it names"
    if len({q.values for q in suv}) > 1:
        return f"expected one SUVmax in a sentence, found {', '.join(f'{q.values[0]:g}' for q in suv)}"
    if _RANGE.match(sentence, suv[0].end):
        return "expected one SUVmax, found a range"
    if not slices and not z:
        return "the sentence names no slice"
    if len({q.values for q in slices}) > 1 or len({q.values for q in z}) > 1:
        return f"expected one slice in a sentence, found {', '.join(f'{q.values[0]:g}' for q in slices or z)}"
    return None

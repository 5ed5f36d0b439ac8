"""What a reader learns to write: sections of a study's report and answers to its questions, numbers as slots.

Sentences that compare with an earlier study are left out, because change is stated from measurement, and every number
that the image must answer is a slot before a decoder sees the text. What else is known (`context_of`) and questions
lose their measured numbers to a word that is no slot: they are not what is to be written.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vol3d.cache import Entry
from vol3d.data.looks import Look
from vol3d.data.regions import DIAMETER_SCALE_MM, FACTS
from vol3d.text.mentions import laterality, quantities, without_prior
from vol3d.text.questions import question_kind
from vol3d.text.reports import organs_in, sentences
from vol3d.text.reports import sections as by_heading
from vol3d.text.slots import SLOT, Slotted, take_numbers
from vol3d.types import Array

_TITLE = re.compile(r"^\s*([A-Z][A-Za-z ,/&-]{2,40}):\s*")
CONTEXT_FIELDS = {"indication": 24, "comparison": 24, "prior_report": 48}
"""What may be known besides the image, and how many words of it are told."""
NUMBERLESS = "measured"
"""What stands for a measured number in what a decoder is told; slots are for what it writes."""
_PLAIN = r"\d+(?:[.,]\d+)?"
_LOOSE = re.compile(rf"(?<![\w.,])(?:\d+[.,]\d+|[-+]?{_PLAIN}\s*%)(?![.,]?\w)")
"""Decimals and percentages without a word before them that says what was measured."""
_BESIDE = re.compile(
    rf"(?<![\w.,]){_PLAIN}(?=\s*(?:x|\u00d7|\*|by|to|->|\u2192|[-\u2013/])\s*{NUMBERLESS}\b)"
    rf"|(?<=\b{NUMBERLESS})(\s*(?:x|\u00d7|\*|to|->|\u2192)\s*|[\s,(]*\b(?:from|before|previously|prior|was)[:\s]+)"
    rf"{_PLAIN}(?![.,]?\w)"
)
"""The unit of a group stands once: "12 -> 14 mm", "7.3, before 5"."""
IMPRESSION = "impression"
USUAL_SHARE = 0.5
"""A section is written for every study if this share of the training reports has it."""


_PRESENT, _DIAMETER, _SUV_MAX, _PET = (FACTS.index(name) for name in ("present", "diameter", "suv_max", "pet"))


@dataclass(frozen=True)
class Probes:
    """What every study is asked, in the order of a look's rows."""

    structures: tuple[str, ...]
    findings: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """Structures, then findings."""
        return (*self.structures, *self.findings)


@dataclass(frozen=True)
class Reading:
    """One text to write."""

    study_id: str
    prompt: str
    answer: str
    about: str
    """The section, or the question: which rows it is about."""
    question: str | None = None
    """The question, where the text answers one."""
    context: tuple[tuple[str, str], ...] = ()
    """What else may be known: ("indication", "Staging.")."""
    row: int | None = None
    """The row of the look, where the text is about one part."""


def section_prompt(section: str, context: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> str:
    """What a decoder continues with the text of a section."""
    return f"{with_context(context)}{section}:"


def part_prompt(section: str, context: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> str:
    """What a decoder continues with one sentence about one part that was found."""
    return f"{with_context(context)}{section} finding:"


def question_prompt(question: str, context: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> str:
    """What a decoder continues with an answer; says the kind of the question, which rules know in any wording."""
    asked = " ".join(without_numbers(question).split())
    return f"{with_context(context)}{question_kind(question)} question: {asked} answer:"


def without_numbers(text: str) -> str:
    """A text that a decoder is told, a neutral word in place of every measured number and of every slot.

    Sizes, volumes, SUV, HU, slices and positions, the numbers joined to them ("12 -> 14 mm"), bare decimals and
    percentages; counts, ages, dates and names such as L3 stay.
    """
    pieces, at = [], 0
    for quantity in quantities(text := SLOT.sub(NUMBERLESS, text)):
        pieces += [text[at : quantity.start], NUMBERLESS]
        at = quantity.end
    text = _LOOSE.sub(NUMBERLESS, "".join([*pieces, text[at:]]))
    while (joined := _BESIDE.sub(lambda m: f"{m[1] or ''}{NUMBERLESS}", text)) != text:
        text = joined
    return text


def context_of(known: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What a decoder is told besides the image, in training as in use: (name, text) pairs.

    Args:
        known: values of `CONTEXT_FIELDS`; of a prior report its text or its sections.
    """
    pairs = []
    for field, most in CONTEXT_FIELDS.items():
        told = _heart(known.get(field)) if field == "prior_report" else str(known.get(field) or "")
        if words := without_numbers(told).split()[:most]:
            pairs.append((field.replace("_", " "), " ".join(words)))
    return tuple(pairs)


def _heart(report: Any) -> str:
    """Of a report what says most in few words: the impression, then the findings."""
    if not report:
        return ""
    parts = dict(report if isinstance(report, Mapping) else by_heading(str(report)))
    impression = str(parts.get(IMPRESSION) or "").strip().split("\n\n")[0]  # behind it stand signatures and the like
    return f"{impression} {parts.get('findings') or ''}"


def with_context(context: Mapping[str, str] | Iterable[tuple[str, str]]) -> str:
    """The words before a prompt that say what else is known; "" where nothing is."""
    pairs = context.items() if isinstance(context, Mapping) else context
    return "".join(f"{name}: {' '.join(text.split())} " for name, text in pairs)


def report_sections(report: Mapping[str, Any]) -> dict[str, list[Slotted]]:
    """Sentences with slots by section: by the report's own sub-headings, else by the organ a sentence speaks of.

    The impression is a section of its own.
    """
    out: dict[str, list[Slotted]] = {}
    for line in str(report.get("findings") or "").splitlines():
        title = _TITLE.match(line)
        organ = None
        for sentence in without_prior(sentences(line[title.end() :] if title else line)):
            named = organs_in(sentence)
            organ = named[0][2] if named else organ
            section = title[1].strip().lower() if title else (organ or "other").replace("_", " ")
            out.setdefault(section, []).append(take_numbers(sentence))
    impression = [take_numbers(s) for s in without_prior(sentences(str(report.get("impression") or "")))]
    if impression:
        out[IMPRESSION] = impression
    return out


def usual_sections(reports: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Sections that most reports have, in the order in which they usually come; the impression last."""
    counts: Counter[str] = Counter()
    places: dict[str, list[float]] = {}
    total = 0
    for report in reports:
        found = list(report_sections(report))
        total += bool(found)
        counts.update(found)
        for place, section in enumerate(found):
            places.setdefault(section, []).append(place)
    usual = [s for s in counts if counts[s] >= USUAL_SHARE * total and s != IMPRESSION]
    usual.sort(key=lambda s: (float(np.mean(places[s])), s))
    return (*usual, *([IMPRESSION] if IMPRESSION in counts else []))


def readings_of(entry: Entry, look: Look, sections: Sequence[str], probes: Probes) -> list[Reading]:
    """Everything that the study's report and questions teach; nothing where it has neither.

    A sentence that states a size is taught with the row it belongs to, one at a time. Where no row fits, the model has
    not seen the thing and the sentence is left out: it would teach to write what is not seen.
    """
    report = getattr(entry, "report", None) or {}
    context = context_of({**report, "prior_report": (getattr(entry, "prior", None) or {}).get("report")})
    texts = report_sections(report)
    out = []
    for section in (s for s in sections if s in texts):
        parts = link([s for s in texts[section] if _size_mm(s) is not None], look, probes)
        for template, row in parts:
            out.append(Reading(entry.study_id, part_prompt(section), template, section, context=context, row=row))
        rest = " ".join(s.template for s in texts[section] if _size_mm(s) is None)
        if rest or parts:
            out.append(Reading(entry.study_id, section_prompt(section), rest, section, context=context))
    for row in getattr(entry, "qa", None) or ():
        if row.get("wording") != "unseen":
            question, answer = str(row["q"]), take_numbers(str(row["a"])).template
            out.append(Reading(entry.study_id, question_prompt(question), answer, question, question, context))
    return out


def link(told: Sequence[Slotted], look: Look, probes: Probes) -> list[tuple[str, int]]:
    """(sentence, row) pairs: the row of a finding of the same organ and side with the closest numbers, each row once.

    Sizes may differ by a factor of 1.6, SUVmax by one of 2; a sentence without such a row is left out.
    """
    first, rows = len(probes.structures), []
    for n, (probe, facts) in enumerate(zip(look.probe_N, look.facts_NF, strict=True)):
        if first <= probe < len(probes.all) and facts[_PRESENT] > 0:
            rows.append((n, probes.all[probe], facts))
    pairs = []
    for s, sentence in enumerate(told):
        for n, probe, facts in rows:
            distance = _distance(sentence, probe, facts)
            if distance is not None:
                pairs.append((distance, s, n))
    linked: dict[int, int] = {}
    for _, s, n in sorted(pairs):
        if s not in linked and n not in linked.values():
            linked[s] = n
    return [(told[s].template, n) for s, n in sorted(linked.items())]


def _distance(sentence: Slotted, probe: str, facts: Array) -> float | None:
    """How far a row's numbers are from those of a sentence; None if it cannot be what the sentence speaks of."""
    text = sentence.template
    organs, own = ({organ for _, _, organ in organs_in(t)} for t in (text, probe))
    sides = laterality(text), laterality(probe)
    if not organs & own or (None not in sides and sides[0] != sides[1]):
        return None
    size_mm, suv_max = _size_mm(sentence), _value(sentence, "suv_max")
    assert size_mm is not None, "only sentences with a size are linked"
    size = abs(np.log(size_mm / (facts[_DIAMETER] * DIAMETER_SCALE_MM)))
    hot = (
        0.0 if suv_max is None or not facts[_PET] else abs(np.log((suv_max + 0.2) / (np.expm1(facts[_SUV_MAX]) + 0.2)))
    )
    return None if size > np.log(1.6) or hot > np.log(2.0) else float(size + hot)


def _size_mm(sentence: Slotted) -> float | None:
    return _value(sentence, "size")


def _value(sentence: Slotted, kind: str) -> float | None:
    """The largest number of a kind that a sentence states."""
    values = [max(q.values) for q in sentence.quantities.values() if q.kind == kind and q.values]
    return max(values) if values and max(values) > 0 else None

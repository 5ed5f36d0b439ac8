"""What a study's words say beside its masks: statements that are true or untrue of it, and its report by organ.

Sources are report, labels and structured findings. What none of them states is unknown, and where two of them
contradict each other it is unknown too. Nothing here knows of patches; `words` decides which statement a patch can
answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from vol3d.cache import Entry, MaskRecord
from vol3d.text.claims import Claim, claims_of, compares, denied, in_part, is_normal, refutes, untrue
from vol3d.text.grounding import grounding_phrase
from vol3d.text.knowledge import ORGAN_NAMES, finding_texts
from vol3d.text.labeler import find_mentions, finding_names
from vol3d.text.organs import SIDES
from vol3d.text.perturb import Counterpart, perturbations
from vol3d.text.reports import Placed, organs_in, place

MOST_WORDS = 100
"""Of a section's text; a whole report is cut after the sentence that reaches it."""
_PHRASES_PER_MASK = 4
_DECOYS_PER_SECTION = 2
_HEADING = re.compile(r"[A-Z][A-Za-z ,/&]{2,40}:")


@dataclass(frozen=True)
class Section:
    """The sentences on one organ, as one text without numbers."""

    text: str
    organ: str | None
    """A key of `ORGAN_NAMES`; None: all findings."""
    normal: bool
    """Nothing is found there."""


@dataclass(frozen=True)
class Knowledge:
    """All that the words of one study say."""

    present: tuple[str, ...] = ()
    """True of the study; no mask shows it."""
    absent: tuple[str, ...] = ()
    """Untrue of it."""
    hard: tuple[str, ...] = ()
    """Untrue, and one detail away from what is true."""
    facts: tuple[Claim, ...] = ()
    """What is known to be there and not to be there."""
    sections: tuple[Section, ...] = ()
    decoys: tuple[Section, ...] = ()
    """Sections with one detail changed so that they are untrue."""

    def texts(self) -> Iterable[str]:
        """Statements, present and absent."""
        yield from self.present
        yield from self.absent
        yield from self.hard

    def is_empty(self) -> bool:
        """Whether nothing can be asked or contrasted."""
        return not any(self.texts()) and not self.sections

    def contrast_texts(self) -> Iterable[str]:
        """Texts of sections."""
        for section in (*self.sections, *self.decoys):
            yield section.text


NOTHING = Knowledge()


def read_knowledge(entry: Entry, masks: Sequence[MaskRecord], *, statements: bool, contrast: bool) -> Knowledge:
    """What the entry's report, labels, findings and absences say, as far as it is asked for."""
    if not statements and not contrast:
        return NOTHING
    placed = _sentences(entry)
    structured = tuple(dict.fromkeys(_structured(entry)))
    seen = [c for m in masks for p in m.phrases for c in claims_of(p) if c.present]
    told = [c for p in placed for c in claims_of(p.text)]
    facts = tuple(dict.fromkeys([*seen, *structured, *told]))
    known = Knowledge(facts=facts)
    if statements:
        known = _with_statements(known, entry, masks, placed, structured)
    if contrast:
        own = _sections(placed or _as_sentences(entry))
        known = replace(known, sections=own, decoys=_decoys(own, facts))
    return known


# -- sources --------------------------------------------------------------------------------------------------------


def _sentences(entry: Entry) -> list[Placed]:
    """Findings and impression, in order; what compares with another study or was only partly seen is left out."""
    report = getattr(entry, "report", None) or {}
    text = "\n".join(f"{name}:\n{report[name]}" for name in ("findings", "impression") if report.get(name))
    return [p for p in place(text) if not compares(p.text) and not in_part(p.text)] if text else []


def _as_sentences(entry: Entry) -> list[Placed]:
    """A study without a report, in the words of its labels and findings."""
    stated = [(finding_texts(n)[0], bool(v)) for n, v in _labels(entry)]
    stated += [(str(f["name"]), bool(f["present"])) for f in _findings(entry)]
    out = []
    for text, present in dict.fromkeys(stated):
        organs = {c.organ for c in claims_of(text)}
        out.append(Placed(text if present else f"no {text}", "findings", organs.pop() if len(organs) == 1 else None))
    return out


def _labels(entry: Entry) -> list[tuple[str, int]]:
    labels = getattr(entry, "labels", None) or {}
    return [(name, int(value)) for name, value in labels.items() if value is not None]


def _findings(entry: Entry) -> list[dict[str, Any]]:
    return [f for f in getattr(entry, "findings", None) or [] if f.get("name") and f.get("present") is not None]


def _structured(entry: Entry) -> Iterable[Claim]:
    """What findings, labels and the list of absences entail."""
    for finding in _findings(entry):
        claims = claims_of(str(finding["name"]))
        if finding["present"]:
            yield from (c for c in claims if c.present)
            continue
        side, organ = finding.get("side"), str(finding.get("organ") or "").replace(" ", "_")
        for claim in denied(claims):
            yield replace(
                claim,
                side=claim.side or (side if side in SIDES else None),
                organ=claim.organ or (organ if organ in ORGAN_NAMES else None),
                understood=claim.understood and (claim.organ is not None or not organ or organ in ORGAN_NAMES),
            )
    for name, value in _labels(entry):
        if value:
            yield from (c for c in claims_of(finding_texts(name)[0]) if c.present)
        elif name in finding_names():
            yield Claim(frozenset({name}), None, None, 0, False, True)
        else:
            yield from denied(claims_of(finding_texts(name)[0]))
    for phrase in getattr(entry, "absent", ()):
        yield from denied(claims_of(phrase))


# -- statements -----------------------------------------------------------------------------------------------------


def _with_statements(
    known: Knowledge, entry: Entry, masks: Sequence[MaskRecord], placed: Sequence[Placed], structured: Sequence[Claim]
) -> Knowledge:
    asked = {_plain(p) for m in masks for p in m.phrases} | {_plain(p) for p in getattr(entry, "absent", ())}
    present, absent = [], []
    for sentence in placed:
        phrase = grounding_phrase(sentence.text)
        statuses = {m.status for m in find_mentions(phrase)}
        if statuses == {"present"}:
            present.append(phrase)
        elif statuses == {"absent"}:
            absent += [c.text for c in counterparts(phrase) if c.kind == "presence" and denied(claims_of(c.text))]
    for finding in _findings(entry):
        (present if finding["present"] else absent).append(str(finding["name"]))
    for name, value in _labels(entry):
        (present if value else absent).extend(finding_texts(name) if not _disputed(name, value, known.facts) else ())
    untold = {_plain(t) for t in present} & {_plain(t) for t in absent}
    present = [t for t in present if _plain(t) not in untold and not untrue(t, known.facts)]
    absent = [t for t in absent if _plain(t) not in untold and not _stated(t, known.facts)]
    taken = asked | {_plain(t) for t in (*present, *absent)}
    true = [*present, *(p for m in masks if m.finding_id is not None for p in m.phrases[:_PHRASES_PER_MASK])]
    hard = [
        c.text
        for t in true
        for c in counterparts(t)
        if c.kind != "presence" and _plain(c.text) not in taken and untrue(c.text, structured)
    ]
    return replace(
        known,
        present=_each_once(t for t in present if _plain(t) not in asked),
        absent=_each_once(t for t in absent if _plain(t) not in asked),
        hard=_each_once(t for t in hard if not _stated(t, known.facts)),
    )


def _stated(text: str, facts: Sequence[Claim]) -> bool:
    """Whether something that is known to be there fits the text."""
    return any(refutes(claim, fact) for claim in denied(claims_of(text)) for fact in facts)


def _disputed(name: str, value: int, facts: Sequence[Claim]) -> bool:
    """Whether a label is at odds with what else is known."""
    if value:
        return any(untrue(text, facts) for text in finding_texts(name)[:1])
    return any(fact.present and name in fact.findings for fact in facts)


@lru_cache(maxsize=65536)
def counterparts(text: str) -> tuple[Counterpart, ...]:
    """`perturbations`, remembered: the same phrases come back in many studies."""
    return tuple(perturbations(text))


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _each_once(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple({_plain(t): t for t in texts if t.strip()}.values())


# -- sections -------------------------------------------------------------------------------------------------------


def _sections(placed: Sequence[Placed]) -> tuple[Section, ...]:
    """One text an organ, and one of all; from the findings, or from the impression where there are none."""
    section = "findings" if any(p.section == "findings" for p in placed) else "impression"
    by_organ: dict[str | None, list[str]] = {None: []}
    elsewhere = False  # under a heading such as "Other:", where the organ before does not carry on
    for sentence in placed:
        elsewhere = not organs_in(sentence.text) and (elsewhere or _HEADING.match(sentence.text) is not None)
        own = sentence.organ if sentence.organ in ORGAN_NAMES and not elsewhere else None
        if sentence.section == section and (phrase := grounding_phrase(sentence.text)):
            for organ in dict.fromkeys((None, own)):
                by_organ.setdefault(organ, []).append(phrase)
    found = [(organ, _joined(phrases)) for organ, phrases in by_organ.items() if phrases]
    return tuple(Section(text, organ, is_normal(text)) for organ, text in found)


def _joined(phrases: Sequence[str]) -> str:
    words = 0
    kept: list[str] = []
    for phrase in dict.fromkeys(phrases):
        if words + len(phrase.split()) > MOST_WORDS and kept:
            break
        words += len(phrase.split())
        kept.append(phrase[:1].upper() + phrase[1:])
    return " ".join(f"{p}." for p in kept)


def _decoys(sections: Sequence[Section], facts: Sequence[Claim]) -> tuple[Section, ...]:
    """Sections with the first sentences changed that can be, one a decoy, where the whole is then certainly untrue."""
    out = []
    for section in sections:
        made = 0
        phrases = [p.removesuffix(".") for p in section.text.split(". ")]
        for at, phrase in enumerate(phrases):
            for change in counterparts(phrase):
                if made < _DECOYS_PER_SECTION and untrue(change.text, facts):
                    text = _joined([*phrases[:at], change.text, *phrases[at + 1 :]])
                    out.append(Section(text, section.organ, is_normal(text)))
                    made += 1
                    break
    return tuple(dict.fromkeys(out))

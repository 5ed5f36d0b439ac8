"""What a text says is there and is not there, and whether what is known of a study makes it untrue.

A claim is a thing (one or several findings of the vocabulary that share their words), where it is, how it is described,
and whether it is asserted or denied. "No nodule" makes "solid nodule in the left lung" untrue, for it denies the wider
thing everywhere; "no solid nodule in the left lung" says nothing of a nodule of ground glass, or on the right. Whatever
is in doubt, qualified by a word that is not understood, or compared with another study claims nothing: the answer is
then "unknown", never "untrue".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from vol3d.text.assertion import unit_at
from vol3d.text.labeler import Mention, find_mentions, finding_names
from vol3d.text.mentions import references_to_prior
from vol3d.text.organs import Side, side_of
from vol3d.text.reports import organs_in, sentences
from vol3d.types import Array

_DESCRIPTIONS = (
    "solid", "ground-glass|ground glass|subsolid", r"calcifi\w*|calcific", r"necro\w*", r"cyst\w*",
    "hypodense|low.density", "hyperdense|dense", "small|tiny|minimal|minute|millimetric", "large|big|bulky|huge",
    "medium(?:-sized)?|intermediate", "subpleural", "spiculated", "enlarged",
    r"non-?avid|not avid|(?:no|without) (?:(?:increased|significant|patholog\w*|abnormal|fdg) ?)*uptake",
    "fatty?|lipomatous", r"spin(?:e|al)|vertebra\w*", "paraspinal|paravertebral|back", "ribs?|costal", "upper|superior",
    r"middle|lingul\w*", "lower|inferior|basal|bas[ei]s?", "ap(?:ex|ices|ical)", r"segment\w*", "lobes?|lobar",
    "hilar|hil(?:um|a)", r"axill\w*", "supraclavicular", "cervical", "paratracheal", "subcarinal",
    "suspicious|suspected", r"significant\w*|relevant", r"patholog\w*", "acute", r"new\w*", r"malign\w*",
    r"metasta\w*", "mild|slight|discrete", "moderate", "severe|marked|massive", "diffuse", "multiple|several",
    "single|solitary", "loculated|encapsulated", "anterior", "posterior", "cortical", "exophytic", r"bilateral\w*",
    r"thick\w*|thin", "irregular", "spontaneous",
)  # fmt: skip
"""Words that narrow a thing, one bit each; what no expression here or among the neutral words knows is no claim."""
DESCRIBED = tuple(re.compile(rf"(?<![\w-])(?:{p})(?![\w-])", re.I) for p in _DESCRIPTIONS)
NON_AVID = next(i for i, p in enumerate(_DESCRIPTIONS) if p.startswith("non-?avid"))
DIRECTED = sum(
    1 << i for i, p in enumerate(_DESCRIPTIONS) if re.match(r"upper|middle|lower|ap\(|anterior|posterior", p)
)
"""Descriptions that a mirrored body no longer fits."""
NEUTRAL = re.compile(
    r"(?:an?|the|no|not|nor|or|and|any|of|in|on|at|with|within|without|is|are|was|were|be|been|there|this|it|evidence|"
    r"signs?|findings?|seen|observed|detected|identified|noted|visible|visuali[sz]ed|present|found|demonstrated|focal|"
    r"imaged|scanned|field|view|clear|normal|unremarkable|natural|free|left|right|sided?|left-sided|right-sided|also|all|"
    r"definite|obvious|both|homogeneous|lesions?|nodules?|mass(?:es)?|lungs?|pulmonary|pleura[el]?|hemithorax|liver|hepatic|spleen|"
    r"splenic|kidneys?|renal|pancrea(?:s|tic)|adrenals?|glands?|mediastin(?:um|al)|hearts?|cardiac|pericardi(?:um|al)|"
    r"bones?|osseous|skeletal|tissues?|soft|muscles?|parenchymal?|bowel|bladder|gallbladder|peritone(?:um|al)|abdom\w+|"
    r"thyroid|breasts?|pelvi[sc]|space|cavity|cavities|areas?|regions?)",
    re.I,
)
_CLEAR = re.compile(r"\b(?:clear|unremarkable|normal|natural)\b", re.I)
_ASPECT = re.compile(
    r"\b(?:sizes?|cali[bv]\w+|width|diameters?|contours?|configuration|dimensions?|thickness|position|densit\w+|midline|"
    r"course|lumen|uptake|wall|enhancement)\b", re.I,
)  # fmt: skip
"""One aspect that is normal: "heart size is normal" says nothing of the heart's other faults."""
_IN_PART = re.compile(r"\b(?:part(?:ly|ial\w*)?|included|resect\w*|field of view|limited|suboptimal)\b", re.I)
_CHANGED = re.compile(
    r"\b(?:has|have) (?:\w+ly )?(?:increased|enlarged|grown|progressed|decreased|regressed|shrunk)\b|"
    r"\b(?:larger|smaller|more|less) than (?:in|on|before|prev\w*)|"
    r"\b(?:in|de)crease in (?:the )?(?:size|number|amount|extent)",
    re.I,
)
_PAIRED = ("lung", "kidney", "pleura", "breast", "adrenal", "axilla", "bone", "soft_tissue")


@dataclass(frozen=True)
class Claim:
    """One thing that is said to be there or not to be there."""

    findings: frozenset[str]
    """Names of the vocabulary; none: any finding of the organ."""
    organ: str | None
    side: Side | None
    described: int
    """Bits of `_DESCRIPTIONS`."""
    present: bool
    understood: bool
    """False: a word narrows it in a way that is not known. Such a denial makes nothing untrue."""

    def mirrored(self, flipped: bool) -> Claim | None:
        """The claim of a body with left and right exchanged; None where that is not certain."""
        if self.described & DIRECTED:
            return None
        if not flipped or self.side is None:
            return self
        return replace(self, side="left" if self.side == "right" else "right") if self.organ in _PAIRED else None


@lru_cache(maxsize=65536)
def claims_of(text: str) -> tuple[Claim, ...]:
    """Claims of a phrase, a sentence or several of them, in reading order, each once."""
    out: list[Claim] = []
    for sentence in sentences(text):
        if compares(sentence) or in_part(sentence):
            continue
        mentions = [m for m in find_mentions(sentence) if m.finding != "physiological_uptake"]
        if not mentions:
            out += _clear_organs(sentence)
            continue
        # "a nodule without uptake" denies the uptake of this nodule and of no other
        denial = all(m.status == "absent" for m in mentions)
        here = mentions if denial else [m for m in mentions if m.status == "present"]
        avid = [m for m in here if m.finding.startswith("fdg_avid_")]
        things = _things([m for m in here if m not in avid]) or _things(avid)
        cold = not denial and any(m.status == "absent" and m.finding.startswith("fdg_avid_") for m in mentions)
        for thing in things:
            out.append(_claim(sentence, thing, [m for m in avid if _same_unit(sentence, m, thing[0])], denial, cold))
    return tuple(dict.fromkeys(out))


def compares(sentence: str) -> bool:
    """Whether a sentence speaks of another study, which one image cannot answer: "has increased", "new", "stable"."""
    # "enlarged nodes" and "increased uptake" are no comparison
    return bool(references_to_prior(sentence) - {"larger", "smaller"}) or _CHANGED.search(sentence) is not None


def in_part(sentence: str) -> bool:
    """Whether a sentence says that something was not, or not wholly, imaged, or has been taken out."""
    return _IN_PART.search(sentence) is not None


def denied(claims: Iterable[Claim]) -> list[Claim]:
    """The claims of a text that is known to be untrue, where it asserts a single thing; else nothing is certain."""
    asserted = list(claims)
    return [replace(c, present=False) for c in asserted] if len(asserted) == 1 and asserted[0].present else []


def untrue(text: str, known: Sequence[Claim]) -> bool:
    """True if what is known makes any claim of the text false."""
    return any(refutes(fact, claim) for claim in claims_of(text) for fact in known)


def refutes(fact: Claim, claim: Claim) -> bool:
    """Whether a fact and a claim cannot both hold: one denies a thing that the other asserts within it."""
    if fact.present == claim.present:
        return False
    wide, narrow = (claim, fact) if fact.present else (fact, claim)
    return (
        wide.understood
        and wide.findings <= narrow.findings
        and wide.organ in (None, narrow.organ)
        and wide.side in (None, narrow.side)
        and not wide.described & ~narrow.described
    )


def is_normal(text: str) -> bool:
    """Whether a text on one organ finds nothing there: every sentence denies, or calls the organ clear or normal."""
    said = sentences(text)
    for sentence in said:
        mentions = find_mentions(sentence)
        quiet = all(m.status == "absent" for m in mentions) if mentions else _CLEAR.search(sentence) is not None
        if not quiet or in_part(sentence) or compares(sentence):
            return False
    return bool(said)


# -- as numbers -----------------------------------------------------------------------------------------------------

WIDTH = 6
"""int64 numbers of a claim: findings (2 x 62 bits), description, organ, side; 1 asserted, 0 denied, -1 none."""


def encode(claims: Sequence[Claim], room: int, organs: Sequence[str]) -> Array:
    """int64 [room, WIDTH]; what has no room is left out, so that less is known and nothing wrong is said.

    Denials that are not understood are left out. `organs` gives each organ its number, from 1; 0 is none.
    """
    out = np.zeros((room, WIDTH), np.int64)
    out[:, 5] = -1
    usable = [c for c in claims if c.present or c.understood]
    for row, claim in zip(out, usable, strict=False):
        for name in claim.findings:
            word, bit = divmod(_numbers()[name], 62)
            row[word] |= 1 << bit
        row[2] = claim.described
        row[3] = 0 if claim.organ is None else organs.index(claim.organ) + 1
        row[4] = {None: 0, "left": 1, "right": 2}[claim.side]
        row[5] = int(claim.present)
    return out


@lru_cache(maxsize=1)
def _numbers() -> dict[str, int]:
    return {name: i for i, name in enumerate(finding_names())}


# -- reading --------------------------------------------------------------------------------------------------------


def _things(mentions: list[Mention]) -> list[list[Mention]]:
    """Mentions whose words overlap or touch name one thing: "ground-glass nodule"."""
    out: list[list[Mention]] = []
    for mention in sorted(mentions, key=lambda m: (m.start, m.end)):
        if out and mention.start <= 1 + max(m.end for m in out[-1]):
            out[-1].append(mention)
        else:
            out.append([mention])
    return out


def _same_unit(sentence: str, one: Mention, other: Mention) -> bool:
    return unit_at(sentence, one.start).start == unit_at(sentence, other.start).start


def _claim(sentence: str, thing: list[Mention], avid: list[Mention], denial: bool, cold: bool) -> Claim:
    unit = unit_at(sentence, thing[0].start)
    clause = sentence[unit.start : unit.end]
    described = sum(1 << i for i, p in enumerate(DESCRIBED) if p.search(clause))
    organs = {m.organ for m in thing}
    last = thing[-1]
    return Claim(
        findings=frozenset(m.finding for m in [*thing, *avid]),
        organ=last.organ if len(organs) == 1 else None,
        side=last.side,
        described=described | (cold << NON_AVID),
        present=not denial,
        understood=len(organs) == 1 and _understood(clause, [*thing, *avid], unit.start),
    )


def _understood(clause: str, mentions: list[Mention], offset: int) -> bool:
    """Whether every word of a clause is one that names the thing, describes it in a known way, or says nothing."""
    rest = list(clause)
    for mention in mentions:
        rest[max(0, mention.start - offset) : mention.end - offset] = " " * (mention.end - max(offset, mention.start))
    return all(NEUTRAL.fullmatch(word) for word in re.findall(r"[\w-]+", undescribed("".join(rest))))


def undescribed(text: str) -> str:
    """The text without the words that describe a thing in a known way."""
    for pattern in DESCRIBED:
        text = pattern.sub(" ", text)
    return text


def _clear_organs(sentence: str) -> list[Claim]:
    """ "Both lungs are clear": nothing is there."""
    named = {organ for _, _, organ in organs_in(sentence)}
    whole = _CLEAR.search(sentence) and not _ASPECT.search(sentence) and len(named) == 1
    if not whole or re.search(r"\bno[rt]?\b|\b(?:ab|un)normal", sentence, re.I):
        return []
    if any(p.search(sentence) for p in DESCRIBED) or not _understood(sentence, [], 0):
        return []
    sides = {m.group().lower() for m in re.finditer(r"\b(?:left|right)\b", sentence, re.I)}
    return [Claim(frozenset(), named.pop(), side_of(sentence), 0, False, True)] if len(sides) < 2 else []

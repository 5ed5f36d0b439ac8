"""Findings that a report says are there, by name: `label_findings`.

The vocabulary is data (`vocabulary/chest.yaml`, `abdomen.yaml`, `pet.yaml`): words of a finding, the organs they must
belong to, and the words that make them mean something else. What is said of them (there, not there, perhaps) is decided
by `assertion.status_of`, sentence by sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.resources import files
from typing import Any

import yaml

from vol3d.text.assertion import Status, Unit, status_of, unit_at
from vol3d.text.organs import Side, side_of
from vol3d.text.reports import organ_at, organs_in, place

VOCABULARIES = ("chest", "abdomen", "pet")


@dataclass(frozen=True)
class Mention:
    """One finding in one sentence."""

    finding: str
    status: Status
    sentence: str
    start: int
    end: int
    organ: str | None
    side: Side | None


@dataclass(frozen=True)
class _Rule:
    finding: str
    keys: tuple[str, ...]
    words: re.Pattern[str]
    organs: frozenset[str]
    strict: bool
    needs: re.Pattern[str] | None
    unless: re.Pattern[str] | None
    ignore: re.Pattern[str] | None
    normal: re.Pattern[str] | None


def label_findings(text: str) -> dict[str, int]:
    """Every finding of the vocabulary: 1 if the report says that it is there (perhaps), else 0.

    Findings and impression count; indication, technique and comparison do not.
    """
    out = dict.fromkeys(finding_names(), 0)
    for sentence, organ in _statements(text):
        for mention in _mentions(sentence, organ):
            if mention.status != "absent":
                out[mention.finding] = 1
    return out


def find_mentions(text: str) -> list[Mention]:
    """Every mention of a finding, with what is said of it, its organ and its side."""
    return [m for sentence, organ in _statements(text) for m in _mentions(sentence, organ)]


@cache
def finding_names() -> tuple[str, ...]:
    """All findings that `label_findings` knows."""
    return tuple(dict.fromkeys(rule.finding for rule in _rules()))


def _statements(text: str) -> Iterator[tuple[str, str | None]]:
    for placed in place(text):
        if placed.section in ("findings", "impression"):
            yield placed.text, placed.organ


@lru_cache(maxsize=8192)
def _mentions(sentence: str, carried: str | None) -> tuple[Mention, ...]:
    """Mentions of one sentence; `carried` is the organ that the text was speaking of."""
    lower = sentence.lower()
    out: list[Mention] = []
    matches: dict[re.Pattern[str], list[tuple[int, int]]] = {}
    organs: dict[tuple[int, int], str | None] = {}
    here = {organ for _, _, organ in organs_in(sentence)} | ({carried} if carried else set())
    for rule in _rules_for(tuple(key for key in _keys() if key in lower)):
        if rule.organs and not rule.organs & here and (here or rule.strict):
            continue
        if rule.words not in matches:
            matches[rule.words] = [m.span() for m in rule.words.finditer(lower)]
        for span in matches[rule.words]:
            unit = unit_at(sentence, span[0])
            if span not in organs:
                organs[span] = organ_at(sentence, *span, unit.start, unit.end) or carried
            normal = _normal(rule, lower, span, unit, matches[rule.words])
            if not normal and _applies(rule, lower[unit.start : unit.end], organs[span]):
                status = status_of(sentence, *span)
                side = side_of(sentence[unit.start : unit.end]) or side_of(sentence)
                out.append(Mention(rule.finding, status, sentence, *span, organs[span], side))
    return tuple(out)


def _applies(rule: _Rule, unit: str, organ: str | None) -> bool:
    if rule.organs and organ not in rule.organs and (organ is not None or rule.strict):
        return False
    if rule.ignore:
        unit = rule.ignore.sub(" ", unit)
    if rule.needs and not rule.needs.search(unit):
        return False
    return not (rule.unless and rule.unless.search(unit))


_GOES_ON = re.compile(
    r"(?:\s*(?:but|and|however|although|though|,))*\s*(?:none|they|these|those|their|its?|all|neither|not)\b[^;.]*"
)
"""A clause that speaks of what the one before named: "..., but none is enlarged"."""


def _normal(rule: _Rule, sentence: str, span: tuple[int, int], unit: Unit, mentions: list[tuple[int, int]]) -> bool:
    """Whether what is said of this mention, and not of one beside it, calls it normal."""
    if not rule.normal:
        return False
    more = _GOES_ON.match(sentence, unit.end)
    start = max([unit.start, *(end for _, end in mentions if end <= span[0])])
    stop = min([more.end() if more else unit.end, *(at for at, _ in mentions if at >= span[1])])
    return rule.normal.search(sentence, start, stop) is not None


@cache
def _keys() -> tuple[str, ...]:
    return tuple(dict.fromkeys(key for rule in _rules() for key in rule.keys))


@lru_cache(maxsize=8192)
def _rules_for(keys: tuple[str, ...]) -> tuple[_Rule, ...]:
    """Rules of which a sentence holds a key, in the order of the vocabulary."""
    held = set(keys)
    return tuple(rule for rule in _rules() if held.intersection(rule.keys))


@cache
def _rules() -> tuple[_Rule, ...]:
    out: list[_Rule] = []
    for name in VOCABULARIES:
        table: dict[str, Any] = yaml.safe_load((files("vol3d.text") / "vocabulary" / f"{name}.yaml").read_text())
        for finding, rows in table.items():
            for row in rows:
                out.append(_rule(finding, row))
    return tuple(out)


def _rule(finding: str, row: dict[str, Any]) -> _Rule:
    return _Rule(
        finding=finding,
        keys=tuple(row["keys"]),
        words=_pattern(row["words"]),
        organs=frozenset(row.get("organs", [])),
        strict=bool(row.get("named", False)),
        needs=_pattern(row["needs"]) if "needs" in row else None,
        unless=_pattern(row["unless"]) if "unless" in row else None,
        ignore=_pattern(row["ignore"]) if "ignore" in row else None,
        normal=_pattern(row["normal"]) if "normal" in row else None,
    )


def _pattern(words: list[str]) -> re.Pattern[str]:
    """One alternation; ``~3`` stands for up to three words between, none of them a denial."""
    return re.compile("|".join(f"(?:{_GAP.sub(_gap, w)})" for w in words))


_GAP = re.compile(r"~(\d)")


def _gap(m: re.Match[str]) -> str:
    return r"(?:(?!not\b|no\b|normal\b|natural\b)[\w.,%/-]+\s){0," + m[1] + "}?"

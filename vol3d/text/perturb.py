"""Minimally different counterparts: the same words with one detail changed, and the name of what changed.

They are hard negatives for training and pairs for probing. Every counterpart is read again by the labeler, and None is
the answer wherever it does not differ in just the intended way. Only `contradicts` says that both cannot be true of one
patient; a nodule of the right lung does not deny one of the left (`hard_negatives` drops what the report states).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from vol3d.text.assertion import units
from vol3d.text.counterwords import DENSITIES, NOT_A_SIZE, ORGAN_WORDS, PAIRED, SIZES, UPTAKES
from vol3d.text.labeler import Mention, find_mentions, label_findings
from vol3d.text.mentions import quantities, references_to_prior
from vol3d.text.organs import SIDES, side_of, structure_in
from vol3d.text.reports import organs_in, sentences

Kind = Literal["side", "presence", "organ", "size", "uptake", "density"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Counterpart:
    """A text that differs in one detail."""

    text: str
    kind: Kind
    was: str
    now: str
    """The words that were changed, "" where words were only added or taken away."""
    contradicts: bool
    """True if the text and its counterpart cannot both hold."""


def perturb(text: str, kind: Kind) -> Counterpart | None:
    """The counterpart of a sentence or phrase in one detail, or None where there is none that is certainly right."""
    if len(sentences(text)) != 1 or "?" in text:
        return None
    return _MAKERS[kind](text)


def perturbations(text: str) -> list[Counterpart]:
    """All counterparts of a sentence or phrase, at most one a kind, in the order of `KINDS`."""
    return [c for c in (perturb(text, kind) for kind in KINDS) if c is not None]


def hard_negatives(text: str, report: str) -> list[Counterpart]:
    """Counterparts of a statement that the rest of the report does not make true elsewhere.

    Side and organ are kept only if no sentence states the finding there (or at no named place); size, density and
    uptake only if no other sentence says them of the same finding at the same place.
    """
    return [c for c in perturbations(text) if c.contradicts or not _stated_elsewhere(c, text, report)]


def _stated_elsewhere(counterpart: Counterpart, text: str, report: str) -> bool:
    stated = [m for m in find_mentions(report) if m.status != "absent"]
    claims = [m for m in find_mentions(counterpart.text) if m.status != "absent"]
    if counterpart.kind in ("size", "density"):
        stated = [m for m in stated if counterpart.now.lower() in m.sentence.lower()]
    if counterpart.kind == "uptake":
        avid = _is_avid(counterpart.text)
        stated = [m for m in stated if m.sentence != text and _is_avid(m.sentence) == avid]
    return not claims or any(
        s.finding == c.finding and s.organ in (c.organ, None) and s.side in (c.side, None)
        for c in claims
        for s in stated
    )


def _is_avid(text: str) -> bool:
    return any(name.startswith("fdg_avid_") for name in _present(text))


# -- side ---------------------------------------------------------------------------------------------------------

_NO_TWIN = re.compile(
    r"middle lobe|lingul|situs|invers|dextro|levo|sinistr|heterotax|isomer|anterior descending|main coronary|"
    r"circumflex|dominan|aortic arch|spleen|splen|stomach|gastric|gall ?bladder|cholecyst|append|c(?:ae|e)cum|azygos|"
    r"flexure|(?:ascending|descending|sigmoid) colon|hiat|\b[rl](?:ul|ml|ll|uq|lq)\b|\b[rl]t\b|lad\b|lcx|rca",
    re.I,
)
"""What exists on one side only, and sides written in other ways."""
_NOT_A_SIDE = re.compile(
    r"\bleft (?:untreated|over|out|in place|behind|alone|the|after|for)\b|\b(?:is|was|has|be|patient) left\b|"
    r"\bright (?:away|after|now|angles?|next|before|behind)\b|\b(?:all|up)right\b|left[- ]to[- ]|right[- ]to[- ]",
    re.I,
)
_BOTH = re.compile(r"\b(?:bilateral\w*|both|either|contralateral|ipsilateral|opposite)\b", re.I)


def _side(text: str) -> Counterpart | None:
    side = side_of(text)
    if side is None or _NO_TWIN.search(text) or _NOT_A_SIDE.search(text) or _BOTH.search(text):
        return None
    other = SIDES[1 - SIDES.index(side)]
    new = re.sub(rf"\b{side}\b", lambda m: _like(m.group(), other), text, flags=re.I)
    before, after = find_mentions(text), find_mentions(new)
    if [_told(m) for m in before] != [_told(m) for m in after] or label_findings(text) != label_findings(new):
        return None
    if any(a.side != (other if b.side == side else b.side) for b, a in zip(before, after, strict=True)):
        return None
    return Counterpart(new, "side", side, other, contradicts=False)


def _told(mention: Mention) -> tuple[str, str, str | None]:
    return mention.finding, mention.status, mention.organ


# -- presence -----------------------------------------------------------------------------------------------------

_SEEN = r"(?:seen|observed|detected|identified|noted|visible|visuali[sz]ed|present|found|demonstrated)"
_DENY: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^there (?P<v>is|was) (?:an?|one|a single) ", re.I), "There {v} no "),
    (re.compile(r"^there (?P<v>are|were) (?:(?:multiple|several|many|few|some|two|three) )?", re.I), "There {v} no "),
    (re.compile(r"^there (?P<v>is|was) (?!no\b|not\b)(?=\w)", re.I), "There {v} no "),
    (re.compile(rf"^(?:an?|one) (?=.*\b(?:is|was) {_SEEN}\b)", re.I), "No "),
    (re.compile(rf"\b(?P<v>is|are|was|were) (?P<s>{_SEEN})\b", re.I), "{v} not {s}"),
    (re.compile(r"^(?:an?|multiple|several|many|few|some) (?!.*\b(?:is|are|was|were|shows?|has|have)\b)", re.I), "No "),
    (re.compile(r"^(?=\w)(?!.*\b(?:is|are|was|were|shows?|has|have|with|without)\b)", re.I), "No "),
)
"""The first that fits makes a statement a denial."""
_STATE: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"^there (?P<v>is|was) no evidence ", re.I), "There {v} evidence "),
    (re.compile(r"^there (?P<v>is|was) no (?=[aeiou])", re.I), "There {v} an "),
    (re.compile(r"^there (?P<v>is|was) no (?=\w)", re.I), "There {v} a "),
    (re.compile(r"^there (?P<v>are|were) no ", re.I), "There {v} "),
    (re.compile(rf"\b(?P<v>is|are|was|were) not (?P<s>{_SEEN})\b", re.I), "{v} {s}"),
    (re.compile(r"^no (?:evidence of )?(?=\w)", re.I), ""),
    (re.compile(r"\bwithout (?:evidence of )?(?=\w)", re.I), "with "),
)


def _presence(text: str) -> Counterpart | None:
    before = find_mentions(text)
    statuses = {m.status for m in before}
    if len(units(text)) != 1 or len(statuses) != 1 or "uncertain" in statuses or references_to_prior(text):
        return None
    for pattern, written in _DENY if statuses == {"present"} else _STATE:
        match = pattern.search(text)
        if match is None:
            continue
        now = written.format(**match.groupdict())
        if now.lower().endswith("no ") and re.search(r"\band\b", text):
            return None  # "no A and B" may deny A alone
        new = text[: match.start()] + now + text[match.end() :]
        new = _start_like(text, new)
        after = find_mentions(new)
        wanted = "absent" if statuses == {"present"} else "present"
        same = [(m.finding, m.organ, m.side) for m in before] == [(m.finding, m.organ, m.side) for m in after]
        if same and {m.status for m in after} == {wanted}:
            return Counterpart(new, "presence", match.group().strip(), now.strip(), contradicts=True)
        return None
    return None


def _start_like(text: str, new: str) -> str:
    """A sentence still starts with a capital, a phrase with a small letter; the old first word loses its capital."""
    if not text[:1].isupper():
        return new[:1].lower() + new[1:] if new.startswith(("No ", "There ")) else new
    first = text.split(" ", 1)[0]
    if new.startswith("No " + first) and first[1:].islower():
        new = "No " + first.lower() + new[3 + len(first) :]
    return new[:1].upper() + new[1:]


# -- organ --------------------------------------------------------------------------------------------------------


def _organ(text: str) -> Counterpart | None:
    named = organs_in(text)
    words = [m for m in re.finditer(r"[a-z]+", text, re.I) if m.group().lower() in ORGAN_WORDS]
    if len(named) != 1 or len(words) != 1 or words[0].start() != named[0][0]:
        return None
    word = words[0].group()
    other = ORGAN_WORDS[word.lower()]
    if re.search(r"\b(?:left|right|bilateral|both|either)\b", text, re.I) and not {word.lower(), other} <= PAIRED:
        return None
    if re.search(r"\blobes?\b|\bsegments?\b|\bglands?\b|\b(?:adjacent|next|close) to\b", text, re.I):
        return None
    new = text[: words[0].start()] + _like(word, other) + text[words[0].end() :]
    now = organs_in(new)
    if len(now) != 1 or now[0][2] == named[0][2]:
        return None
    before, after = find_mentions(text), find_mentions(new)
    if not before and not after:
        bare = structure_in(text), structure_in(new)
        plain = None not in bare and bare[0] != bare[1] and len(text.split()) <= 4
        return Counterpart(new, "organ", word, other, contradicts=False) if plain else None
    moved = {m.organ for m in before} == {named[0][2]} and {m.organ for m in after} == {now[0][2]}
    same = {(m.status, m.side) for m in before} == {(m.status, m.side) for m in after}
    if not moved or not same or _found(before) == _found(after):
        return None
    return Counterpart(new, "organ", word, other, contradicts=False)


def _found(mentions: list[Mention]) -> set[str]:
    return {m.finding for m in mentions}


# -- size, density, uptake ------------------------------------------------------------------------------------------


def _size(text: str) -> Counterpart | None:
    if any(q.kind in ("size", "volume") for q in quantities(text)) or re.search(r"<(?:size|volume)_\d+>", text):
        return None  # a "large" nodule of 6 mm is no minimal change but a contradiction
    return None if NOT_A_SIZE.search(text) else _one_word(text, "size", SIZES)


def _density(text: str) -> Counterpart | None:
    return _one_word(text, "density", DENSITIES)


def _one_word(text: str, kind: Kind, table: tuple[tuple[str, str], ...]) -> Counterpart | None:
    """Swaps the one word of a table that a statement holds; the labels and all else that is said stay as they are."""
    new, was, now = _swapped(text, table)
    before = find_mentions(text)
    if new is None or not before or {m.status for m in before} != {"present"}:
        return None
    after = find_mentions(new)
    if [(_told(m), m.side) for m in before] != [(_told(m), m.side) for m in after]:
        return None
    return Counterpart(new, kind, was, now, contradicts=_one_thing(text))


def _uptake(text: str) -> Counterpart | None:
    if any(q.kind.startswith("suv") for q in quantities(text)) or "<suv" in text:
        return None  # a high SUVmax of a "non-avid" nodule
    new, was, now = _swapped(text, UPTAKES)
    if new is None:
        return None
    before, after = _present(text), _present(new)
    avid = {n for n in before ^ after if n.startswith("fdg_avid_")}
    if not avid or before ^ after != avid or not (avid <= before or avid <= after):
        return None
    return Counterpart(new, "uptake", was, now, contradicts=_one_thing(text))


def _present(text: str) -> set[str]:
    return {name for name, value in label_findings(text).items() if value}


def _one_thing(text: str) -> bool:
    """Whether a statement is about one definite lesion ("the ..."): only then is the other size a contradiction."""
    return re.match(r"the\b", text, re.I) is not None


def _swapped(text: str, table: tuple[tuple[str, str], ...]) -> tuple[str | None, str, str]:
    """The text with the one occurrence of the table's words swapped; None if there is none, or more than one."""
    spans: list[tuple[int, int, str, str]] = []
    for was, now in table:
        for m in re.finditer(rf"(?<![\w-]){re.escape(was)}(?![\w-])", text, re.I):
            if not any(a < m.end() and m.start() < b for a, b, _, _ in spans):
                spans.append((*m.span(), was, now))
    if len(spans) != 1:
        return None, "", ""
    start, end, was, now = spans[0]
    new = text[:start] + _like(text[start:end], now) + text[end:]
    new = re.sub(rf"\b([Aa])n? (?={re.escape(_like(text[start:end], now))})", _article(now), new)
    return new, was, now


def _article(word: str) -> Callable[[re.Match[str]], str]:
    vowel = word[:1].lower() in "aeiou" or word.startswith("FDG")
    return lambda m: m[1] + ("n" if vowel else "") + " "


def _like(old: str, new: str) -> str:
    """With a capital where the old word had one."""
    if old.isupper() and len(old) > 1 and old.isalpha():
        return new.upper()
    return new[:1].upper() + new[1:] if old[:1].isupper() and old[1:2].islower() else new


_MAKERS: dict[Kind, Callable[[str], Counterpart | None]] = {
    "side": _side, "presence": _presence, "organ": _organ, "size": _size, "uptake": _uptake, "density": _density,
}  # fmt: skip

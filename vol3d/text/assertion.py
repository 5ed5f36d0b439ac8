"""Is a thing that a sentence names there, not there, or perhaps there?

Scoped by clause and predicate, after NegEx (Chapman et al. 2001) and ConText (Harkema et al. 2009), with rules for long
lists ("A, B and C were not detected") and for statements about change ("no change in the nodule" asserts the nodule).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Literal

Status = Literal["present", "absent", "uncertain"]

_BUT_FOR = (
    r"(?:except(?: for)?|with the exception of|excluding|other than|besides|(?:apart|aside) from)\b(?! th(?:is|ese)\b)"
)
_BREAK = re.compile(
    r";|:|,?\s*\b(?:but|however|although|though|whereas|while|despite|yet|nevertheless)\b|"
    rf",?\s*\b(?P<but_for>{_BUT_FOR})|(?:,|\band)\s+(?=there (?:is|are|was|were)\b)|,?\s*\band (?=no\b)"
)
"""What ends the reach of every cue: "no effusion, but a nodule"."""
_THE_SAME = re.compile(
    rf"(?:(?!\b(?:or|and|nor)\b)[^,;:]){{0,50}},?\s*\b{_BUT_FOR} (?:(?:in|at|on|within)\b|"
    r"(?:those|that|(?:the |an? )?(?:\d+ mm |[a-z]+ )?ones?)\b"
    r"(?! (?:\w+ly )?(?:described|mentioned|defined|listed|above)))"
)
"""After a denied word, an exception of its own kind: "no nodule other than the one in the right lung"."""
_SEEN = r"(?:seen|observed|detected|found|identified|present|visuali[sz]ed|noted|noticed|encountered|selected)"
_ANSWER = re.compile(
    rf"\s*(?:(?:none|no|absent|negative|nil)\b(?=\s*(?:[.;,]|$)|\s(?:(?:was|were|is|are) )?{_SEEN}\b)|not {_SEEN}\b|"
    r"(?:(?:has|have) )?(?:(?:completely|totally|fully) )?(?:resolved|disappeared)\b)"
)
"""What denies the words before a colon: "Effusion: none"."""
_TITLE = re.compile(r"\W*(?:[a-z-]+\s){0,4}[a-z-]+\s*:\s*")
_ASIDE = re.compile(r"\bas far as\b[^,;:.]{0,60}?\b(?:observed|seen|evaluated|assessed)\b|\bif any\b")
_NEGATIVE = re.compile(
    r"\b(?:(?:is|are|was|were|did|do|does|has|have|had|can|could|may|might|would)(?:\s(?:also|yet|clearly|been|be))?"
    r"\s?(?:not|n['\u2019]t)|cannot)\b(?:\s(?:be|been|have been|\w+ly))*(?P<verb>\s\w+)?"
    r"|\b(?:(?:is|are|was|were) (?:no longer|absent)"
    r"|(?:has|have) (?:(?!part|incomplete)\w+ly )?(?:disappeared|resolved|been lost|vanished)"
    r"|(?:completely|totally) (?:disappeared|resolved|regressed)|disappeared)\b"
    r"|\b(?:shows?|showed) (?:\w+ )?(?:complete|total|full) re(?:gression|solution|sorption)\b"
    rf"|\bnot {_SEEN}\b|(?<!not )(?<!partially )(?<!partly )\bresolved(?=\s*(?:[.;,]|$))"
)
_POSITIVE = re.compile(
    r"\b(?:is|are|was|were|(?:has|have) been|shows?|showed|draws?|presents?|exists?|accompan(?:y|ies)|appear(?:s|ed)?|"
    r"(?:persist|remain|continue)(?:s|e?d)?|"
    r"(?:has|have) (?:\w+ly |also )?(?:(?:in|de)creased|(?:re|pro)gressed|enlarged|grown|shrunk|developed|emerged))\b|"
    r"\b(?:decreased|regressed|unchanged|stable)(?=\s*(?:[.;,]|$| in (?:size|number|amount|extent)|compared))|"
    r"(?<!\bnot )\b(?:seen|observed|noted)(?=\s*(?:[.;]|$))"
)
"""Verbs of a clause that says that something is there.

"Increased" alone is none, for it may describe: "nodes increased in size, effusion and nodules were not detected".
"""
_EXISTENTIAL = re.compile(r"\bthere\s*$")
_RELATIVE = re.compile(r"\b(?:which|that|whose|who|where)(?:\s\w+){0,2}\s*$")
_DOUBT = re.compile(
    r"(?:exclude|rule|differentiat|characteri|discriminat|separat|distinguish\w*(?: [\w-]+){0,5}? (?:from|between)\b)"
)
"""Not told from another thing, which is no denial; "not distinguished" alone is "not seen"."""
_UNTOLD = re.compile(r"\b(?:distinction|differentiation|discrimination)\s*$")
_STILL = re.compile(
    r"(?:has|have|had|did|does|do)(?: not|n.t) (?:yet |been )?(?:\w+ly )*(?:increas|decreas|progress|regress|grow|"
    r"shr[iu]nk|resolv|disappear|vanish|improv|clear)|"
    r"\w+(?: not|n.t) (?:yet |been )?(?:(?:\w+ly )*(?:chang|alter)|(?:completely|totally|fully|entirely) )"
)
"""What has not gone, or not changed, is there."""
_QUALITY = re.compile(r"(?:patholog|enlarg|specific|significant|typical|large|differ|characteristic)")
"""What is not of that kind is there all the same: "lymph nodes are not pathological"."""
_UNSEEN = re.compile(r"\s(?:evaluate|assess|optimal|clear|sufficient|adequate)")
_PRIOR = re.compile(
    r"\s*(?:before|previously|earlier)\b|"
    r"\s*(?:\w+\s){0,3}?(?:in|on|at) (?:the |his |her |its |any )?(?:\w+.s )?(?:previous|prior|old|earlier|former)\b"
)
_SEPARATOR = re.compile(r",\s*(?:and\s)?|\band\b")
_GONE = (
    r"\bdisappearance of\b|(?<!partial )(?<!high )\bresolution of\b|\b(?:complete|total|full) re(?:gress|sorp)\w* of\b"
)
_CUE = re.compile(
    r"\bno\b(?!\s*[.,;])|\bnot (?=without)|\bwithout\b|\babsence of\b|\black of\b|\bfree (?:of|from)\b|"
    r"\bnegative for\b|\bneither\b|\bnor\b|\bnone of\b|"
    r"\brules? out\b|\bexclude[sd]?\b|\b(?:recommended|evaluated?|examined|checked) (?:for|in terms of)\b|" + _GONE
)
_UNCHANGED = re.compile(
    r"(?:(?:significant|obvious|apparent|interval|evident|marked|clear|considerable|notable|definite|additional|other|"
    r"size|numerical|any) ){0,3}(?:change\b(?! compat)|changes in|difference|progression|regression|"
    r"(?:increase|decrease|growth|reduction) in (?:the |their |its )?(?:size|number|amount|dimension|extent)s?)"
)
_STABLE = re.compile(
    r"\b(?:significant|obvious|size|dimensional|any|interval|marked) (?:change|difference)|"
    r"\b(?:change|difference)s? (?:in|of|between) (?:the |their )?(?:size|number|dimension|appearance)|\bdifferen"
)
_INNER = re.compile(r"\bwithout\b|\babsence of\b|\black of\b|\bfree (?:of|from)\b|" + _GONE)
"""Cues within a clause, which a denial of the clause undoes: "not without effusion"."""
_MAYBE = re.compile(
    r"\?|\b(?:possibl[ey]|probabl[ey]|suspicious|suspected|suspicion|may|might|could be|suggest\w*|likely|"
    r"cannot be (?:excluded|ruled)|could not be (?:excluded|ruled)|not (?:be )?(?:excluded|ruled out)|questionable)\b"
)
_VERB_INSIDE = re.compile(r"\b(?:is|are|was|were|increased|enlarged|larger|wider|above)\b")


@dataclass(frozen=True)
class Unit:
    """A stretch of a sentence that one predicate governs."""

    start: int
    end: int
    text: str
    """Lower case, of the length of the stretch; parentheses blanked where they are not the unit itself."""
    denied: bool
    """The predicate is negative: "... was not observed"."""
    unseen: bool
    """The predicate says that its subject could not be judged."""
    predicate_at: int
    """Where the predicate starts, from the start of the sentence."""


def status_of(sentence: str, start: int, end: int) -> Status:
    """What the sentence says of the words at [start, end): there, not there, or in doubt."""
    unit = unit_at(sentence, start)
    left = unit.text[: start - unit.start]
    cues = [c for c in _CUE.finditer(left) if _reaches(c, left, unit)]
    outer = any(not _INNER.match(c.group()) for c in cues)
    inner = any(_INNER.match(c.group()) for c in cues)
    own_verb = _VERB_INSIDE.search(sentence.lower(), start, end) is not None
    post = unit.denied and not own_verb and not _STABLE.search(unit.text)
    if (outer or post) != inner:
        return "present" if _THE_SAME.match(sentence.lower(), end) else "absent"
    if unit.unseen and start < unit.predicate_at:
        return "absent"
    around = sentence[max(0, unit.start - 1) : min(len(sentence), unit.end + 2)].lower()
    return "uncertain" if _MAYBE.search(around) else "present"


def unit_at(sentence: str, position: int) -> Unit:
    """The unit that holds the character at `position`."""
    found = units(sentence)
    if len(found) == 1:
        return found[0]
    return next((u for u in found if u.start <= position < u.end), found[0])


@lru_cache(maxsize=4096)
def units(sentence: str) -> tuple[Unit, ...]:
    """The units of a sentence: first those within parentheses, then those of the rest; they cover every character."""
    lower = sentence.lower()
    inside = [(m.start(), m.end()) for m in re.finditer(r"\([^()]*\)?", lower)]
    rest = lower
    for start, end in inside:
        rest = rest[:start] + " " * (end - start) + rest[end:]
    for aside in _ASIDE.finditer(rest):
        rest = rest[: aside.start()] + " " * (aside.end() - aside.start()) + rest[aside.end() :]
    out = [u for start, end in inside for u in _clause_units(lower, start, end)]
    breaks = list(_BREAK.finditer(rest))
    cuts = [0, *(m.end() for m in breaks), len(rest)]
    for (start, end), opening in zip(pairwise(cuts), [None, *breaks], strict=True):
        if end <= start and out:
            continue
        if opening and opening["but_for"]:
            _add_exception(out, rest, start, end)
        else:
            out += _clause_units(rest, start, end)
        if rest[:end].endswith(":") and _denies_title(rest, start, end):
            out[-1] = replace(out[-1], denied=True)
    return tuple(out)


def _add_exception(out: list[Unit], text: str, start: int, end: int) -> None:
    """Add what an exception names, which is there, and what follows it.

    A verb after it belongs to what comes before: "nodules other than the calcified one were not seen".
    """
    comma = re.compile(r",(?!\d)").search(text, start, end)
    verb = next(iter(_predicates(text, start, end)), None)
    if verb and not (comma and comma.start() < verb[0]):
        cut = verb[0]
        if out and out[-1].predicate_at == out[-1].end and verb[2] != "positive":  # it has no verb of its own
            out[-1] = replace(out[-1], denied=verb[2] == "denied", unseen=verb[2] == "unseen")
    else:
        cut = comma.start() if comma else end
    out.append(Unit(start, cut, text[start:cut], False, False, cut))
    if cut < end:
        out += _clause_units(text, cut, end)


def _denies_title(text: str, start: int, end: int) -> bool:
    """Whether what follows a colon denies what stands before it: "Effusion: none", "Effusion: no effusion is seen"."""
    if _predicates(text, start, end):
        return False
    if answer := _ANSWER.match(text, end):
        return not _PRIOR.match(text, answer.end())
    denial = re.compile(r"\s*no ").match(text, end)
    title = _TITLE.fullmatch(text, start, end)
    return denial is not None and title is not None and not _UNCHANGED.match(text, denial.end())


def _clause_units(text: str, start: int, end: int) -> list[Unit]:
    predicates = _predicates(text, start, end)
    cuts = [start]
    for (_, first_end, _), (second_start, _, _) in pairwise(predicates):
        cut = _cut_between(text, first_end, second_start, predicates[len(cuts) - 1][0])
        cuts.append(cut if cut is not None else cuts[-1])
    cuts.append(end)
    if not predicates:
        return [Unit(start, end, text[start:end], False, False, end)]
    out: list[Unit] = []
    for (a, b), (at, _, kind) in zip(pairwise(cuts), predicates, strict=True):
        if out and a == out[-1].start:  # no separator before this predicate: it goes on with the one before
            last = out.pop()
            kind = kind if kind != "positive" else "denied" if last.denied else "unseen" if last.unseen else kind
            at = last.predicate_at
        out.append(Unit(a, b, text[a:b], kind == "denied", kind == "unseen", at))
    return out


def _predicates(text: str, start: int, end: int) -> list[tuple[int, int, str]]:
    found: list[tuple[int, int, str]] = []
    for m in _NEGATIVE.finditer(text, start, end):
        verb = m["verb"] or ""
        kind = "denied"
        told = text[m.end() - len(verb) : end].strip()
        doubted = _DOUBT.match(told) or _UNTOLD.search(text, start, m.start())
        if doubted or _QUALITY.match(verb.strip()) or _STILL.match(m.group()) or _PRIOR.match(text, m.end()):
            kind = "positive"
        elif _UNSEEN.match(verb) or _UNSEEN.search(m.group()):
            kind = "unseen"
        found.append((m.start(), m.end(), kind))
    spans = [(a, b) for a, b, _ in found]
    for m in _POSITIVE.finditer(text, start, end):
        if not any(a <= m.start() < b for a, b in spans):
            found.append((m.start(), m.end(), "positive"))
    return sorted(p for p in found if not _RELATIVE.search(text, max(start, p[0] - 40), p[0]))


def _cut_between(text: str, first_end: int, second_start: int, first_start: int) -> int | None:
    """Where the subject of the second predicate begins.

    A list after "there is" runs to its last separator; after "X was seen", what follows the first one is new.
    """
    separators = list(_SEPARATOR.finditer(text, first_end, second_start))
    if not separators:
        return None
    if _EXISTENTIAL.search(text, max(0, first_start - 8), first_start):
        return separators[-1].end()
    clear = [s for s in separators if s.group().strip() not in (",", "and")]
    return (clear or separators)[0].end()


def _reaches(cue: re.Match[str], left: str, unit: Unit) -> bool:
    """Whether a cue before the words still governs them."""
    between = left[cue.end() :]
    if _UNCHANGED.match(between.lstrip()):
        return False
    if _INNER.match(cue.group()):
        whole = unit.text[cue.end() :]
        listed = re.match(r"[^.;]*?\b(?:or|nor)\b", whole)
        stop = re.search(r"\b(?:is|are|was|were)\b", between)
        after_list = between[listed.end() :] if listed else between
        return stop is None and "," not in after_list
    return True

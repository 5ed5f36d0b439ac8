"""Questions and their answers: which kind a question is, what an answer says in one normal form, whether it is right.

The normal form is a short string that equal answers share ("yes", "left", "lung right", "3", "12.5 mm"), so that it can
be compared and counted. An answer that says nothing that can be read, or hedges between two things, has none and is
wrong. Two answers fit every kind: `NONE` (the thing asked about is not there) and `NOT_IN_VIEW`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

import yaml

from vol3d.errors import Vol3dError
from vol3d.text.figures import figure_in, not_measured
from vol3d.text.labeler import find_mentions, finding_names, label_findings
from vol3d.text.meaning import meaning_of
from vol3d.text.mentions import Quantity, laterality, quantities
from vol3d.text.organs import SIDES
from vol3d.text.plainly import plainly
from vol3d.text.reports import organs_in

QuestionKind = Literal["yes_no", "location", "organ", "side", "count", "size", "modality", "open"]
KINDS: tuple[QuestionKind, ...] = get_args(QuestionKind)
NONE = "none"
NOT_IN_VIEW = "not in the field of view"
RELATIVE_TOLERANCE = 0.1
"""Of a number whose question names no tolerance."""

_TELL = (
    r"tell|state|report|specify|indicate|show me|point|give|describe|name|count|enumerate|locali[sz]e|locate|measure|"
    r"list|estimate|calculate|compute|quantify|quote|summari[sz]e|outline|characteri[sz]e|comment|detail|explain|provide|"
    r"supply|check|confirm|verify|(?:walk|run|talk) me|determine|work out|let (?:me|us) know|"
    r"identify (?:the|which|what|where)"
)
_POLITE = re.compile(
    r"^(?:may i ask (?:you )?(?:for )?|(?:can|could|may) (?:i|we) (?:please )?(?:get|have) |"
    rf"(?:please )?(?:(?:can|could|would|will|might|may) you (?:please |kindly )?)?(?=(?:{_TELL})\b))"
)
_REFUSED = re.compile(r"^\w+(?: \w+)? can(?:not|'t) (?:be )?(?:answer|measure|tell|say|determine|assess)\w*\b")
_OUTSIDE = re.compile(
    r"\bnot (?:in|within|inside|included in|covered by|part of|visible in)(?: \w+)? "
    r"(?:field of view|fov|scan(?:ned)?|image[ds]?|view|range|region|volume)\b|"
    r"\b(?:outside|out|beyond) (?:of )?(?:the )?(?:field of view|fov|view|scan\w*|image[ds]?)\b|"
    r"\bnot (?:included|covered|imaged|scanned|in view)\b",
    re.I,
)
_YES = re.compile(
    r"^(?:yes|yeah|yep|true|correct|present|positive|indeed|affirmative)\b|"
    r"^(?:it is|they are|there (?:is|are)(?: one)?)$"
)
_NO = re.compile(
    r"^(?:no|nope|none|false|absent|negative|incorrect|not (?:present|seen|visible|detected|observed|there)|never|"
    r"there (?:is|are) (?:no|none|not)|it is not|they are not|neither)\b"
)
_DENIAL = re.compile(
    r"^(?:no|none|neither|nowhere|nothing|absent|zero)\b|^(?:there (?:is|are|was|were) (?:no|none|not|nothing))\b|"
    r"\bnot (?:present|seen|visible|detected|observed|there|identified|found)\b|\b(?:is|are) absent\b",
    re.I,
)
_NUMBER_WORDS = {
    "zero": 0, "no": 0, "none": 0, "nil": 0, "a": 1, "an": 1, "one": 1, "single": 1, "solitary": 1, "once": 1, "two": 2,
    "both": 2, "pair": 2, "couple": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15, "sixteen": 16,
    "seventeen": 17, "eighteen": 18, "nineteen": 19, "twenty": 20,
}  # fmt: skip
_VAGUE = re.compile(
    r"\b(?:several|multiple|many|few|some|numerous|about|approximately|around|at least|or|to|more than)\b"
)
_MODALITIES = (
    ("ct", r"\bct\b|\bcomputed tomograph\w*|\bcat scan\b"),
    ("pet", r"\bpet\b|\bpositron emission\w*|\bfdg\b"),
    ("mr", r"\bmri?\b|\bmagnetic resonance\b"),
    ("us", r"\bultraso\w+|\bsonogra\w+"),
    ("xr", r"\bx-?ray\w*|\bradiograph\w*"),
)  # fmt: skip
_UNITS = {"size": "mm", "volume": "ml", "z": "mm", "hu": "HU"}


class QuestionError(Vol3dError):
    """A question or its true answer that cannot be used."""


@dataclass(frozen=True)
class Verdict:
    """An answer judged."""

    right: bool
    score: float
    """1 or 0; for open questions the F1 of the findings named."""
    given: str | None
    expected: str
    """Normal forms."""
    made_up: bool
    """The truth is that it is not there (or not in view), and the answer speaks of it as if it were."""


def question_kind(question: str) -> QuestionKind:
    """What a question asks for; a question that fits nothing else is open.

    Raises:
        QuestionError: no words.
    """
    text = plainly(question.lower()).strip(" ?.!")
    if not re.search(r"\w", text):
        raise QuestionError(f"expected a question in words, found {question!r}")
    text = _POLITE.sub("", text)
    for kind, pattern in _kinds():
        if pattern.search(text) or (kind == "size" and (figure_in(text) or not_measured(text))):
            if kind in ("size", "count") and re.match(r"(?:is|are|was|were|does|do|has|have|can) ", text):
                continue  # "is the size of the heart normal?"
            return kind
    named = meaning_of(text)  # "Calcified nodule in the right lung?"
    return "yes_no" if named is not None and not re.search(r"\b(?:finding|abnormalit)", text) else "open"


@cache
def _kinds() -> tuple[tuple[QuestionKind, re.Pattern[str]], ...]:
    """Of `vocabulary/kinds.yaml`, in its order."""
    table = yaml.safe_load((files("vol3d.text") / "vocabulary" / "kinds.yaml").read_text())
    return tuple((kind, re.compile("|".join(ways), re.I)) for kind, ways in table.items())


def normalise(answer: str, kind: QuestionKind) -> str | None:
    """The normal form of an answer to a question of a kind; None if it cannot be read, says two things or refuses."""
    text = " ".join(answer.lower().split()).strip(" .!\"'")
    if not text or "?" in text or _REFUSED.match(text):
        return None
    if _OUTSIDE.search(text):
        return NOT_IN_VIEW
    return {
        "yes_no": _yes_no, "location": _location, "organ": _organ, "side": _side, "count": _count, "size": _size,
        "modality": _modality, "open": _open,
    }[kind](text)  # fmt: skip


def score_answer(given: str, expected: str, kind: QuestionKind, tolerance: float | None = None) -> Verdict:
    """Whether an answer is right.

    Args:
        given: as the model wrote it.
        expected: the true answer.
        kind: of the question.
        tolerance: absolute, in the unit of the true answer (mm, ml, SUV), for numbers; 10% of it by default.

    Raises:
        QuestionError: the true answer itself has no normal form for this kind.
    """
    truth = normalise(expected, kind)
    if truth is None:
        raise QuestionError(
            f"expected a true answer that can be read as {kind}, found {expected!r}; correct the manifest"
        )
    mine = normalise(given, kind)
    special = truth in (NONE, NOT_IN_VIEW) or mine in (NONE, NOT_IN_VIEW)
    if kind == "open" and mine is not None and not special:
        score = _finding_f1(mine, truth)
    elif kind == "size" and not special:
        score = float(_close(given, expected, tolerance))
    else:
        score = float(mine == truth)
    gone = truth in (NONE, NOT_IN_VIEW) or (kind, truth) in (("yes_no", "no"), ("count", "0"))
    denied = mine is None or mine in (NONE, NOT_IN_VIEW) or (kind, mine) in (("yes_no", "no"), ("count", "0"))
    return Verdict(score == 1.0, score, mine, truth, gone and not denied)


def _yes_no(text: str) -> str | None:
    if _NO.match(text):
        return "no"
    if re.match(r"(?:possibly|perhaps|maybe|uncertain|unclear|cannot|can't|not sure|probably|likely)\b", text):
        return None
    if _YES.match(text):
        return "yes"
    said = {m.status for m in find_mentions(text)}  # a sentence in place of the word
    if said == {"present"}:
        return "yes"
    if said == {"absent"} or (not said and _DENIAL.search(text)):
        return "no"
    return "yes" if not said and re.match(r"there (?:is|are) (?:an?|one|some)\b", text) else None


def _side(text: str) -> str | None:
    if side := laterality(text):
        return side
    if re.fullmatch(r"[lr]\.?", text):
        return "left" if text[0] == "l" else "right"
    if re.search(r"\b(?:midline|central|middle)\b", text):
        return "midline"
    return NONE if _DENIAL.search(text) else None


def _organ(text: str) -> str | None:
    named = sorted({organ for _, _, organ in organs_in(text)})
    if _DENIAL.search(text):
        return NONE
    return "; ".join(named) if named and not re.search(r"\bor\b", text) else None


def _location(text: str) -> str | None:
    """Organs with their sides, sorted: "left and right lung, liver" is "liver; lung left; lung right"."""
    if _DENIAL.search(text):
        return NONE
    if re.search(r"\bor\b", text):
        return None
    places: set[str] = set()
    waiting: list[str] = []  # sides whose organ comes later: "left and right lung"
    for part in re.split(r"[,;]|\band\b", text):
        side = laterality(part)
        sides = list(SIDES) if side == "bilateral" else [side] if side else []
        organs = sorted({organ for _, _, organ in organs_in(part)})
        if not organs:
            waiting += sides
        for organ in organs:
            places |= {f"{organ} {s}" for s in [*waiting, *sides]} or {organ}
        if organs:
            waiting = []
    return "; ".join(sorted(places)) if places else None


def _count(text: str) -> str | None:
    for q in reversed(quantities(text)):  # "two nodules of 5 mm"
        text = text[: q.start] + " " * (q.end - q.start) + text[q.end :]
    if _VAGUE.search(text):
        return None
    digits = {int(d) for d in re.findall(r"(?<![\w.,])\d{1,3}(?![\w%]|[.,]\d)", text)}
    words = re.findall(r"[a-z]+", text)
    strong = {_NUMBER_WORDS[w] for w in words if w in _NUMBER_WORDS and w not in ("a", "an", "both", "no", "single")}
    weak = {_NUMBER_WORDS[w] for w in words if w in ("a", "an", "both", "no", "single")}
    for found in (digits | strong, weak):
        if len(found) == 1:
            return str(found.pop())
        if found:
            return None
    return None


def _size(text: str) -> str | None:
    number = _number(text)
    if number is not None:
        unit = _UNITS.get(number.kind, "")
        values = " x ".join(f"{v:g}" for v in number.values)
        return f"{values} {unit}" if unit else f"{number.kind} {values}"
    if _DENIAL.search(text):
        return NONE
    plain = re.fullmatch(r"(?:about |approximately )?(\d+(?:\.\d+)?)", text)
    return f"suv {plain[1]}" if plain else None


def _number(text: str) -> Quantity | None:
    """The one quantity of a text; None if there is none, a range, or several. A slice or z counts only by itself."""
    told = quantities(text)
    kinds = [[q for q in told if q.kind not in ("slice", "z")], [q for q in told if q.kind == "slice"], told]
    found = next((rows for rows in kinds if rows), [])
    if len(found) != 1 or found[0].is_range or re.search(r"\b(?:or|and|to)\b", text[found[0].start : found[0].end]):
        return None
    return found[0]


def _close(given: str, expected: str, tolerance: float | None) -> bool:
    truth, mine = _number(expected), _number(given)
    if truth is None:
        raise QuestionError(f"expected one number with its unit as the true answer, found {expected!r}")
    values = mine.values if mine else ()
    if mine is None and truth.kind.startswith("suv"):  # SUV has no unit to name
        plain = re.fullmatch(r"\s*(?:about |approximately )?(\d+(?:\.\d+)?)\s*\.?\s*", given.lower())
        values = (float(plain[1]),) if plain else ()
    elif mine is not None and mine.kind != truth.kind and not {mine.kind, truth.kind} <= {"suv", "suv_max"}:
        return False
    if not values:
        return False
    if len(truth.values) == 1:
        values = (max(values),)  # the longest diameter of "12 x 8 mm"
    if len(values) != len(truth.values):
        return False
    pairs = zip(sorted(values), sorted(truth.values), strict=True)
    return all(abs(a - b) <= (RELATIVE_TOLERANCE * abs(b) if tolerance is None else tolerance) + 1e-9 for a, b in pairs)


def _modality(text: str) -> str | None:
    named = [name for name, pattern in _MODALITIES if re.search(pattern, text)]
    return "+".join(named) if named and not re.search(r"\bor\b|\bnot\b", text) else None


def _open(text: str) -> str | None:
    labels = label_findings(text)
    stated = [name for name in finding_names() if labels[name]]
    return "; ".join(stated) if stated else NONE


def _finding_f1(given: str, expected: str) -> float:
    mine, truth = set(given.split("; ")), set(expected.split("; "))
    return 2 * len(mine & truth) / (len(mine) + len(truth))

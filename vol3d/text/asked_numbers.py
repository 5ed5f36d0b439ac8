"""What a question says about numbers: limits ("larger than 10 mm", "only one"), a rank ("second largest"), sums.

By rule, like everything that reads questions. What is understood is taken out of the question, so that what remains
names the thing alone ("Is there a nodule in the right lung?"); what is not understood stays in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from vol3d.text.figures import Figure, figure_in, not_measured
from vol3d.text.limits import FIGURE, THING, Limit, take_count, take_limits, without
from vol3d.text.questions import question_kind

_OWNER = re.compile(rf"(?:\b(?:the|an?)\s)?\b{FIGURE}\s(?:of|for)\s(?=the\b|an?\b|all\b|any\b|\w)", re.I)
_NTH = {"second": 1, "2nd": 1, "third": 2, "3rd": 2, "fourth": 3, "4th": 3, "fifth": 4, "5th": 4}
_RANK = re.compile(
    rf"\b(?:(?P<nth>{'|'.join(_NTH)})[ -])?(?:(?P<high>largest|biggest|greatest|longest)|"
    r"(?P<low>smallest|tiniest|shortest)|(?P<hot>hottest|most\s(?:fdg-|tracer-)?avid|most\s(?:metabolically\s)?active|most\shypermetabolic))"
    rf"(?:\sone)?(?:\sof\s(?:all\s)?(?:the\s)?|\s)(?!{FIGURE}\b)(?=\w)",
    re.I,
)
_BOTH = re.compile(
    r"\bboth\s(?:of\s)?(?:the\s|his\s|her\s)?|\beach\s(?=lung|kidney|breast|adrenal)|\bbilateral(?:ly)?\b|"
    r"\b(?:on|in)\s(?:each|both)\ssides?\b",
    re.I,
)
_TOTAL = re.compile(r"\b(?:total(?!\slesion\sglyc)|combined|summed|sum|overall|cumulative|altogether)\b", re.I)
_ALL = re.compile(
    r"^(?:is|are|do|does|have|has)\s(?:all|each|every)\b|"
    rf"^(?:is|are|do|have)\sthe\s(?:[\w-]+\s){{0,3}}?(?=\w*s\b){THING}(?!\w)",
    re.I,
)
_OF_ALL = re.compile(
    r"^(?:is|are|was|were|do|does|have|has)\s(?:(?:almost|nearly|not)\s)?(?:all|each|every|most|half|the\smajority|none|neither|some)\b"
    r"(?!\s(?:lung|kidney)s?\b)",
    re.I,
)
_COMPARES = re.compile(r"\bthan\b|\b(?:larger|bigger|smaller|greater|fewer|hotter|twice)\b|\bas\s(?:large|big)\b", re.I)
_DEFINITE = re.compile(
    rf"^(?:is|are|was|were|do|does|have|has)\s(?:the|this|that|these|those)\s"
    rf"(?:(?!an?\b|any\b|contain|show|ha[sv]e?\b|hold)[\w-]+\s){{0,4}}?{THING}\b",
    re.I,
)


@dataclass(frozen=True, kw_only=True)
class NumbersAsked:
    """What a question says about numbers."""

    rest: str
    """The question without it."""
    figure: Figure | None = None
    """What it asks for."""
    limits: tuple[Limit, ...] = ()
    """Each thing must keep all of them."""
    count: Limit | None = None
    """How many must be there, of those that keep the limits."""
    rank: int | None = None
    """0 is the largest, 1 the second largest, -1 the smallest."""
    hottest: bool = False
    """The rank is by SUVmax, not by size."""
    total: bool = False
    both: bool = False
    """Both sides must have one."""
    every: bool = False
    """All of them must keep the limits."""
    definite: bool = False
    """ "The lesion": one is meant."""
    trouble: str = ""
    """Why it cannot be answered: a figure that nobody measures, a comparison without a number or a unit."""

    @property
    def plain(self) -> bool:
        """Whether a yes or no says only whether something is there."""
        return not (self.limits or self.count or self.both or self.rank is not None)


@lru_cache(maxsize=16384)
def numbers_asked(question: str) -> NumbersAsked:
    """Reads a question: no model does.

    Raises:
        QuestionError: no words.
    """
    text = " ".join(question.split()).strip(" ?.!")
    kind, figure, missing = question_kind(text), figure_in(text), not_measured(text)
    rest, limits, trouble = take_limits(text, figure)
    if missing and (kind == "size" or limits or trouble):
        trouble = f"{missing} is not measured"
    rest, rank, hottest = _rank(rest)
    if rank is not None and kind == "size" and figure is None:
        figure = "suv_max" if hottest else "size"
    out = NumbersAsked(
        rest=rest, figure=figure, limits=limits, rank=rank, hottest=hottest, total=bool(_TOTAL.search(text)),
        trouble=trouble,
    )  # fmt: skip
    return _yes_no(out) if kind == "yes_no" else out


def _yes_no(out: NumbersAsked) -> NumbersAsked:
    """The same, with what only a yes or no question says: how many, both sides, one or all."""
    rest, count = take_count(out.rest)
    both = _BOTH.search(rest) is not None
    rest = _BOTH.sub(lambda m: "the " if m.group().lower().startswith(("both", "each")) else "", rest)
    rest = " ".join((_OWNER.sub("", rest) if out.limits else rest).split())
    trouble = out.trouble or ("it asks for a number on each of several sides" if both and count else _trouble(rest))
    if not trouble and not out.limits and _OF_ALL.search(rest):
        trouble = "it asks how many of them look so; ask about one, or for a count"
    every, definite = bool(_ALL.search(rest)), bool(_DEFINITE.search(rest))
    return replace(out, rest=rest, count=count, both=both, every=every, definite=definite, trouble=trouble)


def _trouble(rest: str) -> str:
    """What of a comparison was not understood."""
    if figure_in(rest) is not None and _OWNER.search(rest):
        return "it gives no number to compare with"
    if _COMPARES.search(rest):
        unit = re.search(r"\b(?:than|least|most)\s\d", rest)
        return "it gives no unit" if unit else "it compares with something that is no number"
    return ""


def _rank(text: str) -> tuple[str, int | None, bool]:
    found = _RANK.search(text)
    if found is None:
        return text, None, False
    nth = _NTH.get((found["nth"] or "").lower(), 0)
    return without(text, found), -1 - nth if found["low"] else nth, bool(found["hot"])

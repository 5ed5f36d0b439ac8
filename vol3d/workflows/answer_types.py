"""An answer and what it rests on; what is said where there is none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from vol3d.text.questions import QuestionKind
from vol3d.text.slots import SLOT
from vol3d.text.statements import loose_numbers
from vol3d.workflows.lesions import Lesion

Source = Literal["measurement", "segmentation", "header", "writer", "none"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer and what it rests on."""

    question: str
    kind: QuestionKind
    phrase: str | None
    """What it is about, as it was segmented."""
    text: str
    source: Source
    """``none``: it cannot be answered, and `text` says so."""
    reason: str = ""
    probability: float | None = None
    """That what the question is about is there."""
    drafted: str | None = None
    """What the checkpoint's writer wrote, where it has one."""
    lesions: tuple[Lesion, ...] = ()


class CannotAnswer(Exception):  # noqa: N818
    """Why there is no answer; caught where answers are made, never shown as an error."""


class CannotMeasure(CannotAnswer):
    """Why a number cannot be had."""


def refused(blank: Answer, why: CannotAnswer | str) -> Answer:
    """No answer, whatever the writer says: nothing in the image could tell."""
    verb = "measured" if isinstance(why, CannotMeasure) else "answered"
    return replace(blank, text=f"That cannot be {verb}: {why}.", source="none", reason=str(why), lesions=())


def unchecked(blank: Answer, reason: str) -> Answer:
    """The writer's answer where it holds no number, marked; else that there is none."""
    drafted = blank.drafted
    if drafted and not SLOT.search(drafted) and not loose_numbers(drafted):
        return replace(blank, text=drafted, source="writer", reason=f"not checked: {reason}")
    return replace(blank, text=f"This checkpoint cannot answer that: {reason}.", source="none", reason=reason)

"""What comes between a writer and the image: drafted sentences with slots, not yet checked against any mask.

A `Writer` is the language decoder of a checkpoint (`vol3d.workflows.reading`), or, where there is none, templates
(`vol3d.workflows.template_writer`). Its sentences are claims. `vol3d.workflows.ground` looks for what each names and
decides what may be printed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from vol3d.cache import Entry


@dataclass(frozen=True, kw_only=True)
class Context:
    """What is known besides the image; None where it is not."""

    indication: str | None = None
    """Why the study was made."""
    comparison: str | None = None
    """Which earlier studies there are."""
    prior_report: str | None = None
    """Text of the earlier report, as it was printed."""


@dataclass(frozen=True)
class Draft:
    """One sentence as a writer put it."""

    section: str
    """Lower case: an organ section such as ``lungs``, or ``impression``."""
    sentence: str
    """Without numbers: slots of `vol3d.text.slots`, counted within the sentence from 1 for each kind
    (``<size_1>``, ``<suv_max_1>``)."""
    log_probability: float | None = None
    """Sum over the sentence's tokens; None from a writer that has none."""
    claim: Literal["present", "absent", "outside"] | None = None
    """What is claimed of `phrases`, from a writer that knows; None: it is read from the words."""
    phrases: tuple[str, ...] = ()
    """What is asked of the image in place of the sentence's own words; needed with `claim`."""
    at_mm: tuple[float, float, float] | None = None
    """World (x, y, z) of the thing meant, from a writer that knows which of several it is."""


class Writer(Protocol):
    """Anything that drafts reports and answers."""

    def write_report(self, entry: Entry, context: Context) -> list[Draft]:
        """Sentences in the order in which they are to be printed, those of ``impression`` last."""
        ...

    def write_answers(self, entry: Entry, questions: Sequence[str], context: Context) -> list[str]:
        """Answer templates: "yes", "left", "<size_1>", "SUVmax <suv_max_1>", "There is no such lesion."."""
        ...

"""Which claim of a report is about which lesion: one for one, by place, uptake, density and size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from vol3d.metrics.report_claims import LESION, Claim

Counts = tuple[int, int, int]
"""True positives, false positives, false negatives."""


@dataclass(frozen=True)
class SizeTolerance:
    """A stated diameter is right within the larger of the two."""

    mm: float = 6.0
    """Two voxels of 3 mm."""
    share: float = 0.2

    def holds(self, stated_mm: float, true_mm: float) -> bool:
        """Whether the two agree."""
        return abs(stated_mm - true_mm) <= max(self.mm, self.share * true_mm) + 1e-9


@dataclass(frozen=True, kw_only=True)
class Truth:
    """One finding of the structured truth; None is not known."""

    id: str
    kind: str
    organ: str | None
    side: str | None
    present: bool
    uptake: str | None = None
    density: str | None = None
    size: str | None = None
    diameter_mm: float | None = None

    @property
    def place(self) -> str:
        """Where it is, and what, if it is no focal lesion: "left lung", "pleural_effusion right pleura"."""
        kind = () if self.kind == LESION else (self.kind,)
        return " ".join((*kind, *(w for w in (self.side, self.organ) if w)))


_Sized = TypeVar("_Sized", Claim, Truth)


def without_size(things: Iterable[_Sized]) -> list[_Sized]:
    """The same, of no known size: for drafts, whose numbers are slots, so that none is asked of them."""
    return [replace(thing, size=None, diameter_mm=None) for thing in things]


def same_thing(claim: Claim, kind: str, organ: str | None) -> bool:
    """Whether a claim and a truth may be about one thing; the label of another finding holds its organ."""
    if claim.kind != kind:
        return False
    return kind != LESION or claim.organ == organ or claim.organ is None


def match_lesions(
    claims: Sequence[Claim], lesions: Sequence[Truth], tolerance: SizeTolerance
) -> tuple[dict[str, Counts], dict[str, bool]]:
    """One claim for one lesion; a claim that fits a lesion but leaves something open is no fault, and does not find it.

    A claim of an untold number of lesions may stand for every one that it fits.
    """
    fit_CT = np.array([[_fit(c, t, tolerance) for t in lesions] for c in claims]).reshape(len(claims), len(lesions))
    found, innocent = set[int](), set[int]()
    for i, j in zip(*linear_sum_assignment(-fit_CT), strict=True):
        if fit_CT[i, j] > 0:
            innocent.add(int(i))
            found |= {int(j)} if fit_CT[i, j] >= _COMPLETE else set()
    for i, claim in enumerate(claims):
        if claim.many and (fit_CT[i] > 0).any():
            innocent.add(i)
            found |= {int(j) for j in np.flatnonzero(fit_CT[i] >= _COMPLETE)}
    counts: dict[str, Counts] = {}
    for j, lesion in enumerate(lesions):
        _add(counts, lesion.place, (int(j in found), 0, int(j not in found)))
    for i, claim in enumerate(claims):
        if i not in innocent:
            place = Truth(
                id="", kind=claim.kind, organ=claim.organ, side=_side_known(claim, lesions), present=True
            ).place
            _add(counts, place, (0, 1, 0))
    return counts, {t.id: j in found for j, t in enumerate(lesions)}


def _side_known(claim: Claim, lesions: Sequence[Truth]) -> str | None:
    """Sides of an organ that the truth does not tell apart are left out, so that places have one name."""
    sided = [t for t in lesions if t.organ == claim.organ]
    return None if sided and all(t.side is None for t in sided) else claim.side


_COMPLETE = 1000.0


def _fit(claim: Claim, truth: Truth, tolerance: SizeTolerance) -> float:
    """0 if they contradict, from `_COMPLETE` on if the claim states all that is known; more for closer diameters."""
    if not same_thing(claim, truth.kind, truth.organ):
        return 0.0
    pairs = [
        (claim.organ, truth.organ), (claim.uptake, truth.uptake), (claim.density, truth.density),
        (None if claim.side == "bilateral" else claim.side, truth.side),
    ]  # fmt: skip
    if truth.kind != LESION:
        pairs = pairs[3:]
    if any(
        said is not None and known is not None and said != known for said, known in [*pairs, (claim.size, truth.size)]
    ):
        return 0.0
    measured = claim.diameter_mm is not None and truth.diameter_mm is not None
    if measured and not tolerance.holds(claim.diameter_mm or 0.0, truth.diameter_mm or 0.0):
        return 0.0
    open_ones = sum(said is None and known is not None for said, known in pairs)
    sized = claim.diameter_mm is not None or claim.size is not None
    needs_size = truth.kind == LESION and (truth.diameter_mm is not None or truth.size is not None)
    if open_ones or (needs_size and not sized):
        return 10.0 - open_ones
    apart = abs((claim.diameter_mm or 0.0) - (truth.diameter_mm or 0.0)) if measured else 50.0
    return _COMPLETE + 100.0 / (1.0 + apart)


def merged(stated: Sequence[Claim]) -> list[Claim]:
    """Claims of the findings, and those of the impression that add a lesion: as a rule it repeats them."""
    first = [c for c in stated if c.section != "impression"]
    again = [c for c in stated if c.section == "impression"]
    if not first or not again:
        return [*first, *again]
    same_AF = np.array([[_repeats(a, f) for f in first] for a in again])
    new = set(range(len(again)))
    for i, j in zip(*linear_sum_assignment(-same_AF), strict=True):
        if same_AF[i, j] > 0:
            new.discard(int(i))
            first[j] = _filled(first[j], again[i])
    new -= {i for i in new if again[i].many and (same_AF[i] > 0).any()}
    return [*first, *(again[i] for i in sorted(new))]


def _repeats(again: Claim, first: Claim) -> float:
    """How surely two claims speak of one lesion; 0 if they contradict each other."""
    if again.kind != first.kind:
        return 0.0
    names = ("organ", "side", "uptake", "density", "size")
    pairs = [(getattr(again, n), getattr(first, n)) for n in names]
    if any(a is not None and b is not None and a != b for a, b in pairs):
        return 0.0
    alike = 1.0 + sum(a is not None and a == b for a, b in pairs)
    if again.diameter_mm is not None and first.diameter_mm is not None:
        apart = abs(again.diameter_mm - first.diameter_mm)
        return alike + 10.0 / (1.0 + apart) if apart <= max(1.0, 0.1 * first.diameter_mm) else 0.0
    return alike


def _filled(claim: Claim, other: Claim) -> Claim:
    names = ("organ", "side", "uptake", "density", "size", "diameter_mm", "suv_max")
    return replace(claim, **{n: getattr(other, n) for n in names if getattr(claim, n) is None})


def _add(counts: dict[str, Counts], name: str, more: Counts) -> None:
    tp, fp, fn = counts.get(name, (0, 0, 0))
    counts[name] = (tp + more[0], fp + more[1], fn + more[2])

"""Masks from report sentences: the lesion on the native PET that a sentence's SUVmax and slice mean, or why none.

After ConTEXTual Net 3D (arXiv 2502.00528), which mined 11,356 sentence-mask pairs this way. Refuses rather than
guesses: a label is given only if exactly one lesion fits the sentence under the study's way of counting slices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from preprocessing.weak_labels_checks import Organs, why_not
from preprocessing.weak_labels_match import NEAR_SLICES, Peaks
from preprocessing.weak_labels_region import Growth, Region
from preprocessing.weak_labels_slices import DIRECTIONS, Direction, Numbering, Series
from preprocessing.weak_labels_text import Claim, Refusal, SeriesName, claims
from vol3d.errors import GeometryError
from vol3d.volume import Volume


@dataclass(frozen=True, eq=False)
class Label:
    """One sentence and its lesion."""

    claim: Claim
    region: Region
    numbering: Numbering
    exact: bool
    """False if the lesion's own SUVmax is a little above the claim's: its hottest voxels lie outside what was read."""


@dataclass
class StudyLabels:
    """What the sentences of one study's report gave."""

    labels: list[Label] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    directions: dict[SeriesName, Direction | None] = field(default_factory=dict)
    """How each series' slices are counted in the report; None where the sentences do not tell."""


_NO_ORGANS = Organs({}, lambda name: np.zeros((0, 0, 0), bool))
_AMBIGUOUS = (
    "the slice means one lesion counted from one end of the series and another counted from the other end, and no "
    "other sentence tells which"
)


def label_study(
    pet: Volume,
    report: Mapping[str, str],
    series: Mapping[SeriesName, Series],
    *,
    organs: Organs = _NO_ORGANS,
    growth: Growth | None = None,
    tracer: str | None = None,
) -> StudyLabels:
    """Every sentence of a report that states an SUV, as a label or a refusal.

    Args:
        pet: SUVbw on the scanner's own grid.
        report: texts by section.
        series: numbered series of the study, ``pet`` at least: `weak_labels_slices.series_of`.
        organs: masks that confirm or contradict a place.
        growth: how regions are grown.
        tracer: where the report names none.

    Raises:
        GeometryError: the volume is no PET, or `series` has none.
    """
    if pet.modality != "pet" or "pet" not in series:
        raise GeometryError(f"expected a PET (SUVbw) and its series, found {pet.modality!r} and {sorted(series)}")
    out = StudyLabels()
    found = claims(report, tracer)
    out.refusals = [c for c in found if isinstance(c, Refusal)]
    peaks = Peaks(pet, series, growth or Growth())
    search = _Search(peaks, organs)
    for name, group in _by_series([c for c in found if isinstance(c, Claim)], series, search).items():
        direction = _direction(group, name, search)
        out.directions[name] = direction
        for claim in group:
            answer = search.label(claim, name, direction)
            (out.labels if isinstance(answer, Label) else out.refusals).append(answer)  # type: ignore[arg-type]
    order = {id(c): i for i, c in enumerate(found)}
    out.labels.sort(key=lambda label: order[id(label.claim)])
    return out


@dataclass(eq=False)
class _Search:
    """Looks a claim up under a numbering, each once."""

    peaks: Peaks
    organs: Organs
    _seen: dict[tuple[int, Numbering], tuple[list[Region], list[str]]] = field(default_factory=dict)

    def fitting(self, claim: Claim, numbering: Numbering) -> tuple[list[Region], list[str]]:
        """Lesions that fit, and why others do not."""
        key = (id(claim), numbering)
        if key not in self._seen:
            found, reasons = self.peaks.lesions(claim, numbering)
            self._seen[key] = self._checked(found, claim, reasons)
        return self._seen[key]

    def label(self, claim: Claim, name: SeriesName, direction: Direction | None) -> Label | Refusal:
        """The one lesion of a claim, or why there is none."""
        if direction is None:
            both = [self.fitting(claim, Numbering(name, d))[0] for d in DIRECTIONS]
            if not _same(*both):
                return Refusal(claim.sentence, _AMBIGUOUS)
        numbering = Numbering(name, direction or "as stored")
        found, reasons = self.fitting(claim, numbering)
        if len(found) == 1:
            return Label(claim, found[0], numbering, exact=True)
        if not found:
            found, more = self._checked(self.peaks.beside(claim, numbering), claim, [])
            if len(found) == 1:
                return Label(claim, found[0], numbering, exact=False)
            reasons = reasons + more
        if found:
            places = "; ".join(", ".join(f"{v:.0f}" for v in self._mm(r)) for r in found)
            return Refusal(claim.sentence, f"{len(found)} lesions fit, at (x, y, z) mm {places}")
        return Refusal(claim.sentence, "; ".join(dict.fromkeys(reasons)) or _none_near(claim))

    def _checked(self, found: list[Region], claim: Claim, reasons: list[str]) -> tuple[list[Region], list[str]]:
        against = [why_not(region, claim, self.peaks.pet, self.organs) for region in found]
        fit = [region for region, reason in zip(found, against, strict=True) if reason is None]
        return fit, reasons + [reason for reason in against if reason is not None]

    def _mm(self, region: Region) -> list[float]:
        return list(self.peaks.pet.grid.index_to_mm(region.seed))


def _by_series(
    found: list[Claim], series: Mapping[SeriesName, Series], search: _Search
) -> dict[SeriesName, list[Claim]]:
    """Claims by the series that they count in. A bare "slice 31" is the PET's, on which SUV is read; the CT's only if
    no bare claim fits the PET either way and at least two fit the CT."""
    out: dict[SeriesName, list[Claim]] = {}
    bare = [c for c in found if c.z_mm is None and (c.series is None or c.series not in series)]
    home: SeriesName = "pet"
    if "ct" in series and len(bare) > 1 and not any(_fit_count(bare, "pet", search)):
        home = "ct" if max(_fit_count(bare, "ct", search)) > 1 else "pet"
    for claim in found:
        name = home if claim in bare else claim.series if claim.series in series and claim.z_mm is None else "pet"
        out.setdefault(name or "pet", []).append(claim)
    return out


def _direction(group: Sequence[Claim], name: SeriesName, search: _Search) -> Direction | None:
    """The direction of counting under which more sentences find a lesion; None if that leaves two answers."""
    stored, turned = _fit_count(group, name, search)
    if stored != turned:
        return "as stored" if stored > turned else "reversed"
    same = all(_same(*(search.fitting(c, Numbering(name, d))[0] for d in DIRECTIONS)) for c in group)
    return "as stored" if same else None


def _fit_count(group: Sequence[Claim], name: SeriesName, search: _Search) -> tuple[int, int]:
    counts = [sum(bool(search.fitting(c, Numbering(name, d))[0]) for c in group) for d in DIRECTIONS]
    return counts[0], counts[1]


def _same(one: list[Region], other: list[Region]) -> bool:
    return {r.seed for r in one} == {r.seed for r in other}


def _none_near(claim: Claim) -> str:
    numbers = "-".join(map(str, dict.fromkeys(claim.slices or ())))
    place = f"slice {numbers}" if claim.z_mm is None else f"z = {claim.z_mm:g} mm"
    return f"no lesion with SUVmax {claim.suv_max:g} within {NEAR_SLICES:g} slices of {place}"

"""Masks from report sentences: the lesion on the native PET that a sentence's SUVmax and slice mean, or why none.

After ConTEXTual Net 3D (arXiv 2502.00528), which mined 11,356 sentence-mask pairs this way. Refuses rather than
guesses: a label is given only if exactly one lesion fits the sentence under the study's way of counting slices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from preprocessing.weak_labels_checks import Organs, why_not
from preprocessing.weak_labels_match import NEAR_SLICES, Fit, Peaks
from preprocessing.weak_labels_region import Growth, Region
from preprocessing.weak_labels_slices import Numbering, Series
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
    numberings: dict[SeriesName, Numbering | None] = field(default_factory=dict)
    """How each series' slices are counted in the report; None where the sentences do not tell."""


_NO_ORGANS = Organs({}, lambda name: np.zeros((0, 0, 0), bool))
_AMBIGUOUS = (
    "the slice means one lesion counted one way and another counted the other way (from which end of the series?), and "
    "no other sentence tells which"
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
        numbering, rivals = _numbering(group, series[name].numberings(name), search)
        out.numberings[name] = numbering
        for claim in group:
            answer = search.label(claim, numbering, rivals)
            (out.labels if isinstance(answer, Label) else out.refusals).append(answer)  # type: ignore[arg-type]
    order = {id(c): i for i, c in enumerate(found)}
    out.labels.sort(key=lambda label: order[id(label.claim)])
    return out


@dataclass(eq=False)
class _Search:
    """Looks a claim up under a numbering, each once."""

    peaks: Peaks
    organs: Organs
    _seen: dict[tuple[int, Numbering], Fit] = field(default_factory=dict)

    def fit(self, claim: Claim, numbering: Numbering) -> Fit:
        """Lesions that fit the claim and its place."""
        key = (id(claim), numbering)
        if key not in self._seen:
            found = self.peaks.lesions(claim, numbering)
            regions, against = self._checked(found.regions, claim)
            self._seen[key] = Fit(regions, found.near, [*found.reasons, *against])
        return self._seen[key]

    def label(self, claim: Claim, numbering: Numbering | None, rivals: list[Numbering]) -> Label | Refusal:
        """The one lesion of a claim, or why there is none. `rivals` are the numberings that may be meant; without a
        second sentence that confirms the best one, those are all."""
        if numbering is None and not self.agree(claim, rivals):
            return Refusal(claim.sentence, _AMBIGUOUS)
        chosen = numbering or rivals[0]
        fit = self.fit(claim, chosen)
        doubted = rivals if fit.regions else [chosen]
        beside, against = self._checked([r for n in doubted for r in self.peaks.beside(claim, n)], claim)
        found = list(fit.regions)
        for region in beside:
            found += [region] if region.seed not in {other.seed for other in found} else []
        if len(found) == 1:
            return Label(claim, found[0], chosen, exact=bool(fit.regions))
        if found:
            places = "; ".join(", ".join(f"{v:.0f}" for v in self._mm(r)) for r in found)
            return Refusal(claim.sentence, f"{len(found)} lesions fit, at (x, y, z) mm {places}")
        return Refusal(claim.sentence, "; ".join(dict.fromkeys([*fit.reasons, *against])) or _none_near(claim))

    def agree(self, claim: Claim, rivals: list[Numbering]) -> bool:
        """Whether a claim means the same lesions under each numbering."""
        return len({frozenset(r.seed for r in self.fit(claim, n).regions) for n in rivals}) == 1

    def _checked(self, found: list[Region], claim: Claim) -> tuple[list[Region], list[str]]:
        against = [why_not(region, claim, self.peaks.pet, self.organs) for region in found]
        fit = [region for region, reason in zip(found, against, strict=True) if reason is None]
        return fit, [reason for reason in against if reason is not None]

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
    if "ct" in series and len(bare) > 1 and not _most(bare, "pet", series, search):
        home = "ct" if _most(bare, "ct", series, search) > 1 else "pet"
    for claim in found:
        name = home if claim in bare else claim.series if claim.series in series and claim.z_mm is None else "pet"
        out.setdefault(name or "pet", []).append(claim)
    return out


def _most(group: Sequence[Claim], name: SeriesName, series: Mapping[SeriesName, Series], search: _Search) -> int:
    return max(_fits(group, numbering, search)[1] for numbering in series[name].numberings(name))


def _numbering(
    group: Sequence[Claim], numberings: list[Numbering], search: _Search
) -> tuple[Numbering | None, list[Numbering]]:
    """The numbering under which most sentences find a lesion, near their slice if possible, and all that may be meant;
    None if several fit as well and answer differently. Where these answer alike, it is the documented one."""
    scores = [_fits(group, n, search) for n in numberings]
    best = [n for n, score in zip(numberings, scores, strict=True) if score == max(scores)]
    if not all(search.agree(c, best) for c in group):
        return None, best
    return best[0], best if max(scores)[0] > 1 else numberings


def _fits(group: Sequence[Claim], numbering: Numbering, search: _Search) -> tuple[int, int]:
    """How many claims find a lesion near their slice, and how many find any."""
    found = [fit for c in group if (fit := search.fit(c, numbering)).regions]
    return sum(fit.near for fit in found), len(found)


def _none_near(claim: Claim) -> str:
    numbers = "-".join(map(str, dict.fromkeys(claim.slices or ())))
    place = f"slice {numbers}" if claim.z_mm is None else f"z = {claim.z_mm:g} mm"
    return f"no lesion with SUVmax {claim.suv_max:g} within {NEAR_SLICES:g} slices of {place}"

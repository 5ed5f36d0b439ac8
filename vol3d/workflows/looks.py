"""What was found, sorted by whether it looks as the words say: density and uptake are measured, not believed.

A checkpoint asked for a "hyperdense lesion in the liver" may answer with any lesion there. So the plain thing is asked
for as well, every part is measured (`vol3d.appearance`), and those that do not look as said are set apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from vol3d.appearance import (
    AIR_HU,
    AROUND_MM,
    Appearance,
    around,
    core_of,
    judge_density,
    judge_uptake,
    organ_hu,
    organ_suv,
)
from vol3d.cache import Entry
from vol3d.checkpoint import Calibration
from vol3d.text.looks import plain_of, says_how_it_looks
from vol3d.text.reports import organs_in
from vol3d.text.statements import SideWord
from vol3d.text.things import FOCAL, NODE, families_in
from vol3d.types import Array, Zyx
from vol3d.workflows.evidence import Evidence, Part
from vol3d.workflows.found import overlaps, place_of
from vol3d.workflows.known import Known
from vol3d.workflows.scoring import Ask

REFUTED = 0.01
"""Probability of a phrase whose every part was measured to look otherwise."""

OWN_MASK = frozenset({"lung", "liver", "spleen", "kidney", "pancreas", "adrenal", "bladder", "gallbladder", "bone"})
"""Organs that the structures of `known.WITNESSES` are themselves, so that the tissue around a thing lies in them."""


@dataclass(frozen=True)
class Sorted:
    """Parts that a phrase finds, largest first."""

    fitting: list[Part]
    other: list[Part]
    """Things of the kind in the place that do not look as the phrase says."""


def plain_phrase(phrase: str) -> str | None:
    """What to ask besides a phrase that says how a lesion looks; None if it says nothing that is measured."""
    if not says_how_it_looks(phrase):
        return None
    plain = plain_of(phrase)
    names = families_in(plain) & {FOCAL, NODE} or re.search(r"\bfindings?\b", plain, re.I)
    return plain if plain != phrase and names else None


def sort_parts(phrase: str, side: SideWord, evidence: Evidence, known: Known) -> Sorted:
    """The parts of a phrase, and of the plain thing where the phrase says how it looks, by what they look like.

    Those whose most telling word is the one said keep out others of which it is true as well, if there are any: a
    calcified lesion is hyperdense too, and not meant where another is only that. What cannot be told fits if the phrase
    itself found it.
    """
    parts, plain = evidence.parts(phrase, side), plain_phrase(phrase)
    if plain is None or not known.hears:
        return Sorted(parts, [])
    more = [p for p in evidence.parts(plain, side) if not overlaps(p, parts)]
    looks = {p: appearance_of(p, evidence, known) for p in (*parts, *more)}
    fits = {p: looks[p].fits(phrase) for p in looks}
    sure = [p for p in looks if fits[p] and looks[p].called(phrase)]
    fitting = [*sure, *(p for p in parts if fits[p] is None)] if sure else [p for p in parts if fits[p] is not False]
    return Sorted(
        sorted(fitting, key=lambda p: -p.voxels),
        [p for p in looks if p not in fitting and (p in parts or fits[p] is False)],
    )


def ask_measured(
    ask: Ask, entry: Entry, phrases: list[str], known: Known, calibration: Calibration
) -> tuple[Array, Array]:
    """As the model says, but where a phrase says how a lesion looks: what does not look so is taken out of its mask,
    what does and was found by the plain phrase is put in, and the presence follows.

    The plain phrases, and those of what lies around, are asked in the same pass.

    Args:
        ask: the model.
        entry: the study.
        phrases: each once.
        known: what the model was trained on.
        calibration: its thresholds.

    Returns:
        probability_PZYX (uint8) and presence_P (logits), of the phrases.
    """
    plain = [p for phrase in phrases if (p := plain_phrase(phrase))]
    if not plain or not known.hears or calibration.scale <= 0:  # the last: it knows nothing of presence
        return ask(entry, phrases)
    asked = list(dict.fromkeys([*phrases, *plain, *phrases_near(known)]))
    probability_PZYX, presence_P = ask(entry, asked)
    evidence = Evidence(entry, ask, calibration)
    evidence.hear(asked, probability_PZYX, presence_P)
    found = {p: sort_parts(p, None, evidence, known) for p in phrases if plain_phrase(p)}
    for phrase, parts in found.items():
        row = asked.index(phrase)
        _keep(phrase, parts, probability_PZYX[row])
        if parts.fitting:
            presence_P[row] = max(presence_P[row], *(presence_P[asked.index(p.phrase)] for p in parts.fitting))
        elif parts.other:
            refuted = calibration.logit(min(REFUTED, calibration.presence_threshold / 2))
            presence_P[row] = min(presence_P[row], refuted)
    return probability_PZYX[: len(phrases)], presence_P[: len(phrases)]


def phrases_near(known: Known) -> list[str]:
    """What has to be asked to know what lies around a thing."""
    return [*(t.phrase for t in known.plain), *known.sites.values()]


def _keep(phrase: str, parts: Sorted, probability_ZYX: Array) -> None:
    """Takes out of the phrase's map, in place, what does not fit, and puts in what does."""
    if not parts.fitting and parts.other:
        probability_ZYX[:] = 0  # crumbs that are no parts too
    for part in parts.other:
        if part.phrase == phrase:
            probability_ZYX[part.window][part.probability_ZYX > 0] = 0
    for part in parts.fitting:
        if part.phrase != phrase:
            np.maximum(probability_ZYX[part.window], part.probability_ZYX, out=probability_ZYX[part.window])


def appearance_of(part: Part, evidence: Evidence, known: Known) -> Appearance:
    """Measured once for each part, on the common grid."""
    if part not in evidence.appearances:
        evidence.appearances[part] = _measured(part, evidence, known)
    return evidence.appearances[part]


def _measured(part: Part, evidence: Evidence, known: Known) -> Appearance:
    entry, grid = evidence.entry, evidence.entry.grid
    start, stop = _window(part, grid.shape, grid.spacing_mm)
    mask_ZYX = _pasted([part], start, stop)
    near_ZYX = ndimage.binary_dilation(_pasted(_others(part, evidence, known), start, stop))
    core_ZYX, shell_ZYX = core_of(mask_ZYX), around(mask_ZYX, grid.spacing_mm) & ~near_ZYX
    small = core_ZYX is None
    inner_ZYX = mask_ZYX if core_ZYX is None else core_ZYX
    organ = next((o for _, _, o in reversed(organs_in(part.phrase))), None) or place_of(part, known, evidence)[1]
    organ_ZYX = _organ_mask(part, organ, evidence, known, start, stop)
    found = Appearance()
    if "ct" in entry.images:
        ct_ZYX, seen_ZYX = entry.read("ct", start, stop), entry.coverage("ct", start, stop)
        if _mostly(seen_ZYX, inner_ZYX):
            hu = float(np.median(ct_ZYX[inner_ZYX & seen_ZYX]))
            around_hu = organ_hu(ct_ZYX, shell_ZYX & seen_ZYX, organ_ZYX, only_organ=organ in OWN_MASK - {"lung"})
            judged = judge_density(hu, around_hu, organ, small=small)
            found = replace(found, hu=hu, around_hu=around_hu, density=judged)
        shell_ZYX &= ct_ZYX > AIR_HU
    if "pet" in entry.images:
        pet_ZYX = entry.read("pet", start, stop)
        seen_ZYX = entry.coverage("pet", start, stop) & np.isfinite(pet_ZYX)
        if _mostly(seen_ZYX, inner_ZYX):
            suv = float(pet_ZYX[inner_ZYX & seen_ZYX].max())
            around_suv = organ_suv(pet_ZYX, shell_ZYX & seen_ZYX, organ_ZYX)
            found = replace(found, suv=suv, around_suv=around_suv, uptake=judge_uptake(suv, around_suv, organ))
    return found


def _mostly(seen_ZYX: Array, mask_ZYX: Array) -> bool:
    """Whether at least half of a mask was scanned: the rest is fill."""
    return bool(2 * np.count_nonzero(seen_ZYX & mask_ZYX) >= np.count_nonzero(mask_ZYX) > 0)


def _window(part: Part, shape: Zyx, spacing_mm: tuple[float, float, float]) -> tuple[Zyx, Zyx]:
    """The part's crop with room for the tissue around it."""
    reach = np.ceil(AROUND_MM[1] / np.array(spacing_mm)).astype(int)
    start, stop = np.maximum(np.array(part.start) - reach, 0), np.minimum(np.array(part.stop) + reach, shape)
    return (int(start[0]), int(start[1]), int(start[2])), (int(stop[0]), int(stop[1]), int(stop[2]))


def _others(part: Part, evidence: Evidence, known: Known) -> list[Part]:
    """Whatever else was found, and so is no healthy tissue."""
    phrases = [part.phrase, *(t.phrase for t in known.shown_by(evidence.entry.images))]
    evidence.ask(phrases)
    return [p for phrase in dict.fromkeys(phrases) for p in evidence.parts(phrase) if p is not part]


def _pasted(parts: list[Part], start: Zyx, stop: Zyx) -> Array:
    """bool, the crop start <= index < stop: members of any of the parts."""
    out_ZYX = np.zeros([b - a for a, b in zip(start, stop, strict=True)], bool)
    for part in parts:
        low = [max(a, b) for a, b in zip(part.start, start, strict=True)]
        high = [min(a, b) for a, b in zip(part.stop, stop, strict=True)]
        if all(a < b for a, b in zip(low, high, strict=True)):
            here = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, start, strict=True))
            there = tuple(slice(a - o, b - o) for a, b, o in zip(low, high, part.start, strict=True))
            out_ZYX[here] |= part.member_ZYX[there]
    return out_ZYX


def _organ_mask(part: Part, organ: str | None, evidence: Evidence, known: Known, start: Zyx, stop: Zyx) -> Array | None:
    """The organ's own mask in the crop; None where the checkpoint knows none, or does not see it."""
    places = known.places("", (organ,), evidence.side_of(part)) if organ in OWN_MASK else None
    evidence.ask(places or [])
    if not places or not all(evidence.likely(p) for p in places):
        return None
    where = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    return np.any([evidence.mask(p)[where] for p in places], axis=0)

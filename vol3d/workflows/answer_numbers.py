"""Answers out of measurements: the figure asked for, of the thing meant by rank, and comparisons with numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from vol3d.text.asked_numbers import Limit, NumbersAsked
from vol3d.text.figures import UPTAKE, Figure
from vol3d.text.organs import SIDES
from vol3d.text.slots import fill, slot_names
from vol3d.text.statements import loose_numbers
from vol3d.workflows.answer_types import Answer, CannotAnswer, CannotMeasure
from vol3d.workflows.evidence import Measurement
from vol3d.workflows.lesions import Lesion

NO_PET = "no PET, and only a PET can show it"
_SLOTS: dict[Figure, str] = {
    "size": "<size_1>", "short": "<size_1>", "mean": "<size_1>", "volume": "<volume_1>",
    "suv_max": "SUVmax <suv_max_1>", "suv_mean": "SUVmean <suv_mean_1>", "suv_peak": "SUVpeak <suv_peak_1>",
}  # fmt: skip
_NAMES: dict[Figure, str] = {"short": "short axis", "mean": "mean of long and short axis"}
_PLURAL = re.compile(r"\b(?:lesions|nodules|masses|tumou?rs|nodes|metastases|foci|abnormalities)\b", re.I)


def value_of(figure: Figure, found: Measurement) -> float:
    """One figure of a thing: mm, ml, SUVbw in g/ml, or g (TLG).

    Raises:
        CannotMeasure: there is no PET to measure uptake on, or the figure is no single number.
    """
    values: dict[Figure, float | None] = {
        "size": found.longest_diameter_mm, "short": found.short_diameter_mm, "volume": found.volume_ml,
        "mean": (found.longest_diameter_mm + found.short_diameter_mm) / 2, "suv_max": found.suv_max,
        "suv_mean": found.suv_mean, "suv_peak": found.suv_peak, "tlg": found.tlg_g, "z": found.z_mm,
    }  # fmt: skip
    if figure not in values:
        raise CannotMeasure("it is no single number")
    value = values[figure]
    if value is None:
        raise CannotMeasure("there is no PET to measure uptake on")
    return value


def written(figure: Figure, value: float) -> str:
    """A value with its unit, as reports print it: "48.3 mm", "SUVmax 6.2", "TLG 120.4 g"."""
    if figure in ("tlg", "z"):
        return f"TLG {value:.1f} g" if figure == "tlg" else f"z = {value:.1f} mm"
    slot = _SLOTS[figure]
    return fill(slot, {slot_names(slot)[0]: value})


def ranked(found: Sequence[Lesion], asked: NumbersAsked) -> Lesion:
    """The one meant by rank: by SUVmax, by volume where the question is about it, else by the longest diameter.

    Raises:
        CannotAnswer: there are fewer.
    """
    figure: Figure = "suv_max" if asked.hottest else "volume" if asked.figure == "volume" else "size"
    rank = asked.rank or 0
    if (rank if rank >= 0 else -rank - 1) >= len(found):
        raise CannotAnswer(f"there {'is' if len(found) == 1 else 'are'} only {len(found)}")
    return sorted(found, key=lambda lesion: -value_of(figure, lesion.measurement))[rank]


def keeping(found: Sequence[Lesion], limits: Sequence[Limit]) -> tuple[Lesion, ...]:
    """Those that keep every limit.

    Raises:
        CannotMeasure: a limit is about uptake, and there is no PET.
    """
    return tuple(
        lesion for lesion in found
        if all(limit.figure and limit.holds(value_of(limit.figure, lesion.measurement)) for limit in limits)
    )  # fmt: skip


def figure_answer(out: Answer, asked: NumbersAsked, structure: bool) -> Answer:
    """The number asked for, of the thing meant; of all where several are meant; their sum where that is asked.

    Args:
        out: holds the things found.
        asked: what the question says about numbers.
        structure: they are parts of one structure, whose volume is that of all of them.

    Raises:
        CannotMeasure: nobody measures it, or not in this study.
    """
    found, figure = out.lesions, asked.figure or "size"
    plural = bool(_PLURAL.search(out.phrase or ""))
    if asked.rank is not None:
        one = ranked(found, asked)
        by = "SUVmax" if asked.hottest else "volume" if figure == "volume" else "longest diameter"
        which = f"; number {asked.rank + 1 if asked.rank >= 0 else len(found) + asked.rank + 1} of {len(found)} by {by}"
        return _told(out, figure, [one], which)
    if len(found) > 1 and (asked.total or (figure in ("volume", "tlg") and (plural or structure))):
        if figure not in ("size", "short", "volume", "tlg"):
            raise CannotMeasure("it is nothing that adds up")
        total = sum(value_of(figure, lesion.measurement) for lesion in found)
        return replace(out, text=written(figure, total), source="measurement", reason=f"the sum of {len(found)} masks")
    if plural and len(found) > 1 and not structure:
        return _told(out, figure, list(found), f"; all {len(found)}, largest volume first")
    key: Figure = figure if figure in ("size", "short", "mean", "volume") else "volume"
    one = max(found, key=lambda lesion: value_of(key, lesion.measurement))
    return _told(out, figure, [one], f"; the largest of {len(found)}" if len(found) > 1 else "")


def _told(out: Answer, figure: Figure, of: Sequence[Lesion], which: str) -> Answer:
    texts = [_one(figure, lesion.measurement, out.question) for lesion in of]
    text = ", ".join(texts)
    if len(of) == 1 and figure in _SLOTS and (own := _drafted(out.drafted, figure)):
        text = fill(own, {slot_names(own)[0]: value_of(figure, of[0].measurement)})
    named = f" ({_NAMES[figure]})" if figure in _NAMES else ""
    reason = f"measured in the mask{named}{which}"
    return replace(out, text=text, source="measurement", lesions=tuple(of), reason=reason)


def _drafted(drafted: str | None, figure: Figure) -> str | None:
    """The writer's words around the number, where they hold one of the same kind and no other."""
    wanted = slot_names(_SLOTS[figure])[0]
    plain = figure not in _NAMES
    fits = drafted and slot_names(drafted) == [wanted] and not loose_numbers(drafted)
    return drafted if plain and fits else None


def _one(figure: Figure, found: Measurement, question: str) -> str:
    if figure in ("slice", "slices", "first_slice", "last_slice"):
        return _slice(figure, found, question)
    if figure == "dimensions":
        return fill("<size_1>", {"size_1": [found.longest_diameter_mm, found.short_diameter_mm]})
    return written(figure, value_of(figure, found))


def _slice(figure: Figure, found: Measurement, question: str) -> str:
    """1-based in its series, with z: the one with the most of it, its first, its last, or the range."""
    series = re.search(r"\b(ct|pet)\s(?:slice|image)", question, re.I)
    wanted = series[1].lower() if series else found.series
    if wanted == found.series:
        at = f"z = {found.z_mm:.1f} mm"
        match figure:
            case "first_slice":
                return f"{wanted} slice {found.first_slice}"
            case "last_slice":
                return f"{wanted} slice {found.last_slice}"
            case "slices":
                return f"{wanted} slices {found.first_slice}-{found.last_slice} (most of it at {at})"
        return f"{wanted} slice {found.slice}, {at}"
    if wanted != "pet" or found.pet_slice is None or found.pet_z_mm is None or figure != "slice":
        raise CannotMeasure(f"its {figure.replace('_', ' ')} of the {wanted.upper()} is not measured")
    return f"pet slice {found.pet_slice}, z = {found.pet_z_mm:.1f} mm"


def judged(found: Sequence[Lesion], asked: NumbersAsked) -> tuple[bool, str]:
    """Whether a yes or no question about numbers is to be answered with yes, and the numbers that say so.

    Raises:
        CannotMeasure: a limit is about uptake, and there is no PET.
        CannotAnswer: it speaks of one thing, there are several, and they differ.
    """
    if asked.rank is not None:
        found = (ranked(found, asked),) if found else ()
    kept = keeping(found, asked.limits)
    if asked.both:
        sides = {lesion.side for lesion in kept}
        return set(SIDES) <= sides, "" if set(SIDES) <= sides else f"on the {next(iter(sides))} only" if sides else ""
    if asked.count is not None:
        return asked.count.holds(len(kept)), str(len(kept))
    if asked.every:
        return bool(found) and len(kept) == len(found), _numbers(found, asked)
    if asked.definite and 0 < len(kept) < len(found):
        raise CannotAnswer(f"there are {len(found)}, which differ: {_numbers(found, asked)}")
    return bool(kept), _numbers(kept or found, asked)


def _numbers(found: Sequence[Lesion], asked: NumbersAsked) -> str:
    """What was measured of each for the limits: "34.2 mm and 39.4 mm"."""
    figures = [limit.figure for limit in asked.limits if limit.figure]
    told = (", ".join(written(f, value_of(f, lesion.measurement)) for f in figures) for lesion in found)
    return " and ".join(dict.fromkeys(told))


def needs_uptake(asked: NumbersAsked) -> bool:
    """Whether the question asks for, or compares, a figure that only a PET has."""
    return asked.hottest or asked.figure in UPTAKE or any(limit.figure in UPTAKE for limit in asked.limits)

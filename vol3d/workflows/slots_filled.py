"""Slots of a drafted sentence filled with what was measured: the one place where a number enters a report."""

from __future__ import annotations

import re
from collections.abc import Sequence

from vol3d.text.slots import SLOT, fill, slot_names
from vol3d.workflows.evidence import Measurement

_SERIES = re.compile(r"\b(ct|pet)\b(?=[^.;<]{0,20}<slice_\d+>)", re.I)
_RANGE = re.compile(r"\b(?:slices|images)\s+<slice_\d+>", re.I)


def fill_measured(template: str, measured: Sequence[Measurement], several: bool) -> str:
    """The sentence with its numbers.

    A sentence about one thing: ``<size_1>`` is its longest axial diameter, ``<size_2>`` the one at right angles; every
    other kind has one slot. About several: slot k is that of the k-th largest. A slice is the one with the most of it,
    "slices <slice_1>" the range; it is given with its series and z, which are added where the sentence leaves them out.

    Raises:
        CannotFill: a slot stands for something that was not or cannot be measured.
    """
    series = _SERIES.search(template)
    on_pet = series is not None and series[1].lower() == "pet"
    if series is not None and series[1].lower() == "ct" and measured[0].series != "ct":
        raise CannotFill("it names a slice of a CT, and the study has none")
    values: dict[str, float | Sequence[float]] = {}
    ranged = _RANGE.search(template) is not None
    for name in slot_names(template):
        kind, _, number = name.rpartition("_")
        values[name] = _value(kind, int(number) - 1, measured, several, on_pet, ranged)
    template = _with_place(template, "pet" if on_pet else measured[0].series, series is not None)
    for name in slot_names(template):
        if name not in values:
            kind, _, number = name.rpartition("_")
            values[name] = _value(kind, int(number) - 1, measured, several, on_pet, ranged)
    return fill(template, values)


class CannotFill(Exception):  # noqa: N818
    """Why a slot has no value; caught where sentences are judged, never shown as an error."""


def _with_place(template: str, series: str, named: bool) -> str:
    if not named:
        template = re.sub(r"\b(slices?|images?)\s+(<slice_\d+>)", rf"{series} \1 \2", template, flags=re.I)
    if "<z_" not in template:
        template = re.sub(r"<slice_(\d+)>", r"<slice_\1>, z = <z_\1>", template)
    return template


def _value(
    kind: str, index: int, measured: Sequence[Measurement], several: bool, on_pet: bool, ranged: bool
) -> float | Sequence[float]:
    if several:
        if index >= len(measured):
            raise CannotFill(f"it gives numbers of {index + 1} things, found {len(measured)}")
        found, index = measured[index], 0
    else:
        found = measured[0]
    if kind == "size" and index < 2:
        return found.longest_diameter_mm if index == 0 else found.short_diameter_mm
    if index > 0:
        raise CannotFill(f"nothing tells what its {index + 1}. {kind} measures")
    value: float | int | None
    if kind == "slice" and ranged and not on_pet:
        return [found.first_slice, found.last_slice] if found.first_slice < found.last_slice else found.slice
    match kind:
        case "volume":
            value = found.volume_ml
        case "suv_max" | "suv_mean" | "suv_peak":
            value = getattr(found, kind)
        case "slice":
            value = found.pet_slice if on_pet else found.slice
        case "z":
            value = found.pet_z_mm if on_pet else found.z_mm
        case _:
            raise CannotFill(f"{kind.upper()} is not measured")
    if value is None:
        raise CannotFill("there is no PET to measure uptake on")
    return value


def without_numbers(phrase: str) -> str:
    """A sentence of the phrase alone, where its numbers cannot be had."""
    return f"{phrase[:1].upper()}{phrase[1:]}."


def shown(template: str) -> str:
    """A template for readers, of a sentence whose slots stay empty."""
    return SLOT.sub("?", template)

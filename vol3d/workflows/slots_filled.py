"""Slots of a drafted sentence filled with what was measured: the one place where a number enters a report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vol3d.text.slots import SLOT, fill, slot_names
from vol3d.workflows.evidence import Measurement

_SERIES = re.compile(r"\b(ct|pet)\b(?=[^.;<]{0,20}<slice_\d+>)", re.I)
_RANGE = re.compile(r"\b(?:slices|images)\s+<slice_\d+>", re.I)
_SHORT = re.compile(
    r"\bshort(?:est)?[\s-]+(?:axis|axial|diameter)\b[^.;,<]{0,24}<(size_\d+)>|"
    r"<(size_\d+)>\s+(?:in\s+(?:the\s+|its\s+)?)?short(?:est)?[\s-]+(?:axis|diameter)\b",
    re.I,
)
_OTHER_SIZE = re.compile(
    r"\b(?:cranio-?caudal|longitudinal|coronal|sagittal|vertical|mean|average|thickness|thick|depth|height|width|wall)\b"
    r"[^.;,<]{0,24}<size_\d+>|<size_\d+>\s+(?:in\s+)?(?:cranio-?caudal\w*|thick|deep|high|wide)\b",
    re.I,
)


@dataclass(frozen=True)
class Number:
    """One number that was filled in."""

    figure: str
    """The field of `Measurement` that it is."""
    thing: int
    """Which of the things measured, from 0."""
    value: float


@dataclass(frozen=True)
class Filled:
    """A sentence with its numbers, and where each comes from, in reading order."""

    text: str
    numbers: tuple[Number, ...]


class CannotFill(Exception):  # noqa: N818
    """Why a slot has no value; caught where sentences are judged, never shown as an error."""


def filled(template: str, measured: Sequence[Measurement], several: bool, *, apart: bool = False) -> Filled:
    """The sentence with its numbers; slots are those of this sentence, counted from 1 for each kind.

    About one thing every kind has one slot: ``<size_1>`` is the longest axial diameter, and a slot that the words call
    the short axis is that. About several, slot k is that of the k-th largest; `apart`: their places differ, and
    then nothing tells which number belongs where. A slice is the one with the most of it, "slices <slice_1>" the range;
    it is given with its series and z, which are added where the sentence leaves them out.

    Raises:
        CannotFill: a slot stands for something that was not or cannot be measured.
    """
    if apart and any(int(name.rpartition("_")[2]) > 1 for name in slot_names(template)):
        raise CannotFill("nothing tells which number belongs to which place")
    if _OTHER_SIZE.search(template):
        raise CannotFill("sizes other than the axial diameters are not measured")
    series = _SERIES.search(template)
    on_pet = series is not None and series[1].lower() == "pet"
    if series is not None and series[1].lower() == "ct" and measured[0].series != "ct":
        raise CannotFill("it names a slice of a CT, and the study has none")
    ranged = _RANGE.search(template) is not None and not on_pet
    short = frozenset(name for match in _SHORT.finditer(template) for name in match.groups() if name)
    template = _with_place(template, "pet" if on_pet else measured[0].series, series is not None)
    numbers: dict[str, list[Number]] = {}
    for name in slot_names(template):
        if name not in numbers:
            kind, _, index = name.rpartition("_")
            first = int(index) == 1 or (kind == "size" and {f"size_{n}" for n in range(1, int(index))} <= short)
            if not several and not first and name not in short:
                raise CannotFill(f"nothing tells what its {index}. {kind} measures")
            thing = int(index) - 1 if several else 0
            if thing >= len(measured):
                raise CannotFill(f"it gives numbers of {index} things, found {len(measured)}")
            figures = _figures(kind, on_pet=on_pet, ranged=ranged, short=name in short)
            numbers[name] = [Number(f, thing, _value(measured[thing], f)) for f in figures]
            if ranged and kind == "slice" and numbers[name][0].value >= numbers[name][1].value:
                numbers[name] = [Number("slice", thing, _value(measured[thing], "slice"))]
    text = fill(template, {name: [n.value for n in found] for name, found in numbers.items()})
    return Filled(text, tuple(n for name in slot_names(template) for n in numbers[name]))


def _figures(kind: str, *, on_pet: bool, ranged: bool, short: bool) -> tuple[str, ...]:
    match kind:
        case "size":
            return ("short_diameter_mm",) if short else ("longest_diameter_mm",)
        case "volume":
            return ("volume_ml",)
        case "suv_max" | "suv_mean" | "suv_peak":
            return (kind,)
        case "slice":
            return ("first_slice", "last_slice") if ranged else ("pet_slice" if on_pet else "slice",)
        case "z":
            return ("pet_z_mm" if on_pet else "z_mm",)
    raise CannotFill(f"{kind.upper()} is not measured")


def _value(measured: Measurement, figure: str) -> float:
    value = getattr(measured, figure)
    if value is None:
        raise CannotFill("there is no PET to measure uptake on")
    return float(value)


def _with_place(template: str, series: str, named: bool) -> str:
    if not named:
        template = re.sub(r"\b(slices?|images?)\s+(<slice_\d+>)", rf"{series} \1 \2", template, flags=re.I)
    if "<z_" not in template:
        template = re.sub(r"<slice_(\d+)>", r"<slice_\1>, z = <z_\1>", template)
    return template


def counted_anew(template: str) -> str:
    """The same words with slots counted from 1 for each kind: what a part of a longer sentence needs."""
    counts: dict[tuple[str, str], int] = {}
    kinds: dict[str, int] = {}

    def renamed(match: re.Match[str]) -> str:
        key = (match[1], match[2])
        if key not in counts:
            kinds[match[1]] = counts[key] = kinds.get(match[1], 0) + 1
        return f"<{match[1]}_{counts[key]}>"

    return SLOT.sub(renamed, template)


def without_numbers(phrase: str) -> str:
    """A sentence of the phrase alone, where its numbers cannot be had."""
    return f"{phrase[:1].upper()}{phrase[1:]}."


def shown(template: str) -> str:
    """A template for readers, of a sentence whose slots stay empty."""
    return SLOT.sub("?", template)

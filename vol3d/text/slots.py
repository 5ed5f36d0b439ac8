"""Numbers that the image must answer, taken out of a text and put back.

A model never sees or writes them: "a 12 x 8 mm nodule, SUVmax 4.2 (ct slice 31)" becomes
"a <size_1> nodule, SUVmax <suv_max_1> (ct slice <slice_1>)", and measurement fills the slots.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vol3d.errors import Vol3dError
from vol3d.text.mentions import Kind, Quantity, quantities

SLOT = re.compile(r"<(size|volume|suv_max|suv_mean|suv_peak|suv|slice|z|hu)_(\d+)>")
_DECIMALS: dict[str, int] = {"size": 1, "volume": 1, "slice": 0, "z": 1, "hu": 0}
_UNITS: dict[str, str] = {"size": " mm", "volume": " ml", "z": " mm", "hu": " HU"}


class SlotError(Vol3dError):
    """A text cannot be filled with the values given."""


@dataclass(frozen=True)
class Slotted:
    """A text without its numbers, and what stood there."""

    template: str
    quantities: dict[str, Quantity]
    """By slot name: ``size_1``, in reading order and counted for each kind."""
    words: dict[str, str]
    """By slot name: as it was written."""

    @property
    def values(self) -> dict[str, tuple[float, ...]]:
        """Numbers by slot name, in mm, ml, SUV, HU or slice numbers."""
        return {name: q.values for name, q in self.quantities.items()}

    def original(self) -> str:
        """The text as it was, to the letter."""
        return SLOT.sub(lambda m: self.words[f"{m[1]}_{m[2]}"], self.template)


def take_numbers(text: str) -> Slotted:
    """Replace every quantity by a named slot.

    Raises:
        SlotError: the text already holds slots.
    """
    if found := SLOT.search(text):
        raise SlotError(
            f"the text already holds the slot {found.group()}. Expected: a text as written. Fill it first, "
            "or pass it on as it is."
        )
    counts: dict[Kind, int] = {}
    pieces: list[str] = []
    by_name: dict[str, Quantity] = {}
    words: dict[str, str] = {}
    at = 0
    for quantity in quantities(text):
        counts[quantity.kind] = counts.get(quantity.kind, 0) + 1
        name = f"{quantity.kind}_{counts[quantity.kind]}"
        pieces += [text[at : quantity.start], f"<{name}>"]
        by_name[name], words[name] = quantity, text[quantity.start : quantity.end]
        at = quantity.end
    return Slotted("".join([*pieces, text[at:]]), by_name, words)


def slot_names(template: str) -> list[str]:
    """Slots of a text in reading order."""
    return [f"{m[1]}_{m[2]}" for m in SLOT.finditer(template)]


def fill(template: str, values: Mapping[str, float | Sequence[float]]) -> str:
    """Write values into the slots: sizes in mm ("12.3 x 8.0 mm"), volumes in ml, SUV, slices ("31" or "30-34").

    Raises:
        SlotError: a slot has no value.
    """
    missing = [name for name in slot_names(template) if name not in values]
    if missing:
        raise SlotError(
            f"no value for {', '.join(missing)}; given: {', '.join(values) or 'none'}. Measure them, "
            "or leave the sentence out."
        )
    return SLOT.sub(lambda m: _written(m[1], values[f"{m[1]}_{m[2]}"]), template)


def _written(kind: str, value: float | Sequence[float]) -> str:
    numbers = [value] if isinstance(value, int | float) else list(value)
    joint = " x " if kind == "size" else "-"
    decimals = _DECIMALS.get(kind, 1)
    return joint.join(f"{n:.{decimals}f}" for n in numbers) + _UNITS.get(kind, "")

"""What a report printed, and whether its numbers come out of its masks again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from preprocessing.reading import read_mask
from vol3d.cache import Entry
from vol3d.errors import GeometryError
from vol3d.metrics.report_claims import report_text
from vol3d.text.mentions import Quantity, laterality, quantities
from vol3d.text.organs import SIDES
from vol3d.text.reports import organs_in
from vol3d.text.slots import take_numbers
from vol3d.text.statements import loose_numbers, statements_of
from vol3d.text.things import families_in
from vol3d.workflows.evidence import Measurement, measure_masks

SUPPORTED = "supported"

_FIGURES: dict[str, tuple[str, ...]] = {
    "size": ("longest_diameter_mm", "short_diameter_mm"), "volume": ("volume_ml",), "suv_max": ("suv_max",),
    "suv_mean": ("suv_mean",), "suv_peak": ("suv_peak",), "slice": ("slice", "first_slice", "last_slice", "pet_slice"),
    "z": ("z_mm", "pet_z_mm"),
}  # fmt: skip
"""Which measurements a number of each kind may be."""


def printed_sections(record: Mapping[str, Any]) -> dict[str, str]:
    """Findings and impression of a report.json as printed: supported sentences, findings under their organ."""
    rows: dict[str, list[str]] = {}
    for sentence in record["sentences"]:
        if sentence["status"] == SUPPORTED:
            rows.setdefault(str(sentence["section"]), []).append(str(sentence["text"]))
    impression = rows.pop("impression", [])
    findings = [f"{section.capitalize()}: {' '.join(texts)}" for section, texts in rows.items()]
    return {"findings": "\n".join(findings), "impression": "\n".join(impression)}


def printed_text(record: Mapping[str, Any]) -> str:
    """The same as one text with headings."""
    return report_text(printed_sections(record))


def without_evidence(record: Mapping[str, Any]) -> list[str]:
    """Printed sentences that point neither at a mask nor at anything that was looked for and not found, or that name a
    finding, an organ or a side of which nothing was asked.

    Read from the printed words, not from what the judging said of them, so that it can find a fault of the judging.
    """
    printed = [s for s in record["sentences"] if s["status"] == SUPPORTED]
    return [
        s["text"]
        for s in printed
        if (not s["measurements"] and (not s["phrases"] or s["probability"] is None)) or _unasked(s)
    ]


def _unasked(sentence: Mapping[str, Any]) -> list[str]:
    """What a printed sentence names and none of its phrases does."""
    stated = [s for s in statements_of(str(sentence["text"])) if s.kind in ("present", "absent")]
    asked = " ; ".join(sentence["phrases"])
    out = {*frozenset().union(*(s.specific for s in stated)) - families_in(asked)}
    places = {organ for _, _, organ in organs_in(asked)}
    if places:
        out |= {organ for s in stated for organ in s.organs} - places
    out.update(word for s in stated for word in s.stray if word.lower() not in asked.lower())
    side, asked_side = laterality(str(sentence["text"])), laterality(asked)
    if stated and side in SIDES and asked_side in SIDES and side != asked_side:
        out.add(str(side))
    return sorted(out)


@dataclass(frozen=True)
class Reproduction:
    """Every mask of a report measured again."""

    masks: int
    numbers: int
    """Printed numbers that were compared."""
    wrong: tuple[str, ...]
    """What did not come out again: sentence, number, and what was measured."""


def reproduced(record: Mapping[str, Any], folder: Path, entry: Entry) -> Reproduction:
    """Measures each exported mask again and compares with the record, and with the printed text, to the last digit.

    Args:
        record: the report.json.
        folder: in which it lies, with its masks.
        entry: of the same study: source grids, slice numbers and the PET as the scanner made it.

    Raises:
        ReadError: a mask cannot be read, or does not lie on a source grid of the study.
    """
    measured: dict[str, dict[str, Any]] = {}
    wrong: list[str] = []
    numbers = 0

    def again(told: Mapping[str, Any]) -> dict[str, Any]:
        if told["file"] not in measured:
            measured[told["file"]] = _measure(told, folder, entry)
        found = measured[told["file"]]
        wrong.extend(
            f"{told['file']}: {name} is recorded as {told[name]}, measured {found.get(name)}"
            for name in Measurement.__dataclass_fields__
            if told[name] != found.get(name)
        )
        return found

    for row in (record.get("change") or {}).get("lesions", ()):  # the prior's masks lie elsewhere
        if row["current"] is not None:
            now = row["current"]
            again({**now["measurement"], "file": now["file"], "pet_file": now["pet_file"]})
    for sentence in record["sentences"]:
        if sentence["status"] != SUPPORTED:
            continue
        figures = [again(told) for told in sentence["measurements"]]
        wrong += _wrong_numbers(sentence, figures)
        numbers += len(sentence["numbers"])
        loose = loose_numbers(take_numbers(sentence["text"]).template)
        wrong += [f"{sentence['text']!r}: {number} is no measurement" for number in loose]
    return Reproduction(len(measured), numbers, tuple(dict.fromkeys(wrong)))


def _wrong_numbers(sentence: Mapping[str, Any], figures: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Each printed number against the figure that it is recorded to be, of the thing that it is recorded to be of."""
    text, told = str(sentence["text"]), sentence["numbers"]
    printed = list(_printed_numbers(text))
    if len(printed) != len(told):
        yield f"{text!r}: {len(printed)} numbers printed, {len(told)} recorded"
        return
    for (kind, number, unit), source in zip(printed, told, strict=True):
        value = figures[source["thing"]].get(source["figure"]) if source["thing"] < len(figures) else None
        if source["figure"] not in _FIGURES.get(kind, ()):
            yield f"{text!r}: {kind} {number}{unit} is recorded as {source['figure']}"
        elif value is None or _as_printed(value, number, unit) != number:
            yield f"{text!r}: {kind} {number}{unit}, measured {source['figure']} {value}"


def _measure(told: Mapping[str, Any], folder: Path, entry: Entry) -> dict[str, Any]:
    series = str(told["series"])
    mask = read_mask(folder / told["file"]).volume
    _require_grid(mask.grid.same_as(entry.source_grids[series], 1e-2), told["file"], series)
    pet_mask, pet = None, entry.pet_native() if "pet" in entry.images else None
    if told["pet_file"]:
        on_pet = read_mask(folder / told["pet_file"]).volume
        _require_grid(on_pet.grid.same_as(entry.source_grids["pet"], 1e-2), told["pet_file"], "pet")
        pet_mask = on_pet.array_ZYX
    elif series == "pet":
        pet_mask = mask.array_ZYX
    found = measure_masks(mask.array_ZYX, entry.source_grids[series], series, entry.slice_numbers, pet_mask, pet)
    return asdict(found) if found is not None else {}


def _require_grid(same: bool, file: str, series: str) -> None:
    if not same:
        raise GeometryError(
            f"expected {file} on the grid of the study's {series}, found another; was the study replaced?"
        )


def _printed_numbers(text: str) -> Iterator[tuple[str, str, str]]:
    """(kind, digits as printed, unit) of every number of a sentence."""
    for q in quantities(text):
        for number in _digits(text, q):
            yield q.kind, number, " cm" if "cm" in text[q.start : q.end].lower() else ""


def _digits(text: str, quantity: Quantity) -> list[str]:
    signed = quantity.kind in ("z", "hu")
    return re.findall(r"[-+]?\d+(?:\.\d+)?" if signed else r"\d+(?:\.\d+)?", text[quantity.start : quantity.end])


def _as_printed(value: float, number: str, unit: str) -> str:
    decimals = len(number.partition(".")[2])
    return f"{value / 10 if unit else value:.{decimals}f}"

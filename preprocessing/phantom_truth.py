"""What is true of a phantom study: named masks, phrases known to be absent, measured findings, labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from preprocessing.phantom_anatomy import OPEN_ENDED, ORGANS, Anatomy, label_of
from preprocessing.phantom_grounding import absent_phrases, present_phrases
from preprocessing.phantom_lesions import PLACES, Lesion
from preprocessing.phantom_report import FULLY, HARDLY, Measured, name_of
from preprocessing.phantom_text import ORGAN_WORDS, PLACE_WORDS, Query, all_queries, group_by_lesions, wordings
from vol3d.boxes import bounding_box
from vol3d.measure import diameters, slices, volume_ml
from vol3d.types import Array
from vol3d.volume import Volume

MOST_PHRASES = 20
"""Seen wordings kept for one mask of a study."""


SWEEPING_SHARE = 0.08
"""Share of studies that also give masks for phrases that mean many of their lesions at once ("all lesions"): true, but
such phrases do not select. The others give those for one lesion, or for several up to 40% of the lesions."""


@dataclass
class Words:
    """Masks by label with their manifest rows (without paths), and the phrases that name nothing in the study."""

    masks: dict[str, Array] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    unseen: dict[str, list[str]] = field(default_factory=dict)
    absent: list[str] = field(default_factory=list)
    unseen_absent: list[str] = field(default_factory=list)

    def add(self, label: str, mask: Array, seen: Sequence[str], unseen: Sequence[str], finding_id: str | None) -> None:
        """One more mask and its wordings."""
        self.masks[label] = mask
        self.rows.append({"label": label, "phrases": list(seen)} | ({"finding_id": finding_id} if finding_id else {}))
        self.unseen[label] = list(unseen)


def describe(
    rng: np.random.Generator,
    anatomy: Anatomy,
    in_view: dict[str, float],
    labels: Array,
    lesions: list[Lesion],
    lesion_masks: dict[str, Array],
    with_pet: bool,
) -> Words:
    """All masks with their wordings, and the absent phrases.

    A structure of which too little is in view gets neither: it is unknown. Resected ones are absent.
    """
    words = Words()
    for name, tissues in ORGANS.items():
        shown = [in_view[t] for t in tissues if t not in anatomy.resected]
        needed = tissues if name != "body" else ("torso",)
        seen, unseen = ORGAN_WORDS[name]
        if all(t not in anatomy.resected and in_view[t] >= HARDLY for t in needed):
            mask = np.isin(labels, [label_of(t) for t in tissues])
            words.add(name.replace(" ", "_"), mask, seen, unseen, None)
        elif not shown and all(in_view[t] >= FULLY for t in tissues):
            words.absent += seen
            words.unseen_absent += unseen
    groups = group_by_lesions(all_queries(with_pet), lesions)
    none = groups.pop((), [])
    sweeping = rng.random() < SWEEPING_SHARE
    for members, queries in groups.items():
        if len(members) > 1 and len(members) > 0.4 * len(lesions) and not sweeping:
            continue
        label = _label_of(members)
        mask = np.any([lesion_masks[m] for m in members], axis=0)
        seen_some, unseen_some = _some_wordings(rng, queries, len(members))
        words.add(label, mask, seen_some, unseen_some, "+".join(members))
    _add_report_phrases(words, lesions, lesion_masks)
    untrue = [q for q in none if not any(q.is_true_of(lesion.traits) for lesion in lesions)]
    _list_absent(rng, words, untrue, in_view)
    known = set(words.absent)
    absent = absent_phrases(rng, [m.traits for m in lesions], lambda p: _place_ruled_out(p, in_view), with_pet)
    words.absent += [p for p in absent if p not in known]
    return words


def _label_of(members: Sequence[str]) -> str:
    numbers = [member.removeprefix("lesion_") for member in members]
    return f"lesion{'s' if len(members) > 1 else ''}_{'_'.join(numbers)}"


def _add_report_phrases(words: Words, lesions: list[Lesion], lesion_masks: dict[str, Array]) -> None:
    """The phrases of the report's sentences, on the mask of all the lesions that each one means."""
    rows = {row["label"]: row for row in words.rows}
    for query, phrase in present_phrases([lesion.traits for lesion in lesions]):
        members = [lesion.id for lesion in lesions if query.matches(lesion.traits)]
        general = query.density is None
        if general and len(members) > 1 and _label_of(members) not in rows:
            continue  # a sweeping phrase, see `SWEEPING_SHARE`
        label = _label_of(members)
        if label not in rows:
            words.add(label, np.any([lesion_masks[m] for m in members], axis=0), [], [], "+".join(members))
            rows[label] = words.rows[-1]
        if phrase not in rows[label]["phrases"]:
            rows[label]["phrases"].append(phrase)


def _some_wordings(rng: np.random.Generator, queries: list[Query], number: int) -> tuple[list[str], list[str]]:
    """A selection over all meanings, the general ones (place, uptake) with more wordings than size and density."""
    seen: list[str] = []
    unseen: list[str] = []
    for query in queries:
        old, new = wordings(query, number)
        plain = query.size is None and query.density is None
        seen += _pick(rng, old, 5 if plain else 2)
        unseen += _pick(rng, new, 2 if plain else 1)
    return _pick(rng, seen, MOST_PHRASES), _pick(rng, unseen, 8)


def _list_absent(rng: np.random.Generator, words: Words, none: list[Query], in_view: dict[str, float]) -> None:
    """Phrases that match no lesion, where the place is in view; sizes are left out, they are too fine to deny."""
    dense = []
    for query in none:
        if query.place != "anywhere" and not _place_ruled_out(query.place, in_view):
            continue
        if query.density is not None:
            dense.append(query)
        elif query.size is None:
            seen, unseen = wordings(query, 0)
            words.absent += _pick(rng, seen, 2)
            words.unseen_absent += _pick(rng, unseen, 1)
    for i in rng.permutation(len(dense))[:4]:
        words.absent += _pick(rng, wordings(dense[i], 0)[0], 1)


def _place_ruled_out(place: str, in_view: dict[str, float]) -> bool:
    return all(_ruled_out(tissue, in_view) for tissue in PLACE_WORDS[place].tissues)


def _ruled_out(tissue: str, in_view: dict[str, float]) -> bool:
    """What runs from end to end of the body counts as shown if half of it is."""
    return in_view[tissue] >= (0.5 if tissue in OPEN_ENDED else FULLY)


def _pick(rng: np.random.Generator, items: Sequence[str], number: int) -> list[str]:
    """Up to `number` items in their own order."""
    chosen = np.sort(rng.permutation(len(items))[:number])
    return [items[i] for i in chosen]


def measure_lesion(lesion: Lesion, mask: Array, ct: Volume, pet: Volume | None) -> Measured:
    """Size on the CT grid; SUVmax on the noisy native PET, within the mask carried there (half a voxel decides)."""
    box = bounding_box(mask)
    assert box is not None, "lesions are placed wholly within the field of view"
    long_axis, where = diameters(mask, ct.grid), slices(mask, ct.grid)
    assert long_axis is not None
    assert where is not None
    suv_max = None
    if pet is not None:
        share = Volume(mask.astype(np.uint8), ct.grid, "mask").crop(*box).resample_to(pet.grid).array_ZYX
        suv_max = float(pet.array_ZYX[share >= min(0.5, float(share.max()))].max())
    return Measured(
        id=lesion.id,
        traits=lesion.traits,
        diameter_mm=round(long_axis.axial_long_mm, 1),
        volume_ml=round(volume_ml(mask, ct.grid), 3),
        suv_max=None if suv_max is None else round(suv_max, 3),
        slice_number=where.largest,
        z_mm=where.largest_z_mm,
    )


def findings_of(measured: list[Measured], in_view: dict[str, float]) -> list[dict[str, Any]]:
    """Structured truth: every lesion, then every place in view that has none."""
    out: list[dict[str, Any]] = []
    for lesion in measured:
        organ, side = organ_and_side(lesion.traits.place)
        numbers = {"diameter_mm": lesion.diameter_mm, "volume_ml": lesion.volume_ml}
        if lesion.suv_max is not None:
            numbers["suv_max"] = lesion.suv_max
        out.append(
            {"id": lesion.id, "name": name_of(lesion.traits), "organ": organ, "side": side, "present": True,
             "size": lesion.traits.size, "density": lesion.traits.density, "uptake": lesion.traits.uptake,
             "measurements": numbers}
        )  # fmt: skip
    for place in PLACES:
        if _ruled_out(place, in_view) and all(m.traits.place != place for m in measured):
            organ, side = organ_and_side(place)
            name = f"focal lesion {PLACE_WORDS[place].after[0]}"
            key = f"none_{place.replace(' ', '_')}"
            out.append(
                {"id": key, "name": name, "organ": organ, "side": side, "present": False, "measurements": {}}
            )  # fmt: skip
    return out


def labels_of(lesions: list[Lesion], in_view: dict[str, float]) -> dict[str, int | None]:
    """Study-level labels: lesion of an organ present (1), absent (0), or not known because not all of it is in view."""
    out: dict[str, int | None] = {}
    for place in PLACES:
        organ = organ_and_side(place)[0].replace(" ", "_")
        here = any(lesion.traits.place == place for lesion in lesions)
        known = 1 if here else 0 if _ruled_out(place, in_view) else None
        before = out.get(f"{organ}_lesion", 0)
        out[f"{organ}_lesion"] = 1 if 1 in (known, before) else None if None in (known, before) else 0
    return out


def organ_and_side(place: str) -> tuple[str, str | None]:
    """ "left lung" is ("lung", "left"), "liver" is ("liver", None)."""
    side, _, rest = place.partition(" ")
    if not rest:
        return place, None
    return ("soft tissue" if rest == "paraspinal" else rest), side

"""Pairs of phrases of which one detail differs and only one is true of a phantom study.

Of another place or study, the false one is a meaning that the study lists as absent, so nothing is asked that the field
of view cannot answer. A pair counts as right only if both members are (`vol3d.metrics.probes`).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any, Literal

import numpy as np

from preprocessing.phantom_lesions import PLACES, SIZES, TWIN
from preprocessing.phantom_questions import Study, Wording
from preprocessing.phantom_text import Query, wordings

PairKind = Literal["presence", "side", "organ", "size", "uptake", "density"]
PAIRS = 6
"""Of a kind in a study at most: 40 studies then give 200 pairs of the kinds that most studies have."""


@dataclass(frozen=True)
class Pair:
    """Two questions with opposite answers."""

    kind: PairKind
    present_study: str
    present: str
    """A phrase that is true there."""
    absent_study: str
    """The same study, or for `presence` another one."""
    absent: str
    """A phrase that is not; for `presence` the same one."""


def pairs_of(record: Mapping[str, Any], wording: Wording = "seen", most: int = PAIRS) -> list[Pair]:
    """Pairs within one study, up to `most` of a kind; side: the twin place, organ: another place, size, uptake,
    density.

    Args:
        record: a phantom's manifest row, or the attributes of its cache entry.
        wording: "seen" or "unseen".
        most: pairs of a kind.
    """
    study = Study(record)
    rng = np.random.default_rng([zlib.crc32(str(record["study_id"]).encode()), 2])
    by_kind: dict[PairKind, list[tuple[Query, Query]]] = {k: [] for k in ("side", "organ", "uptake", "density", "size")}
    for kind, true, false in _looks(study):
        by_kind[kind].append((true, false))
    for true in study.present:
        for false in study.denied:
            if (place := _other_place(true, false)) is not None:
                by_kind[place].append((true, false))
    out = []
    for kind, found in by_kind.items():
        for i in rng.permutation(len(found))[:most]:
            true, false = found[i]
            present, absent = _closest(rng, true, false, wording)
            out.append(Pair(kind, str(record["study_id"]), present, str(record["study_id"]), absent))
    return out


def presence_pairs(records: Sequence[Mapping[str, Any]], wording: Wording = "seen", most: int = PAIRS) -> list[Pair]:
    """The same phrase asked of two studies, true of one and not of the other; up to `most` for each study."""
    studies = [(str(r["study_id"]), Study(r)) for r in records]
    out = []
    for name, study in studies:
        rng = np.random.default_rng([zlib.crc32(name.encode()), 3])
        found = [(q, other) for q in study.present for other, o in studies if q.place in PLACES and q in o.denied]
        for i in rng.permutation(len(found))[:most]:
            query, other = found[i]
            phrase = str(rng.choice(wordings(query, 1)[wording == "unseen"]))
            out.append(Pair("presence", name, phrase, other, phrase))
    return out


def _looks(study: Study) -> list[tuple[PairKind, Query, Query]]:
    """Two looks of one place, of which no lesion has the second. Every lesion lies wholly in view, so that this is
    known where the place is not."""
    out: list[tuple[PairKind, Query, Query]] = []
    for true in (q for q in study.present if q.place in PLACES):
        others: dict[PairKind, list[Query]] = {
            "size": [replace(true, size=s) for s in SIZES] if true.size else [],
            "density": [replace(true, density=d) for d in PLACES[true.place]] if true.density else [],
            "uptake": [replace(true, uptake=u) for u in ("avid", "non-avid")] if true.uptake else [],
        }
        for kind, found in others.items():
            out += [(kind, true, false) for false in found if not any(map(false.is_true_of, study.traits))]
    return out


def _other_place(true: Query, false: Query) -> PairKind | None:
    """Whether two meanings differ in their place alone, and how."""
    if true.place not in PLACES or false.place not in PLACES or true.place == false.place:
        return None
    if replace(true, place=false.place) != false:
        return None
    return "side" if TWIN.get(true.place) == false.place else "organ"


def _closest(rng: np.random.Generator, true: Query, false: Query, wording: Wording) -> tuple[str, str]:
    """A wording of the first and, of the second, the one that shares the most words in the same order."""
    unseen = wording == "unseen"
    present = str(rng.choice(wordings(true, 1)[unseen]))
    match = max(
        sorted(wordings(false, 1)[unseen]), key=lambda p: SequenceMatcher(None, present.split(), p.split()).ratio()
    )
    return present, match

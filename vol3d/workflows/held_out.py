"""Masks of lesions whose organ and trait were kept apart in training (`preprocessing.holdout`), beside all others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from preprocessing.holdout import KEY, combinations_in
from vol3d.cache import Entry
from vol3d.metrics.bootstrap import bootstrap_interval
from vol3d.workflows.scoring import Case
from vol3d.workflows.tables import record


def held_out_masks(entries: Iterable[Entry]) -> set[tuple[str, str]]:
    """(study, mask) of every lesion that shows a combination its manifest held out."""
    out: set[tuple[str, str]] = set()
    for entry in entries:
        held = {tuple(c) for c in (entry.attributes.get("meta") or {}).get(KEY, ())}
        rows = {str(f.get("id")): f for f in entry.attributes.get("findings") or ()} if held else {}
        out |= {
            (entry.study_id, m.name)
            for m in entry.masks
            if m.finding_id in rows and held & combinations_in({"findings": [rows[m.finding_id]]})
        }
    return out


def held_out_table(cases: Sequence[Case], held: set[tuple[str, str]], samples: int) -> dict[str, Any]:
    """Dice and share answered of held-out lesions and of the others, in seen wordings; {} if nothing was held out."""
    lesions = [c for c in cases if c.kind == "lesion" and c.wording == "seen"]
    out: dict[str, Any] = {}
    for name, inside in (("held_out", True), ("other", False)):
        own = [c for c in lesions if ((c.study_id, c.mask) in held) == inside]
        patients = [c.patient_key for c in own]
        for figure, values in (
            ("dice", [c.dice for c in own]),
            ("answered", [float(c.answered_present) for c in own]),
        ):
            interval = bootstrap_interval(np.array(values, float), patients, samples=samples)
            out[f"{name}_lesion_{figure}"] = record(interval)
    return out if held else {}

"""Splits by patient: the published one where there is one, what it lacks drawn by a hash, nobody in two splits.

The draw is a pure function of the data set's name and the patient's id: a study added or left out moves no other.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from typing import Any

VAL_SHARE, TEST_SHARE = 0.1, 0.1
_STRENGTH = {"train": 0, "val": 1, "test": 2}
_MEANT = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip

log = logging.getLogger("vol3d")


def complete(
    rows: Iterable[dict[str, Any]], name: str, *, val: float = VAL_SHARE, test: float = TEST_SHARE
) -> list[dict[str, Any]]:
    """Rows with their split.

    Where no row states one, patients are drawn into train, val and test. Where some do, the published test set stays as
    it is, and validation patients are drawn from its training set if it has no validation set: thresholds are never
    chosen on test patients. Studies without a split stay so, and are counted.

    A patient whom the publication has in two splits keeps the studies of the later one (test, then val); his others
    lose their split, and so are in the cache but not in training.

    Args:
        rows: of a manifest.
        name: of the data set, part of the hash.
        val, test: shares of patients to draw.
    """
    out = [dict(row) for row in rows]
    published = {row["split"] for row in out if row.get("split")}
    for row in out:
        if not published:
            row["split"] = _drawn(name, _patient(row), test, val)
        elif "val" not in published and row.get("split") == "train":
            row["split"] = _drawn(name, _patient(row), 0.0, val)
    silent = [row["study_id"] for row in out if not row.get("split") and not row.get("refused")]
    if silent:
        log.warning(
            "%s: %d studies are in no split, the first %s: the data set states one for others, none for these",
            name, len(silent), silent[0],
        )  # fmt: skip
    _keep_apart(out, name)
    return out


def fault(split: str) -> str | None:
    """Why a word of a table names no split; None for train, val, test and for an empty cell."""
    if not split or split in _STRENGTH:
        return None
    meant = _MEANT.get(split.lower())
    return f"expected the split train, val or test, found {split!r}" + (f"; write {meant}" if meant else "")


def _patient(row: dict[str, Any]) -> str:
    return str(row.get("patient_id") or row.get("study_id"))


def _drawn(name: str, patient: str, test: float, val: float) -> str:
    place = int(hashlib.sha256(f"{name}:{patient}".encode()).hexdigest()[:12], 16) / 16**12
    return "test" if place < test else "val" if place < test + val else "train"


def _keep_apart(rows: list[dict[str, Any]], name: str) -> None:
    strongest: dict[str, str] = {}
    for row in rows:
        if split := row.get("split"):
            best = strongest.get(_patient(row))
            strongest[_patient(row)] = split if best is None else max(best, split, key=_STRENGTH.__getitem__)
    withheld = 0
    for row in rows:
        if row.get("split") and row["split"] != strongest[_patient(row)]:
            del row["split"]
            withheld += 1
    if withheld:
        log.warning("%s: %d studies are in no split, since their patients are in val or test too", name, withheld)

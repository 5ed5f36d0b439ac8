"""Which patients and scans a checkpoint has seen, so that they are not taken for a test.

A test set is as a rule a cache of its own, which nothing compares with the training's. So `checkpoint.json` keeps a
mark of every patient and of every scan that weights or thresholds were chosen on. A patient's mark is a hash of a
`patient_key`, itself an HMAC: it names nobody, and links only caches made under one site key. A scan's mark is a hash
of its coarsest voxels: that of a byte-for-byte copy under any name, and of no other.

They stand beside the provenance and not in it, for that is written into every report.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vol3d.cache import Cache, Entry
from vol3d.checkpoint import RECORD, find_model_folder
from vol3d.errors import CheckpointError
from vol3d.files import write_json
from vol3d.train.start import FILE as STARTED
from vol3d.workflows.leakage import NAMED, LeakageError

KEY = "trained_on"
MARK = 12
"""Hexadecimal digits of a mark: 100,000 patients against 10,000 others meet by chance once in 280,000 times."""
MOST_SCANS = 20_000
"""Studies up to which scans are marked: each is read, about 5 ms."""

Role = Literal["training", "validation"]
log = logging.getLogger("vol3d")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The studies of one split, as marks one after the other."""

    role: Role
    split: str
    patients: str
    scans: str


def seen_by(cache: Cache, *, training: str, validation: str) -> list[Seen]:
    """Marks of the splits that a run uses."""
    few = len(cache.table) <= MOST_SCANS
    return [
        _seen(cache, "training", training, scans=few),
        _seen(cache, "validation", validation, scans=few),
    ]


def _seen(cache: Cache, role: Role, split: str, *, scans: bool) -> Seen:
    table = cache.table.of_split(split)
    patients = sorted({mark_of_patient(key) for key in table.column("patient_key") if key})
    marks = sorted({mark_of_scan(cache.entry(study)) for study in table.study_ids}) if scans else []
    return Seen(role=role, split=split, patients="".join(patients), scans="".join(marks))


def mark_of_patient(patient_key: str) -> str:
    """Of a `patient_key`."""
    return _mark(f"vol3d patient {patient_key}".encode())


def mark_of_scan(entry: Entry) -> str:
    """Of the CT, or of the PET where there is none, at the coarsest level."""
    image = "ct" if "ct" in entry.images else "pet"
    array = entry.read_level(image, int(entry.attributes["levels"]) - 1).array_ZYX
    return _mark(f"{image} {array.shape} {array.dtype} ".encode() + array.tobytes())


def _mark(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:MARK]


# -- in the checkpoint ----------------------------------------------------------------------------------------------


def note(folder: Path, seen: Sequence[Seen]) -> None:
    """Writes the marks into a model folder that has none yet."""
    record = json.loads((folder / RECORD).read_text())
    if KEY not in record:
        record[KEY] = [asdict(s) for s in seen]
        write_json(folder / RECORD, record)


def inherited(run: Path) -> list[Seen]:
    """What the weights that a run started from had seen; nothing for those of other programs."""
    try:
        return noted(Path(json.loads((run / STARTED).read_text())["from"])) or []
    except (OSError, ValueError, KeyError, CheckpointError):
        return []


def noted(checkpoint: Path) -> list[Seen] | None:
    """What a checkpoint has seen; None from one that does not say.

    Raises:
        CheckpointError: there is no checkpoint.
    """
    record = json.loads((find_model_folder(checkpoint) / RECORD).read_text()).get(KEY)
    return None if record is None else [Seen(**own) for own in record]


# -- at its evaluation ----------------------------------------------------------------------------------------------


def require_unseen(checkpoint: Path, cache: Cache, split: str) -> dict[str, Any]:
    """Refuses studies that the checkpoint knows, unless they are of the split that is asked for knowingly.

    Its own training split may be evaluated as such, and its own validation split but for what trained. The result says
    in plain words what the figures are worth.

    Raises:
        LeakageError: a patient or a scan was seen; the message names entries.
    """
    seen = noted(checkpoint)
    if seen is None:
        log.warning("%s does not say which patients it has seen: nothing was compared", checkpoint)
        return {"compared": False, "statement": "It is not known which patients the checkpoint has seen."}
    entries = [cache.entry(study) for study in cache.select(split)]
    found = {role: _known(entries, [s for s in seen if s.role == role]) for role in ("training", "validation")}
    own: set[Role] = {s.role for s in seen if s.split == split}
    refused = [] if "training" in own else found["training"]
    refused = refused if own else [*refused, *(s for s in found["validation"] if s not in refused)]
    if refused:
        raise LeakageError(
            f"expected no study of split {split!r} in {cache.root} of a patient or scan that {checkpoint} was trained "
            f"or calibrated on, found {len(refused)} of {len(entries)}: {', '.join(refused[:NAMED])}; take them out of "
            f"the test set, or train without them"
        )
    counts = {role: len(studies) for role, studies in found.items()}
    return {"compared": True, **counts, "statement": _statement(counts, len(entries), split)}


def _known(entries: Iterable[Entry], seen: Sequence[Seen]) -> list[str]:
    patients, scans = (
        {text[i : i + MARK] for text in texts for i in range(0, len(text), MARK)}
        for texts in ([s.patients for s in seen], [s.scans for s in seen])
    )
    return [
        e.study_id
        for e in entries
        if (e.attributes.get("patient_key") and mark_of_patient(e.patient_key) in patients)
        or (scans and mark_of_scan(e) in scans)
    ]


def _statement(counts: dict[str, int], studies: int, split: str) -> str:
    if counts["training"]:
        return (
            f"{counts['training']} of {studies} studies of split {split!r} trained this checkpoint: these figures say "
            f"nothing about patients it has not seen."
        )
    if counts["validation"]:
        return (
            f"{counts['validation']} of {studies} studies of split {split!r} chose its weights and thresholds: these "
            f"figures are better than those on patients it has not seen."
        )
    return f"None of the {studies} studies of split {split!r} is of a patient or a scan that this checkpoint has seen."

"""``vol3d.jsonl`` of an nnU-Net folder that `vol3d export nnunet` wrote: what nnU-Net has no place for, by study."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vol3d.errors import ManifestError

SIDECAR = "vol3d.jsonl"

_ROW_KEYS = ("patient_id", "absent", "findings", "labels", "report", "prior", "qa", "meta")
_MASK_KEYS = ("phrases", "finding_id")

log = logging.getLogger("vol3d")


def read_sidecar(path: Path) -> dict[str, dict[str, Any]]:
    """Rows by study; none where there is no file.

    Raises:
        ManifestError: a line that is no row, with its number.
    """
    out: dict[str, dict[str, Any]] = {}
    if not path.is_file():
        return out
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            masks = {str(name): dict(mask) for name, mask in dict(row.get("masks") or {}).items()}
            out[str(row["study_id"])] = {**row, "masks": masks}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ManifestError(
                f"{path}, line {number}: expected a row as vol3d export nnunet writes it, found {error!r}; export "
                f"again, or take the file away: the masks are then read without phrases and reports"
            ) from error
    return out


def with_sidecar(
    rows: Iterable[dict[str, Any]], records: dict[str, dict[str, Any]], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """What the export kept beside the images comes back.

    A case without a record, added by hand, keeps the masks that ``dataset.json`` gives it; so does a class that the
    export did not know. Of a class that a record is silent on, an empty mask says nothing.

    Args:
        rows: of the folder, their masks in the order of `classes`.
        records: of `read_sidecar`.
        classes: of ``dataset.json``.
    """
    exported = {name for record in records.values() for name in record["masks"]}
    out: list[dict[str, Any]] = []
    added: list[str] = []
    for row in rows:
        record = records.get(row["study_id"])
        if "refused" in row:
            out.append(row)
            continue
        if record is None:
            added.append(row["study_id"])
        masks = []
        for name, mask in zip(classes, row["masks"], strict=True):
            if name in exported:
                mask = {**mask, "label": name}
                if record is not None:
                    known = {k: v for k, v in record["masks"].get(name, {}).items() if k in _MASK_KEYS}
                    mask |= {"if_empty": "unknown", **known}
            masks.append(mask)
        kept = {k: record[k] for k in _ROW_KEYS if k in record} if record else {}
        out.append({**row, **kept, "masks": masks})
    if added:
        log.warning(
            "nnunet: %d cases have no row in %s, the first %s: their masks and words are those of dataset.json",
            len(added), SIDECAR, added[0],
        )  # fmt: skip
    return out

"""Pieces of manifest rows that several layouts share."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vol3d.errors import ManifestError
from vol3d.text.label_names import is_lesion, label_phrases

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def safe_id(name: str, prefix: str = "") -> str:
    """`name` as a study id where it can be one; else `prefix` and a hash of it."""
    if _SAFE.fullmatch(name):
        return name
    return f"{prefix or 's'}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def read_json(path: Path, what: str) -> Any:
    """A JSON file of a data set.

    Raises:
        ManifestError: it is not there, or no JSON.
    """
    if not path.is_file():
        raise ManifestError(f"expected {what} at {path}, found nothing")
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise ManifestError(f"expected {what} as JSON, found {error} in {path}") from error


def read_object(path: Path, what: str) -> dict[str, Any]:
    """As `read_json`, of a file that holds one object.

    Raises:
        ManifestError: also where it holds something else.
    """
    found = read_json(path, what)
    if not isinstance(found, dict):
        raise ManifestError(f"expected {what} to be one object {{...}}, found {_kind(found)} in {path}")
    return found


def mapping(record: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    """What lies under `key`; empty where there is nothing.

    Raises:
        ManifestError: it is no object of names and values.
    """
    found = record.get(key) or {}
    if not isinstance(found, dict):
        raise ManifestError(f"{path}: expected an object {{name: value, ...}} under {key!r}, found {_kind(found)}")
    return found


def whole(value: Any, path: Path, what: str) -> int:
    """A whole number, also written as text.

    Raises:
        ManifestError: it is none.
    """
    if not re.fullmatch(r"-?\d+", str(value)):
        raise ManifestError(f"{path}: expected a whole number for {what}, found {value!r}")
    return int(value)


def _kind(value: Any) -> str:
    kind = "a list" if isinstance(value, list) else "text" if isinstance(value, str) else type(value).__name__
    return f"{kind} ({str(value)[:60]})"


def class_mask(path: Path, name: str, value: int | list[int] | None = None, *, phrases: Iterable[str] = ()) -> Any:
    """A manifest's mask for a class of a label map, or for a file of its own.

    An organ whose mask is empty may be out of view, so nothing is said of it; a lesion is absent then.
    """
    row: dict[str, Any] = {
        "path": str(path.resolve()), "label": re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_"),
        "phrases": list(phrases) or list(label_phrases(name)),
    }  # fmt: skip
    if value is not None:
        row["value"] = value
    if not is_lesion(name):
        row["if_empty"] = "unknown"
    return row


def age_band(age: str | None) -> str | None:
    """``"056Y"``, ``"56"`` -> ``"50-59"``; from 90 on one band, as de-identification asks."""
    found = re.search(r"\d+", age or "")
    if not found:
        return None
    decade = int(found[0]) // 10 * 10
    return "90+" if decade >= 90 else f"{decade}-{decade + 9}"


def refused(study_id: str, reason: str) -> dict[str, Any]:
    """A row that goes to quarantine with its reason."""
    return {"study_id": study_id, "refused": reason}


def known(**fields: Any) -> dict[str, Any]:
    """Only what is known."""
    return {key: value for key, value in fields.items() if value not in (None, "", {}, [])}

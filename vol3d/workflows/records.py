"""``report.json``: its name, and reading it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vol3d.errors import Vol3dError

RECORD = "report.json"
_KEYS = {"study_id", "sentences", "lesions", "grid"}


def load_record(path: Path) -> dict[str, Any]:
    """A ``report.json``, or the one in a folder.

    Raises:
        Vol3dError: it is not there, or not one.
    """
    path = path / RECORD if path.is_dir() else path
    try:
        record = json.loads(path.read_text())
        missing = _KEYS - set(record)
    except (OSError, ValueError, TypeError) as error:
        raise Vol3dError(f"expected a report.json of vol3d report at {path}, found none ({error})") from None
    if missing:
        raise Vol3dError(f"expected {', '.join(sorted(_KEYS))} in {path}, found no {', '.join(sorted(missing))}")
    return record


def text_of_report(path: Path) -> str | None:
    """``report.txt`` beside a ``report.json``, or in its folder; None if there is none."""
    text = (path if path.is_dir() else path.parent) / "report.txt"
    return text.read_text() if text.is_file() and (text.parent / RECORD).is_file() else None

"""Numbers as CSV and JSON: a NaN is an empty cell, or null."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any


def write_rows(rows: Iterable[Any], kind: type, path: Path) -> None:
    """One line a dataclass of `kind`; numbers to six digits."""
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, [f.name for f in fields(kind)])
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _cell(value) for name, value in asdict(row).items()})


def record(table: Any) -> dict[str, Any]:
    """A dataclass as JSON can hold it."""
    return {name: null(value) for name, value in asdict(table).items()}


def null(value: Any) -> Any:
    """The value, or None for NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    return value

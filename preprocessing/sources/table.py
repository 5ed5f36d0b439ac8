"""A table whose columns are a manifest's: CSV, TSV, XLSX or parquet. `docs/datasets/table.md`.

A row is a mask of a study, or a study. Columns: ``study_id``, ``patient_id``, ``ct``, ``pet``, ``split``, ``reading``;
``absent`` (phrases between semicolons); ``report.findings``, ``labels.NAME``, ``meta.NAME``; ``mask`` (path) with
``mask.phrases`` (between semicolons), ``mask.label``, ``mask.value``, ``mask.channel``, ``mask.finding_id``,
``mask.placed``, ``mask.if_empty``. Paths are relative to the table.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any

from preprocessing.sources import splits
from preprocessing.sources.tables import SUFFIXES, Cells, read_table
from vol3d.errors import ManifestError
from vol3d.text.label_names import finding_phrases

_PLAIN = ("study_id", "patient_id", "ct", "pet", "split", "reading")
_PATHS = ("ct", "pet", "reading", "mask")
_MASK = ("label", "finding_id", "phrases", "value", "channel", "placed", "if_empty")
_GROUPS = ("report", "labels", "meta")
COLUMNS = (*_PLAIN, "absent", "mask", *(f"mask.{key}" for key in _MASK), *(f"{group}.NAME" for group in _GROUPS))


def rows(path: Path) -> list[dict[str, Any]]:
    """Manifest rows; splits are drawn by patient if the table has none.

    Args:
        path: the table, or a folder with one.

    Raises:
        ManifestError: no table or several, an unknown column, a cell of the wrong kind.
    """
    table = _table(path)
    cells = read_table(table, ["study_id"])
    columns = dict.fromkeys(key for row in cells for key in row)
    for column in columns:
        _check(column, table)
    if "mask" not in columns and (about := [c for c in columns if c.startswith("mask.")]):
        raise ManifestError(
            f"{table}: expected a column 'mask' with the masks' files beside {', '.join(about)}, found none or an "
            f"empty one; name the files, or take these columns away"
        )
    out: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(cells, 2):
        if "study_id" not in row:
            raise ManifestError(f"{table}, row {number}: expected a study_id, found an empty cell")
        _merge(out.setdefault(row["study_id"], {"masks": []}), row, table, number)
    if not out:
        raise ManifestError(f"expected at least one study in {table}, found none")
    for study in out.values():
        _absences(study)
    return splits.complete(out.values(), f"table:{table.name}")


def _table(path: Path) -> Path:
    if path.is_file():
        return path
    found = sorted(p for p in path.glob("*") if p.suffix.lower() in SUFFIXES) if path.is_dir() else []
    if len(found) != 1:
        raise ManifestError(
            f"expected one table ({', '.join(SUFFIXES)}) at {path}, found {[p.name for p in found] or 'none'}; "
            f"name the file"
        )
    return found[0]


def _check(column: str, table: Path) -> None:
    group, dot, name = column.partition(".")
    if column in COLUMNS or (dot and name and group in _GROUPS):
        return
    near = difflib.get_close_matches(column, COLUMNS, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known columns: {', '.join(COLUMNS)}"
    raise ManifestError(f"{table}: unknown column {column!r}; {hint}")


def _merge(study: dict[str, Any], row: Cells, table: Path, number: int) -> None:
    """A study's rows agree, or leave a cell empty."""
    where = f"{table}, row {number}"
    for column, text in row.items():
        group, dot, name = column.partition(".")
        if column == "split" and (wrong := splits.fault(text)):
            raise ManifestError(f"{where}: {wrong}")
        if column in _PLAIN:
            _put(study, column, _path(text, table) if column in _PATHS else text, where)
        elif column == "absent":
            _put(study, column, _phrases(text), where)
        elif dot and group in _GROUPS:
            _put(study.setdefault(group, {}), name, _label(text, where) if group == "labels" else text, where)
    if "mask" in row:
        study["masks"].append(_mask(row, table, where))
    elif "mask.phrases" in row:
        raise ManifestError(
            f"{where}: expected a file under 'mask' for the phrases {row['mask.phrases']!r}, found an empty cell; what "
            f"is not there belongs under 'absent'"
        )


def _absences(study: dict[str, Any]) -> None:
    """A label of 0 makes its finding's phrases absent."""
    said = [p for name, value in study.get("labels", {}).items() if value == 0 for p in finding_phrases(name)]
    if said:
        study["absent"] = list(dict.fromkeys([*study.get("absent", []), *said]))


def _mask(row: Cells, table: Path, where: str) -> dict[str, Any]:
    mask: dict[str, Any] = {"path": _path(row["mask"], table)}
    for key in _MASK:
        if text := row.get(f"mask.{key}"):
            mask[key] = (
                _phrases(text) if key == "phrases" else _whole(text, where) if key in ("value", "channel") else text
            )
    return mask


def _put(into: dict[str, Any], key: str, value: Any, where: str) -> None:
    if into.setdefault(key, value) != value:
        raise ManifestError(f"{where}: expected {key} {into[key]!r} as in the study's other rows, found {value!r}")


def _path(text: str, table: Path) -> str:
    return str((table.parent / text).resolve())


def _phrases(text: str) -> list[str]:
    return [part.strip() for part in text.split(";") if part.strip()]


def _whole(text: str, where: str) -> int:
    if not re.fullmatch(r"-?\d+(\.0*)?", text):
        raise ManifestError(f"{where}: expected a whole number, found {text!r}")
    return int(float(text))


def _label(text: str, where: str) -> int | None:
    if text not in ("0", "1", "0.0", "1.0", "-1", "-1.0"):
        raise ManifestError(f"{where}: expected a label of 1, 0 or -1 (unknown), found {text!r}")
    return {"0": 0, "1": 1}.get(text.removesuffix(".0"))

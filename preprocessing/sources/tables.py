"""Tables beside images: CSV of any separator, XLSX, parquet -> dicts of text; what is missing is named."""

from __future__ import annotations

import csv
import difflib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vol3d.errors import ManifestError

SUFFIXES = (".csv", ".tsv", ".xlsx", ".parquet")
_FIELD_LIMIT = 10_000_000
_SKIPPED = (".", "__MACOSX")

Cells = dict[str, str]
"""A row: text by column; an empty cell is left out."""


def read_table(path: Path, columns: Sequence[str] = ()) -> list[Cells]:
    """Every row; a cell is text without spaces round it, and not there if it is empty.

    Args:
        path: one of `SUFFIXES`.
        columns: which have to be there.

    Raises:
        ManifestError: no such file, not a table, or a column is missing: with the columns there are.
    """
    if not path.is_file():
        raise ManifestError(f"expected a table at {path}, found nothing")
    names, rows = _reader(path)
    twice = sorted({n for n in names if n and names.count(n) > 1})
    if twice:
        raise ManifestError(f"{path}: expected each column once, found {', '.join(twice)} several times")
    for wanted in columns:
        if wanted not in names:
            near = difflib.get_close_matches(wanted, names, 1)
            hint = f"; did the set rename it to {near[0]!r}?" if near else ""
            raise ManifestError(f"{path}: expected the column {wanted!r}, found {', '.join(names) or 'none'}{hint}")
    out = []
    for number, row in enumerate(rows, 2):
        if any(row[len(names) :]):
            raise ManifestError(
                f"{path}, row {number}: expected {len(names)} cells, found {len(row)}; text that holds the separator "
                f"has to stand between quotation marks"
            )
        if cells := {k: v for k, v in zip(names, row, strict=False) if v != ""}:
            out.append(cells)
    return out


def indexed(rows: Iterable[Cells], column: str) -> dict[str, Cells]:
    """Rows by the text of one column; the first of equal ones."""
    out: dict[str, Cells] = {}
    for row in rows:
        if column in row:
            out.setdefault(row[column], row)
    return out


def contradictions(rows: Iterable[Cells], column: str) -> dict[str, str]:
    """Texts of `column` in several rows that differ in a cell which both have filled, and in which."""
    first: dict[str, Cells] = {}
    unlike: dict[str, set[str]] = {}
    count: Counter[str] = Counter()
    for row in rows:
        if column not in row:
            continue
        known = first.setdefault(row[column], row)
        count[row[column]] += 1
        if differ := {key for key, text in row.items() if known.get(key, text) != text}:
            unlike.setdefault(row[column], set()).update(differ)
    return {
        text: f"expected one row for {text!r}, found {count[text]} that differ in {', '.join(sorted(keys))}; keep one"
        for text, keys in unlike.items()
    }


def find_tables(folder: Path, *patterns: str) -> list[Path]:
    """Tables below `folder` whose names match a pattern, sorted; none is no error."""
    found = {path for pattern in patterns for path in folder.rglob(pattern) if path.is_file()}
    return sorted(p for p in found if p.suffix.lower() in SUFFIXES and not _hidden(p, folder))


def walk(folder: Path) -> Iterator[Path]:
    """Every file below, in the order of names; hidden folders and files are left out."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith(_SKIPPED))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def stem(name: str) -> str:
    """A file's name without ``.nii`` or ``.nii.gz``."""
    return name.removesuffix(".gz").removesuffix(".nii")


def image_beside(folder: Path, name: str) -> Path | None:
    """``name.nii.gz`` or ``name.nii`` in a folder."""
    return next((p for end in (".nii.gz", ".nii") if (p := folder / f"{name}{end}").is_file()), None)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(_SKIPPED) for part in path.relative_to(folder).parts)


def _reader(path: Path) -> tuple[list[str], Iterator[list[str]]]:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _csv(path)
    if suffix == ".xlsx":
        return _xlsx(path)
    if suffix == ".parquet":
        return _parquet(path)
    raise ManifestError(f"expected a table as {', '.join(SUFFIXES)}, found {path}")


def _csv(path: Path) -> tuple[list[str], Iterator[list[str]]]:
    csv.field_size_limit(_FIELD_LIMIT)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            separator = max(",;\t", key=head.count)
            file.seek(0)
            lines = [[cell.strip() for cell in row] for row in csv.reader(file, delimiter=separator)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"expected a table as CSV in UTF-8, found {error} in {path}") from error
    return (lines[0], iter(lines[1:])) if lines else ([], iter(()))


def _xlsx(path: Path) -> tuple[list[str], Iterator[list[str]]]:
    from zipfile import BadZipFile

    from openpyxl import load_workbook
    from openpyxl.utils.exceptions import InvalidFileException

    try:
        sheet = load_workbook(path, read_only=True, data_only=True).worksheets[0]
        lines = [[_text(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]
    except (InvalidFileException, BadZipFile, KeyError, OSError) as error:
        raise ManifestError(f"expected a sheet (.xlsx), found a file that cannot be read: {path} ({error})") from error
    return (lines[0], iter(lines[1:])) if lines else ([], iter(()))


def _parquet(path: Path) -> tuple[list[str], Iterator[list[str]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ManifestError(f"expected a parquet file, found one that cannot be read: {path} ({error})") from error
    rows = ([_text(row[name]) for name in table.column_names] for row in table.to_pylist())
    return list(table.column_names), rows


def _text(value: Any) -> str:
    """A cell as a CSV would hold it; lists and objects as JSON."""
    import json

    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value) if isinstance(value, (list, dict)) else str(value).strip()

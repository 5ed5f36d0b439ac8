"""A manifest: JSON lines, one study a row; paths are relative to the manifest's folder."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vol3d.cache import check_study_id
from vol3d.errors import ManifestError

SPLITS = ("train", "val", "test", None)
_KEYS = (
    "study_id", "patient_id", "ct", "pet", "masks", "absent", "labels", "findings", "report", "prior", "qa", "meta",
    "split",
)  # fmt: skip
_MASK_KEYS = ("path", "label", "finding_id", "phrases", "phrase", "value")


@dataclass(frozen=True, kw_only=True)
class MaskRow:
    """A mask file and the words for it."""

    path: Path
    phrases: tuple[str, ...]
    label: str | None = None
    finding_id: str | None = None
    value: int | None = None
    """The label to take from a multi-label file."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A study to process; at least one of ct and pet. See `docs/data-flow.md` for every field."""

    study_id: str
    patient_id: str
    ct: Path | None = None
    pet: Path | None = None
    masks: tuple[MaskRow, ...] = ()
    absent: tuple[str, ...] = ()
    labels: dict[str, int | None] = field(default_factory=dict)
    findings: tuple[dict[str, Any], ...] = ()
    report: dict[str, str] = field(default_factory=dict)
    prior: dict[str, Any] | None = None
    qa: tuple[dict[str, Any], ...] = ()
    meta: dict[str, Any] = field(default_factory=dict)
    split: str | None = None


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, and why."""

    study_id: str
    reason: str


def read_manifest(path: Path) -> Iterator[Row | BadRow]:
    """Every line as a `Row`, or as a `BadRow` with the reason; a bad line never stops the others.

    Raises:
        ManifestError: the file is missing or empty.
    """
    path = Path(path)
    if not path.is_file():
        raise ManifestError(f"expected a manifest (JSON lines), found no file at {path}")
    seen: set[str] = set()
    lines = [(n, line) for n, line in enumerate(path.read_text().splitlines(), 1) if line.strip()]
    if not lines:
        raise ManifestError(f"expected at least one study in {path}, found none")
    for number, line in lines:
        name = f"line {number}"
        try:
            record = json.loads(line)
            name = str(record.get("study_id", name)) if isinstance(record, dict) else name
            row = parse_row(record, path.parent)
            if row.study_id in seen:
                raise ManifestError(f"expected one row a study, found study_id {row.study_id!r} twice")
            seen.add(row.study_id)
            yield row
        except json.JSONDecodeError as error:
            yield BadRow(name, f"expected one JSON object a line, found {error}")
        except ManifestError as error:
            yield BadRow(name, str(error))


def parse_row(record: Any, folder: Path) -> Row:
    """Checks one row and resolves its paths.

    Raises:
        ManifestError: unknown key, wrong type, missing image or file, unsafe study id.
    """
    if not isinstance(record, dict):
        raise ManifestError(f"expected a JSON object, found {type(record).__name__}")
    _check_keys(record, _KEYS, "row")
    study_id = check_study_id(record.get("study_id", ""))
    images = {k: _existing(record[k], folder, k) for k in ("ct", "pet") if record.get(k)}
    if not images:
        raise ManifestError("expected at least one image, found neither 'ct' nor 'pet'")
    if record.get("split") not in SPLITS:
        raise ManifestError(f"expected split train, val or test, found {record['split']!r}")
    for phrase in record.get("absent", []):
        _text(phrase, "absent")
    return Row(
        study_id=study_id,
        patient_id=str(record.get("patient_id", study_id)),
        masks=tuple(_parse_mask(m, folder) for m in record.get("masks", [])),
        absent=tuple(record.get("absent", [])),
        labels=dict(record.get("labels", {})),
        findings=tuple(record.get("findings", [])),
        report=dict(record.get("report", {})),
        prior=record.get("prior"),
        qa=tuple(record.get("qa", [])),
        meta=dict(record.get("meta", {})),
        split=record.get("split"),
        ct=images.get("ct"),
        pet=images.get("pet"),
    )


def _parse_mask(record: Any, folder: Path) -> MaskRow:
    if not isinstance(record, dict):
        raise ManifestError(f"expected each mask to be an object with a path, found {record!r}")
    _check_keys(record, _MASK_KEYS, "mask")
    phrases = record.get("phrases") or ([record["phrase"]] if record.get("phrase") else [])
    if not phrases:
        raise ManifestError(f"expected 'phrases' (or 'phrase') for mask {record.get('path')!r}, found none")
    return MaskRow(
        path=_existing(record.get("path"), folder, "mask path"),
        phrases=tuple(_text(p, "phrases") for p in phrases),
        label=record.get("label"),
        finding_id=record.get("finding_id"),
        value=record.get("value"),
    )


def _check_keys(record: dict[str, Any], known: tuple[str, ...], what: str) -> None:
    for key in record:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}"
            raise ManifestError(f"unknown {what} key {key!r}{hint}")


def _existing(value: Any, folder: Path, what: str) -> Path:
    path = folder / _text(value, what)
    if not path.exists():
        raise ManifestError(f"expected {what} at {value!r} relative to the manifest, found nothing there")
    return path


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ManifestError(f"expected text in {what!r}, found {value!r}")
    return value

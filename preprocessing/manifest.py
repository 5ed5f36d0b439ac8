"""A manifest: JSON lines, one study a row; paths are relative to the manifest's folder."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from preprocessing.options import ReadOptions, load_options
from vol3d.cache import check_study_id
from vol3d.config import from_tree
from vol3d.errors import ConfigError, ManifestError
from vol3d.files import write_whole

SPLITS = ("train", "val", "test", None)
_KEYS = (
    "study_id", "patient_id", "ct", "pet", "masks", "absent", "labels", "findings", "report", "prior", "qa", "meta",
    "split", "reading", "refused",
)  # fmt: skip
_MASK_KEYS = ("path", "label", "finding_id", "phrases", "phrase", "value", "channel", "placed", "if_empty")

Placed = Literal["header", "array", "turned"]
IfEmpty = Literal["absent", "unknown"]


@dataclass(frozen=True, kw_only=True)
class MaskRow:
    """A mask file and the words for it."""

    path: Path
    phrases: tuple[str, ...]
    label: str | None = None
    finding_id: str | None = None
    value: int | tuple[int, ...] | None = None
    """The label, or labels, to take from a multi-label file."""
    channel: int | None = None
    """Of a 4D file whose first axis counts masks."""
    placed: Placed = "header"
    """Where the mask lies: as its header says; voxel by voxel on the array of the CT (else PET), whatever its header
    says; or so with both in-plane axes of the array reversed."""
    if_empty: IfEmpty = "absent"
    """What an empty mask says of its phrases. A lesion is not there; an organ may just not be in view."""


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
    reading: ReadOptions | None = None
    """Choices for this study: `preprocessing.options`."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, and why."""

    study_id: str
    reason: str


def read_manifest(path: Path, shard: tuple[int, int] = (1, 1)) -> Iterator[Row | BadRow]:
    """Every line as a `Row`, or as a `BadRow` with the reason; a bad line never stops the others.

    Of shard I/N lines I, I + N, ... (1-based; empty ones do not count) are yielded: only the files of these are looked
    for, but a study that another line names already is found in any of them.

    Raises:
        ManifestError: the file is missing, empty, or no text.
        ConfigError: I is not one of 1 to N.
    """
    index, count = check_shard(shard)
    path = Path(path)
    if not path.is_file():
        what = "a folder: name its layout with --source, or pass the manifest in it" if path.is_dir() else "no file"
        raise ManifestError(f"expected a manifest (JSON lines) at {path}, found {what}")
    seen: set[str] = set()
    position = 0
    for number, line in _lines(path):
        position += 1
        name, mine = f"line {number}", (position - index) % count == 0
        try:
            record = json.loads(line)
            name = str(record.get("study_id", name)) if isinstance(record, dict) else name
            study_id, twice = name, name in seen
            seen.add(name)
            if not mine:
                continue
            if twice:
                name = f"{study_id} (line {number})"  # the first row of that id is a study like any other
                raise ManifestError(f"expected one row a study, found study_id {study_id!r} twice")
            yield parse_row(record, path.parent)
        except json.JSONDecodeError as error:
            if mine:
                yield BadRow(name, f"expected one JSON object a line, found {error}")
        except ManifestError as error:
            yield BadRow(name, str(error))
    if not position:
        raise ManifestError(f"expected at least one study in {path}, found none")


def check_shard(shard: tuple[int, int]) -> tuple[int, int]:
    """I and N of shard I/N.

    Raises:
        ConfigError: I is not one of 1 to N.
    """
    index, count = shard
    if not 1 <= index <= count:
        raise ConfigError(f"expected --shard I/N with 1 <= I <= N, found {index}/{count}")
    return index, count


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not empty with their numbers; one at a time, for reports make a manifest large."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:  # a report may hold other ends of lines
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"expected a manifest (JSON lines in UTF-8), found other bytes in {path}: {error}"
        ) from None


def write_manifest(rows: Iterable[dict[str, Any]], path: Path) -> Path:
    """Writes rows in one step, so that shards that start together all see a whole file; returns `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path


def parse_row(record: Any, folder: Path) -> Row:
    """Checks one row and resolves its paths. A key whose value is null is as good as left out.

    Raises:
        ManifestError: unknown key, wrong type, missing image or file, unsafe study id.
    """
    if not isinstance(record, dict):
        raise ManifestError(f"expected a JSON object, found {type(record).__name__}")
    _check_keys(record, _KEYS, "row")
    if record.get("refused"):
        raise ManifestError(_text(record["refused"], "refused"))
    record = {key: value for key, value in record.items() if value is not None}
    study_id = check_study_id(record.get("study_id", ""))
    images = {k: _existing(record[k], folder, k) for k in ("ct", "pet") if record.get(k)}
    if not images:
        raise ManifestError("expected at least one image, found neither 'ct' nor 'pet'")
    if record.get("split") not in SPLITS:
        raise ManifestError(f"expected split train, val or test, found {record['split']!r}")
    return Row(
        study_id=study_id,
        patient_id=_identity(record.get("patient_id", study_id)),
        masks=tuple(_parse_mask(m, folder) for m in _items(record, "masks", dict, "objects with a path")),
        absent=tuple(_text(p, "absent") for p in _items(record, "absent", str, "phrases")),
        labels=_labels(record),
        findings=tuple(_items(record, "findings", dict, "objects")),
        report={k: _text(v, f"report: {k}") for k, v in _object(record, "report").items() if v not in (None, "")},
        prior=_object(record, "prior") or None,
        qa=tuple(_items(record, "qa", dict, "objects")),
        meta=_object(record, "meta"),
        split=record.get("split"),
        ct=images.get("ct"),
        pet=images.get("pet"),
        reading=_options(record["reading"], folder) if "reading" in record else None,
    )


def _options(value: Any, folder: Path) -> ReadOptions:
    try:
        if isinstance(value, dict):
            return from_tree(ReadOptions, value, "reading")
        return load_options(_existing(value, folder, "reading"))
    except ConfigError as error:
        raise ManifestError(str(error)) from error


def _parse_mask(record: dict[str, Any], folder: Path) -> MaskRow:
    _check_keys(record, _MASK_KEYS, "mask")
    record = {key: value for key, value in record.items() if value is not None}
    phrases = _items(record, "phrases", str, "phrases") or ([record["phrase"]] if record.get("phrase") else [])
    if not phrases:
        raise ManifestError(f"expected 'phrases' (or 'phrase') for mask {record.get('path')!r}, found none")
    placed, if_empty = record.get("placed", "header"), record.get("if_empty", "absent")
    for key, found, known in (("placed", placed, get_args(Placed)), ("if_empty", if_empty, get_args(IfEmpty))):
        if found not in known:
            raise ManifestError(f"expected the {key!r} of a mask to be one of {', '.join(known)}, found {found!r}")
    channel = record.get("channel")
    if channel is not None and (not _is_count(channel, 0) or "value" in record):
        raise ManifestError(f"expected the 'channel' of a mask to count from 0, without a 'value', found {channel!r}")
    return MaskRow(
        path=_existing(record.get("path"), folder, "mask path"),
        phrases=tuple(_text(p, "phrases") for p in phrases),
        label=_text(record["label"], "label") if "label" in record else None,
        finding_id=_text(record["finding_id"], "finding_id") if "finding_id" in record else None,
        value=_values(record.get("value")),
        channel=channel,
        placed=placed,
        if_empty=if_empty,
    )


def _values(value: Any) -> int | tuple[int, ...] | None:
    several = value if isinstance(value, list) else [value]
    if value is not None and not (several and all(_is_count(v, 1) for v in several)):
        raise ManifestError(f"expected the 'value' of a mask to be a label of its file (1, 2, ...), found {value!r}")
    return tuple(value) if isinstance(value, list) else value


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _items(record: dict[str, Any], key: str, kind: type, what: str) -> list[Any]:
    """A list of one type; a bare text, which would be taken apart into letters, is refused."""
    items = record.get(key, [])
    if not isinstance(items, list) or not all(isinstance(item, kind) for item in items):
        raise ManifestError(f"expected {key!r} to be a list of {what}, found {items!r}")
    return items


def _object(record: dict[str, Any], key: str) -> dict[str, Any]:
    value = record.get(key, {})
    if not isinstance(value, dict):
        raise ManifestError(f"expected {key!r} to be an object, found {value!r}")
    return value


def _labels(record: dict[str, Any]) -> dict[str, int | None]:
    labels = _object(record, "labels")
    for name, value in labels.items():
        if value not in (0, 1, None):
            raise ManifestError(f"expected label {name!r} to be 1, 0 or null, found {value!r}")
    return labels


def _identity(value: Any) -> str:
    """A patient's id; a number is taken as its digits, an empty one would make one patient of many."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return _text(value, "patient_id")


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

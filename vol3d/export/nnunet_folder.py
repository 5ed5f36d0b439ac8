"""The folder that an nnU-Net export writes: whose files are in it, and what an earlier export left there.

`SIDECAR` is written before the first image and names every case that may lie in the folder, so that an export which was
cut short is known for one; dataset.json, without which nothing reads the folder, is taken away first and comes last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from vol3d.errors import ConfigError
from vol3d.files import write_whole

SIDECAR = "vol3d.jsonl"
"""Beside dataset.json: what nnU-Net has no place for, a study a line."""

DATASET = "dataset.json"
_PARTS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
_IMAGE = re.compile(r"(.+)_\d{4}\.nii\.gz")
_LABELS = re.compile(r"(.+)\.nii\.gz")


def earlier_cases(out: Path) -> set[str]:
    """Cases of an earlier export to `out`.

    Raises:
        ConfigError: the folder holds another data set, or cases that no export wrote.
    """
    if (out / DATASET).is_file() and not (out / SIDECAR).is_file():
        raise ConfigError(f"expected a new folder, found another data set in {out}; choose another --out")
    known = _named(out / SIDECAR)
    if strange := [path for path in _files(out) if _case(path) not in known]:
        shown = ", ".join(str(path.relative_to(out)) for path in strange[:3])
        raise ConfigError(
            f"expected a new folder, or one with an earlier export alone, found {len(strange)} files that "
            f"{out / SIDECAR} does not name: {shown}; choose another --out, or move them away"
        )
    return known


def begin(out: Path, cases: Iterable[str]) -> None:
    """Makes the folder and says in its sidecar which cases may come to lie in it."""
    for part in _PARTS[:2]:
        (out / part).mkdir(parents=True, exist_ok=True)
    write_whole(out / SIDECAR, "".join(json.dumps({"study_id": case}) + "\n" for case in sorted(cases)))
    (out / DATASET).unlink(missing_ok=True)


def clear(out: Path, written: set[Path]) -> list[Path]:
    """Removes the images and labels of an earlier export that this one has not written; returns them."""
    stale = [path for path in _files(out) if path not in written]
    for path in stale:
        path.unlink()
    for part in _PARTS[2:]:
        if stale and (out / part).is_dir() and not any((out / part).iterdir()):
            (out / part).rmdir()
    return stale


def _files(out: Path) -> Iterator[Path]:
    """In the order of names; hidden files, such as half a file of an export cut short, are none."""
    for part in _PARTS:
        if (out / part).is_dir():
            yield from sorted(path for path in (out / part).iterdir() if not path.name.startswith("."))


def _case(path: Path) -> str | None:
    pattern = _IMAGE if path.parent.name.startswith("images") else _LABELS
    found = pattern.fullmatch(path.name)
    return found[1] if found and path.is_file() else None


def _named(sidecar: Path) -> set[str]:
    if not sidecar.is_file():
        return set()
    try:
        lines = sidecar.read_text(encoding="utf-8-sig").splitlines()
        return {str(json.loads(line)["study_id"]) for line in lines if line.strip()}
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"expected rows with a study_id in {sidecar}, found {error!r}: which files are of an earlier export cannot "
            f"be told; choose another --out"
        ) from error

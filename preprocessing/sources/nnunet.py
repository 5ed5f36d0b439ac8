"""nnU-Net raw (version 2): ``imagesTr/CASE_0000.nii.gz``, ``labelsTr/CASE.nii.gz``, ``dataset.json``.

`docs/datasets/nnunet.md`. A folder that `vol3d export nnunet` wrote also holds ``vol3d.jsonl``, with what nnU-Net knows
no place for: phrases, absences, reports, patients' keys, splits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preprocessing.sources import splits
from preprocessing.sources.common import class_mask, mapping, read_json, read_object, refused, safe_id, whole
from vol3d.errors import ManifestError

SIDECAR = "vol3d.jsonl"
FOLD = 0
"""Of ``splits_final.json``: the one that nnU-Net's papers report first."""

_CT = re.compile(r"\bct\b|computed", re.I)
_PET = re.compile(r"\bpe?t\b|\bsuv\b", re.I)


def rows(folder: Path) -> list[dict[str, Any]]:
    """Manifest rows of ``imagesTr``, and of ``imagesTs`` where ``labelsTs`` is there too.

    Raises:
        ManifestError: no dataset.json, no CT or PET among its channels, voxels to ignore, no case.
    """
    dataset = read_object(folder / "dataset.json", "nnU-Net's dataset.json")
    found = list(cases(folder, dataset, channels(folder, dataset), _labels(folder, dataset)))
    if (folder / SIDECAR).is_file():
        known = _sidecar(folder / SIDECAR)
        return [_with_sidecar(row, known.get(row["study_id"], {})) for row in found]
    split_of = published(folder)
    for row in found:
        if row["study_id"] in split_of:
            row["split"] = split_of[row["study_id"]]
    return splits.complete(found, f"nnunet:{dataset.get('name', folder.name)}")


def channels(folder: Path, dataset: dict[str, Any]) -> dict[str, str]:
    """Which four-digit channel holds ``ct`` and which ``pet``."""
    where = folder / "dataset.json"
    names = mapping(dataset, "channel_names", where) or mapping(dataset, "modality", where)
    out: dict[str, str] = {}
    for key, name in names.items():
        image = "ct" if _CT.search(str(name)) else "pet" if _PET.search(str(name)) else None
        if image and image not in out:
            out[image] = f"{whole(key, where, 'the number of a channel'):04d}"
        elif image:
            raise ManifestError(
                f"{folder / 'dataset.json'}: expected one channel of CT and one of PET, found {names}; name "
                f"the PET's PET"
            )
    if not out:
        raise ManifestError(
            f"{folder / 'dataset.json'}: expected a channel named CT or PET, found {names or 'no channel_names'}; "
            f"other images are not read"
        )
    return out


def cases(
    folder: Path, dataset: dict[str, Any], channel_of: dict[str, str], labels: dict[str, int | list[int]]
) -> Iterator[dict[str, Any]]:
    """A row a case, without a split; a case that lacks a file is refused by name.

    Raises:
        ManifestError: no case at all.
    """
    ending = str(dataset.get("file_ending", ".nii.gz"))
    if ending not in (".nii.gz", ".nii"):
        raise ManifestError(
            f"{folder / 'dataset.json'}: expected file_ending .nii.gz or .nii, found {ending!r}; convert it"
        )
    none = True
    for part, split in (("Tr", None), ("Ts", "test")):
        images, truth = folder / f"images{part}", folder / f"labels{part}"
        if not images.is_dir() or (part == "Ts" and not truth.is_dir()):
            continue
        for case in sorted({p.name[: -len(ending) - 5] for p in images.glob(f"*_[0-9][0-9][0-9][0-9]{ending}")}):
            none = False
            paths = {image: images / f"{case}_{channel}{ending}" for image, channel in channel_of.items()}
            yield _case(case, paths, truth / f"{case}{ending}", labels, split)
    if none:
        raise ManifestError(
            f"expected cases like imagesTr/CASE_0000{ending} in {folder}, found none; is it an nnU-Net raw folder?"
        )


def published(folder: Path) -> dict[str, str]:
    """Study id -> train or val, of fold `FOLD` of ``splits_final.json``; empty where there is no such file."""
    path = folder / "splits_final.json"
    if not path.is_file():
        return {}
    folds = read_json(path, "nnU-Net's splits_final.json")
    try:
        return {safe_id(case): split for split in ("train", "val") for case in folds[FOLD][split]}
    except (KeyError, IndexError, TypeError) as error:
        raise ManifestError(f"expected folds with train and val in {path}, found none ({error!r})") from error


def _case(
    case: str, paths: dict[str, Path], truth: Path, labels: dict[str, int | list[int]], split: str | None
) -> dict[str, Any]:
    study_id = safe_id(case)
    missing = [p.name for p in (*paths.values(), truth) if not p.is_file()]
    if missing:
        return refused(study_id, f"expected {', '.join(missing)} for case {case}, found nothing there")
    row = {
        "study_id": study_id, "patient_id": case, **{image: str(path.resolve()) for image, path in paths.items()},
        "masks": [class_mask(truth, name, value) for name, value in labels.items()],
    }  # fmt: skip
    return row | ({"split": split} if split else {})


def _labels(folder: Path, dataset: dict[str, Any]) -> dict[str, int | list[int]]:
    """Class -> label, or the labels of a region; without the background."""
    where = folder / "dataset.json"
    table = mapping(dataset, "labels", where)
    if all(str(key).isdigit() for key in table):  # version 1: {"1": "liver"}
        table = {name: key for key, name in table.items()}
    out: dict[str, int | list[int]] = {}
    for name, value in table.items():
        if str(name).lower() == "ignore":
            raise ManifestError(
                f"{folder / 'dataset.json'}: expected every voxel to be labelled, found the class 'ignore' ({value}); "
                f"a mask with voxels that nobody judged cannot be kept"
            )
        stated = [whole(v, where, f"the label of {name!r}") for v in (value if isinstance(value, list) else [value])]
        values = [v for v in stated if v != 0]
        if values:
            out[str(name)] = values if isinstance(value, list) else values[0]
    if not out:
        raise ManifestError(f"{folder / 'dataset.json'}: expected at least one class in labels, found {table}")
    return out


def _sidecar(path: Path) -> dict[str, dict[str, Any]]:
    """Rows of `SIDECAR` by study."""
    out = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            out[str(row["study_id"])] = row
        except (ValueError, KeyError, TypeError) as error:
            raise ManifestError(
                f"{path}, line {number}: expected a row as vol3d export nnunet writes it, found {error!r}; export "
                f"again, or take the file away: the masks are then read without phrases and reports"
            ) from error
    return out


def _with_sidecar(row: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """What `vol3d export nnunet` kept beside the images comes back."""
    if "refused" in row:
        return row
    stated = record.get("masks", {})
    masks = [{**m, "if_empty": "unknown", **stated[m["label"]]} for m in row["masks"] if m["label"] in stated]
    more = {k: v for k, v in record.items() if k not in ("masks", "study_id")}
    return {**row, **more, "masks": masks}

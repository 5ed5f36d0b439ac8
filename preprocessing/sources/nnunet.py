"""nnU-Net raw (version 2): ``imagesTr/CASE_0000.nii.gz``, ``labelsTr/CASE.nii.gz``, ``dataset.json``.

`docs/datasets/nnunet.md`. A folder that `vol3d export nnunet` wrote also holds ``vol3d.jsonl``
(`preprocessing.sources.nnunet_sidecar`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preprocessing.sources import splits
from preprocessing.sources.common import class_mask, mapping, read_json, read_object, refused, safe_id, whole
from preprocessing.sources.nnunet_channels import channels
from preprocessing.sources.nnunet_sidecar import SIDECAR, read_sidecar, with_sidecar
from vol3d.errors import ManifestError

FOLD = 0
"""Of ``splits_final.json``: the one that nnU-Net's papers report first."""


def rows(folder: Path) -> list[dict[str, Any]]:
    """Manifest rows of ``imagesTr``, and of ``imagesTs`` where ``labelsTs`` is there too.

    Raises:
        ManifestError: no dataset.json, no CT or PET among its channels, voxels to ignore, no case.
    """
    dataset = read_object(folder / "dataset.json", "nnU-Net's dataset.json")
    labels = _labels(folder, dataset)
    found = list(cases(folder, dataset, channels(folder, dataset), labels))
    records = read_sidecar(folder / SIDECAR)
    _split(found, folder, {study: record.get("split") for study, record in records.items()})
    if records:
        found = with_sidecar(found, records, list(labels))
    return splits.complete(found, f"nnunet:{dataset.get('name', folder.name)}")


def _split(found: list[dict[str, Any]], folder: Path, kept: dict[str, str | None]) -> None:
    """Gives the rows of ``imagesTr`` their split: that of ``splits_final.json``, whose cases alone nnU-Net trains on;
    without the file, that of the sidecar; else train if there is a test set, or another row has a split."""
    training = [row for row in found if row.get("split") != "test"]
    if fold := {safe_id(case): split for case, split in published(folder).items()}:
        split_of = {row["study_id"]: fold.get(row["study_id"]) for row in training}
        if training and not any(split_of.values()):
            raise ManifestError(
                f"{folder / 'splits_final.json'}: expected cases of imagesTr in fold {FOLD}, like "
                f"{next(iter(split_of), 'CASE')}, found none of them but {', '.join(list(fold)[:3])}"
            )
    else:
        stated = {row["study_id"]: kept.get(row["study_id"]) for row in training}
        some = len(training) < len(found) or any(split in ("train", "val") for split in stated.values())
        split_of = {
            study: split if split in ("train", "val") else "train" if some and study not in kept else None
            for study, split in stated.items()
        }
    for row in training:
        if split := split_of[row["study_id"]]:
            row["split"] = split


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
    """Case -> train or val, of fold `FOLD` of ``splits_final.json``; empty where there is no such file.

    A case in both is val; a fold that validates on all that it trains on has no val.

    Raises:
        ManifestError: it holds no folds.
    """
    path = folder / "splits_final.json"
    if not path.is_file():
        return {}
    folds = read_json(path, "nnU-Net's splits_final.json")
    try:
        train, val = folds[FOLD]["train"], folds[FOLD]["val"]
    except (KeyError, IndexError, TypeError) as error:
        raise ManifestError(f"expected folds with train and val in {path}, found none ({error!r})") from error
    for names in (train, val):
        if not isinstance(names, list) or not all(isinstance(case, str) for case in names):
            raise ManifestError(f"{path}: expected lists of cases under train and val, found {str(names)[:60]}")
    if set(train) <= set(val):
        val = [case for case in val if case not in train]
    return {case: split for split, names in (("train", train), ("val", val)) for case in names}


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

"""A cache as an nnU-Net raw data set (version 2), which `nnUNetv2_train` takes as it is.

Images and masks are those of the cache's common grid. Masks may overlap in a cache and cannot in a label map: every
combination of classes that meets in a voxel gets a label of its own, and each class is written as a region, the list of
labels that contain it (nnU-Net's region-based training). Nothing is lost, so `vol3d preprocess --source nnunet` reads
the same voxels back. Where no classes meet, labels are plain.

Format: nnU-Net, documentation/dataset_format.md and region_based_training.md.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vol3d.boxes import bounding_box
from vol3d.cache import Cache, Entry, MaskRecord
from vol3d.errors import CacheError, ConfigError
from vol3d.export.nifti import write_nifti
from vol3d.files import write_whole
from vol3d.types import Array, Zyx

SIDECAR = "vol3d.jsonl"
"""Beside dataset.json: what nnU-Net has no place for, a study a line."""

UNNAMED = "finding"
"""Class of masks that share no label across studies, such as those of report sentences."""

FOLDS = 5
MOST_LABELS = 65_535
_CHANNEL = {"ct": "CT", "pet": "PET"}

Combination = tuple[str, ...]
"""Classes that meet in a voxel, sorted."""


@dataclass
class NnunetSet:
    """What was written."""

    folder: Path
    train: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)
    labels: dict[str, int | list[int]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Study to reason."""
    notes: list[str] = field(default_factory=list)


def export_nnunet(
    root: Path, out: Path, *, classes: Sequence[str] = (), images: Sequence[str] = (), complete: bool = False
) -> NnunetSet:
    """Writes ``imagesTr``, ``labelsTr`` (and ``Ts`` for the test split), dataset.json, splits_final.json, vol3d.jsonl.

    Args:
        root: of the cache.
        out: folder, ``DatasetNNN_Name`` below ``nnUNet_raw``; must hold no other data set.
        classes: labels of masks to export; all of the cache's by default.
        images: ``ct`` and/or ``pet``, the channels; by default what the studies have, if all have the same.
        complete: leave out studies that say of some class neither where it is nor that it is absent, since nnU-Net
            takes what is not labelled for background.

    Raises:
        CacheError, ConfigError: nothing to export, studies with other images, or a class that no study has.
    """
    cache = Cache(root)
    entries = [cache.entry(study) for study in cache.study_ids]
    if not entries:
        raise CacheError(f"expected studies in {root}, found none")
    if (out / "dataset.json").is_file() and not (out / SIDECAR).is_file():
        raise ConfigError(f"expected a new folder, found another data set in {out}; choose another --out")
    chosen = _classes(entries, classes)
    channels = _images(entries, images)
    done = NnunetSet(Path(out))
    phrases = _phrases(entries, chosen)
    records, found = [], _Labels(chosen)
    for part in ("imagesTr", "labelsTr"):
        (out / part).mkdir(parents=True, exist_ok=True)
    for entry in entries:
        silent = [c for c in chosen if not _stated(entry, c, phrases[c])]
        if missing := [c for c in channels if c not in entry.images]:
            done.left_out[entry.study_id] = f"no {' and no '.join(missing)}"
        elif complete and silent:
            done.left_out[entry.study_id] = f"says nothing of {', '.join(silent)}"
        else:
            _write_study(out, entry, channels, found, done)
            records.append(_record(entry, chosen))
    if not done.train:
        raise CacheError(f"expected studies to train on in {root}, found none: {list(done.left_out.values())[:3]}")
    done.labels = found.table()
    _describe(out, done, channels, found, phrases, records, [e for e in entries if e.study_id in done.train])
    _note(done, entries, chosen, phrases, complete)
    return done


class _Labels:
    """Numbers of combinations, in the order in which they are met: studies sorted, then voxels."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.number: dict[Combination, int] = {(c,): n for n, c in enumerate(self.classes, 1)}

    def of(self, members: dict[str, Array], shape: Zyx) -> Array:
        """Label map of one study, uint16."""
        met: list[Combination] = [()]
        code = np.zeros(shape, np.int32)
        for name in self.classes:
            box = bounding_box(members[name]) if name in members else None
            if box is None:
                continue
            where = tuple(slice(a, b) for a, b in zip(*box, strict=True))
            inside, current = members[name][where] > 0, code[where]
            for old in np.unique(current[inside]):
                met.append((*met[old], name))
                current[inside & (current == old)] = len(met) - 1
        left = set(np.unique(code).tolist())  # a class that another covers whole leaves no voxels of its own
        numbers = [0] + [self._number(names) if n in left else 0 for n, names in enumerate(met[1:], 1)]
        return np.array(numbers, np.uint16)[code]

    def _number(self, names: Combination) -> int:
        number = self.number.setdefault(names, len(self.number) + 1)
        if number > MOST_LABELS:
            raise ConfigError(
                f"expected at most {MOST_LABELS} combinations of classes, found more; export fewer --label"
            )
        return number

    def table(self) -> dict[str, int | list[int]]:
        """nnU-Net's ``labels``."""
        overlapping = len(self.number) > len(self.classes)
        out: dict[str, int | list[int]] = {"background": 0}
        for name in self.classes:
            numbers = [n for names, n in self.number.items() if name in names]
            out[name] = numbers if overlapping else numbers[0]
        return out

    @property
    def overlapping(self) -> bool:
        return len(self.number) > len(self.classes)


def mask_class(mask: MaskRecord) -> str:
    """Class of a mask in a label map."""
    return mask.label or UNNAMED


def _classes(entries: Iterable[Entry], wanted: Sequence[str]) -> list[str]:
    counts = Counter(mask_class(m) for entry in entries for m in entry.masks)
    if unknown := [c for c in wanted if c not in counts]:
        raise ConfigError(f"expected --label to be one of {', '.join(sorted(counts))}, found {unknown[0]!r}")
    chosen = list(dict.fromkeys(wanted)) or sorted(counts)
    if not chosen:
        raise CacheError("expected masks in the cache, found none: nothing to train on")
    return chosen


def _images(entries: Sequence[Entry], wanted: Sequence[str]) -> tuple[str, ...]:
    if unknown := [image for image in wanted if image not in _CHANNEL]:
        raise ConfigError(f"expected --image ct or --image pet, found {unknown[0]!r}")
    if wanted:
        return tuple(dict.fromkeys(wanted))
    kinds = Counter(entry.images for entry in entries)
    if len(kinds) > 1:
        shown = ", ".join(f"{count} with {' and '.join(kind)}" for kind, count in kinds.items())
        raise ConfigError(
            f"expected studies of the same images, since nnU-Net has fixed channels, found {shown}; choose them with "
            f"--image ct, --image pet or both (studies that lack one are left out)"
        )
    return next(iter(kinds))


def _phrases(entries: Iterable[Entry], classes: Sequence[str]) -> dict[str, set[str]]:
    out: dict[str, set[str]] = {c: set() for c in classes}
    for entry in entries:
        for mask in entry.masks:
            if mask_class(mask) in out:
                out[mask_class(mask)] |= set(mask.phrases)
    return out


def _stated(entry: Entry, name: str, phrases: set[str]) -> bool:
    return any(mask_class(m) == name for m in entry.masks) or bool(phrases & set(entry.absent))


def _write_study(out: Path, entry: Entry, channels: Sequence[str], found: _Labels, done: NnunetSet) -> None:
    part = "Ts" if entry.split == "test" else "Tr"
    whole = (0, 0, 0), entry.grid.shape
    members: dict[str, Array] = {}
    for mask in entry.masks:
        if (name := mask_class(mask)) in found.classes:
            members[name] = members.get(name, 0) | entry.read_mask(mask.name, *whole)
    for folder in (f"images{part}", f"labels{part}"):
        (out / folder).mkdir(exist_ok=True)
    for number, image in enumerate(channels):
        path = out / f"images{part}" / f"{entry.study_id}_{number:04d}.nii.gz"
        write_nifti(path, entry.read(image, *whole), entry.grid)
    labels = found.of(members, entry.grid.shape)
    write_nifti(out / f"labels{part}" / f"{entry.study_id}.nii.gz", _smallest(labels), entry.grid)
    (done.test if part == "Ts" else done.train).append(entry.study_id)


def _smallest(labels_ZYX: Array) -> Array:
    return labels_ZYX.astype(np.uint8) if labels_ZYX.max(initial=0) < 256 else labels_ZYX


def _record(entry: Entry, classes: Sequence[str]) -> dict[str, Any]:
    """The manifest's fields of a study; masks by class. Of masks in one class, the phrases that all of them share."""
    masks: dict[str, dict[str, Any]] = {}
    for mask in entry.masks:
        name = mask_class(mask)
        if name not in classes:
            continue
        row = masks.setdefault(name, {"phrases": list(mask.phrases)})
        row["phrases"] = [p for p in row["phrases"] if p in mask.phrases] or [name.replace("_", " ")]
        if mask.finding_id and row.setdefault("finding_id", mask.finding_id) != mask.finding_id:
            del row["finding_id"]
    kept = {key: entry.attributes.get(key) for key in ("absent", "findings", "labels", "report", "prior", "qa", "meta")}
    patient = entry.attributes.get("patient_key")
    return {
        "study_id": entry.study_id, "split": entry.split, **({"patient_id": f"key:{patient}"} if patient else {}),
        "masks": masks, **{k: v for k, v in kept.items() if v},
    }  # fmt: skip


def _describe(
    out: Path, done: NnunetSet, channels: Sequence[str], found: _Labels, phrases: dict[str, set[str]],
    records: list[dict[str, Any]], training: list[Entry],
) -> None:  # fmt: skip
    dataset: dict[str, Any] = {
        "channel_names": {str(n): _CHANNEL[image] for n, image in enumerate(channels)},
        "labels": done.labels,
        "numTraining": len(done.train),
        "file_ending": ".nii.gz",
        "name": out.name,
        "description": "written by vol3d export nnunet; vol3d.jsonl holds phrases, absences and splits",
        "phrases": {name: sorted(words) for name, words in phrases.items()},
    }
    if found.overlapping:
        dataset["regions_class_order"] = [found.number[(name,)] for name in found.classes]
    write_whole(out / "dataset.json", json.dumps(dataset, indent=2) + "\n")
    write_whole(out / SIDECAR, "".join(json.dumps(record) + "\n" for record in records))
    write_whole(out / "splits_final.json", json.dumps(folds(training), indent=1) + "\n")


def folds(entries: Sequence[Entry]) -> list[dict[str, list[str]]]:
    """The cache's train and val as one fold; where it has no val, `FOLDS` folds by patient."""
    val = [e.study_id for e in entries if e.split == "val"]
    if val:
        return [{"train": [e.study_id for e in entries if e.split != "val"], "val": val}]
    patient = {e.study_id: str(e.attributes.get("patient_key") or e.study_id) for e in entries}
    order = sorted(set(patient.values()))
    fold_of = {key: n % min(FOLDS, len(order)) for n, key in enumerate(order)}
    return [
        {
            "train": [s for s, key in patient.items() if fold_of[key] != n or len(order) == 1],
            "val": [s for s, key in patient.items() if fold_of[key] == n],
        }
        for n in range(min(FOLDS, len(order)))
    ]


def _note(
    done: NnunetSet, entries: Sequence[Entry], classes: Sequence[str], phrases: dict[str, set[str]], complete: bool
) -> None:
    written = {*done.train, *done.test}
    silent = sum(any(not _stated(e, c, phrases[c]) for c in classes) for e in entries if e.study_id in written)
    if silent and not complete:
        done.notes.append(
            f"{silent} of {len(written)} studies say nothing of some class, and nnU-Net takes that for background; "
            f"leave them out with --complete, or export fewer classes with --label"
        )
    if done.left_out:
        done.notes.append(f"{len(done.left_out)} studies left out, the first {next(iter(done.left_out.items()))}")
    done.notes.append(
        "after nnUNetv2_plan_and_preprocess, copy splits_final.json to nnUNet_preprocessed/" + done.folder.name
    )

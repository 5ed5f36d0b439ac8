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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vol3d.cache import Cache, Entry, MaskRecord
from vol3d.errors import CacheError, ConfigError
from vol3d.export import nnunet_folder
from vol3d.export.nifti import write_nifti
from vol3d.export.nnunet_labels import LabelNumbers
from vol3d.files import write_whole
from vol3d.types import Array

UNNAMED = "finding"
"""Class of masks that share no label across studies, such as those of report sentences."""

FOLDS = 5
_CHANNEL = {"ct": "CT", "pet": "PET"}


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
        out: folder, ``DatasetNNN_Name`` below ``nnUNet_raw``; new, or of an earlier export, whose cases go.
        classes: labels of masks to export; all of the cache's by default.
        images: ``ct`` and/or ``pet``, the channels; by default what the studies have, if all have the same.
        complete: leave out studies that say of some class neither where it is nor that it is absent, since nnU-Net
            takes what is not labelled for background.

    Raises:
        CacheError, ConfigError: nothing to export, studies with other images, a class that no study has, or a folder
            with other files.
    """
    cache = Cache(root)
    found_there = [cache.entry(study) for study in cache.study_ids]
    if not found_there:
        raise CacheError(f"expected studies in {root}, found none")
    done = NnunetSet(Path(out))
    earlier = nnunet_folder.earlier_cases(done.folder)
    entries = _in_a_split(found_there, done)
    chosen = _classes(entries, classes)
    channels = _images(entries, images)
    phrases = _phrases(entries, chosen)
    kept = []
    for entry in entries:
        silent = [c for c in chosen if not _stated(entry, c, phrases[c])]
        if missing := [c for c in channels if c not in entry.images]:
            done.left_out[entry.study_id] = f"no {' and no '.join(missing)}"
        elif complete and silent:
            done.left_out[entry.study_id] = f"says nothing of {', '.join(silent)}"
        else:
            kept.append(entry)
    if not any(_part(entry) == "Tr" for entry in kept):
        raise CacheError(f"expected studies to train on in {root}, found none: {list(done.left_out.values())[:3]}")
    nnunet_folder.begin(done.folder, earlier | {entry.study_id for entry in kept})
    labels = LabelNumbers(chosen)
    written = {path for entry in kept for path in _write_study(done.folder, entry, channels, labels, done)}
    removed = nnunet_folder.clear(done.folder, written)
    done.labels = labels.table()
    records = [_record(entry, chosen) for entry in kept]
    _describe(done.folder, done, channels, labels, phrases, records, [e for e in kept if _part(e) == "Tr"])
    _note(done, entries, chosen, phrases, complete)
    if removed:
        done.notes.append(f"{len(removed)} files of an earlier export removed, the first {removed[0].name}")
    return done


def _in_a_split(entries: list[Entry], done: NnunetSet) -> list[Entry]:
    """Where the cache has splits, what is in none is left out: its patient may be in val or test too."""
    if not any(entry.split for entry in entries):
        return entries
    for entry in entries:
        if not entry.split:
            done.left_out[entry.study_id] = "in no split, as of a patient who is in val or test too"
    return [entry for entry in entries if entry.split]


def _part(entry: Entry) -> str:
    return "Ts" if entry.split == "test" else "Tr"


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


def _write_study(
    out: Path, entry: Entry, channels: Sequence[str], found: LabelNumbers, done: NnunetSet
) -> Iterator[Path]:
    """Writes images and labels; gives every file when it is whole."""
    part, whole = _part(entry), ((0, 0, 0), entry.grid.shape)
    members: dict[str, Array] = {}
    for mask in entry.masks:
        if (name := mask_class(mask)) in found.classes:
            members[name] = members.get(name, 0) | entry.read_mask(mask.name, *whole)
    for folder in (f"images{part}", f"labels{part}"):
        (out / folder).mkdir(exist_ok=True)
    for number, image in enumerate(channels):
        path = out / f"images{part}" / f"{entry.study_id}_{number:04d}.nii.gz"
        write_nifti(path, entry.read(image, *whole), entry.grid)
        yield path
    path = out / f"labels{part}" / f"{entry.study_id}.nii.gz"
    write_nifti(path, _smallest(found.of(members, entry.grid.shape)), entry.grid)
    yield path
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
    out: Path, done: NnunetSet, channels: Sequence[str], found: LabelNumbers, phrases: dict[str, set[str]],
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
    write_whole(out / "splits_final.json", json.dumps(folds(training), indent=1) + "\n")
    write_whole(out / nnunet_folder.SIDECAR, "".join(json.dumps(record) + "\n" for record in records))
    write_whole(out / nnunet_folder.DATASET, json.dumps(dataset, indent=2) + "\n")


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
        why = Counter(done.left_out.values())
        first = {reason: next(s for s, r in done.left_out.items() if r == reason) for reason in why}
        done.notes += [f"{n} studies left out, the first {first[reason]}: {reason}" for reason, n in why.items()]
    done.notes.append(
        "after nnUNetv2_plan_and_preprocess, copy splits_final.json to nnUNet_preprocessed/" + done.folder.name
    )

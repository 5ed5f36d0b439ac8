"""Medical Segmentation Decathlon (Antonelli et al. 2022, doi 10.1038/s41467-022-30695-9): its CT tasks.

``Task03_Liver/{imagesTr,labelsTr}/liver_0.nii.gz`` and ``dataset.json``; `docs/datasets/decathlon.md`. The folder is
one task, or holds several. Where a task draws an organ round its tumours, the organ's mask is both labels together.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from preprocessing.sources import splits
from preprocessing.sources.common import class_mask, mapping, read_object, refused, safe_id, whole
from preprocessing.sources.tables import stem
from vol3d.errors import ManifestError

CLASSES: dict[str, dict[str, int | list[int]]] = {
    "Task03_Liver": {"liver": [1, 2], "liver tumour": 2},
    "Task06_Lung": {"lung cancer": 1},
    "Task07_Pancreas": {"pancreas": [1, 2], "pancreas tumour": 2},
    "Task08_HepaticVessel": {"hepatic vessels": 1, "liver tumour": 2},
    "Task09_Spleen": {"spleen": 1},
    "Task10_Colon": {"colon cancer": 1},
}
"""Class -> label, or labels, by task; other tasks are MR."""

log = logging.getLogger("vol3d")


def rows(folder: Path) -> list[dict[str, Any]]:
    """Manifest rows of the training cases; the test cases have no published truth.

    Raises:
        ManifestError: no task, none with CT, or no case.
    """
    tasks = [folder] if (folder / "dataset.json").is_file() else sorted(p.parent for p in folder.glob("*/dataset.json"))
    if not tasks:
        raise ManifestError(f"expected dataset.json, or folders like Task03_Liver with one, in {folder}, found none")
    out: list[dict[str, Any]] = []
    other: dict[str, str] = {}
    for task in tasks:
        dataset = read_object(task / "dataset.json", "the task's dataset.json")
        modality = ", ".join(map(str, mapping(dataset, "modality", task / "dataset.json").values()))
        if modality.upper() != "CT":
            other[task.name] = modality or "no modality"
            continue
        out += splits.complete(_task(task, dataset), f"decathlon:{task.name}")
    if not out:
        raise ManifestError(f"expected a task of CT in {folder}, found {other}: other images are not read")
    if other:
        log.warning("decathlon: left out, since they are no CT: %s", other)
    return out


def _task(task: Path, dataset: dict[str, Any]) -> list[dict[str, Any]]:
    where = task / "dataset.json"
    classes = CLASSES.get(task.name) or {
        str(name): label
        for value, name in mapping(dataset, "labels", where).items()
        if (label := whole(value, where, f"the label of {name!r}"))
    }
    listed = dataset.get("training") or []
    if not classes or not listed or not (isinstance(listed, list) and all(isinstance(pair, dict) for pair in listed)):
        raise ManifestError(
            f"{where}: expected labels and a list of training cases with image and label, found {list(dataset)} "
            f"and {str(listed)[:60]}"
        )
    return [_case(task, pair, classes) for pair in listed]


def _case(task: Path, pair: dict[str, str], classes: dict[str, int | list[int]]) -> dict[str, Any]:
    image, truth = (task / str(pair.get(key, "")) for key in ("image", "label"))
    study_id = safe_id(stem(image.name))
    missing = [str(p.relative_to(task)) for p in (image, truth) if not p.is_file()]
    if missing:
        return refused(study_id, f"expected {' and '.join(missing)} of {task.name}, found nothing there")
    return {
        "study_id": study_id, "patient_id": f"{task.name}/{stem(image.name)}", "ct": str(image.resolve()),
        "masks": [class_mask(truth, name, value) for name, value in classes.items()], "meta": {"task": task.name},
    }  # fmt: skip

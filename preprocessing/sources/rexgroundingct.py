"""ReXGroundingCT (Baharoon et al. 2025, arXiv 2507.22030): finding sentences of CT-RATE with masks.

`docs/datasets/rexgroundingct.md`. ``dataset.json`` lists, by split, volumes with their sentences;
``segmentations/NAME`` holds one 4D file a volume, (findings, X, Y, Z), whose header speaks of the wrong axes. Volumes
are CT-RATE's, at any depth below the folder. How the masks lie on them is settled from the images
(`preprocessing.sources.placement`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preprocessing.sources import ct_rate, splits
from preprocessing.sources.common import known, mapping, read_object, refused, whole
from preprocessing.sources.placement import Pair, placement
from preprocessing.sources.tables import Cells, walk
from vol3d.errors import ManifestError

CATEGORIES = {
    "1a": "bronchial wall thickening", "1b": "bronchiectasis", "1c": "emphysema", "1d": "septal thickening",
    "1e": "micronodules", "1f": "other non-focal finding", "2a": "linear opacity", "2b": "atelectasis or consolidation",
    "2c": "ground-glass opacity", "2d": "pulmonary nodule or mass", "2e": "pleural effusion or thickening",
    "2f": "honeycombing", "2g": "pneumothorax", "2h": "other focal finding",
}  # fmt: skip
"""By code; a mask's `label`, never a phrase: it covers the sentence's finding alone, not all of its kind."""

SPLITS = {"train": "train", "val": "val", "test": "test"}

log = logging.getLogger("vol3d")


def rows(folder: Path) -> list[dict[str, Any]]:
    """Manifest rows of the volumes whose masks are here; the test set's are not published.

    Raises:
        ManifestError: no dataset.json, no volume, no masks, or masks that fit the volumes in no way or in two.
    """
    listed = _listed(folder / "dataset.json")
    masks, volumes = _files(folder)
    facts = ct_rate.metadata(folder)
    items = [(split, item) for split in SPLITS for item in listed[split] if item.get("name") in masks]
    pairs = [
        Pair(volumes[item["name"]], masks[item["name"]], _channels(item))
        for _, item in items
        if item["name"] in volumes and not ct_rate.header_fault(volumes[item["name"]], facts.get(item["name"], {}))
    ]
    if not pairs:
        raise ManifestError(
            f"expected CT-RATE's volumes and masks of the same names below {folder}, found {len(volumes)} volumes, "
            f"{len(masks)} masks and no pair that dataset.json lists"
        )
    placed = placement(pairs)
    log.info("rexgroundingct: masks lie on the volumes as %r", placed)
    found = [_row(split, item, volumes, masks, facts, placed) for split, item in items]
    without = sum(1 for split in SPLITS for item in listed[split] if item.get("name") not in masks)
    if without:
        log.warning("rexgroundingct: %d listed volumes have no masks here", without)
    return splits.complete(found, "rexgroundingct")


def _listed(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Items by split, their sentences by channel.

    Raises:
        ManifestError: something is not what it should be.
    """
    found = read_object(path, "ReXGroundingCT's dataset.json")
    if not any(isinstance(found.get(s), list) for s in SPLITS):
        raise ManifestError(f"{path}: expected lists under train, val and test, found {list(found)[:5]}")
    out = {split: found.get(split) or [] for split in SPLITS}
    for split, items in out.items():
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise ManifestError(f"{path}: expected a list of volumes under {split!r}, found {str(items)[:60]}")
        for item in items:
            for channel in mapping(item, "findings", path):
                whole(channel, path, f"the channel of a finding of {item.get('name')}")
            mapping(item, "categories", path)
    return out


def _files(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Masks (below a folder named ``segmentations*``) and volumes by file name."""
    masks: dict[str, Path] = {}
    for path in walk(folder):
        if not ct_rate.VOLUME.fullmatch(path.name):
            continue
        inside = path.relative_to(folder).parts[:-1]
        if any(part.startswith("segmentations") for part in inside):
            masks.setdefault(path.name, path)
    return masks, ct_rate.volumes_below(folder)


def _row(
    split: str, item: dict[str, Any], volumes: dict[str, Path], masks: dict[str, Path], facts: dict[str, Cells],
    placed: str,
) -> dict[str, Any]:  # fmt: skip
    name = item["name"]
    study_id = name.removesuffix(".nii.gz")
    about = facts.get(name, {})
    if name not in volumes:
        return refused(study_id, f"expected CT-RATE's volume {name} below the folder, found nothing of that name")
    if fault := ct_rate.header_fault(volumes[name], about):
        return refused(study_id, f"{name}: {fault}")
    part, patient, _, _ = ct_rate.VOLUME.fullmatch(name).groups()  # type: ignore[union-attr]
    return {
        "study_id": study_id, "patient_id": f"{part}_{patient}", "ct": str(volumes[name].resolve()),
        "masks": list(_masks(item, masks[name], placed)), "meta": ct_rate.age_and_scanner(about), "split": split,
    } | known(reading=ct_rate.reading_of(about))  # fmt: skip


def _masks(item: dict[str, Any], path: Path, placed: str) -> Iterator[dict[str, Any]]:
    """A mask a sentence. Two sentences of the same words keep one mask each."""
    for channel in _channels(item):
        text = str(item["findings"][str(channel)]).strip()
        category = str((item.get("categories") or {}).get(str(channel), ""))
        yield {
            "path": str(path.resolve()), "channel": channel, "placed": placed, "phrases": [text],
            "finding_id": f"finding_{channel}", "if_empty": "unknown",
        } | known(label=CATEGORIES.get(category))  # fmt: skip


def _channels(item: dict[str, Any]) -> tuple[int, ...]:
    texts = item.get("findings") or {}
    return tuple(sorted(int(k) for k, text in texts.items() if str(text).strip()))

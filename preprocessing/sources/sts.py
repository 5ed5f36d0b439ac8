"""The soft-tissue sarcoma PET/CT set (Vallieres et al. 2015, doi 10.7937/K9/TCIA.2015.7GO2GSKS) as NIfTI.

Layout: ``STS_*/{CT_image,CT_mask,PET_image,PET_mask}.nii.gz`` and ``split.json`` with train and val lists; images
without a CT are PET-only studies. PET is SUVbw. One tumour a patient, drawn on both grids.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from preprocessing.sources import splits
from preprocessing.sources.common import read_object
from vol3d.errors import ManifestError

PHRASES = (
    "soft tissue sarcoma",
    "hypermetabolic soft tissue mass",
    "FDG-avid tumour of the soft tissue",
    "primary tumour",
)


def rows(folder: Path) -> list[dict[str, Any]]:
    """Manifest rows with absolute paths; splits of ``split.json``, else drawn by patient.

    Raises:
        ManifestError: no study in the folder, or a split.json with something else than lists of studies.
    """
    studies = sorted(p for p in Path(folder).glob("STS_*") if p.is_dir())
    if not studies:
        raise ManifestError(f"expected folders STS_* in {folder}, found none")
    split_of = _splits(Path(folder) / "split.json")
    return splits.complete((_row(study, split_of.get(study.name)) for study in studies), "sts")


def _splits(path: Path) -> dict[str, str]:
    """Study -> split; other lists of studies than train, val and test are refused."""
    found = read_object(path, "split.json with train and val lists") if path.exists() else {}
    out: dict[str, str] = {}
    for name, listed in found.items():
        if wrong := splits.fault(name):
            if isinstance(listed, list) and listed and all(isinstance(study, str) for study in listed):
                raise ManifestError(f"{path}: {wrong}")
        elif not isinstance(listed, list) or not all(isinstance(study, str) for study in listed):
            raise ManifestError(
                f"{path}: expected a list of studies like STS_001 under {name!r}, found {str(listed)[:60]}"
            )
    for name in ("train", "val", "test"):
        out |= dict.fromkeys(found.get(name, []), name)
    return out


def _row(study: Path, split: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {"study_id": study.name, "patient_id": study.name, "masks": []}
    for image in ("CT", "PET"):
        if (study / f"{image}_image.nii.gz").exists():
            row[image.lower()] = str((study / f"{image}_image.nii.gz").resolve())
        if (study / f"{image}_mask.nii.gz").exists():
            row["masks"].append({
                "path": str((study / f"{image}_mask.nii.gz").resolve()),
                "label": "tumour", "finding_id": "tumour", "phrases": list(PHRASES),
            })  # fmt: skip
    return row | ({"split": split} if split else {})

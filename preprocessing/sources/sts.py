"""The soft-tissue sarcoma PET/CT set (Vallieres et al. 2015, doi 10.7937/K9/TCIA.2015.7GO2GSKS) as NIfTI.

Layout: ``STS_*/{CT_image,CT_mask,PET_image,PET_mask}.nii.gz`` and ``split.json`` with train and val lists; images
without a CT are PET-only studies. PET is SUVbw. One tumour a patient, drawn on both grids.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preprocessing.sources.common import read_object
from vol3d.errors import ManifestError

PHRASES = (
    "soft tissue sarcoma",
    "hypermetabolic soft tissue mass",
    "FDG-avid tumour of the soft tissue",
    "primary tumour",
)


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    """Manifest rows with absolute paths.

    Raises:
        ManifestError: no study in the folder.
    """
    studies = sorted(p for p in Path(folder).glob("STS_*") if p.is_dir())
    if not studies:
        raise ManifestError(f"expected folders STS_* in {folder}, found none")
    split_file = Path(folder) / "split.json"
    splits = read_object(split_file, "split.json with train and val lists") if split_file.exists() else {}
    split_of = {study: name for name in ("train", "val", "test") for study in splits.get(name, [])}
    for study in studies:
        row: dict[str, Any] = {"study_id": study.name, "patient_id": study.name, "masks": []}
        for image in ("CT", "PET"):
            if (study / f"{image}_image.nii.gz").exists():
                row[image.lower()] = str((study / f"{image}_image.nii.gz").resolve())
            if (study / f"{image}_mask.nii.gz").exists():
                row["masks"].append({
                    "path": str((study / f"{image}_mask.nii.gz").resolve()),
                    "label": "tumour", "finding_id": "tumour", "phrases": list(PHRASES),
                })  # fmt: skip
        if study.name in split_of:
            row["split"] = split_of[study.name]
        yield row

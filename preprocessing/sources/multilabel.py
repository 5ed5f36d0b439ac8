"""A CT beside one label map of many organs, and a table of label numbers: each label becomes a mask with its words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.read_nifti import read_nifti
from vol3d.text.organs import class_phrases

_VERTEBRAE = [
    "S1", *(f"L{n}" for n in range(5, 0, -1)), *(f"T{n}" for n in range(12, 0, -1)), *(f"C{n}" for n in range(7, 0, -1))
]  # fmt: skip

TOTALSEGMENTATOR_V2: tuple[str, ...] = (
    "spleen", "kidney_right", "kidney_left", "gallbladder", "liver", "stomach", "pancreas", "adrenal_gland_right",
    "adrenal_gland_left", "lung_upper_lobe_left", "lung_lower_lobe_left", "lung_upper_lobe_right",
    "lung_middle_lobe_right", "lung_lower_lobe_right", "esophagus", "trachea", "thyroid_gland", "small_bowel",
    "duodenum", "colon", "urinary_bladder", "prostate", "kidney_cyst_left", "kidney_cyst_right", "sacrum",
    *(f"vertebrae_{name}" for name in _VERTEBRAE),
    "heart", "aorta", "pulmonary_vein", "brachiocephalic_trunk", "subclavian_artery_right", "subclavian_artery_left",
    "common_carotid_artery_right", "common_carotid_artery_left", "brachiocephalic_vein_left",
    "brachiocephalic_vein_right", "atrial_appendage_left", "superior_vena_cava", "inferior_vena_cava",
    "portal_vein_and_splenic_vein", "iliac_artery_left", "iliac_artery_right", "iliac_vena_left", "iliac_vena_right",
    "humerus_left", "humerus_right", "scapula_left", "scapula_right", "clavicula_left", "clavicula_right",
    "femur_left", "femur_right", "hip_left", "hip_right", "spinal_cord", "gluteus_maximus_left",
    "gluteus_maximus_right", "gluteus_medius_left", "gluteus_medius_right", "gluteus_minimus_left",
    "gluteus_minimus_right", "autochthon_left", "autochthon_right", "iliopsoas_left", "iliopsoas_right", "brain",
    "skull", *(f"rib_left_{n}" for n in range(1, 13)), *(f"rib_right_{n}" for n in range(1, 13)), "sternum",
    "costal_cartilages",
)  # fmt: skip
"""Class names of TotalSegmentator's `total` task, version 2; label n is entry n - 1."""


def row(study_id: str, ct: Path, labels: Path, *, min_voxels: int = 1, **fields: Any) -> dict[str, Any]:
    """Manifest row for a CT and a TotalSegmentator label map; labels under `min_voxels` are left out, not absent."""
    numbers, counts = np.unique(read_nifti(labels).array_ZYX, return_counts=True)
    masks = [
        {
            "path": str(Path(labels).resolve()),
            "value": int(number),
            "label": TOTALSEGMENTATOR_V2[int(number) - 1],
            "phrases": list(class_phrases(TOTALSEGMENTATOR_V2[int(number) - 1])),
        }
        for number, count in zip(numbers, counts, strict=True)
        if number > 0 and count >= min_voxels
    ]
    return {"study_id": study_id, "patient_id": study_id, "ct": str(Path(ct).resolve()), "masks": masks, **fields}

"""Writes a phantom study: NIfTI files, or CT and PET series as a scanner would send them; masks are NIfTI always."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from preprocessing.phantom_dicom import Patient, write_ct_series, write_pet_series
from preprocessing.phantom_scan import Acquisition
from vol3d.geometry import Grid
from vol3d.types import Array
from vol3d.volume import Volume

FileFormat = Literal["nifti", "dicom"]


def write_study(
    out: Path,
    study_id: str,
    row: dict[str, Any],
    ct: Volume,
    pet: Volume | None,
    masks: dict[str, Array],
    acquisition: Acquisition,
    file_format: FileFormat,
) -> None:
    """Writes the files that `row` names, below `out`; the study's folder appears complete or not at all."""
    folder, temporary = out / study_id, out / f".{study_id}.{os.getpid()}"
    if temporary.exists():
        shutil.rmtree(temporary)
    (temporary / "masks").mkdir(parents=True)
    if file_format == "nifti":
        for volume in (ct, pet):
            if volume is not None:
                write_nifti(temporary / f"{volume.modality}.nii.gz", volume.array_ZYX, volume.grid)
    else:
        patient = Patient(study_id=study_id, patient_id=row["patient_id"], acquisition=acquisition)
        write_ct_series(temporary / "ct", ct, patient)
        if pet is not None:
            write_pet_series(temporary / "pet", pet, patient)
    for label, mask in masks.items():
        write_nifti(temporary / "masks" / f"{label}.nii.gz", mask.astype(np.uint8), ct.grid)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(temporary, folder)


def write_nifti(path: Path, array_ZYX: Array, grid: Grid) -> None:
    """A .nii.gz with qform and sform of code 1 (scanner); same input, same bytes."""
    image = nib.Nifti1Image(np.asarray(array_ZYX).transpose(2, 1, 0), grid.affine_xyz)
    image.header.set_xyzt_units("mm", "sec")
    image.set_qform(grid.affine_xyz, code=1)
    image.set_sform(grid.affine_xyz, code=1)
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1, mtime=0))

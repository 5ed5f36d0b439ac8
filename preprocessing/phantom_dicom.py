"""CT Image Storage and PET Image Storage series of a phantom (PS3.3 A.3 and A.21), one file a slice.

The grid must be a right-handed stack (`legal_stack`). UIDs follow from the study id, so the same study has the same
bytes. PET is in BQML with one rescale slope a slice, decay-corrected to the start of the series.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    PYDICOM_ROOT_UID,
    UID,
    CTImageStorage,
    ExplicitVRLittleEndian,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)  # fmt: skip

from preprocessing.phantom_scan import F18_HALF_LIFE_S, Acquisition, is_left_handed
from vol3d.errors import GeometryError
from vol3d.geometry import Grid
from vol3d.types import Array
from vol3d.volume import Volume

BED_MM, BED_SECONDS = 150.0, 150
"""Length along the stack and duration of one PET bed position."""

CT_OFFSET_HU = -1024


@dataclass(frozen=True, kw_only=True)
class Patient:
    """What all series of a study share."""

    study_id: str
    patient_id: str
    acquisition: Acquisition

    def uid(self, *parts: str) -> str:
        """A UID that depends on the study and on `parts` alone."""
        return str(generate_uid(prefix=PYDICOM_ROOT_UID, entropy_srcs=[self.study_id, *parts]))


def write_ct_series(folder: Path, ct: Volume, patient: Patient) -> None:
    """HU as unsigned 16 bits with intercept -1024.

    Raises:
        GeometryError: the grid is no right-handed stack.
    """
    base = _base(patient, ct.grid, "CT", patient.acquisition.scan_start - datetime.timedelta(minutes=2))
    base.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    base.KVP = "120"
    base.PixelRepresentation = 0
    base.RescaleType = "HU"
    base.AcquisitionNumber = "1"
    folder.mkdir(parents=True)
    for k, stored in enumerate(ct.array_ZYX.astype(np.int32) - CT_OFFSET_HU):
        base.RescaleSlope, base.RescaleIntercept = "1", str(CT_OFFSET_HU)
        base.AcquisitionDate, base.AcquisitionTime = base.SeriesDate, base.SeriesTime
        _write_slice(folder, base, ct.grid, k, stored.astype(np.uint16), CTImageStorage, patient)


def write_pet_series(folder: Path, pet: Volume, patient: Patient) -> None:
    """SUVbw turned into Bq/ml, as signed 16 bits with a slope per slice; several bed positions, DecayCorrection START.

    Every voxel refers to the series time (PS3.3 C.8.9.1, Decay Correction START), although later beds have a later
    AcquisitionTime. SUVbw = BQML * PatientWeight in g / (dose decayed from injection to series time).

    Raises:
        GeometryError: the grid is no right-handed stack.
    """
    acquisition = patient.acquisition
    base = _base(patient, pet.grid, "PT", acquisition.scan_start)
    base.ImageType = ["ORIGINAL", "PRIMARY"]
    base.SeriesType = ["WHOLE BODY", "IMAGE"]
    base.Units, base.CountsSource = "BQML", "EMISSION"
    base.CorrectedImage = ["DECY", "ATTN", "SCAT", "DTIM", "RAN", "NORM"]
    base.DecayCorrection, base.CollimatorType = "START", "NONE"
    base.RandomsCorrectionMethod, base.AttenuationCorrectionMethod = "DLYD", "measured, CT"
    base.ReconstructionMethod = "simulated"
    base.PixelRepresentation = 1
    base.NumberOfSlices = pet.grid.shape[0]
    base.RadiopharmaceuticalInformationSequence = Sequence([_injection(acquisition)])
    del base.PatientPosition  # PS3.3 C.7.3.1: not beside the codes
    base.PatientOrientationCodeSequence = Sequence([_code("102538003", "SCT", "recumbent")])
    base.PatientGantryRelationshipCodeSequence = Sequence([_code("102540001", "SCT", "headfirst")])
    folder.mkdir(parents=True)
    for k, suv in enumerate(pet.array_ZYX):
        bed = int(k * pet.grid.spacing_mm[0] // BED_MM)
        began = acquisition.scan_start + datetime.timedelta(seconds=bed * BED_SECONDS)
        middle_s = (bed + 0.5) * BED_SECONDS
        base.AcquisitionDate, base.AcquisitionTime = _date(began), _time(began)
        base.ActualFrameDuration = str(BED_SECONDS * 1000)
        base.FrameReferenceTime = f"{middle_s * 1000:.1f}"
        base.DecayFactor = f"{2 ** (middle_s / F18_HALF_LIFE_S):.6f}"
        base.ImageIndex = k + 1
        base.RescaleSlope, stored = _quantise(suv.astype(np.float64) * acquisition.bq_per_ml_at_suv_1)
        base.RescaleIntercept = "0"
        _write_slice(folder, base, pet.grid, k, stored, PositronEmissionTomographyImageStorage, patient)


def _quantise(bq_per_ml: Array) -> tuple[str, Array]:
    """Slope as it is written (16 characters at most), and the integers that go with that very number."""
    top = float(bq_per_ml.max())
    slope = f"{top / 32766:.9g}" if top > 0 else "1"
    return slope, np.rint(bq_per_ml / float(slope)).astype(np.int16)


def _injection(acquisition: Acquisition) -> Dataset:
    item = Dataset()
    item.Radiopharmaceutical = "Fluorodeoxyglucose"
    item.RadiopharmaceuticalStartTime = _time(acquisition.injection)
    item.RadiopharmaceuticalStartDateTime = acquisition.injection.strftime("%Y%m%d%H%M%S.000000")
    item.RadionuclideTotalDose = f"{acquisition.dose_bq:.0f}"
    item.RadionuclideHalfLife = str(F18_HALF_LIFE_S)
    item.RadionuclidePositronFraction = "0.967"
    item.RadionuclideCodeSequence = Sequence([_code("77004003", "SCT", "^18^Fluorine")])
    item.RadiopharmaceuticalCodeSequence = Sequence([_code("35321007", "SCT", "Fluorodeoxyglucose F^18^")])
    return item


def _code(value: str, scheme: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def _base(patient: Patient, grid: Grid, modality: str, start: datetime.datetime) -> Dataset:
    """Everything that does not change from slice to slice."""
    if is_left_handed(grid):
        raise GeometryError(
            f"expected a right-handed stack (row direction x column direction = slice direction), found {grid}; "
            "reverse its slices first"
        )
    acquisition = patient.acquisition
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.StudyInstanceUID = patient.uid("study")
    ds.SeriesInstanceUID = patient.uid("series", modality)
    ds.FrameOfReferenceUID = patient.uid("frame")
    ds.PositionReferenceIndicator = ""
    ds.Modality = modality
    ds.SeriesNumber = {"CT": "2", "PT": "3"}[modality]
    ds.SeriesDescription = {"CT": "CT phantom", "PT": "PET phantom AC"}[modality]
    ds.StudyDescription, ds.StudyID, ds.AccessionNumber = "Procedural phantom", "1", ""
    ds.StudyDate, ds.StudyTime = _date(acquisition.injection), _time(acquisition.injection)
    ds.SeriesDate, ds.SeriesTime = _date(start), _time(start)
    ds.ReferringPhysicianName = ""
    ds.Manufacturer, ds.ManufacturerModelName = "vol3d", acquisition.scanner
    ds.PatientName, ds.PatientID = f"Phantom^{patient.study_id[-6:]}", patient.patient_id
    ds.PatientBirthDate = f"{start.year - acquisition.age_years}0101"
    ds.PatientSex, ds.PatientAge = acquisition.sex, f"{acquisition.age_years:03d}Y"
    ds.PatientWeight = f"{acquisition.weight_kg:.1f}"
    ds.PatientPosition = "HFS"
    ds.BodyPartExamined = "CHESTABDPELVIS"  # no paired part, so no Laterality is owed
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = grid.shape[1], grid.shape[2]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, 16, 15
    spacing = grid.spacing_mm
    ds.PixelSpacing = [_number(spacing[1]), _number(spacing[2])]
    ds.SliceThickness = _number(spacing[0])
    direction = grid.affine_lps[:3, :3] / np.array(spacing)
    ds.ImageOrientationPatient = [f"{v + 0.0:.10f}" for v in (*direction[:, 2], *direction[:, 1])]
    return ds


def _write_slice(
    folder: Path, base: Dataset, grid: Grid, k: int, stored: Array, sop_class: str, patient: Patient
) -> None:
    position = grid.affine_lps[:3, 3] + grid.affine_lps[:3, 0] * k
    base.ImagePositionPatient = [_number(v) for v in position]
    base.InstanceNumber = str(k + 1)
    base.ContentDate, base.ContentTime = base.AcquisitionDate, base.AcquisitionTime
    base.SOPClassUID = sop_class
    base.SOPInstanceUID = patient.uid("instance", base.Modality, str(k))
    base.PixelData = np.ascontiguousarray(stored).astype(stored.dtype.newbyteorder("<")).tobytes()
    base["PixelData"].VR = "OW"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(sop_class)
    meta.MediaStorageSOPInstanceUID = UID(base.SOPInstanceUID)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    base.file_meta = meta
    pydicom.dcmwrite(folder / f"{k + 1:05d}.dcm", base, enforce_file_format=True)


def _number(value: float) -> str:
    """A decimal string of at most 16 characters."""
    return f"{value + 0.0:.8f}"[:16]


def _date(at: datetime.datetime) -> str:
    return at.strftime("%Y%m%d")


def _time(at: datetime.datetime) -> str:
    return at.strftime("%H%M%S.000000")

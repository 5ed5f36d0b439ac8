"""One DICOM file of an archive -> the few facts that intake decides by. Pixels are not read.

Text that may name a patient (descriptions, paths) is used to decide and goes no further: `Header` is never written.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pydicom
from pydicom import uid as uids
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError

from preprocessing.read_dicom_masks import SEG_CLASSES
from preprocessing.rtstruct import read_structures
from vol3d.dicom.frames import Frame, frames_of
from vol3d.dicom.series import DICOM_SUFFIXES, IMAGE_CLASSES, PARSE_ERRORS, Instance, Series
from vol3d.errors import ReadError

KINDS: dict[str, str] = {
    **IMAGE_CLASSES,
    uids.RTStructureSetStorage: "RTSTRUCT",
    **dict.fromkeys(SEG_CLASSES, "SEG"),
}
"""SOP classes that intake uses."""

DAMAGED = "damaged: "
"""Reasons that begin with this mean a file that may have been a slice; of which series, it cannot say any more."""

_NO_HEADER = Dataset()


@dataclass(frozen=True, kw_only=True)
class Header:
    """What one file says."""

    path: Path
    kind: str
    """``CT``, ``PT``, ``RTSTRUCT``, ``SEG``, or the SOP class in words."""
    patient_id: str = ""
    study_uid: str = ""
    series_uid: str = ""
    instance_uid: str = ""
    frame_uid: str = ""
    image_type: tuple[str, ...] = ()
    description: str = ""
    number: int | None = None
    kernel: str = ""
    corrected: tuple[str, ...] = ()
    attenuation: str = ""
    """Attenuation Correction Method, or ``YES`` or ``NO`` from an enhanced object."""
    series_type: tuple[str, ...] = ()
    frames: tuple[Frame, ...] = ()
    """Of a CT or PET; without their headers."""
    drawn_on: frozenset[str] = frozenset()
    """Series that an RTSTRUCT or SEG refers to."""
    fault: str = ""
    """Why it cannot be a part of a volume."""


def read_headers(paths: Iterable[Path]) -> list[Header | str]:
    """A `Header` for each path, or why the file is left out."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom quotes invalid values in its warnings, names of patients among them
        return [read_header(path) for path in paths]


def read_header(path: Path) -> Header | str:
    """See `read_headers`."""
    try:
        with path.open("rb") as file:
            if file.read(132)[128:] != b"DICM":
                named = path.suffix.lower() in DICOM_SUFFIXES
                return f"{DAMAGED}DICOM by its name only" if named else "not DICOM (no preamble)"
            file.seek(0)
            dataset = pydicom.dcmread(file, stop_before_pixels=True)
        kind = str(dataset.file_meta.get("MediaStorageSOPClassUID") or dataset.get("SOPClassUID") or "")
        if kind == uids.MediaStorageDirectoryStorage:
            return "a DICOMDIR, no image"
        if not len(dataset):
            return f"{DAMAGED}the file ends within its header"
        return _facts(path, KINDS.get(kind) or uids.UID(kind).name or "an object of unknown kind", dataset)
    except OSError as error:
        return f"{DAMAGED}unreadable ({error.strerror})"
    except (*PARSE_ERRORS, InvalidDicomError) as error:
        return f"{DAMAGED}its header cannot be parsed ({type(error).__name__})"


def _facts(path: Path, kind: str, dataset: Dataset) -> Header:
    frames: tuple[Frame, ...] = ()
    drawn_on: frozenset[str] = frozenset()
    frame_uid, fault = _text(dataset, "FrameOfReferenceUID"), ""
    image_type = _several(dataset, "ImageType")
    try:
        if kind in ("CT", "PT") and "LOCALIZER" not in image_type:
            found = frames_of(Series("", kind, (Instance(path, dataset, kind),)))
            frames = tuple(replace(frame, header=_NO_HEADER) for frame in found)
        elif kind == "RTSTRUCT":
            structures = read_structures(path)
            drawn_on, frame_uid = structures.series_uids, next(iter(structures.frame_uids), frame_uid)
        elif kind == "SEG":
            references = dataset.get("ReferencedSeriesSequence") or []
            drawn_on = frozenset(str(item.get("SeriesInstanceUID") or "") for item in references) - {""}
    except ReadError as error:
        fault = str(error).replace(path.name, "a file")
    return Header(
        path=path,
        kind=kind,
        patient_id=_text(dataset, "PatientID"),
        study_uid=_text(dataset, "StudyInstanceUID"),
        series_uid=_text(dataset, "SeriesInstanceUID"),
        instance_uid=_text(dataset, "SOPInstanceUID"),
        frame_uid=frame_uid,
        image_type=image_type,
        description=_text(dataset, "SeriesDescription"),
        number=int(dataset.SeriesNumber) if dataset.get("SeriesNumber") not in (None, "") else None,
        kernel=" ".join(_several(dataset, "ConvolutionKernel")),
        corrected=_several(dataset, "CorrectedImage"),
        attenuation=_text(dataset, "AttenuationCorrectionMethod") or _text(dataset, "AttenuationCorrected"),
        series_type=_several(dataset, "SeriesType"),
        frames=frames,
        drawn_on=drawn_on,
        fault=fault,
    )


def _text(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip()


def _several(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Upper-case values of an attribute of one or more texts."""
    value = dataset.get(keyword) or ()
    values = [value] if isinstance(value, str) else list(value)
    return tuple(str(v).strip().upper() for v in values)

"""The source series of an export: headers, planes and grid of the images that masks overlay."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset

from vol3d.dicom.frames import Frame, frames_of
from vol3d.dicom.geometry import stack
from vol3d.dicom.series import MODALITY_OF, scan, select_series
from vol3d.errors import GeometryError, ReadError
from vol3d.export.dicom_common import quiet, stable_uid
from vol3d.geometry import Grid
from vol3d.types import Array

_EMPTY_ALLOWED = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName",
    "StudyID", "AccessionNumber",
)  # fmt: skip
_DATE, _TIME = re.compile(r"\d{8}"), re.compile(r"\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?")


@dataclass(frozen=True)
class Plane:
    """One slice of the grid: the image that shows it."""

    image: Dataset
    frame_number: int | None
    """1-based where the image has several frames."""
    position_lps_mm: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class SourceSeries:
    """A CT or PET series that exports refer to."""

    grid: Grid
    modality: Literal["ct", "pet"]
    planes: tuple[Plane, ...]
    """One an index along the grid's axis 0, in that order."""
    notes: tuple[str, ...]
    """What the headers lacked and what was put in its place."""

    @property
    def images(self) -> list[Dataset]:
        """Every header once, in the order of the planes."""
        return list({id(plane.image): plane.image for plane in self.planes}.values())

    @property
    def header(self) -> Dataset:
        """Of the first image: patient, study and frame of reference."""
        return self.planes[0].image

    @property
    def series_uid(self) -> str:
        """Series Instance UID."""
        return str(self.header.SeriesInstanceUID)


def read_source(path: Path, modality: Literal["ct", "pet"] | None = None) -> SourceSeries:
    """Reads the headers of the one CT or PET series below a folder; no pixels.

    Args:
        path: a folder of DICOM, or one multi-frame file.
        modality: which series; None takes the one there is, and refuses where there are both.

    Raises:
        ReadError: no such series, several, damaged files, or no FrameOfReferenceUID to place a mask in.
        GeometryError: its slices make no regular grid.
    """
    path = Path(path)
    if not path.exists():
        raise ReadError(f"expected the DICOM series that was segmented at {path}, found nothing")
    with quiet():
        try:
            found = scan(path)
            if modality is None:
                there = {s.modality for s in found.series}
                names = [name for name, code in MODALITY_OF.items() if code in there]
                if len(names) > 1:
                    raise ReadError("expected one series, found a CT and a PET; name the folder of one of them")
                modality = names[0] if names else "ct"
            frames = frames_of(select_series(found, modality))
            order, grid = stack(frames)
            return _source([frames[i] for i in order], grid, modality)
        except ReadError as error:
            raise type(error)(f"{path}: {error}") from error


def on_source(mask_ZYX: Array, grid: Grid, source: Grid, name: str = "mask") -> Array:
    """The same voxels in the order of the source grid; axes may be permuted and flipped, nothing is interpolated.

    Raises:
        GeometryError: the mask's voxels are not the source's.
    """
    if mask_ZYX.shape != grid.shape:
        raise GeometryError(f"{name}: expected an array of its grid's shape {grid.shape}, found {mask_ZYX.shape}")
    if grid.same_as(source):
        return mask_ZYX
    step = source.inverse[:3, :3] @ grid.affine[:3, :3]  # source voxels per voxel of the mask
    order = np.abs(step).argmax(axis=1)
    if sorted(order) == [0, 1, 2]:
        turned = grid.permute((int(order[0]), int(order[1]), int(order[2])))
        flips = tuple(axis for axis in range(3) if step[axis, order[axis]] < 0)
        if turned.flip(flips).same_as(source):
            return np.flip(mask_ZYX.transpose(order), flips)
    raise GeometryError(
        f"{name}: expected a mask on the grid of the source series, {source}, found {grid}; pass the series that was "
        f"segmented as --source"
    )


def _source(frames: list[Frame], grid: Grid, modality: Literal["ct", "pet"]) -> SourceSeries:
    headers: dict[Path, Dataset] = {}
    notes: list[str] = []
    for frame in frames:
        if frame.path not in headers:
            headers[frame.path] = _complete(frame)
    missing = [k for k in ("StudyInstanceUID", "SeriesInstanceUID") if not headers[frames[0].path].get(k)]
    if missing:
        made_of = sorted(str(h.SOPInstanceUID) for h in headers.values())
        for header in headers.values():
            for keyword in missing:
                setattr(header, keyword, stable_uid(keyword, *made_of))
        notes.append(f"the source has no {' and no '.join(missing)}: made up from its images")
    planes = [
        Plane(
            headers[frame.path],
            frame.index + 1 if frame.is_multi_frame else None,
            (frame.position_mm[0], frame.position_mm[1], frame.position_mm[2]),
        )
        for frame in frames
    ]
    dropped = sorted({keyword for header in headers.values() for keyword in _blank_invalid(header)})
    if dropped:
        notes.append(f"left empty, because the source's value is not a valid one: {', '.join(dropped)}")
    return SourceSeries(grid, modality, tuple(planes), tuple(notes))


def _complete(frame: Frame) -> Dataset:
    """A copy with what every object needs: identifiers from the file meta where a de-identification blanked them, and
    the attributes that may be empty but must be there (PS3.3 type 2)."""
    header = copy.copy(frame.header)
    meta = frame.header.file_meta
    for keyword, there in (
        ("SOPClassUID", "MediaStorageSOPClassUID"),
        ("SOPInstanceUID", "MediaStorageSOPInstanceUID"),
    ):
        if not header.get(keyword):
            if not meta.get(there):
                raise ReadError(f"{frame.path.name}: expected {keyword} to refer to, found none in header or file meta")
            setattr(header, keyword, meta[there].value)
    if not header.get("FrameOfReferenceUID"):
        raise ReadError(
            f"{frame.path.name}: expected a FrameOfReferenceUID, found none: a mask cannot be placed in the series"
        )
    for keyword in _EMPTY_ALLOWED:
        if keyword not in header:
            setattr(header, keyword, None)
    return header


def _blank_invalid(header: Dataset) -> list[str]:
    """Empties values that no valid object may carry; returns their keywords, never the values."""
    checks = {
        "PatientSex": lambda v: v in ("M", "F", "O"),
        **{k: lambda v: _DATE.fullmatch(v) is not None for k in ("PatientBirthDate", "StudyDate")},
        "StudyTime": lambda v: _TIME.fullmatch(v) is not None,
    }
    dropped = []
    for keyword, valid in checks.items():
        value = header.get(keyword)
        if value not in (None, "") and not valid(str(value).strip()):
            setattr(header, keyword, None)
            dropped.append(keyword)
    return dropped

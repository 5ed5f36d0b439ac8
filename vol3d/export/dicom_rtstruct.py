"""Masks as an RT Structure Set (PS3.3 A.19): contours along pixel edges on the slices of the source series.

One ROI a phrase. Contours enclose the voxels exactly (`vol3d.export.contours`); an empty mask is an ROI without
contours, and its name says what the answer was. Approval Status is UNAPPROVED.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage

from vol3d.export import dicom_common as common
from vol3d.export.coding import codes_for
from vol3d.export.contours import outlines
from vol3d.export.segments import COLOURS, Segment, check_segments, label_of, mask_of
from vol3d.export.source_series import Plane, SourceSeries
from vol3d.types import Array

_STUDY_COMPONENT = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, what RT objects customarily refer to


def write_rtstruct(
    path: Path,
    source: SourceSeries,
    segments: Sequence[Segment],
    algorithm: common.Algorithm,
    created: datetime.datetime,
) -> str:
    """Writes the structure set; returns its SOP Instance UID.

    Raises:
        GeometryError: a mask is not of the source's shape.
        Vol3dError: no masks.
    """
    check_segments(segments)
    rois, contours, observations = [], [], []
    used: set[str] = set()
    for number, segment in enumerate(segments, 1):
        mask_ZYX = mask_of(segment, source)
        name = label_of(segment, not mask_ZYX.any(), number, used)
        rois.append(_roi(number, name, segment, source))
        contours.append(_contours(number, segment, mask_ZYX, source))
        observations.append(_observation(number))
    parts = [str(c.get("ContourSequence", "")) for c in contours]
    uid = common.stable_uid(
        "rtstruct", source.series_uid, created.isoformat(), algorithm.weights_sha256, *map(str, rois), *parts
    )
    with common.quiet():
        # explicit VR has 16 bits for the length of a decimal string: a contour of 2,000 points would not fit
        made = common.document(
            source.header, "RTSTRUCT", RTStructureSetStorage, "RTSTRUCT", uid, algorithm, ImplicitVRLittleEndian
        )
        made.SeriesDescription = "vol3d contours (unverified)"
        made.OperatorsName = ""
        made.StructureSetLabel = "VOL3D"
        made.StructureSetName = "contours of phrases, unverified"
        made.StructureSetDate = made.StructureSetTime = ""
        made.FrameOfReferenceUID = source.header.FrameOfReferenceUID
        made.PositionReferenceIndicator = source.header.get("PositionReferenceIndicator")
        made.ReferencedFrameOfReferenceSequence = [_frame_of_reference(source)]
        made.StructureSetROISequence = rois
        made.ROIContourSequence = contours
        made.RTROIObservationsSequence = observations
        made.ApprovalStatus = "UNAPPROVED"
        common.set_dates(made, created)
        common.save(made, Path(path))
    return uid


def _roi(number: int, name: str, segment: Segment, source: SourceSeries) -> Dataset:
    item = Dataset()
    item.ROINumber = number
    item.ReferencedFrameOfReferenceUID = source.header.FrameOfReferenceUID
    item.ROIName = name
    item.ROIDescription = segment.prompt
    item.ROIGenerationAlgorithm = "AUTOMATIC"
    return item


def _contours(number: int, segment: Segment, mask_ZYX: Array, source: SourceSeries) -> Dataset:
    item = Dataset()
    item.ROIDisplayColor = list(codes_for(segment.prompt).rgb or COLOURS[(number - 1) % len(COLOURS)])
    item.ReferencedROINumber = number
    column_mm, row_mm = source.grid.affine_lps[:3, 2], source.grid.affine_lps[:3, 1]  # one pixel on, along x and y
    found = []
    for index in np.flatnonzero(mask_ZYX.any(axis=(1, 2))):
        plane = source.planes[index]
        for polygon in outlines(mask_ZYX[index]):
            points = np.array(plane.position_lps_mm) + polygon[:, :1] * row_mm + polygon[:, 1:] * column_mm
            contour = Dataset()
            contour.ContourImageSequence = [_image(plane)]
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [f"{v + 0.0:.6f}"[:16] for v in points.ravel()]
            found.append(contour)
    if found:
        item.ContourSequence = found
    return item


def _observation(number: int) -> Dataset:
    item = Dataset()
    item.ObservationNumber = item.ReferencedROINumber = number
    item.RTROIInterpretedType = ""
    item.ROIInterpreter = ""
    return item


def _image(plane: Plane) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = plane.image.SOPClassUID
    item.ReferencedSOPInstanceUID = plane.image.SOPInstanceUID
    if plane.frame_number is not None:
        item.ReferencedFrameNumber = plane.frame_number
    return item


def _frame_of_reference(source: SourceSeries) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = source.series_uid
    series.ContourImageSequence = [_image(plane) for plane in source.planes]
    study = Dataset()
    study.ReferencedSOPClassUID = _STUDY_COMPONENT
    study.ReferencedSOPInstanceUID = source.header.StudyInstanceUID
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = source.header.FrameOfReferenceUID
    frame.RTReferencedStudySequence = [study]
    return frame

"""Measurements as a Comprehensive 3D SR (PS3.3 A.35.13, PS3.16 TID 1500), each tied to its segment of a DICOM SEG.

Every answer gets a group, in the order asked: a volumetric group (TID 1411) for a segment with voxels, a plain one
(TID 1501) that says absent, or not in the field of view, for an empty one. The document is UNVERIFIED: no person has
looked at it.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from vol3d.errors import Vol3dError
from vol3d.export import dicom_common as common
from vol3d.export.coding import PRIVATE_SCHEME, PROBABILITY, Site, codes_for
from vol3d.export.dicom_seg import SegFile
from vol3d.export.segments import SegmentRecord
from vol3d.export.source_series import SourceSeries
from vol3d.geometry import Grid
from vol3d.measure import diameters, volume_ml
from vol3d.types import Array

_ML = Code("ml", "UCUM", "milliliter")
_MM = Code("mm", "UCUM", "millimeter")
_GRAM = Code("g", "UCUM", "gram")
_SUV = Code("{SUVbw}g/ml", "UCUM", "Standardized Uptake Value body weight")
_ONE = Code("1", "UCUM", "no units")
_SUVBW = Code("126401", "DCM", "SUVbw")
_PRESENCE = Code("presence", PRIVATE_SCHEME, "Presence of what the phrase says")
_STATES = {
    "present": Code("52101004", "SCT", "Present"),
    "absent": Code("272519000", "SCT", "Absent"),
    "not in field of view": Code("outside-view", PRIVATE_SCHEME, "Not in the field of view"),
    "empty": Code("empty", PRIVATE_SCHEME, "Called present, mask empty"),
}
_PROCEDURES = {
    "ct": Code("77477000", "SCT", "Computed tomography"),
    "pet": Code("82918005", "SCT", "Positron emission tomography"),
}


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """Of one segment; None is not written. See `vol3d.measure` for how each is defined."""

    volume_ml: float
    axial_long_mm: float | None = None
    axial_short_mm: float | None = None
    longest_3d_mm: float | None = None
    suv_max: float | None = None
    suv_mean: float | None = None
    suv_peak: float | None = None
    tlg_g: float | None = None


def measured(mask_ZYX: Array, grid: Grid, suv: Mapping[str, float | None] | None = None) -> Measurements:
    """Sizes of a mask on its source grid, and what was measured on the native PET: `suv_max` and so on."""
    size = diameters(mask_ZYX, grid)
    return Measurements(
        volume_ml=volume_ml(mask_ZYX, grid),
        axial_long_mm=size.axial_long_mm if size else None,
        axial_short_mm=size.axial_short_mm if size else None,
        longest_3d_mm=size.longest_3d_mm if size else None,
        **(suv or {}),
    )


def write_dicom_sr(
    path: Path,
    source: SourceSeries,
    seg: SegFile,
    measurements: Sequence[Measurements],
    algorithm: common.Algorithm,
    created: datetime.datetime,
    *,
    pet: SourceSeries | None = None,
) -> str:
    """Writes the document; returns its SOP Instance UID.

    Args:
        path: the file; its folder is made.
        source: the series that the segments overlay.
        seg: what `write_dicom_seg` wrote.
        measurements: one a segment, in order.
        algorithm: what made the segments.
        created: when; part of the object's identity.
        pet: the PET series that the SUV figures were measured on, if it is not `source`; named as evidence.

    Raises:
        Vol3dError: not one set of measurements a segment, or the PET is of another study.
    """
    if len(measurements) != len(seg.segments):
        raise Vol3dError(f"expected measurements of {len(seg.segments)} segments, found {len(measurements)}")
    if pet is not None and pet.header.StudyInstanceUID != source.header.StudyInstanceUID:
        raise Vol3dError(
            "expected the PET to be of the same study as the masks' series, found another StudyInstanceUID"
        )
    about = [seg.sop_instance_uid, created.isoformat(), json.dumps([asdict(m) for m in measurements])]
    uid = common.stable_uid("sr", hashlib.sha256("\0".join(about).encode()).hexdigest())
    groups = [_group(r, m, seg, source, algorithm) for r, m in zip(seg.segments, measurements, strict=True)]
    with common.quiet():
        report = sr.MeasurementReport(
            observation_context=_observer(algorithm),
            procedure_reported=_PROCEDURES[source.modality],
            imaging_measurements=groups,
            title=codes.DCM.ImagingMeasurementReport,
        )
        made = sr.Comprehensive3DSR(
            evidence=[*source.images, _as_evidence(seg, source), *(pet.images if pet else [])],
            content=report,
            series_instance_uid=common.stable_uid("series", uid),
            series_number=common.SERIES_NUMBERS["SR"],
            sop_instance_uid=uid,
            instance_number=1,
            is_complete=True,
            is_final=False,
            is_verified=False,
            series_description="vol3d measurements (unverified)",
            specific_character_set=common.UNICODE,
            coding_schemes=common.coding_schemes(),
            **common.equipment(algorithm),
        )
        common.set_dates(made, created)
        common.save(made, Path(path))
    return uid


def _observer(algorithm: common.Algorithm) -> sr.ObservationContext:
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=common.stable_uid("device", algorithm.name, algorithm.version, algorithm.weights_sha256),
        name=algorithm.name,
        manufacturer_name=common.MANUFACTURER,
        model_name=f"{algorithm.name} {algorithm.version}",
        serial_number=algorithm.weights_sha256[:16] or None,
    )
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=codes.DCM.Device, observer_identifying_attributes=device
        )
    )


def _group(
    record: SegmentRecord, values: Measurements, seg: SegFile, source: SourceSeries, algorithm: common.Algorithm
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations | sr.MeasurementsAndQualitativeEvaluations:
    found = codes_for(record.prompt)
    sites = [found.site] if found.site else [Site(found.kind, found.modifier)] if found.modifier else []
    shared: dict[str, Any] = {
        "tracking_identifier": sr.TrackingIdentifier(uid=record.tracking_uid, identifier=record.prompt),
        "finding_type": found.kind,
        "finding_category": found.category,
        "finding_sites": [sr.FindingSite(site.region, laterality=site.modifier) for site in sites] or None,
        "algorithm_id": sr.AlgorithmIdentification(
            name=algorithm.name,
            version=algorithm.version,
            parameters=[f"weights_sha256={algorithm.weights_sha256}"],
        ),
        "measurements": _numbers(record, values),
        "qualitative_evaluations": [sr.QualitativeEvaluation(_PRESENCE, _STATES[record.state])],
    }
    if not record.voxels:
        return sr.MeasurementsAndQualitativeEvaluations(**shared)
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        referenced_segment=sr.ReferencedSegment(
            seg.sop_class_uid,
            seg.sop_instance_uid,
            record.number,
            source_series=sr.SourceSeriesForSegmentation(source.series_uid),
        ),
        **shared,
    )


def _numbers(record: SegmentRecord, values: Measurements) -> list[sr.Measurement]:
    rows = [(PROBABILITY, record.probability, _ONE, None)]
    if record.voxels:
        rows += [
            (codes.SCT.Volume, values.volume_ml, _ML, None),
            (codes.SCT.LongAxis, values.axial_long_mm, _MM, None),
            (codes.SCT.ShortAxis, values.axial_short_mm, _MM, None),
            (codes.IBSI.Maximum3DDiameterOfAMesh, values.longest_3d_mm, _MM, None),
            (_SUVBW, values.suv_max, _SUV, codes.SCT.Maximum),
            (_SUVBW, values.suv_mean, _SUV, codes.SCT.Mean),
            (_SUVBW, values.suv_peak, _SUV, codes.DCM.PeakValueWithinROI),
            (codes.DCM.TotalLesionGlycolysis, values.tlg_g, _GRAM, None),
        ]
    return [
        sr.Measurement(name=name, value=_decimal(value), unit=unit, derivation=derivation)
        for name, value, unit, derivation in rows
        if value is not None
    ]


def _decimal(value: float) -> float:
    """Seven significant digits: what a decimal string can carry, and more than any measurement has."""
    return 0.0 if value == 0 else round(value, 6 - math.floor(math.log10(abs(value))))


def _as_evidence(seg: SegFile, source: SourceSeries) -> Dataset:
    item = Dataset()
    item.StudyInstanceUID = source.header.StudyInstanceUID
    item.SeriesInstanceUID = seg.series_uid
    item.SOPClassUID, item.SOPInstanceUID = seg.sop_class_uid, seg.sop_instance_uid
    return item

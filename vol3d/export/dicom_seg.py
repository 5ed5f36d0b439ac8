"""DICOM Segmentation (PS3.3 A.51) of masks on the grid of their source series, one segment a phrase.

BINARY keeps segments that overlap, and every viewer reads it; its frames are packed and spooled to disk one mask at a
time, so that memory does not grow with the number of segments. LABELMAP is far smaller, holds one segment a voxel and
is read by few viewers yet: it is written where it is asked for and the masks allow it.

A frame carries the position, orientation and reference of the very image it overlays. A segment without voxels is
described like any other, has no frame, and says in its label what the answer was (PS3.3 C.8.20.2 asks for no frame).
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset

from vol3d.export import dicom_common as common
from vol3d.export.dicom_frames import Spool, write_multi_frame
from vol3d.export.segments import Segment, SegmentRecord, check_segments, description_of, mask_of, records_of
from vol3d.export.source_series import SourceSeries
from vol3d.types import Array


@dataclass(frozen=True, kw_only=True)
class SegFile:
    """What was written; `as_dict` of it is the sidecar."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    kind: Literal["BINARY", "LABELMAP"]
    overlap: bool
    segments: tuple[SegmentRecord, ...]
    messages: tuple[str, ...]


def write_dicom_seg(
    path: Path,
    source: SourceSeries,
    segments: Sequence[Segment],
    algorithm: common.Algorithm,
    created: datetime.datetime,
    *,
    labelmap: bool = False,
) -> SegFile:
    """Writes one Segmentation object.

    Args:
        path: the file; its folder is made.
        source: the series that the masks overlay.
        segments: at least one; numbered from 1 in this order.
        algorithm: what made them.
        created: when; part of the object's identity, see `vol3d.export.dicom_common`.
        labelmap: LABELMAP if no two segments overlap, else BINARY with a message.

    Raises:
        GeometryError: a mask is not of the source's shape.
        Vol3dError: no segments, a prompt of more than 1024 characters, or more frames than a file can hold.
    """
    check_segments(segments)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    messages = list(source.notes)
    with common.quiet():
        if labelmap:
            written = _write_labelmap(path, source, segments, algorithm, created, messages)
            if written is not None:
                return written
            messages.append("segments overlap, which a LABELMAP cannot hold: written as BINARY")
        return _write_binary(path, source, segments, algorithm, created, messages)


def _write_binary(
    path: Path, source: SourceSeries, segments: Sequence[Segment], algorithm: common.Algorithm,
    created: datetime.datetime, messages: list[str],
) -> SegFile:  # fmt: skip
    digest = _digest("BINARY", source, segments, algorithm, created)
    seen_ZYX = np.zeros(source.grid.shape, bool)
    overlap, voxels, frames = False, [], []
    with Spool(path.parent, source.grid.shape[1:]) as spool:
        for number, segment in enumerate(segments, 1):
            mask_ZYX = mask_of(segment, source)
            planes = np.flatnonzero(mask_ZYX.any(axis=(1, 2)))[::-1]  # highdicom counts against the normal
            held_ZYX = mask_ZYX[planes]
            overlap = overlap or bool((held_ZYX & seen_ZYX[planes]).any())
            seen_ZYX[planes] |= held_ZYX
            voxels.append(int(np.count_nonzero(held_ZYX)))
            frames.append(len(planes))
            digest.update(planes.tobytes())
            digest.update(spool.add(number, held_ZYX, planes))
        if not spool.frames:
            spool.add(1, np.zeros((1, *source.grid.shape[1:]), bool), np.array([0]))  # an image has at least one frame
        digest.update(spool.close_bits())
        uid = common.stable_uid("seg", digest.hexdigest())
        used = sorted({plane for _, plane in spool.frames})
        shown_ZYX = np.zeros(source.grid.shape, np.uint8)
        shown_ZYX[used, 0, 0] = 1
        records = records_of(segments, voxels, frames, uid)
        template = _object(uid, source, shown_ZYX, "BINARY", records, algorithm, created)
        template.SegmentsOverlap = "YES" if overlap else "NO"
        write_multi_frame(path, template, _plane_items(template, source), spool)
    return _result(path, template, "BINARY", overlap, records, messages)


def _write_labelmap(
    path: Path, source: SourceSeries, segments: Sequence[Segment], algorithm: common.Algorithm,
    created: datetime.datetime, messages: list[str],
) -> SegFile | None:  # fmt: skip
    """None if two segments share a voxel."""
    label_ZYX = np.zeros(source.grid.shape, np.uint8 if len(segments) < 256 else np.uint16)
    voxels, frames = [], []
    for number, segment in enumerate(segments, 1):
        mask_ZYX = mask_of(segment, source)
        planes = np.flatnonzero(mask_ZYX.any(axis=(1, 2)))
        held_ZYX = mask_ZYX[planes]
        part_ZYX = label_ZYX[planes]
        if part_ZYX[held_ZYX].any():
            return None
        part_ZYX[held_ZYX] = number
        label_ZYX[planes] = part_ZYX
        voxels.append(int(np.count_nonzero(held_ZYX)))
        frames.append(len(planes))
    digest = _digest("LABELMAP", source, segments, algorithm, created)
    digest.update(np.ascontiguousarray(label_ZYX).data)
    uid = common.stable_uid("seg", digest.hexdigest())
    records = records_of(segments, voxels, frames, uid)
    made = _object(uid, source, label_ZYX, "LABELMAP", records, algorithm, created)
    common.save(made, path)
    return _result(path, made, "LABELMAP", False, records, messages)


def _object(
    uid: str, source: SourceSeries, label_ZYX: Array, kind: str, records: Sequence[SegmentRecord],
    algorithm: common.Algorithm, created: datetime.datetime,
) -> hd.seg.Segmentation:  # fmt: skip
    """highdicom's Segmentation of a label map in the order of the grid."""
    if source.planes[0].frame_number is not None:  # one multi-frame image: in the order of its frames
        order = np.argsort([plane.frame_number or 0 for plane in source.planes])
        label_ZYX = label_ZYX[order]
    z, y, x = source.grid.spacing_mm
    made = hd.seg.Segmentation(
        source_images=source.images,
        pixel_array=label_ZYX,
        segmentation_type=kind,
        segment_descriptions=[description_of(record, algorithm) for record in records],
        series_instance_uid=common.stable_uid("series", uid),
        series_number=common.SERIES_NUMBERS["SEG"],
        sop_instance_uid=uid,
        instance_number=1,
        pixel_measures=hd.PixelMeasuresSequence((y, x), slice_thickness=z, spacing_between_slices=z),
        content_label="VOL3D",
        content_description="masks of phrases, unverified",
        series_description="vol3d masks (unverified)",
        specific_character_set=common.UNICODE,
        coding_schemes=common.coding_schemes(),
        **common.equipment(algorithm),
    )
    measures = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.SliceThickness = measures.SpacingBetweenSlices = f"{z:.10g}"  # the true step, not the source's tag
    for sequence in (made.DimensionOrganizationSequence, made.DimensionIndexSequence):
        for item in sequence:
            item.DimensionOrganizationUID = common.stable_uid("dimensions", uid)
    common.set_dates(made, created)
    return made


def _plane_items(template: Dataset, source: SourceSeries) -> dict[int, Dataset]:
    """The functional groups of each plane in use, by its index in the grid."""
    index = {
        (str(plane.image.SOPInstanceUID), plane.frame_number): i for i, plane in enumerate(source.planes)
    }  # fmt: skip
    out = {}
    for item in template.PerFrameFunctionalGroupsSequence:
        image = item.DerivationImageSequence[0].SourceImageSequence[0]
        frame = image.get("ReferencedFrameNumber")
        out[index[str(image.ReferencedSOPInstanceUID), None if frame is None else int(frame)]] = item
    return out


def _digest(
    kind: str, source: SourceSeries, segments: Sequence[Segment], algorithm: common.Algorithm,
    created: datetime.datetime,
) -> Any:  # fmt: skip
    about = {
        "kind": kind,
        "source": [str(plane.image.SOPInstanceUID) for plane in source.planes],
        "segments": [(s.prompt, s.state, s.probability) for s in segments],
        "algorithm": (algorithm.name, algorithm.version, algorithm.weights_sha256, dict(algorithm.parameters)),
        "created": created.isoformat(),
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())


def _result(
    path: Path, made: Dataset, kind: Literal["BINARY", "LABELMAP"], overlap: bool,
    records: Sequence[SegmentRecord], messages: list[str],
) -> SegFile:  # fmt: skip
    empty = [record.label for record in records if not record.voxels]
    if empty:
        messages.append(f"{len(empty)} of {len(records)} segments are empty: {'; '.join(empty)}")
    return SegFile(
        path=path, sop_class_uid=str(made.SOPClassUID), sop_instance_uid=str(made.SOPInstanceUID),
        series_uid=str(made.SeriesInstanceUID), kind=kind, overlap=overlap, segments=tuple(records),
        messages=tuple(messages),
    )  # fmt: skip

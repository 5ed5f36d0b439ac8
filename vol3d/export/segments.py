"""Answers as segments: their names, numbers, codes and the algorithm, as SEG, SR and RTSTRUCT state them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import highdicom as hd
from highdicom.color import CIELabColor
from highdicom.sr import CodedConcept
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code

from vol3d.errors import GeometryError, Vol3dError
from vol3d.export import dicom_common as common
from vol3d.export.coding import SegmentCodes, codes_for, one_line
from vol3d.export.source_series import SourceSeries
from vol3d.types import Array

DESCRIPTION_LIMIT = 1024
"""Characters of Segment Description (VR ST)."""

COLOURS = (
    (230, 75, 53), (77, 187, 213), (0, 160, 135), (60, 84, 136), (243, 155, 127), (132, 145, 180), (145, 209, 194),
    (220, 180, 0), (126, 97, 72), (176, 156, 133), (170, 70, 170), (90, 170, 60),
)  # fmt: skip
"""For phrases without a customary colour, in turn."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """One answer to be exported."""

    prompt: str
    load: Callable[[], Array]
    """Its mask [Z, Y, X] on the source grid, non-zero voxels are members; called once or twice."""
    state: str = "present"
    """Or ``absent``, ``not in field of view``."""
    probability: float | None = None


@dataclass(frozen=True, kw_only=True)
class SegmentRecord:
    """What became of one segment."""

    number: int
    label: str
    prompt: str
    state: str
    probability: float | None
    voxels: int
    frames: int
    tracking_uid: str


def check_segments(segments: Sequence[Segment]) -> None:
    """Raises Vol3dError if there is nothing to export, or a prompt that no attribute can hold."""
    if not segments:
        raise Vol3dError("expected at least one mask to export, found none")
    for segment in segments:
        if len(segment.prompt) > DESCRIPTION_LIMIT:
            raise Vol3dError(
                f"expected a prompt of at most {DESCRIPTION_LIMIT} characters, which a Segment Description can hold, "
                f"found {len(segment.prompt)}: {segment.prompt[:40]!r}..."
            )


def mask_of(segment: Segment, source: SourceSeries) -> Array:
    """The mask as bool, checked.

    Raises:
        GeometryError: it is not of the source's shape.
    """
    mask_ZYX = segment.load()
    if mask_ZYX.shape != source.grid.shape:
        raise GeometryError(
            f"{segment.prompt!r}: expected a mask of the source's shape (z, y, x) {source.grid.shape}, found "
            f"{mask_ZYX.shape}"
        )
    return mask_ZYX if mask_ZYX.dtype == bool else mask_ZYX != 0


def label_of(segment: Segment, empty: bool, number: int, used: set[str]) -> str:
    """A name of at most 64 bytes that no other segment has; of an empty one, with the answer in brackets."""
    suffix = f" ({_state(segment, empty)})" if empty else ""
    label = one_line(segment.prompt, 64 - len(suffix)) + suffix
    if label in used:
        suffix = f" #{number}{suffix}"
        label = one_line(segment.prompt, 64 - len(suffix)) + suffix
    used.add(label)
    return label


def _state(segment: Segment, empty: bool) -> str:
    return "empty" if empty and segment.state == "present" else segment.state


def records_of(
    segments: Sequence[Segment], voxels: Sequence[int], frames: Sequence[int], uid: str
) -> list[SegmentRecord]:
    """Numbers, labels and tracking identifiers of segments with so many voxels and frames, in an object of this UID."""
    used: set[str] = set()
    return [
        SegmentRecord(
            number=number,
            label=label_of(segment, not count, number, used),
            prompt=segment.prompt,
            state=_state(segment, not count),
            probability=segment.probability,
            voxels=count,
            frames=shown,
            tracking_uid=common.stable_uid("tracking", uid, str(number)),
        )
        for number, (segment, count, shown) in enumerate(zip(segments, voxels, frames, strict=True), 1)
    ]


def description_of(record: SegmentRecord, algorithm: common.Algorithm) -> hd.seg.SegmentDescription:
    """An item of the Segment Sequence (PS3.3 C.8.20.4)."""
    codes = codes_for(record.prompt)
    rgb = codes.rgb or COLOURS[(record.number - 1) % len(COLOURS)]
    answer = {"state": record.state}
    if record.probability is not None:
        answer["probability"] = f"{record.probability:.6g}"
    made = hd.seg.SegmentDescription(
        segment_number=record.number,
        segment_label=record.label,
        segmented_property_category=codes.category,
        segmented_property_type=codes.kind,
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm.identification(**answer),
        tracking_id=record.prompt,
        tracking_uid=record.tracking_uid,
        display_color=CIELabColor.from_rgb(*rgb),
    )
    made.SegmentDescription = record.prompt
    _add_modifiers(made, codes)
    return made


def _add_modifiers(description: Dataset, codes: SegmentCodes) -> None:
    """Sides, which highdicom's constructor has no argument for (PS3.3 tables C.8.20-4 and 10-8)."""

    def item(code: Code) -> CodedConcept:
        return CodedConcept.from_code(code)

    if codes.modifier is not None:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [item(codes.modifier)]
    if codes.site is not None:
        region = item(codes.site.region)
        if codes.site.modifier is not None:
            region.AnatomicRegionModifierSequence = [item(codes.site.modifier)]
        description.AnatomicRegionSequence = [region]

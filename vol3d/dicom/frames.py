"""Frames: what each slice of a series says about itself, from single-frame and multi-frame objects alike.

PS3.3 C.7.6.2 (image plane) for the first, C.7.6.16 (functional groups) for the second.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset

from vol3d.dicom.enhanced import PLACE, groups_of, macro, pet_header, value_mapping
from vol3d.dicom.series import PARSE_ERRORS, Instance, Series
from vol3d.errors import ReadError, UnitError


@dataclass(frozen=True)
class Frame:
    """One slice, by its own header; lengths in mm, positions in the patient's LPS+."""

    path: Path
    index: int
    """Which frame of its file, from 0."""
    number: int | None
    """Instance Number (0020,0013); in a multi-frame object, the frame's number from 1."""
    header: Dataset
    """Of the whole file."""
    rows: int
    columns: int
    position_mm: tuple[float, ...]
    orientation: tuple[float, ...]
    """Direction cosines of a row, then of a column (Image Orientation (Patient), 6 numbers)."""
    spacing_mm: tuple[float, ...]
    """Between rows, then between columns (Pixel Spacing)."""
    slope: float | None
    intercept: float | None
    rescale_type: str

    @property
    def is_multi_frame(self) -> bool:
        """True if its file describes frames by functional groups."""
        return "PerFrameFunctionalGroupsSequence" in self.header

    @property
    def name(self) -> str:
        """File, and frame where the file holds several, for messages."""
        return f"{self.path.name}#{self.number}" if self.is_multi_frame else self.path.name

    def pet_header(self) -> Dataset:
        """What the rules of SUV need, in the attributes of a single-frame PET.

        Raises:
            ReadError: its functional groups cannot be read.
        """
        try:
            return pet_header(self.header, self.index) if self.is_multi_frame else self.header
        except PARSE_ERRORS as error:
            raise ReadError(
                f"{self.name}: expected readable functional groups, found {type(error).__name__}"
            ) from error


def frames_of(series: Series) -> list[Frame]:
    """Every slice of a series, in no particular order.

    Raises:
        ReadError: a slice has no position, orientation, spacing or size, or is no single-channel image.
    """
    frames = [frame for instance in series.instances for frame in _frames(instance)]
    _one(frames, "FrameOfReferenceUID", series, "these slices do not share a coordinate system")
    _one(frames, "PatientID", series, "these slices are of several patients; separate them")
    _one(
        frames, "ConvolutionKernel", series, "several reconstructions, whose slices may lie between each other; "
        "separate them"
    )  # fmt: skip
    return frames


def _one(frames: Sequence[Frame], keyword: str, series: Series, meaning: str) -> None:
    """Refuses a series of several values; which, is not said: they may name a patient."""
    first: dict[str, Frame] = {}
    for frame in frames:
        first.setdefault(str(frame.header.get(keyword) or ""), frame)
    if len(first) > 1:
        a, b = list(first.values())[:2]
        raise ReadError(
            f"expected one {keyword} in {series}, found {len(first)}, e.g. in {a.name} and {b.name}: {meaning}"
        )


def numbers(header: Dataset, keyword: str, count: int, where: str) -> tuple[float, ...]:
    """`count` finite decimals of an attribute.

    Raises:
        ReadError: absent, unreadable or of another length.
    """
    try:
        value = header.get(keyword)
        values = [] if value is None or value == "" else [value] if count == 1 else list(value)
        out = tuple(float(v) for v in values)
    except PARSE_ERRORS as error:
        raise ReadError(f"{where}: {keyword} is not readable as {count} numbers") from error
    if len(out) != count or not all(abs(v) < 1e9 for v in out):
        raise ReadError(f"{where}: expected {keyword} with {count} finite numbers, found {list(out) or 'nothing'}")
    return out


def _frames(instance: Instance) -> Iterable[Frame]:
    header, where = instance.header, instance.path.name
    samples = int(numbers(header, "SamplesPerPixel", 1, where)[0])
    if samples != 1:
        raise ReadError(f"{where}: expected one sample per pixel, found {samples}: a colour picture, not an image")
    colours = str(header.get("PhotometricInterpretation") or "").strip().upper()
    if colours not in ("MONOCHROME1", "MONOCHROME2"):  # the first only inverts the display
        raise ReadError(f"{where}: expected PhotometricInterpretation MONOCHROME1 or 2, found {colours or 'nothing'}")
    numbers(header, "PixelRepresentation", 1, where)
    bits, high = int(numbers(header, "BitsStored", 1, where)[0]), _integer(header, "HighBit", where)
    if high not in (None, bits - 1):
        raise ReadError(
            f"{where}: expected HighBit (0028,0102) one less than BitsStored {bits}, found {high}: its pixels lie "
            f"elsewhere in their words (PS3.5 8.1.1)"
        )
    if "ModalityLUTSequence" in header:
        raise UnitError(f"{where}: expected a rescale slope and intercept, found a modality lookup table: not read")
    if "PerFrameFunctionalGroupsSequence" in header:
        yield from _multi_frame(instance)
        return
    if _integer(header, "NumberOfFrames", where) not in (None, 1):
        raise ReadError(f"{where}: expected functional groups in a multi-frame object, found none: no frame positions")
    yield _frame(instance, 0, _integer(header, "InstanceNumber", where), [header])


def _integer(header: Dataset, keyword: str, where: str) -> int | None:
    """None if the attribute is absent or empty."""
    return None if header.get(keyword) in (None, "") else int(numbers(header, keyword, 1, where)[0])


def _multi_frame(instance: Instance) -> Iterable[Frame]:
    header, where = instance.header, instance.path.name
    stated, count = _integer(header, "NumberOfFrames", where), len(header.PerFrameFunctionalGroupsSequence)
    if count != stated:
        raise ReadError(f"{where}: expected functional groups of {stated} frames, found {count}")
    for index in range(count):
        try:
            groups = groups_of(header, index)
            items = [macro(groups, keyword) for keyword in (*PLACE, "PixelValueTransformationSequence")]
            if instance.modality == "PT":
                items[-1] = value_mapping(header, groups)
        except PARSE_ERRORS as error:
            found = type(error).__name__
            raise ReadError(
                f"{where}, frame {index + 1}: expected readable functional groups, found {found}"
            ) from error
        yield _frame(instance, index, index + 1, items)


def _frame(instance: Instance, index: int, number: int | None, sources: Sequence[Dataset]) -> Frame:
    where = f"{instance.path.name}, frame {index + 1}" if len(sources) > 1 else instance.path.name

    def find(keyword: str) -> Dataset:
        return next((s for s in sources if keyword in s), Dataset())

    def optional(keyword: str) -> float | None:
        item = find(keyword)
        return None if item.get(keyword) in (None, "") else numbers(item, keyword, 1, where)[0]

    def several(keyword: str, count: int) -> tuple[float, ...]:
        return numbers(find(keyword), keyword, count, where)

    spacing_mm = several("PixelSpacing", 2)
    if min(spacing_mm) <= 0:
        raise ReadError(f"{where}: expected PixelSpacing (0028,0030) of two positive lengths, found {list(spacing_mm)}")
    rescale_type: Any = find("RescaleType").get("RescaleType")
    return Frame(
        path=instance.path,
        index=index,
        number=number,
        header=instance.header,
        rows=int(numbers(instance.header, "Rows", 1, where)[0]),
        columns=int(numbers(instance.header, "Columns", 1, where)[0]),
        position_mm=several("ImagePositionPatient", 3),
        orientation=several("ImageOrientationPatient", 6),
        spacing_mm=spacing_mm,
        slope=optional("RescaleSlope"),
        intercept=optional("RescaleIntercept"),
        rescale_type=str(rescale_type or "").strip().upper(),
    )

"""A folder of DICOM files -> one CT in rescaled values or one PET in SUVbw, stacked on its `Grid`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from preprocessing import suv
from preprocessing.decode import decoded, is_lossy
from preprocessing.hu import pack, require_finite, to_hu
from preprocessing.options import DEFAULT, PetSupplement, ReadOptions
from preprocessing.suv_header import metadata, supplemented
from vol3d.dicom.frames import Frame, frames_of, numbers
from vol3d.dicom.geometry import layout_of
from vol3d.dicom.listing import without_names
from vol3d.dicom.series import Scan, scan, select_series
from vol3d.dicom.straighten import straighten
from vol3d.errors import ReadError, UnitError
from vol3d.geometry import Grid
from vol3d.types import Array, Zyx
from vol3d.volume import FILL

AIR_TO_JUDGE_BY = 0.01
"""Share of voxels under -700 HU that shows a negative slope to be meant."""


@dataclass(frozen=True)
class DicomVolume:
    """A series as one array; see `preprocessing.reading.Reading`."""

    array_ZYX: Array
    grid: Grid
    slice_numbers: tuple[int, ...] | None
    files: tuple[Path, ...]
    notes: tuple[str, ...]


def read_dicom(
    path: Path, modality: Literal["ct", "pet"], *, assume_hu: bool = False, options: ReadOptions = DEFAULT
) -> DicomVolume:
    """Reads the one CT or PET series below a folder (or in one multi-frame file).

    Raises:
        ReadError: no such series, several, damaged files, unreadable pixels.
        GeometryError: its slices make no regular grid.
        UnitError: its values are not HU, or cannot become SUVbw.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom quotes invalid values in its warnings, names of patients among them
        try:
            return _read(path, modality, assume_hu, options)
        except ReadError as error:
            raise type(error)(f"{path}: {without_names(str(error), path)}") from error
        except MemoryError as error:
            raise ReadError(f"{path}: expected memory for the whole series, found too little: {error}") from error


def _read(path: Path, modality: Literal["ct", "pet"], assume_hu: bool, options: ReadOptions) -> DicomVolume:
    found = scan(path)
    frames = frames_of(select_series(found, modality))
    layout = layout_of(frames)
    straight = straighten(layout, tilt=options.tilt == "correct", spacing=options.spacing == "resample")
    ordered = [frames[i] for i in layout.order]
    if modality == "ct":
        array_ZYX, notes = _ct(ordered, layout.shape, assume_hu)
    else:
        array_ZYX, notes = _pet(ordered, layout.shape, options.pet)
    numbered, grid = _slice_numbers(ordered), straight.grid if straight else layout.grid()
    if straight:
        array_ZYX = straight.apply(array_ZYX, FILL[modality])
        numbered, notes = None if straight.resliced else numbered, notes + straight.notes
    files = tuple(dict.fromkeys(f.path for f in ordered))
    return DicomVolume(array_ZYX, grid, numbered, files, _notes(found, ordered) + notes)


def _ct(frames: Sequence[Frame], shape: Zyx, assume_hu: bool) -> tuple[Array, tuple[str, ...]]:
    for frame in frames:
        if frame.rescale_type not in ("", "HU") and not assume_hu:
            raise UnitError(
                f"{frame.name}: expected RescaleType HU, found {frame.rescale_type}: not a CT in Hounsfield units; if "
                f"it is, say so with --assume-hu"
            )
    padding_ZYX = np.zeros(shape, bool)

    def slabs() -> Iterator[Array]:
        for index, (frame, stored) in enumerate(decoded(frames)):
            _mark_padding(frame, stored, padding_ZYX[index])
            yield _rescaled(frame, stored, optional=assume_hu)

    array_ZYX = pack(slabs(), shape)
    require_finite(array_ZYX, "CT series")
    if not assume_hu and any((f.slope or 1.0) < 0 for f in frames) and (array_ZYX < -700).mean() < AIR_TO_JUDGE_BY:
        raise UnitError(
            "expected air in a CT with a negative RescaleSlope (0028,1053), by which to judge its sign, found none: if "
            "its values are HU, say so with --assume-hu"
        )
    header, where = frames[0].header, frames[0].name
    bits = int(numbers(header, "BitsStored", 1, where)[0])
    signed = numbers(header, "PixelRepresentation", 1, where)[0] == 1
    return to_hu(array_ZYX, bits=bits, signed=signed, padding_ZYX=padding_ZYX, assume_hu=assume_hu)


def _pet(frames: Sequence[Frame], shape: Zyx, supplement: PetSupplement) -> tuple[Array, tuple[str, ...]]:
    described = [metadata(f.pet_header()) for f in frames]
    supplied = supplement.attributes()
    rule = suv.suvbw(supplemented(described, supplied) if supplied else described)
    slabs = (_rescaled(f, stored) * k for (f, stored), k in zip(decoded(frames), rule.factors, strict=True))
    array_ZYX = pack(slabs, shape, np.float32)
    require_finite(array_ZYX, "PET series")
    suv.refuse_unlike_uptake(array_ZYX)
    return array_ZYX, (rule.rule, *rule.notes)


def _rescaled(frame: Frame, stored_YX: Array, optional: bool = False) -> Array:
    """Slope and intercept of this very slice (PS3.3 C.11.1), in float64."""
    slope, intercept = frame.slope, frame.intercept
    if slope is None or intercept is None:
        if not optional:
            raise UnitError(
                f"{frame.name}: expected RescaleSlope (0028,1053) and RescaleIntercept (0028,1052), found "
                f"{slope} and {intercept}: stored values have no unit"
            )
        slope, intercept = 1.0 if slope is None else slope, intercept or 0.0
    if slope == 0:
        raise UnitError(f"{frame.name}: expected a RescaleSlope other than 0, found 0")
    return stored_YX * np.float64(slope) + intercept


def _mark_padding(frame: Frame, stored_YX: Array, out_YX: Array) -> None:
    """True where a pixel holds Pixel Padding Value, or lies between it and its Range Limit (PS3.3 C.7.5.1.1.2)."""
    limits = []
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if frame.header.get(keyword) not in (None, ""):
            value = int(numbers(frame.header, keyword, 1, frame.name)[0])
            # some writers give a signed image an unsigned padding value: 63536 for -2000
            limits.append(np.array(value & (2 ** (8 * stored_YX.itemsize) - 1)).astype(f"u{stored_YX.itemsize}"))
    if limits and frame.header.get("PixelPaddingValue") not in (None, ""):
        codes = [int(v.view(stored_YX.dtype)) for v in limits]
        np.logical_and(stored_YX >= min(codes), stored_YX <= max(codes), out=out_YX)


def _notes(found: Scan, frames: Sequence[Frame]) -> tuple[str, ...]:
    notes = []
    for reason in dict.fromkeys(reason for _, reason in found.left_out):
        names = [path.name for path, other in found.left_out if other == reason]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        notes.append(f"left out, {reason}: {', '.join(names[:3])}{more}")
    if any(is_lossy(f) for f in frames):
        notes.append("lossy compressed at its source")
    return tuple(notes)


def _slice_numbers(frames: Sequence[Frame]) -> tuple[int, ...] | None:
    found = tuple(f.number for f in frames if f.number is not None)
    return found if len(found) == len(frames) and len(set(found)) == len(found) else None

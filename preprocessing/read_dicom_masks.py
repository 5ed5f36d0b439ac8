"""RTSTRUCT and DICOM SEG as masks on the grid of the image they were drawn on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid as uids

from preprocessing.rtstruct import rasterise, read_contours, read_structures
from vol3d.boxes import crop_or_fill
from vol3d.dicom.series import PARSE_ERRORS
from vol3d.errors import GeometryError, ReadError
from vol3d.geometry import Grid
from vol3d.types import Array
from vol3d.volume import Volume

SEG_CLASSES = (uids.SegmentationStorage, "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation Storage and Label Map Segmentation Storage."""

LATTICE_TOLERANCE_MM = 0.1
"""Voxels of a SEG belong to an image's voxels if no centre is further off."""


@dataclass(frozen=True)
class DrawnOn:
    """An image that a mask may have been drawn on: its grid, and its source files (DICOM, or they say nothing)."""

    grid: Grid
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Segment:
    """One segment of a SEG."""

    number: int
    label: str
    description: str
    meaning: str
    """Code meaning of the Segmented Property Type."""


def is_dicom(path: Path) -> bool:
    """True for a file with a DICOM preamble."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_dicom_mask(path: Path, value: int | None, images: Mapping[str, DrawnOn]) -> Volume:
    """One region (RTSTRUCT) or segment (SEG) as 0/1 on the grid of the image it was drawn on.

    Args:
        path: an RTSTRUCT, a SEG or a LABELMAP SEG.
        value: ROI Number or Segment Number; may be left out where the file has only one.
        images: what it may have been drawn on. Found by the referenced Series Instance UID, else by the Frame of
            Reference UID if it fits just one of them.

    Raises:
        ReadError: no such object or region; `GeometryError` if it fits none of the images, or several.
    """
    try:
        kind = str(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID"]).get("SOPClassUID", ""))
    except PARSE_ERRORS as error:
        raise ReadError(f"expected a readable DICOM mask, found {type(error).__name__}; send it again") from error
    if kind == uids.RTStructureSetStorage:
        structures = read_structures(path)
        number = _only(value, [r.number for r in structures.regions], "region")
        contours = read_contours(path, number)
        return _on_one(images, structures.series_uids, structures.frame_uids, lambda grid: rasterise(contours, grid))
    if kind in SEG_CLASSES:
        return _read_segment(path, value, images)
    raise ReadError(f"expected an RT Structure Set or a DICOM SEG as a mask, found {uids.UID(kind).name or 'nothing'}")


def read_segments(path: Path) -> tuple[Segment, ...]:
    """What a SEG holds, without its pixels.

    Raises:
        ReadError: it cannot be parsed.
    """
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        return tuple(
            Segment(
                int(item.SegmentNumber),
                str(item.get("SegmentLabel") or "").strip(),
                str(item.get("SegmentDescription") or "").strip(),
                str(item.SegmentedPropertyTypeCodeSequence[0].get("CodeMeaning") or "").strip()
                if item.get("SegmentedPropertyTypeCodeSequence")
                else "",
            )
            for item in dataset.get("SegmentSequence", [])
            if int(item.SegmentNumber) > 0
        )
    except PARSE_ERRORS as error:
        raise ReadError(f"expected a readable DICOM SEG, found {type(error).__name__}: send it again") from error


def _read_segment(path: Path, value: int | None, images: Mapping[str, DrawnOn]) -> Volume:
    import highdicom  # seconds, and few studies have a SEG

    number = _only(value, [s.number for s in read_segments(path)], "segment")
    try:
        seg = highdicom.seg.segread(path)
        found = seg.get_volume(segment_numbers=[number], dtype=np.float32)
        series = {str(s.SeriesInstanceUID) for s in seg.get("ReferencedSeriesSequence", [])}
        frame_uid = str(seg.get("FrameOfReferenceUID") or "")
        drawn = Volume(
            (np.asarray(found.array)[..., 0] >= 0.5).astype(np.uint8),  # FRACTIONAL: half a voxel decides
            Grid.from_lps(found.spatial_shape, found.affine),
            "mask",
        )
    except GeometryError:
        raise
    except PARSE_ERRORS as error:
        raise ReadError(f"expected segment {number} as one regular volume, found {error}") from error
    return _on_one(images, frozenset(series), frozenset({frame_uid} - {""}), lambda grid: _placed(drawn, grid))


def _placed(drawn: Volume, grid: Grid) -> Array:
    """A SEG may cover a part of its image, in another order of axes: the same voxels at their place in the image."""
    canonical, order, flips = grid.to_orientation("SAR")
    moved = drawn.to_orientation("SAR")
    ends = np.array(list(itertools.product(*[(0.0, n - 1.0) for n in moved.grid.shape])))
    index = canonical.mm_to_index(moved.grid.index_to_mm(ends))
    start = np.rint(index[0]).astype(int)
    off = np.abs((index - start - ends) * np.array(canonical.spacing_mm)).max()
    if off > LATTICE_TOLERANCE_MM:
        raise GeometryError(
            f"expected a SEG on the voxels of its image, found them {off:.2f} mm apart ({drawn.grid} and {grid}); "
            f"resample the SEG"
        )
    lost = np.argwhere(moved.array_ZYX) + start
    if len(lost) and ((lost < 0) | (lost >= np.array(canonical.shape))).any():
        raise GeometryError(f"expected a SEG within its image {grid}, found members outside of it")
    first = (int(-start[0]), int(-start[1]), int(-start[2]))
    stop = tuple(f + n for f, n in zip(first, canonical.shape, strict=True))
    array = crop_or_fill(moved.array_ZYX, first, (stop[0], stop[1], stop[2]), 0)
    back = np.argsort(order)
    return np.flip(array, flips).transpose(back)


def _on_one(
    images: Mapping[str, DrawnOn],
    series_uids: frozenset[str],
    frame_uids: frozenset[str],
    draw: Callable[[Grid], Array],
) -> Volume:
    """The mask on the one image that it names or, failing that, the one of its coordinate system that it fits."""
    named, shared = {}, {}
    for name, image in images.items():
        series_uid, frame_uid = source_tags(image.files, "SeriesInstanceUID", "FrameOfReferenceUID")
        if series_uid and series_uid in series_uids:
            named[name] = image
        elif frame_uid and frame_uid in frame_uids:
            shared[name] = image
    drawn, faults = {}, []
    for name, image in (named or shared).items():
        try:
            drawn[name] = Volume(np.ascontiguousarray(draw(image.grid)), image.grid, "mask")
        except GeometryError as error:
            faults.append(f"{name}: {error}")
    if len(drawn) == 1:
        return next(iter(drawn.values()))
    if drawn:
        raise GeometryError(
            f"expected a mask that names the series it was drawn on, found none named and {' and '.join(drawn)} fit"
        )
    raise GeometryError(
        "; ".join(faults)
        or f"expected a mask drawn on one of the study's images ({', '.join(images)}), found another series and "
        f"coordinate system named in it"
    )


def source_tags(files: Sequence[Path], first: str, second: str) -> tuple[str, str]:
    """Two attributes, by keyword, of an image that was read, from its first file; empty where it has none, as NIfTI."""
    if not files or not is_dicom(files[0]):
        return "", ""
    header = pydicom.dcmread(files[0], stop_before_pixels=True, specific_tags=[first, second])
    return str(header.get(first) or "").strip(), str(header.get(second) or "").strip()


def _only(value: int | None, numbers: Sequence[int], what: str) -> int:
    if value is None and len(numbers) == 1:
        return numbers[0]
    if value is None:
        raise ReadError(f"expected the number of a {what} ('value' in the manifest), found {len(numbers)} to choose of")
    if value not in numbers:
        raise ReadError(f"expected {what} {value}, found {', '.join(map(str, numbers[:20])) or 'none'}")
    return value

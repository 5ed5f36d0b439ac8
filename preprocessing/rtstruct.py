"""RT Structure Set (PS3.3 A.19) -> its regions, and a region's contours -> voxels.

The inclusion rule: a voxel is a member if its *centre* lies inside. Inside is by the even-odd rule over all closed
contours of a plane, so that a contour in another one is a hole, drawn as such, by CLOSEDPLANAR_XOR or by a keyhole
(PS3.3 C.8.8.6.3). A centre exactly on an edge belongs to the side of growing indices, so that regions that share an
edge share no voxel. Nothing is interpolated between planes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from vol3d.dicom.series import PARSE_ERRORS
from vol3d.errors import GeometryError, ReadError
from vol3d.geometry import Grid
from vol3d.types import Array

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
"""Contour Geometric Types that enclose an area; points and open lines enclose none."""

PLANE_TOLERANCE = 0.1
"""A contour belongs to a slice if none of its points is further from it than this share of the slice distance."""

_INDEX_DECIMALS = 4
"""Indices are rounded to this, far below the 0.001 mm contours are written with: the edge rule is then exact."""


@dataclass(frozen=True)
class Region:
    """One region of interest of a structure set, without its contours."""

    number: int
    name: str
    kind: str
    """RT ROI Interpreted Type: GTV, ORGAN, EXTERNAL, MARKER, ... or empty."""
    closed: int
    """How many closed contours it has."""


@dataclass(frozen=True)
class StructureSet:
    """What a structure set holds and which series it was drawn on."""

    regions: tuple[Region, ...]
    series_uids: frozenset[str]
    frame_uids: frozenset[str]


def read_structures(path: Path) -> StructureSet:
    """The regions of an RTSTRUCT file.

    Raises:
        ReadError: it cannot be parsed.
    """
    try:
        return _structures(pydicom.dcmread(path))
    except PARSE_ERRORS as error:
        raise ReadError(f"expected a readable RT Structure Set, found {type(error).__name__}: send it again") from error


def read_contours(path: Path, number: int) -> list[Array]:
    """Closed contours of region `number`, each [N, 3] in the patient's LPS mm; the same contour twice counts once.

    Raises:
        ReadError: no such region, or no closed contour.
    """
    try:
        dataset = pydicom.dcmread(path)
        items = [c for c in dataset.get("ROIContourSequence", []) if int(c.ReferencedROINumber) == number]
        contours = [c for item in items for c in item.get("ContourSequence", []) if _is_closed(c)]
        points = [np.array(c.ContourData, np.float64).reshape(-1, 3) for c in contours]
    except PARSE_ERRORS as error:
        raise ReadError(f"expected readable contours of region {number}, found {type(error).__name__}") from error
    unique = {_canonical(p): p for p in points if len(p) >= 3}
    if not unique:
        raise ReadError(f"expected closed contours in region {number}, found none: points and lines enclose no volume")
    return list(unique.values())


def _canonical(points_N3: Array) -> bytes:
    """The same for the same polygon, whatever its first point and sense, and whether the first point ends it too.

    By the even-odd rule a contour that is there twice would cancel itself out.
    """
    points = [tuple(p) for p in np.round(points_N3, 3) + 0.0]
    points = [p for p, before in zip(points, [points[-1], *points[:-1]], strict=True) if p != before] or points[:1]
    turns = []
    for way in (points, points[::-1]):
        starts = [i for i, p in enumerate(way) if p == min(way)]
        turns.append(min(way[i:] + way[:i] for i in starts))
    return np.array(min(turns)).tobytes()


def rasterise(contours_lps: Sequence[Array], grid: Grid) -> Array:
    """Closed contours [N, 3] in LPS mm, in planes of the grid's axis 0 -> uint8 [Z, Y, X], 1 where a centre is inside.

    Raises:
        GeometryError: a contour lies off the slices, or beyond the image; contours leave out slices regularly.
    """
    edges = [_edges(np.asarray(points, np.float64), grid) for points in contours_lps]
    z_E, y0_E, x0_E, y1_E, x1_E = (np.concatenate(column) for column in zip(*edges, strict=True))
    _require_every_slice(np.unique(z_E))
    down = y0_E > y1_E
    y0_E, y1_E = np.where(down, y1_E, y0_E), np.where(down, y0_E, y1_E)
    x0_E, x1_E = np.where(down, x1_E, x0_E), np.where(down, x0_E, x1_E)
    first = np.clip(np.ceil(y0_E), 0, grid.shape[1]).astype(int)
    last = np.clip(np.ceil(y1_E), 0, grid.shape[1]).astype(int)  # rows first <= y < last are crossed
    count = last - first
    edge = np.repeat(np.arange(len(count)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    share = (row - y0_E[edge]) / (y1_E - y0_E)[edge]
    column = np.round(x0_E[edge] + share * (x1_E - x0_E)[edge], _INDEX_DECIMALS)
    crossed_ZYX = np.zeros((grid.shape[0], grid.shape[1], grid.shape[2] + 1), np.uint8)
    where = (z_E[edge], row, np.clip(np.ceil(column), 0, grid.shape[2]).astype(int))
    np.bitwise_xor.at(crossed_ZYX, where, np.uint8(1))
    inside_ZYX = np.bitwise_xor.accumulate(crossed_ZYX, axis=2)[..., :-1]
    if not inside_ZYX.any():  # smaller than a voxel, and between centres: empty would mean that it is absent
        z, y, x = (round(float(np.mean(v))) for v in (z_E, y0_E, x0_E))
        inside_ZYX[z, min(max(y, 0), grid.shape[1] - 1), min(max(x, 0), grid.shape[2] - 1)] = 1
    return inside_ZYX


def _require_every_slice(z_N: Array) -> None:
    steps = np.diff(z_N)
    if len(steps) >= 2 and steps.min() > 1:
        raise GeometryError(
            f"expected contours on neighbouring slices, found them on every {steps.min()}. slice or fewer: drawn on a "
            f"series with wider slices, or meant to be interpolated; let the planning system fill in the others"
        )


def _edges(points_N3: Array, grid: Grid) -> tuple[Array, Array, Array, Array, Array]:
    """Slice, and both ends (row, column) of every edge of one contour, in voxel indices."""
    index_N3 = grid.mm_to_index(points_N3 * np.array([-1.0, -1.0, 1.0]))
    slices = np.rint(index_N3[:, 0])
    off = np.abs(index_N3[:, 0] - np.median(slices)).max()
    if off > PLANE_TOLERANCE:
        raise GeometryError(
            f"expected every contour in the plane of a slice, found points {off * grid.spacing_mm[0]:.2f} mm off the "
            f"nearest one (slices are {grid.spacing_mm[0]:.2f} mm apart): drawn on another series"
        )
    z = int(np.median(slices))
    if not 0 <= z < grid.shape[0]:
        raise GeometryError(
            f"expected every contour within the series' {grid.shape[0]} slices, found one at index {z}: "
            f"drawn on another series"
        )
    y, x = np.round(index_N3[:, 1:].T, _INDEX_DECIMALS)
    if y.max() < -0.5 or x.max() < -0.5 or y.min() > grid.shape[1] - 0.5 or x.min() > grid.shape[2] - 0.5:
        raise GeometryError(
            f"expected every contour within the series' {grid.shape[1]} rows and {grid.shape[2]} columns, found one at "
            f"rows {y.min():.0f} to {y.max():.0f}, columns {x.min():.0f} to {x.max():.0f}: drawn on another series"
        )
    return np.full(len(y), z), y, x, np.roll(y, -1), np.roll(x, -1)


def _structures(dataset: Dataset) -> StructureSet:
    frames = list(dataset.get("ReferencedFrameOfReferenceSequence", []))
    studies = [s for frame in frames for s in frame.get("RTReferencedStudySequence", [])]
    series = [s for study in studies for s in study.get("RTReferencedSeriesSequence", [])]
    rois = list(dataset.get("StructureSetROISequence", []))
    kinds = {
        int(o.ReferencedROINumber): str(o.get("RTROIInterpretedType") or "")
        for o in dataset.get("RTROIObservationsSequence", [])
    }
    closed: dict[int, int] = {}
    for item in dataset.get("ROIContourSequence", []):
        number = int(item.ReferencedROINumber)
        closed[number] = closed.get(number, 0) + sum(_is_closed(c) for c in item.get("ContourSequence", []))
    frame_uids = [f.get("FrameOfReferenceUID") for f in frames]
    frame_uids += [r.get("ReferencedFrameOfReferenceUID") for r in rois]
    return StructureSet(
        tuple(
            Region(n := int(r.ROINumber), str(r.get("ROIName") or "").strip(), kinds.get(n, ""), closed.get(n, 0))
            for r in rois
        ),
        frozenset(str(s.SeriesInstanceUID) for s in series if s.get("SeriesInstanceUID")),
        frozenset(str(uid) for uid in frame_uids if uid),
    )


def _is_closed(contour: Dataset) -> bool:
    return str(contour.get("ContourGeometricType") or "") in CLOSED

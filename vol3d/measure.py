"""Sizes and uptake of a mask, in physical units. numpy and scipy only; the one place that writes such numbers.

Sizes (volume, diameters, slices) are taken from a mask on its source grid, uptake from a mask on the *native* PET grid:
a resampled PET has another maximum. A mask is any array whose non-zero voxels are members. An empty mask has a volume
of 0 ml and no diameter, slice or uptake: those are ``None``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull
from scipy.spatial.distance import cdist

from vol3d.boxes import bounding_box, crop_or_fill
from vol3d.errors import GeometryError
from vol3d.geometry import Grid
from vol3d.types import Array, Zyx
from vol3d.volume import Volume

CONNECTIVITY_18 = ndimage.generate_binary_structure(3, 2)
"""Voxels that share a face or an edge belong to one component, as in the autoPET challenges."""

PEAK_DIAMETER_MM = (6.0 * 1000.0 / np.pi) ** (1.0 / 3.0)
"""12.407 mm: the sphere of 1 ml that SUVpeak averages over (PERCIST, Wahl et al. 2009, J Nucl Med 50 Suppl 1)."""

_PEAK_SUBSAMPLES = 11


@dataclass(frozen=True)
class Diameters:
    """Lengths of one object between the outer faces of its voxels, in mm."""

    axial_long_mm: float
    """Longest straight line within one axial slice (RECIST's long axis)."""
    axial_short_mm: float
    """Longest line at right angles to it in the same slice (RECIST's short axis)."""
    axial_index: int
    """Index of that slice along the grid's axial axis."""
    axial_ends_mm: tuple[tuple[float, float, float], tuple[float, float, float]]
    """World (x, y, z) of both ends of the long axis."""
    longest_3d_mm: float
    """Longest straight line in any direction."""


@dataclass(frozen=True)
class Slices:
    """Which slices of a series a mask lies on; numbers are 1-based."""

    first: int
    last: int
    largest: int  # the one with the most voxels; of equals, the lowest array index
    first_z_mm: float
    last_z_mm: float
    largest_z_mm: float


@dataclass(frozen=True)
class SuvStatistics:
    """Uptake inside a mask on the native PET, in SUVbw (g/ml)."""

    voxels: int
    volume_ml: float
    suv_max: float | None
    suv_mean: float | None
    suv_peak: float | None
    """Largest mean over a 1 ml sphere centred on any voxel of the mask."""
    tlg_g: float
    """Total lesion glycolysis: suv_mean times volume_ml; 0 for an empty mask."""
    max_mm: tuple[float, float, float] | None
    """World (x, y, z) of the hottest voxel."""


SUV_FIGURES = ("suv_max", "suv_mean", "suv_peak", "tlg_g")
"""What an answer states of them; None without a PET or without uptake measured."""


@dataclass(frozen=True, eq=False)
class Component:
    """One 18-connected part of a mask."""

    voxels: int
    volume_ml: float
    start: Zyx
    stop: Zyx
    mask_ZYX: Array  # bool, the crop start <= index < stop


def volume_ml(mask_ZYX: Array, grid: Grid) -> float:
    """Number of member voxels times the volume of one; 0.0 for an empty mask."""
    _check_shape(mask_ZYX, grid)
    return int(np.count_nonzero(mask_ZYX)) * grid.voxel_ml


def components(mask_ZYX: Array, grid: Grid) -> list[Component]:
    """18-connected components, largest first (of equals, the one met first in array order); [] for an empty mask."""
    _check_shape(mask_ZYX, grid)
    box = bounding_box(mask_ZYX)
    if box is None:
        return []
    labels_ZYX, _ = ndimage.label(_cut(mask_ZYX, box) != 0, CONNECTIVITY_18)
    found = []
    for label, where in enumerate(ndimage.find_objects(labels_ZYX), 1):
        part = labels_ZYX[where] == label
        start = tuple(s.start + o for s, o in zip(where, box[0], strict=True))
        stop = tuple(s.stop + o for s, o in zip(where, box[0], strict=True))
        voxels = int(np.count_nonzero(part))
        found.append(Component(voxels, voxels * grid.voxel_ml, start, stop, part))
    return sorted(found, key=lambda c: -c.voxels)


def diameters(mask_ZYX: Array, grid: Grid) -> Diameters | None:
    """Longest axial diameter, its perpendicular and the longest 3D diameter; None for an empty mask.

    Ends lie on the outer faces of the voxels, at the face centres: the vertices of the mask's 0.5 isosurface, which
    IBSI's "maximum 3D diameter" is defined on. One voxel of 2 mm thus measures 2 mm, and a ball of diameter d about d.
    The axial axis is the one closest to head-feet; on an oblique grid "axial" means the acquired slice. The mask is
    measured as one object: pass one of `components` where lesions must not be spanned.
    """
    _check_shape(mask_ZYX, grid)
    box = bounding_box(mask_ZYX)
    if box is None:
        return None
    mask = _cut(mask_ZYX, box) != 0
    axial = next(a for a, code in enumerate(grid.orientation) if code in "SI")
    plane = [a for a in range(3) if a != axial]
    spacing = np.array(grid.spacing_mm)[plane]
    best = (0.0, 0.0, 0, np.zeros((2, 3)))
    for index in range(mask.shape[axial]):
        slice_2d = mask.take([index], axis=axial)
        members = np.argwhere(slice_2d)[:, plane]
        if not len(members) or np.linalg.norm((np.ptp(members, axis=0) + 1) * spacing) <= best[0]:
            continue  # its bounding box cannot hold a longer line
        points_N2 = _hull_of_faces(slice_2d, tuple(plane))[:, plane] * spacing
        long_mm, i, j = _farthest(points_N2)
        if long_mm > best[0]:
            ends = np.zeros((2, 3))
            ends[:, plane] = points_N2[[i, j]] / spacing
            ends[:, axial] = index
            best = (long_mm, _perpendicular(points_N2, i, j), index, ends)
    ends_mm = grid.index_to_mm(best[3] + box[0])
    return Diameters(
        axial_long_mm=best[0],
        axial_short_mm=best[1],
        axial_index=best[2] + box[0][axial],
        axial_ends_mm=(_xyz(ends_mm[0]), _xyz(ends_mm[1])),
        longest_3d_mm=_farthest(grid.index_to_mm(_hull_of_faces(mask, (0, 1, 2))))[0],
    )


def slices(mask_ZYX: Array, grid: Grid, slice_numbers: Sequence[int] | None = None) -> Slices | None:
    """Slices along array axis 0 of the source grid that hold the mask, and where they lie; None for an empty mask.

    `slice_numbers` is the 1-based InstanceNumber of every index along axis 0; without it a slice's number is index + 1.
    The z of a slice is the world z of the mask's centre on it, so that it is right on oblique slices, too.
    """
    _check_shape(mask_ZYX, grid)
    if slice_numbers is not None and len(slice_numbers) != grid.shape[0]:
        raise GeometryError(f"expected a slice number for each of {grid.shape[0]} slices, found {len(slice_numbers)}")
    area_Z = np.count_nonzero(mask_ZYX, axis=(1, 2))
    held = np.flatnonzero(area_Z)
    if not len(held):
        return None
    number = {i: int(slice_numbers[i]) if slice_numbers is not None else i + 1 for i in map(int, held)}

    def z_mm(index: int) -> float:
        y, x = np.nonzero(mask_ZYX[index])
        return float(grid.index_to_mm((float(index), float(y.mean()), float(x.mean())))[2])

    first, last = min(number, key=number.__getitem__), max(number, key=number.__getitem__)
    largest = int(area_Z.argmax())
    return Slices(number[first], number[last], number[largest], z_mm(first), z_mm(last), z_mm(largest))


def suv_statistics(mask_ZYX: Array, pet: Volume) -> SuvStatistics:
    """Uptake of `pet` inside the mask, which must lie on the PET's own grid.

    Raises:
        GeometryError: the volume is no PET, or mask and PET differ in shape.
    """
    if pet.modality != "pet":
        raise GeometryError(f"expected a PET volume (SUVbw) to measure uptake on, found {pet.modality!r}")
    _check_shape(mask_ZYX, pet.grid)
    box = bounding_box(mask_ZYX)
    if box is None:
        return SuvStatistics(0, 0.0, None, None, None, 0.0, None)
    mask = _cut(mask_ZYX, box) != 0
    inside = _cut(pet.array_ZYX, box)[mask].astype(np.float64)
    hottest = np.argwhere(mask)[inside.argmax()] + box[0]
    volume, mean = len(inside) * pet.grid.voxel_ml, float(inside.mean())
    return SuvStatistics(
        voxels=len(inside),
        volume_ml=volume,
        suv_max=float(inside.max()),
        suv_mean=mean,
        suv_peak=_suv_peak(mask, box, pet),
        tlg_g=mean * volume,
        max_mm=_xyz(pet.grid.index_to_mm(hottest)),
    )


def peak_weights(spacing_mm: tuple[float, float, float]) -> Array:
    """Share of each voxel of a neighbourhood that lies in the 1 ml sphere round the central voxel's centre.

    Odd sizes, float64. Found by 11 x 11 x 11 points a voxel, symmetric about its centre; the sum times the voxel's
    volume is 1 ml to about a percent. Shares rather than whole voxels, since a sphere holds only some 10 PET voxels.
    """
    radius = PEAK_DIAMETER_MM / 2
    squares = []
    for step in spacing_mm:
        reach = int(np.ceil(max(radius / step - 0.5, 0.0)))
        fine = (np.arange((2 * reach + 1) * _PEAK_SUBSAMPLES) + 0.5) / _PEAK_SUBSAMPLES - reach - 0.5
        squares.append((fine * step) ** 2)
    weights = np.empty([len(s) // _PEAK_SUBSAMPLES for s in squares])
    plane = squares[1][:, None] + squares[2][None]
    for z in range(weights.shape[0]):  # one layer at a time: a fine grid of a small spacing is large
        layer = squares[0][z * _PEAK_SUBSAMPLES : (z + 1) * _PEAK_SUBSAMPLES, None, None] + plane <= radius**2
        blocks = layer.reshape(_PEAK_SUBSAMPLES, weights.shape[1], _PEAK_SUBSAMPLES, weights.shape[2], _PEAK_SUBSAMPLES)
        weights[z] = blocks.mean(axis=(0, 2, 4))
    return weights


def _suv_peak(mask: Array, box: tuple[Zyx, Zyx], pet: Volume) -> float:
    """Voxels outside the image are left out of the mean: it is over the part of the sphere that was measured."""
    from scipy.signal import fftconvolve  # half a second that every command would wait for

    weights = peak_weights(pet.grid.spacing_mm)
    reach = [n // 2 for n in weights.shape]
    start = (box[0][0] - reach[0], box[0][1] - reach[1], box[0][2] - reach[2])
    stop = (box[1][0] + reach[0], box[1][1] + reach[1], box[1][2] + reach[2])
    around = crop_or_fill(pet.array_ZYX, start, stop, 0.0).astype(np.float64)
    measured = crop_or_fill(np.broadcast_to(np.float64(1.0), pet.grid.shape), start, stop, 0.0)
    total = fftconvolve(around, weights, mode="valid")  # the weights are symmetric: convolution is correlation
    share = fftconvolve(measured, weights, mode="valid")
    return float((total[mask] / share[mask]).max())


def _hull_of_faces(mask: Array, axes: tuple[int, ...]) -> Array:
    """Convex hull, as index positions [N, 3], of the centres of the voxels' faces across each of `axes`.

    Of a line of voxels only the first and the last face count; in two dimensions the vertices come in order.
    """
    points = []
    for axis in axes:
        moved = np.moveaxis(mask, axis, -1)
        hit = moved.any(axis=-1)
        first = moved.argmax(axis=-1)[hit] - 0.5
        last = moved.shape[-1] - moved[..., ::-1].argmax(axis=-1)[hit] - 0.5
        rest = np.argwhere(hit).astype(np.float64)
        points += [np.insert(rest, axis, first, axis=1), np.insert(rest, axis, last, axis=1)]
    faces = np.concatenate(points)
    return faces[ConvexHull(faces[:, list(axes)]).vertices]


def _farthest(points: Array) -> tuple[float, int, int]:
    """Largest distance and the two points it lies between; in blocks, so that memory stays small."""
    best = (0.0, 0, 0)
    for start in range(0, len(points), 1024):
        distance = cdist(points[start : start + 1024], points)
        i, j = np.unravel_index(distance.argmax(), distance.shape)
        if distance[i, j] > best[0]:
            best = (float(distance[i, j]), start + int(i), int(j))
    return best


def _perpendicular(hull_N2: Array, i: int, j: int) -> float:
    """Longest chord of a convex polygon (vertices in order) at right angles to the line from vertex i to j.

    The chord's length is concave and piecewise linear along that line, so its maximum is at a vertex.
    """
    along = (hull_N2[j] - hull_N2[i]) / np.linalg.norm(hull_N2[j] - hull_N2[i])
    u = (hull_N2 - hull_N2[i]) @ along
    v = (hull_N2 - hull_N2[i]) @ np.array([-along[1], along[0]])
    low, high = min(i, j), max(i, j)
    chains = (np.arange(low, high + 1), np.append(np.arange(high, len(u)), np.arange(low + 1)))
    one, other = (np.interp(u, u[chain], v[chain]) for chain in (c[np.argsort(u[c])] for c in chains))
    return float(np.abs(one - other).max())


def _cut(array_ZYX: Array, box: tuple[Zyx, Zyx]) -> Array:
    return array_ZYX[tuple(slice(a, b) for a, b in zip(*box, strict=True))]


def _xyz(point: Array) -> tuple[float, float, float]:
    return float(point[0]), float(point[1]), float(point[2])


def _check_shape(mask_ZYX: Array, grid: Grid) -> None:
    if mask_ZYX.shape != grid.shape:
        raise GeometryError(f"expected a mask of the grid's shape (z, y, x) {grid.shape}, found {mask_ZYX.shape}")

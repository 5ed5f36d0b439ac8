"""How well a mask answers: overlap, surfaces, lesions, uptake, sides, absences. Defined once, used everywhere.

Conventions: a mask is any array whose non-zero voxels are members. Both masks empty: NaN, left out of every mean and
counted among the absences instead. One empty: Dice and NSD 0, HD95 the grid's diagonal. Distances are in mm and
need the spacing (z, y, x) or the grid.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from vol3d.boxes import bounding_box
from vol3d.errors import GeometryError
from vol3d.geometry import Grid
from vol3d.measure import CONNECTIVITY_18, suv_statistics
from vol3d.metrics.surface import SurfaceDistances, surface_distances
from vol3d.types import Array, ZyxMm
from vol3d.volume import Volume

NSD_TOLERANCE_MM = 2.0
SUV_MATCH_TOLERANCE = 0.1
SUV_MATCH_DICE = 0.3

_ROUNDING_MM = 1e-4
"""Spacing taken from an affine carries rounding noise: two voxels of 1 mm must not lie outside a tolerance of 2 mm."""


@dataclass(frozen=True)
class LesionCounts:
    """Lesions of one case: 18-connected components; one voxel of overlap is a hit (autoPET style)."""

    tp: int
    """Components of the truth that the prediction touches."""
    fn: int
    """Components of the truth that it misses."""
    fp: int
    """Components of the prediction that touch no truth."""
    fn_ml: float
    """Volume of the missed components."""
    fp_ml: float
    """Volume of the components that touch no truth."""


@dataclass(frozen=True)
class Scores:
    """Everything that is measured between one predicted and one true mask."""

    dice: float
    nsd: float
    hd95_mm: float
    pred_ml: float
    truth_ml: float
    lesions: LesionCounts


def dice(pred_ZYX: Array, truth_ZYX: Array) -> float:
    """2 |A and B| / (|A| + |B|); NaN if both are empty."""
    _check_pair(pred_ZYX, truth_ZYX)
    total = np.count_nonzero(pred_ZYX) + np.count_nonzero(truth_ZYX)
    return 2.0 * _overlap(pred_ZYX, truth_ZYX) / total if total else float("nan")


def nsd(pred_ZYX: Array, truth_ZYX: Array, spacing_mm: ZyxMm, tolerance_mm: float = NSD_TOLERANCE_MM) -> float:
    """Normalised surface Dice: share of both surfaces within the tolerance of the other (Nikolov et al. 2021)."""
    return surface_scores(pred_ZYX, truth_ZYX, spacing_mm, tolerance_mm)[0]


def hd95(pred_ZYX: Array, truth_ZYX: Array, spacing_mm: ZyxMm) -> float:
    """95th percentile, by surface area, of the distance between the surfaces in mm; the larger of both directions."""
    return surface_scores(pred_ZYX, truth_ZYX, spacing_mm)[1]


def surface_scores(
    pred_ZYX: Array, truth_ZYX: Array, spacing_mm: ZyxMm, tolerance_mm: float = NSD_TOLERANCE_MM
) -> tuple[float, float]:
    """(NSD, HD95 in mm) from one search of distances."""
    _check_pair(pred_ZYX, truth_ZYX)
    has_pred, has_truth = bool(np.any(pred_ZYX)), bool(np.any(truth_ZYX))
    if not has_pred and not has_truth:
        return float("nan"), float("nan")
    if not has_pred or not has_truth:
        return 0.0, float(np.linalg.norm(np.array(truth_ZYX.shape) * spacing_mm))
    found = surface_distances(pred_ZYX, truth_ZYX, spacing_mm)
    return _within(found, tolerance_mm), max(
        _percentile(found.pred_to_truth_mm, found.pred_area_mm2, 0.95),
        _percentile(found.truth_to_pred_mm, found.truth_area_mm2, 0.95),
    )


def lesion_counts(pred_ZYX: Array, truth_ZYX: Array, grid: Grid) -> LesionCounts:
    """Lesions hit, missed and invented, with the volume of the latter two; all zero if both masks are empty."""
    _check_pair(pred_ZYX, truth_ZYX)
    boxes = [box for box in (bounding_box(pred_ZYX), bounding_box(truth_ZYX)) if box is not None]
    if not boxes:
        return LesionCounts(0, 0, 0, 0.0, 0.0)
    start, stop = np.min([b[0] for b in boxes], axis=0), np.max([b[1] for b in boxes], axis=0)
    where = tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))
    pred, truth = pred_ZYX[where] != 0, truth_ZYX[where] != 0
    hit, missed, missed_voxels = _touched(truth, pred)
    _, invented, invented_voxels = _touched(pred, truth)
    return LesionCounts(hit, missed, invented, missed_voxels * grid.voxel_ml, invented_voxels * grid.voxel_ml)


def lesion_f1(cases: Iterable[LesionCounts]) -> float:
    """2 TP / (2 TP + FP + FN) over the lesions of all cases; NaN if there is none, true or predicted."""
    counted = list(cases)
    tp, wrong = sum(c.tp for c in counted), sum(c.fp + c.fn for c in counted)
    return 2.0 * tp / (2 * tp + wrong) if tp + wrong else float("nan")


def suv_match(pred_ZYX: Array, truth_ZYX: Array, pet_native: Volume) -> float:
    """1.0 if the predicted mask finds the right lesion, else 0.0; NaN if both masks are empty.

    Right: SUVmax inside it within 0.1 of the true one, both on the native PET grid, and Dice at least 0.3 (after
    ConTEXTual Net, Huemann et al. 2024).
    """
    overlap = dice(pred_ZYX, truth_ZYX)
    if np.isnan(overlap):
        return overlap
    pred, truth = suv_statistics(pred_ZYX, pet_native).suv_max, suv_statistics(truth_ZYX, pet_native).suv_max
    if pred is None or truth is None:
        return 0.0
    return float(abs(pred - truth) <= SUV_MATCH_TOLERANCE + 1e-6 and overlap >= SUV_MATCH_DICE)


def wrong_side(pred_ZYX: Array, named_ZYX: Array, other_side_ZYX: Array) -> bool:
    """True if the mask overlaps the mirrored structure more than the named one, or is empty.

    Args:
        pred_ZYX: the answer to a phrase that names a side.
        named_ZYX: the structure on the side that was named.
        other_side_ZYX: its counterpart, or `mirror_left_right` of the named one where it has none.
    """
    _check_pair(pred_ZYX, named_ZYX)
    _check_pair(pred_ZYX, other_side_ZYX)
    if not np.any(pred_ZYX):
        return True
    return _overlap(pred_ZYX, other_side_ZYX) > _overlap(pred_ZYX, named_ZYX)


def mirror_left_right(mask_ZYX: Array, grid: Grid, midline_mm: float) -> Array:
    """The mask reflected in the sagittal plane at world x = `midline_mm`, to the nearest voxel; what leaves is lost.

    Raises:
        GeometryError: the grid's axes do not run along the world's, so that no axis is left-right.
    """
    if not grid.is_axis_aligned:
        raise GeometryError("expected an axis-aligned grid to mirror a mask in; reorient or resample it first")
    axis = next(a for a, code in enumerate(grid.orientation) if code in "RL")
    point = grid.index_to_mm((0.0, 0.0, 0.0))
    point[0] = midline_mm
    twice_centre = round(2 * float(grid.mm_to_index(point)[axis]))
    lines = np.moveaxis(np.asarray(mask_ZYX), axis, 0)
    out = np.zeros_like(lines)
    to = np.arange(len(lines))
    of = twice_centre - to
    legal = (of >= 0) & (of < len(lines))
    out[to[legal]] = lines[of[legal]]
    return np.moveaxis(out, 0, axis)


def score(pred_ZYX: Array, truth_ZYX: Array, grid: Grid, tolerance_mm: float = NSD_TOLERANCE_MM) -> Scores:
    """All scores of one predicted mask against the true one, both on `grid`."""
    if truth_ZYX.shape != grid.shape:
        raise GeometryError(f"expected masks of the grid's shape (z, y, x) {grid.shape}, found {truth_ZYX.shape}")
    overlap, (surface, distance) = (
        dice(pred_ZYX, truth_ZYX),
        surface_scores(pred_ZYX, truth_ZYX, grid.spacing_mm, tolerance_mm),
    )
    return Scores(
        dice=overlap,
        nsd=surface,
        hd95_mm=distance,
        pred_ml=int(np.count_nonzero(pred_ZYX)) * grid.voxel_ml,
        truth_ml=int(np.count_nonzero(truth_ZYX)) * grid.voxel_ml,
        lesions=lesion_counts(pred_ZYX, truth_ZYX, grid),
    )


def _overlap(a_ZYX: Array, b_ZYX: Array) -> int:
    box = bounding_box(a_ZYX)
    if box is None:
        return 0
    where = tuple(slice(a, b) for a, b in zip(*box, strict=True))
    return int(np.count_nonzero((a_ZYX[where] != 0) & (b_ZYX[where] != 0)))


def _touched(lesions: Array, other: Array) -> tuple[int, int, int]:
    """Components of `lesions` that touch `other`, that do not, and the voxels of the latter."""
    labels, count = ndimage.label(lesions, CONNECTIVITY_18)
    voxels = np.bincount(labels.ravel(), minlength=count + 1)
    touched = np.zeros(count + 1, bool)
    touched[np.unique(labels[other])] = True
    touched, voxels = touched[1:], voxels[1:]
    return int(touched.sum()), int((~touched).sum()), int(voxels[~touched].sum())


def _within(found: SurfaceDistances, tolerance_mm: float) -> float:
    near = found.pred_area_mm2[found.pred_to_truth_mm <= tolerance_mm + _ROUNDING_MM].sum()
    near += found.truth_area_mm2[found.truth_to_pred_mm <= tolerance_mm + _ROUNDING_MM].sum()
    return float(near / (found.pred_area_mm2.sum() + found.truth_area_mm2.sum()))


def _percentile(distance_mm: Array, area_mm2: Array, share: float) -> float:
    reached = np.searchsorted(np.cumsum(area_mm2) / area_mm2.sum(), share)
    return float(distance_mm[min(int(reached), len(distance_mm) - 1)])


def _check_pair(pred_ZYX: Array, other_ZYX: Array) -> None:
    if pred_ZYX.shape != other_ZYX.shape:
        raise GeometryError(f"expected two masks on one grid, found shapes {pred_ZYX.shape} and {other_ZYX.shape}")

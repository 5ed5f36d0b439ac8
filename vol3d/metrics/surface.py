"""Distances between the surfaces of two masks, number for number as in DeepMind's surface-distance.

Own code rather than the package: its one release on the index (0.1) fails under numpy 2 as soon as one mask is empty
(``np.Inf``), sorts in Python and holds two distance maps of the whole bounding box, which two small far-apart masks
make as large as the scan. Here distances come from a search tree over the surface points alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from vol3d.boxes import bounding_box
from vol3d.types import Array, ZyxMm

_TABLE = """
- 111 111 220220 111 202202 111111 111222400 111 111111 202202 111222400 220220 111222400 111222400 400400 111
022022 111111 040111222 111111 004111222 111111111 111111222222 111111 022022111 111202202 022111202333 111220220
022111220333 111111222400 111222400 111 111111 022022 040111222 111111 111202202 022022111 022111202333 111111
111111111 004111222 111111222222 111220220 111111222400 022111220333 111222400 220220 040111222 040111222 040040
111220220 111202220333 040111111222 040111222 111220220 040111111222 111202220333 040111222 220220220220 111220220
111220220 220220 111 111111 111111 111220220 022022 004111222 022022111 022111220333 111111 111111111 111202202
111111222400 040111222 111111222222 022111202333 111222400 202202 004111222 111202202 111202220333 004111222 004004
004111111222 004111222 111202202 004111111222 202202202202 111202202 111202220333 004111222 111202202 202202 111111
111111111 022022111 040111111222 022022111 004111111222 022022022022 022022111 111111111 111111111111 004111111222
111111111 040111111222 111111111 022022111 111111 111222400 111111222222 022111202333 040111222 022111220333
004111222 022022111 022022 111111222400 111111111 111202202 111111 111220220 111111 111111 111
"""
"""Surface inside the cube between 8 voxel centres, for each of the 128 ways to fill it with voxel (0, 0, 0) outside
(the complement has the same surface). Three digits a triangle: |normal| along z, y, x in eighths, its length the area
at unit spacing. From surface-distance's marching cubes table (Copyright 2018 Google Inc., Apache-2.0)."""


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Surface elements of both masks: distance to the other mask's surface (mm), ascending, and area (mm^2)."""

    pred_to_truth_mm: Array
    truth_to_pred_mm: Array
    pred_area_mm2: Array
    truth_area_mm2: Array


def surface_distances(pred_ZYX: Array, truth_ZYX: Array, spacing_mm: ZyxMm) -> SurfaceDistances:
    """Nearest distances between two surfaces. Both masks must hold a voxel: the caller has a rule for empty ones.

    A mask reaches up to the edge of the array and is closed there.
    """
    areas = _areas(spacing_mm)
    pred, pred_area = _surface(pred_ZYX, areas)
    truth, truth_area = _surface(truth_ZYX, areas)
    there, back = _nearest(pred, truth, spacing_mm), _nearest(truth, pred, spacing_mm)
    pred_order, truth_order = np.lexsort((pred_area, there)), np.lexsort((truth_area, back))
    return SurfaceDistances(there[pred_order], back[truth_order], pred_area[pred_order], truth_area[truth_order])


def _areas(spacing_mm: ZyxMm) -> Array:
    """mm^2 of surface for each of the 256 neighbour codes."""
    z, y, x = spacing_mm
    face = np.array([y * x, z * x, z * y]) / 8.0
    half = [
        sum(float(np.linalg.norm([int(d) for d in row[i : i + 3]] * face)) for i in range(0, len(row), 3) if row != "-")
        for row in _TABLE.split()
    ]
    return np.array(half + half[::-1], np.float64)


def _surface(mask_ZYX: Array, areas: Array) -> tuple[Array, Array]:
    """Voxel corners [N, 3] that the surface passes (index i is the corner before voxel i), and its area round each."""
    box = bounding_box(mask_ZYX)
    assert box is not None, "the caller rules on empty masks"
    mask = np.pad(mask_ZYX[tuple(slice(a, b) for a, b in zip(*box, strict=True))] != 0, 1).astype(np.uint8)
    code = np.zeros([n - 1 for n in mask.shape], np.uint8)
    for bit, (z, y, x) in enumerate(np.ndindex(2, 2, 2)):
        corner = mask[z : mask.shape[0] - 1 + z, y : mask.shape[1] - 1 + y, x : mask.shape[2] - 1 + x]
        code |= corner << np.uint8(7 - bit)
    on_surface = (code != 0) & (code != 255)
    return np.argwhere(on_surface) + box[0], areas[code[on_surface]]


def _nearest(points: Array, others: Array, spacing_mm: ZyxMm) -> Array:
    _, nearest = cKDTree(others * np.array(spacing_mm)).query(points * np.array(spacing_mm))
    return np.linalg.norm((points - others[nearest]) * spacing_mm, axis=1)

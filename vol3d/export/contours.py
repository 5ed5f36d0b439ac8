"""Outlines of a slice's pixels: closed polygons along pixel edges that enclose the mask exactly.

Marching squares would cut every corner: a polygon round one pixel would have half its area. Here area and members are
those of the mask. Holes are joined to their outline by a channel of no width (the keyhole of PS3.3 C.8.8.6.3), which
runs between pixels, so that no pixel's centre lies on it.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from vol3d.types import Array

Corner = tuple[int, int]
"""(row, column) of a pixel's corner: the one of pixel (r, c) towards the origin is (r, c)."""

_STEPS: tuple[Corner, ...] = ((0, 1), (1, 0), (0, -1), (-1, 0))  # right, down, left, up; the next one is a right turn


def outlines(mask_YX: Array) -> list[Array]:
    """One polygon [N, 2] a 4-connected part, as positions (y, x) in units of pixel centres.

    Pixels that touch at a corner alone are parts of their own; every vertex is at a half, e.g. (-0.5, 3.5).
    """
    rows, columns = np.flatnonzero(mask_YX.any(axis=1)), np.flatnonzero(mask_YX.any(axis=0))
    if not len(rows):
        return []
    start = rows[0], columns[0]
    inside = mask_YX[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] != 0
    labels, count = ndimage.label(inside)
    outer: dict[int, list[Corner]] = {}
    holes: dict[int, list[list[Corner]]] = {part: [] for part in range(1, count + 1)}
    for loop in _loops(inside):
        part = int(labels[loop[0]])  # a loop starts at the upper edge of the pixel whose corner that is
        if _area(loop) > 0:
            outer[part] = loop
        else:
            holes[part].append(loop)
    return [_with_holes(outer[part], holes[part]) + np.array(start) - 0.5 for part in sorted(outer)]


def _loops(inside: Array) -> list[list[Corner]]:
    """Boundaries with the inside on the right hand, vertices only where they turn."""
    padded = np.pad(inside, 1)
    here = padded[1:-1, 1:-1]
    sides = (
        (here & ~padded[:-2, 1:-1], (0, 0)),  # upper edge, walked to the right from the pixel's first corner
        (here & ~padded[1:-1, 2:], (0, 1)),
        (here & ~padded[2:, 1:-1], (1, 1)),
        (here & ~padded[1:-1, :-2], (1, 0)),
    )
    edges = [{(int(r) + dr, int(c) + dc) for r, c in np.argwhere(side)} for side, (dr, dc) in sides]
    found = []
    for start in sorted(edges[0]):
        if start not in edges[0]:
            continue  # walked as part of a loop before
        loop, corner, way = [start], start, 0
        while True:
            corner = (corner[0] + _STEPS[way][0], corner[1] + _STEPS[way][1])
            turned = next(turn % 4 for turn in (way + 1, way, way + 3) if corner in edges[turn % 4])
            edges[turned].remove(corner)
            if (corner, turned) == (start, 0):
                break
            if turned != way:
                loop.append(corner)
            way = turned
        found.append(loop)
    return found


def _area(loop: list[Corner]) -> float:
    """Positive for an outline, negative for a hole."""
    y, x = np.array(loop, np.float64).T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def _with_holes(outline: list[Corner], holes: list[list[Corner]]) -> Array:
    """Joins holes from left to right, each by a channel to the boundary left of its leftmost corner."""
    polygon = np.array(outline)
    for hole in sorted(holes, key=lambda loop: min((c, r) for r, c in loop)):
        first = min(range(len(hole)), key=lambda i: (hole[i][1], hole[i][0]))
        row, column = hole[first]
        (from_row, from_column), (to_row, to_column) = polygon.T, np.roll(polygon, -1, axis=0).T
        met = (from_column == to_column) & (from_column < column)
        met &= (np.minimum(from_row, to_row) <= row) & (row <= np.maximum(from_row, to_row))
        where = int(np.where(met, from_column, -1).argmax())
        join = (row, int(from_column[where]))
        detour = np.array([join, *hole[first:], *hole[: first + 1], join])
        polygon = np.concatenate([polygon[: where + 1], detour, polygon[where + 1 :]])
    moved = (polygon != np.roll(polygon, 1, axis=0)).any(axis=1)
    return polygon[moved].astype(np.float64)

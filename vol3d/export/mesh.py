"""Surface of a mask as binary STL, in the patient's millimetres.

STL has no field for a coordinate system. It is written in the header as ``SPACE=LPS`` or ``SPACE=RAS``, where 3D Slicer
looks for it; LPS, DICOM's, is also what programs assume that look for nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from vol3d.boxes import bounding_box
from vol3d.errors import GeometryError, Vol3dError
from vol3d.files import write_whole
from vol3d.geometry import Grid
from vol3d.types import Array

_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def surface(mask_ZYX: Array, grid: Grid) -> tuple[Array, Array]:
    """Closed surface halfway between member and other voxels (marching cubes, Lewiner et al. 2003).

    Returns:
        vertices [N, 3] in RAS+ mm, and triangles [M, 3] of their indices, counter-clockwise seen from outside.

    Raises:
        GeometryError: mask and grid differ in shape.
        Vol3dError: the mask is empty.
    """
    from skimage.measure import marching_cubes

    if mask_ZYX.shape != grid.shape:
        raise GeometryError(f"expected a mask of the grid's shape (z, y, x) {grid.shape}, found {mask_ZYX.shape}")
    box = bounding_box(mask_ZYX)
    if box is None:
        raise Vol3dError("expected a mask with voxels to make a surface of, found an empty one")
    inside = mask_ZYX[tuple(slice(a, b) for a, b in zip(*box, strict=True))] != 0
    vertices, triangles, _, _ = marching_cubes(np.pad(inside, 1).astype(np.float32), 0.5)
    vertices_mm = grid.index_to_mm(vertices.astype(np.float64) + np.array(box[0]) - 1)
    if _volume(vertices_mm, triangles) < 0:  # the sense of rotation turns with the handedness of the grid
        triangles = triangles[:, ::-1]
    return vertices_mm, triangles


def write_stl(path: Path, mask_ZYX: Array, grid: Grid, space: Literal["LPS", "RAS"] = "LPS") -> int:
    """Writes the surface as binary STL; returns the number of triangles.

    Raises:
        GeometryError, Vol3dError: as `surface`.
    """
    vertices_mm, triangles = surface(mask_ZYX, grid)
    if space == "LPS":
        vertices_mm = vertices_mm * (-1.0, -1.0, 1.0)  # half a turn: triangles keep their sense
    corners = vertices_mm[triangles]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    out = np.zeros(len(triangles), _TRIANGLE)
    out["corners"] = corners
    out["normal"] = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    header = f"vol3d mesh, millimetres. SPACE={space}".encode().ljust(80)
    write_whole(Path(path), header + np.uint32(len(out)).astype("<u4").tobytes() + out.tobytes())
    return len(out)


def _volume(vertices: Array, triangles: Array) -> float:
    """Enclosed volume; positive if the triangles face outwards."""
    a, b, c = (vertices[triangles[:, i]] - vertices[0] for i in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c))) / 6

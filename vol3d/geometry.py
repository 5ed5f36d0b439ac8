"""`Grid`: the one owner of geometry. Nobody else in the code touches the entries of an affine.

A grid is a shape ``(Z, Y, X)`` and an affine that takes the index of a voxel *centre*, in the order ``(z, y, x)``, to
RAS+ millimetres. Its axes are orthogonal (any rotation, any flip, any order); a sheared affine is refused, because
no mask drawn on such a grid can be exported faithfully.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vol3d.errors import GeometryError
from vol3d.types import Affine, Array, Zyx, ZyxMm

ORTHOGONALITY_TOLERANCE = 1e-3
"""Largest |cosine| between two axes of a grid. float32 headers and DICOM's six decimals stay well below it; the
slightest real gantry tilt (0.1 degrees is 1.7e-3) does not."""

SAME_GRID_TOLERANCE_MM = 1e-2
"""Two grids are the same if no corner voxel moves by more than this."""

MM_PER_UNIT = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
"""NIfTI's units of length (``xyzt_units``)."""

_XYZ_TO_ZYX = np.array([[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=np.float64)
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_CODES = (("R", "L"), ("A", "P"), ("S", "I"))


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular, orthogonal sampling of space.

    Args:
        shape: voxels along (z, y, x), each at least 1.
        affine: 4x4, index (z, y, x, 1) to RAS+ mm; copied, float64.

    Raises:
        GeometryError: shape or affine is not a valid orthogonal grid; the message has the numbers.
    """

    shape: Zyx
    affine: Affine

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError(f"expected a grid of 3 positive sizes (z, y, x), found {tuple(self.shape)}")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GeometryError(f"expected a finite 4x4 affine, found\n{affine}")
        if not np.allclose(affine[3], [0, 0, 0, 1], atol=1e-8):
            raise GeometryError(f"expected an affine whose last row is 0 0 0 1, found {affine[3].tolist()}")
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        if spacing.min() <= 1e-6:
            raise GeometryError(f"expected positive voxel spacing, found (z, y, x) {spacing.tolist()} mm")
        direction = affine[:3, :3] / spacing
        cosine = np.abs(direction.T @ direction - np.eye(3)).max()
        if cosine > ORTHOGONALITY_TOLERANCE:
            raise GeometryError(
                f"expected orthogonal voxel axes, found a shear (cosine between axes {cosine:.4f}, allowed "
                f"{ORTHOGONALITY_TOLERANCE}); resample the image to a regular grid first"
            )
        affine.flags.writeable = False
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    # -- making one ---------------------------------------------------------------------------------------------

    @classmethod
    def from_spacing(cls, shape: Zyx, spacing_mm: ZyxMm, origin_mm: ZyxMm = (0.0, 0.0, 0.0)) -> Grid:
        """Canonical grid (z to S, y to A, x to R); `origin_mm` is the world (x, y, z) of voxel (0, 0, 0)."""
        affine = np.eye(4)
        affine[:3, :3] = np.fliplr(np.diag(spacing_mm[::-1]))
        affine[:3, 3] = origin_mm
        return cls(shape, affine)

    @classmethod
    def from_xyz(cls, shape_xyz: tuple[int, int, int], affine_xyz: Affine, unit: str = "mm") -> Grid:
        """From nibabel's order: an array indexed (x, y, z) and its RAS+ affine, in one of `MM_PER_UNIT`."""
        if unit not in MM_PER_UNIT:
            raise GeometryError(f"expected lengths in one of {', '.join(MM_PER_UNIT)}, found unit {unit!r}")
        to_mm = np.diag([*[MM_PER_UNIT[unit]] * 3, 1.0])
        shape = shape_xyz[2], shape_xyz[1], shape_xyz[0]
        return cls(shape, to_mm @ np.asarray(affine_xyz, np.float64) @ _XYZ_TO_ZYX)

    @classmethod
    def from_lps(cls, shape: Zyx, affine_lps: Affine) -> Grid:
        """From DICOM: index (z, y, x) = (slice, row, column) to LPS+ mm."""
        return cls(shape, _LPS_TO_RAS @ np.asarray(affine_lps, np.float64))

    @classmethod
    def from_dict(cls, record: dict[str, list]) -> Grid:
        """Inverse of `to_dict`."""
        z, y, x = record["shape"]
        return cls((z, y, x), np.array(record["affine"], dtype=np.float64))

    def to_dict(self) -> dict[str, list]:
        """JSON form: shape and affine, exact to the last bit."""
        return {"shape": list(self.shape), "affine": self.affine.tolist()}

    # -- properties ---------------------------------------------------------------------------------------------

    @cached_property
    def spacing_mm(self) -> ZyxMm:
        """Distance between neighbouring voxel centres along (z, y, x)."""
        z, y, x = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(z), float(y), float(x)

    @property
    def origin_mm(self) -> ZyxMm:
        """World (x, y, z) of the centre of voxel (0, 0, 0)."""
        x, y, z = self.affine[:3, 3]
        return float(x), float(y), float(z)

    @cached_property
    def orientation(self) -> str:
        """Where the axes (z, y, x) grow to, e.g. ``"SAR"`` (canonical) or ``"SPL"`` (a DICOM axial series)."""
        cosines = np.abs(self.affine[:3, :3] / np.array(self.spacing_mm))
        world_axes = max(itertools.permutations(range(3)), key=lambda p: sum(cosines[w, a] for a, w in enumerate(p)))
        return "".join(_CODES[w][int(self.affine[w, a] < 0)] for a, w in enumerate(world_axes))

    @property
    def is_axis_aligned(self) -> bool:
        """True if every axis runs along a world axis: no voxel of the grid is more than a hundredth of a mm off."""
        linear = np.abs(self.affine[:3, :3])
        off_axis = linear.sum(axis=0) - linear.max(axis=0)
        return bool((off_axis * np.array(self.shape)).max() < SAME_GRID_TOLERANCE_MM)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    @cached_property
    def affine_xyz(self) -> Affine:
        """nibabel's affine: index (x, y, z) to RAS+ mm."""
        return self.affine @ _XYZ_TO_ZYX

    @cached_property
    def affine_lps(self) -> Affine:
        """DICOM's affine: index (z, y, x) to LPS+ mm."""
        return _LPS_TO_RAS @ self.affine

    @cached_property
    def inverse(self) -> Affine:
        """4x4, RAS+ mm to continuous index (z, y, x)."""
        return np.linalg.inv(self.affine).astype(np.float64)

    # -- points -------------------------------------------------------------------------------------------------

    def index_to_mm(self, index_N3: Array | tuple[float, ...]) -> Array:
        """Voxel indices (z, y, x), shape [..., 3], to world (x, y, z) in RAS+ mm."""
        return np.asarray(index_N3, np.float64) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def mm_to_index(self, mm_N3: Array | tuple[float, ...]) -> Array:
        """World (x, y, z) in RAS+ mm, shape [..., 3], to continuous voxel indices (z, y, x)."""
        return np.asarray(mm_N3, np.float64) @ self.inverse[:3, :3].T + self.inverse[:3, 3]

    def corners_mm(self) -> Array:
        """World positions [8, 3] of the centres of the eight corner voxels."""
        return self.index_to_mm(np.array(list(itertools.product(*[(0, n - 1) for n in self.shape]))))

    def same_as(self, other: Grid, tolerance_mm: float = SAME_GRID_TOLERANCE_MM) -> bool:
        """True if both have one shape and no corner differs by more than `tolerance_mm`."""
        if self.shape != other.shape:
            return False
        ends = np.array(list(itertools.product(*[(0, max(n - 1, 1)) for n in self.shape])))  # one slice has a thickness
        return bool(np.abs(self.index_to_mm(ends) - other.index_to_mm(ends)).max() <= tolerance_mm)

    def contains(self, other: Grid, tolerance_mm: float = 1.0) -> bool:
        """True if every corner of `other` lies inside this grid's box of voxels, give or take `tolerance_mm`."""
        index = self.mm_to_index(other.corners_mm())
        slack = 0.5 + tolerance_mm / np.array(self.spacing_mm)
        return bool((index >= -slack).all() and (index <= np.array(self.shape) - 1 + slack).all())

    def covers(self, other: Grid) -> Array:
        """bool [Z, Y, X] of `other`: the voxel's centre lies in this grid's box (outer faces included)."""
        index_map = self.inverse @ other.affine
        inside = np.ones(other.shape, dtype=bool)
        z, y, x = np.ogrid[tuple(slice(n) for n in other.shape)]
        for row, size in zip(index_map[:3].astype(np.float32), self.shape, strict=True):
            reach = np.abs(row[:3]) * other.shape
            index = row[3]
            for step, along, moved in zip(row[:3], (z, y, x), reach, strict=True):
                if moved > 1e-4:  # aligned grids need one axis only, and then no 3D arithmetic
                    index = index + step * along
            inside &= (index >= -0.5) & (index <= size - 0.5)
        return inside

    # -- derived grids; each states exactly where the old voxels went ---------------------------------------------

    def crop(self, start: Zyx, stop: Zyx) -> Grid:
        """Voxels start <= index < stop. Negative starts and stops past the end pad, see `pad`."""
        size = tuple(b - a for a, b in zip(start, stop, strict=True))
        return Grid((size[0], size[1], size[2]), self._moved(np.array(start, np.float64)))

    def pad(self, before: Zyx, after: Zyx) -> Grid:
        """Adds whole voxels on both ends of each axis."""
        stop = tuple(n + a for n, a in zip(self.shape, after, strict=True))
        return self.crop((-before[0], -before[1], -before[2]), (stop[0], stop[1], stop[2]))

    def flip(self, axes: tuple[int, ...]) -> Grid:
        """Reverses the index along `axes` (0 = z, 1 = y, 2 = x); every voxel stays where it is in the world."""
        if sorted(set(axes) & {0, 1, 2}) != sorted(axes):
            raise GeometryError(f"expected axes to flip out of 0, 1, 2, each at most once, found {axes}")
        step = np.eye(4)
        for axis in axes:
            step[axis, axis] = -1
            step[axis, 3] = self.shape[axis] - 1
        return Grid(self.shape, self.affine @ step)

    def permute(self, order: Zyx) -> Grid:
        """New axis i is old axis order[i], as in `numpy.transpose`."""
        if sorted(order) != [0, 1, 2]:
            raise GeometryError(f"expected a permutation of (0, 1, 2), found {order}")
        affine = self.affine.copy()
        affine[:, :3] = self.affine[:, list(order)]
        return Grid((self.shape[order[0]], self.shape[order[1]], self.shape[order[2]]), affine)

    def resample(self, spacing_mm: ZyxMm) -> Grid:
        """The same box of space (outer faces of the voxels, not their centres) at another spacing.

        Sizes are rounded; the new grid is centred on the old one so that the error is shared by both ends.
        """
        if min(spacing_mm) <= 0:
            raise GeometryError(f"expected positive spacing in mm, found {spacing_mm}")
        ratio = np.array(spacing_mm) / np.array(self.spacing_mm)
        size = [max(1, round(n / r)) for n, r in zip(self.shape, ratio, strict=True)]
        start = (np.array(self.shape) - 1) / 2 - (np.array(size) - 1) / 2 * ratio
        return Grid((size[0], size[1], size[2]), self._moved(start) @ np.diag([*ratio, 1.0]))

    def to_orientation(self, codes: str = "SAR") -> tuple[Grid, Zyx, tuple[int, ...]]:
        """Permutes, then flips, so that the axes grow towards `codes`; no voxel moves in the world.

        Returns:
            The new grid, the permutation and the flipped axes (of the permuted grid) that lead there.
        """
        families = [next(i for i, pair in enumerate(_CODES) if c in pair) for c in self.orientation]
        wanted = [i for c in codes for i, pair in enumerate(_CODES) if c in pair]
        if len(codes) != 3 or sorted(wanted) != [0, 1, 2]:
            raise GeometryError(f"expected an orientation with one each of R/L, A/P and S/I, found {codes!r}")
        order = (families.index(wanted[0]), families.index(wanted[1]), families.index(wanted[2]))
        permuted = self.permute(order)
        flips = tuple(a for a in range(3) if permuted.orientation[a] != codes[a])
        return permuted.flip(flips), order, flips

    def _moved(self, start_index: Array) -> Affine:
        affine = self.affine.copy()
        affine[:3, 3] = self.index_to_mm(start_index)
        return affine

    def __repr__(self) -> str:
        spacing = "x".join(f"{s:.4g}" for s in self.spacing_mm)
        return f"Grid(zyx {'x'.join(map(str, self.shape))}, {spacing} mm, {self.orientation}, origin {self.origin_mm})"

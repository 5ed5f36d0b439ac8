"""Analytic shapes of the phantoms: how deep a point lies inside them, in mm, at any point of the world.

A shape is evaluated directly at the voxel centres of whatever grid asks (`Lattice`), so a mask on an oblique, flipped
or permuted grid is exact by construction and never resampled. Points are three broadcastable float arrays (x, y, z)
in anatomical mm: RAS+ with the origin in the middle of the body at the height of the diaphragm, before the smooth
per-study deformation (`Warp`) that leads to the world.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from vol3d.geometry import Grid
from vol3d.types import Array

Xyz = tuple[float, float, float]
Points = tuple[Array, Array, Array]
Window = tuple[slice, ...]

REACH_MM = 8.0
"""No point is moved by more than this by a `Warp`, along any axis; boxes are widened by it."""


class Shape(Protocol):
    """Anything that knows its box and how deep points lie in it."""

    def box(self) -> tuple[Array, Array]:
        """Lowest and highest (x, y, z) in anatomical mm; may be infinite along z."""

    def depth(self, points: Points) -> Array:
        """Distance to the surface in mm, to first order; positive inside."""


@dataclass(frozen=True, eq=False)
class Blob:
    """A superellipsoid with a wavy surface; a column where the z radius is infinite.

    `rotation` is 3x3 or None; the surface is scaled by 1 + bump * sin(wave . q + phase), q being the point in radii
    (for a column: z in units of 60 mm).
    """

    centre: Xyz
    radii: Xyz
    rotation: Array | None = None
    exponent: float = 2.0
    bump: float = 0.0
    wave: Xyz = (0.0, 0.0, 0.0)
    phase: float = 0.0

    def box(self) -> tuple[Array, Array]:
        """See `Shape`."""
        radii = np.array(self.radii)
        half = radii * (1 + self.bump)
        if self.rotation is not None:
            half = np.sqrt((self.rotation**2) @ half**2) * (1.0 if self.exponent <= 2 else 1.1)
        return np.array(self.centre) - half, np.array(self.centre) + half

    def depth(self, points: Points) -> Array:
        """See `Shape`."""
        offset = [p - c for p, c in zip(points, self.centre, strict=True)]
        if self.rotation is not None:
            (a, b, c), (d, e, f), (g, h, i) = self.rotation.T.tolist()
            x, y, z = offset
            offset = [a * x + b * y + c * z, d * x + e * y + f * z, g * x + h * y + i * z]
        q = [o / r for o, r in zip(offset, self.radii, strict=True)]
        finite = [a for a in range(3) if np.isfinite(self.radii[a])]
        if self.exponent == 2.0:
            level = np.sqrt(sum(q[a] ** 2 for a in finite))
        else:
            level = sum(np.abs(q[a]) ** self.exponent for a in finite) ** (1 / self.exponent)
        slope = np.sqrt(sum((q[a] / self.radii[a]) ** 2 for a in finite))
        along_z = q[2] if 2 in finite else offset[2] / 60.0
        if self.bump:
            w = self.wave
            scale = 1 + self.bump * np.sin(w[0] * q[0] + w[1] * q[1] + w[2] * along_z + self.phase)
            excess = 1 - level / scale
        else:
            excess = 1 - level
        return excess * (level + 1e-3) / (slope + 1e-3 / min(self.radii))


@dataclass(frozen=True)
class Capsule:
    """All points within `radius` of the segment from `start` to `stop`: a piece of a vessel or of a rib."""

    start: Xyz
    stop: Xyz
    radius: float

    def box(self) -> tuple[Array, Array]:
        """See `Shape`."""
        ends = np.array([self.start, self.stop])
        return ends.min(axis=0) - self.radius, ends.max(axis=0) + self.radius

    def depth(self, points: Points) -> Array:
        """See `Shape`."""
        axis = [b - a for a, b in zip(self.start, self.stop, strict=True)]
        length2 = sum(c * c for c in axis)
        offset = [p - a for p, a in zip(points, self.start, strict=True)]
        along = np.clip(sum(o * c for o, c in zip(offset, axis, strict=True)) / length2, 0, 1)
        distance2 = sum((o - along * c) ** 2 for o, c in zip(offset, axis, strict=True))
        return self.radius - np.sqrt(distance2)


def tube(path: list[Xyz], radius: float) -> tuple[Capsule, ...]:
    """Capsules along a polyline."""
    return tuple(Capsule(a, b, radius) for a, b in itertools.pairwise(path))


def rotation(angles: Array) -> Array:
    """3x3 from three small angles in radians, about x, then y, then z."""
    (a, b, c), one = angles, np.eye(3)
    for axis, angle in ((0, a), (1, b), (2, c)):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        one = turn @ one
    return one


@dataclass(frozen=True, eq=False)
class Warp:
    """Smooth deformation between the world and anatomical mm: a shift plus two long sine waves along each axis.

    anatomy_a = world_a - shift_a + sum_k amplitude[a, k] * sin(wave[a, k] . (world - shift) + phase[a, k])
    """

    shift: Xyz
    amplitude: Array
    wave: Array
    phase: Array

    @classmethod
    def draw(cls, rng: np.random.Generator, shift: Xyz, largest_mm: float = 3.5) -> Warp:
        """Random waves of 180 to 400 mm length."""
        direction = rng.normal(size=(3, 2, 3))
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        wave = direction * (2 * np.pi / rng.uniform(180, 400, (3, 2, 1)))
        return cls(shift, rng.uniform(0.3, 1, (3, 2)) * largest_mm, wave, rng.uniform(0, 2 * np.pi, (3, 2)))

    def to_anatomy(self, world: Points) -> Points:
        """World RAS+ mm to anatomical mm."""
        x, y, z = (w - s for w, s in zip(world, self.shift, strict=True))
        out = []
        for a, p in enumerate((x, y, z)):
            moved = p
            for k in range(self.amplitude.shape[1]):
                w = [float(c) for c in self.wave[a, k]]
                angle = w[0] * x + w[1] * y + w[2] * z + float(self.phase[a, k])
                moved = moved + float(self.amplitude[a, k]) * np.sin(angle)
            out.append(moved)
        return out[0], out[1], out[2]

    def to_world(self, anatomy_N3: Array) -> Array:
        """Inverse of `to_anatomy` by fixed-point iteration (a contraction: the waves are long and low), [N, 3]."""
        world = anatomy_N3 + np.array(self.shift)
        for _ in range(8):
            there = np.stack(self.to_anatomy((world[:, 0], world[:, 1], world[:, 2])), axis=1)
            world = world + anatomy_N3 - there
        return world


@dataclass(frozen=True, eq=False)
class Lattice:
    """Places at which shapes are evaluated: all voxel centres of a grid, or a list of points (`grid` None)."""

    points: Points
    shape: tuple[int, ...]
    grid: Grid | None = None
    shift: Xyz = (0.0, 0.0, 0.0)

    @classmethod
    def of_grid(cls, grid: Grid, warp: Warp) -> Lattice:
        """The voxel centres of `grid`, carried to anatomical mm in float32."""
        z, y, x = (np.arange(n, dtype=np.float64) for n in grid.shape)
        world = []
        for row in range(3):  # as Grid.index_to_mm, without the [Z, Y, X, 3] index array it would need
            a, b, c, d = (float(v) for v in grid.affine[row])
            world.append((a * z[:, None, None] + b * y[:, None] + c * x + d).astype(np.float32))
        return cls(warp.to_anatomy((world[0], world[1], world[2])), grid.shape, grid, warp.shift)

    @classmethod
    def of_points(cls, anatomy_N3: Array) -> Lattice:
        """Single points in anatomical mm."""
        return cls((anatomy_N3[:, 0], anatomy_N3[:, 1], anatomy_N3[:, 2]), (len(anatomy_N3),))

    @property
    def edge_mm(self) -> float:
        """Width of the soft edge with which shapes are painted: one voxel, so that small ones do not alias."""
        return 1e-3 if self.grid is None else float(np.mean(self.grid.spacing_mm))

    def window(self, shape: Shape) -> Window:
        """The smallest block of the lattice that holds the shape and its soft edge."""
        if self.grid is None:
            return (slice(None),)
        low, high = shape.box()
        margin = REACH_MM + self.edge_mm
        corners = np.array(list(itertools.product(*zip(low - margin, high + margin, strict=True))))
        corners = np.clip(corners, -500, 500) + np.array(self.shift)
        index = self.grid.mm_to_index(corners)
        start = np.clip(np.floor(index.min(axis=0)), 0, self.shape).astype(int)
        stop = np.clip(np.ceil(index.max(axis=0)) + 1, 0, self.shape).astype(int)
        return tuple(slice(a, max(a, b)) for a, b in zip(start.tolist(), stop.tolist(), strict=True))

    def at(self, window: Window) -> Points:
        """The points of a block."""
        x, y, z = self.points
        return x[window], y[window], z[window]

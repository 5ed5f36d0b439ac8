"""What a phantom's body is made of, and how it is painted onto a grid: HU, SUV and labels.

Later structures are painted over earlier ones. `phantom_body` draws the bodies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from preprocessing.phantom_shapes import Lattice, Shape, Warp
from vol3d.types import Array

TISSUES = (
    "table", "torso", "arms", "mediastinum", "left lung", "right lung", "heart", "aorta", "liver", "gallbladder",
    "spleen", "stomach", "left kidney", "right kidney", "bladder", "spine", "left paraspinal", "right paraspinal",
)  # fmt: skip
"""What a voxel can belong to; label 0 is air outside, label i + 1 is TISSUES[i]."""

ORGANS: dict[str, tuple[str, ...]] = {
    "body": tuple(t for t in TISSUES if t != "table"),
    "left lung": ("left lung",), "right lung": ("right lung",), "lungs": ("left lung", "right lung"),
    "heart": ("heart",), "aorta": ("aorta",), "liver": ("liver",), "gallbladder": ("gallbladder",),
    "spleen": ("spleen",), "stomach": ("stomach",), "left kidney": ("left kidney",),
    "right kidney": ("right kidney",), "kidneys": ("left kidney", "right kidney"), "bladder": ("bladder",),
    "spine": ("spine",),
}  # fmt: skip
"""Structures that get a mask, as unions of tissues."""

TORSO_MM = (-236.0, 172.0)
"""Lower and upper end of the longest field of view, in anatomical mm before scaling."""

OPEN_ENDED = ("spine", "left paraspinal", "right paraspinal", "aorta", "torso", "arms")
"""Tissues that run through the body from end to end: no field of view holds all of them."""


@dataclass(frozen=True, eq=False)
class Structure:
    """One tissue part: where it is and what it looks like; None leaves that image as it was."""

    tissue: str
    parts: tuple[Shape, ...]
    hu: float | None
    suv: float | None
    in_cavity: bool = False


@dataclass(frozen=True, eq=False)
class Anatomy:
    """All structures of one body in painting order, and what the report may say about them."""

    structures: tuple[Structure, ...]
    cavity: Shape
    warp: Warp
    half_width_mm: float
    half_depth_mm: float
    z_scale: float
    arms: bool
    removed: tuple[Structure, ...]
    contrast: bool
    hu: dict[str, float]
    suv: dict[str, float]

    def tissue_at(self, anatomy_N3: Array) -> Array:
        """Label (0, or 1 + index into TISSUES) at single points in anatomical mm."""
        return paint(self, Lattice.of_points(anatomy_N3))[2]

    def sample(self, tissue: str) -> Array:
        """World positions [N, 3] of points spread evenly over a tissue's shapes within the torso; always the same."""
        parts = self.parts_of(tissue)
        if not parts:
            return np.zeros((0, 3))
        boxes = np.array([part.box() for part in parts])
        low, high = boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)
        low[2], high[2] = max(low[2], TORSO_MM[0] * self.z_scale), min(high[2], TORSO_MM[1] * self.z_scale)
        points = np.random.default_rng(0).uniform(low, high, (1000, 3))
        depth = np.max([part.depth((points[:, 0], points[:, 1], points[:, 2])) for part in parts], axis=0)
        return self.warp.to_world(points[depth > 0])

    @property
    def resected(self) -> tuple[str, ...]:
        """Tissues that were taken out."""
        return tuple(dict.fromkeys(s.tissue for s in self.removed))

    def parts_of(self, tissue: str) -> list[Shape]:
        """Every shape of a tissue, also of one that was taken out."""
        return [part for s in (*self.structures, *self.removed) if s.tissue == tissue for part in s.parts]


def label_of(tissue: str) -> int:
    """The label painted for a tissue."""
    return TISSUES.index(tissue) + 1


def paint(anatomy: Anatomy, lattice: Lattice, ct: bool = False, pet: bool = False) -> tuple[Array, Array, Array]:
    """Ideal images without blur or noise.

    Returns:
        HU and SUV (float32; empty unless asked for) and labels (uint8), each of the lattice's shape.
    """
    hu = np.full(lattice.shape if ct else 0, -1000.0, np.float32)
    suv = np.full(lattice.shape if pet else 0, 0.0, np.float32)
    labels = np.zeros(lattice.shape, np.uint8)
    cavity = anatomy.cavity.depth(lattice.points)
    for structure in anatomy.structures:
        for part in structure.parts:
            window = lattice.window(part)
            if labels[window].size == 0:
                continue
            depth = part.depth(lattice.at(window))
            if structure.in_cavity:
                depth = np.minimum(depth, cavity[window])
            labels[window][depth > 0] = label_of(structure.tissue)
            if not (ct or pet):
                continue
            weight = np.clip(0.5 + depth / lattice.edge_mm, 0, 1).astype(np.float32)
            if ct and structure.hu is not None:
                hu[window] += weight * (structure.hu - hu[window])
            if pet and structure.suv is not None:
                suv[window] += weight * (structure.suv - suv[window])
    return hu, suv, labels

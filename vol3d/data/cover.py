"""How much of a body, or of an organ, a patch shows.

A study's absences hold in every part of it; its findings hold only where they are. So a patch may be asked about a
finding without a mask only if it shows nearly all of the organ, where the study has that organ's masks, or nearly all
of the body.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vol3d.cache import MaskRecord
from vol3d.data.augment import Motion
from vol3d.data.patch import OpenStudy
from vol3d.text.organs import side_of
from vol3d.text.reports import organs_in
from vol3d.types import Array, Zyx, ZyxMm

_WHOLE = ("lung", "liver", "spleen", "kidney", "heart", "pancreas", "bladder", "gallbladder", "esophagus", "thyroid",
          "adrenal")  # fmt: skip
"""Organs whose masks, if a study has them, show all of it; masks of ribs are not the skeleton."""
_PAIRED = ("lung", "kidney", "adrenal")
_LATTICE = 12


def organ_masks(masks: Sequence[MaskRecord]) -> dict[str, tuple[str, ...]]:
    """Names of the masks that together are an organ, by organ (as in `vol3d.text.reports`).

    Masks of findings are none. A paired organ needs masks of both sides, or one that names no side.
    """
    found: dict[str, list[tuple[str, str | None]]] = {}
    for mask in masks:
        text = (mask.label or mask.name).replace("_", " ")
        named = {organ for _, _, organ in organs_in(text)}
        if mask.finding_id is None and len(named) == 1 and (organ := named.pop()) in _WHOLE:
            found.setdefault(organ, []).append((mask.name, side_of(text)))
    return {
        organ: tuple(name for name, _ in parts)
        for organ, parts in found.items()
        if organ not in _PAIRED or None in (sides := {s for _, s in parts}) or sides >= {"left", "right"}
    }


class Cover:
    """What one patch shows of its study.

    Args:
        study: opened for reading; only the index of foreground voxels is read.
        organs: of `organ_masks`.
        body: name of the mask of the body; None: the grid, which preprocessing has cropped to the body.
        start: first voxel of the patch.
        size: its voxels.
        motion: how it is moved.
    """

    def __init__(
        self,
        study: OpenStudy,
        organs: dict[str, tuple[str, ...]],
        body: str | None,
        start: Zyx,
        size: Zyx,
        motion: Motion,
    ) -> None:
        self.study, self.organs, self.body = study, organs, body
        self.start, self.size, self.motion = start, size, motion
        self._known: dict[str | None, float] = {}

    def of(self, organ: str | None) -> float:
        """Share of an organ in the patch, of the body for None or where the organ has no masks."""
        organ = organ if organ in self.organs else None
        if organ not in self._known:
            names = self.organs[organ] if organ is not None else (self.body,) if self.body else ()
            points = [self.study.foreground(name) for name in names]
            # each list is an even sample of at most 4096 voxels: weigh it by what it stands for
            weights = [self.study.entry.mask(name).voxels for name in names]
            shares = [self._share(p) for p in points] or [self._share(_lattice(self.study.entry.grid.shape))]
            self._known[organ] = float(np.average(shares, weights=weights or None))
        return self._known[organ]

    def _share(self, points_N3: Array) -> float:
        return float(inside(points_N3, self.start, self.size, self.study.entry.grid.spacing_mm, self.motion).mean())


def inside(points_N3: Array, start: Zyx, size: Zyx, spacing_mm: ZyxMm, motion: Motion) -> Array:
    """bool [N]: whether source voxels are shown by the moved patch."""
    spacing = np.array(spacing_mm)
    centre = np.array(start) + (np.array(size) - 1) / 2
    offset_mm = (points_N3 - centre) * spacing - motion.masks.shift_mm
    there_mm = np.linalg.solve(np.asarray(motion.masks.matrix, float), offset_mm.T).T
    return (np.abs(there_mm) <= np.array(size) * spacing / 2 + 1e-6).all(axis=1)


def _lattice(shape: Zyx) -> Array:
    """An even sample of a grid's voxels."""
    axes = [(np.arange(_LATTICE) + 0.5) * n / _LATTICE - 0.5 for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)

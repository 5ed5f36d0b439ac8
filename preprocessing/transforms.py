"""`PreprocessConfig` -> transforms: the one recipe from source grids to the common canonical grid.

The transforms act on a dict of `Volume`s: ``ct``, ``pet`` and ``mask:<name>``, plus ``steps``, the record of what was
done in the order it was done. Geometry is `Grid`'s. They are plain callables, as MONAI's `Compose` takes them too
(docs/decisions/0001); chained here, they spare every command the seconds that MONAI's import takes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import ndimage

from vol3d.boxes import bounding_box
from vol3d.errors import ConfigError, GeometryError
from vol3d.geometry import Grid
from vol3d.types import Array, Zyx, ZyxMm
from vol3d.volume import Volume

BODY_HU = -400.0
BODY_SUV = 0.1
"""Above these a voxel may be body; its largest connected piece is."""


@dataclass(frozen=True, kw_only=True)
class PreprocessConfig:
    """What turns a study into a cache entry; its digest is part of every entry's key."""

    spacing_mm: tuple[float, float, float]
    """Voxel spacing of the common grid along (z, y, x)."""
    extent: Literal["union", "ct", "pet"]
    """Whose box of space the common grid covers where a study has both images."""
    body_crop: bool
    """Cut away the air round the body; masks are never cut."""
    body_margin_mm: float
    """Kept round the body's box on every side."""
    levels: int
    """Levels of the image pyramid, each half the resolution of the one before."""
    chunk: int
    """Edge of a cubic chunk in voxels. A patch is read with whole chunks around it: 32 reads fastest."""

    def __post_init__(self) -> None:
        if min(self.spacing_mm) <= 0:
            raise ConfigError(f"spacing_mm: expected positive lengths, found {self.spacing_mm}")
        if not 1 <= self.levels <= 8:
            raise ConfigError(f"levels: expected 1 to 8, found {self.levels}")
        if not 8 <= self.chunk <= 256:
            raise ConfigError(f"chunk: expected 8 to 256 voxels, found {self.chunk}")
        if self.body_margin_mm < 0:
            raise ConfigError(f"body_margin_mm: expected 0 or more, found {self.body_margin_mm}")


Study = dict[str, Any]


def compose(config: PreprocessConfig) -> Callable[[Study], Study]:
    """The recipe as one callable."""
    steps = transforms(config)

    def run(study: Study) -> Study:
        for step in steps:
            study = step(study)
        return study

    return run


def transforms(config: PreprocessConfig) -> list[Callable[[Study], Study]]:
    """The steps in order. Orientation comes before resampling: anisotropic spacing then meets the axes it was meant
    for."""
    steps: list[Callable[[Study], Study]] = [Orient(), ToCommonGrid(config.spacing_mm, config.extent), FindBody()]
    return [*steps, CropToBody(config.body_margin_mm)] if config.body_crop else steps


class _Recorded:
    """Over whatever volumes a study has."""

    keys = ("ct", "pet")

    @staticmethod
    def volumes(study: Study) -> dict[str, Volume]:
        return {key: value for key, value in study.items() if isinstance(value, Volume)}


class Orient(_Recorded):
    """Permutes and flips every volume to the canonical axes (z to S, y to A, x to R); lossless."""

    def __call__(self, data: Study) -> Study:
        """Orients every volume."""
        out = {**data, "steps": list(data["steps"])}
        for key, volume in self.volumes(data).items():
            _, order, flips = volume.grid.to_orientation("SAR")
            out[key] = volume.to_orientation("SAR")
            out["steps"].append({"step": "orient", "volume": key, "order": list(order), "flips": list(flips)})
        return out


class ToCommonGrid(_Recorded):
    """Resamples CT, PET and masks onto one axis-aligned grid."""

    def __init__(self, spacing_mm: ZyxMm, extent: str) -> None:
        self.spacing_mm, self.extent = spacing_mm, extent

    def __call__(self, data: Study) -> Study:
        """Resamples every volume."""
        images = {key: data[key] for key in self.keys if key in data}
        require_overlap([v.grid for v in images.values()])
        chosen = [images[self.extent]] if self.extent in images else list(images.values())
        grid = common_grid([v.grid for v in chosen], self.spacing_mm)
        out = {**data, "steps": list(data["steps"])}
        for key, volume in self.volumes(data).items():
            moved = volume.resample_to(grid)
            out[key] = _binary(moved, volume, key) if volume.modality == "mask" else moved
            out["steps"].append({"step": "resample", "volume": key, "from": volume.grid.to_dict()})
        out["steps"].append({"step": "common_grid", "grid": grid.to_dict()})
        return out


class FindBody(_Recorded):
    """Adds ``body_box`` (start, stop) and ``body_center_mm``, world (x, y, z)."""

    def __call__(self, data: Study) -> Study:
        """Finds the body in the CT, else in the PET."""
        images = [data[key] for key in self.keys if key in data]
        start, stop, center = body_box(images[0])
        return {**data, "body_box": (start, stop), "body_center_mm": center}


class CropToBody(_Recorded):
    """Crops every volume to the body's box plus a margin, widened where a mask reaches further."""

    def __init__(self, margin_mm: float) -> None:
        self.margin_mm = margin_mm

    def __call__(self, data: Study) -> Study:
        """Crops every volume."""
        volumes = self.volumes(data)
        grid = next(iter(volumes.values())).grid
        start, stop = (np.array(corner) for corner in data["body_box"])
        margin = np.ceil(self.margin_mm / np.array(grid.spacing_mm)).astype(int)
        start, stop = start - margin, stop + margin
        for volume in volumes.values():
            box = bounding_box(volume.array_ZYX) if volume.modality == "mask" else None
            if box is not None:
                start, stop = np.minimum(start, box[0]), np.maximum(stop, box[1])
        start, stop = np.maximum(start, 0), np.minimum(stop, grid.shape)
        first, last = (int(start[0]), int(start[1]), int(start[2])), (int(stop[0]), int(stop[1]), int(stop[2]))
        out = {**data, **{key: volume.crop(first, last) for key, volume in volumes.items()}}
        out["steps"] = [*data["steps"], {"step": "crop", "start": list(first), "stop": list(last)}]
        return out


def _boxes(grids: list[Grid]) -> tuple[list[Array], list[Array]]:
    """Lowest and highest world (x, y, z) of each grid's outer voxel faces."""
    lows, highs = [], []
    for grid in grids:
        faces = np.array(list(itertools.product(*[(-0.5, n - 0.5) for n in grid.shape])))
        mm = grid.index_to_mm(faces)
        lows.append(mm.min(axis=0))
        highs.append(mm.max(axis=0))
    return lows, highs


def require_overlap(grids: list[Grid]) -> None:
    """Refuses images that have no place in common, whichever of them the common grid covers.

    Raises:
        GeometryError: the boxes do not meet, so CT and PET cannot belong together.
    """
    lows, highs = _boxes(grids)
    if (np.max(lows, axis=0) > np.min(highs, axis=0)).any():
        raise GeometryError(
            f"expected CT and PET to overlap, found boxes (x, y, z mm) {[np.round(a).tolist() for a in lows]} to "
            f"{[np.round(a).tolist() for a in highs]}; are they of one study and one frame of reference?"
        )


def common_grid(grids: list[Grid], spacing_mm: ZyxMm) -> Grid:
    """Axis-aligned canonical grid over the boxes (outer voxel faces) of all `grids`, centred on their union."""
    lows, highs = _boxes(grids)
    low, high = np.min(lows, axis=0), np.max(highs, axis=0)
    spacing_xyz = np.array(spacing_mm[::-1])
    size = np.maximum(1, np.rint((high - low) / spacing_xyz - 1e-6)).astype(int)
    origin = (low + high) / 2 - (size - 1) / 2 * spacing_xyz
    shape = (int(size[2]), int(size[1]), int(size[0]))
    return Grid.from_spacing(shape, spacing_mm, (float(origin[0]), float(origin[1]), float(origin[2])))


def body_box(volume: Volume) -> tuple[Zyx, Zyx, tuple[float, float, float]]:
    """Index box (start, stop) of the body and the world (x, y, z) of its centroid; the whole image if none is found."""
    step = tuple(max(1, round(6.0 / s)) for s in volume.grid.spacing_mm)  # 6 mm resolves a body and is quick
    coarse = volume.array_ZYX[:: step[0], :: step[1], :: step[2]]
    tissue = coarse > (BODY_HU if volume.modality == "ct" else BODY_SUV)
    opened = ndimage.binary_opening(tissue)  # lets go of the table
    pieces, count = ndimage.label(opened if opened.any() else tissue)
    shape = volume.grid.shape
    if count == 0:
        x, y, z = volume.grid.index_to_mm((np.array(shape) - 1) / 2)
        return (0, 0, 0), shape, (float(x), float(y), float(z))
    body = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    low, high = (np.array(corner) for corner in bounding_box(body) or ((0, 0, 0), shape))
    start = np.maximum((low - 1) * step, 0)
    stop = np.minimum((high + 1) * step, shape)
    x, y, z = volume.grid.index_to_mm(np.array(ndimage.center_of_mass(body)) * step)
    as_zyx = lambda a: (int(a[0]), int(a[1]), int(a[2]))  # noqa: E731
    return as_zyx(start), as_zyx(stop), (float(x), float(y), float(z))


def _binary(share: Volume, source: Volume, key: str) -> Volume:
    """Members where at least half a voxel is; a structure too small for that keeps its best voxel."""
    mask = share.array_ZYX >= 0.5
    if not mask.any() and source.array_ZYX.any():
        if not share.array_ZYX.any():
            raise GeometryError(f"{key} lies outside the common grid; is it drawn on this study's CT or PET?")
        mask = share.array_ZYX == share.array_ZYX.max()
    return Volume(mask.astype(np.uint8), share.grid, "mask")

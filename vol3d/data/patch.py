"""Where a patch lies in a study, and its voxels: read, moved and varied."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from vol3d.cache import Entry
from vol3d.data.augment import AugmentConfig, Motion, Placement, resample_CZYX, vary_ct, vary_pet
from vol3d.data.channels import ChannelConfig, body_center_mm, read_crop, to_channels
from vol3d.data.index import touches
from vol3d.types import Array, Zyx


class OpenStudy:
    """An entry and the foreground voxels read from it so far."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self._foreground: dict[str, Array] = {}

    def foreground(self, name: str) -> Array:
        """int32 [N, 3] voxels of a mask, all or an even sample."""
        if name not in self._foreground:
            self._foreground[name] = self.entry.foreground(name)
        return self._foreground[name]

    def read_mask(self, name: str, start: Zyx, stop: Zyx) -> Array | None:
        """uint8; None where nothing of the mask is there, which the index knows alone if it lists every voxel."""
        points = self.foreground(name)
        if len(points) == self.entry.mask(name).voxels and not touches(points, start, stop):
            return None
        mask = self.entry.read_mask(name, start, stop)
        return mask if mask.any() else None


def centred_start(size: int, patch: int) -> int:
    """Start of a patch that is at least as large as the volume: the padding is shared by both ends."""
    return -((patch - size) // 2)


def place_patch(rng: np.random.Generator, shape: Zyx, patch: Zyx, around: Array | None = None) -> Zyx:
    """Start of a patch inside the volume, or round it along the axes where it is smaller than the patch.

    `around` is a voxel that must lie in it, up to a quarter of the patch from its centre unless the volume ends there.
    """
    start = []
    for axis, value in enumerate(rng.random(3)):
        n, p = shape[axis], patch[axis]
        if n <= p:
            start.append(centred_start(n, p))
        elif around is None:
            start.append(int(value * (n - p + 1)))
        else:
            wanted = int(around[axis]) - p // 2 + round((value - 0.5) * p / 2)
            start.append(min(max(wanted, 0), n - p))
    return start[0], start[1], start[2]


class PatchReader:
    """Reads one patch of one study as one motion shows it.

    The images are read with the margin that the motion needs, so that nothing but space outside the study is padded.

    Args:
        study: where to read.
        start: first voxel of the patch.
        size: its voxels.
        motion: how it is moved.
        masks: names of the masks to read.
    """

    def __init__(self, study: OpenStudy, start: Zyx, size: Zyx, motion: Motion, masks: Iterable[str]) -> None:
        self.entry, self.start, self.size, self.motion = study.entry, start, size, motion
        self.box = (start, (start[0] + size[0], start[1] + size[1], start[2] + size[2]))
        if motion.turned:
            boxes = [p.box(start, size, self.entry.grid.spacing_mm) for p in (motion.ct, motion.pet)]
            low, high = np.min([b[0] for b in boxes], axis=0), np.max([b[1] for b in boxes], axis=0)
            self.box = (int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2]))
        crop = self.crop = read_crop(self.entry, *self.box)
        images = {"ct": crop.ct_ZYX, "pet": crop.pet_ZYX, "ct?": crop.ct_valid_ZYX, "pet?": crop.pet_valid_ZYX}
        found = {f"mask {n}": study.read_mask(n, *self.box) for n in masks}
        self.moved = self._move({n: torch.from_numpy(a) for n, a in {**images, **found}.items() if a is not None})

    def covered(self) -> dict[str, float]:
        """The share of the voxels read that lies inside each image."""
        share = {}
        for name, image, gaps in (
            ("ct", self.crop.ct_ZYX, self.crop.ct_valid_ZYX),
            ("pet", self.crop.pet_ZYX, self.crop.pet_valid_ZYX),
        ):
            share[name] = 0.0 if image is None else 1.0 if gaps is None else float(gaps.mean())
        return share

    def image(
        self, rng: np.random.Generator, config: ChannelConfig, augmentation: AugmentConfig, shown: tuple[str, ...]
    ) -> Tensor:
        """image_CZYX with the images named in `shown`."""
        images: dict[str, Tensor | None] = {"ct": None, "pet": None, "ct?": None, "pet?": None}
        for name, vary in (("ct", vary_ct), ("pet", vary_pet)):
            if name in shown:
                images[name] = vary(self.moved[name].to(torch.float32), rng, augmentation)
                if f"{name}?" in self.moved:
                    images[f"{name}?"] = self.moved[f"{name}?"] > 0.5
        coordinates = self._coordinates() if config.coordinates else None
        return to_channels(images["ct"], images["pet"], images["ct?"], images["pet?"], config, coordinates)

    def mask(self, name: str) -> Tensor | None:
        """bool; None where it does not reach the patch."""
        mask = self.moved.get(f"mask {name}")
        return None if mask is None else mask >= 0.5

    def _move(self, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
        if not self.motion.turned:
            return {n: a.flip(self.motion.flips) if self.motion.flips else a for n, a in arrays.items()}
        places: dict[int, tuple[Placement, list[str]]] = {}  # what moves alike is resampled together: half the time
        for name in arrays:
            kind = name.rstrip("?")
            place = self.motion.ct if kind == "ct" else self.motion.pet if kind == "pet" else self.motion.masks
            places.setdefault(id(place), (place, []))[1].append(name)
        moved: dict[str, Tensor] = {}
        for place, names in places.values():
            grid = place.grid(self.start, self.size, self.entry.grid.spacing_mm, self.box)
            moved.update(zip(names, resample_CZYX([arrays[n] for n in names], grid), strict=True))
        return moved

    def _coordinates(self) -> tuple[Tensor, Tensor, Tensor]:
        grid, half = self.entry.grid, (np.array(self.size) - 1) / 2
        centre_mm = grid.index_to_mm(np.array(self.start) + half) - np.array(body_center_mm(self.entry))
        offset = self.motion.body_offset_mm(centre_mm[::-1])
        z, y, x = (
            (torch.arange(n, dtype=torch.float32) - float(h)) * s + float(o)
            for n, h, s, o in zip(self.size, half, grid.spacing_mm, offset, strict=True)
        )
        return z, y, x

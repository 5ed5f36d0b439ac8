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
        """uint8; None where the index, if it lists every voxel, says that there is nothing to read."""
        points = self.foreground(name)
        if len(points) == self.entry.mask(name).voxels and not touches(points, start, stop):
            return None
        return self.entry.read_mask(name, start, stop)


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
    """

    def __init__(self, study: OpenStudy, start: Zyx, size: Zyx, motion: Motion) -> None:
        self.study, self.entry, self.start, self.size, self.motion = study, study.entry, start, size, motion
        self.box = (start, (start[0] + size[0], start[1] + size[1], start[2] + size[2]))
        if motion.turned:
            boxes = [p.box(start, size, self.entry.grid.spacing_mm) for p in (motion.ct, motion.pet)]
            low, high = np.min([b[0] for b in boxes], axis=0), np.max([b[1] for b in boxes], axis=0)
            self.box = (int(low[0]), int(low[1]), int(low[2])), (int(high[0]), int(high[1]), int(high[2]))
        self.crop = read_crop(self.entry, *self.box)

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
        crop, motion = self.crop, self.motion
        ct, ct_valid = self._vary(crop.ct_ZYX, crop.ct_valid_ZYX, motion.ct, "ct" in shown)
        pet, pet_valid = self._vary(crop.pet_ZYX, crop.pet_valid_ZYX, motion.pet, "pet" in shown)
        if ct is not None:
            ct = vary_ct(ct, rng, augmentation)
        if pet is not None:
            pet = vary_pet(pet, rng, augmentation)
        coordinates = self._coordinates() if config.coordinates else None
        return to_channels(ct, pet, ct_valid, pet_valid, config, coordinates)

    def masks(self, names: Iterable[str]) -> dict[str, Tensor]:
        """bool masks by name; those that do not reach the patch are left out."""
        read = {n: torch.from_numpy(m) for n in names if (m := self.study.read_mask(n, *self.box)) is not None}
        moved = self._move(list(read.values()), self.motion.masks)
        return {name: mask >= 0.5 for name, mask in zip(read, moved, strict=True)}

    def _vary(
        self, image: Array | None, gaps: Array | None, place: Placement, shown: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        if image is None or not shown:
            return None, None
        moved = self._move([torch.from_numpy(a) for a in (image, gaps) if a is not None], place)
        return moved[0].to(torch.float32), None if gaps is None else moved[1] > 0.5

    def _move(self, arrays: list[Tensor], place: Placement) -> list[Tensor]:
        if not arrays:
            return []
        if not self.motion.turned:
            return [a.flip(self.motion.flips) if self.motion.flips else a for a in arrays]
        return list(resample_CZYX(arrays, place.grid(self.start, self.size, self.entry.grid.spacing_mm, self.box)))

    def _coordinates(self) -> tuple[Tensor, Tensor, Tensor]:
        grid, half = self.entry.grid, (np.array(self.size) - 1) / 2
        centre_mm = grid.index_to_mm(np.array(self.start) + half) - np.array(body_center_mm(self.entry))
        offset = self.motion.body_offset_mm(centre_mm[::-1])
        z, y, x = (
            (torch.arange(n, dtype=torch.float32) - float(h)) * s + float(o)
            for n, h, s, o in zip(self.size, half, grid.spacing_mm, offset, strict=True)
        )
        return z, y, x

"""From HU and SUV to the channels a model sees. Training and inference both come through here, and nobody else does it.

A CT window (low, high) maps low..high linearly to -1..1, a PET clip c maps 0..c to -1..1, both clipped. Then, if asked
for, the position in the body, and last two validity channels. Where an image does not cover a voxel, or the study does
not have it, its channels are -1 (air, no uptake) and its validity is 0: CT-only, PET-only and PET/CT studies share one
model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vol3d.cache import Entry
from vol3d.errors import ConfigError
from vol3d.types import Array, Zyx

COORDINATE_SCALE_MM = 200.0
"""Coordinates are divided by this: a torso then spans about -1..1 across and -2..2 along."""


@dataclass(frozen=True, kw_only=True)
class ChannelConfig:
    """Which channels a model sees, in this order: CT windows, PET clips, coordinates, CT validity, PET validity."""

    ct_windows: tuple[tuple[float, float], ...]
    """(low, high) in HU, each one channel."""
    pet_clips: tuple[float, ...]
    """Upper SUV, each one channel."""
    coordinates: bool
    """Three more channels: (z, y, x) mm from the centre of the body's box, over 200."""

    def __post_init__(self) -> None:
        if not self.ct_windows and not self.pet_clips:
            raise ConfigError("expected at least one CT window or PET clip, found none: the model would see no image")
        for low, high in self.ct_windows:
            if not low < high:
                raise ConfigError(f"expected a CT window (low, high) with low < high in HU, found ({low}, {high})")
        for clip in self.pet_clips:
            if not clip > 0:
                raise ConfigError(f"expected PET clips above 0 SUV, found {clip}")

    @property
    def count(self) -> int:
        """Number of channels."""
        return len(self.ct_windows) + len(self.pet_clips) + 3 * self.coordinates + 2

    @property
    def coordinate_channels(self) -> tuple[int, ...]:
        """Where z, y and x lie among the channels; empty without them."""
        first = len(self.ct_windows) + len(self.pet_clips)
        return (first, first + 1, first + 2) if self.coordinates else ()


def to_channels(
    ct_ZYX: Array | Tensor | None,
    pet_ZYX: Array | Tensor | None,
    ct_valid_ZYX: Array | Tensor | None,
    pet_valid_ZYX: Array | Tensor | None,
    config: ChannelConfig,
    coordinates_mm: tuple[Tensor, Tensor, Tensor] | None = None,
) -> Tensor:
    """float32 image_CZYX, on the device of the images.

    Args:
        ct_ZYX: HU, any dtype; None where the study has no CT.
        pet_ZYX: SUVbw; None where the study has no PET.
        ct_valid_ZYX: bool, True where CT covers the voxel; None means everywhere (of an image that is there).
        pet_valid_ZYX: the same of PET.
        config: which channels.
        coordinates_mm: positions along z, y and x relative to the body's centre, from `axis_coordinates_mm`; must be
            given exactly when the configuration asks for them.
    """
    images = [None if a is None else torch.as_tensor(a) for a in (ct_ZYX, pet_ZYX)]
    reference = next((a for a in images if a is not None), None)
    if reference is None:
        raise ValueError("expected a CT or a PET, found neither")
    if config.coordinates != (coordinates_mm is not None):
        raise ValueError("coordinates_mm must be given exactly when the configuration has coordinate channels")
    out_CZYX = torch.empty((config.count, *reference.shape), dtype=torch.float32, device=reference.device)
    ranges = [list(config.ct_windows), [(0.0, clip) for clip in config.pet_clips]]
    channel = 0
    for image, valid, windows, flag in zip(images, (ct_valid_ZYX, pet_valid_ZYX), ranges, (-2, -1), strict=True):
        gap = None
        if image is None:
            out_CZYX[flag] = 0
        elif valid is None:
            out_CZYX[flag] = 1
        else:
            out_CZYX[flag] = torch.as_tensor(valid, device=reference.device)
            gap = out_CZYX[flag] == 0
        for low, high in windows:
            target = out_CZYX[channel]
            channel += 1
            if image is None:
                target.fill_(-1)
                continue
            target.copy_(image).sub_(low).mul_(2 / (high - low)).sub_(1).clamp_(-1, 1)
            if gap is not None:
                target.masked_fill_(gap, -1)
    if coordinates_mm is not None:
        for axis, values in enumerate(coordinates_mm):
            shape = [-1 if a == axis else 1 for a in range(3)]
            out_CZYX[channel + axis] = (values.to(out_CZYX) / COORDINATE_SCALE_MM).reshape(shape)
    return out_CZYX


def body_center_mm(entry: Entry) -> tuple[float, float, float]:
    """World (x, y, z) of the centre of the body's box; of the whole grid where the entry does not state it."""
    center = getattr(entry, "body_center_mm", None)
    if center is None:
        center = entry.grid.index_to_mm((np.array(entry.grid.shape) - 1) / 2)
    x, y, z = (float(v) for v in center)
    return x, y, z


def axis_coordinates_mm(entry: Entry, start: Zyx, stop: Zyx) -> tuple[Tensor, Tensor, Tensor]:
    """Positions along z, y and x of the voxels start <= index < stop, in mm from the body's centre.

    The entry's grid is canonical (z to Superior, y to Anterior, x to the patient's Right), so three short axes say it.
    """
    origin = entry.grid.index_to_mm(np.array(start))[::-1] - np.array(body_center_mm(entry))[::-1]
    spacing = entry.grid.spacing_mm
    z, y, x = (
        torch.arange(b - a, dtype=torch.float32) * s + float(o)
        for a, b, s, o in zip(start, stop, spacing, origin, strict=True)
    )
    return z, y, x


@dataclass(frozen=True)
class Crop:
    """Raw voxels of one box of an entry, outside the grid filled with air and 0."""

    ct_ZYX: Array | None
    pet_ZYX: Array | None
    ct_valid_ZYX: Array | None
    """None: covered everywhere."""
    pet_valid_ZYX: Array | None


def read_crop(entry: Entry, start: Zyx, stop: Zyx) -> Crop:
    """Reads start <= index < stop of every image the study has, with what each covers."""
    found: dict[str, Array | None] = {"ct": None, "pet": None}
    valid: dict[str, Array | None] = {"ct": None, "pet": None}
    box = entry.grid.crop(start, stop)
    inside = entry.grid.contains(box, tolerance_mm=0)
    for image in entry.images:
        found[image] = entry.read(image, start, stop)
        if inside and entry.source_grids[image].contains(box, tolerance_mm=0):
            continue  # eight corners say it for most patches
        covered = entry.coverage(image, start, stop)
        valid[image] = None if covered.all() else covered
    return Crop(found["ct"], found["pet"], valid["ct"], valid["pet"])


def crop_to_channels(
    entry: Entry, crop: Crop, start: Zyx, stop: Zyx, config: ChannelConfig, device: torch.device | str = "cpu"
) -> Tensor:
    """image_CZYX of a crop as it was read, unaugmented: what inference sees."""
    parts = (crop.ct_ZYX, crop.pet_ZYX, crop.ct_valid_ZYX, crop.pet_valid_ZYX)
    ct, pet, ct_valid, pet_valid = (None if a is None else torch.as_tensor(a).to(device) for a in parts)
    coordinates = axis_coordinates_mm(entry, start, stop) if config.coordinates else None
    return to_channels(ct, pet, ct_valid, pet_valid, config, coordinates)

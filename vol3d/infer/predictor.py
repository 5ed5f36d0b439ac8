"""All phrases over a whole study in one pass of a sliding window, in bounded memory.

Each tile is encoded once and asked all phrases, a few at a time. Weighted probabilities are added up in fixed point
(int16) in a slab as deep as one tile; once no later tile reaches a slice, it becomes uint8. So memory grows by one byte
per voxel and phrase for the answer, and by two bytes per voxel of the slab, whatever the number of tiles.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from vol3d.cache import Entry
from vol3d.checkpoint import PredictConfig
from vol3d.data.channels import ChannelConfig, Crop, crop_to_channels, read_crop
from vol3d.data.phrases import names_side
from vol3d.errors import ConfigError
from vol3d.infer.slab import ONE, Slab
from vol3d.infer.tiles import axis_weights, tile_rows
from vol3d.types import Array, Zyx

AIR_BELOW_HU = -900
"""A tile whose CT stays below this and whose PET below `AIR_BELOW_SUV` holds no body."""

AIR_BELOW_SUV = 0.1

ABSENT_LOGIT = -30.0
"""Presence of every phrase in a study that has no tile with a body in it."""


@dataclass(frozen=True)
class Prediction:
    """What the model says of each phrase."""

    probability_PZYX: Array
    """uint8, 0..255 for 0..1, on the entry's grid."""
    presence_P: Array
    """float32 logits, uncalibrated: the largest over all tiles."""
    tiles: int
    """Tiles the study was cut into."""
    skipped: int
    """Of those, tiles without body."""


class Grounded(Protocol):
    """What the predictor uses of a model's output."""

    @property
    def logits(self) -> list[Tensor]:
        """Mask logits, finest scale first: [B, P, Z, Y, X]."""
        ...

    @property
    def presence_BP(self) -> Tensor:
        """Presence logits."""
        ...


Watch = Callable[[Sequence[Zyx], list[Tensor]], None]


class GroundingModel(Protocol):
    """What the predictor uses of a model."""

    def encode_image(self, image_BCZYX: Tensor) -> list[Tensor]:
        """Features that do not depend on phrases."""
        ...

    def ground(self, features: list[Tensor], tokens_BPTE: Tensor, token_mask_BPT: Tensor) -> Grounded:
        """Answers to phrases."""
        ...


def predict(
    model: GroundingModel,
    entry: Entry,
    tokens_PTE: Array | Tensor,
    token_mask_PT: Array | Tensor,
    channels: ChannelConfig,
    patch_size: Zyx,
    config: PredictConfig | None = None,
    *,
    device: torch.device | str = "cpu",
    phrases: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    watch: Watch | None = None,
) -> Prediction:
    """Masks and presence of P phrases in one study; the model must be on `device` and in evaluation mode.

    A tile's presence logit answers whether the phrase is in that field of view, so over the study the largest counts.

    Args:
        model: a `VisionLanguageModel` or anything with its `encode_image` and `ground`.
        entry: the study; only the voxels of the tiles in work are in memory.
        tokens_PTE: text tokens of every phrase, padded.
        token_mask_PT: True at real tokens.
        channels: as in training.
        patch_size: as in training.
        config: coverage, batch, mirroring, precision.
        device: where the model runs.
        phrases: the texts; only needed to allow mirroring along x.
        progress: called with (tiles done, all tiles).
        watch: called with the tiles' first voxels and the features of their unmirrored view.

    Raises:
        ConfigError: mirroring along x while a phrase names a side, or its text is not given.
    """
    config = config or PredictConfig()
    device = torch.device(device)
    tokens_1PTE = torch.as_tensor(tokens_PTE, dtype=torch.float32, device=device)[None]
    mask_1PT = torch.as_tensor(token_mask_PT, dtype=torch.bool, device=device)[None]
    count, shape = tokens_1PTE.shape[1], entry.grid.shape
    flips = _flips(config, phrases)
    rows = tile_rows(shape, patch_size, config.overlap)
    weights = [axis_weights(n, p, config.overlap) for n, p in zip(shape, patch_size, strict=True)]
    slab = Slab(count, shape, patch_size[0], device)
    presence_P = torch.full((count,), ABSENT_LOGIT, device=device)
    total, done, skipped = sum(len(starts) for _, starts in rows), 0, 0
    with (
        torch.inference_mode(),
        torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.bf16),
        ThreadPoolExecutor(1) as reader,
    ):
        for starts, crops, empty in _ahead(_batches(entry, rows, patch_size, config), reader):
            done, skipped = done + len(starts) + empty, skipped + empty
            if starts:
                slab.advance(starts[0][0])
                image_BCZYX = torch.stack(
                    [
                        crop_to_channels(entry, crop, start, _plus(start, patch_size), channels, device)
                        for start, crop in zip(starts, crops, strict=True)
                    ]
                )
                weight_BZYX = torch.stack([_tile_weight(start, weights, device) for start in starts]) / len(flips)
                seen = None if watch is None else partial(watch, starts)
                views = _answers(model, image_BCZYX, tokens_1PTE, mask_1PT, channels, flips, config.phrase_chunk, seen)
                presence_BP = torch.zeros((len(starts), count), device=device)
                for first, logit_BPZYX, seen_BP in views:
                    slab.add(starts, first, logit_BPZYX, weight_BZYX)
                    presence_BP[:, first : first + seen_BP.shape[1]] += seen_BP / len(flips)
                    del logit_BPZYX  # not beside the next tile's features
                presence_P = torch.maximum(presence_P, presence_BP.amax(0))
            if progress is not None:
                progress(done, total)
        slab.advance(shape[0])
    return Prediction(slab.out_PZYX, presence_P.cpu().numpy(), total, skipped)


def _answers(
    model: GroundingModel,
    image_BCZYX: Tensor,
    tokens_1PTE: Tensor,
    mask_1PT: Tensor,
    channels: ChannelConfig,
    flips: list[tuple[int, ...]],
    chunk: int,
    watch: Callable[[list[Tensor]], None] | None = None,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(first phrase, logit_BPZYX, presence_BP) for every view and every few phrases."""
    batch = image_BCZYX.shape[0]
    for axes in flips:
        features = model.encode_image(_mirror(image_BCZYX, axes, channels))
        if watch is not None and not axes:
            watch(features)
        for first in range(0, tokens_1PTE.shape[1], chunk):
            part = slice(first, first + chunk)
            tokens_BPTE = tokens_1PTE[:, part].expand(batch, -1, -1, -1)
            output = model.ground(features, tokens_BPTE, mask_1PT[:, part].expand(batch, -1, -1))
            logit_BPZYX = output.logits[0]
            if logit_BPZYX.shape[2:] != image_BCZYX.shape[2:]:
                raise ValueError(
                    f"expected mask logits on the tile's {tuple(image_BCZYX.shape[2:])} voxels, "
                    f"found {tuple(logit_BPZYX.shape[2:])}"
                )
            if axes:
                logit_BPZYX = logit_BPZYX.flip([a + 2 for a in axes])
            yield first, logit_BPZYX, output.presence_BP.float()


def _mirror(image_BCZYX: Tensor, axes: tuple[int, ...], channels: ChannelConfig) -> Tensor:
    """The mirrored body: its positions run along the axes as in any other image, so that coordinate changes sign."""
    if not axes:
        return image_BCZYX
    out_BCZYX = image_BCZYX.flip([a + 2 for a in axes])
    for axis in axes if channels.coordinates else ():
        out_BCZYX[:, channels.coordinate_channels[axis]] *= -1
    return out_BCZYX


def _flips(config: PredictConfig, phrases: Sequence[str] | None) -> list[tuple[int, ...]]:
    axes = sorted("zyx".index(a) for a in set(config.mirror_axes))
    if 2 in axes:
        sided = [p for p in phrases or () if names_side(p)]
        if phrases is None or sided:
            found = f"found {sided[0]!r}" if sided else "found no texts to check"
            raise ConfigError(
                f"expected phrases without a side for mirroring along x, {found}; leave x out of mirror_axes"
            )
    return [c for n in range(len(axes) + 1) for c in itertools.combinations(axes, n)]


def _tile_weight(start: Zyx, weights: list[dict[int, Array]], device: torch.device) -> Tensor:
    z, y, x = (torch.from_numpy(w[s]).to(device) for w, s in zip(weights, start, strict=True))
    return z[:, None, None] * y[None, :, None] * (x[None, None, :] * ONE)


# -- reading --------------------------------------------------------------------------------------------------------


def _batches(
    entry: Entry, rows: list[tuple[int, list[Zyx]]], patch: Zyx, config: PredictConfig
) -> Iterator[tuple[list[Zyx], list[Crop], int]]:
    """Tiles of one row with a body in them, some at a time, and how many without were passed over."""
    for _, row in rows:
        starts: list[Zyx] = []
        crops: list[Crop] = []
        empty = 0
        for start in row:
            crop = read_crop(entry, start, _plus(start, patch))
            if config.skip_air and is_air(crop):
                empty += 1
                continue
            starts.append(start)
            crops.append(crop)
            if len(starts) == config.batch_tiles:
                yield starts, crops, empty
                starts, crops, empty = [], [], 0
        if starts or empty:
            yield starts, crops, empty


def is_air(crop: Crop) -> bool:
    """True if no image shows anything but air there."""
    ct, pet = crop.ct_ZYX, crop.pet_ZYX
    return (ct is None or int(ct.max()) < AIR_BELOW_HU) and (pet is None or float(pet.max()) < AIR_BELOW_SUV)


_Item = TypeVar("_Item")


def _ahead(items: Iterator[_Item], reader: ThreadPoolExecutor) -> Iterator[_Item]:
    """The same items; the next one is made in the reader's thread while the last is in use."""
    upcoming = reader.submit(next, items, None)
    while (item := upcoming.result()) is not None:
        upcoming = reader.submit(next, items, None)
        yield item


def _plus(start: Zyx, size: Zyx) -> Zyx:
    return start[0] + size[0], start[1] + size[1], start[2] + size[2]

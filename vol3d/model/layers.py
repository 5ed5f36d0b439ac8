"""Layers of PyTorch that a CPU can run faster: same numbers, same parameters."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class InstanceNorm(nn.GroupNorm):
    """Instance normalisation with scale and shift, as one group per channel.

    The numbers are those of `nn.InstanceNorm3d`, but on a CPU it keeps channels-last tensors as they are, and a
    convolution with its normalisation takes half the time. On CUDA autocast would run it in float32, so there it is
    instance normalisation proper.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__(channels, channels, eps)

    def forward(self, x_BCZYX: Tensor) -> Tensor:
        """Same shape."""
        if x_BCZYX.device.type == "cpu":
            if torch.is_grad_enabled() and x_BCZYX.dtype == self.weight.dtype:
                return _InstanceNormFunction.apply(x_BCZYX, self.weight, self.bias, self.eps)
            return super().forward(x_BCZYX)
        return functional.instance_norm(x_BCZYX, weight=self.weight, bias=self.bias, eps=self.eps)


class _InstanceNormFunction(torch.autograd.Function):
    """PyTorch's normalisation with a gradient of our own: its own takes two to three times as long on channels-last."""

    @staticmethod
    def forward(ctx: Any, x_BCZYX: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float) -> Tensor:
        batch, channels, voxels = *x_BCZYX.shape[:2], x_BCZYX[0, 0].numel()
        out, mean_BC, rstd_BC = torch.native_group_norm(
            x_BCZYX, weight_C, bias_C, batch, channels, voxels, channels, eps
        )
        ctx.save_for_backward(x_BCZYX, weight_C, mean_BC, rstd_BC)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (gradient,) = gradients
        x_BCZYX, weight_C, mean_BC, rstd_BC = ctx.saved_tensors
        voxels = x_BCZYX[0, 0].numel()
        total_BC = gradient.sum((2, 3, 4))
        along_BC = ((gradient * x_BCZYX).sum((2, 3, 4)) - mean_BC * total_BC) * rstd_BC
        # d/dx of weight * (x - mean) * rstd is linear in gradient and x: one slope each, and a constant
        of_gradient_BC = rstd_BC * weight_C
        of_x_BC = -of_gradient_BC * rstd_BC * along_BC / voxels
        constant_BC = -of_gradient_BC * total_BC / voxels - of_x_BC * mean_BC
        slope, slope_x, constant = (t[:, :, None, None, None] for t in (of_gradient_BC, of_x_BC, constant_BC))
        return (
            torch.addcmul(constant, gradient, slope).addcmul_(x_BCZYX, slope_x),
            along_BC.sum(0),
            total_BC.sum(0),
            None,
        )


class Conv3d(nn.Conv3d):
    """`nn.Conv3d`, also for single small maps on a CPU at full speed.

    PyTorch leaves oneDNN for a batch of one with at most 20480 values along the first four axes
    (`ConvParams::use_mkldnn`), and its own loop takes five times as long. The two halves of the map, with the slice
    that each needs of the other, are a batch of two.
    """

    def forward(self, x_BCZYX: Tensor) -> Tensor:
        """Same numbers as `nn.Conv3d`."""
        batch, channels, z, y, _ = x_BCZYX.shape
        small = batch == 1 and channels * z * y <= 20480 and z % 2 == 0
        plain = self.kernel_size == (3, 3, 3) and self.stride == (1, 1, 1) and self.padding == (1, 1, 1)
        if not (small and plain and x_BCZYX.device.type == "cpu"):
            return super().forward(x_BCZYX)
        padded = functional.pad(x_BCZYX, (0, 0, 0, 0, 1, 1))
        halves = torch.cat([padded[:, :, : z // 2 + 2], padded[:, :, z // 2 :]])
        first, second = functional.conv3d(halves, self.weight, self.bias, padding=(0, 1, 1)).chunk(2)
        return torch.cat([first, second], dim=2)

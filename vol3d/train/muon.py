"""Muon: momentum whose every matrix is made orthogonal before it moves the weights; AdamW for all else.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); sizes of the update after Liu et al.,
arXiv 2502.16982. Those of timm and torch multiply in bfloat16 always, which most CPUs emulate (four times as long as
float32) and whose rounding differs with the number of ranks; torch's takes no convolutions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_QUINTIC = (3.4445, -4.7750, 2.0315)
"""Coefficients of X, X X' X and (X X')^2 X: singular values above a hundredth of the norm end within 0.6..1.3."""

_ITERATIONS = 5

_ADAMW_SIZE = 0.2
"""Root mean square of AdamW's usual update, so that one learning rate serves both (Liu et al., section 2.2)."""


class Muon(torch.optim.AdamW):
    """AdamW, but groups with ``"orthogonal": True`` move by Muon. Their tensors are matrices or kernels [O, I, ...].

    Args:
        groups: as of AdamW; ``momentum`` of the orthogonal ones is given in the group.
        options: of AdamW.
    """

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        super().__init__(groups, **options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """One update. The gradients of orthogonal groups are used up: AdamW passes over what has none."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if not group.get("orthogonal"):
                continue
            for parameter in group["params"]:
                if parameter.grad is not None:
                    mean = self.state[parameter].get("momentum_buffer")
                    if mean is None:
                        mean = self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
                    mean.lerp_(parameter.grad, 1 - group["momentum"])
                    direction = orthogonal(parameter.grad.lerp(mean, group["momentum"]))
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(direction, alpha=-group["lr"])
                    parameter.grad = None
        super().step()
        return loss


def orthogonal(gradient: Tensor) -> Tensor:
    """The nearest matrix with all singular values near one (Newton-Schulz), times what makes it of AdamW's size.

    Args:
        gradient: [O, ...]; all but the first axis are one.
    """
    matrix_OI = gradient.flatten(1).to(torch.bfloat16 if gradient.is_cuda else torch.float32)
    size = _ADAMW_SIZE * max(matrix_OI.shape) ** 0.5
    tall = matrix_OI.shape[0] > matrix_OI.shape[1]
    x = matrix_OI.T if tall else matrix_OI
    x = x / x.norm().clamp(min=torch.finfo(torch.float32).tiny)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = a * x + torch.addmm(gram, gram, gram, beta=b, alpha=c) @ x
    return ((x.T if tall else x) * size).reshape(gradient.shape).to(gradient.dtype)

"""Where words meet the image: gated cross-attention, text states as queries, visual tokens as keys and values.

Padded visual tokens are masked, and whatever stands in them (NaN as well) is never seen. One learned token that is
always there lets a word look at nothing, and keeps a sample without any visual token finite. Keys and values depend on
the image alone: `VisualKeys` makes them once, and any number of words, steps and beams meet them. After Flamingo
(arXiv 2204.14198): the residual is scaled by the tanh of a learned gate.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vol3d.errors import ConfigError

FOCUS = 6.0
"""Added to the scores of marked tokens: among fifty others a marked one then has nine tenths of the weight."""


class VisualMemory(NamedTuple):
    """Keys and values of one layer for B images; H heads of width K, V visual tokens and the learned one before."""

    key_BHVK: Tensor
    value_BHVK: Tensor
    mask_BH1V: Tensor
    """True at tokens to look at; or, where some are marked, what is added to the scores (1 head if all are alike)."""


class VisualKeys(nn.Module):
    """Visual tokens of width D to the keys and values of one layer.

    Args:
        visual_width: D.
        inner: width of keys over all heads.
        heads: divides `inner`.
    """

    def __init__(self, visual_width: int, inner: int, heads: int) -> None:
        super().__init__()
        if inner % heads:
            raise ConfigError(f"visual attention: expected a width that {heads} heads divide, found {inner}")
        self.heads = heads
        self.norm = nn.LayerNorm(visual_width)
        self.project = nn.Linear(visual_width, 2 * inner, bias=False)
        self.null = nn.Parameter(torch.randn(2 * inner) * 0.02)

    def forward(self, visual_BVD: Tensor, visual_mask_BV: Tensor) -> VisualMemory:
        """V may be 0. The mask is True at what is there; or it counts: 0 padding, 1 what is there, 2 what the text is
        about, at which half of the heads look first."""
        seen_BV = visual_mask_BV > 0
        visual_BVD = visual_BVD.masked_fill(~seen_BV[..., None], 0)
        key_value = self.project(self.norm(visual_BVD.to(self.norm.weight.dtype)))
        null = self.null.to(key_value.dtype).expand(len(key_value), 1, -1)
        key_value = torch.cat([null, key_value], dim=1).unflatten(-1, (2, self.heads, -1))
        key_BHVK, value_BHVK = key_value.permute(2, 0, 3, 1, 4).contiguous()
        mask_BH1V = functional.pad(seen_BV, (1, 0), value=True)[:, None, None]
        if visual_mask_BV.dtype != torch.bool:
            first_H = torch.arange(self.heads, device=visual_BVD.device) < -(-self.heads // 2)
            focus_BHV = functional.pad(visual_mask_BV > 1, (1, 0))[:, None] & first_H[:, None]
            scores_BH1V = (FOCUS * focus_BHV.to(key_BHVK.dtype))[:, :, None]
            mask_BH1V = scores_BH1V.masked_fill(~mask_BH1V, float("-inf"))
        return VisualMemory(key_BHVK, value_BHVK, mask_BH1V)


class GatedVisualAttention(nn.Module):
    """Adds to every text state what it reads from the image, times ``tanh(gate)`` per channel.

    Args:
        width: of the text states.
        visual_width, inner, heads: see `VisualKeys`.
        gate: start; 0 leaves a pretrained language model exactly as it was.
    """

    def __init__(self, width: int, visual_width: int, inner: int, heads: int, gate: float) -> None:
        super().__init__()
        self.keys = VisualKeys(visual_width, inner, heads)
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)
        self.gate = nn.Parameter(torch.full((width,), gate))

    def forward(self, x_NTC: Tensor, memory: VisualMemory) -> Tensor:
        """Same shape and number type as `x_NTC`; N is B times the beams of an image, an image's beams side by side."""
        images, rows, length = len(memory.key_BHVK), *x_NTC.shape[:2]
        query = self.query(self.norm(x_NTC.to(self.norm.weight.dtype)))
        # no order among visual tokens: the beams of an image are simply more words, and its keys are never copied
        query_BHTK = query.view(images, rows // images * length, self.keys.heads, -1).transpose(1, 2)
        read = functional.scaled_dot_product_attention(
            query_BHTK, memory.key_BHVK, memory.value_BHVK, attn_mask=memory.mask_BH1V
        )
        read_NTC = self.out(read.transpose(1, 2).reshape(rows, length, -1))
        return x_NTC + (torch.tanh(self.gate) * read_NTC).to(x_NTC.dtype)

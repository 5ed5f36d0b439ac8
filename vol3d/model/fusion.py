"""Where voxels meet words: token-level cross-attention, voxels as queries, text tokens as keys and values.

Phrases are folded into the batch (``BP`` = B * P), so they never see each other. Padding tokens are masked. One learned
token that is always there is added to keys and values: a voxel that none of the words concerns can say so, and a
phrase without tokens (padding) stays finite.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from vol3d.errors import ConfigError


class CrossAttention(nn.Module):
    """Voxels of C channels attend to tokens of width E; returns `out_channels` per voxel.

    Ordinary multi-head attention, computed in the cheap order for thousands of voxels and a dozen tokens: the query
    projection is applied to the keys and the output projection to the values, so that a voxel meets only two small
    matrices. On two CPU cores this takes a quarter of the time of projecting every voxel.

    Args:
        channels: C.
        text_width: E.
        inner: width of queries, keys and values over all heads.
        heads: divides `inner`.
        out_channels: default C.
    """

    def __init__(self, channels: int, text_width: int, inner: int, heads: int, out_channels: int | None = None) -> None:
        super().__init__()
        if inner % heads:
            raise ConfigError(f"attention: expected a width that {heads} heads divide, found {inner}")
        self.heads, head_width, out_channels = heads, inner // heads, out_channels or channels
        self.key_value = nn.Linear(text_width, 2 * inner, bias=False)
        self.null_key_value = nn.Parameter(torch.randn(2 * inner) * 0.02)
        self.query = nn.Parameter(_uniform((heads, head_width, channels), channels))
        self.out = nn.Parameter(_uniform((heads, head_width, out_channels), inner))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, voxels_BNC: Tensor, tokens_BTE: Tensor, mask_BT: Tensor, gate_C: Tensor | None = None) -> Tensor:
        """[B, N, out_channels], times `gate_C`; `mask_BT` is True at real tokens."""
        key_value = self.key_value(tokens_BTE)
        null = self.null_key_value.to(key_value.dtype).expand(len(key_value), 1, -1)
        key_value = torch.cat([null, key_value], dim=1).unflatten(-1, (2, self.heads, -1))
        scale = self.query.shape[1] ** -0.5
        keys_BHTC = torch.einsum("bthd,hdc->bhtc", key_value[:, :, 0], self.query) * scale
        # the weights of each head sum to 1, so a share of the bias in every value adds up to the bias
        values_BHTC = torch.einsum("bthd,hdc->bhtc", key_value[:, :, 1], self.out) + self.bias / self.heads
        if gate_C is not None:
            values_BHTC = values_BHTC * gate_C
        scores_BHTN = torch.matmul(keys_BHTC.flatten(1, 2), voxels_BNC.transpose(1, 2)).unflatten(1, (self.heads, -1))
        padding_BT = ~functional.pad(mask_BT, (1, 0), value=True)
        scores_BHTN = scores_BHTN.masked_fill(padding_BT[:, None, :, None], float("-inf"))
        weights_BTN = torch.softmax(scores_BHTN, dim=2).flatten(1, 2)
        return torch.bmm(weights_BTN.transpose(1, 2), values_BHTC.flatten(1, 2))


class GatedFusion(nn.Module):
    """Residual fusion of `shared`: attention scales and shifts every voxel, per channel by a learned tanh gate.

    A gate that starts at 0.5 learns faster than one at 0.1: there is no pretrained model here to protect.
    """

    def __init__(self, channels: int, text_width: int, inner: int, heads: int, gate: float = 0.5) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.attention = CrossAttention(channels, text_width, inner, heads, 2 * channels)
        self.gate = nn.Parameter(torch.full((2 * channels,), gate))

    def forward(self, voxels_BNC: Tensor, tokens_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        """Same shape as `voxels_BNC`."""
        attended = self.attention(self.norm(voxels_BNC), tokens_BTE, mask_BT, torch.tanh(self.gate))
        scale, shift = attended.chunk(2, dim=-1)
        return torch.addcmul(shift, voxels_BNC, scale).add_(voxels_BNC)  # in place: fresh memory costs as much


class ContextualGate(nn.Module):
    """Fusion of `contextual`: ``vision * tanh(attention)``, one head, as ConTEXTual Net 3D (arXiv 2502.00528).

    Two departures: padding tokens are masked, and the learned token stands beside the words.
    """

    def __init__(self, channels: int, text_width: int) -> None:
        super().__init__()
        self.attention = CrossAttention(channels, text_width, channels, 1)

    def forward(self, voxels_BNC: Tensor, tokens_BTE: Tensor, mask_BT: Tensor) -> Tensor:
        """Same shape as `voxels_BNC`."""
        return voxels_BNC * torch.tanh(self.attention(voxels_BNC, tokens_BTE, mask_BT))


class TextAdapter(nn.Module):
    """Frozen token states (of all layers of the text model side by side) to the width of the fusion, and their mean:
    tokens_BTD and text_BD."""

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(text_width)
        self.project = nn.Linear(text_width, width)

    @torch.no_grad()
    def whiten(self, states_NE: Tensor) -> None:
        """Starts the projection as the principal components of these token states, each of unit variance.

        Frozen states spend most of their variance on what all phrases share; "left" and "right" differ in a few
        hundredths of it, which a randomly drawn projection would have to find first. Components with next to no
        variance (rounding, few states) keep their random weights. The result is rounded to bfloat16: the last bits of
        an eigenvector differ between processes, and runs of one seed must not.
        """
        x_NE = functional.layer_norm(states_NE.double(), states_NE.shape[1:])
        mean_E = x_NE.mean(0)
        variance, axes = torch.linalg.eigh(torch.cov((x_NE - mean_E).T, correction=0))
        count = min(self.project.out_features, int((variance > 1e-4 * variance[-1]).sum()))
        axes_KE = (axes / variance.clamp(min=1e-12).sqrt()).T.flip(0)[:count]
        largest_K1 = axes_KE.gather(1, axes_KE.abs().argmax(1, keepdim=True))
        axes_KE = (axes_KE * largest_K1.sign()).bfloat16().double()  # eigenvectors have no sign of their own
        self.project.weight[:count] = axes_KE.to(self.project.weight)
        self.project.bias[:count] = -(axes_KE @ mean_E).bfloat16().to(self.project.bias)

    def forward(self, tokens_BTE: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
        """The mean is over real tokens; zero for a phrase without any."""
        tokens_BTD = self.project(self.norm(tokens_BTE))
        weight_BT1 = mask_BT.unsqueeze(-1).to(tokens_BTD.dtype)
        text_BD = (tokens_BTD * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1)
        return tokens_BTD, text_BD


def to_voxels(x_BCZYX: Tensor) -> Tensor:
    """[B, N, C]; free of copies for channels-last tensors."""
    return x_BCZYX.permute(0, 2, 3, 4, 1).flatten(1, 3)


def to_volume(x_BNC: Tensor, like_BCZYX: Tensor) -> Tensor:
    """The way back, channels-last in memory."""
    return x_BNC.unflatten(1, like_BCZYX.shape[2:]).permute(0, 4, 1, 2, 3)


def _uniform(shape: tuple[int, ...], fan_in: int) -> Tensor:
    """The initial weights of `nn.Linear`."""
    return torch.empty(shape).uniform_(-(fan_in**-0.5), fan_in**-0.5)

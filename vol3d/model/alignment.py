"""One vector for an image, seen as a whole or for one organ, and one for a text, in the same space.

An organ's name asks the image (Q-former style queries, as fVLM's organ tokens): attention pools the coarse features by
it, so that "lungs" and "liver" of one patch give two vectors. A text's tokens are pooled by attention, too, from the
frozen states through a projection that starts as their whitening (decision 0008).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vol3d.model.fusion import TextAdapter, to_voxels

FIRST_SCALE = 10.0
"""SigLIP's first temperature, exp(t') (arXiv 2303.15343); its first bias of -10 is for batches of thousands, here it is
learned from 0."""


class Embeddings(NamedTuple):
    """What a contrast needs; vectors have length 1."""

    image_BOE: Tensor
    """Of the whole image first, then by organ."""
    text_NE: Tensor
    scale: Tensor
    """[2]: factors of the similarity for the pairwise and for the softmax loss."""
    bias: Tensor
    """Added in the pairwise loss."""


class AttentionPool(nn.Module):
    """Queries gather from a set, then an MLP: SigLIP's pooling head with any number of queries."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.key_value = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, query_BQE: Tensor, items_BNE: Tensor, mask_BN: Tensor | None = None) -> Tensor:
        """[B, Q, E]; `mask_BN` is True at real items, and a row without any gives zeros before the MLP."""
        key_value = self.key_value(self.norm(items_BNE)).unflatten(-1, (2, self.heads, -1))
        key, value = (x.transpose(1, 2) for x in key_value.unbind(2))
        query = self.query(query_BQE).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        allowed, some = None, None
        if mask_BN is not None:
            some = mask_BN.any(1)
            allowed = (mask_BN | ~some[:, None])[:, None, None]
        pooled = functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        x = self.out(pooled.transpose(1, 2).flatten(2))
        if some is not None:
            x = x * some[:, None, None]
        return x + self.mlp(x)


class Alignment(nn.Module):
    """The head of both sides.

    Args:
        channels: of each feature map that is pooled.
        text_width: of the token states.
        width: of the vectors, E.
    """

    def __init__(self, channels: Sequence[int], text_width: int, width: int) -> None:
        super().__init__()
        heads = next(n for n in (4, 2, 1) if width % n == 0)
        self.text = TextAdapter(text_width, width)
        self.levels = nn.ModuleList([nn.Sequential(nn.LayerNorm(c), nn.Linear(c, width)) for c in channels])
        self.whole, self.said = (nn.Parameter(torch.randn(width) * width**-0.5) for _ in range(2))
        self.image_pool, self.text_pool = AttentionPool(width, heads), AttentionPool(width, heads)
        self.image_out, self.text_out = nn.Linear(width, width), nn.Linear(width, width)
        self.log_scale = nn.Parameter(torch.full((2,), FIRST_SCALE).log())
        self.bias = nn.Parameter(torch.zeros(1))

    def embed_image(
        self, features: Sequence[Tensor], organ_tokens_OTE: Tensor | None = None, organ_mask_OT: Tensor | None = None
    ) -> Tensor:
        """[B, 1 + O, E] of unit length: the whole, then each organ asked for by its name's tokens."""
        query_QE = self.whole[None]
        if organ_tokens_OTE is not None and organ_mask_OT is not None:
            query_QE = torch.cat([query_QE, self.text(organ_tokens_OTE, organ_mask_OT)[1]])
        items = [level(to_voxels(x)) for level, x in zip(self.levels, features, strict=True)]
        pooled = self.image_pool(query_QE.expand(len(items[0]), -1, -1), torch.cat(items, dim=1))
        return functional.normalize(self.image_out(pooled).float(), dim=-1)

    def embed_text(self, tokens_NTE: Tensor, mask_NT: Tensor) -> Tensor:
        """[N, E] of unit length; what has no tokens has some fixed vector."""
        tokens_NTE, _ = self.text(tokens_NTE, mask_NT)
        pooled = self.text_pool(self.said.expand(len(tokens_NTE), 1, -1), tokens_NTE, mask_NT)[:, 0]
        return functional.normalize(self.text_out(pooled).float(), dim=-1)

    def forward(
        self,
        features: Sequence[Tensor],
        organ_tokens_OTE: Tensor,
        organ_mask_OT: Tensor,
        tokens_NTE: Tensor,
        mask_NT: Tensor,
    ) -> Embeddings:
        """Both sides, and what turns similarities into logits (all inside one call, as ZeRO 3 wants it)."""
        return Embeddings(
            self.embed_image(features, organ_tokens_OTE, organ_mask_OT),
            self.embed_text(tokens_NTE, mask_NT),
            self.log_scale.clamp(max=4.6052).exp(),  # at most 100, as CLIP
            self.bias * 1,
        )

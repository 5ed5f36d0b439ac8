"""One vector for an image, seen as a whole or for one organ, and one for a text, in the same space.

An organ's name asks the image (Q-former style queries, as fVLM's organ tokens): attention pools the coarse features by
it, so that "lungs" and "liver" of one patch give two vectors. A text's tokens are pooled by attention, too, from the
frozen states through a projection that starts as their whitening (decision 0008).

Where the model proposes findings, half of the heads look there first. Findings are a thousandth of the voxels: without
this every image gets the same vector, which the words' own frequencies then answer.
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
    """Queries gather from a set, then an MLP: SigLIP's pooling head with any number of queries.

    Args:
        width: of queries and items.
        heads: of the attention, even with `prior`.
        prior: items come with a probability, by which half of the heads weight them, against one learned item that is
            always there: where nothing is likely, these heads say so.
    """

    def __init__(self, width: int, heads: int, *, prior: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.nothing = nn.Parameter(torch.zeros(2 * width)) if prior else None
        self.norm, self.key_value = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.query, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(
        self, query_BQE: Tensor, items_BNE: Tensor, mask_BN: Tensor | None = None, prior_BN: Tensor | None = None
    ) -> Tensor:
        """[B, Q, E]; `mask_BN` is True at real items, and a row without any gives zeros before the MLP."""
        key_value = self.key_value(self.norm(items_BNE))
        if self.nothing is not None:
            key_value = torch.cat([self.nothing.to(key_value.dtype).expand(len(key_value), 1, -1), key_value], dim=1)
        key_value = key_value.unflatten(-1, (2, self.heads, -1))
        key, value = (x.transpose(1, 2) for x in key_value.unbind(2))
        query = self.query(query_BQE).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        allowed, some = None, None
        if prior_BN is not None:
            allowed = _log_prior(prior_BN, self.heads).to(query.dtype)
        if mask_BN is not None:
            some = mask_BN.any(1)
            allowed = (mask_BN | ~some[:, None])[:, None, None]
        pooled = functional.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        x = self.out(pooled.transpose(1, 2).flatten(2))
        if some is not None:
            x = x * some[:, None, None]
        return x + self.mlp(x)


def _log_prior(prior_BN: Tensor, heads: int) -> Tensor:
    """Added to attention logits, [B, heads, 1, 1 + N]: the log of each item's probability in the second half of the
    heads, and next to none of the item that says "nothing" in the first."""
    log_BN = prior_BN.float().clamp(min=1e-6).log()
    plain = functional.pad(torch.zeros_like(log_BN), (1, 0), value=-30.0)
    return torch.stack([plain, functional.pad(log_BN, (1, 0))], dim=1).repeat_interleave(heads // 2, dim=1)[:, :, None]


class Alignment(nn.Module):
    """The head of both sides.

    Args:
        channels: of each feature map that is pooled.
        text_width: of the token states.
        width: of the vectors, E; even with `proposals`.
        proposals: half of the image's heads look at proposed findings.
    """

    def __init__(self, channels: Sequence[int], text_width: int, width: int, *, proposals: bool = False) -> None:
        super().__init__()
        heads = next(n for n in (4, 2, 1) if width % n == 0)
        self.text = TextAdapter(text_width, width)
        self.levels = nn.ModuleList([nn.Sequential(nn.LayerNorm(c), nn.Linear(c, width)) for c in channels])
        self.whole, self.said = (nn.Parameter(torch.randn(width) * width**-0.5) for _ in range(2))
        self.image_pool = AttentionPool(width, heads, prior=proposals)
        self.text_pool = AttentionPool(width, heads)
        self.image_out, self.text_out = nn.Linear(width, width), nn.Linear(width, width)
        self.log_scale = nn.Parameter(torch.full((2,), FIRST_SCALE).log())
        self.bias = nn.Parameter(torch.zeros(1))

    def embed_image(
        self,
        features: Sequence[Tensor],
        organ_tokens_OTE: Tensor | None = None,
        organ_mask_OT: Tensor | None = None,
        proposals: Sequence[Tensor] = (),
    ) -> Tensor:
        """[B, 1 + O, E] of unit length: the whole, then each organ asked for by its name's tokens.

        `proposals`: their logits at the places of `features`, [B, 1, Z, Y, X] each, if the head was made for them.
        """
        query_QE = self.whole[None]
        if organ_tokens_OTE is not None and organ_mask_OT is not None:
            query_QE = torch.cat([query_QE, self.text(organ_tokens_OTE, organ_mask_OT)[1]])
        items = [level(to_voxels(x)) for level, x in zip(self.levels, features, strict=True)]
        prior_BN = torch.cat([torch.sigmoid(p.detach()).flatten(1) for p in proposals], dim=1) if proposals else None
        query_BQE = query_QE.expand(len(items[0]), -1, -1)
        pooled = self.image_pool(query_BQE, torch.cat(items, dim=1), prior_BN=prior_BN)
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
        proposals: Sequence[Tensor] = (),
    ) -> Embeddings:
        """Both sides, and what turns similarities into logits (all inside one call, as ZeRO 3 wants it)."""
        return Embeddings(
            self.embed_image(features, organ_tokens_OTE, organ_mask_OT, proposals),
            self.embed_text(tokens_NTE, mask_NT),
            self.log_scale.clamp(max=4.6052).exp(),  # at most 100, as CLIP
            self.bias * 1,
        )

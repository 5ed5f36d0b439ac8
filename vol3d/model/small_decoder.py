"""A small causal decoder to train from scratch: pre-norm transformer, rotary positions, tied embeddings, visual gates.

Positions count the tokens that the mask shows, so padding on either side changes no answer. Rotary positions
(arXiv 2104.09864) rather than learned ones: a report may be longer than most of the corpus, and a position that was
rarely trained should still tell near from far.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vol3d.model.visual_attention import GatedVisualAttention, VisualMemory

GATE = 1.0
"""Start of the visual gates; there is no pretrained model to protect."""


class KeyValueCache:
    """Keys and values of the words so far, N rows, room for `length` words, in every layer."""

    def __init__(self, layers: int, length: int, *, padded: bool) -> None:
        self.length, self.padded, self.used = length, padded, 0
        self._layers: list[Tensor | None] = [None] * layers

    def extend(self, layer: int, key_NHTK: Tensor, value_NHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the new words' and returns all."""
        store = self._layers[layer]
        rows, heads, new, width = key_NHTK.shape
        if store is None:
            store = self._layers[layer] = key_NHTK.new_empty(2, rows, heads, self.length, width)
        end = self.used + new
        store[0, :, :, self.used : end] = key_NHTK
        store[1, :, :, self.used : end] = value_NHTK
        if layer == len(self._layers) - 1:
            self.used = end
        return store[0, :, :, :end], store[1, :, :, :end]

    def select(self, rows_N: Tensor) -> None:
        """Row n becomes what row ``rows_N[n]`` was."""
        for number, store in enumerate(self._layers):
            assert store is not None
            chosen = store[:, :, :, : self.used].index_select(1, rows_N)
            if len(rows_N) != store.shape[1]:
                store = self._layers[number] = store.new_empty(2, len(rows_N), *store.shape[2:])
            store[:, :, :, : self.used] = chosen


class TiedEmbedding(nn.Module):
    """Token ids to states and, by the same weights, states to logits. One `forward`, since ZeRO 3 gathers by it."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(vocabulary, width) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Integers are ids, other numbers states."""
        return functional.linear(x, self.weight) if x.is_floating_point() else functional.embedding(x, self.weight)


class Block(nn.Module):
    """Words attend to words before them, then to the image, then each by itself."""

    def __init__(self, width: int, heads: int, dropout: float, visual: GatedVisualAttention | None) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.visual = visual
        self.norm_mlp = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(
        self,
        x_NTC: Tensor,
        turn: Tensor,
        mask: Tensor | None,
        memory: VisualMemory | None,
        cache: KeyValueCache | None,
        layer: int,
    ) -> Tensor:
        """`turn` is the rotation of every position, `mask` True where to look; None where nothing is hidden."""
        x_NTC = x_NTC + self._drop(self._attend(self.norm(x_NTC), turn, mask, cache, layer))
        if self.visual is not None and memory is not None:
            x_NTC = self.visual(x_NTC, memory)
        return x_NTC + self._drop(self.down(functional.gelu(self.up(self.norm_mlp(x_NTC)), approximate="tanh")))

    def _attend(
        self,
        x_NTC: Tensor,
        turn: Tensor,
        mask: Tensor | None,
        cache: KeyValueCache | None,
        layer: int,
    ) -> Tensor:
        joint = self.query_key_value(x_NTC).unflatten(-1, (3 * self.heads, -1)).transpose(1, 2)
        query_key, value = joint.split((2 * self.heads, self.heads), dim=1)
        query, key = _rotate(query_key, turn).chunk(2, dim=1)
        if cache is not None:
            key, value = cache.extend(layer, key, value)
        dropout = self.dropout if self.training else 0.0
        read = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return self.out(read.transpose(1, 2).flatten(2))

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training) if self.dropout else x


class SmallDecoder(nn.Module):
    """Logits of the next token.

    Args:
        vocabulary: number of tokens.
        width, layers, heads, dropout: of the transformer.
        max_tokens: longest sequence.
        visual_width, visual_inner, visual_heads: see `VisualKeys`.
        visual_every: the first block, and every n-th after it, looks at the image.
        checkpointing: recompute blocks in the backward pass.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int,
        layers: int,
        heads: int,
        dropout: float,
        max_tokens: int,
        visual_width: int,
        visual_inner: int,
        visual_heads: int,
        visual_every: int,
        checkpointing: bool,
    ) -> None:
        super().__init__()
        self.checkpointing, self.dropout = checkpointing, dropout
        self.embedding = TiedEmbedding(vocabulary, width)

        def gate(layer: int) -> GatedVisualAttention | None:
            if layer % visual_every:
                return None
            return GatedVisualAttention(width, visual_width, visual_inner, visual_heads, GATE)

        self.blocks = nn.ModuleList([Block(width, heads, dropout, gate(n)) for n in range(layers)])
        self.norm = nn.LayerNorm(width)
        angle_TK = torch.arange(max_tokens)[:, None] * 10000.0 ** -torch.arange(0, 1, 2 / (width // heads))
        self.cos_TK: Tensor
        self.sin_TK: Tensor
        self.register_buffer("cos_TK", angle_TK.cos(), persistent=False)
        self.register_buffer("sin_TK", angle_TK.sin(), persistent=False)
        self._start_small(layers)

    @property
    def visual(self) -> list[GatedVisualAttention]:
        """The layers that look at the image, in order."""
        return [m for m in self.modules() if isinstance(m, GatedVisualAttention)]

    def new_cache(self, length: int, *, padded: bool) -> KeyValueCache:
        """Room for `length` words; `padded`: some mask will hide one of them."""
        return KeyValueCache(len(self.blocks), length, padded=padded)

    def forward(
        self,
        ids_NT: Tensor,
        mask_NS: Tensor,
        memories: Sequence[VisualMemory],
        cache: KeyValueCache | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Logits [N, T, vocabulary], or at the positions `keep` alone; `mask_NS` covers the cached words as well."""
        length = ids_NT.shape[1]
        position_NT = (mask_NS.long().cumsum(1) - 1).clamp(min=0)[:, -length:]
        turn = torch.complex(self.cos_TK[position_NT], self.sin_TK[position_NT])[:, None]
        plain_step = cache is not None and length == 1 and not cache.padded
        mask = None if plain_step else causal_mask(mask_NS, length)
        x_NTC = functional.dropout(self.embedding(ids_NT), self.dropout, self.training)
        rest = iter(memories)
        for number, block in enumerate(self.blocks):
            memory = next(rest) if block.visual is not None else None
            if self.checkpointing and self.training:
                x_NTC = checkpoint(block, x_NTC, turn, mask, memory, None, number, use_reentrant=False)
            else:
                x_NTC = block(x_NTC, turn, mask, memory, cache, number)
        return self.embedding(self.norm(x_NTC if keep is None else x_NTC[:, keep]))

    @torch.no_grad()
    def _start_small(self, layers: int) -> None:
        # GPT-2's start; a residual branch starts smaller the more of them are summed
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                parameter.normal_(0, 0.02 * (2 * layers) ** -0.5 if residual and ".visual." not in name else 0.02)
            elif name.endswith("bias"):
                parameter.zero_()


def causal_mask(mask_NS: Tensor, length: int) -> Tensor:
    """[N, 1, length, S], True where one of the last `length` words may look: at words before it, and at itself always,
    so that a padding position stays finite."""
    words = mask_NS.shape[1]
    own = torch.ones(length, words, dtype=torch.bool, device=mask_NS.device).tril(words - length)
    return (own & (mask_NS[:, None] | own.triu(words - length)))[:, None]


def _rotate(x_NHTK: Tensor, turn: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x_NHTK.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2).to(x_NHTK.dtype)

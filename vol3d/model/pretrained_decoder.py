"""What is put around a pretrained causal language model: visual layers and rows for new tokens, its code untouched.

`vol3d.model.language` loads the model; here nothing depends on its architecture but that it has a list of blocks, an
embedding, and a last linear layer, as every causal language model of transformers tells.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vol3d.errors import ConfigError
from vol3d.model.language_config import LanguageConfig
from vol3d.model.visual_attention import GatedVisualAttention, VisualMemory


class NewTokens(nn.Module):
    """Trainable rows for tokens that the pretrained model does not have; one `forward`, since ZeRO 3 gathers by it."""

    def __init__(self, count: int, embedding: nn.Embedding, head: nn.Module) -> None:
        super().__init__()
        weight: Any = head.weight
        # near the mean token, so that at the start none of them is likelier than a usual word
        known = torch.linspace(0, embedding.num_embeddings - 1, min(embedding.num_embeddings, 1024)).long()
        self.rows = nn.Parameter(_about(embedding(known.to(embedding.weight.device)), count))
        tied = weight is embedding.weight and type(embedding) is nn.Embedding
        self.out = None if tied else nn.Parameter(_about(weight[known.to(weight.device)], count))

    def forward(self, x: Tensor) -> Tensor:
        """Numbers of new tokens to their states; states to the logits of new tokens, in the type of the states."""
        if not x.is_floating_point():
            return functional.embedding(x, self.rows)
        rows = self.rows if self.out is None else self.out
        return functional.linear(x.to(rows.dtype), rows).to(x.dtype)


class VisualBlock(nn.Module):
    """A block of the pretrained model that looks at the image first; to its model it looks like the block itself."""

    def __init__(self, layer: nn.Module, visual: GatedVisualAttention, context: "_Context", number: int) -> None:
        super().__init__()
        self.layer, self.visual = layer, visual
        self.context, self.number = context, number

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        """As of the block itself."""
        memory = self.context.memories[self.number]
        if self.context.checkpointing and self.training:
            hidden_states = checkpoint(self.visual, hidden_states, memory, use_reentrant=False)
        else:
            hidden_states = self.visual(hidden_states, memory)
        return self.layer(hidden_states, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:  # models ask their blocks for more than forward, such as attention_type
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


class _Context:
    """What the blocks of one model see during one forward pass."""

    def __init__(self, checkpointing: bool) -> None:
        self.checkpointing = checkpointing
        self.memories: Sequence[VisualMemory] = ()


class PretrainedCache:
    """The keys and values that a pretrained model keeps by itself."""

    past: Any = None

    def select(self, rows_N: Tensor) -> None:
        """Row n becomes what row ``rows_N[n]`` was."""
        self.past.reorder_cache(rows_N)


class PretrainedDecoder(nn.Module):
    """A frozen causal LM with visual layers and new tokens; same interface as `SmallDecoder`.

    Args:
        config: resolved, of kind huggingface.
        base: the model as transformers loads it, frozen, its adapters in place.

    Raises:
        ConfigError: its embedding is smaller than its tokenizer, or its blocks cannot be found.
    """

    def __init__(self, config: LanguageConfig, base: Any) -> None:
        super().__init__()
        assert config.base is not None
        self.base = base
        self.own_tokens = config.base.own_tokens
        embedding = self.base.get_input_embeddings()
        if embedding.num_embeddings < self.own_tokens:
            raise ConfigError(
                f"language base: expected a row for each of {self.own_tokens} tokens, found "
                f"{embedding.num_embeddings}; the tokenizer belongs to another model"
            )
        new = config.tokens - self.own_tokens
        self.new_tokens = NewTokens(new, embedding, self.base.get_output_embeddings()) if new else None
        self._context = _Context(config.activation_checkpointing)
        text = self.base.config.get_text_config()
        layers = find_blocks(self.base, text.num_hidden_layers)
        for number, place in enumerate(range(0, len(layers), config.visual_every)):
            visual = GatedVisualAttention(
                text.hidden_size, config.visual_width, config.visual_inner, config.visual_heads, gate=0.0
            )
            layers[place] = VisualBlock(layers[place], visual, self._context, number)
        self.base.get_output_embeddings().register_forward_hook(self._add_new_logits)
        if config.activation_checkpointing:
            self.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self._accepts = set(inspect.signature(type(self.base).forward).parameters)

    def _add_new_logits(self, _head: nn.Module, inputs: tuple[Tensor, ...], logits: Tensor) -> Tensor:
        logits = logits[..., : self.own_tokens]  # some models have rows that no token uses
        return logits if self.new_tokens is None else torch.cat([logits, self.new_tokens(inputs[0])], dim=-1)

    @property
    def visual(self) -> list[GatedVisualAttention]:
        """The layers that look at the image, in order."""
        return [module.visual for module in self.base.modules() if isinstance(module, VisualBlock)]

    def new_cache(self, length: int, *, padded: bool) -> PretrainedCache:
        """The model grows it by itself."""
        return PretrainedCache()

    def forward(
        self,
        ids_NT: Tensor,
        mask_NS: Tensor,
        memories: Sequence[VisualMemory],
        cache: PretrainedCache | None = None,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Logits [N, T, tokens], or at the positions `keep` alone; `mask_NS` covers the cached words as well."""
        options: dict[str, Any] = {"use_cache": cache is not None, "past_key_values": cache.past if cache else None}
        if "position_ids" in self._accepts:
            options["position_ids"] = (mask_NS.long().cumsum(1) - 1).clamp(min=0)[:, -ids_NT.shape[1] :]
        if keep is not None and "logits_to_keep" in self._accepts:
            options["logits_to_keep"] = keep
        self._context.memories = memories
        try:
            output = self.base(inputs_embeds=self._embed(ids_NT), attention_mask=mask_NS.long(), **options)
        finally:
            self._context.memories = ()
        if cache is not None:
            cache.past = output.past_key_values
        logits: Tensor = output.logits
        return logits if keep is None or "logits_to_keep" in options else logits[:, keep]

    def _embed(self, ids_NT: Tensor) -> Tensor:
        own_NT = ids_NT < self.own_tokens
        states_NTC = self.base.get_input_embeddings()(torch.where(own_NT, ids_NT, 0))
        if self.new_tokens is None:
            return states_NTC
        new_NTC = self.new_tokens((ids_NT - self.own_tokens).clamp(min=0)).to(states_NTC.dtype)
        return torch.where(own_NT[..., None], states_NTC, new_NTC)


def find_blocks(model: nn.Module, count: int) -> nn.ModuleList:
    """The list of `count` blocks: the one with most parameters, since a block may hold such a list itself."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise ConfigError(
            f"language base: expected a list of {count} blocks in {type(model).__name__}, found none; this "
            "architecture cannot be given visual layers"
        )
    return max(lists, key=lambda blocks: sum(p.numel() for p in blocks.parameters()))


def _about(states_NC: Tensor, count: int) -> Tensor:
    states_NC = states_NC.detach().float()
    noise = torch.randn(count, states_NC.shape[1], device=states_NC.device)
    return states_NC.mean(0) + 0.1 * states_NC.std(0, correction=0) * noise

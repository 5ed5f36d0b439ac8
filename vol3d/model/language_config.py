"""Which decoder writes the text, and how it meets the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vol3d.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class BaseConfig:
    """A pretrained causal language model, frozen, with LoRA adapters (arXiv 2106.09685)."""

    name: str
    """A model folder, or a Hugging Face name whose files are already in the local cache."""
    revision: str = ""
    """First 16 hex digits of the SHA-256 over weights, tokenizer and config; "" takes what is there. A resolved
    configuration names it, and then other weights are refused."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number type of the frozen weights; what trains is float32."""
    lora_rank: int = 16
    """Rank of the adapters; 0: none, and only the visual layers and the new tokens learn."""
    lora_alpha: float = 32.0
    """The adapters' output is scaled by alpha / rank."""
    lora_dropout: float = 0.0
    """Before the adapters."""
    lora_targets: tuple[str, ...] = ()
    """Names of the linear layers that get adapters, such as q_proj; empty: every linear layer but the last."""
    bos: str = ""
    """Start token; "" takes the tokenizer's own, or its stop token."""
    eos: str = ""
    """Stop token; "" takes the tokenizer's own."""
    own_tokens: int = 0
    """Tokens before slots and extra tokens were added; resolved."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("base name: expected a model name or folder, found an empty string")
        if self.lora_rank < 0 or self.lora_alpha <= 0 or not 0 <= self.lora_dropout < 1:
            raise ConfigError(
                f"base: expected lora_rank >= 0, lora_alpha > 0 and lora_dropout in 0..1, found {self.lora_rank}, "
                f"{self.lora_alpha} and {self.lora_dropout}"
            )


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """A causal decoder with gated cross-attention to visual tokens. What is left at 0 or "" is filled by
    `resolve_language`."""

    kind: Literal["small", "huggingface"] = "small"
    """`small`: trained from scratch with a tokenizer of the corpus. `huggingface`: `base`, frozen, with LoRA."""
    base: BaseConfig | None = None
    """Of `huggingface`."""
    max_tokens: int = 256
    """Prompt and answer together. A longer text is refused, never cut."""
    vocabulary: int = 4096
    """Of `small`: most tokens its tokenizer may have."""
    width: int = 192
    """Of `small`."""
    layers: int = 4
    """Of `small`."""
    heads: int = 4
    """Of `small`."""
    dropout: float = 0.1
    """Of `small`."""
    extra_tokens: tuple[str, ...] = ()
    """Further tokens kept whole, such as marks that open a section."""
    visual_width: int = 0
    """Width of the visual tokens; resolved."""
    visual_inner: int = 0
    """Width of visual keys over all heads; 0: `width` of `small`, at most 512 for `huggingface`."""
    visual_heads: int = 4
    """Heads of the visual attention."""
    visual_every: int = 0
    """The first block, and every n-th after it, looks at the image; 0: each of `small`, eight of a deep pretrained
    model."""
    activation_checkpointing: bool = False
    """Recompute blocks in the backward pass: less memory, about a third more time."""
    tokens: int = 0
    """Tokens of the tokenizer; resolved."""
    tokenizer_digest: str = ""
    """Of tokens and their ids; resolved."""

    def __post_init__(self) -> None:
        if (self.kind == "huggingface") != (self.base is not None):
            raise ConfigError(
                f"language: expected a section base for kind huggingface and none for small, found kind {self.kind} "
                f"{'with' if self.base else 'without'} base"
            )
        least = ("max_tokens", "width", "layers", "heads", "visual_heads")
        if small := [name for name in least if getattr(self, name) < 1]:
            raise ConfigError(f"language {small[0]}: expected at least 1, found {getattr(self, small[0])}")
        if self.width % (2 * self.heads):
            raise ConfigError(
                f"language: expected a width that twice the heads divide (positions turn pairs of channels), found "
                f"{self.width} and {self.heads} heads"
            )
        if not 0 <= self.dropout < 1 or self.visual_every < 0 or self.visual_inner % self.visual_heads:
            raise ConfigError(
                "language: expected dropout in 0..1, visual_every >= 0 and a visual_inner that visual_heads divide, "
                f"found {self.dropout}, {self.visual_every}, {self.visual_inner} and {self.visual_heads}"
            )

    @property
    def resolved(self) -> bool:
        """Whether a model can be built."""
        return min(self.visual_width, self.visual_inner, self.visual_every, self.tokens) > 0

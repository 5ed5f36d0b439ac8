"""The vision-language model: one image encoder, frozen text from the bank, one of two fusion designs."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from vol3d.errors import ConfigError
from vol3d.model.alignment import Alignment, Embeddings
from vol3d.model.decoder import ImageDecoder
from vol3d.model.encoder import EncoderConfig, ImageEncoder, plan_encoder
from vol3d.model.files import load_weights, read_config, save_module
from vol3d.model.fusion import TextAdapter
from vol3d.model.grounding import ContextualGrounding, Output, SharedGrounding
from vol3d.model.text import TextConfig, resolve_text
from vol3d.types import Zyx, ZyxMm

__all__ = ["ModelConfig", "Output", "VisionLanguageModel", "resolve_model"]

WEIGHTS, CONFIG = "model.safetensors", "model.json"


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The whole network. What is left at 0, "" or null in a file is derived by `resolve_model`."""

    fusion: Literal["shared", "contextual"] = "shared"
    """`shared`: one decode per image, cheap per phrase. `contextual`: one decode per phrase (ConTEXTual Net 3D)."""
    width: int = 48
    """Channels of text and phrase features in the fusion."""
    heads: int = 2
    """Attention heads of `shared`, each adding to the cost of a phrase; `contextual` has one, as published."""
    fusion_levels: tuple[int, int] | None = None
    """Encoder stages (0 is full resolution) at which `shared` lets voxels attend to tokens, coarser first; null: (3, 2)
    or, with fewer stages, the two coarsest."""
    text_ablation: bool = False
    """Control: the model never sees the words, so every phrase gets the same answer."""
    activation_checkpointing: bool = False
    """Recompute encoder and decoder stages in the backward pass: less memory, about a third more time."""
    in_channels: int = 0
    """Image channels; 0: the count of the channel configuration."""
    proposals: bool = False
    """`shared` alone: also learn where any finding is, as one more channel for the phrases; with `task.proposal_weight`
    and `data.findings_apart`."""
    alignment_width: int = 0
    """Width of the vectors by which images and texts are compared; 0: no such head."""
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    """The U-Net."""
    text: TextConfig = field(default_factory=TextConfig)
    """The frozen text encoder."""

    def __post_init__(self) -> None:
        if self.width < 1 or self.heads < 1 or self.width % self.heads:
            raise ConfigError(f"model: expected a width that heads divide, found {self.width} and {self.heads}")
        if self.alignment_width < 0:
            raise ConfigError(f"model: expected alignment_width of at least 0, found {self.alignment_width}")
        if self.proposals and self.alignment_width % 2:
            raise ConfigError(f"model: expected an even alignment_width with proposals, found {self.alignment_width}")
        if self.proposals and self.fusion != "shared":
            raise ConfigError(f"model: expected proposals with the fusion shared alone, found them with {self.fusion}")
        if len(self.encoder.features) < 3:
            raise ConfigError(f"model: expected at least 3 encoder stages, found {len(self.encoder.features)}")
        coarse, fine = self.levels
        if not len(self.encoder.features) > coarse == fine + 1 > 1:
            raise ConfigError(
                f"fusion_levels: expected two neighbouring stages, coarser first, the finer at least 1, of "
                f"{len(self.encoder.features)} stages; found {(coarse, fine)}"
            )

    @property
    def levels(self) -> tuple[int, int]:
        """`fusion_levels`, or its default."""
        coarse = min(3, len(self.encoder.features) - 1)
        return self.fusion_levels or (coarse, coarse - 1)


def resolve_model(config: ModelConfig, *, in_channels: int, patch_size: Zyx, spacing_mm: ZyxMm) -> ModelConfig:
    """`config` with channels, encoder plan, text revision and width filled in: what a checkpoint stores.

    Raises:
        ConfigError: a value in the file contradicts the data.
        ModelUnavailableError: the text model is not on this machine.
    """
    if config.in_channels not in (0, in_channels):
        raise ConfigError(f"in_channels: expected {in_channels} as data.channels gives, found {config.in_channels}")
    return replace(
        config,
        in_channels=in_channels,
        encoder=plan_encoder(config.encoder, patch_size, spacing_mm),
        text=resolve_text(config.text),
    )


class VisionLanguageModel(nn.Module):
    """Logits and presence of P phrases in B images.

    Raises:
        ConfigError: `config` is not resolved (channels, strides or text width are missing).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.in_channels < 1 or config.text.width < 1 or config.encoder.strides is None:
            raise ConfigError("the model configuration is not resolved: call resolve_model first")
        self.config = config
        checkpointing = config.activation_checkpointing
        self.encoder = ImageEncoder(config.encoder, config.in_channels, checkpointing=checkpointing)
        self.decoder: ImageDecoder | None = None
        self.grounding: SharedGrounding | ContextualGrounding
        if config.fusion == "shared":
            self.decoder = ImageDecoder(config.encoder, checkpointing=checkpointing)
            self.grounding = SharedGrounding(
                config.encoder,
                config.in_channels,
                TextAdapter(config.text.width, config.width),
                config.width,
                config.heads,
                config.levels,
                proposals=config.proposals,
            )
        else:
            self.grounding = ContextualGrounding(
                config.encoder, TextAdapter(config.text.width, config.width), config.width, checkpointing=checkpointing
            )
        self.alignment: Alignment | None = None
        if config.alignment_width:  # last, so that all else starts as it does without
            shared = config.fusion == "shared"
            channels = (config.width,) * 2 if shared else config.encoder.features[-1:-3:-1]
            self.alignment = Alignment(channels, config.text.width, config.alignment_width, proposals=config.proposals)

    def encode_image(self, image_BCZYX: Tensor) -> list[Tensor]:
        """All work that no phrase changes; do it once and `ground` any number of phrases.

        Raises:
            ConfigError: the size is not a multiple of the total stride.
        """
        skips = self.encoder(image_BCZYX)
        if self.decoder is None:
            return skips
        assert isinstance(self.grounding, SharedGrounding)
        return self.grounding.prepare(self.decoder(skips), image_BCZYX)

    def ground(self, features: list[Tensor], tokens_BPTE: Tensor, token_mask_BPT: Tensor) -> Output:
        """Answers to every phrase, each independent of the others."""
        return self.grounding(features, *self._seen(tokens_BPTE, token_mask_BPT))

    def forward(self, image_BCZYX: Tensor, tokens_BPTE: Tensor, token_mask_BPT: Tensor) -> Output:
        """Shapes in the names; `token_mask_BPT` is True at real tokens."""
        return self.ground(self.encode_image(image_BCZYX), tokens_BPTE, token_mask_BPT)

    def embed_image(
        self, features: list[Tensor], organ_tokens_OTE: Tensor | None = None, organ_mask_OT: Tensor | None = None
    ) -> Tensor:
        """Vectors [B, 1 + O, E] of unit length of what `encode_image` gave: of the whole, then of each organ named.

        Raises:
            ConfigError: the model has no alignment head.
        """
        where = self._proposed(features)
        return self._head().embed_image(self._coarse(features), organ_tokens_OTE, organ_mask_OT, where)

    def embed_text(self, tokens_NTE: Tensor, mask_NT: Tensor) -> Tensor:
        """Vectors [N, E] of unit length of texts' token states.

        Raises:
            ConfigError: the model has no alignment head.
        """
        return self._head().embed_text(*self._seen(tokens_NTE, mask_NT))

    def contrast(
        self,
        features: list[Tensor],
        organ_tokens_OTE: Tensor,
        organ_mask_OT: Tensor,
        tokens_NTE: Tensor,
        mask_NT: Tensor,
    ) -> Embeddings:
        """Both sides for training.

        Raises:
            ConfigError: the model has no alignment head.
        """
        tokens = self._seen(tokens_NTE, mask_NT)
        where = self._proposed(features)
        return self._head()(self._coarse(features), organ_tokens_OTE, organ_mask_OT, *tokens, where)

    def _head(self) -> Alignment:
        if self.alignment is None:
            raise ConfigError(
                "expected a model with an alignment head, found alignment_width 0; train with model.alignment_width, "
                "data.contrast_texts and task.alignment"
            )
        return self.alignment

    def _coarse(self, features: list[Tensor]) -> list[Tensor]:
        """The two maps that the alignment pools, the coarser first."""
        return features[:2] if self.decoder is not None else features[-1:-3:-1]

    def _proposed(self, features: list[Tensor]) -> list[Tensor]:
        """Proposals at the places of `_coarse`."""
        if not self.config.proposals:
            return []
        assert isinstance(self.grounding, SharedGrounding)
        logits = self.grounding.proposed(features)
        return [logits[level] for level in self.grounding.levels]

    def _seen(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """What the model sees of texts: in the control without words, nothing."""
        if not self.config.text_ablation:
            return tokens, mask
        return torch.zeros_like(tokens[..., :1, :]), torch.ones_like(mask[..., :1])

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes model.safetensors and model.json (the resolved configuration), each by atomic rename."""
        save_module(self, self.config, folder, WEIGHTS, CONFIG)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "VisionLanguageModel":
        """The saved model, in evaluation mode on the CPU.

        Raises:
            CheckpointError: a file, a tensor or a configuration key is missing, unknown or of the wrong shape.
        """
        config = read_config(ModelConfig, folder, WEIGHTS, CONFIG)
        model = cls(config)
        load_weights(model, Path(folder) / WEIGHTS)
        return model.eval()

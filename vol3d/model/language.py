"""A causal decoder that writes text from visual tokens: a small one of our own, or any Hugging Face causal LM.

Nothing is downloaded here and no code that comes with a model is run. A pretrained model stays as it is: its frozen
weights are bit-identical after training and are not stored again; LoRA adapters, gated visual layers and rows for new
tokens are put around it without touching its code, and at the start it writes exactly what it wrote before.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vol3d.errors import ConfigError
from vol3d.model.files import load_weights, read_config, save_module
from vol3d.model.generate import DecodingSession, Generated, GenerationConfig, generate
from vol3d.model.language_base import base_tokenizer, load_base, resolve_base
from vol3d.model.language_config import BaseConfig, LanguageConfig
from vol3d.model.pretrained_decoder import PretrainedDecoder
from vol3d.model.small_decoder import SmallDecoder
from vol3d.model.tokenizer import ReportTokenizer
from vol3d.model.visual_attention import VisualMemory

__all__ = ["BaseConfig", "Generated", "GenerationConfig", "LanguageConfig", "LanguageModel", "ReportTokenizer",
           "resolve_language"]  # fmt: skip

WEIGHTS, CONFIG = "language.safetensors", "language.json"
_VISUAL_LAYERS, _VISUAL_INNER = 8, 512


def resolve_language(
    config: LanguageConfig,
    *,
    visual_width: int,
    texts: Iterable[str] = (),
    tokenizer: ReportTokenizer | None = None,
) -> tuple[LanguageConfig, ReportTokenizer]:
    """`config` with everything filled in, and its tokenizer.

    Args:
        config: from a file.
        visual_width: channels of the visual tokens.
        texts: of the training split; `small` learns its tokenizer from them.
        tokenizer: of `small`, already learned; then `texts` is not read.

    Raises:
        ConfigError: a value contradicts the model or the texts.
        ModelUnavailableError: the pretrained model is not here, or is not the revision that `config` names.
    """
    if config.base is None:
        if tokenizer is None:
            tokenizer = ReportTokenizer.train(texts, vocabulary=config.vocabulary, extra_tokens=config.extra_tokens)
        every, inner = config.visual_every or 1, config.visual_inner or config.width
    else:
        base, hidden, layers = resolve_base(config.base, config.max_tokens)
        base, tokenizer = base_tokenizer(base, config.extra_tokens)
        config = replace(config, base=base)
        every = config.visual_every or max(1, layers // _VISUAL_LAYERS)
        inner = config.visual_inner or min(hidden, _VISUAL_INNER) // config.visual_heads * config.visual_heads
    config = replace(
        config,
        visual_width=visual_width,
        visual_every=every,
        visual_inner=inner,
        tokens=tokenizer.size,
        tokenizer_digest=tokenizer.digest,
    )
    return config, tokenizer


class LanguageModel(nn.Module):
    """Writes text from visual tokens. Its state dict leaves out what is frozen.

    Args:
        config: resolved.
        tokenizer: the one `config` was resolved with.

    Raises:
        ConfigError: `config` is not resolved, or the tokenizer is another one.
        ModelUnavailableError: the pretrained model is not here, or is another one.
    """

    def __init__(self, config: LanguageConfig, tokenizer: ReportTokenizer) -> None:
        super().__init__()
        if not config.resolved:
            raise ConfigError("the language configuration is not resolved: call resolve_language first")
        if tokenizer.digest != config.tokenizer_digest:
            raise ConfigError(
                f"expected a tokenizer with digest {config.tokenizer_digest}, found {tokenizer.digest}; "
                "take the tokenizer.json that was saved with this configuration"
            )
        self.config, self.tokenizer = config, tokenizer
        self.decoder: SmallDecoder | PretrainedDecoder = _decoder(config)
        trained = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        self._frozen = self.state_dict().keys() - trained  # parameters, and buffers of a pretrained model
        self.register_state_dict_post_hook(_leave_out_frozen)
        self.register_load_state_dict_pre_hook(_keep_frozen)

    def forward(self, ids_BT: Tensor, mask_BT: Tensor, visual_BVD: Tensor, visual_mask_BV: Tensor) -> Tensor:
        """Logits of the next token [B, T, tokens]; masks are True at tokens, padding may stand on either side.

        Raises:
            ConfigError: more than `max_tokens` tokens.
        """
        return self._logits(ids_BT, mask_BT, visual_BVD, visual_mask_BV)

    def sample_losses(
        self, ids_BT: Tensor, mask_BT: Tensor, target_BT: Tensor, visual_BVD: Tensor, visual_mask_BV: Tensor
    ) -> Tensor:
        """Mean cross-entropy [B], in nats, over each sample's target tokens; 0 for a sample without any.

        `target_BT` is True at tokens to predict from those before them, so the first token never counts.
        """
        target_BT = target_BT & mask_BT
        keep_K = target_BT[:, 1:].any(0).nonzero()[:, 0]
        if not len(keep_K):
            keep_K = keep_K.new_zeros(1)  # no target: a loss of 0 that still depends on every weight
        logits_BKW = self._logits(ids_BT, mask_BT, visual_BVD, visual_mask_BV, keep_K).float()
        next_K = (keep_K + 1).clamp(max=ids_BT.shape[1] - 1)
        loss_BK = functional.cross_entropy(logits_BKW.transpose(1, 2), ids_BT[:, next_K], reduction="none")
        weight_BK = target_BT[:, next_K] & (next_K > keep_K)
        return (loss_BK * weight_BK).sum(1) / weight_BK.sum(1).clamp(min=1)

    def loss(
        self, ids_BT: Tensor, mask_BT: Tensor, target_BT: Tensor, visual_BVD: Tensor, visual_mask_BV: Tensor
    ) -> Tensor:
        """Mean of `sample_losses`: of equal batches, the mean over ranks is the loss of all samples on one rank."""
        return self.sample_losses(ids_BT, mask_BT, target_BT, visual_BVD, visual_mask_BV).mean()

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        visual_BVD: Tensor,
        visual_mask_BV: Tensor,
        config: GenerationConfig | None = None,
        stop: Sequence[int] = (),
    ) -> list[Generated]:
        """Continues prompt b (see `ReportTokenizer.prompt`) looking at image b, in evaluation mode.

        Visual keys and values are computed once. `stop` adds to the tokenizer's stop token.

        Raises:
            ConfigError: prompt and `max_new_tokens` exceed `max_tokens`, or prompts and images differ in number.
        """
        config = config or GenerationConfig()
        longest = max((len(prompt) for prompt in prompts), default=0)
        if len(prompts) != len(visual_BVD):
            raise ConfigError(f"expected a prompt for each of {len(visual_BVD)} images, found {len(prompts)}")
        if longest + config.max_new_tokens > self.config.max_tokens:
            raise ConfigError(
                f"expected prompt and max_new_tokens of at most {self.config.max_tokens} tokens, found {longest} + "
                f"{config.max_new_tokens}; shorten the prompt, lower max_new_tokens or train with a larger max_tokens"
            )
        training = self.training
        self.eval()
        try:
            session = DecodingSession(self.decoder, self._remember(visual_BVD, visual_mask_BV), config.max_new_tokens)
            ends = (self.tokenizer.eos_id, *stop)
            return generate(session, prompts, config, ends, self.tokenizer.slot_ids, visual_BVD.device)
        finally:
            self.train(training)

    def write(
        self,
        prompts: Sequence[str],
        visual_BVD: Tensor,
        visual_mask_BV: Tensor,
        config: GenerationConfig | None = None,
    ) -> list[str]:
        """`generate` from text to text."""
        answers = self.generate([self.tokenizer.prompt(p) for p in prompts], visual_BVD, visual_mask_BV, config)
        return [self.tokenizer.decode(answer.ids) for answer in answers]

    def _remember(self, visual_BVD: Tensor, visual_mask_BV: Tensor) -> list[VisualMemory]:
        return [layer.keys(visual_BVD, visual_mask_BV) for layer in self.decoder.visual]

    def _logits(
        self, ids_BT: Tensor, mask_BT: Tensor, visual_BVD: Tensor, visual_mask_BV: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        if ids_BT.shape[1] > self.config.max_tokens:
            raise ConfigError(f"expected at most {self.config.max_tokens} tokens, found {ids_BT.shape[1]}")
        return self.decoder(ids_BT, mask_BT, self._remember(visual_BVD, visual_mask_BV), keep=keep)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes language.safetensors (nothing frozen), language.json and tokenizer.json, each by atomic rename."""
        save_module(self, self.config, folder, WEIGHTS, CONFIG)
        self.tokenizer.save(Path(folder))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "LanguageModel":
        """The saved model, in evaluation mode on the CPU.

        Raises:
            CheckpointError: a file, a tensor or a configuration key is missing, unknown or of the wrong shape.
            ModelUnavailableError: the pretrained model below it is not here, or has other weights.
        """
        config = read_config(LanguageConfig, folder, WEIGHTS, CONFIG)
        model = cls(config, load_tokenizer(Path(folder), config))
        load_weights(model, Path(folder) / WEIGHTS)
        return model.eval()


def load_tokenizer(folder: Path, config: LanguageConfig) -> ReportTokenizer:
    """The tokenizer.json of a checkpoint, with the start and stop tokens of its configuration."""
    return ReportTokenizer.load(folder, *((config.base.bos, config.base.eos) if config.base else ()))


def _decoder(config: LanguageConfig) -> SmallDecoder | PretrainedDecoder:
    if config.base is not None:
        return PretrainedDecoder(config, load_base(config.base))
    return SmallDecoder(
        vocabulary=config.tokens,
        width=config.width,
        layers=config.layers,
        heads=config.heads,
        dropout=config.dropout,
        max_tokens=config.max_tokens,
        visual_width=config.visual_width,
        visual_inner=config.visual_inner,
        visual_heads=config.visual_heads,
        visual_every=config.visual_every,
        checkpointing=config.activation_checkpointing,
    )


def _leave_out_frozen(model: Any, tensors: dict[str, Tensor], prefix: str, _metadata: Any) -> None:
    for name in model._frozen:
        tensors.pop(prefix + name, None)


def _keep_frozen(model: Any, tensors: dict[str, Tensor], prefix: str, *_rest: Any) -> None:
    # called before the frozen weights are looked for: they are found, as they are
    for name in model._frozen:
        module, _, last = name.rpartition(".")
        tensors.setdefault(prefix + name, getattr(model.get_submodule(module), last).detach())

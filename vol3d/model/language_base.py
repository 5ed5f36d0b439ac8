"""A pretrained causal language model from a local folder: configuration, tokenizer, and the model itself, frozen.

Nothing is downloaded, and no code that comes with a model is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vol3d.errors import ConfigError, ModelUnavailableError
from vol3d.model.language_config import BaseConfig
from vol3d.model.text import _revision, find_model
from vol3d.model.tokenizer import EOS, ReportTokenizer, add_whole, slot_tokens

_OFFLINE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def resolve_base(base: BaseConfig, max_tokens: int) -> tuple[BaseConfig, int, int]:
    """With its revision; width and number of its blocks."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING, AutoConfig

    folder = find_base(base)
    try:
        config = AutoConfig.from_pretrained(folder, **_OFFLINE)
    except (OSError, ValueError) as error:
        raise ModelUnavailableError(f"{folder} holds no readable model configuration: {error}") from error
    if config.is_encoder_decoder or type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        raise ConfigError(f"language base: expected a causal language model, found {config.model_type!r} in {folder}")
    text = config.get_text_config()
    room = getattr(text, "max_position_embeddings", None) or max_tokens
    if room < max_tokens:
        raise ConfigError(f"language max_tokens: expected at most {room} as {base.name} allows, found {max_tokens}")
    return replace(base, revision=_revision(folder)), int(text.hidden_size), int(text.num_hidden_layers)


def find_base(base: BaseConfig) -> Path:
    """Its folder, of the revision that `base` names."""
    try:
        folder = find_model(base.name)
    except ModelUnavailableError as error:
        said = str(error).replace("model.text.name", "read.model.language.base.name")
        raise ModelUnavailableError(said.replace("text model", "language model")) from error
    if base.revision not in ("", found := _revision(folder)):
        raise ModelUnavailableError(
            f"expected language model {base.name!r} of revision {base.revision}, found {found} in {folder}; "
            "get the files the checkpoint was trained with, or train anew"
        )
    return folder


def base_tokenizer(base: BaseConfig, extra_tokens: Sequence[str]) -> tuple[BaseConfig, ReportTokenizer]:
    """The model's own tokenizer with slots and extra tokens, its start and stop tokens named in `base`."""
    from transformers import AutoTokenizer

    folder = find_base(base)
    try:
        own = AutoTokenizer.from_pretrained(folder, **_OFFLINE)
        backend = own.backend_tokenizer
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ModelUnavailableError(
            f"expected a tokenizer.json, or what converts to one, in {folder}, found none ({error}); save one with "
            "transformers' fast tokenizer of this model"
        ) from error
    eos = base.eos or own.eos_token or EOS
    bos = base.bos or own.bos_token or eos
    before = backend.get_vocab(with_added_tokens=True)
    first = max(before.values()) + 1
    add_whole(backend, [eos, bos], special=True)
    tokenizer = ReportTokenizer(add_whole(backend, [*slot_tokens(), *extra_tokens]), bos, eos)
    added = sorted(i for token, i in backend.get_vocab(with_added_tokens=True).items() if token not in before)
    if added != list(range(first, first + len(added))):
        raise ConfigError(f"language base: expected a tokenizer without gaps in its ids in {folder}, found gaps")
    return replace(base, bos=bos, eos=eos, own_tokens=base.own_tokens or first), tokenizer


def load_base(base: BaseConfig) -> Any:
    """The model, frozen, with adapters; on the meta device if that is torch's default: shapes without weights."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = find_base(base)
    dtype = getattr(torch, base.dtype)
    if torch.get_default_device().type == "meta":
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder, **_OFFLINE), dtype=dtype)
    else:
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, use_safetensors=True, dtype=dtype, output_loading_info=True, **_OFFLINE
            )
        except (OSError, ValueError, KeyError) as error:
            raise ModelUnavailableError(
                f"language model {base.name!r} cannot be loaded from {folder}: {error}"
            ) from error
        model, report = loaded
        if absent := sorted(report["missing_keys"]):
            raise ModelUnavailableError(
                f"expected all weights of a causal language model in {folder}, found none for {', '.join(absent[:3])} "
                f"({len(absent)} in all); get a folder that was saved with its language modelling head"
            )
    model.requires_grad_(False)
    if base.lora_rank:
        from peft import LoraConfig, inject_adapter_in_model
        from transformers.pytorch_utils import Conv1D

        alpha: Any = base.lora_alpha
        lora = LoraConfig(
            r=base.lora_rank,
            lora_alpha=alpha,
            lora_dropout=base.lora_dropout,
            target_modules=list(base.lora_targets) or "all-linear",
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),  # GPT-2's transposed weights
        )
        try:
            inject_adapter_in_model(lora, model)
        except ValueError as error:
            raise ConfigError(f"language base lora_targets: {error}") from error
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()  # peft takes the base's type
    return model

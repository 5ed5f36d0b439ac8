"""Embedding bank: token states of every text, encoded once, read by many.

A folder per (model revision, instruction, layers, number type) holds append-only segments. A segment is one safetensors
file with the states of some texts end to end (`states` [sum of T, E]), where each begins (`starts` [n + 1]) and the
128-bit hashes of the normalised texts (`keys` [n, 16]). Segments appear by atomic rename, so a reader sees all or
nothing, and two writers at worst store a text twice. Opening costs one small read per segment; a text one mapped slice.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save

from vol3d.errors import CacheError, ConfigError
from vol3d.files import user_cache, write_whole
from vol3d.model.text import TextConfig, TextEncoder, find_model, is_uncased, normalise, resolve_text
from vol3d.types import Array

SCHEMA = 1


def bank_root() -> Path:
    """Folder of all banks of this user: VOL3D_CACHE_HOME/text, by default ~/.cache/vol3d/text."""
    return user_cache() / "text"


_SEGMENT_TEXTS = 2048
_RECENT_TEXTS = 4096


class EmbeddingBank:
    """Token states on disk. A resolved `config` (with its revision) opens a filled bank without the model's files.

    May be pickled and sent to data workers; only `ensure` writes, and only it loads the encoder.
    """

    def __init__(self, root: str | Path, config: TextConfig, device: str = "cpu") -> None:
        self.config = config if config.revision and config.width else resolve_text(config)
        self.device = device
        key = json.dumps(
            [self.config.revision, self.config.instruction, self.config.layers, self.config.storage, SCHEMA]
        )
        self.folder = Path(root) / f"{self.config.revision}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"
        self.lower = self._read_or_write_header()
        self._encoder: TextEncoder | None = None
        self._reset()

    @property
    def width(self) -> int:
        """Width E of the token states."""
        return self.config.width

    def ensure(self, texts: Iterable[str]) -> int:
        """Encodes and stores those texts that are not there yet; returns how many that were.

        Raises:
            ModelUnavailableError: some are missing and the encoder is not on this machine.
        """
        wanted = sorted({normalise(text, lower=self.lower) for text in texts} - {""})
        self._refresh()
        missing = [text for text in wanted if _key(text) not in self._index]
        if missing and self._encoder is None:
            self._encoder = TextEncoder(self.config, self.device)
        for start in range(0, len(missing), _SEGMENT_TEXTS):
            assert self._encoder is not None
            part = missing[start : start + _SEGMENT_TEXTS]
            self._write_segment(part, self._encoder.encode(part))
        self._refresh()
        return len(missing)

    def get(self, text: str) -> Array:
        """float32 states [T, E] of one text.

        Raises:
            CacheError: the bank does not hold it; `ensure` it first.
        """
        text = normalise(text, lower=self.lower)
        key = _key(text)
        if key not in self._recent:
            if key not in self._index:
                self._refresh()
            if key not in self._index:
                raise CacheError(
                    f"text {text!r} is not in the embedding bank {self.folder}; ensure() it before reading"
                )
            if len(self._recent) >= _RECENT_TEXTS:
                self._recent.pop(next(iter(self._recent)))
            segment, start, stop = self._index[key]
            self._recent[key] = self._open(segment).get_slice("states")[start:stop]
        return self._recent[key].astype(np.float32)

    def batch(self, texts_BP: Sequence[Sequence[str]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Padded `tokens_BPTE` (float32) and `token_mask_BPT` (bool) of a batch of phrase lists.

        Shorter lists, and empty strings, become phrases without any token.
        """
        states = [[self.get(text) if text.strip() else None for text in texts] for texts in texts_BP]
        phrases = max((len(row) for row in states), default=0)
        length = max((len(s) for row in states for s in row if s is not None), default=1)
        tokens_BPTE = torch.zeros(len(states), phrases, length, self.width)
        token_mask_BPT = torch.zeros(len(states), phrases, length, dtype=torch.bool)
        for b, row in enumerate(states):
            for p, state_TE in enumerate(row):
                if state_TE is not None:
                    tokens_BPTE[b, p, : len(state_TE)] = torch.from_numpy(state_TE)
                    token_mask_BPT[b, p, : len(state_TE)] = True
        return tokens_BPTE, token_mask_BPT

    def __len__(self) -> int:
        return len(self._index)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k in ("config", "device", "folder", "lower")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _encoder=None)
        self._reset()

    def _reset(self) -> None:
        self._index: dict[bytes, tuple[str, int, int]] = {}
        self._segments: dict[str, Any] = {}
        self._recent: dict[bytes, Array] = {}
        self._refresh()

    def _read_or_write_header(self) -> bool:
        path = self.folder / "bank.json"
        if path.is_file():
            return bool(json.loads(path.read_text())["lower"])
        lower = is_uncased(find_model(resolve_text(self.config).name))
        self.folder.mkdir(parents=True, exist_ok=True)
        fields = ("name", "revision", "instruction", "layers", "width", "storage")
        header = {"schema": SCHEMA, "lower": lower, **{name: getattr(self.config, name) for name in fields}}
        write_whole(path, json.dumps(header, indent=2))
        return lower

    def _refresh(self) -> None:
        for path in self.folder.glob("[!.]*.safetensors"):
            if path.name in self._segments:
                continue
            segment = self._open(path.name)
            keys, starts = segment.get_tensor("keys"), segment.get_tensor("starts").tolist()
            for row, start, stop in zip(keys, starts, starts[1:], strict=False):
                self._index.setdefault(row.tobytes(), (path.name, start, stop))

    def _open(self, name: str) -> Any:
        if name not in self._segments:
            self._segments[name] = safe_open(self.folder / name, framework="numpy")
        return self._segments[name]

    def _write_segment(self, texts: list[str], states: list[Array]) -> None:
        joined = np.concatenate(states).astype(self.config.storage)
        if not np.isfinite(joined).all():
            raise ConfigError(
                f"token states of {self.config.name} do not fit into {self.config.storage}: "
                "set model.text.storage: float32"
            )
        keys = np.frombuffer(b"".join(map(_key, texts)), dtype=np.uint8).reshape(-1, 16)
        starts = np.cumsum([0, *map(len, states)], dtype=np.int64)
        name = hashlib.sha256(keys.tobytes()).hexdigest()[:16]
        write_whole(self.folder / f"{name}.safetensors", save({"states": joined, "starts": starts, "keys": keys}))


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:16]

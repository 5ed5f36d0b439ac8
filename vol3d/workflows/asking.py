"""A checkpoint with its text bank, ready to be asked phrases about cache entries."""

from __future__ import annotations

import math
import os
from pathlib import Path

from vol3d.cache import Entry
from vol3d.checkpoint import Calibration, Checkpoint
from vol3d.infer.predictor import PredictConfig, predict
from vol3d.model.bank import EmbeddingBank
from vol3d.types import Array


class Asker:
    """(entry, phrases) -> probability_PZYX uint8 on the entry's grid, and presence_P logits."""

    def __init__(self, checkpoint: Checkpoint, device: str, config: PredictConfig | None = None) -> None:
        self.checkpoint, self.device = checkpoint, device
        self.config = config or PredictConfig()
        self.bank = EmbeddingBank(text_bank_folder(), checkpoint.model.config.text, device)

    def __call__(self, entry: Entry, phrases: list[str]) -> tuple[Array, Array]:
        self.bank.ensure(phrases)
        tokens_BPTE, mask_BPT = self.bank.batch([phrases])
        found = predict(
            self.checkpoint.model, entry, tokens_BPTE[0], mask_BPT[0],
            self.checkpoint.channels, self.checkpoint.patch_size, self.config, device=self.device, phrases=phrases,
        )  # fmt: skip
        return found.probability_PZYX, found.presence_P


def text_bank_folder() -> Path:
    """Where token states are kept between runs: VOL3D_CACHE_HOME, else the user's cache folder."""
    home = os.environ.get("VOL3D_CACHE_HOME") or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vol3d"
    return Path(home) / "text"


def presence_probability(logit: float, calibration: Calibration) -> float:
    """Calibrated probability in 0..1."""
    return 1 / (1 + math.exp(-min(max(calibration.scale * logit + calibration.bias, -700.0), 700.0)))


def mask_level(calibration: Calibration) -> int:
    """The lowest uint8 probability that belongs to a mask."""
    return max(1, math.ceil(calibration.mask_threshold * 255))

"""A checkpoint with its text bank, ready to be asked phrases about cache entries."""

from __future__ import annotations

from dataclasses import replace

from vol3d.cache import Entry
from vol3d.checkpoint import Checkpoint
from vol3d.data.phrases import names_side
from vol3d.infer.predictor import predict
from vol3d.model.bank import EmbeddingBank, bank_root
from vol3d.types import Array


class Asker:
    """(entry, phrases) -> probability_PZYX uint8 on the entry's grid, and presence_P logits."""

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        self.checkpoint, self.device = checkpoint, device
        self.bank = EmbeddingBank(bank_root(), checkpoint.model.config.text, device)

    def __call__(self, entry: Entry, phrases: list[str]) -> tuple[Array, Array]:
        """Mirrored views along x are left out where a phrase names a side: its answer would be the other one's."""
        checkpoint, config = self.checkpoint, self.checkpoint.predict
        if any(names_side(phrase) for phrase in phrases):
            config = replace(config, mirror_axes=tuple(a for a in config.mirror_axes if a != "x"))
        self.bank.ensure(phrases)
        tokens_BPTE, mask_BPT = self.bank.batch([phrases])
        found = predict(
            checkpoint.model, entry, tokens_BPTE[0], mask_BPT[0], checkpoint.channels, checkpoint.patch_size, config,
            device=self.device, phrases=phrases,
        )  # fmt: skip
        return found.probability_PZYX, found.presence_P

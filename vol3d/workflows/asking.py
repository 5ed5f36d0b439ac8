"""A checkpoint with its text bank, ready to be asked phrases about cache entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from vol3d.cache import Entry
from vol3d.checkpoint import Checkpoint
from vol3d.data.phrases import names_side
from vol3d.infer.embedding import embed_study, zero_shot_margin
from vol3d.infer.predictor import predict
from vol3d.model.bank import EmbeddingBank, bank_root
from vol3d.progress import within
from vol3d.text.claims import claims_of
from vol3d.text.knowledge import ORGAN_NAMES, prompts
from vol3d.types import Array
from vol3d.workflows.known import Known
from vol3d.workflows.looks import ask_measured


class Asker:
    """(entry, phrases) -> probability_PZYX uint8 on the entry's grid, and presence_P logits."""

    def __init__(self, checkpoint: Checkpoint, device: str) -> None:
        self.checkpoint, self.device = checkpoint, device
        self._known = Known.of(checkpoint)
        self.bank = EmbeddingBank(bank_root(), checkpoint.model.config.text, device)

    def __call__(self, entry: Entry, phrases: list[str]) -> tuple[Array, Array]:
        """What phrases mean in a study, asked in the checkpoint's own words where it has some for the same thing; where
        they say how a lesion looks, density and uptake are measured.
        """
        return ask_measured(self.unmeasured, entry, phrases, self._known, self.checkpoint.calibration)

    def unmeasured(self, entry: Entry, phrases: list[str]) -> tuple[Array, Array]:
        """The model's own answers.

        Mirrored views along x are left out where a phrase names a side: its answer would be the other one's.
        """
        checkpoint, config = self.checkpoint, self.checkpoint.predict
        if any(names_side(phrase) for phrase in phrases):
            config = replace(config, mirror_axes=tuple(a for a in config.mirror_axes if a != "x"))
        self.bank.ensure(phrases)
        tokens_BPTE, mask_BPT = self.bank.batch([phrases])
        found = predict(
            checkpoint.model, entry, tokens_BPTE[0], mask_BPT[0], checkpoint.channels, checkpoint.patch_size, config,
            device=self.device, phrases=phrases, progress=within("tiles"),
        )  # fmt: skip
        return found.probability_PZYX, found.presence_P

    def embed(self, entry: Entry, organs: Sequence[str] = ()) -> Array:
        """float32 [1 + O, E] of unit length: the study as a whole, then as each organ sees it, by any names.

        Raises:
            ConfigError: the model has no alignment head.
        """
        checkpoint = self.checkpoint
        tokens_OTE, mask_OT = self._states(organs)
        return embed_study(
            checkpoint.model, entry, tokens_OTE, mask_OT, checkpoint.channels, checkpoint.patch_size,
            checkpoint.predict, device=self.device,
        )  # fmt: skip

    def embed_texts(self, texts: Sequence[str]) -> Array:
        """float32 [N, E] of unit length, in the space of `embed`.

        Raises:
            ConfigError: the model has no alignment head.
        """
        tokens_NTE, mask_NT = self._states(texts)
        with torch.inference_mode():
            return self.checkpoint.model.embed_text(tokens_NTE.to(self.device), mask_NT.to(self.device)).cpu().numpy()

    def margins(self, entry: Entry, findings: Sequence[str]) -> dict[str, float]:
        """Zero-shot margin of findings by name (``pleural_effusion``), each against its organ's vector if it has one.

        Above 0 the study is nearer to the finding than to its denial; thresholds are chosen on validation.
        """
        by_finding = {name: prompts(name) for name in findings}
        organ_of = {name: _organ(texts[0][0]) for name, texts in by_finding.items()}
        organs = sorted({organ for organ in organ_of.values() if organ is not None})
        image_QE = self.embed(entry, [ORGAN_NAMES[organ] for organ in organs])
        out = {}
        for name, (positive, negative) in by_finding.items():
            organ = organ_of[name]
            image_E = image_QE[0 if organ is None else 1 + organs.index(organ)]
            text_NE = self.embed_texts([*positive, *negative])
            out[name] = zero_shot_margin(image_E, text_NE[: len(positive)], text_NE[len(positive) :])
        return out

    def _states(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        self.bank.ensure(texts)
        tokens_BPTE, mask_BPT = self.bank.batch([texts])
        return tokens_BPTE[0], mask_BPT[0]


def _organ(text: str) -> str | None:
    organs = {claim.organ for claim in claims_of(text)} & ORGAN_NAMES.keys()
    return organs.pop() if len(organs) == 1 else None

"""Writing: the cross-entropy of report sections and answers, given what the model saw of the study."""

from typing import Any

import torch
from torch import Tensor, nn

USUAL_TOKENS = 16
"""A text of so many tokens has weight 1; fixed, so that the loss does not depend on who shares a batch."""


class ReportTask:
    """Named losses of one batch of texts."""

    def training_forward(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """`language_loss`: nats a token, a text weighted by the root of its length; `word_probability` to watch.

        With equal weights a word of a one-word answer would count twenty times as much as the word of a sentence that
        says whether a lesion is avid.

        Args:
            model: a `StudyReader`.
            batch: a `ReadingBatch`.
        """
        reader: Any = model
        visual_BVD, visual_mask_BV = reader.visual(*batch.seen)
        language = reader.language
        loss_B = language.sample_losses(batch.ids_BT, batch.mask_BT, batch.target_BT, visual_BVD, visual_mask_BV)
        weight_B = (batch.target_BT.sum(1) / USUAL_TOKENS).sqrt()
        return {"language_loss": (weight_B * loss_B).mean(), "word_probability": torch.exp(-loss_B.detach()).mean()}

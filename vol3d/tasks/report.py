"""Writing: the cross-entropy of report sections and answers, given what the model saw of the study."""

from typing import Any

import torch
from torch import Tensor, nn


class ReportTask:
    """Named losses of one batch of texts."""

    def training_forward(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """`language_loss`, in nats a token.

        Args:
            model: a `StudyReader`.
            batch: a `ReadingBatch`.
        """
        reader: Any = model
        visual_BVD, visual_mask_BV = reader.visual(*batch.seen)
        language = reader.language
        loss_B = language.sample_losses(batch.ids_BT, batch.mask_BT, batch.target_BT, visual_BVD, visual_mask_BV)
        exact_B = torch.exp(-loss_B.detach())
        return {"language_loss": loss_B.mean(), "word_probability": exact_B.mean()}

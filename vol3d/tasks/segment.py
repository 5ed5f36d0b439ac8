"""Language-guided segmentation: a mask for every phrase, and whether it is there at all."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vol3d.errors import ConfigError
from vol3d.tasks.losses import MaskLossConfig, hard_sums, mask_loss, presence_loss, proposal_loss


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """Weights of the losses."""

    mask_weight: float = 1.0
    """Of the mask loss."""
    presence_weight: float = 0.3
    """Of the presence loss."""
    proposal_weight: float = 0.0
    """Of the proposals' loss; above 0 exactly with `model.proposals`."""
    mask: MaskLossConfig = field(default_factory=MaskLossConfig)
    """Terms of the mask loss."""

    def __post_init__(self) -> None:
        if min(self.mask_weight, self.presence_weight, self.proposal_weight) < 0:
            raise ConfigError("task: expected weights of at least 0")


class SegmentTask:
    """Named losses of one batch; the loop sums what ends in ``_loss`` and logs the rest."""

    def __init__(self, config: SegmentConfig) -> None:
        self.config = config

    def training_forward(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """`mask_loss`, `presence_loss` and, of a model with proposals, `proposal_loss`, all weighted; `dice` of present
        phrases and `presence_accuracy` to watch.

        Args:
            model: called as ``model(image_BCZYX, tokens_BPTE, token_mask_BPT)``, returns an `Output`.
            batch: with `image_BCZYX`, `tokens_BPTE`, `token_mask_BPT`, `mask_BPZYX`, `known_BP`, `present_BP`.
        """
        return self.losses(model(batch.image_BCZYX, batch.tokens_BPTE, batch.token_mask_BPT), batch)

    def losses(self, output: Any, batch: Any) -> dict[str, Tensor]:
        """Of a model's `Output`; see `training_forward`."""
        known_BP, losses = batch.known_BP.bool(), {}
        if output.proposals:
            proposed = proposal_loss(output.proposals, batch.finding_BZYX, self.config.mask)
            losses["proposal_loss"] = self.config.proposal_weight * proposed
        return {
            **losses,
            "mask_loss": self.config.mask_weight
            * mask_loss(output.logits, batch.mask_BPZYX, known_BP, self.config.mask),
            "presence_loss": self.config.presence_weight * presence_loss(output.presence_BP, batch.present_BP),
            **watch(output.logits[0].detach(), output.presence_BP.detach(), batch, known_BP),
        }


def watch(logit_BPZYX: Tensor, presence_BP: Tensor, batch: Any, known_BP: Tensor) -> dict[str, Tensor]:
    """Hard Dice at 0.5 over known phrases with a mask, and presence accuracy at 0.5; nan where there is none."""
    overlap_BP, answer_BP, size_BP = hard_sums(logit_BPZYX.flatten(2), batch.mask_BPZYX.flatten(2))
    dice_BP = 2 * overlap_BP / (answer_BP + size_BP).clamp(min=1)
    asked_BP = ~torch.isnan(batch.present_BP)
    right_BP = (presence_BP > 0) == (batch.present_BP > 0.5)
    return {
        "dice": dice_BP[known_BP & (size_BP > 0)].mean(),
        "presence_accuracy": right_BP[asked_BP].float().mean(),
    }

"""Losses per sample and phrase, in float32.

Every loss is the mean over samples of a per-sample value, and a sample's value the mean over its own phrases. Nothing
is pooled over the batch (no batch Dice), so ranks with equal batches average to the loss of one rank.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vol3d.errors import ConfigError

_SMOOTH = 1e-5


@dataclass(frozen=True, kw_only=True)
class MaskLossConfig:
    """Weights of the terms of one mask."""

    dice: float = 1.0
    """Soft Dice loss; phrases with an empty mask have no such term."""
    bce: float = 1.0
    """Binary cross-entropy, mean over voxels; every phrase."""
    false_positive: float = 0.5
    """Phrases with an empty mask: V / (V + `false_positive_voxels`), V the soft volume that should not be there."""
    false_positive_voxels: float = 64.0
    """Full-resolution voxels at which that term is one half; it presses on small wrong answers, where BCE fades."""
    level_decay: float = 0.5
    """Each coarser level of deep supervision counts this much of the one before; the weights sum to 1."""

    def __post_init__(self) -> None:
        if min(self.dice, self.bce, self.false_positive) < 0 or self.false_positive_voxels <= 0:
            raise ConfigError("mask loss: expected weights of at least 0 and false_positive_voxels above 0")
        if not 0 <= self.level_decay <= 1:
            raise ConfigError(f"mask loss: expected level_decay within 0..1, found {self.level_decay}")


def mask_loss(logits: Sequence[Tensor], mask_BPZYX: Tensor, known_BP: Tensor, config: MaskLossConfig) -> Tensor:
    """Deeply supervised Dice + BCE, a scalar.

    Args:
        logits: [B, P, Z', Y', X'] each, full resolution first. A coarse level's target is the max-pooled mask, for both
            fusion designs: a lesion smaller than a coarse voxel stays in it.
        mask_BPZYX: 0/1 at full resolution.
        known_BP: False where the phrase gives no loss.
        config: weights.
    """
    levels = [config.level_decay**n for n in range(len(logits))]
    target = mask_BPZYX.float()
    losses_BP = torch.zeros(mask_BPZYX.shape[:2], device=mask_BPZYX.device)
    for weight, logit in zip(levels, logits, strict=True):
        if weight:
            target = pool_target(target, logit.shape[2:])
            losses_BP = losses_BP + weight / sum(levels) * level_loss(logit, target, mask_BPZYX.shape[2:], config)
    return mean_over_samples(losses_BP, known_BP)


def level_loss(logit_BPZYX: Tensor, target_BPZYX: Tensor, full_ZYX: Sequence[int], config: MaskLossConfig) -> Tensor:
    """[B, P]: the terms of one level. `full_ZYX` is the full resolution, which the false-positive volume is counted in.

    BCE is summed from softplus, which neither overflows nor needs a clamp.
    """
    with torch.autocast(logit_BPZYX.device.type, enabled=False):
        logit_BPN, target_BPN = logit_BPZYX.float().flatten(2), target_BPZYX.float().flatten(2)
        probability_BPN = torch.sigmoid(logit_BPN)
        voxels = logit_BPN.shape[2]
        bce = (functional.softplus(logit_BPN).sum(2) - (logit_BPN * target_BPN).sum(2)) / voxels
        overlap, size = (probability_BPN * target_BPN).sum(2), target_BPN.sum(2)
        volume = probability_BPN.sum(2)
        dice = 1 - (2 * overlap + _SMOOTH) / (volume + size + _SMOOTH)
        limit = config.false_positive_voxels * voxels / torch.tensor(full_ZYX).prod().item()
        present = (size > 0).float()
        region = config.dice * dice * present + config.false_positive * volume / (volume + limit) * (1 - present)
        return config.bce * bce + region


def presence_loss(presence_BP: Tensor, present_BP: Tensor) -> Tensor:
    """BCE on the presence logits, a scalar; nan in `present_BP` gives no loss."""
    with torch.autocast(presence_BP.device.type, enabled=False):
        target_BP = torch.nan_to_num(present_BP.float())
        losses_BP = functional.binary_cross_entropy_with_logits(presence_BP.float(), target_BP, reduction="none")
    return mean_over_samples(losses_BP, ~torch.isnan(present_BP))


def mean_over_samples(losses_BP: Tensor, counts_BP: Tensor) -> Tensor:
    """Mean over B of each sample's mean over the phrases that count; a sample without any adds 0."""
    counts_BP = counts_BP.to(losses_BP.dtype)
    return ((losses_BP * counts_BP).sum(1) / counts_BP.sum(1).clamp(min=1)).mean()


def pool_target(target_BPZYX: Tensor, size_ZYX: Sequence[int]) -> Tensor:
    """Max-pools a 0/1 target down to `size_ZYX`, which must divide its own size."""
    full = target_BPZYX.shape[2:]
    if tuple(full) == tuple(size_ZYX):
        return target_BPZYX
    if any(n % m for n, m in zip(full, size_ZYX, strict=True)):
        raise ValueError(f"expected logits whose size divides the mask's {tuple(full)}, found {tuple(size_ZYX)}")
    window = [n // m for n, m in zip(full, size_ZYX, strict=True)]
    return functional.max_pool3d(target_BPZYX, window)

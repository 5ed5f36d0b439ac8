"""Losses per sample and phrase, in float32.

Every loss is the mean over samples of a per-sample value, and a sample's value the mean over its own phrases. Nothing
is pooled over the batch (no batch Dice), so ranks with equal batches average to the loss of one rank.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from types import EllipsisType
from typing import Any

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
    focal: float = 0.0
    """Focal cross-entropy (gamma 2, arXiv 1708.02002), summed over voxels, over the voxels of mask and answer together.
    Soft Dice has next to no slope where a lesion is missed, and a mean over all voxels hardly knows a lesion of a
    hundred; here each voxel of a missed lesion pulls as hard as each voxel of a wrong answer pushes, and an answer that
    floods the image pushes no harder than that."""
    false_positive: float = 0.5
    """Phrases with an empty mask: V / (V + `false_positive_voxels`), V the soft volume that should not be there."""
    false_positive_voxels: float = 64.0
    """Full-resolution voxels at which that term is one half; it presses on small wrong answers, where BCE fades."""
    level_decay: float = 0.5
    """Each coarser level of deep supervision counts this much of the one before; the weights sum to 1."""

    def __post_init__(self) -> None:
        if min(self.dice, self.bce, self.focal, self.false_positive) < 0 or self.false_positive_voxels <= 0:
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
    target = mask_BPZYX
    losses_BP = torch.zeros(mask_BPZYX.shape[:2], device=mask_BPZYX.device)
    for weight, logit in zip(levels, logits, strict=True):
        if weight:
            target = pool_target(target, logit.shape[2:])
            losses_BP = losses_BP + weight / sum(levels) * level_loss(logit, target, mask_BPZYX.shape[2:], config)
    return mean_over_samples(losses_BP, known_BP)


def level_loss(logit_BPZYX: Tensor, target_BPZYX: Tensor, full_ZYX: Sequence[int], config: MaskLossConfig) -> Tensor:
    """[B, P]: terms of one level. `full_ZYX`: the full resolution, in which the false-positive volume is counted."""
    bce, overlap, volume, focal, size = mask_sums(logit_BPZYX.flatten(2), target_BPZYX.flatten(2))
    voxels = logit_BPZYX[0, 0].numel()
    limit = config.false_positive_voxels * voxels / math.prod(full_ZYX)
    dice = 1 - (2 * overlap + _SMOOTH) / (volume + size + _SMOOTH)
    present = (size > 0).float()
    region = config.dice * dice * present + config.false_positive * volume / (volume + limit) * (1 - present)
    both = (size + volume.detach()).clamp(min=limit)
    return config.bce * bce / voxels + config.focal * focal / both + region


def proposal_loss(logits: Sequence[Tensor], finding_BZYX: Tensor, config: MaskLossConfig) -> Tensor:
    """How well maps of "a finding, whichever" show the findings, a scalar: the terms of a mask, but that in the focal
    one every finding weighs the same, whatever its size; mean over levels.

    Args:
        logits: [B, 1, Z', Y', X'] each, full resolution first.
        finding_BZYX: 0, or the number of the finding there is.
        config: weights.
    """
    number_B1ZYX, full_ZYX = finding_BZYX[:, None], finding_BZYX.shape[1:]
    losses = []
    for logit in logits:
        number_B1ZYX = pool_target(number_B1ZYX, logit.shape[2:])
        target_B1ZYX = (number_B1ZYX > 0).float()
        losses.append(level_loss(logit, target_B1ZYX, full_ZYX, replace(config, focal=0.0)).mean())
        if config.focal:
            limit = config.false_positive_voxels * logit[0].numel() / math.prod(full_ZYX)
            focal_BN, volume_B = focal_terms(logit.flatten(1).float(), target_B1ZYX.flatten(1))
            share_BN = _equal_shares(number_B1ZYX.flatten(1).long(), volume_B.detach(), limit)
            losses[-1] = losses[-1] + config.focal * (focal_BN * share_BN).sum(1).mean()
    return torch.stack(losses).mean()


def focal_terms(logit_BN: Tensor, target_BN: Tensor) -> tuple[Tensor, Tensor]:
    """Focal cross-entropy of each voxel, and the soft volume, [B]."""
    probability_BN = torch.sigmoid(logit_BN)
    entropy_BN = functional.softplus(logit_BN) - logit_BN * target_BN
    return (probability_BN - target_BN).square() * entropy_BN, probability_BN.sum(1)


def _equal_shares(number_BN: Tensor, volume_B: Tensor, limit: float) -> Tensor:
    """Weights of voxels: one over the voxels of findings and answer together (or over `limit`, if they are fewer), but
    that the voxels of all findings sum to the same as if they were of equal size."""
    size_BK = torch.zeros(len(number_BN), int(number_BN.max()) + 1, device=number_BN.device)
    size_BK.scatter_add_(1, number_BN, torch.ones_like(number_BN, dtype=size_BK.dtype))
    found_B1 = (size_BK[:, 1:] > 0).sum(1, keepdim=True).clamp(min=1)
    all_B1 = size_BK[:, 1:].sum(1, keepdim=True)
    share_BK = all_B1 / (size_BK.clamp(min=1) * found_B1)
    share_BK[:, 0] = 1
    return share_BK.gather(1, number_BN) / (all_B1 + volume_B[:, None]).clamp(min=limit)


def mask_sums(logit_BPN: Tensor, target_BPN: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Sums over voxels, [B, P] each, float32: cross-entropy, soft overlap, soft volume, focal cross-entropy, and the
    target's size.

    With a backward pass of its own: of the maps at full resolution nothing is kept but logits and targets, and on a CPU
    each phrase's map stays in the cache of the core while all is computed from it.
    """
    sums_5BP: Tensor = _MaskSums.apply(logit_BPN, target_BPN)
    bce, overlap, volume, focal, size = sums_5BP
    return bce, overlap, volume, focal, size


def hard_sums(logit_BPN: Tensor, target_BPN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Voxels, [B, P] each, float32, of the answer at 0.5 within the target, of the answer, and of the target.

    Counted in float32, map by map on a CPU: counting booleans takes ten times as long.
    """
    sums_3BP = torch.empty(3, *logit_BPN.shape[:2], device=logit_BPN.device)
    for part, x, y in _parts(logit_BPN, target_BPN):
        answer = (x > 0).float()
        sums_3BP[0][part], sums_3BP[1][part], sums_3BP[2][part] = (answer * y).sum(-1), answer.sum(-1), y.sum(-1)
    overlap_BP, answer_BP, size_BP = sums_3BP
    return overlap_BP, answer_BP, size_BP


class _MaskSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logit_BPN: Tensor, target_BPN: Tensor) -> Tensor:
        ctx.save_for_backward(logit_BPN, target_BPN)
        sums_5BP = torch.empty(5, *logit_BPN.shape[:2], device=logit_BPN.device)
        for part, x, y in _parts(logit_BPN, target_BPN):
            probability = torch.sigmoid(x)
            # softplus neither overflows nor needs a clamp
            entropy = functional.softplus(x).addcmul_(x, y, value=-1)
            sums_5BP[0][part] = entropy.sum(-1)
            sums_5BP[1][part] = (probability * y).sum(-1)
            sums_5BP[2][part] = probability.sum(-1)
            sums_5BP[3][part] = entropy.mul_(probability.sub_(y).square_()).sum(-1)
            sums_5BP[4][part] = y.sum(-1)
        return sums_5BP

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logit_BPN, target_BPN = ctx.saved_tensors
        grad_BPN = torch.empty_like(logit_BPN)
        for part, x, y in _parts(logit_BPN, target_BPN):
            bce, overlap, volume, focal = (g[part].unsqueeze(-1) for g in grads[0][:4])
            probability = torch.sigmoid(x)
            entropy = functional.softplus(x).addcmul_(x, y, value=-1)
            slope = torch.addcmul(probability, probability, probability, value=-1)
            wrong = probability.sub_(y)
            # d/dx of wrong^2 * entropy is wrong^3 + 2 * wrong * slope * entropy
            entropy.mul_(slope).mul_(2.0).addcmul_(wrong, wrong).mul_(focal).add_(bce).mul_(wrong)
            grad_BPN[part] = entropy.addcmul_(slope, torch.addcmul(volume, overlap, y)).to(grad_BPN.dtype)
        return grad_BPN, None


def _parts(logit_BPN: Tensor, target_BPN: Tensor) -> Iterator[tuple[tuple[int, int] | EllipsisType, Tensor, Tensor]]:
    """Which [B, P], logits and targets, float32: map by map on a CPU, all at once elsewhere."""
    if logit_BPN.device.type == "cpu":
        for b, p in itertools.product(*map(range, logit_BPN.shape[:2])):
            yield (b, p), logit_BPN[b, p].float(), target_BPN[b, p].float()
    else:
        yield ..., logit_BPN.float(), target_BPN.float()


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
    return functional.max_pool3d(target_BPZYX.float(), window)

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
    inside: float = 0.0
    """Cross-entropy, mean over the mask's own voxels. Soft Dice has next to no slope where a lesion is missed, and the
    mean over all voxels hardly knows a lesion of a hundred; this term pulls as hard on every missed mask."""
    rivals: float = 0.0
    """Cross-entropy, mean over the voxels of findings that are not the phrase's: the counterpart of `inside`, by which
    words choose among findings. Needs `data.findings_apart`."""
    false_positive: float = 0.5
    """Phrases with an empty mask: V / (V + `false_positive_voxels`), V the soft volume that should not be there."""
    false_positive_voxels: float = 64.0
    """Full-resolution voxels at which that term is one half; it presses on small wrong answers, where BCE fades."""
    level_decay: float = 0.5
    """Each coarser level of deep supervision counts this much of the one before; the weights sum to 1."""

    def __post_init__(self) -> None:
        if (
            min(self.dice, self.bce, self.inside, self.rivals, self.false_positive) < 0
            or self.false_positive_voxels <= 0
        ):
            raise ConfigError("mask loss: expected weights of at least 0 and false_positive_voxels above 0")
        if not 0 <= self.level_decay <= 1:
            raise ConfigError(f"mask loss: expected level_decay within 0..1, found {self.level_decay}")


def mask_loss(
    logits: Sequence[Tensor],
    mask_BPZYX: Tensor,
    known_BP: Tensor,
    config: MaskLossConfig,
    finding_BZYX: Tensor | None = None,
) -> Tensor:
    """Deeply supervised Dice + BCE, a scalar.

    Args:
        logits: [B, P, Z', Y', X'] each, full resolution first. A coarse level's target is the max-pooled mask, for both
            fusion designs: a lesion smaller than a coarse voxel stays in it.
        mask_BPZYX: 0/1 at full resolution.
        known_BP: False where the phrase gives no loss.
        config: weights.
        finding_BZYX: above 0 where any finding is, for `rivals`.
    """
    levels = [config.level_decay**n for n in range(len(logits))]
    target = mask_BPZYX
    finding = (finding_BZYX > 0)[:, None] if finding_BZYX is not None and config.rivals else None
    losses_BP = torch.zeros(mask_BPZYX.shape[:2], device=mask_BPZYX.device)
    for weight, logit in zip(levels, logits, strict=True):
        if weight:
            target = pool_target(target, logit.shape[2:])
            finding = None if finding is None else pool_target(finding, logit.shape[2:])
            loss_BP = level_loss(logit, target, mask_BPZYX.shape[2:], config, finding)
            losses_BP = losses_BP + weight / sum(levels) * loss_BP
    return mean_over_samples(losses_BP, known_BP)


def level_loss(
    logit_BPZYX: Tensor,
    target_BPZYX: Tensor,
    full_ZYX: Sequence[int],
    config: MaskLossConfig,
    finding_B1ZYX: Tensor | None = None,
) -> Tensor:
    """[B, P]: terms of one level. `full_ZYX`: the full resolution, in which the false-positive volume is counted."""
    finding_BN = None if finding_B1ZYX is None else finding_B1ZYX.flatten(1)
    bce, overlap, volume, inside, size, beside, rivals = mask_sums(
        logit_BPZYX.flatten(2), target_BPZYX.flatten(2), finding_BN
    )
    voxels = logit_BPZYX[0, 0].numel()
    dice = 1 - (2 * overlap + _SMOOTH) / (volume + size + _SMOOTH)
    limit = config.false_positive_voxels * voxels / math.prod(full_ZYX)
    present = (size > 0).float()
    missed = config.inside * inside / size.clamp(min=1)
    taken = config.rivals * beside / rivals.clamp(min=1)
    false_positive = config.false_positive * volume / (volume + limit) * (1 - present)
    return config.bce * bce / voxels + config.dice * dice * present + missed + taken + false_positive


def proposal_loss(logits: Sequence[Tensor], finding_BZYX: Tensor, config: MaskLossConfig) -> Tensor:
    """How well maps of "a finding, whichever" show the findings, a scalar: Dice, cross-entropy, and cross-entropy of
    the findings' own voxels, in which every finding weighs the same; mean over levels.

    Args:
        logits: [B, 1, Z', Y', X'] each, full resolution first.
        finding_BZYX: 0, or the number of the finding there is.
        config: weights of `dice`, `bce` and `false_positive`.
    """
    number_B1ZYX = finding_BZYX[:, None]
    losses = []
    for logit in logits:
        number_B1ZYX = pool_target(number_B1ZYX, logit.shape[2:])
        present_B1ZYX = (number_B1ZYX > 0).to(torch.uint8)
        region_B1 = level_loss(logit, present_B1ZYX, finding_BZYX.shape[1:], replace(config, inside=0.0, rivals=0.0))
        missed_BN = functional.softplus(-logit.flatten(1).float()) * _equal_shares(number_B1ZYX.flatten(1).long())
        losses.append((region_B1[:, 0] + missed_BN.sum(1)).mean())
    return torch.stack(losses).mean()


def _equal_shares(number_BN: Tensor) -> Tensor:
    """Weights that sum to 1 over each sample's findings, equal shares each; 0 where there is none."""
    size_BK = torch.zeros(len(number_BN), int(number_BN.max()) + 1, device=number_BN.device)
    size_BK.scatter_add_(1, number_BN, torch.ones_like(number_BN, dtype=size_BK.dtype))
    found_B1 = (size_BK[:, 1:] > 0).sum(1, keepdim=True).clamp(min=1)
    share_BK = 1 / (size_BK.clamp(min=1) * found_B1)
    share_BK[:, 0] = 0
    return share_BK.gather(1, number_BN)


def mask_sums(
    logit_BPN: Tensor, target_BPN: Tensor, finding_BN: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Sums over voxels, [B, P] each, float32: cross-entropy, soft overlap, soft volume, cross-entropy of the target's
    own voxels, size of the target; then of the findings outside the target, cross-entropy and size.

    With a backward pass of its own: of the maps at full resolution nothing is kept but logits and targets, and on a CPU
    each phrase's map stays in the cache of the core while all is computed from it.
    """
    sums_7BP: Tensor = _MaskSums.apply(logit_BPN, target_BPN, finding_BN)
    bce, overlap, volume, inside, size, beside, rivals = sums_7BP
    return bce, overlap, volume, inside, size, beside, rivals


class _MaskSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logit_BPN: Tensor, target_BPN: Tensor, finding_BN: Tensor | None) -> Tensor:
        ctx.save_for_backward(logit_BPN, target_BPN, *(() if finding_BN is None else (finding_BN,)))
        sums_7BP = torch.zeros(7, *logit_BPN.shape[:2], device=logit_BPN.device)
        for part, x, y, f in _parts(logit_BPN, target_BPN, finding_BN):
            probability = torch.sigmoid(x)
            # softplus neither overflows nor needs a clamp
            toward_one = functional.softplus(x)
            sums_7BP[0][part] = toward_one.sum(-1) - (x * y).sum(-1)
            sums_7BP[1][part] = (probability * y).sum(-1)
            sums_7BP[2][part] = probability.sum(-1)
            sums_7BP[3][part] = ((toward_one - x) * y).sum(-1)
            sums_7BP[4][part] = y.sum(-1)
            if f is not None:
                rival = f * (1 - y)
                sums_7BP[5][part] = (toward_one * rival).sum(-1)
                sums_7BP[6][part] = rival.sum(-1)
        return sums_7BP

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        logit_BPN, target_BPN, *more = ctx.saved_tensors
        grad_BPN = torch.empty_like(logit_BPN)
        for part, x, y, f in _parts(logit_BPN, target_BPN, more[0] if more else None):
            bce, overlap, volume, inside = (g[part].unsqueeze(-1) for g in grads[0][:4])
            probability = torch.sigmoid(x)
            slope = torch.addcmul(probability, probability, probability, value=-1)
            grad = slope.mul_(torch.addcmul(volume, overlap, y))
            pull = torch.addcmul(bce, inside, y)
            if f is not None:
                pull = pull.addcmul_(grads[0][5][part].unsqueeze(-1), f * (1 - y))
            grad_BPN[part] = grad.add_(probability.sub_(y).mul_(pull)).to(grad_BPN.dtype)
        return grad_BPN, None, None


def _parts(
    logit_BPN: Tensor, target_BPN: Tensor, finding_BN: Tensor | None
) -> Iterator[tuple[tuple[int, int] | EllipsisType, Tensor, Tensor, Tensor | None]]:
    """Which [B, P], logits, targets and findings, float32: map by map on a CPU, all at once elsewhere."""
    finding_BN = None if finding_BN is None else finding_BN.float()
    if logit_BPN.device.type == "cpu":
        for b, p in itertools.product(*map(range, logit_BPN.shape[:2])):
            finding_N = None if finding_BN is None else finding_BN[b]
            yield (b, p), logit_BPN[b, p].float(), target_BPN[b, p].float(), finding_N
    else:
        yield ..., logit_BPN.float(), target_BPN.float(), None if finding_BN is None else finding_BN[:, None]


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

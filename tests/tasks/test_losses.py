"""Losses by hand, against a loop, and under the conditions that break losses."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vol3d.errors import ConfigError
from vol3d.tasks.losses import (
    MaskLossConfig,
    hard_sums,
    level_loss,
    mask_loss,
    mean_over_samples,
    pool_target,
    presence_loss,
    proposal_loss,
)

CONFIG = MaskLossConfig()


def case() -> tuple[list[Tensor], Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(8, 8, 8), (4, 4, 8), (2, 2, 4)]
    logits = [torch.randn(2, 3, *s, generator=generator).mul(3).requires_grad_() for s in sizes]
    mask = (torch.rand(2, 3, 8, 8, 8, generator=generator) > 0.9).to(torch.uint8)
    mask[0, 1] = 0
    return logits, mask, torch.tensor([[True, True, True], [True, False, False]])


def naive(logits: list[Tensor], mask: Tensor, known: Tensor, config: MaskLossConfig) -> Tensor:
    samples = []
    for b in range(2):
        phrases = []
        for p in range(3):
            if not known[b, p]:
                continue
            total = torch.tensor(0.0)
            for level, logit in enumerate(logits):
                window = [n // m for n, m in zip(mask.shape[2:], logit.shape[2:], strict=True)]
                target = functional.max_pool3d(mask[b : b + 1, p].float(), window)[0]
                x, s = logit[b, p], torch.sigmoid(logit[b, p])
                value = config.bce * functional.binary_cross_entropy_with_logits(x, target)
                if target.any():
                    value = value + config.dice * (1 - 2 * (s * target).sum() / (s.sum() + target.sum()))
                else:
                    voxels = s.sum() * (mask[b, p].numel() / x.numel())
                    value = value + config.false_positive * voxels / (voxels + config.false_positive_voxels)
                sure = torch.where(target > 0, s, 1 - s)
                focal = (-((1 - sure) ** 2) * torch.log(sure)).sum()
                value = value + config.focal * focal / max((target.sum() + s.sum()).item(), 64 * x.numel() / 512)
                total = total + value * config.level_decay**level / 1.75
            phrases.append(total)
        samples.append(torch.stack(phrases).mean())
    return torch.stack(samples).mean()


@pytest.mark.parametrize("config", [CONFIG, MaskLossConfig(focal=0.7, bce=0.3)])
def test_fast_path_equals_a_loop_forward_and_backward(config: MaskLossConfig) -> None:
    logits, mask, known = case()
    fast, slow = mask_loss(logits, mask, known, config), naive(logits, mask, known, config)
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-5)
    for a, b in zip(torch.autograd.grad(fast, logits), torch.autograd.grad(slow, logits), strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-4)


def test_proposals_weigh_every_finding_alike() -> None:
    finding = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    finding[0, 0, 0, 0], finding[0, 2:, 2:, 2:] = 1, 2  # 1 voxel, 8 voxels
    logit = torch.full((1, 1, 4, 4, 4), -40.0).masked_fill((finding > 0)[:, None], 0.0)
    config = MaskLossConfig(dice=0, bce=0, false_positive=0, focal=1, false_positive_voxels=1)
    for missed in ((finding == 1), (finding == 2)):
        x = logit.masked_fill(missed[:, None], -5.0)
        # the missed one: (1 - 0.006693)^2 ln(1 + e^5), the other 0.5^2 ln 2; of 9 voxels and the answer's volume
        volume = torch.sigmoid(x).sum().item()
        expected = (4.939920 + 0.173287) / 2 * 9 / (9 + volume)
        assert proposal_loss([x], finding, config).item() == pytest.approx(expected, abs=1e-5)
    right = logit.masked_fill((finding > 0)[:, None], 40.0)
    wrong = right.clone()
    wrong[0, 0, 0, 3, 3] = 0.0  # a voxel too many weighs as the average voxel of a finding
    assert proposal_loss([wrong], finding, config).item() == pytest.approx(0.173287 / 18.5, abs=1e-6)
    levels = [right, torch.full((1, 1, 2, 2, 2), -40.0)]
    levels[1][0, 0, 0, 0, 0] = levels[1][0, 0, 1, 1, 1] = 40.0  # every coarse voxel with a finding counts as one
    assert proposal_loss(levels, finding, MaskLossConfig(focal=1)).item() == pytest.approx(0, abs=1e-5)
    levels[1][0, 0, 0, 0, 0] = -40.0  # Dice 2 / (1 + 2); focal 40 / 8, the least; BCE 40 / 8
    expected = (1 - 2 / 3 + 40 / 8 + 40 / 8) / 2
    assert proposal_loss(levels, finding, MaskLossConfig(focal=1)).item() == pytest.approx(expected, abs=1e-4)


def test_by_hand() -> None:
    logit = torch.full((1, 1, 2, 2, 2), -40.0)
    mask = torch.zeros(1, 1, 2, 2, 2)
    assert level_loss(logit, mask, (2, 2, 2), CONFIG).item() == pytest.approx(0, abs=1e-6)
    mask[0, 0, 0] = 1  # 4 of 8 voxels
    half = torch.zeros_like(logit)  # probability 0.5: Dice 2 * 2 / (4 + 4), BCE ln 2
    assert level_loss(half, mask, (2, 2, 2), CONFIG).item() == pytest.approx(0.5 + 0.693147, abs=1e-5)
    absent = level_loss(half, torch.zeros_like(mask), (2, 2, 2), CONFIG).item()  # 4 voxels too many
    assert absent == pytest.approx(0.693147 + 0.5 * 4 / (4 + 64), abs=1e-5)


def test_a_missed_mask_pulls_as_hard_whatever_its_size() -> None:
    for voxels in (64, 200):
        logit = torch.full((1, 1, 8, 8, 8), -9.0, requires_grad=True)
        mask = torch.zeros(1, 1, 8, 8, 8)
        mask.view(-1)[:voxels] = 1
        slopes = []
        for focal in (0.0, 1.0):
            loss = level_loss(logit, mask, (8, 8, 8), MaskLossConfig(focal=focal)).sum()
            slopes.append(float(torch.autograd.grad(loss, logit)[0][mask > 0].sum()))
        assert slopes[1] - slopes[0] == pytest.approx(-1, abs=5e-3)
        assert abs(slopes[0]) < 0.5


def test_a_wrong_voxel_pushes_as_hard_as_a_missed_one_pulls() -> None:
    logit = torch.full((1, 1, 8, 8, 8), -9.0)
    mask = torch.zeros(1, 1, 8, 8, 8)
    mask.view(-1)[:70] = 1
    logit.view(-1)[69:71] = torch.tensor([-2.0, 2.0])
    logit.requires_grad_()
    config = MaskLossConfig(dice=0, bce=0, focal=1)
    slope = torch.autograd.grad(level_loss(logit, mask, (8, 8, 8), config).sum(), logit)[0].flatten()
    assert slope[69].item() == pytest.approx(-slope[70].item(), abs=1e-7)
    assert slope[70].item() > 0


def test_ranks_with_equal_batches_average_to_the_same_loss() -> None:
    logits, mask, known = case()
    whole = mask_loss(logits, mask, known, CONFIG)
    ranks = [mask_loss([x[b : b + 1] for x in logits], mask[b : b + 1], known[b : b + 1], CONFIG) for b in range(2)]
    torch.testing.assert_close(whole, torch.stack(ranks).mean())
    present = torch.tensor([[1.0, float("nan"), 0.0], [1.0, float("nan"), float("nan")]])
    scores = torch.randn(2, 3)
    parts = [presence_loss(scores[b : b + 1], present[b : b + 1]) for b in range(2)]
    torch.testing.assert_close(presence_loss(scores, present), torch.stack(parts).mean())


def test_unknown_phrases_and_nan_presence_give_no_loss_but_keep_the_graph() -> None:
    logits, mask, known = case()
    loss = mask_loss(logits, mask, torch.zeros_like(known), CONFIG)
    scores = torch.randn(2, 3, requires_grad=True)
    presence = presence_loss(scores, torch.full((2, 3), float("nan")))
    (loss + presence).backward()
    assert loss.item() == presence.item() == 0
    assert scores.grad is not None
    assert not scores.grad.any()


def test_finite_for_extreme_logits_in_bfloat16_autocast() -> None:
    mask = torch.zeros(1, 2, 4, 4, 4)
    mask[0, 0, 1, 2, 3] = 1
    for value in (-3e4, 3e4):
        logit = torch.full((1, 2, 4, 4, 4), value, dtype=torch.bfloat16, requires_grad=True)
        with torch.autocast("cpu", torch.bfloat16):
            loss = mask_loss([logit], mask, torch.ones(1, 2, dtype=torch.bool), CONFIG)
            loss = loss + presence_loss(logit.flatten(2).amax(2), torch.tensor([[1.0, 0.0]]))
        loss.backward()
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)
        assert logit.grad is not None
        assert torch.isfinite(logit.grad).all()


def test_max_pooling_keeps_a_single_voxel() -> None:
    mask = torch.zeros(1, 1, 8, 8, 8)
    mask[0, 0, 5, 2, 7] = 1
    coarse = pool_target(mask, (2, 4, 4))
    assert coarse.nonzero().tolist() == [[0, 0, 1, 1, 3]]
    with pytest.raises(ValueError, match=r"divides the mask's \(8, 8, 8\)"):
        pool_target(mask, (3, 4, 4))


def test_mean_over_samples_does_not_favour_samples_with_many_phrases() -> None:
    losses = torch.tensor([[1.0, 3.0, 5.0], [10.0, 99.0, 99.0]])
    counts = torch.tensor([[True, True, True], [True, False, False]])
    assert mean_over_samples(losses, counts).item() == pytest.approx((3 + 10) / 2)


def test_weights_are_checked() -> None:
    with pytest.raises(ConfigError, match="at least 0"):
        MaskLossConfig(dice=-1)
    with pytest.raises(ConfigError, match="level_decay"):
        MaskLossConfig(level_decay=2)


def test_hard_sums_count_voxels() -> None:
    torch.manual_seed(0)
    logit, target = torch.randn(2, 3, 500), (torch.rand(2, 3, 500) < 0.2).to(torch.uint8)
    answer, truth = logit > 0, target > 0
    expected = [(answer & truth).sum(2), answer.sum(2), truth.sum(2)]
    for found, counted in zip(hard_sums(logit, target), expected, strict=True):
        assert torch.equal(found, counted.float())

"""Losses by hand, against a loop, and under the conditions that break losses."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vol3d.errors import ConfigError
from vol3d.tasks.losses import (
    MaskLossConfig,
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


def naive(
    logits: list[Tensor], mask: Tensor, known: Tensor, config: MaskLossConfig, finding: Tensor | None = None
) -> Tensor:
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
                    value = value - config.inside * torch.log(s[target > 0]).mean()
                else:
                    voxels = s.sum() * (mask[b, p].numel() / x.numel())
                    value = value + config.false_positive * voxels / (voxels + config.false_positive_voxels)
                if finding is not None:
                    rival = functional.max_pool3d((finding[b : b + 1] > 0).float(), window)[0] - target > 0
                    value = value - config.rivals * torch.log(1 - s[rival]).mean() if rival.any() else value
                total = total + value * config.level_decay**level / 1.75
            phrases.append(total)
        samples.append(torch.stack(phrases).mean())
    return torch.stack(samples).mean()


@pytest.mark.parametrize("config", [CONFIG, MaskLossConfig(inside=0.7, bce=0.3)])
def test_fast_path_equals_a_loop_forward_and_backward(config: MaskLossConfig) -> None:
    logits, mask, known = case()
    fast, slow = mask_loss(logits, mask, known, config), naive(logits, mask, known, config)
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-5)
    for a, b in zip(torch.autograd.grad(fast, logits), torch.autograd.grad(slow, logits), strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-4)


def test_rivals_equal_a_loop_forward_and_backward() -> None:
    logits, mask, known = case()
    finding = (torch.rand(2, 8, 8, 8, generator=torch.Generator().manual_seed(2)) > 0.8).to(torch.uint8) * 3
    config = MaskLossConfig(inside=0.5, rivals=0.8)
    fast, slow = mask_loss(logits, mask, known, config, finding), naive(logits, mask, known, config, finding)
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-5)
    for a, b in zip(torch.autograd.grad(fast, logits), torch.autograd.grad(slow, logits), strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-4)
    assert mask_loss(logits, mask, known, config, torch.zeros_like(finding)) < fast


def test_proposals_weigh_every_finding_alike() -> None:
    finding = torch.zeros(1, 4, 4, 4, dtype=torch.uint8)
    finding[0, 0, 0, 0], finding[0, 2:, 2:, 2:] = 1, 2  # 1 voxel, 8 voxels
    logit = torch.full((1, 1, 4, 4, 4), 0.0)
    config = MaskLossConfig(dice=0, bce=0, false_positive=0, inside=9, rivals=9)
    for missed in ((finding == 1), (finding == 2)):
        x = logit.masked_fill(missed[:, None], -5.0)
        # the missed one: ln(1 + e^5), the other ln 2
        assert proposal_loss([x], finding, config).item() == pytest.approx((5.006715 + 0.693147) / 2, abs=1e-5)
    assert proposal_loss([logit], torch.zeros_like(finding), config).item() == 0
    halves = [logit, torch.zeros(1, 1, 2, 2, 2)]  # every coarse voxel with a finding counts as one
    # Dice 2 * 4.5 / (32 + 9) at the first level, 2 * 1 / (4 + 2) at the second; both findings at ln 2
    expected = 0.693147 + (1 - 9 / 41 + 1 - 2 / 6) / 2
    config = MaskLossConfig(bce=0, false_positive=0)
    assert proposal_loss(halves, finding, config).item() == pytest.approx(expected, abs=1e-5)


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
    for voxels in (1, 50):
        logit = torch.full((1, 1, 8, 8, 8), -9.0, requires_grad=True)
        mask = torch.zeros(1, 1, 8, 8, 8)
        mask.view(-1)[:voxels] = 1
        slopes = []
        for inside in (0.0, 1.0):
            loss = level_loss(logit, mask, (8, 8, 8), MaskLossConfig(inside=inside)).sum()
            slopes.append(float(torch.autograd.grad(loss, logit)[0][mask > 0].sum()))
        assert slopes[1] - slopes[0] == pytest.approx(-1, abs=1e-3)
        assert abs(slopes[0]) < 0.11


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

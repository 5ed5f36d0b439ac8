"""Upsampling by matrix products is PyTorch's trilinear upsampling, forward and backward."""

import pytest
import torch
from torch.nn import functional

from vol3d.model.upsample import upsample


@pytest.mark.parametrize(("coarse", "fine"), [((4, 3, 5), (8, 6, 10)), ((2, 5, 3), (8, 5, 7)), ((1, 4, 4), (3, 4, 16))])
def test_same_values_and_gradients_as_pytorch(coarse: tuple[int, ...], fine: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, *coarse, dtype=torch.float64, requires_grad=True)
    like = torch.zeros(2, 1, *fine)
    weight = torch.randn(2, 3, *fine, dtype=torch.float64)
    expected = functional.interpolate(x, size=fine, mode="trilinear", align_corners=False)
    (expected_gradient,) = torch.autograd.grad((expected * weight).sum(), x)

    found = upsample(x, like)
    (gradient,) = torch.autograd.grad((found * weight).sum(), x)

    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-5, rtol=0)


def test_a_ramp_stays_a_ramp_between_the_outer_centres() -> None:
    x = torch.arange(4.0).expand(1, 1, 2, 3, 4)
    line = upsample(x, torch.zeros(1, 1, 4, 6, 8))[0, 0, 0, 0]
    assert line.tolist() == [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0]


def test_training_works_after_inference_and_after_the_meta_device() -> None:
    with torch.inference_mode():
        upsample(torch.zeros(1, 1, 6, 6, 6), torch.zeros(1, 1, 12, 12, 12))
    x = torch.zeros(1, 1, 6, 6, 6, requires_grad=True)
    upsample(x, torch.zeros(1, 1, 12, 12, 12)).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, torch.full_like(x, 8.0))
    with torch.device("meta"):
        shape = upsample(torch.zeros(1, 1, 7, 7, 7), torch.zeros(1, 1, 14, 14, 14)).shape
    assert shape == (1, 1, 14, 14, 14)
    assert not upsample(torch.zeros(1, 1, 7, 7, 7), torch.zeros(1, 1, 14, 14, 14)).is_meta

"""Planning by nnU-Net's planner, and parity of the parts we replaced."""

import pytest
import torch
from torch import nn

from vol3d.errors import ConfigError
from vol3d.model.encoder import EncoderConfig, ImageEncoder, check_divisible, plan_encoder
from vol3d.model.layers import Conv3d, InstanceNorm


def test_isotropic_plan_halves_every_axis() -> None:
    planned = plan_encoder(EncoderConfig(), (64, 64, 64), (4.0, 4.0, 4.0))
    assert planned.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert planned.total_strides[-1] == (8, 8, 8)


def test_thick_slices_are_not_pooled_nor_convolved_until_axes_match() -> None:
    planned = plan_encoder(EncoderConfig(), (32, 96, 96), (5.0, 1.0, 1.0))
    assert planned.strides == ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2))
    assert planned.kernel_sizes == ((1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3))


def test_small_patch_is_refused_with_advice() -> None:
    with pytest.raises(ConfigError, match=r"4 stages.*allows 3; enlarge"):
        plan_encoder(EncoderConfig(), (16, 16, 16), (2.0, 2.0, 2.0))


def test_odd_sizes_are_refused_with_the_next_that_fits() -> None:
    config = plan_encoder(EncoderConfig(), (64, 64, 64), (4.0, 4.0, 4.0))
    with pytest.raises(ConfigError, match=r"multiple of \(8, 8, 8\).*found \(60, 64, 64\); use patches of \(64, 64"):
        check_divisible((60, 64, 64), config)
    with pytest.raises(ConfigError, match="multiple of"):
        plan_encoder(EncoderConfig(), (64, 64, 66), (4.0, 4.0, 4.0))
    with pytest.raises(ConfigError, match="multiple of"):
        ImageEncoder(config, 1)(torch.zeros(1, 1, 20, 32, 32))


def test_stages_must_agree() -> None:
    with pytest.raises(ConfigError, match="blocks: expected 3"):
        EncoderConfig(features=(4, 8, 16))
    with pytest.raises(ConfigError, match="not planned"):
        ImageEncoder(EncoderConfig(), 1)


def test_stated_strides_are_kept() -> None:
    stated = EncoderConfig(
        features=(4, 8), blocks=(1, 1), strides=((1, 1, 1), (1, 2, 2)), kernel_sizes=((1, 3, 3), (3, 3, 3))
    )
    assert plan_encoder(stated, (8, 8, 8), (1.0, 1.0, 1.0)) == stated


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_instance_norm_equals_torch(memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    ours, theirs = InstanceNorm(3), nn.InstanceNorm3d(3, affine=True)
    for parameter in (*ours.parameters(), *theirs.parameters()):
        nn.init.constant_(parameter, 0.7)
    a = (torch.randn(2, 3, 4, 5, 6) * 3 + 5).to(memory_format=memory_format).requires_grad_()
    b = a.detach().clone().requires_grad_()
    weight = torch.randn(2, 3, 4, 5, 6)
    (ours(a) * weight).sum().backward()
    (theirs(b) * weight).sum().backward()
    torch.testing.assert_close(ours(a), theirs(b))
    torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(ours(a), theirs(b))


def test_parameters_have_one_name_and_checkpointing_changes_nothing() -> None:
    config = plan_encoder(EncoderConfig(features=(4, 6, 8), blocks=(1, 1, 1)), (16, 16, 16), (2.0, 2.0, 2.0))
    torch.manual_seed(0)
    plain = ImageEncoder(config, 2)
    saving = ImageEncoder(config, 2, checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    assert len(plain.state_dict()) == len(list(plain.parameters()))
    image = torch.randn(1, 2, 16, 16, 16)
    for model in (plain, saving):
        sum(f.square().sum() for f in model(image)).backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("shape", [(1, 8, 6, 5, 4), (1, 8, 5, 5, 4), (2, 8, 6, 5, 4), (1, 8, 64, 64, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_of_one_small_map_has_the_numbers_of_torch(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    plain = nn.Conv3d(8, 3, 3, padding=1, bias=bias).double()
    ours = Conv3d(8, 3, 3, padding=1, bias=bias).double()
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(shape[0], 3, *shape[2:], dtype=torch.float64)
    torch.testing.assert_close(ours(x), plain(x))
    for a, b in zip(
        torch.autograd.grad((ours(x) * weight).sum(), [x, *ours.parameters()]),
        torch.autograd.grad((plain(x) * weight).sum(), [x, *plain.parameters()]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_every_convolution_of_the_network_is_ours() -> None:
    config = plan_encoder(EncoderConfig(features=(4, 8, 8), blocks=(1, 1, 1)), (16, 16, 16), (4.0, 4.0, 4.0))
    kinds = {type(m) for m in ImageEncoder(config, 2).modules() if isinstance(m, nn.Conv3d)}
    assert kinds == {Conv3d}

"""Cross-attention against a loop, and that padding tokens do not exist for it."""

import pytest
import torch
from torch import Tensor, nn

from vol3d.errors import ConfigError
from vol3d.model.fusion import ContextualGate, CrossAttention, GatedFusion, TextAdapter, to_volume, to_voxels


def naive(attention: CrossAttention, voxels_NC: Tensor, tokens_TE: Tensor) -> Tensor:
    """One phrase, no padding, one head after the other."""
    keys, values = torch.cat([attention.null_key_value[None], attention.key_value(tokens_TE)]).chunk(2, dim=-1)
    width, result = keys.shape[1] // attention.heads, attention.bias
    for h in range(attention.heads):
        part = slice(h * width, (h + 1) * width)
        queries = voxels_NC @ attention.query[h].T
        weight = torch.softmax(queries @ keys[:, part].T / width**0.5, dim=-1)
        result = result + (weight @ values[:, part]) @ attention.out[h]
    return result


def test_attention_equals_a_loop_forward_and_backward() -> None:
    torch.manual_seed(0)
    attention = CrossAttention(5, 7, 8, 2)
    voxels, tokens = torch.randn(2, 11, 5, requires_grad=True), torch.randn(2, 4, 7)
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    fast = attention(voxels, tokens, mask)
    slow = torch.stack([naive(attention, v, t[m]) for v, t, m in zip(voxels, tokens, mask, strict=True)])
    torch.testing.assert_close(fast, slow)
    weight = torch.randn_like(fast)
    wanted = [voxels, *attention.parameters()]
    for a, b in zip(
        torch.autograd.grad((fast * weight).sum(), wanted),
        torch.autograd.grad((slow * weight).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", [lambda: GatedFusion(6, 7, 8, 2, gate=0.5), lambda: ContextualGate(6, 7)])
def test_padding_tokens_change_nothing(make) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    fusion = make()
    x, tokens = torch.randn(2, 60, 6), torch.randn(2, 4, 7)
    padded = torch.cat([tokens, torch.full((2, 3, 7), 1e4)], dim=1)
    mask = torch.tensor([[True] * 4 + [False] * 3] * 2)
    torch.testing.assert_close(fusion(x, tokens, mask[:, :4]), fusion(x, padded, mask), atol=1e-6, rtol=0)


def test_a_phrase_without_tokens_stays_finite() -> None:
    fusion, adapter = GatedFusion(6, 8, 8, 2), TextAdapter(7, 8)
    x = torch.randn(1, 8, 6, requires_grad=True)
    mask = torch.zeros(1, 3, dtype=torch.bool)
    tokens, text = adapter(torch.zeros(1, 3, 7), mask)
    fusion(x, tokens, mask).sum().backward()
    assert text.eq(0).all()
    assert torch.isfinite(x.grad).all()


def test_text_mean_is_over_real_tokens() -> None:
    adapter = TextAdapter(3, 3)
    nn.init.eye_(adapter.project.weight)
    nn.init.zeros_(adapter.project.bias)
    tokens = torch.tensor([[[1.0, 2.0, 6.0], [0.0, 1.0, 1.0], [9.0, 9.0, 1.0]]])
    projected, text = adapter(tokens, torch.tensor([[True, True, False]]))
    torch.testing.assert_close(text, projected[:, :2].mean(1))


def test_voxels_and_back() -> None:
    x = torch.randn(2, 3, 4, 5, 6)
    assert torch.equal(to_volume(to_voxels(x), x), x)
    assert torch.equal(to_voxels(x)[1, (2 * 5 + 3) * 6 + 4], x[1, :, 2, 3, 4])


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="3 heads divide, found 8"):
        CrossAttention(4, 4, 8, 3)


def test_whitened_projection_makes_the_states_uncorrelated_with_unit_variance() -> None:
    torch.manual_seed(0)
    adapter = TextAdapter(12, 5)
    states = torch.randn(400, 12) @ torch.randn(12, 12) + 3 * torch.randn(12)
    adapter.whiten(states)
    tokens, _ = adapter(states[None], torch.ones(1, 400, dtype=torch.bool))
    torch.testing.assert_close(tokens[0].mean(0), torch.zeros(5), atol=0.02, rtol=0)
    torch.testing.assert_close(torch.cov(tokens[0].T, correction=0), torch.eye(5), atol=0.02, rtol=0)


def test_whitening_keeps_random_weights_where_the_states_have_no_more_components() -> None:
    torch.manual_seed(0)
    adapter = TextAdapter(12, 5)
    before = adapter.project.weight.detach().clone()
    adapter.whiten(torch.randn(400, 2) @ torch.randn(2, 12))
    assert torch.isfinite(adapter.project.weight).all()
    torch.testing.assert_close(adapter.project.weight[-1], before[-1])
    assert not torch.allclose(adapter.project.weight[0], before[0])

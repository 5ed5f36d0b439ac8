"""The alignment head: what it adds to a model, and what each vector depends on."""

import pytest
import torch

from vol3d.errors import ConfigError
from vol3d.model.alignment import AttentionPool
from vol3d.model.encoder import EncoderConfig
from vol3d.model.text import TextConfig
from vol3d.model.vlm import ModelConfig, VisionLanguageModel

STRIDES = ((1, 1, 1), (2, 2, 2), (2, 2, 2))


def build(width: int, fusion: str = "shared", **more: object) -> VisionLanguageModel:
    torch.manual_seed(0)
    encoder = EncoderConfig(features=(4, 6, 8), blocks=(1, 1, 1), strides=STRIDES, kernel_sizes=((3, 3, 3),) * 3)
    config = {"fusion": fusion, "width": 8, "in_channels": 1, "alignment_width": width, **more}
    return VisionLanguageModel(ModelConfig(encoder=encoder, text=TextConfig(width=12), **config))  # type: ignore[arg-type]


def texts(n: int, length: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, length, 12, generator=generator), torch.ones(n, length, dtype=torch.bool)


def test_without_a_head_nothing_changes_and_with_one_all_else_starts_alike() -> None:
    plain, more = build(0), build(8)
    own = plain.state_dict()
    assert not any(name.startswith("alignment") for name in own)
    assert all(torch.equal(value, more.state_dict()[name]) for name, value in own.items())
    with pytest.raises(ConfigError, match="alignment_width 0"):
        plain.embed_text(*texts(1))
    with pytest.raises(ConfigError, match="at least 0, found -1"):
        build(-1)


@pytest.mark.parametrize("fusion", ["shared", "contextual"])
def test_vectors_of_images_and_texts(fusion: str) -> None:
    model = build(8, fusion).eval()
    image = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(2))
    features = model.encode_image(image)
    organs = texts(3)
    whole, both = model.embed_image(features), model.embed_image(features, *organs)
    assert (whole.shape, both.shape) == ((2, 1, 8), (2, 4, 8))
    torch.testing.assert_close(whole[:, 0], both[:, 0])
    torch.testing.assert_close(both.norm(dim=-1), torch.ones(2, 4))
    assert (both[0, 1] - both[0, 2]).abs().max() > 1e-3  # each organ's query sees something else
    torch.testing.assert_close(model.embed_image(model.encode_image(image[:1]), *organs)[0], both[0])


def test_padding_changes_no_text_and_no_tokens_are_no_nan() -> None:
    model = build(8).eval()
    tokens, mask = texts(2)
    longer = torch.cat([tokens, torch.full((2, 3, 12), 7.0)], dim=1)
    padded = torch.cat([mask, torch.zeros(2, 3, dtype=torch.bool)], dim=1)
    torch.testing.assert_close(model.embed_text(longer, padded), model.embed_text(tokens, mask))
    empty = model.embed_text(tokens, torch.zeros_like(mask))
    assert torch.isfinite(empty).all()
    torch.testing.assert_close(empty[0], empty[1])


def test_the_control_without_words_gives_all_texts_one_vector() -> None:
    model = build(8, text_ablation=True).eval()
    found = model.embed_text(*texts(3))
    torch.testing.assert_close(found[0], found[2])


def test_pooling_by_hand() -> None:
    """One head, no MLP, identity projections: softmax over the scores of normalised items."""
    pool = AttentionPool(2, 1)
    with torch.no_grad():
        for linear in (pool.query, pool.out):
            linear.weight.copy_(torch.eye(2))
            linear.bias.zero_()
        pool.key_value.weight.copy_(torch.cat([torch.eye(2), torch.eye(2)]))
        pool.key_value.bias.zero_()
        pool.mlp[-1].weight.zero_()
        pool.mlp[-1].bias.zero_()
    items = torch.tensor([[[1.0, -1.0], [-1.0, 1.0]]])  # as the norm leaves them
    query = torch.tensor([[[2**0.5, 0.0]]])  # scores 1 and -1 after the scaling by the root of 2
    share = torch.softmax(torch.tensor([1.0, -1.0]), 0)
    expected = share[0] * items[0, 0] + share[1] * items[0, 1]
    torch.testing.assert_close(pool(query, items)[0, 0], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(pool(query, items, torch.tensor([[True, False]]))[0, 0], items[0, 0], atol=1e-4, rtol=0)


@torch.no_grad()
def test_half_of_the_heads_look_where_findings_are_proposed() -> None:
    pool = AttentionPool(4, 2, prior=True)
    pool.query.weight.zero_(), pool.query.bias.zero_()  # no item is preferred by what it holds
    pool.out.weight.copy_(torch.eye(4)), pool.out.bias.zero_()
    pool.mlp[-1].weight.zero_(), pool.mlp[-1].bias.zero_()
    pool.nothing.copy_(torch.arange(8.0))
    items = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0))
    value = pool.key_value(pool.norm(items))[0, :, 4:]
    found = pool(torch.zeros(1, 1, 4), items, prior_BN=torch.tensor([[0.0, 0.5, 1.0]]))[0, 0]
    torch.testing.assert_close(found[:2], value[:, :2].mean(0))  # the first head: all items alike
    shares = (torch.tensor([6.0, 7.0]) + 0.5 * value[1, 2:] + 1.0 * value[2, 2:]) / 2.5  # "nothing" counts as 1
    torch.testing.assert_close(found[2:], shares, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_proposals_reach_the_vectors() -> None:
    model = build(8, proposals=True).eval()
    image = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(2))
    features, organs = model.encode_image(image), texts(3)
    before = model.embed_image(features, *organs)
    features[-1] = features[-1] + torch.linspace(-9, 9, features[-1].numel()).view_as(features[-1])  # the coarsest
    assert (model.embed_image(features, *organs) - before).abs().max() > 1e-3
    whole = model.contrast(features, *organs, *texts(2)).image_BOE
    torch.testing.assert_close(whole, model.embed_image(features, *organs))
    with pytest.raises(ConfigError, match="even alignment_width"):
        build(7, proposals=True)

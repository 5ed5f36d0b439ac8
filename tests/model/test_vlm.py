"""The model as a whole, both designs: independence of phrases, padding, saving, learning."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vol3d.config import from_tree, to_tree
from vol3d.errors import CheckpointError, ConfigError
from vol3d.model.encoder import EncoderConfig
from vol3d.model.heads import PresenceHead
from vol3d.model.text import TextConfig
from vol3d.model.vlm import ModelConfig, Output, VisionLanguageModel, resolve_model

PATCH = (16, 24, 16)
DESIGNS = ["shared", "contextual", "proposals"]
"""`proposals`: `shared` with them."""


def small(fusion: str, **changes: object) -> ModelConfig:
    encoder = EncoderConfig(features=(4, 6, 8, 10), blocks=(1, 1, 1, 1), strides=_S, kernel_sizes=((3, 3, 3),) * 4)
    text = TextConfig(width=12, revision="0" * 16)
    if fusion == "proposals":
        fusion, changes = "shared", {"proposals": True, **changes}
    return ModelConfig(fusion=fusion, width=8, heads=2, in_channels=3, encoder=encoder, text=text, **changes)  # type: ignore[arg-type]


_S = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))


def inputs(batch: int = 2, phrases: int = 3, tokens: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(batch, 3, *PATCH, generator=generator)
    tokens_BPTE = torch.randn(batch, phrases, tokens, 12, generator=generator)
    lengths = torch.randint(2, tokens + 1, (batch, phrases), generator=generator)
    return image, tokens_BPTE, torch.arange(tokens) < lengths[..., None]


def make(fusion: str, **changes: object) -> VisionLanguageModel:
    torch.manual_seed(0)
    return VisionLanguageModel(small(fusion, **changes)).eval()


def assert_same(a: Output, b: Output, atol: float = 1e-5) -> None:
    for x, y in zip((*a.logits, a.presence_BP), (*b.logits, b.presence_BP), strict=True):
        torch.testing.assert_close(x, y, atol=atol, rtol=1e-5)


@pytest.mark.parametrize("fusion", DESIGNS)
def test_output_shapes(fusion: str) -> None:
    output = make(fusion)(*inputs())
    assert output.logits[0].shape == (2, 3, *PATCH)
    assert output.logits[1].shape == (2, 3, 8, 12, 8)
    assert output.presence_BP.shape == (2, 3)


@pytest.mark.parametrize("fusion", DESIGNS)
@torch.no_grad()
def test_phrases_together_or_alone_or_in_another_order(fusion: str) -> None:
    model = make(fusion)
    image, tokens, mask = inputs()
    together = model(image, tokens, mask)
    alone = [model(image, tokens[:, p : p + 1], mask[:, p : p + 1]) for p in range(3)]
    joined = Output(
        [torch.cat(parts, dim=1) for parts in zip(*(o.logits for o in alone), strict=True)],
        torch.cat([o.presence_BP for o in alone], dim=1),
    )
    assert_same(together, joined)
    order = [2, 0, 1]
    shuffled = model(image, tokens[:, order], mask[:, order])
    assert_same(shuffled, Output([x[:, order] for x in together.logits], together.presence_BP[:, order]))
    assert (together.logits[0][:, 0] - together.logits[0][:, 1]).abs().max() > 1e-3


@pytest.mark.parametrize("fusion", DESIGNS)
@torch.no_grad()
def test_images_of_a_batch_are_independent(fusion: str) -> None:
    model = make(fusion)
    image, tokens, mask = inputs()
    both, second = model(image, tokens, mask), model(image[1:], tokens[1:], mask[1:])
    assert_same(Output([x[1:] for x in both.logits], both.presence_BP[1:]), second)


@pytest.mark.parametrize("fusion", DESIGNS)
@torch.no_grad()
def test_encode_once_ground_many_equals_forward(fusion: str) -> None:
    model = make(fusion)
    image, tokens, mask = inputs()
    features = model.encode_image(image)
    first = model.ground(features, tokens[:, :2], mask[:, :2])
    assert_same(first, model(image, tokens[:, :2], mask[:, :2]))
    assert_same(model.ground(features, tokens, mask), model(image, tokens, mask))


@pytest.mark.parametrize("fusion", DESIGNS)
@torch.no_grad()
def test_padding_tokens_change_nothing(fusion: str) -> None:
    model = make(fusion)
    image, tokens, mask = inputs()
    garbage = torch.where(mask[..., None], tokens, torch.full_like(tokens, 50.0))
    longer = torch.cat([garbage, torch.full((2, 3, 4, 12), -50.0)], dim=2)
    padded = torch.cat([mask, torch.zeros(2, 3, 4, dtype=torch.bool)], dim=2)
    assert_same(model(image, tokens, mask), model(image, longer, padded), atol=1e-6)


@pytest.mark.parametrize("fusion", DESIGNS)
@torch.no_grad()
def test_control_gives_every_phrase_the_same_answer(fusion: str) -> None:
    output = make(fusion, text_ablation=True)(*inputs())
    for x in (*output.logits, output.presence_BP):
        torch.testing.assert_close(x, x[:, :1].expand_as(x))


@pytest.mark.parametrize("fusion", DESIGNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_reaches_every_parameter(fusion: str, dtype: torch.dtype) -> None:
    model = make(fusion, activation_checkpointing=dtype is torch.bfloat16).train()
    image, tokens, mask = inputs()
    # oneDNN's bf16 weight gradient of a channels-last 2x2x2 map reads memory nobody wrote; 4x4x4 and larger are right
    image = torch.nn.functional.interpolate(image, scale_factor=2)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is torch.bfloat16):
        output = model(image, tokens, mask & torch.tensor([[True], [True], [False]]))
    maps = [*output.logits, *output.proposals]
    (sum(x.float().square().mean() for x in maps) + output.presence_BP.float().square().mean()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("fusion", DESIGNS)
@torch.no_grad()
def test_saved_model_answers_bit_for_bit(fusion: str, tmp_path: Path) -> None:
    model = make(fusion)
    model.save_pretrained(tmp_path)
    again = VisionLanguageModel.from_pretrained(tmp_path)
    assert again.config == model.config
    before, after = model(*inputs()), again(*inputs())
    assert torch.equal(before.presence_BP, after.presence_BP)
    assert all(torch.equal(a, b) for a, b in zip(before.logits, after.logits, strict=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_loading_is_strict(tmp_path: Path) -> None:
    make("shared").save_pretrained(tmp_path)
    tensors, config = load_file(tmp_path / "model.safetensors"), json.loads((tmp_path / "model.json").read_text())
    name = sorted(tensors)[0]
    save_file({k: v for k, v in tensors.items() if k != name}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"1 tensors missing, 0 unknown.*{name}"):
        VisionLanguageModel.from_pretrained(tmp_path)
    save_file({**tensors, "extra": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="0 tensors missing, 1 unknown"):
        VisionLanguageModel.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="damaged"):
        VisionLanguageModel.from_pretrained(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({**config, "fusoin": "shared"}))
    with pytest.raises(CheckpointError, match="did you mean 'fusion'"):
        VisionLanguageModel.from_pretrained(tmp_path)
    (tmp_path / "model.json").unlink()
    with pytest.raises(CheckpointError, match=r"found no model\.json"):
        VisionLanguageModel.from_pretrained(tmp_path)


def test_configuration_is_checked_and_resolved() -> None:
    config = from_tree(ModelConfig, {"encoder": {"features": [4, 6, 8], "blocks": [1, 1, 1]}, "width": 8}, "file")
    assert config.levels == (2, 1)
    with pytest.raises(ConfigError, match="not resolved"):
        VisionLanguageModel(config)
    resolved = resolve_model(config, in_channels=5, patch_size=(16, 16, 16), spacing_mm=(2.0, 2.0, 2.0))
    assert (resolved.in_channels, resolved.text.width) == (5, 768)
    assert from_tree(ModelConfig, to_tree(resolved), "again") == resolved
    with pytest.raises(ConfigError, match="expected 5"):
        resolve_model(replace(config, in_channels=4), in_channels=5, patch_size=(16,) * 3, spacing_mm=(2.0,) * 3)
    with pytest.raises(ConfigError, match="fusion_levels"):
        ModelConfig(fusion_levels=(3, 1))
    with pytest.raises(ConfigError, match="proposals with the fusion shared alone"):
        ModelConfig(fusion="contextual", proposals=True)
    with pytest.raises(ConfigError, match="heads divide"):
        ModelConfig(width=10, heads=4)


@torch.no_grad()
def test_presence_starts_as_the_mean_of_the_peaks_of_every_level() -> None:
    head = PresenceHead(2, 3, 4, 5, 6)
    head.kind.weight.zero_()
    head.kind.bias.zero_()
    fine, coarse = torch.full((1, 2, 4, 4, 4), -6.0), torch.full((1, 2, 2, 2, 2), -4.0)
    fine[0, 1, 3, 0, 2], coarse[0, 1, 1, 0, 1] = 5.0, 3.0
    presence = head([fine, coarse], torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 5), 2)
    torch.testing.assert_close(presence, torch.tensor([[-5.0, 4.0]]))

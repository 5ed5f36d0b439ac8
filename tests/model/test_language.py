"""The language model as a whole: padding, loss, what stays frozen, saving, learning from the image."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vol3d.config import from_tree, to_tree
from vol3d.errors import CheckpointError, ConfigError, ModelUnavailableError
from vol3d.model.files import load_weights
from vol3d.model.language import BaseConfig, GenerationConfig, LanguageConfig, LanguageModel, resolve_language

_spec = importlib.util.spec_from_file_location("language_models", Path(__file__).with_name("language_models.py"))
assert _spec is not None
assert _spec.loader is not None
models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(models)

KINDS = ["small", *models.ARCHITECTURES]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: models.save_base(tmp_path_factory.mktemp(kind), kind) for kind in models.ARCHITECTURES}


def make(kind: str, folders: dict[str, Path], **changes: object) -> LanguageModel:
    """As after training: gates open, adapters at work."""
    model = models.small(**changes) if kind == "small" else models.pretrained(folders[kind], **changes)
    return models.open_gates(model)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_padded_visual_tokens_change_nothing_at_all(folders: dict[str, Path], kind: str) -> None:
    model = make(kind, folders)
    ids, mask, _ = models.text_batch(model)
    visual, visual_mask = models.images(3)
    expected = model(ids, mask, visual, visual_mask)
    for junk in (0.0, 1e30, float("nan"), float("inf")):
        filled = visual.masked_fill(~visual_mask[..., None], junk)
        assert torch.equal(model(ids, mask, filled, visual_mask), expected)
    longer = torch.cat([visual, visual], 1), torch.cat([visual_mask, torch.zeros_like(visual_mask)], 1)
    torch.testing.assert_close(model(ids, mask, *longer), expected, atol=1e-4, rtol=1e-4)
    assert (model(ids, mask, visual, torch.ones_like(visual_mask)) - expected)[1:].abs().amax((1, 2)).min() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_without_visual_tokens_stays_finite(folders: dict[str, Path], kind: str) -> None:
    model = make(kind, folders)
    batch = models.text_batch(model)
    visual, visual_mask = models.images(3)
    visual_mask[1] = False
    loss = model.loss(*batch, visual, visual_mask)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    none = model.sample_losses(*batch, visual[:, :0], visual_mask[:, :0])
    torch.testing.assert_close(none[1], model.sample_losses(*batch, visual, visual_mask)[1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_samples_are_independent_causal_and_padded_on_either_side(folders: dict[str, Path], kind: str) -> None:
    model = make(kind, folders)
    ids, mask, _ = models.text_batch(model)
    visual, visual_mask = models.images(3)
    logits = model(ids, mask, visual, visual_mask)
    for b in range(3):
        real = int(mask[b].sum())
        alone = model(ids[b : b + 1, :real], mask[b : b + 1, :real], visual[b : b + 1], visual_mask[b : b + 1])[0]
        torch.testing.assert_close(logits[b, :real], alone, atol=1e-4, rtol=1e-4)
        space = torch.nn.functional.pad
        left = model(
            space(ids[b : b + 1, :real], (4, 0)), space(mask[b : b + 1, :real], (4, 0)), visual[b : b + 1],
            visual_mask[b : b + 1],
        )[0, 4:]  # fmt: skip
        torch.testing.assert_close(left, alone, atol=1e-4, rtol=1e-4)
    changed = ids.clone()
    changed[:, 5:] = 17
    torch.testing.assert_close(model(changed, mask, visual, visual_mask)[:, :5], logits[:, :5], atol=1e-5, rtol=1e-5)
    assert (model(ids, mask, visual.roll(1, 0), visual_mask) - logits)[:, 0].abs().amax(1).min() > 1e-3


@pytest.mark.parametrize("kind", models.ARCHITECTURES)
@torch.no_grad()
def test_a_pretrained_model_starts_exactly_as_it_was(folders: dict[str, Path], kind: str) -> None:
    from transformers import AutoModelForCausalLM

    model = models.pretrained(folders[kind])
    plain = AutoModelForCausalLM.from_pretrained(folders[kind]).eval()
    ids, mask = torch.tensor([[2, 7, 9, 30, 8], [5, 6, 90, 0, 0]]), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    own = model.config.base.own_tokens  # type: ignore[union-attr]
    position = (mask.long().cumsum(1) - 1).clamp(min=0)
    expected = plain(input_ids=ids, attention_mask=mask.long(), position_ids=position).logits
    found = model(ids, mask, *models.images(2))
    assert torch.equal(found[..., :own], expected[..., :own])
    assert found.shape[-1] == model.tokenizer.size == own + 36
    opened = models.open_gates(model)(ids, mask, *models.images(2))
    assert (opened[..., :own] - expected[..., :own]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["small", "gpt2"])
@torch.no_grad()
def test_loss_is_the_mean_over_samples_of_the_mean_over_targets(folders: dict[str, Path], kind: str) -> None:
    model = make(kind, folders)
    ids, mask, target = models.text_batch(model)
    visual, visual_mask = models.images(3)
    logp = model(ids, mask, visual, visual_mask).log_softmax(-1)
    by_hand = []
    for b in range(3):
        steps = [-logp[b, t - 1, ids[b, t]] for t in range(1, ids.shape[1]) if target[b, t]]
        by_hand.append(torch.stack(steps).mean())
    losses = model.sample_losses(ids, mask, target, visual, visual_mask)
    torch.testing.assert_close(losses, torch.stack(by_hand), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.loss(ids, mask, target, visual, visual_mask), losses.mean())
    ranks = [
        model.loss(ids[b:][:1], mask[b:][:1], target[b:][:1], visual[b:][:1], visual_mask[b:][:1]) for b in range(3)
    ]
    torch.testing.assert_close(torch.stack(ranks).mean(), losses.mean(), atol=1e-5, rtol=1e-5)
    target[0] = False
    target[0, 0] = True  # nothing stands before it
    without = model.sample_losses(ids, mask, target, visual, visual_mask)
    assert float(without[0]) == 0
    torch.testing.assert_close(without[1:], losses[1:], atol=1e-5, rtol=1e-5)
    assert float(model.loss(ids, mask, torch.zeros_like(target), visual, visual_mask)) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient_reaches_what_trains_and_nothing_else(folders: dict[str, Path], kind: str, dtype: torch.dtype) -> None:
    model = make(kind, folders, activation_checkpointing=dtype is torch.bfloat16).train()
    ids, mask, target = models.text_batch(model)
    ids[0, 3] = model.tokenizer.slot_ids[0]
    with torch.autocast("cpu", dtype=dtype, enabled=dtype is torch.bfloat16):
        model.loss(ids, mask, target, *models.images(3)).backward()
    for name, parameter in model.named_parameters():
        if kind == "small" or any(part in name for part in ("lora_", "visual", "new_tokens")):
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().max() > 0, name
        else:
            assert parameter.grad is None, name
            assert not parameter.requires_grad, name


@pytest.mark.parametrize("kind", KINDS)
def test_activation_checkpointing_changes_no_gradient(folders: dict[str, Path], kind: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        model = make(kind, folders, activation_checkpointing=checkpointing).train()
        torch.manual_seed(4)
        model.loss(*models.text_batch(model), *models.images(3)).backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    if kind != "gpt2":  # its dropout draws in another order
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", models.ARCHITECTURES)
def test_training_moves_adapters_and_leaves_the_base_bit_identical(folders: dict[str, Path], kind: str) -> None:
    model = models.pretrained(folders[kind]).train()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    batch, images = models.text_batch(model), models.images(3)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-2)
    losses = []
    for _ in range(12):
        loss = model.loss(*batch, *images)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name


@pytest.mark.parametrize("kind", models.ARCHITECTURES)
def test_a_base_in_bfloat16_trains_float32_weights_around_it(folders: dict[str, Path], kind: str) -> None:
    base = BaseConfig(name=str(folders[kind]), lora_rank=2, dtype="bfloat16")
    config = LanguageConfig(kind="huggingface", base=base, max_tokens=64)
    torch.manual_seed(0)
    model = LanguageModel(*resolve_language(config, visual_width=models.VISUAL))
    for parameter in model.parameters():
        assert parameter.dtype == (torch.float32 if parameter.requires_grad else torch.bfloat16)
    loss = models.open_gates(model).train().loss(*models.text_batch(model), *models.images(3))
    loss.backward()
    exact = make(kind, folders).loss(*models.text_batch(model), *models.images(3))
    assert loss.item() == pytest.approx(exact.item(), rel=0.25)
    written = model.generate([[2, 7]] * 3, *models.images(3), GenerationConfig(strategy="beam", max_new_tokens=4))
    assert len(written) == 3


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_saved_model_answers_bit_for_bit(folders: dict[str, Path], kind: str, tmp_path: Path) -> None:
    model = make(kind, folders, extra_tokens=("<organ>",))
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["language.json", "language.safetensors", "tokenizer.json"]
    again = LanguageModel.from_pretrained(tmp_path)
    assert again.config == model.config
    assert again.tokenizer.encode("<organ><size_1> liver") == model.tokenizer.encode("<organ><size_1> liver")
    ids, mask, _ = models.text_batch(model)
    assert torch.equal(again(ids, mask, *models.images(3)), model(ids, mask, *models.images(3)))
    names = load_file(tmp_path / "language.safetensors").keys()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert set(names) == trained
    if kind != "small":
        assert all(any(part in n for part in ("lora_", "visual", "new_tokens")) for n in names)


@torch.no_grad()
def test_it_lies_in_a_larger_model_without_its_base(folders: dict[str, Path], tmp_path: Path) -> None:
    class Larger(nn.Module):
        def __init__(self, language: LanguageModel) -> None:
            super().__init__()
            self.image, self.language = nn.Linear(3, models.VISUAL), language

    model, again = (Larger(make("llama", folders)), Larger(models.pretrained(folders["llama"])))
    tensors = model.state_dict()
    assert not any(name.endswith(("q_proj.base_layer.weight", "embed_tokens.weight")) for name in tensors)
    save_file({n: t.contiguous() for n, t in tensors.items()}, tmp_path / "all.safetensors")
    load_weights(again, tmp_path / "all.safetensors")
    batch = models.text_batch(model.language)[:2]
    assert torch.equal(again.language(*batch, *models.images(3)), model.language(*batch, *models.images(3)))


def test_loading_is_strict_and_refuses_another_base(folders: dict[str, Path], tmp_path: Path) -> None:
    base, saved = tmp_path / "base", tmp_path / "saved"
    shutil.copytree(folders["llama"], base)
    models.pretrained(base).save_pretrained(saved)
    tensors = load_file(base / "model.safetensors")
    save_file(
        {**tensors, "lm_head.weight": tensors["lm_head.weight"] + 1}, base / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ModelUnavailableError, match=r"expected language model .* of revision"):
        LanguageModel.from_pretrained(saved)
    shutil.rmtree(base)
    with pytest.raises(ModelUnavailableError, match=r"language\.base\.name: DIR"):
        LanguageModel.from_pretrained(saved)
    own = tmp_path / "own"
    models.small().save_pretrained(own)
    tensors, config = load_file(own / "language.safetensors"), json.loads((own / "language.json").read_text())
    save_file({k: v for k, v in tensors.items() if k != "decoder.norm.weight"}, own / "language.safetensors")
    with pytest.raises(CheckpointError, match=r"1 tensors missing, 0 unknown.*decoder\.norm\.weight"):
        LanguageModel.from_pretrained(own)
    (own / "language.json").write_text(json.dumps({**config, "tokenizer_digest": "0"}))
    with pytest.raises(ConfigError, match="expected a tokenizer with digest 0"):
        LanguageModel.from_pretrained(own)
    (own / "language.json").write_text(json.dumps({**config, "layerz": 2}))
    with pytest.raises(CheckpointError, match="did you mean 'layers'"):
        LanguageModel.from_pretrained(own)
    (own / "language.json").unlink()
    with pytest.raises(CheckpointError, match=r"found no language\.json"):
        LanguageModel.from_pretrained(own)


def test_what_is_no_causal_model_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    def resolve(name: str, **changes: object) -> tuple[LanguageConfig, object]:
        config = LanguageConfig(kind="huggingface", base=BaseConfig(name=name), max_tokens=64, **changes)  # type: ignore[arg-type]
        return resolve_language(config, visual_width=4)

    with pytest.raises(ConfigError, match="expected a causal language model, found 'bert'"):
        resolve("minilm")
    headless = tmp_path / "headless"
    shutil.copytree(folders["llama"], headless)
    tensors = load_file(headless / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, headless / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelUnavailableError, match=r"found none for lm_head\.weight"):
        LanguageModel(*resolve(str(headless)))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"lora_targets: .*nothing"):
        LanguageModel(*resolve_language(
            LanguageConfig(kind="huggingface", max_tokens=64,
                           base=BaseConfig(name=str(folders["llama"]), lora_targets=("nothing",))),
            visual_width=4,
        ))  # fmt: skip
    (headless / "model.safetensors").rename(headless / "pytorch_model.bin")
    with pytest.raises(ModelUnavailableError, match=r"expected weights as \*\.safetensors"):
        resolve(str(headless))
    with pytest.raises(ConfigError, match=r"at most 64 .*found 65"):
        resolve_language(
            LanguageConfig(kind="huggingface", base=BaseConfig(name=str(folders["gpt2"])), max_tokens=65),
            visual_width=4,
        )


def test_configuration_is_checked_and_survives_a_file() -> None:
    config = models.small().config
    assert from_tree(LanguageConfig, to_tree(config), "again") == config
    with pytest.raises(ConfigError, match="not resolved"):
        LanguageModel(replace(config, tokens=0), models.small().tokenizer)
    for changes, fragment in (
        ({"kind": "huggingface"}, "kind huggingface without base"),
        ({"base": BaseConfig(name="x")}, "kind small with base"),
        ({"layers": 0}, "layers: expected at least 1"),
        ({"width": 18, "heads": 6}, "18 and 6 heads"),
        ({"visual_inner": 9}, "visual_heads divide"),
    ):
        with pytest.raises(ConfigError, match=fragment):
            LanguageConfig(**changes)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at most 64 tokens, found 65"):
        models.small()(torch.zeros(1, 65, dtype=torch.long), torch.ones(1, 65, dtype=torch.bool), *models.images(1))


@pytest.mark.parametrize("kind", ["small", "qwen2"])
def test_shapes_without_weights_on_the_meta_device(folders: dict[str, Path], kind: str) -> None:
    real = make(kind, folders)
    with torch.device("meta"):
        model = LanguageModel(real.config, real.tokenizer)
    assert {n: (p.shape, p.device.type) for n, p in model.named_parameters()} == {
        n: (p.shape, "meta") for n, p in real.named_parameters()
    }


def test_the_small_decoder_learns_to_say_what_the_image_shows() -> None:
    """One visual token in six tells the organ, another the side; the words alone tell neither."""
    organs, sides = ["liver", "spleen", "left lung"], ["small", "large"]
    texts = [f"A {s} lesion of the {o}, <size_1>." for o in organs for s in sides]
    config = LanguageConfig(width=32, layers=2, heads=2, visual_heads=2, max_tokens=32, dropout=0.0)
    config, tokenizer = resolve_language(config, visual_width=8, texts=texts * 2)
    torch.manual_seed(0)
    model = LanguageModel(config, tokenizer).train()
    codes = torch.randn(5, 8)

    def show(cases: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        visual = torch.randn(len(cases), 6, 8, generator=generator) * 0.3
        place = torch.stack([torch.randperm(6, generator=generator)[:2] for _ in cases])
        rows = torch.arange(len(cases))
        visual[rows, place[:, 0]] += codes[cases // 2]
        visual[rows, place[:, 1]] += codes[3 + cases % 2]
        return visual

    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    seen = torch.ones(36, 6, dtype=torch.bool)
    for _ in range(90):
        cases = torch.randint(0, 6, (36,), generator=generator)
        batch = tokenizer.pack([""] * 36, [texts[c] for c in cases], 32)
        loss = model.loss(batch.ids_BT, batch.mask_BT, batch.target_BT, show(cases, generator), seen)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    cases = torch.arange(36) % 6
    written = model.write([""] * 36, show(cases, generator), seen, GenerationConfig(max_new_tokens=24))
    assert sum(w == texts[c] for w, c in zip(written, cases, strict=True)) >= 33

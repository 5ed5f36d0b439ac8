"""Frozen text encoders: same states as plain transformers, nothing downloaded, clear words when a model is absent."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from vol3d.errors import ConfigError, ModelUnavailableError
from vol3d.model import text as module
from vol3d.model.text import TextConfig, TextEncoder, find_model, normalise, resolve_text

TEXTS = ["Left  kidney", "an avid lesion in the right lung", "liver", "spleen"]


def test_minilm_states_equal_plain_transformers_with_padding() -> None:
    folder = find_model("minilm")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    batch = tokenizer(["left kidney", *TEXTS[1:]], padding=True, return_tensors="pt")
    with torch.inference_mode():
        output = model(**batch, output_hidden_states=True)
        expected = torch.cat([output.hidden_states[0], output.last_hidden_state], dim=-1)
    encoder = TextEncoder(TextConfig())
    states = encoder.encode(TEXTS)
    assert encoder.width == 768
    for state, row, mask in zip(states, expected, batch["attention_mask"].bool(), strict=True):
        np.testing.assert_allclose(state, row[mask].numpy(), atol=2e-5)


def test_causal_model_states_do_not_depend_on_their_batch(causal: TextConfig) -> None:
    encoder = TextEncoder(causal)
    together = encoder.encode(["lesion in the left Lung", "lesion", "right Lung"])
    alone = [encoder.encode([t])[0] for t in ("lesion in the left Lung", "lesion", "right Lung")]
    assert [s.shape for s in together] == [(5, 32), (1, 32), (2, 32)]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_layers_are_put_side_by_side_in_the_order_asked(causal: TextConfig) -> None:
    both = TextEncoder(replace(causal, layers=(-1, 0))).encode(["right Lung"])[0]
    last, first = (TextEncoder(replace(causal, layers=(n,))).encode(["right Lung"])[0] for n in (-1, 0))
    np.testing.assert_array_equal(both, np.concatenate([last, first], axis=1))
    with pytest.raises(ConfigError, match="numbers from -"):
        TextEncoder(replace(causal, layers=(99,)))
    with pytest.raises(ConfigError, match="each once"):
        replace(causal, layers=(0, 0))


def test_word_embeddings_part_left_from_right_where_the_last_layer_hardly_does() -> None:
    """Squared distance of the two side tokens over the variance; the reason for the default of `layers`."""
    sides = ["lesion in the left lung", "lesion in the right lung"]

    def apart(layer: int) -> float:
        left, right = TextEncoder(TextConfig(layers=(layer,))).encode(sides)
        return float(((left - right) ** 2).sum(1).max() / np.var(np.concatenate([left, right]), axis=0).sum())

    assert apart(0) > 1.5 * apart(-1)


def test_instruction_changes_states_but_its_tokens_are_dropped(causal: TextConfig) -> None:
    plain = TextEncoder(causal).encode(["lesion in the left Lung"])[0]
    told = TextEncoder(replace(causal, instruction="Find : ")).encode(["lesion in the left Lung"])[0]
    assert told.shape == plain.shape
    assert np.abs(told - plain).max() > 1e-3


def test_normalise_collapses_space_and_lowers_only_for_uncased() -> None:
    assert normalise("  Left \n Lung ", lower=True) == "left lung"
    assert normalise("  Left \n Lung ", lower=False) == "Left Lung"


def test_resolve_fills_width_and_a_revision_that_follows_the_files(causal: TextConfig, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(causal.name, copy)
    resolved = resolve_text(causal)
    assert resolved.width == 32
    assert resolve_text(replace(causal, name=str(copy))).revision == resolved.revision
    with (copy / "model.safetensors").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ModelUnavailableError, match=resolved.revision):
        resolve_text(replace(resolved, name=str(copy)))


def test_absent_model_says_what_to_download() -> None:
    with pytest.raises(ModelUnavailableError, match=r"hf download some/model --local-dir DIR.*model\.text\.name: DIR"):
        TextEncoder(TextConfig(name="some/model"))


def test_pickled_weights_are_refused(causal: TextConfig, tmp_path: Path) -> None:
    shutil.copy(Path(causal.name) / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(ModelUnavailableError, match="pickled weights are not read"):
        resolve_text(TextConfig(name=str(tmp_path)))


def test_altered_minilm_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "altered_minilm" / "model"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "model.safetensors").write_bytes(b"not the weights")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(module, "_MINILM_PACKAGE", "altered_minilm")
    with pytest.raises(ModelUnavailableError, match="SHA-256 53aa51172d"):
        find_model("minilm")


def test_long_text_is_refused_not_cut(causal: TextConfig) -> None:
    with pytest.raises(ConfigError, match="1 to 4 tokens, found 5"):
        TextEncoder(replace(causal, max_tokens=4)).encode(["lesion in the left Lung"])
    with pytest.raises(ConfigError, match="1 to 32 tokens, found 40"):
        TextEncoder(causal).encode(["lesion " * 40])

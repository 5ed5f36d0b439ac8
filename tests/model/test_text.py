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
        expected = model(**batch).last_hidden_state
    encoder = TextEncoder(TextConfig())
    states = encoder.encode(TEXTS)
    assert encoder.width == 384
    for state, row, mask in zip(states, expected, batch["attention_mask"].bool(), strict=True):
        np.testing.assert_allclose(state, row[mask].numpy(), atol=2e-5)


def test_causal_model_states_do_not_depend_on_their_batch(causal: TextConfig) -> None:
    encoder = TextEncoder(causal)
    together = encoder.encode(["lesion in the left Lung", "lesion", "right Lung"])
    alone = [encoder.encode([t])[0] for t in ("lesion in the left Lung", "lesion", "right Lung")]
    assert [s.shape for s in together] == [(5, 16), (1, 16), (2, 16)]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


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
    assert resolved.width == 16
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

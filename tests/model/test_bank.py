"""The embedding bank: round trip, reuse, atomic segments, readers that travel to workers."""

import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vol3d.errors import CacheError, ModelUnavailableError
from vol3d.model import bank as module
from vol3d.model.bank import EmbeddingBank
from vol3d.model.text import TextConfig, TextEncoder

TEXTS = ["lesion in the left Lung", "right Lung", "lesion"]


def test_round_trip_is_exact_in_float32(causal: TextConfig, tmp_path: Path) -> None:
    bank = EmbeddingBank(tmp_path, causal)
    assert bank.ensure([*TEXTS, " right   Lung", ""]) == 3
    for text, state in zip(TEXTS, TextEncoder(causal).encode(TEXTS), strict=True):
        np.testing.assert_array_equal(bank.get(text), state)
        assert bank.get(text).dtype == np.float32


def test_float16_halves_the_file_and_keeps_three_digits(causal: TextConfig, tmp_path: Path) -> None:
    half = EmbeddingBank(tmp_path, replace(causal, storage="float16"))
    full = EmbeddingBank(tmp_path, causal)
    assert half.folder != full.folder
    half.ensure(TEXTS)
    full.ensure(TEXTS)
    np.testing.assert_allclose(half.get(TEXTS[0]), full.get(TEXTS[0]), rtol=1e-3, atol=1e-3)


def test_only_missing_texts_are_encoded(causal: TextConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    encode = TextEncoder.encode
    monkeypatch.setattr(TextEncoder, "encode", lambda self, texts: (seen.extend(texts), encode(self, texts))[1])
    EmbeddingBank(tmp_path, causal).ensure(TEXTS[:2])
    assert EmbeddingBank(tmp_path, causal).ensure(TEXTS) == 1
    assert EmbeddingBank(tmp_path, causal).ensure(TEXTS) == 0
    assert sorted(seen) == sorted(TEXTS)


def test_filled_bank_serves_without_the_model(causal: TextConfig, tmp_path: Path) -> None:
    bank = EmbeddingBank(tmp_path, causal)
    bank.ensure(TEXTS)
    away = EmbeddingBank(tmp_path, replace(bank.config, name="moved/elsewhere"))
    assert away.ensure(TEXTS) == 0
    np.testing.assert_array_equal(away.get(TEXTS[0]), bank.get(TEXTS[0]))
    with pytest.raises(ModelUnavailableError, match="moved/elsewhere"):
        away.ensure(["left"])


def test_instruction_and_revision_part_banks(causal: TextConfig, tmp_path: Path) -> None:
    plain, told = EmbeddingBank(tmp_path, causal), EmbeddingBank(tmp_path, replace(causal, instruction="Find : "))
    plain.ensure(TEXTS)
    with pytest.raises(CacheError, match="ensure"):
        told.get(TEXTS[0])


def test_a_killed_write_leaves_nothing_that_counts(
    causal: TextConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = EmbeddingBank(tmp_path, causal)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            bank.ensure(TEXTS)
    again = EmbeddingBank(tmp_path, causal)
    assert len(again) == 0
    assert again.ensure(TEXTS) == 3


def test_open_reader_sees_what_another_wrote_and_survives_pickling(causal: TextConfig, tmp_path: Path) -> None:
    reader, writer = EmbeddingBank(tmp_path, causal), EmbeddingBank(tmp_path, causal)
    writer.ensure(TEXTS)
    np.testing.assert_array_equal(reader.get(TEXTS[1]), writer.get(TEXTS[1]))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).get(TEXTS[0]), writer.get(TEXTS[0]))


def test_batch_pads_and_masks(causal: TextConfig, tmp_path: Path) -> None:
    bank = EmbeddingBank(tmp_path, causal)
    bank.ensure(TEXTS)
    tokens, mask = bank.batch([[TEXTS[0], TEXTS[2]], ["right Lung", ""]])
    assert tokens.shape == (2, 2, 5, 32)
    assert tokens.dtype == torch.float32
    assert mask.sum(-1).tolist() == [[5, 1], [2, 0]]
    assert not tokens[~mask].any()
    np.testing.assert_array_equal(tokens[1, 0, :2].numpy(), bank.get("right Lung"))


def test_many_texts_fill_several_segments(causal: TextConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SEGMENT_TEXTS", 8)
    monkeypatch.setattr(module, "_RECENT_TEXTS", 4)
    texts = [f"lesion {'in ' * n}the left Lung" for n in range(20)]
    bank = EmbeddingBank(tmp_path, causal)
    bank.ensure(texts)
    assert len(list(bank.folder.glob("[!.]*.safetensors"))) == 3
    assert [len(bank.get(t)) for t in texts] == [n + 4 for n in range(20)]

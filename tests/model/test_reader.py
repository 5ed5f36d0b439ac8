"""The reader: masks, marks, and its files."""

import json

import pytest
import torch

from vol3d.errors import CheckpointError, ConfigError
from vol3d.model.generate import GenerationConfig, WritingConfig
from vol3d.model.language_config import LanguageConfig
from vol3d.model.reader import ReaderConfig, StudyReader, resolve_reader

TEXTS = ["liver:", " No focal lesion.", " There is a <size_1> lesion in the liver.", "side question: Where? answer:"]


def make(**settings):
    torch.manual_seed(0)
    language = LanguageConfig(width=16, layers=2, heads=2, vocabulary=400, max_tokens=48)
    more = {"width": 16, "heads": 2, "layers": 1, "language": language, **settings}
    config = ReaderConfig(structures=("liver",), findings=("lesion in the liver",), **more)
    return StudyReader(*resolve_reader(config, cell_channels=6, facts=5, sections=("liver",), texts=TEXTS)).eval()


def seen(rows=3, cells=2, padding=0):
    generator = torch.Generator().manual_seed(1)
    cell = torch.randn(1, cells, 6, generator=generator)
    place = torch.randn(1, cells, 3, generator=generator) * 100
    facts = torch.randn(1, rows, 5, generator=generator)
    probe, about = torch.arange(rows)[None] % 3, torch.arange(rows)[None] == 1
    pad = torch.full((1, padding, 5), 9.0)
    row_mask = torch.cat([torch.ones(1, rows), torch.zeros(1, padding)], 1).bool()
    filler = torch.zeros(1, padding, dtype=torch.long)
    return (cell, torch.ones(1, cells, dtype=torch.bool), place, torch.cat([probe, filler], 1),
            torch.cat([facts, pad], 1), torch.cat([about, filler.bool()], 1), row_mask)  # fmt: skip


def losses(reader, parts):
    text = reader.language.tokenizer.pack(["liver:"], [" No focal lesion."], 48)
    return reader.language.sample_losses(text.ids_BT, text.mask_BT, text.target_BT, *reader.visual(*parts))


def test_padded_rows_change_nothing():
    reader = make()
    torch.testing.assert_close(losses(reader, seen()), losses(reader, seen(padding=4)))


def test_a_mark_and_every_kind_of_token_are_heard():
    reader = make()
    parts = list(seen())
    whole = losses(reader, parts)
    for i in (0, 2, 3, 4, 5):
        changed = list(parts)
        changed[i] = (parts[i] + 1) % 3 if i == 3 else ~parts[i] if i == 5 else parts[i].flip(-1)
        assert not torch.allclose(whole, losses(reader, changed)), i


def test_a_study_in_which_nothing_is_seen_is_finite_and_the_same_for_all():
    reader = make()
    parts = list(seen())
    parts[1], parts[6] = parts[1] & False, parts[6] & False
    blank = losses(reader, parts)
    assert torch.isfinite(blank).all()
    parts[4] = parts[4] * 0 + 3
    torch.testing.assert_close(blank, losses(reader, parts))


def test_gradients_reach_every_weight():
    reader = make().train()
    losses(reader, seen()).sum().backward()
    silent = [n for n, p in reader.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def test_what_was_saved_writes_the_same(tmp_path):
    reader = make()
    reader.save_pretrained(tmp_path)
    again = StudyReader.from_pretrained(tmp_path)
    config = GenerationConfig(max_new_tokens=8)
    assert again.config == reader.config
    assert again.write(["liver:"], again.visual(*seen()), config) == reader.write(
        ["liver:"], reader.visual(*seen()), config
    )
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        StudyReader.from_pretrained(tmp_path)


def test_how_it_writes_is_stored_and_a_reader_of_before_takes_the_default(tmp_path):
    make(writing=WritingConfig(beams=3, no_repeat_ngram=7)).save_pretrained(tmp_path)
    assert StudyReader.from_pretrained(tmp_path).config.writing == WritingConfig(beams=3, no_repeat_ngram=7)
    tree = json.loads((tmp_path / "reader.json").read_text())
    del tree["writing"]
    (tmp_path / "reader.json").write_text(json.dumps(tree))
    assert StudyReader.from_pretrained(tmp_path).config.writing == WritingConfig()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"findings": ("liver",)}, "none twice"),
        ({"width": 15}, "heads divide"),
        ({"blind_cells": 1.5}, "blind_cells: expected 0 to 1"),
        ({"writing": WritingConfig(max_new_tokens=256)}, "max_new_tokens in 0..255"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ReaderConfig(**{"structures": ("liver",), "findings": ("lesion",), "heads": 2, **settings})


def test_an_unresolved_configuration_is_refused():
    reader = make()
    with pytest.raises(ConfigError, match="resolve_reader"):
        StudyReader(ReaderConfig(structures=("liver",), findings=("lesion",)), reader.language.tokenizer)

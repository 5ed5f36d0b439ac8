"""Small text models that lie on disk like real ones."""

from pathlib import Path

import pytest

from vol3d.model.text import TextConfig


@pytest.fixture(scope="session")
def causal_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised GPT-2 of width 16 with a word-level, cased tokenizer and no padding token."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("causal")
    words = ["[UNK]", "Find", ":", "lesion", "in", "the", "left", "right", "Lung"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    GPT2Model(GPT2Config(vocab_size=len(words), n_embd=16, n_layer=2, n_head=2, n_positions=32)).save_pretrained(folder)
    return folder


@pytest.fixture
def causal(causal_folder: Path) -> TextConfig:
    return TextConfig(name=str(causal_folder), storage="float32")

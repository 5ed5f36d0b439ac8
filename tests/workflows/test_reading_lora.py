"""A pretrained causal language model with LoRA as the reader's decoder, through `vol3d train` and `vol3d report`."""

import json

import pytest
import yaml

from vol3d.checkpoint import load_reader

LONGEST = 512


@pytest.fixture(scope="module")
def base(tiny, tmp_path_factory):
    """A random causal model on disk as real ones are, with a byte-level tokenizer; about 20,000 weights."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("language") / "base"
    rows = [json.loads(line) for line in tiny.manifest.read_text().splitlines()]
    texts = [json.dumps(row["report"]) for row in rows]
    backend = ByteLevelBPETokenizer()
    backend.train_from_iterator(texts, vocab_size=400, special_tokens=["</s>"], show_progress=False)
    PreTrainedTokenizerFast(tokenizer_object=backend._tokenizer, eos_token="</s>").save_pretrained(folder)
    torch.manual_seed(1)
    tokens = backend.get_vocab_size()
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": LONGEST}
    GPT2LMHeadModel(GPT2Config(vocab_size=tokens, bos_token_id=0, eos_token_id=0, **sizes)).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_run_trains_adapters_of_a_local_model_and_writes_with_it(base, tiny, vol3d, tmp_path, capsys):
    tree = yaml.safe_load(tiny.config.read_text())
    tree["preprocess"] = str(tiny.config.parent / tree["preprocess"])
    language = {"kind": "huggingface", "base": {"name": str(base), "lora_rank": 2}, "max_tokens": LONGEST,
                "visual_heads": 2}  # fmt: skip
    model = {"structures": ["liver"], "findings": ["lesion in the liver"], "width": 16, "heads": 2, "layers": 1,
             "cells": [2, 1, 1], "language": language}  # fmt: skip
    train = {"steps": 3, "batch_size": 2, "precision": "fp32", "optim": {"learning_rate": 1e-2}}
    tree["read"] = {"model": model, "train": train}
    config, out = tmp_path / "lora.yaml", tmp_path / "run"
    config.write_text(yaml.safe_dump(tree))
    before = (base / "model.safetensors").read_bytes()
    assert vol3d("train", config, "--cache", tiny.cache, "--out", out, *tiny.settings) == 0
    assert (base / "model.safetensors").read_bytes() == before
    reader = load_reader(out)
    assert reader is not None
    adapters = [p for name, p in reader.language.named_parameters() if "lora_B" in name]
    assert adapters
    assert any(p.abs().max() > 0 for p in adapters)  # they start at zero
    assert not [
        name for name in reader.language.state_dict() if name.endswith("wte.weight")
    ]  # frozen: not stored again
    study = next(p for p in tiny.manifest.parent.iterdir() if p.is_dir())
    assert vol3d("report", out, study, "--out", tmp_path / "out") == 0
    record = json.loads((tmp_path / "out" / study.name / "report.json").read_text())
    assert record["writer"] == "ReaderWriter"
    # on a machine without the base the reader says what is missing where
    base.rename(base.with_name("elsewhere"))
    try:
        capsys.readouterr()
        assert vol3d("report", out, study, "--out", tmp_path / "again") == 1
        assert str(base) in capsys.readouterr().err
    finally:
        base.with_name("elsewhere").rename(base)

"""A run planned on the meta device: its numbers are those of the real one."""

import importlib.util
import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vol3d.cli import main
from vol3d.config import load_yaml
from vol3d.errors import ConfigError, ModelUnavailableError
from vol3d.model.vlm import VisionLanguageModel, resolve_model
from vol3d.train import plan
from vol3d.train.loop import train
from vol3d.train.plan import plan_run
from vol3d.train.run_config import RunConfig
from vol3d.workflows.prepare import load_recipe
from vol3d.workflows.training import run_training

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "train"


def beside(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


job = beside(Path(__file__).with_name("loop_job.py"))
save_base = beside(ROOT / "tests" / "model" / "language_models.py").save_base


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return job.make_cache(tmp_path_factory.mktemp("plan") / "cache")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("plan") / "qwen2", "qwen2")


def with_base(folder):
    return [f"read.model.language.base.name={folder}", "read.model.language.max_tokens=64"]


def planned(name, *overrides, world=1, **options):
    path = CONFIGS / f"{name}.yaml"
    return plan_run(load_yaml(path, RunConfig, overrides), load_recipe(path).spacing_mm, world, **options)


def test_parameters_are_those_of_the_real_model():
    config = load_yaml(CONFIGS / "demo.yaml", RunConfig)
    resolved = resolve_model(
        config.model,
        in_channels=config.data.channels.count,
        patch_size=config.data.patch_size,
        spacing_mm=load_recipe(CONFIGS / "demo.yaml").spacing_mm,
    )
    real = sum(p.numel() for p in VisionLanguageModel(resolved).parameters())
    phase = planned("demo").phases[0]
    assert phase.parameters == phase.trainable == real
    assert phase.bytes_by_use["weights"] == 4 * real
    assert phase.samples == config.train.steps * config.train.batch_size
    assert phase.shapes["logits"] == (phase.micro_batch, config.data.phrases_per_patch, *config.data.patch_size)


def test_bytes_are_those_of_the_real_dry_run(cache, tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="vol3d")
    real = train(job.config(), cache.root, tmp_path / "run", dry_run=True).figures
    tokens = int(re.search(r"tokens_BPTE +\(2, 2, (\d+), 768\)", caplog.text)[1])
    phase = plan_run(job.config(), job.SPACING_MM, 1, device="cpu").phases[0]
    for use in ("weights", "gradients", "optimizer", "plain copy"):
        assert phase.bytes_by_use[use] == real[use]
    assert phase.bytes_by_use["activations"] > real["activations"]  # longer phrases than these are reckoned with
    monkeypatch.setattr(plan, "PHRASE_TOKENS", tokens)
    exact = plan_run(job.config(), job.SPACING_MM, 1, device="cpu").phases[0]
    assert exact.bytes_by_use["activations"] == pytest.approx(real["activations"], rel=0.02)


def test_bf16_halves_and_checkpointing_lowers_what_is_kept():
    uses = {}
    for precision in ("fp32", "bf16"):
        for again in (False, True):
            config = replace(job.config(), model=replace(job.config().model, activation_checkpointing=again))
            phase = plan_run(config, job.SPACING_MM, 1, precision=precision).phases[0]
            uses[precision, again] = phase.bytes_by_use
    assert uses["fp32", False]["recomputed"] == 0 < uses["fp32", True]["recomputed"]
    for precision in ("fp32", "bf16"):
        assert uses[precision, True]["activations"] < uses[precision, False]["activations"]
    assert 0.4 < uses["bf16", False]["activations"] / uses["fp32", False]["activations"] < 0.8


def test_zero_shares_what_it_says(base):
    phases = [planned("ct_rate_chest", *with_base(base), world=8, stage=n).phases for n in (2, 0)]
    for shared, whole in zip(*phases, strict=True):
        assert shared.bytes_by_use["gradients"] == whole.bytes_by_use["gradients"] // 8
        assert shared.bytes_by_use["weights"] == whole.bytes_by_use["weights"]
    reader = phases[0][1]
    assert 0 < reader.trainable < reader.parameters
    assert reader.shapes["logits"][:2] == (reader.micro_batch, 64)
    assert reader.bytes_by_use["gradients"] == 4 * reader.trainable // 8  # frozen weights have none


@pytest.mark.parametrize("kind", ["small", "huggingface"])
def test_checkpointing_of_the_decoder_is_counted(kind, base):
    settings = ["data.patch_size=[32, 32, 32]", "read.model.language.max_tokens=64"]
    if kind == "huggingface":
        settings += ["read.model.language.kind=huggingface", f"read.model.language.base={{name: {base}, lora_rank: 2}}"]
    plain, again = (
        planned("phantom_all", *settings, f"read.model.language.activation_checkpointing={on}").phases[1].bytes_by_use
        for on in ("false", "true")
    )
    assert again["activations"] < plain["activations"]
    assert again["activations"] + again["recomputed"] > again["activations"] > 0


def test_a_language_model_that_is_not_here_is_named_with_what_to_do():
    with pytest.raises(ModelUnavailableError) as caught:
        planned("ct_rate_chest")
    message = str(caught.value)
    assert "hf download Qwen/Qwen2.5-1.5B --local-dir DIR" in message
    assert "read.model.language.base.name: DIR" in message
    assert "text model" not in message


def test_training_asks_for_it_before_the_first_phase(cache, tmp_path):
    with pytest.raises(ModelUnavailableError, match="hf download Qwen"):
        run_training(CONFIGS / "ct_rate_chest.yaml", cache.root, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cannot_run_is_refused_by_the_plan():
    with pytest.raises(ConfigError, match="multiple of ranks"):
        planned("autopet_petct", world=3)
    with pytest.raises(ConfigError, match="ema_decay"):
        planned("autopet_petct", world=4, stage=3)


def test_a_dry_run_needs_no_cache(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = str(CONFIGS / "autopet_petct.yaml")
    small = ["--set", "data.patch_size=[64, 64, 64]", "--set", "model.encoder.features=[8, 8, 8, 8]", "--set",
             "model.encoder.blocks=[1, 1, 1, 1]"]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        main(["train", config, "--dry-run", "--ranks", "4", *small])
    assert not ended.value.code
    shown = capsys.readouterr().out
    for part in ("parameters", "ZeRO 2 with 4 ranks, bf16", "(2, 10, 64, 64, 64)", "activations", "patches"):
        assert part in shown
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit, match="1"):
        main(["train", config, "--ranks", "4"])
    assert "--cache" in capsys.readouterr().err


def test_autocast_and_logging_are_left_as_they_were():
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda"), logging.getLogger().level
    plan_run(job.config(), job.SPACING_MM, 1)
    assert before == (
        torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda"), logging.getLogger().level,
    )  # fmt: skip

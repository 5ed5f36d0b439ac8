"""Every shipped configuration loads, names a recipe that loads, and builds the model it describes."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from preprocessing.transforms import PreprocessConfig
from vol3d.config import dump_yaml, load_yaml
from vol3d.model.vlm import VisionLanguageModel, resolve_model
from vol3d.train.plan import plan_run
from vol3d.train.run_config import RunConfig
from vol3d.workflows.prepare import load_recipe

_spec = importlib.util.spec_from_file_location("lm", Path(__file__).parent / "model" / "language_models.py")
language_models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(language_models)

CONFIGS = Path(__file__).parents[1] / "configs"
PRODUCTION = {"ct_rate_chest": 8, "autopet_petct": 4, "petct_all": 8}
"""GPUs of 40 GB that each is written for."""


@pytest.mark.parametrize("path", sorted((CONFIGS / "preprocess").glob("*.yaml")), ids=lambda p: p.stem)
def test_recipes_load(path):
    config = load_yaml(path, PreprocessConfig)
    assert load_recipe(path) == config


@pytest.mark.parametrize("path", sorted((CONFIGS / "train").glob("*.yaml")), ids=lambda p: p.stem)
def test_training_configs_load_and_build(path):
    config = load_yaml(path, RunConfig)
    recipe = load_recipe(path)
    model = resolve_model(
        config.model,
        in_channels=config.data.channels.count,
        patch_size=config.data.patch_size,
        spacing_mm=recipe.spacing_mm,
    )
    with torch.device("meta"):  # shapes alone: some are large
        VisionLanguageModel(model)
    text = path.read_text()
    for name in ("seed:", "preprocess:", "data:", "model:", "task:", "train:"):
        assert name in text  # complete files: what a run does can be read in one place


@pytest.mark.parametrize("path", sorted((CONFIGS / "train").glob("*.yaml")), ids=lambda p: p.stem)
def test_what_a_run_stores_loads_again(path, tmp_path):
    config = load_yaml(path, RunConfig)
    (tmp_path / "copy.yaml").write_text(dump_yaml(config))
    assert load_yaml(tmp_path / "copy.yaml", RunConfig) == config


@pytest.mark.parametrize("path", sorted((CONFIGS / "deepspeed").glob("*.json")), ids=lambda p: p.stem)
def test_deepspeed_files_are_json_of_their_stage(path):
    assert json.loads(path.read_text())["zero_optimization"]["stage"] == int(path.stem[-1])


def test_first_files_are_there():
    names = {p.relative_to(CONFIGS).as_posix() for p in CONFIGS.rglob("*.yaml")}
    assert {f"preprocess/{n}.yaml" for n in ("ct", "petct", "demo")} <= names
    assert {f"train/{n}.yaml" for n in ("demo", "phantom_seg", "sts_petct")} <= names
    assert {f"train/{n}.yaml" for n in PRODUCTION} <= names


@pytest.mark.parametrize("name", PRODUCTION)
def test_production_configs_fit_their_gpus(name, tmp_path):
    path = CONFIGS / "train" / f"{name}.yaml"
    overrides = []
    if name == "ct_rate_chest":  # in place of a real language model
        folder = language_models.save_base(tmp_path / "qwen2", "qwen2")
        overrides = [f"read.model.language.base.name={folder}", "read.model.language.max_tokens=64"]
    config = load_yaml(path, RunConfig, overrides)
    plan = plan_run(config, load_recipe(path).spacing_mm, PRODUCTION[name])
    grounding = plan.phases[0]
    assert config.data.patch_size == (192, 192, 192)
    assert grounding.precision == "bf16"
    assert grounding.stage in (2, 3)
    assert grounding.shapes["logits"][2:] == (192, 192, 192)
    assert [p.name for p in plan.phases] == ["grounding", *(["reader"] if config.read else [])]
    assert max(p.total for p in plan.phases) < 0.75 * 40e9  # the rest is for what operations need while they run

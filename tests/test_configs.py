"""Every shipped configuration loads, names a recipe that loads, and builds the model it describes."""

import json
from pathlib import Path

import pytest

from preprocessing.transforms import PreprocessConfig
from vol3d.config import dump_yaml, load_yaml
from vol3d.model.vlm import VisionLanguageModel, resolve_model
from vol3d.train.run_config import RunConfig
from vol3d.workflows.prepare import load_recipe

CONFIGS = Path(__file__).parents[1] / "configs"


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

import json

import pytest
import yaml
from jsonschema import Draft202012Validator

from vol3d.config import SHIPPED, load_yaml
from vol3d.errors import ConfigError
from vol3d.train.run_config import RunConfig
from vol3d.workflows import config_tools

FILES = {
    path: kind for kind, folder in (("train", "train"), ("preprocess", "preprocess"), ("intake", "intake"))
    for path in sorted((SHIPPED / folder).glob("*.yaml"))
}  # fmt: skip


@pytest.mark.parametrize(("path", "kind"), FILES.items(), ids=lambda value: getattr(value, "stem", value))
def test_shipped_files_are_of_their_kind_sound_and_in_the_schema(path, kind):
    assert config_tools.kind_of(path) == kind
    assert config_tools.check(path) == []
    schema = config_tools.schema(config_tools.kinds()[kind])
    Draft202012Validator.check_schema(schema)
    assert list(Draft202012Validator(schema).iter_errors(yaml.safe_load(path.read_text()))) == []


def test_what_is_shown_is_the_whole_file_and_reads_back(tmp_path):
    path = SHIPPED / "train" / "demo.yaml"
    text = config_tools.show(path, ["train.steps=9"])
    (tmp_path / "shown.yaml").write_text(text)
    assert load_yaml(tmp_path / "shown.yaml", RunConfig) == load_yaml(path, RunConfig, ["train.steps=9"])
    lines = {line.split(":")[0].strip(): line for line in text.splitlines()}
    assert lines["steps"].endswith("9  # --set")
    assert "#" not in lines["batch_size"]


def test_where_each_value_comes_from(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("tilt: correct\npet:\n  weight_kg: 70\n")
    origins = config_tools.origins(path, ["spacing=resample"])
    assert origins["tilt"] == origins["pet.weight_kg"] == "file"
    assert origins["spacing"] == "--set"
    assert origins["pet.dose_bq"] == origins["rescale"] == "default"
    shown = config_tools.show(path, ["spacing=resample"])
    assert "spacing: resample  # --set" in shown
    assert "  dose_bq: null  # default" in shown
    assert "  weight_kg: 70.0\n" in shown


def broken(tmp_path, *changes):
    tree = yaml.safe_load((SHIPPED / "train" / "demo.yaml").read_text())
    tree["preprocess"] = str(SHIPPED / "preprocess" / "demo.yaml")
    for change in changes:
        change(tree)
    path = tmp_path / "broken.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_all_unknown_keys_are_named_with_the_nearest_or_their_place(tmp_path):
    path = broken(
        tmp_path, lambda t: t["train"].update(stepz=1), lambda t: t["model"].update(wdth=1), lambda t: t.update(clip=1)
    )
    assert sorted(config_tools.check(path)) == [
        "unknown key 'clip'; did you mean 'train.clip'?",
        "unknown key 'model.wdth'; did you mean 'width'?",
        "unknown key 'train.stepz'; did you mean 'steps'?",
    ]


def test_wrong_values_and_lost_recipes_are_named(tmp_path):
    (fault,) = config_tools.check(broken(tmp_path, lambda t: t["train"].update(steps="many")))
    assert "steps: expected int, found 'many'" in fault
    (fault,) = config_tools.check(broken(tmp_path, lambda t: t.update(preprocess="nowhere.yaml")))
    assert "nowhere.yaml, found nothing" in fault
    (tmp_path / "odd.yaml").write_text("a: 1\n")
    assert "keys of a configuration" in config_tools.check(tmp_path / "odd.yaml")[0]
    with pytest.raises(ConfigError, match="found nothing"):
        config_tools.kind_of(tmp_path / "none.yaml")


def test_what_train_would_not_find_is_named(tmp_path, caplog):
    """`vol3d train` refuses these: check looks them up in the same way, without a network."""
    (fault,) = config_tools.check(broken(tmp_path, lambda t: t["train"].update(deepspeed="zero9")))
    assert fault == "train.deepspeed: expected zero0, zero1, zero2, zero3 or a JSON file, found 'zero9'"
    (fault,) = config_tools.check(broken(tmp_path, lambda t: t["model"]["text"].update(name="nothere")))
    assert fault.startswith("model.text: text model 'nothere' is neither a folder nor in the local Hugging Face cache")
    assert "hf download nothere" in fault
    (fault,) = config_tools.check(broken(tmp_path, lambda t: t["model"]["text"].update(layers=[99])))
    assert fault.startswith("model.text: text layers: expected numbers from")
    faults = config_tools.check(
        broken(tmp_path, lambda t: t["train"].update(deepspeed="zero9"), lambda t: t.update(preprocess="lost.yaml"))
    )
    assert [fault.split(":")[0] for fault in faults] == ["preprocess", "train.deepspeed"]
    (tmp_path / "own.json").write_text('{"zero_optimization": {"stage": 1}}')
    assert config_tools.check(broken(tmp_path, lambda t: t["train"].update(deepspeed=str(tmp_path / "own.json")))) == []

    # a reader's language model is needed after the first phase only: a warning
    assert config_tools.check(SHIPPED / "train" / "ct_rate_chest.yaml") == []
    assert "read.model.language.base: language model 'Qwen/" in caplog.text
    overrides = ["read.train.deepspeed=zero9"]
    (fault,) = config_tools.check(SHIPPED / "train" / "phantom_all.yaml", overrides)
    assert fault.startswith("read.train.deepspeed: ")


def test_the_schema_explains_and_refuses(tmp_path):
    paths = config_tools.write_schemas(tmp_path)
    schema = json.loads((tmp_path / "train.schema.json").read_text())
    assert {p.name for p in paths} == {f"{k}.schema.json" for k in config_tools.kinds()}
    steps = schema["properties"]["train"]["properties"]["steps"]
    assert steps["description"].startswith("Optimizer updates")
    assert steps["type"] == "integer"
    assert "steps" in schema["properties"]["train"]["required"]
    validator = Draft202012Validator(schema)
    for change in (lambda t: t["train"].update(stepz=1), lambda t: t["train"].update(precision="fp8")):
        tree = yaml.safe_load(broken(tmp_path, change).read_text())
        assert list(validator.iter_errors(tree))


def test_commands(tmp_path, vol3d, capsys):
    bad = broken(tmp_path, lambda t: t["train"].update(stepz=1))
    assert vol3d("config", "check", bad, SHIPPED / "preprocess" / "ct.yaml", "--json") == 1
    record = json.loads(capsys.readouterr().out)
    assert record["faults"][str(SHIPPED / "preprocess" / "ct.yaml")] == []
    assert "did you mean 'steps'" in record["faults"][str(bad)][0]
    assert vol3d("config", "schema", "--out", tmp_path / "schemas") == 0
    assert (tmp_path / "schemas" / "preprocess.schema.json").is_file()
    assert vol3d("config", "show", SHIPPED / "preprocess" / "ct.yaml") == 0

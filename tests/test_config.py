"""Configuration is strict: whatever is unknown, missing or of a wrong type is named, with where it stands."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from vol3d.config import digest, dump_yaml, from_tree, load_yaml, to_tree
from vol3d.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Nested section."""

    lr: float
    """Learning rate."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam."""
    name: Literal["adamw", "sgd"] = "adamw"
    """Which."""

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ConfigError(f"expected lr above 0, found {self.lr}")


@dataclass(frozen=True, kw_only=True)
class Train:
    """Everything the loader supports."""

    steps: int
    """How long."""
    optimizer: Optimizer
    """Section."""
    patch_size: tuple[int, int, int] = (64, 64, 64)
    """Zyx."""
    windows: tuple[tuple[float, float], ...] = ((-160.0, 240.0),)
    """HU."""
    prompts: list[str] = dataclasses.field(default_factory=list)
    """Phrases."""
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    """By name."""
    ema: float | None = None
    """Optional."""
    level: Literal[1, 2] = 1
    """Numbers."""
    limit: int | str = 4
    """Union."""
    augment: bool = True
    """Switch."""
    note: str = ""
    """Text."""
    extra: Any = None
    """Anything."""


COMPLETE = """
steps: 1000
optimizer: {lr: 1e-4, betas: [0.9, 0.99], name: sgd}
patch_size: [32, 48, 64]
windows: [[-1000, 400], [-160, 240.5]]
prompts: [liver, "the left kidney"]
weights: {dice: 1, bce: 0.5}
ema: null
level: 2
limit: all
augment: false
note: "on"
extra: {a: [1, 2]}
"""


def write(tmp_path, text, name="train.yaml"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def load(tmp_path, text, *overrides):
    return load_yaml(write(tmp_path, text), Train, overrides)


MINIMAL = "steps: 10\noptimizer: {lr: 0.1}\n"


def test_a_complete_file_becomes_typed_values(tmp_path):
    config = load(tmp_path, COMPLETE)
    assert config.optimizer == Optimizer(lr=1e-4, betas=(0.9, 0.99), name="sgd")
    assert config.patch_size == (32, 48, 64)
    assert config.windows == ((-1000.0, 400.0), (-160.0, 240.5))
    assert all(isinstance(v, float) for window in config.windows for v in window)
    assert config.prompts == ["liver", "the left kidney"]
    assert config.weights == {"dice": 1.0, "bce": 0.5}
    assert (config.ema, config.level, config.limit, config.augment, config.note) == (None, 2, "all", False, "on")
    assert config.extra == {"a": [1, 2]}


def test_defaults_stand_in_for_optional_keys(tmp_path):
    config = load(tmp_path, MINIMAL)
    assert config.patch_size == (64, 64, 64)
    assert config.optimizer.betas == (0.9, 0.999)


def test_dump_and_load_round_trip(tmp_path):
    config = load(tmp_path, COMPLETE)
    text = dump_yaml(config)
    assert load(tmp_path, text) == config
    assert dump_yaml(load(tmp_path, text)) == text
    assert list(to_tree(config)) == [f.name for f in dataclasses.fields(Train)]  # complete, in order
    small = load(tmp_path, "steps: 1\noptimizer: {lr: 1.0e-12}\nnote: 'no: yes # é'\n")
    assert load(tmp_path, dump_yaml(small)) == small


def test_digest_changes_with_any_value_and_only_then(tmp_path):
    config = load(tmp_path, COMPLETE)
    assert digest(config) == digest(load(tmp_path, COMPLETE + "\n# comment\n"))
    assert len(digest(config)) == 16
    others = [
        dataclasses.replace(config, steps=1001),
        dataclasses.replace(config, optimizer=Optimizer(lr=1e-4, betas=(0.9, 0.991), name="sgd")),
        dataclasses.replace(config, prompts=["liver"]),
    ]
    assert len({digest(c) for c in [config, *others]}) == 4


def test_overrides_reach_into_sections_and_are_typed(tmp_path):
    config = load(tmp_path, COMPLETE, "steps=5", "optimizer.lr=3e-2", "patch_size=[8, 8, 8]", "ema=0.99", "note=a=b")
    assert (config.steps, config.optimizer.lr, config.patch_size) == (5, 0.03, (8, 8, 8))
    assert (config.ema, config.note) == (0.99, "a=b")
    assert config.optimizer.name == "sgd"


def test_an_override_can_open_a_section(tmp_path):
    assert load(tmp_path, "steps: 1\n", "optimizer.lr=0.5").optimizer.lr == 0.5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "expected an override like train.steps=100, found 'steps'"),
        ("optimizer.lrr=1", "unknown key 'lrr'; did you mean 'lr'"),
        ("steps.x=1", "'steps' is a value, not a section"),
        ("steps=[1", "override 'steps=\\[1': the value is not valid YAML"),
        ("steps=many", "steps: expected int, found 'many'"),
        ("optimizer.lr=-1", "expected lr above 0, found -1.0"),
    ],
)
def test_a_bad_override_is_named(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, COMPLETE, override)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MINIMAL + "patch_sise: [1, 1, 1]", "unknown key 'patch_sise'; did you mean 'patch_size'"),
        (MINIMAL + "zzz: 1", "unknown key 'zzz'; known keys: steps, optimizer"),
        ("steps: 10\noptimizer: {lr: 0.1, beta: [1, 1]}", "optimizer: unknown key 'beta'; did you mean 'betas'"),
        ("steps: 10\noptimizer: {}", "optimizer: missing key 'lr'"),
        ("optimizer: {lr: 0.1}", "missing key 'steps'"),
        ("", "missing key 'steps'"),
        ("steps: 10\noptimizer: {lr: 0}", "optimizer: expected lr above 0"),
        ("steps: 1.5\noptimizer: {lr: 0.1}", "steps: expected int, found 1.5"),
        ("steps: true\noptimizer: {lr: 0.1}", "steps: expected int, found True"),
        ("steps: 10\noptimizer: {lr: fast}", "lr: expected float, found 'fast'"),
        ("steps: 10\noptimizer: {lr: true}", "lr: expected float, found True"),
        ("steps: 10\noptimizer: 3", "optimizer: expected a section with keys, found 3"),
        ("steps: 10\noptimizer: {lr: 1, name: adam}", "expected one of 'adamw', 'sgd', found 'adam'"),
        ("steps: 10\noptimizer: {lr: 1, betas: [0.9]}", "betas: expected 2 values, found 1"),
        (MINIMAL + "patch_size: [1, 2, 3, 4]", "patch_size: expected 3 values, found 4"),
        (MINIMAL + "patch_size: [1, 2, x]", r"patch_size\[2\]: expected int, found 'x'"),
        (MINIMAL + "patch_size: 64", "patch_size: expected a list, found 64"),
        (MINIMAL + "windows: [[1, 2], [3]]", r"windows\[1\]: expected 2 values"),
        (MINIMAL + "prompts: liver", "prompts: expected a list, found 'liver'"),
        (MINIMAL + "prompts: [1]", r"prompts\[0\]: expected str, found 1"),
        (MINIMAL + "weights: [1]", "weights: expected a mapping"),
        (MINIMAL + "weights: {dice: high}", "weights.dice: expected float, found 'high'"),
        (MINIMAL + "weights: {1: 1.0}", "weights: key: expected str, found 1"),
        (MINIMAL + "augment: 1", "augment: expected bool, found 1"),
        (MINIMAL + "note: on", "note: expected str, found True"),  # YAML 1.1 reads on as true
        (MINIMAL + "ema: x", "ema: expected float, found 'x'"),
        (MINIMAL + "level: true", "level: expected one of 1, 2, found True"),
        (MINIMAL + "limit: 1.5", "limit: expected int or str, found 1.5"),
        ("- steps\n- 10", "expected a section with keys, found"),
        ("steps: [1", "is not valid YAML"),
        (MINIMAL + "steps: 11", "key 'steps' stands twice"),
        ("steps: 10\noptimizer: {lr: 1, lr: 2}", "key 'lr' stands twice"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path, text)
    assert "train.yaml" in str(caught.value)


def test_a_list_as_file_is_refused_with_overrides_too(tmp_path):
    with pytest.raises(ConfigError, match="expected a section with keys"):
        load(tmp_path, "- steps", "steps=1")


def test_a_file_of_another_encoding_is_refused(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("note: é".encode("latin-1"))
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_yaml(tmp_path / "latin.yaml", Train)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"found nothing at .*nowhere\.yaml"):
        load_yaml(tmp_path / "nowhere.yaml", Train)


def test_a_tree_names_where_it_came_from():
    with pytest.raises(ConfigError, match=r"^checkpoint: missing key 'lr'"):
        from_tree(Optimizer, {}, "checkpoint")

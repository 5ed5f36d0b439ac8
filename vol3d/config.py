"""Strict YAML <-> dataclass. A configuration is a frozen keyword-only dataclass beside the code it configures.

Files are complete: no inheritance, no interpolation. An unknown key, a missing one or a wrong type is a `ConfigError`
that names the file, the key and, for a misspelling, the nearest known key.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from vol3d.errors import ConfigError

Config = TypeVar("Config")

SHIPPED = Path(__file__).parents[1] / "configs"
"""The configurations that come with the package, in a checkout and in an installed wheel."""


class _Loader(yaml.SafeLoader):
    """Plain YAML takes the last of two equal keys, silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def load_yaml(path: str | Path, cls: type[Config], overrides: typing.Sequence[str] = ()) -> Config:
    """Reads `path` into `cls`; each override is ``a.b=value`` with the value in YAML.

    Raises:
        ConfigError: unreadable file, unknown or missing key, wrong type, or a check of the dataclass failed.
    """
    tree = read_tree(path)
    for override in overrides:
        _set(tree, override)
    return from_tree(cls, tree, str(path))


def read_tree(path: str | Path) -> dict[Any, Any]:
    """A YAML file of keys and values as it stands; a key that stands twice is refused.

    Raises:
        ConfigError: no file, no YAML, or no mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"expected a configuration file, found nothing at {path}")
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: expected a section with keys, found {tree!r}")
    return tree


def from_tree(cls: type[Config], tree: Any, where: str) -> Config:
    """Builds dataclass `cls` from nested plain values; `where` names the source in errors."""
    return _convert(cls, tree, where)


def to_tree(config: Any) -> dict[str, Any]:
    """Nested plain values, tuples as lists; YAML- and JSON-ready."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def dump_yaml(config: Any) -> str:
    """The complete file that `load_yaml` reads back to an equal configuration."""
    return yaml.safe_dump(to_tree(config), sort_keys=False)


def digest(config: Any) -> str:
    """16 hex digits that change with any value of the configuration."""
    return hashlib.sha256(json.dumps(to_tree(config), sort_keys=True).encode()).hexdigest()[:16]


def _set(tree: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"expected an override like train.steps=100, found {override!r}")
    *parents, leaf = key.strip().split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"override {override!r}: {parent!r} is a value, not a section")
    try:
        tree[leaf] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"override {override!r}: the value is not valid YAML: {error}") from error


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _convert_dataclass(kind, value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert_union([a for a in args if a is not type(None)], value, where)
    if origin is typing.Literal:
        if not any(type(value) is type(a) and value == a for a in args):  # True is not 1
            raise ConfigError(f"{where}: expected one of {', '.join(map(repr, args))}, found {value!r}")
        return value
    if origin in (tuple, list):
        return _convert_sequence(origin, args, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a mapping, found {value!r}")
        return {_convert(args[0], k, f"{where}: key"): _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-4 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Any or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
        return value
    raise ConfigError(f"{where}: expected {getattr(kind, '__name__', kind)}, found {value!r}")


def _convert_union(kinds: list[Any], value: Any, where: str) -> Any:
    if len(kinds) == 1:
        return _convert(kinds[0], value, where)
    for kind in kinds:
        try:
            return _convert(kind, value, where)
        except ConfigError:
            continue
    names = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise ConfigError(f"{where}: expected {names}, found {value!r}")


def _convert_sequence(origin: Any, args: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where}: expected a list, found {value!r}")
    if origin is tuple and args[-1] is not Ellipsis:
        if len(value) != len(args):
            raise ConfigError(f"{where}: expected {len(args)} values, found {len(value)}: {value!r}")
        return tuple(_convert(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True)))
    return origin(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))


def _convert_dataclass(cls: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected a section with keys, found {value!r}")
    hints = typing.get_type_hints(cls)
    known = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in value:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(known)}"
            raise ConfigError(f"{where}: unknown key {key!r}{hint}")
    missing = [
        name
        for name, f in known.items()
        if name not in value and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: missing key {missing[0]!r}")
    arguments = {key: _convert(hints[key], item, f"{where}: {key}") for key, item in value.items()}
    try:
        return cls(**arguments)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None

"""`vol3d config show | check | schema`: what a configuration says in full, and what is wrong with it.

Kinds of file: a training configuration, a preprocessing recipe, rules of the intake, reading options of a study. Which
one a file is follows from its keys.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import json
import logging
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from vol3d.config import dump_yaml, load_yaml
from vol3d.errors import ConfigError, Vol3dError
from vol3d.files import write_whole

log = logging.getLogger("vol3d")

DRAFT = "https://json-schema.org/draft/2020-12/schema"


def kinds() -> dict[str, type]:
    """Dataclass of every kind of file."""
    from preprocessing.options import ReadOptions
    from preprocessing.sources.series_rules import IntakeConfig
    from preprocessing.transforms import PreprocessConfig
    from vol3d.train.run_config import RunConfig

    return {"train": RunConfig, "preprocess": PreprocessConfig, "intake": IntakeConfig, "reading": ReadOptions}


def kind_of(path: Path) -> str:
    """Which kind of file this is: the one that knows most of its keys, and needs the fewest that it lacks.

    Raises:
        ConfigError: no YAML with keys, or keys of no kind.
    """
    keys = set(_tree(path))
    known = {name: {f.name for f in dataclasses.fields(cls)} for name, cls in kinds().items()}
    best = max(known, key=lambda name: (len(keys & known[name]), -len(known[name] - keys)))
    if not keys & known[best]:
        shown = "; ".join(f"{name}: {', '.join(sorted(fields))}" for name, fields in known.items())
        raise ConfigError(f"{path}: expected the keys of a configuration ({shown}), found {sorted(keys) or 'none'}")
    return best


# -- show --------------------------------------------------------------------------------------------------------


def show(path: Path, overrides: Sequence[str] = (), kind: str | None = None) -> str:
    """The complete file, defaults filled in, with where each value comes from as a comment.

    Raises:
        ConfigError: the file cannot be used.
    """
    config: Any = load_yaml(path, kinds()[kind or kind_of(path)], overrides)
    given = _tree(path)
    changed = {tuple(o.partition("=")[0].strip().split(".")) for o in overrides}
    return "\n".join(_annotated(dump_yaml(config), given, changed, str(path))) + "\n"


def origins(path: Path, overrides: Sequence[str] = (), kind: str | None = None) -> dict[str, str]:
    """Dotted key -> ``file``, ``--set`` or ``default``, of every value."""
    config: Any = load_yaml(path, kinds()[kind or kind_of(path)], overrides)
    given = _tree(path)
    changed = {tuple(o.partition("=")[0].strip().split(".")) for o in overrides}
    return {".".join(key): _origin(key, given, changed) for key, _ in _leaves(dataclasses.asdict(config))}


def _annotated(text: str, given: dict[str, Any], changed: set[tuple[str, ...]], path: str) -> Iterator[str]:
    yield f"# {path}, complete. Each value comes from the file, from --set, or is a default."
    where: list[str] = []
    depths: list[int] = []
    for line in text.splitlines():
        body = line.lstrip()
        depth = len(line) - len(body)
        name, colon, value = body.partition(":")
        if body.startswith("- ") or not colon:
            yield line
            continue
        while depths and depths[-1] >= depth:
            depths.pop()
            where.pop()
        depths.append(depth)
        where.append(name)
        section = not value.strip() and not isinstance(_at(given, where), list)
        origin = "" if section and isinstance(_at(given, where), dict) else _origin(tuple(where), given, changed)
        yield f"{line}  # {origin}" if origin and origin != "file" else line


def _origin(key: Sequence[str], given: dict[str, Any], changed: set[tuple[str, ...]]) -> str:
    if any(tuple(key[: len(c)]) == c for c in changed):
        return "--set"
    return "default" if _at(given, key) is _MISSING else "file"


_MISSING = object()


def _at(tree: Any, key: Sequence[str]) -> Any:
    for part in key:
        if not isinstance(tree, dict) or part not in tree:
            return _MISSING
        tree = tree[part]
    return tree


def _leaves(tree: Any, key: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(tree, dict) and tree:
        for name, value in tree.items():
            yield from _leaves(value, (*key, str(name)))
    else:
        yield key, tree


# -- check -------------------------------------------------------------------------------------------------------


def check(path: Path, overrides: Sequence[str] = (), kind: str | None = None) -> list[str]:
    """What is wrong with a file, in words: all unknown keys; else the first wrong value; else what the file names and
    is not on this machine. Nothing is downloaded."""
    try:
        chosen = kind or kind_of(path)
        faults = list(_unknown(kinds()[chosen], _tree(path), ""))
        if faults:
            return faults
        config: Any = load_yaml(path, kinds()[chosen], overrides)
        return [*_recipe_faults(path, config), *_train_faults(config)] if chosen == "train" else []
    except ConfigError as error:
        return [str(error)]


def _recipe_faults(path: Path, config: Any) -> list[str]:
    """A training configuration names its recipe by a path relative to itself."""
    recipe = path.parent / config.preprocess
    if not recipe.is_file():
        return [f"preprocess: expected a recipe at {recipe}, found nothing; the path is relative to {path.parent}"]
    return [f"preprocess: {fault}" for fault in check(recipe, kind="preprocess")]


def _train_faults(config: Any) -> Iterator[str]:
    """DeepSpeed files and the text model, as `vol3d train` looks them up. A reader's language model that is not on
    this machine is told as a warning: the file may be meant for another machine."""
    from vol3d.model.language_base import find_base
    from vol3d.model.text import resolve_text
    from vol3d.train.engine import read_deepspeed_file

    named = {"train.deepspeed": config.train.deepspeed}
    if config.read is not None:
        named["read.train.deepspeed"] = config.read.train.deepspeed
    for key, name in named.items():
        try:
            read_deepspeed_file(name)
        except Vol3dError as error:
            yield f"{key}: {error}"
    try:
        resolve_text(config.model.text)
    except Vol3dError as error:
        yield f"model.text: {error}"
    base = config.read.model.language.base if config.read is not None else None
    if base is not None:
        try:
            find_base(base)
        except Vol3dError as error:
            log.warning("read.model.language.base: %s", error)


def _unknown(cls: Any, tree: Any, where: str) -> Iterator[str]:
    if not isinstance(tree, dict):
        return
    hints = typing.get_type_hints(cls)
    names = {f.name for f in dataclasses.fields(cls) if f.init}
    for key, value in tree.items():
        place = f"{where}{key}"
        if key not in names:
            near = difflib.get_close_matches(str(key), names, 1) or list(_elsewhere(str(key)))
            hint = f"did you mean {near[0]!r}?" if near else f"known keys here: {', '.join(sorted(names))}"
            yield f"unknown key {place!r}; {hint}"
        else:
            for nested in _dataclasses_in(hints[key]):
                yield from _unknown(nested, value, f"{place}.")


def _elsewhere(key: str) -> Iterator[str]:
    """Dotted places of a training configuration that end in this key: it may just stand in the wrong section."""
    yield from (place for place in _places(kinds()["train"]) if place.rsplit(".", 1)[-1] == key)


def _places(cls: Any, where: str = "") -> Iterator[str]:
    for name, hint in typing.get_type_hints(cls).items():
        yield f"{where}{name}"
        for nested in _dataclasses_in(hint):
            yield from _places(nested, f"{where}{name}.")


def _dataclasses_in(hint: Any) -> list[Any]:
    if dataclasses.is_dataclass(hint):
        return [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)]
    return []


# -- schema ------------------------------------------------------------------------------------------------------


def write_schemas(out: Path) -> list[Path]:
    """``<kind>.schema.json`` of every kind, for editors."""
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, cls in kinds().items():
        paths.append(out / f"{name}.schema.json")
        write_whole(paths[-1], json.dumps(schema(cls), indent=1) + "\n")
    return paths


def schema(cls: type) -> dict[str, Any]:
    """JSON schema of a configuration: types, choices, defaults, and the words under each field."""
    return {"$schema": DRAFT, "title": cls.__name__, **_object(cls)}


def _object(cls: Any) -> dict[str, Any]:
    hints, words = typing.get_type_hints(cls), field_docs(cls)
    properties: dict[str, Any] = {}
    required = []
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        entry = _of(hints[field.name])
        if field.name in words:
            entry["description"] = words[field.name]
        if field.default is not dataclasses.MISSING:
            entry["default"] = json.loads(json.dumps(field.default, default=str))
        elif field.default_factory is dataclasses.MISSING:
            required.append(field.name)
        properties[field.name] = entry
    out: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if cls.__doc__:
        out["description"] = inspect.cleandoc(cls.__doc__)
    return out | ({"required": required} if required else {})


def _of(hint: Any) -> dict[str, Any]:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _object(hint)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_of(a) for a in args]}
    if origin is typing.Literal:
        return {"enum": list(args)}
    if origin is tuple and args[-1] is not Ellipsis:
        return {"type": "array", "prefixItems": [_of(a) for a in args], "minItems": len(args), "maxItems": len(args)}
    if origin in (tuple, list):
        return {"type": "array", "items": _of(args[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _of(args[1])}
    plain = {float: "number", int: "integer", str: "string", bool: "boolean", type(None): "null"}
    if hint is float:  # YAML 1.1 reads 1e-4 as text, and the loader takes it
        return {"anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^[-+]?[0-9.]+[eE][-+]?[0-9]+$"}]}
    return {"type": plain[hint]} if hint in plain else {}


def field_docs(cls: type) -> dict[str, str]:
    """The string under each field of a dataclass, those of its bases among them."""
    out: dict[str, str] = {}
    for base in reversed([c for c in cls.__mro__ if dataclasses.is_dataclass(c)]):
        out |= _own_docs(base)
    return out


def _own_docs(cls: type) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        node.target.id: inspect.cleandoc(after.value.value)
        for node, after in zip(body.body, body.body[1:], strict=False)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant) and isinstance(after.value.value, str)
    }  # fmt: skip


def _tree(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"expected a configuration file, found nothing at {path}")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict | None):
        raise ConfigError(f"{path}: expected a section with keys, found {tree!r}")
    return tree or {}

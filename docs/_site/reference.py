"""Pages of reference, made from the code when the site is built: every command, every key of a configuration."""

import dataclasses
import inspect
import types
import typing
from collections.abc import Iterator
from typing import Any

import typer

from vol3d.cli import app
from vol3d.workflows.config_tools import field_docs, kinds

TITLES = {
    "train": ("Training", "configs/train/*.yaml"),
    "preprocess": ("Preprocessing recipe", "configs/preprocess/*.yaml"),
    "intake": ("Rules of the intake", "configs/intake/*.yaml"),
    "reading": ("Reading options of a study", "reading.yaml, or `reading` in a manifest"),
}


# -- commands ----------------------------------------------------------------------------------------------------


def command_line() -> str:
    """`reference/cli.md`."""
    parts = [
        "# Command line",
        "Made from the program when this site is built; `vol3d COMMAND --help` says the same. Every command also takes "
        "`--quiet` (nothing but errors) and `--json` (standard output is one JSON object), and exits with 0 only if "
        "all that was asked was done.",
    ]
    parts += [_command(name, function) for name, function in commands()]
    return "\n\n".join(parts) + "\n"


def commands() -> Iterator[tuple[str, Any]]:
    """Name and function of every command, by name."""
    yield from sorted(_of(app, ""))


def _of(typer_app: typer.Typer, prefix: str) -> Iterator[tuple[str, Any]]:
    for command in typer_app.registered_commands:
        assert command.callback is not None
        yield prefix + (command.name or command.callback.__name__.replace("_", "-")), command.callback
    for group in typer_app.registered_groups:
        assert group.typer_instance is not None
        yield from _of(group.typer_instance, f"{prefix}{group.name} ")


def _command(name: str, function: Any) -> str:
    words = inspect.cleandoc(function.__doc__ or "")
    text, _, example = words.partition("Example: ")
    rows, usage = [], []
    for parameter in parameters(function):
        rows.append(f"| {parameter.shown} | {parameter.words} | {parameter.default} |")
        if parameter.needed:
            usage.append(parameter.usage)
    out = f"## vol3d {name}\n\n```text\n{' '.join(['vol3d', name, *usage, '[OPTIONS]'])}\n```\n\n{text.strip()}\n\n"
    out += "| parameter | what | default |\n|---|---|---|\n" + "\n".join(rows)
    return out + (f"\n\n```bash\n{example.strip()}\n```" if example else "")


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One argument or option."""

    shown: str
    usage: str
    words: str
    default: str
    needed: bool


def parameters(function: Any) -> Iterator[Parameter]:
    """Arguments and options of a command, in order."""
    hints = typing.get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, info = typing.get_args(hints[name])
        needed = parameter.default is inspect.Parameter.empty
        words = (info.help or "").replace("|", "\\|")
        choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else _choices(kind)
        if choices:
            words += f" One of {', '.join(f'`{c}`' for c in choices)}."
        given = "" if parameter.default in (None, False, ()) else f"`{parameter.default}`"
        default = "needed" if needed else given
        if isinstance(info, typer.models.ArgumentInfo):
            shown = info.metavar or name.upper()
            yield Parameter(f"`{shown}`", shown, words, default, needed)
            continue
        flag = next(iter(info.param_decls or ()), f"--{name.rstrip('_').replace('_', '-')}")
        value = "" if kind is bool or _plain(kind) is bool else f" {info.metavar or _value(kind)}"
        yield Parameter(f"`{flag}{value}`", f"{flag}{value}", words, default, needed)


def _plain(kind: Any) -> Any:
    """Without None and list."""
    inner = [a for a in typing.get_args(kind) if a is not type(None)]
    if typing.get_origin(kind) in (typing.Union, types.UnionType, list):
        return _plain(inner[0])
    return kind


def _choices(kind: Any) -> tuple[Any, ...]:
    plain = _plain(kind)
    return typing.get_args(plain) if typing.get_origin(plain) is typing.Literal else ()


def _value(kind: Any) -> str:
    plain = _plain(kind)
    if typing.get_origin(plain) is typing.Literal:
        return "VALUE"
    return {str: "TEXT", int: "N"}.get(plain, plain.__name__.upper())


# -- configurations ----------------------------------------------------------------------------------------------


def configuration(kind: str) -> str:
    """`reference/config-<kind>.md`."""
    title, files = TITLES[kind]
    cls = kinds()[kind]
    parts = [
        f"# {title}",
        f"Every key of {files if '`' in files else f'`{files}`'}, made from the dataclasses that read it. Keys without "
        f"a default must be there. `vol3d config show FILE` fills in the rest, `vol3d config check FILE` names what is "
        f"wrong.",
        *_sections(cls, ""),
    ]
    return "\n\n".join(parts) + "\n"


def _sections(cls: Any, where: str) -> Iterator[str]:
    """The section's own keys, then the sections below it."""
    hints, words = typing.get_type_hints(cls), field_docs(cls)
    rows, nested = [], []
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        below = _dataclass_in(hints[field.name])
        kind = _name(hints[field.name])
        text = words.get(field.name, "").replace("\n", " ").replace("|", "\\|")
        rows.append(f"| `{field.name}` | {kind} | {_default(field)} | {text} |")
        if below is not None:
            nested.append((below, f"{where}{field.name}"))
    heading = f"## {where.rstrip('.')}\n\n" if where else ""
    said = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")
    yield f"{heading}{said}\n\n| key | type | default | what |\n|---|---|---|---|\n" + "\n".join(rows)
    for below, place in nested:
        yield from _sections(below, f"{place}.")


def _dataclass_in(hint: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return hint
    return next((a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)), None)


def _name(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return "section"
    if hint is type(None):
        return "null"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_name(a) for a in args)
    if origin is typing.Literal:
        return ", ".join(f"`{a}`" for a in args)
    if origin is tuple and args[-1] is not Ellipsis:
        return f"[{', '.join(_name(a) for a in args)}]"
    if origin in (tuple, list):
        return f"list of {_name(args[0])}"
    if origin is dict:
        return f"{_name(args[0])}: {_name(args[1])}"
    plain = {float: "number", int: "integer", str: "text", bool: "true or false"}
    return plain.get(hint, getattr(hint, "__name__", "any"))


def _default(field: Any) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{_yaml(field.default)}`"
    if field.default_factory is dataclasses.MISSING:
        return "needed"
    made = field.default_factory()
    return "below" if dataclasses.is_dataclass(made) else f"`{_yaml(made)}`"


def _yaml(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(_yaml(v) for v in value)}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return '""' if value == "" else str(value)


def pages() -> dict[str, str]:
    """Path below `docs` and text of every page of reference."""
    return {"reference/cli.md": command_line()} | {
        f"reference/config-{kind}.md": configuration(kind) for kind in kinds()
    }

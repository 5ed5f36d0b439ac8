"""Commands to start with, about this machine and about configurations; `vol3d.cli` adds them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vol3d import script_output

Kind = Annotated[
    Literal["train", "preprocess", "intake", "reading"] | None, typer.Option(help="Kind of file; told by its keys.")
]
File = Annotated[Path, typer.Argument(metavar="FILE", help="A configuration (YAML).")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override, e.g. train.steps=9.")]

config_app = typer.Typer(no_args_is_help=True, help="Show, check and describe configurations.", rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(doctor)
    app.command()(demo)
    app.add_typer(config_app, name="config")


def doctor(
    cache: Annotated[Path | None, typer.Option(metavar="CACHE", help="Look at this cache too.")] = None,
    text_model: Annotated[str | None, typer.Option(help="Text encoder, by name or folder.")] = None,
    ops: Annotated[bool, typer.Option("--ops/--no-ops", help="Ask DeepSpeed for its ops; takes seconds.")] = True,
) -> None:
    """Is this machine ready: versions, GPU, DeepSpeed's ops, text model, disk, cache. Exits with 1 if anything fails.

    Example: vol3d doctor --cache out/cache
    """
    from vol3d.workflows import doctor as run

    checks = run.examine(cache, text_model, ops=ops)
    script_output.facts(checks=run.as_records(checks))
    for line in run.lines(checks):
        typer.echo(line)
    if run.exit_code(checks):
        raise SystemExit(1)


def demo(out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("out/demo")) -> None:
    """Phantom PET/CT through preprocess, train, segment and evaluate, with pictures; a quarter of an hour on two cores.

    Example: vol3d demo --out out/demo
    """
    from vol3d.workflows.demo import run_demo

    run_demo(out, echo=typer.echo)


@config_app.command()
def show(file: File, set_: Set = None, kind: Kind = None) -> None:
    """Print the complete configuration: what the file leaves out as well, and where each value comes from.

    Example: vol3d config show configs/train/demo.yaml --set train.steps=9
    """
    from vol3d.workflows import config_tools

    typer.echo(config_tools.show(file, set_ or [], kind), nl=False)
    script_output.facts(origins=config_tools.origins(file, set_ or [], kind))


@config_app.command()
def check(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Configurations (YAML).")],
    set_: Set = None,
    kind: Kind = None,
) -> None:
    """Name every unknown key with the nearest known one, and the first wrong value; exits with 1 on any fault.

    Example: vol3d config check configs/train/demo.yaml configs/preprocess/petct.yaml
    """
    from vol3d.workflows import config_tools

    faults = {str(file): config_tools.check(file, set_ or [], kind) for file in files}
    script_output.facts(faults=faults)
    for file, found in faults.items():
        typer.echo(f"{file}: {'no fault found' if not found else f'{len(found)} faults'}")
        for fault in found:
            typer.echo(f"  {fault}", err=True)
    if any(faults.values()):
        raise SystemExit(1)


@config_app.command()
def schema(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write.")] = Path("schemas"),
) -> None:
    """Write JSON schemas, with which editors complete and explain the keys of a configuration.

    Example: vol3d config schema --out schemas
    """
    from vol3d.workflows import config_tools

    for path in config_tools.write_schemas(out):
        typer.echo(str(path))

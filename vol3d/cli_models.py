"""Commands that train, score and hand on a model; `vol3d.cli` adds them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vol3d import script_output
from vol3d.cli_shared import CheckpointPath, Device, Out, device_of
from vol3d.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(train)
    app.command()(evaluate)
    app.command("export-model")(export_model)


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="Training config (YAML).")],
    cache: Annotated[Path | None, typer.Option(help="Cache made with the config's recipe.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="RUN", help="Run folder.")] = None,
    init: Annotated[
        Path | None, typer.Option(metavar="CHECKPOINT", help="Weights to start from: vol3d, nnU-Net, VoxTell.")
    ] = None,
    resume: Annotated[Literal["auto", "no"], typer.Option(help="auto: go on where RUN stopped.")] = "no",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override, e.g. train.steps=9.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Build all, run one step, write nothing; without --cache by shapes alone."),
    ] = False,
    ranks: Annotated[int, typer.Option(min=1, metavar="N", help="GPUs that a dry run without --cache is for.")] = 1,
) -> None:
    """Train with DeepSpeed: alone, under the deepspeed launcher, torchrun or srun.

    Example: vol3d train configs/train/sts_petct.yaml --cache out/cache --out out/run
    """
    from vol3d.workflows.training import plan_training, run_training

    if dry_run and cache is None:
        for line in plan_training(config, ranks=ranks, overrides=set_ or []).lines():
            typer.echo(line)
        return
    if cache is None or out is None:
        raise ConfigError("expected --cache CACHE and --out RUN, found one missing; only a dry run does without")
    run_training(config, cache, out, init=init, resume=resume, overrides=set_ or [], dry_run=dry_run)


def evaluate(
    checkpoint: CheckpointPath,
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="Cache with truth.")],
    out: Out,
    split: Annotated[Literal["train", "val", "test"], typer.Option(help="Which studies.")] = "test",
    samples: Annotated[int, typer.Option(min=1, help="Bootstrap draws of the intervals.")] = 1000,
    language: Annotated[bool, typer.Option("--language", help="Also write and score reports and answers.")] = False,
    consistency: Annotated[
        int, typer.Option(min=0, metavar="N", help="With --language: report on N studies again, equivalent inputs.")
    ] = 0,
    learned: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="With --language: a metric's models, or its scores; repeat."),
    ] = None,
    device: Device = "auto",
) -> None:
    """Score a checkpoint: metrics.csv (a row a phrase), findings.csv, metrics.json (with intervals), plots.

    With --language also language.json: every study's report and answers, written and scored.

    Example: vol3d evaluate out/run out/cache --out out/eval --language --consistency 4 --learned green=green.jsonl
    """
    from vol3d.workflows.evaluate import evaluate as run_evaluate
    from vol3d.workflows.evaluate_language import evaluate_language, learned_of

    if not language and (consistency or learned):
        raise ConfigError("expected --language with --consistency and --learned, found none: they are about reports")
    metrics = learned_of(cache, split, _paths_by_name(learned or []))
    summary = run_evaluate(checkpoint, cache, out, split=split, samples=samples, device=device_of(device))
    for name, value in summary["headline"].items():
        typer.echo(f"{name:32s} {value}")
    typer.echo(summary["seen_in_training"]["statement"])
    if language:
        table = evaluate_language(
            checkpoint, cache, out, split=split, samples=samples, consistency=consistency, learned=metrics,
            device=device_of(device),
        )  # fmt: skip
        for name, value in table["headline"].items():
            typer.echo(f"{name:32s} {value}")
    typer.echo(f"written to {out}")


def _paths_by_name(named: list[str]) -> dict[str, Path]:
    """Raises ConfigError on anything but NAME=PATH, and on a name given twice."""
    out: dict[str, Path] = {}
    for text in named:
        name, equals, path = text.partition("=")
        if not (name and equals and path) or name in out:
            raise ConfigError(f"expected --learned NAME=PATH, each name once, found {text!r}")
        out[name] = Path(path)
    return out


def export_model(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Run folder or model folder.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write.")],
    to: Annotated[Literal["vol3d", "monai"], typer.Option(help="A model folder, or a MONAI bundle.")] = "vol3d",
    prompt: Annotated[list[str] | None, typer.Option(help="monai: a phrase asked by default; repeat.")] = None,
    evaluation: Annotated[
        Path | None, typer.Option(metavar="DIR", help="What vol3d evaluate wrote about it, for the card.")
    ] = None,
    data_sets: Annotated[str | None, typer.Option(metavar="TEXT", help="Names of the data sets, for the card.")] = None,
    authors: Annotated[str | None, typer.Option(metavar="TEXT", help="monai: whose model it is.")] = None,
) -> None:
    """Write a model as a folder of its own, with its card: for vol3d, or as a MONAI bundle.

    Example: vol3d export-model out/run --to monai --out out/bundle --prompt "left kidney" --prompt "liver"
    """
    from vol3d.workflows.export_model import export_model as run_export_model

    done = run_export_model(
        checkpoint, out, to, prompts=prompt or [], evaluation=evaluation, data_sets=data_sets, authors=authors
    )
    script_output.facts(folder=done.folder, files=done.files)
    typer.echo(f"{len(done.files)} files written to {done.folder}")

"""Commands that ask a model about studies; `vol3d.cli` adds them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vol3d import script_output
from vol3d.cli_shared import (
    AssumeHu,
    CheckpointPath,
    Device,
    Input,
    MaskGrid,
    Out,
    Shard,
    device_of,
    fail_with,
    lines_of,
    shard_of,
)


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(segment)
    app.command()(findings)
    app.command()(report)
    app.command()(answer)
    app.command()(infer)


def segment(
    checkpoint: CheckpointPath,
    source: Input,
    out: Out,
    prompt: Annotated[list[str] | None, typer.Option(help="A phrase; repeat for more.")] = None,
    prompts: Annotated[Path | None, typer.Option(metavar="FILE", help="One phrase a line.")] = None,
    grid: MaskGrid = None,
    device: Device = "auto",
    assume_hu: AssumeHu = False,
) -> None:
    """Masks for phrases, on the source grid, with probability, volume, SUVmax and slices.

    Example: vol3d segment out/run study/ --prompt "left kidney" --prompt "FDG-avid liver lesion" --out out/masks
    """
    from vol3d.workflows.segment import segment as run_segment

    phrases = [*(prompt or []), *(lines_of(prompts) if prompts else [])]
    summary = run_segment(checkpoint, source, phrases, out, grid=grid, device=device_of(device), assume_hu=assume_hu)
    typer.echo(f"{len(summary.done)} studies written to {out}")
    fail_with(summary.failed, "failed")


def findings(
    checkpoint: CheckpointPath,
    source: Input,
    out: Out,
    prompt: Annotated[list[str] | None, typer.Option(help="A finding, by name or in words; repeat for more.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One finding a line, or YAML with wordings.")
    ] = None,
    point: Annotated[
        Literal["youden", "f1", "sensitivity", "specificity"], typer.Option(help="Operating point that decides.")
    ] = "youden",
    heat_maps: Annotated[bool, typer.Option("--heat-maps", help="A heat map of every finding.")] = False,
    grid: MaskGrid = None,
    device: Device = "auto",
    assume_hu: AssumeHu = False,
) -> None:
    """Which findings are present, with calibrated probability, threshold and the mask that shows it.

    Example: vol3d findings out/run study/ --prompt "liver lesion" --prompt "left pleural effusion" --out out/findings
    """
    from vol3d.workflows.findings import find

    summary = find(
        checkpoint, source, out, prompts=prompts, names=prompt or [], point=point, heat_maps=heat_maps, grid=grid,
        device=device_of(device), assume_hu=assume_hu,
    )  # fmt: skip
    typer.echo(f"{len(summary.done)} studies written to {out}")
    fail_with(summary.failed, "failed")


def report(
    checkpoint: CheckpointPath,
    source: Input,
    out: Out,
    indication: Annotated[str | None, typer.Option(help="Why the study was made.")] = None,
    comparison: Annotated[str | None, typer.Option(help="Which earlier studies there are.")] = None,
    prior: Annotated[
        Path | None, typer.Option(metavar="STUDY|FILE", help="Prior study's folder, or its report.json.")
    ] = None,
    keep_all: Annotated[bool, typer.Option("--all", help="Print unsupported sentences too, marked.")] = False,
    beam: Annotated[
        int | None, typer.Option(min=1, help="Hypotheses of the language decoder, 1 is greedy; default: as trained.")
    ] = None,
    device: Device = "auto",
    assume_hu: AssumeHu = False,
) -> None:
    """Write a report: every sentence with its mask or its checked absence, every number measured.

    Example: vol3d report out/run study/ --indication "Staging." --prior out/old/study/report.json --out out/reports
    """
    from vol3d.workflows.drafts import Context
    from vol3d.workflows.report import report as run_report

    summary = run_report(
        checkpoint, source, out, context=Context(indication=indication, comparison=comparison), prior=prior,
        keep_all=keep_all, beams=beam, device=device_of(device), assume_hu=assume_hu,
    )  # fmt: skip
    script_output.facts(done=summary.done, failed=summary.failed, out=out)
    typer.echo(f"{len(summary.done)} studies written to {out}")
    fail_with(summary.failed, "failed")


def answer(
    checkpoint: CheckpointPath,
    source: Input,
    question: Annotated[list[str], typer.Option(help="A question in words; repeat for more.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for answers.json and the evidence masks.")] = None,
    indication: Annotated[str | None, typer.Option(help="Why the study was made.")] = None,
    device: Device = "auto",
    assume_hu: AssumeHu = False,
) -> None:
    """Answer questions: what they ask about is segmented, numbers are measured, nothing is said against the image.

    Example: vol3d answer out/run study/ --question "How large is the tumour?" --question "Which side is it on?"
    """
    from dataclasses import asdict

    from vol3d.workflows.answer import answer as run_answer
    from vol3d.workflows.drafts import Context

    found, summary = run_answer(
        checkpoint, source, question, out=out, context=Context(indication=indication), device=device_of(device),
        assume_hu=assume_hu,
    )  # fmt: skip
    script_output.facts(answers={study: [asdict(a) for a in answers] for study, answers in found.items()})
    for study, answers in found.items():
        for given in answers:
            sure = "" if given.probability is None else f", probability {given.probability:.2f}"
            typer.echo(f"{study}: {given.question} {given.text} ({given.reason}{sure})")
    fail_with(summary.failed, "failed")


def infer(
    checkpoint: CheckpointPath,
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="manifest.jsonl, or a study folder.")],
    out: Out,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Phrases to segment, one a line; without, none are.")
    ] = None,
    shard: Shard = "1/1",
    device: Device = "auto",
    assume_hu: AssumeHu = False,
) -> None:
    """Masks, findings and a report for every study, in one batch. Run again to resume; what is done is kept.

    Example: vol3d infer out/run manifest.jsonl --prompts prompts.txt --out out/infer --shard 1/4
    """
    from vol3d.workflows.infer import infer as run_infer

    summary = run_infer(
        checkpoint, manifest, out, prompts=lines_of(prompts) if prompts else [], shard=shard_of(shard),
        device=device_of(device), assume_hu=assume_hu,
    )  # fmt: skip
    script_output.facts(done=summary.done, kept=summary.kept, failed=summary.failed, out=out)
    typer.echo(f"{len(summary.done)} done, {len(summary.kept)} kept, {len(summary.failed)} failed: {out}")
    fail_with(summary.failed, "failed")

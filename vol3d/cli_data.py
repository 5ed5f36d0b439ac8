"""Commands from raw studies to a cache that can be trained on; `vol3d.cli` adds them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vol3d import script_output
from vol3d.cli_shared import AssumeHu, Out, Shard, fail_with, shard_of
from vol3d.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(phantom)
    app.command()(fetch)
    app.command()(sources)
    app.command()(intake)
    app.command()(preprocess)
    app.command()(verify)
    app.command()(index)
    app.command("weak-label")(weak_label)


def phantom(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the studies and manifest.jsonl.")],
    studies: Annotated[int, typer.Option(min=1, help="How many.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same bytes.")] = 0,
    file_format: Annotated[Literal["nifti", "dicom"], typer.Option("--format", help="File format.")] = "nifti",
) -> None:
    """Write procedural CT and PET/CT torso studies with masks, phrases and reports.

    Example: vol3d phantom out/phantoms --studies 20 --seed 1 --format dicom
    """
    from preprocessing.phantom import write_phantoms
    from vol3d.progress import progress

    with progress("phantom", studies, "studies") as advance:
        manifest = write_phantoms(out, studies, seed, file_format, progress=lambda _: advance())
    typer.echo(str(manifest))


def fetch(
    source: Annotated[
        str, typer.Option("--from", metavar="URL", help="dicom[s]://AET@host:port or https://host/dicom-web.")
    ],
    study: Annotated[str, typer.Option("--study", metavar="UID", help="Study Instance UID.")],
    out: Out,
    listen: Annotated[int | None, typer.Option(help="Receive by C-MOVE on this port; else by C-GET.")] = None,
    attempts: Annotated[int, typer.Option(min=1, help="Tries while the PACS is out of reach.")] = 5,
) -> None:
    """Fetch one study from a PACS; what is there already is not fetched again.

    Example: vol3d fetch --from dicom://ORTHANC@localhost:4242 --study 1.2.3.4 --out out/study
    """
    from vol3d.workflows.fetch import fetch as run_fetch

    fetched, kept = run_fetch(source, study, out, listen=listen, attempts=attempts)
    typer.echo(f"{fetched} fetched, {kept} there already: {out}")


def sources(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A layout.")] = None,
    folder: Annotated[Path | None, typer.Argument(metavar="[FOLDER]", help="Data in that layout.")] = None,
) -> None:
    """List the dataset layouts that vol3d preprocess FOLDER --source NAME reads; with NAME and FOLDER, print its rows.

    Example: vol3d sources ct_rate /data/CT-RATE
    """
    import json

    from preprocessing.sources.registry import SOURCES, rows_of, source_of

    chosen = {name: source_of(name)} if name else SOURCES
    if name and folder:
        for row in rows_of(name, folder):
            typer.echo(json.dumps(row))
        return
    script_output.facts(sources={key: {"summary": s.summary, "page": f"docs/{s.page}"} for key, s in chosen.items()})
    for key, source in chosen.items():
        typer.echo(f"{key:18s} {source.summary} (docs/{source.page})")


def intake(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Any tree of DICOM, or NIfTI with JSON.")],
    out: Out,
    rules: Annotated[Path | None, typer.Option(metavar="FILE", help="Which reconstruction, which phrases.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that read headers.")] = 1,
) -> None:
    """Sort an archive into studies: OUT/manifest.jsonl, and OUT/report.jsonl with the fate of every series.

    Example: vol3d intake /archive/2024 --out out/intake --rules configs/intake/soft.yaml
    """
    from vol3d.workflows.prepare import intake as run_intake

    typer.echo(str(run_intake(folder, out, rules=rules, workers=workers)))


def preprocess(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="manifest.jsonl, or a folder with --source.")],
    config: Annotated[Path, typer.Option("--config", help="Recipe, or a training config that names one.")],
    out: Annotated[Path, typer.Option("--out", metavar="CACHE", help="Cache folder; made, or resumed.")],
    source: Annotated[str | None, typer.Option(help="Dataset layout of a folder; vol3d sources lists them.")] = None,
    rules: Annotated[Path | None, typer.Option(metavar="FILE", help="Rules of the intake, for dicom_tree.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    shard: Shard = "1/1",
    assume_hu: AssumeHu = False,
) -> None:
    """Turn raw studies into cache entries. Run again to resume; bad studies go to CACHE/quarantine.jsonl.

    Example: vol3d preprocess out/phantoms/manifest.jsonl --config configs/preprocess/petct.yaml --out out/cache
    """
    from vol3d.workflows.prepare import prepare

    summary = prepare(
        manifest, config, out, source=source, rules=rules, workers=workers, shard=shard_of(shard), assume_hu=assume_hu
    )
    slow = summary.stragglers()
    script_output.facts(built=summary.built, kept=summary.kept, cache=out, stragglers=slow)
    typer.echo(f"{len(summary.built)} built, {len(summary.kept)} kept, {len(summary.quarantined)} quarantined: {out}")
    for study, seconds in list(slow.items())[:20]:
        typer.echo(f"straggler: {study} took {seconds:.0f} s")
    fail_with(summary.quarantined, "quarantined")


def verify(
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="Cache folder.")],
    near_duplicates: Annotated[
        bool | None,
        typer.Option(help="Compare volumes across splits, about 20 ms a pair; by default up to 20,000 pairs."),
    ] = None,
) -> None:
    """Read every byte of a cache, look for patients and scans in two splits; exits with 1 on any fault.

    Example: vol3d verify out/cache
    """
    from vol3d.workflows.verify import verify as verify_cache

    faults = verify_cache(cache, near_duplicates=near_duplicates)
    fail_with({study: "; ".join(found) for study, found in faults.items()}, "faulty")
    typer.echo(f"{cache}: no fault found")


def index(
    caches: Annotated[list[Path], typer.Argument(metavar="CACHE...", help="Cache folders.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="JOINED", help="Folder that stands for all of them in one.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Name the studies of this manifest that are not there.")
    ] = None,
) -> None:
    """Write the table that lets runs over many studies start at once (preprocessing does so too), and join caches.

    Example: vol3d index /disk1/cache /disk2/cache --out out/joined --manifest studies/manifest.jsonl
    """
    from vol3d.workflows.index import index as run_index

    found = run_index(caches, out=out, manifest=manifest)
    for line in found.lines():
        typer.echo(line)
    fail_with(found.missing, "missing")


def weak_label(
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="Cache of studies with PET and reports.")],
    out: Annotated[Path, typer.Option("--out", metavar="MANIFEST", help="Manifest to write; masks lie beside it.")],
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Manifest that CACHE was made from; its rows are kept.")
    ] = None,
    audit: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Pages to accept or reject labels; decisions there are honoured.")
    ] = None,
    only_accepted: Annotated[
        bool, typer.Option("--only-accepted", help="Keep only labels that a human has accepted.")
    ] = False,
) -> None:
    """Masks from report sentences that name an SUVmax and a slice; each sentence gets a label or a reason why not.

    Example: vol3d weak-label out/cache --out out/weak/manifest.jsonl --audit out/weak/audit
    """
    from vol3d.workflows.weak_label import weak_label as run_weak_label

    if only_accepted and audit is None:
        raise ConfigError("expected --audit DIR with --only-accepted, found none: decisions are read from there")
    done = run_weak_label(cache, out, manifest=manifest, audit=audit, only_accepted=only_accepted)
    typer.echo(
        f"{done.labels} labels in {done.studies} studies, {done.refused} sentences without, {done.rejected} rejected, "
        f"{done.described} masks described: {out}"
    )
    fail_with(done.failed, "failed")

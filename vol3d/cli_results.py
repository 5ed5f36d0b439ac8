"""Commands that show results and take them where they are used; `vol3d.cli` adds them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from vol3d import script_output
from vol3d.cli_shared import fail_with
from vol3d.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Adds the commands."""
    app.command()(view)
    app.command()(export)
    app.command()(send)
    app.command()(deidentify)


def view(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A study's folder, as segment, findings, report or infer writes it.")
    ],
    source: Annotated[
        Path | None, typer.Option(metavar="STUDY|MANIFEST", help="What was asked about: its images are shown.")
    ] = None,
    cache: Annotated[Path | None, typer.Option(metavar="CACHE", help="Or a cache that holds the study.")] = None,
    static: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one HTML file that needs nothing else, and end.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of this machine only; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser", help="Open the page in the default browser.")] = False,
    assume_hu: Annotated[bool, typer.Option("--assume-hu", help="Trust that a suspicious CT holds HU.")] = False,
) -> None:
    """Look at a study: CT with PET and masks; a click on a sentence goes to its evidence. Ends with Ctrl-C.

    Example: vol3d view out/reports/study --source study/
    """
    from vol3d.workflows.view import load, make_server, write_static

    rendered = load(folder, source=source, cache=cache, assume_hu=assume_hu)
    if static is not None:
        size = write_static(rendered, static)
        script_output.facts(file=static, bytes=size)
        typer.echo(f"{static}: {size / 1e6:.1f} MB")
        return
    with make_server(rendered, port) as server:
        typer.echo(f"{server.url} (this machine only; Ctrl-C ends)")
        sys.stdout.flush()
        server.serve(browser)


def export(
    kind: Annotated[
        Literal["nifti", "dicom-seg", "dicom-sr", "dicom-rtstruct", "report", "mesh", "nnunet"],
        typer.Argument(metavar="KIND"),
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A study's folder, as `vol3d segment` writes it; for nnunet a cache.")
    ],
    source: Annotated[Path | None, typer.Option(help="DICOM series that was segmented; all DICOM needs it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; DIR/dicom or DIR/mesh by default.")] = None,
    labelmap: Annotated[bool, typer.Option("--labelmap", help="SEG as LABELMAP where no masks overlap.")] = False,
    pet: Annotated[Path | None, typer.Option(help="PET series that SUV was measured on, for dicom-sr.")] = None,
    text: Annotated[Path | None, typer.Option(metavar="FILE", help="Report; DIR/report.txt by default.")] = None,
    pdf: Annotated[bool, typer.Option("--pdf", help="Report as encapsulated PDF, not as text SR.")] = False,
    space: Annotated[Literal["LPS", "RAS"], typer.Option(help="Coordinates of a mesh.")] = "LPS",
    label: Annotated[list[str] | None, typer.Option(help="nnunet: a class to export; repeat; all by default.")] = None,
    image: Annotated[list[str] | None, typer.Option(help="nnunet: a channel, ct or pet; repeat.")] = None,
    complete: Annotated[bool, typer.Option("--complete", help="nnunet: only studies that state every class.")] = False,
) -> None:
    """Write masks, measurements or a report for a PACS or viewer; or a cache as an nnU-Net raw data set.

    KIND: nifti (one label map), dicom-seg, dicom-sr (measurements, and their SEG), dicom-rtstruct, report, mesh (STL),
    nnunet (images and masks of a cache).

    Example: vol3d export dicom-seg out/masks/study-1 --source study-1/ct
    """
    if kind == "nnunet":
        _export_nnunet(folder, out, label or [], image or [], complete)
        return
    from vol3d.workflows.export import export as run_export

    done = run_export(kind, folder, source=source, out=out, labelmap=labelmap, pet=pet, text=text, pdf=pdf, space=space)
    for message in done.messages:
        typer.echo(f"note: {message}", err=True)
    for path in done.files:
        typer.echo(str(path))


def _export_nnunet(cache: Path, out: Path | None, labels: list[str], images: Sequence[str], complete: bool) -> None:
    from vol3d.export.nnunet import export_nnunet

    if out is None:
        raise ConfigError("expected --out with the folder to write, like $nnUNet_raw/Dataset501_Name")
    done = export_nnunet(cache, out, classes=labels, images=images, complete=complete)
    script_output.facts(train=done.train, test=done.test, labels=done.labels, left_out=done.left_out)
    for note in done.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{len(done.train)} training and {len(done.test)} test cases, {len(done.labels) - 1} classes: {out}")


def send(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder with DICOM files, at any depth.")],
    to: Annotated[str, typer.Option("--to", metavar="URL", help="dicom[s]://AET@host:port or https://host/dicom-web.")],
    attempts: Annotated[int, typer.Option(min=1, help="Tries for each object while the PACS is out of reach.")] = 5,
) -> None:
    """Send DICOM to a PACS, each object once; run again to go on. Credentials: docs/how-to/pacs-delivery.md.

    Example: vol3d send out/dicom --to dicom://ORTHANC@localhost:4242
    """
    from vol3d.workflows.send import send as run_send

    done = run_send(folder, to, attempts=attempts)
    typer.echo(f"{len(done.sent)} sent, {len(done.there)} there already, {len(done.failed)} failed: {folder}")
    fail_with(done.failed, "failed")


def deidentify(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Folder with DICOM files, at any depth.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    keep: Annotated[
        list[str] | None, typer.Option(metavar="WHAT", help="dates (shifted) or characteristics; repeat for both.")
    ] = None,
) -> None:
    """Copies without identity (PS3.15 basic profile), their references to each other kept.

    Example: vol3d deidentify out/dicom out/shared --keep dates --keep characteristics
    """
    from vol3d.workflows.deidentify import deidentify as run_deidentify

    done = run_deidentify(source, out, keep=keep or [])
    typer.echo(f"{done.written} written, {done.left_out} other files left out, {len(done.refused)} refused: {out}")
    fail_with(done.refused, "refused")

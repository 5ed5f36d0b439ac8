"""The command line: parse, call one workflow, turn errors into messages and exit codes. Heavy imports wait for their
command, so that ``vol3d --help`` is quick."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vol3d import script_output
from vol3d.cli_tools import register
from vol3d.errors import ConfigError, StoppedError, Vol3dError

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="3D vision-language pipeline for CT and PET/CT. Every command: vol3d COMMAND --help. Every command takes "
    "--quiet (nothing but errors) and --json (standard output is one JSON object).",
)

Out = Annotated[Path, typer.Option("--out", help="Folder to write.")]
Input = Annotated[Path, typer.Argument(metavar="INPUT", help="Study folder (NIfTI or DICOM) or manifest.jsonl.")]
CheckpointPath = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Run folder or exported model folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]


def main(args: list[str] | None = None) -> None:
    """Runs a command; exits 0 only if all that was asked was done."""
    rest, output = script_output.taken_out(sys.argv[1:] if args is None else args)
    _set_up_logging()
    # SIGUSR1 waits until a command listens (vol3d.train.stop): it must end neither the imports nor helpers they start
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        with script_output.scripted(output, " ".join(rest[:2] if rest[:1] == ["config"] else rest[:1])):
            _run(rest)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _set_up_logging() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("vol3d").setLevel(logging.INFO)
    for noisy in (
        "nnunetv2",
        "deepspeed",
        "DeepSpeed",
        "torch.distributed",
        "matplotlib",
        "PIL",
        "pynetdicom",
        "dicomweb_client",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("retrying").setLevel(logging.ERROR)  # dicomweb-client's: a traceback for each failed request
    for telltale in ("pydicom", "highdicom"):  # quote invalid values, names of patients among them
        logging.getLogger(telltale).setLevel(logging.CRITICAL)


def _run(args: list[str]) -> None:
    """Turns what a user can cause into a message and an exit status."""
    try:
        app(args)
    except Vol3dError as error:
        script_output.failed(str(error))
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from None
    except StoppedError as stop:
        script_output.failed(str(stop))
        typer.echo(str(stop), err=True)
        raise SystemExit(stop.exit_code) from None
    except OSError as error:  # a folder that cannot be written, a disk that is full
        script_output.failed(str(error))
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        raise SystemExit(130) from None


@app.command()
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


@app.command()
def preprocess(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="manifest.jsonl, or a folder with --source.")],
    config: Annotated[Path, typer.Option("--config", help="Recipe, or a training config that names one.")],
    out: Annotated[Path, typer.Option("--out", metavar="CACHE", help="Cache folder; made, or resumed.")],
    source: Annotated[str | None, typer.Option(help="Dataset layout of a folder; vol3d sources lists them.")] = None,
    rules: Annotated[Path | None, typer.Option(metavar="FILE", help="Rules of the intake, for dicom_tree.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Only every N-th study, from the I-th.")] = "1/1",
    assume_hu: Annotated[
        bool, typer.Option("--assume-hu", help="Trust that a suspicious CT holds HU; recorded.")
    ] = False,
) -> None:
    """Turn raw studies into cache entries. Run again to resume; bad studies go to CACHE/quarantine.jsonl.

    Example: vol3d preprocess out/phantoms/manifest.jsonl --config configs/preprocess/petct.yaml --out out/cache
    """
    from vol3d.workflows.prepare import prepare

    summary = prepare(
        manifest, config, out, source=source, rules=rules, workers=workers, shard=_shard(shard), assume_hu=assume_hu
    )
    slow = summary.stragglers()
    script_output.facts(built=summary.built, kept=summary.kept, cache=out, stragglers=slow)
    typer.echo(f"{len(summary.built)} built, {len(summary.kept)} kept, {len(summary.quarantined)} quarantined: {out}")
    for study, seconds in list(slow.items())[:20]:
        typer.echo(f"straggler: {study} took {seconds:.0f} s")
    _fail_with(summary.quarantined, "quarantined")


@app.command()
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


@app.command()
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
    _fail_with({study: "; ".join(found) for study, found in faults.items()}, "faulty")
    typer.echo(f"{cache}: no fault found")


@app.command()
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
    _fail_with(found.missing, "missing")


@app.command("weak-label")
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
    _fail_with(done.failed, "failed")


@app.command()
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


@app.command()
def segment(
    checkpoint: CheckpointPath,
    source: Input,
    out: Out,
    prompt: Annotated[list[str] | None, typer.Option(help="A phrase; repeat for more.")] = None,
    prompts: Annotated[Path | None, typer.Option(metavar="FILE", help="One phrase a line.")] = None,
    grid: Annotated[
        Literal["ct", "pet"] | None, typer.Option(help="Grid of the masks; CT's where there is one.")
    ] = None,
    device: Device = "auto",
    assume_hu: Annotated[
        bool, typer.Option("--assume-hu", help="Trust that a suspicious CT holds HU; recorded.")
    ] = False,
) -> None:
    """Masks for phrases, on the source grid, with probability, volume, SUVmax and slices.

    Example: vol3d segment out/run study/ --prompt "left kidney" --prompt "FDG-avid liver lesion" --out out/masks
    """
    from vol3d.workflows.segment import segment as run_segment

    phrases = [*(prompt or []), *(_lines(prompts) if prompts else [])]
    summary = run_segment(checkpoint, source, phrases, out, grid=grid, device=_device(device), assume_hu=assume_hu)
    typer.echo(f"{len(summary.done)} studies written to {out}")
    _fail_with(summary.failed, "failed")


@app.command()
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
    grid: Annotated[
        Literal["ct", "pet"] | None, typer.Option(help="Grid of the masks; CT's where there is one.")
    ] = None,
    device: Device = "auto",
    assume_hu: Annotated[
        bool, typer.Option("--assume-hu", help="Trust that a suspicious CT holds HU; recorded.")
    ] = False,
) -> None:
    """Which findings are present, with calibrated probability, threshold and the mask that shows it.

    Example: vol3d findings out/run study/ --prompt "liver lesion" --prompt "left pleural effusion" --out out/findings
    """
    from vol3d.workflows.findings import find

    summary = find(
        checkpoint, source, out, prompts=prompts, names=prompt or [], point=point, heat_maps=heat_maps, grid=grid,
        device=_device(device), assume_hu=assume_hu,
    )  # fmt: skip
    typer.echo(f"{len(summary.done)} studies written to {out}")
    _fail_with(summary.failed, "failed")


@app.command()
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
    beam: Annotated[int, typer.Option(min=1, help="Hypotheses of the language decoder; 1 is greedy.")] = 1,
    device: Device = "auto",
    assume_hu: Annotated[
        bool, typer.Option("--assume-hu", help="Trust that a suspicious CT holds HU; recorded.")
    ] = False,
) -> None:
    """Write a report: every sentence with its mask or its checked absence, every number measured.

    Example: vol3d report out/run study/ --indication "Staging." --prior out/old/study/report.json --out out/reports
    """
    from vol3d.workflows.drafts import Context
    from vol3d.workflows.report import report as run_report

    summary = run_report(
        checkpoint, source, out, context=Context(indication=indication, comparison=comparison), prior=prior,
        keep_all=keep_all, beams=beam, device=_device(device), assume_hu=assume_hu,
    )  # fmt: skip
    script_output.facts(done=summary.done, failed=summary.failed, out=out)
    typer.echo(f"{len(summary.done)} studies written to {out}")
    _fail_with(summary.failed, "failed")


@app.command()
def answer(
    checkpoint: CheckpointPath,
    source: Input,
    question: Annotated[list[str], typer.Option(help="A question in words; repeat for more.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder for answers.json and the evidence masks.")] = None,
    indication: Annotated[str | None, typer.Option(help="Why the study was made.")] = None,
    device: Device = "auto",
    assume_hu: Annotated[
        bool, typer.Option("--assume-hu", help="Trust that a suspicious CT holds HU; recorded.")
    ] = False,
) -> None:
    """Answer questions: what they ask about is segmented, numbers are measured, nothing is said against the image.

    Example: vol3d answer out/run study/ --question "How large is the tumour?" --question "Which side is it on?"
    """
    from dataclasses import asdict

    from vol3d.workflows.answer import answer as run_answer
    from vol3d.workflows.drafts import Context

    found, summary = run_answer(
        checkpoint, source, question, out=out, context=Context(indication=indication), device=_device(device),
        assume_hu=assume_hu,
    )  # fmt: skip
    script_output.facts(answers={study: [asdict(a) for a in answers] for study, answers in found.items()})
    for study, answers in found.items():
        for given in answers:
            sure = "" if given.probability is None else f", probability {given.probability:.2f}"
            typer.echo(f"{study}: {given.question} {given.text} ({given.reason}{sure})")
    _fail_with(summary.failed, "failed")


@app.command()
def infer(
    checkpoint: CheckpointPath,
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="manifest.jsonl, or a study folder.")],
    out: Out,
    prompts: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Phrases to segment, one a line; without, none are.")
    ] = None,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Only every N-th study, from the I-th.")] = "1/1",
    device: Device = "auto",
    assume_hu: Annotated[
        bool, typer.Option("--assume-hu", help="Trust that a suspicious CT holds HU; recorded.")
    ] = False,
) -> None:
    """Masks, findings and a report for every study, in one batch. Run again to resume; what is done is kept.

    Example: vol3d infer out/run manifest.jsonl --prompts prompts.txt --out out/infer --shard 1/4
    """
    from vol3d.workflows.infer import infer as run_infer

    summary = run_infer(
        checkpoint, manifest, out, prompts=_lines(prompts) if prompts else [], shard=_shard(shard),
        device=_device(device), assume_hu=assume_hu,
    )  # fmt: skip
    script_output.facts(done=summary.done, kept=summary.kept, failed=summary.failed, out=out)
    typer.echo(f"{len(summary.done)} done, {len(summary.kept)} kept, {len(summary.failed)} failed: {out}")
    _fail_with(summary.failed, "failed")


@app.command()
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
    _fail_with(done.failed, "failed")


@app.command()
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


@app.command()
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
    _fail_with(done.refused, "refused")


@app.command()
def evaluate(
    checkpoint: CheckpointPath,
    cache: Annotated[Path, typer.Argument(metavar="CACHE", help="Cache with truth.")],
    out: Out,
    split: Annotated[Literal["train", "val", "test"], typer.Option(help="Which studies.")] = "test",
    samples: Annotated[int, typer.Option(min=1, help="Bootstrap draws of the intervals.")] = 1000,
    language: Annotated[bool, typer.Option("--language", help="Also write and score reports and answers.")] = False,
    device: Device = "auto",
) -> None:
    """Score a checkpoint: metrics.csv (a row a phrase), findings.csv, metrics.json (with intervals), plots.

    With --language also language.json: every study's report and answers, written and scored.

    Example: vol3d evaluate out/run out/cache --split test --out out/eval
    """
    from vol3d.workflows.evaluate import evaluate as run_evaluate
    from vol3d.workflows.evaluate_language import evaluate_language

    summary = run_evaluate(checkpoint, cache, out, split=split, samples=samples, device=_device(device))
    for name, value in summary["headline"].items():
        typer.echo(f"{name:32s} {value}")
    if language:
        table = evaluate_language(checkpoint, cache, out, split=split, samples=samples, device=_device(device))
        for name, value in table["headline"].items():
            typer.echo(f"{name:32s} {value}")
    typer.echo(f"written to {out}")


@app.command()
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


@app.command()
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


@app.command()
def demo(out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("out/demo")) -> None:
    """Phantom PET/CT through preprocess, train, segment and evaluate, with pictures; about ten minutes on two cores.

    Example: vol3d demo --out out/demo
    """
    from vol3d.workflows.demo import run_demo

    run_demo(out, echo=typer.echo)


def _export_nnunet(cache: Path, out: Path | None, labels: list[str], images: Sequence[str], complete: bool) -> None:
    from vol3d.export.nnunet import export_nnunet

    if out is None:
        raise ConfigError("expected --out with the folder to write, like $nnUNet_raw/Dataset501_Name")
    done = export_nnunet(cache, out, classes=labels, images=images, complete=complete)
    script_output.facts(train=done.train, test=done.test, labels=done.labels, left_out=done.left_out)
    for note in done.notes:
        typer.echo(f"note: {note}", err=True)
    typer.echo(f"{len(done.train)} training and {len(done.test)} test cases, {len(done.labels) - 1} classes: {out}")


def _shard(text: str) -> tuple[int, int]:
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit()):
        raise ConfigError(f"expected --shard I/N such as 1/4, found {text!r}")
    return int(index), int(count)


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise ConfigError(f"expected a file of prompts, one a line, found nothing at {path}")
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ConfigError(f"expected prompts in UTF-8, one a line, found other bytes in {path}: {error}") from None


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, colon, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (colon and not number.isdigit()):
        raise ConfigError(f"expected --device auto, cpu, cuda or cuda:N, found {name!r}")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and int(number or 0) >= found:
        raise ConfigError(
            f"expected a CUDA device for --device {name}, found {found or 'none'}; "
            + (f"use cuda:0 to cuda:{found - 1}" if found else "use --device cpu")
        )
    return name


def _fail_with(reasons: dict[str, Any], word: str) -> None:
    script_output.facts(**{word: reasons})
    if reasons:
        for study, reason in reasons.items():
            typer.echo(f"{word}: {study}: {reason}", err=True)
        raise SystemExit(1)


register(app)

if __name__ == "__main__":
    main()

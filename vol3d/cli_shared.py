"""What commands have in common: arguments and options, and what a failed study does to the exit status."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from vol3d import script_output
from vol3d.errors import ConfigError

Out = Annotated[Path, typer.Option("--out", help="Folder to write.")]
Input = Annotated[Path, typer.Argument(metavar="INPUT", help="Study folder (NIfTI or DICOM) or manifest.jsonl.")]
CheckpointPath = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Run folder or exported model folder.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Shard = Annotated[str, typer.Option(metavar="I/N", help="Only every N-th study, from the I-th.")]
MaskGrid = Annotated[
    Literal["ct", "pet"] | None, typer.Option("--grid", help="Grid of the masks; CT's where there is one.")
]
AssumeHu = Annotated[bool, typer.Option("--assume-hu", help="Trust that a suspicious CT holds HU; recorded.")]


def shard_of(text: str) -> tuple[int, int]:
    """Number and count of ``--shard I/N``. Raises ConfigError on anything else."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit()):
        raise ConfigError(f"expected --shard I/N such as 1/4, found {text!r}")
    return int(index), int(count)


def lines_of(path: Path) -> list[str]:
    """Lines of a file that are not empty. Raises ConfigError without the file, or where it is not UTF-8."""
    if not path.is_file():
        raise ConfigError(f"expected a file of prompts, one a line, found nothing at {path}")
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ConfigError(f"expected prompts in UTF-8, one a line, found other bytes in {path}: {error}") from None


def device_of(name: str) -> str:
    """Name for torch of ``--device``. Raises ConfigError on a device that is not there."""
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


def fail_with(reasons: dict[str, Any], word: str) -> None:
    """Names what went wrong for each study and exits with 1, if anything did."""
    script_output.facts(**{word: reasons})
    if reasons:
        for study, reason in reasons.items():
            typer.echo(f"{word}: {study}: {reason}", err=True)
        raise SystemExit(1)

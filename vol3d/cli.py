"""The command line: parse, call one workflow, turn errors into messages and exit codes.

Commands are in ``cli_*.py``, by theme. Heavy imports wait for their command, so that ``vol3d --help`` is quick.
"""

from __future__ import annotations

import logging
import signal
import sys

import typer

from vol3d import cli_ask, cli_data, cli_models, cli_results, cli_tools, script_output
from vol3d.errors import StoppedError, Vol3dError

app = typer.Typer(
    add_completion=True,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="3D vision-language pipeline for CT and PET/CT. Every command: vol3d COMMAND --help. Every command takes "
    "--quiet (nothing but errors) and --json (standard output is one JSON object).",
)
for part in (cli_tools, cli_data, cli_models, cli_ask, cli_results):  # the order of the help
    part.register(app)


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


if __name__ == "__main__":
    main()

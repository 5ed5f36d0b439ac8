"""``--quiet`` and ``--json``, which every command takes: what a script sees of it.

``--quiet``: nothing but errors. ``--json``: standard output holds one JSON object and nothing else, whatever the
command (or a library under it) prints; progress stays on standard error. The exit status is the same in every case.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

from vol3d.files import finite

QUIET, JSON = "--quiet", "--json"


@dataclass
class Output:
    """Of the command that runs."""

    quiet: bool = False
    as_json: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


_current = Output()


def facts(**values: Any) -> None:
    """Adds to the JSON object; without ``--json`` it does nothing that shows."""
    _current.facts.update(values)


def failed(message: str) -> None:
    """The error that ended the command."""
    _current.error = message


def taken_out(arguments: Sequence[str]) -> tuple[list[str], Output]:
    """Arguments without the two flags, which may stand anywhere before ``--``, and what they say."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    flags = set(arguments[:end]) & {QUIET, JSON}
    rest = [a for a in arguments[:end] if a not in flags] + list(arguments[end:])
    return rest, Output(quiet=QUIET in flags, as_json=JSON in flags)


@contextmanager
def scripted(output: Output, command: str) -> Iterator[None]:
    """Runs a command as `output` says and prints its JSON object at the end, however it ends."""
    global _current
    before, _current = _current, output
    if not (output.quiet or output.as_json):
        try:
            yield
        finally:
            _current = before
        return
    if output.quiet:
        logging.getLogger("vol3d").setLevel(logging.ERROR)
    stdout, sys.stdout = sys.stdout, StringIO()
    code: Any = 1
    try:
        yield
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
        raise
    finally:
        printed = sys.stdout.getvalue()
        sys.stdout, _current = stdout, before
        if output.as_json:
            print(_object(output, command, code, printed), file=stdout, flush=True)


def _object(output: Output, command: str, code: Any, printed: str) -> str:
    record: dict[str, Any] = {"command": command, "ok": code == 0, "exit": code}
    if output.error:
        record["error"] = output.error
    record |= output.facts
    record["messages"] = [line for line in printed.splitlines() if line.strip()]
    return json.dumps(finite(record), default=str, allow_nan=False)

"""One progress bar for every long command: rate, ETA, and plain lines where there is no terminal."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 15.0
"""Without a terminal (a SLURM log) a line is written at most this often."""

Advance = Callable[..., None]
"""advance(n=1, note="loss 0.31"): n more are done."""

log = logging.getLogger("vol3d")

_open: ContextVar[Advance | None] = ContextVar("open bar", default=None)


def within(what: str) -> Callable[[int, int], None]:
    """tell(done, total): how far the present item of the bar that is open has come; a study may take minutes."""
    advance = _open.get()
    if advance is None:
        return lambda done, total: None
    return lambda done, total: advance(0, f"{what} {done}/{total}")


@contextmanager
def progress(title: str, total: int, unit: str, start: int = 0, enabled: bool = True) -> Iterator[Advance]:
    """Yields `advance`; `start` are done already and count neither towards the rate nor the ETA."""
    with _bar(title, total, unit, start, enabled) as advance:
        token = _open.set(advance)
        try:
            yield advance
        finally:
            _open.reset(token)


@contextmanager
def _bar(title: str, total: int, unit: str, start: int, enabled: bool) -> Iterator[Advance]:
    console = Console(stderr=True)
    began, done = time.monotonic(), start
    if not (enabled and log.isEnabledFor(logging.WARNING)):  # --quiet leaves errors alone
        yield lambda n=1, note="": None
        return
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
        )  # fmt: skip
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(title, total=total, completed=start, rate="", note="")

            def advance(n: int = 1, note: str = "") -> None:
                nonlocal done
                done += n
                rate = (done - start) / max(time.monotonic() - began, 1e-9)
                bar.update(task, advance=n, rate=f"{rate:.2f} {unit}/s", note=note)

            yield advance
        return

    last = began

    def line(n: int = 1, note: str = "") -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if now - last >= LINE_EVERY_S or (n and done == total):
            last = now
            rate = (done - start) / max(now - began, 1e-9)
            left = f"{(total - done) / rate:.0f} s" if rate > 0 else "unknown"
            log.info("%s %d/%d  %.2f %s/s  ETA %s  %s", title, done, total, rate, unit, left, note)

    yield line

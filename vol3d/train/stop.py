"""SIGTERM and SIGUSR1: what a cluster sends before it takes the machine away.

The first one asks for an end: at once, by `StoppedError`, or inside `held` at the next moment when a checkpoint can be
written. A later one ends the process on the spot, whatever it is doing. SIGUSR1 also sends the SLURM job back to its
queue, for it is what `--signal=USR1@300` sends before the time limit. SIGTERM does not: SLURM requeues a preempted job
itself, and a cancelled one is not wanted back.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from types import FrameType

from vol3d.errors import StoppedError
from vol3d.train import ranks

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)

REPEAT_S = 5.0
"""SLURM tells the processes, and srun tells them again; what comes this soon after the first is the same request."""

log = logging.getLogger("vol3d")


@dataclass
class _Asked:
    """Signals belong to a process, so this is one of a process."""

    listening: bool = False
    held: bool = False
    signal: int = 0
    requeued: bool = False


_now = _Asked()


@contextmanager
def listening() -> Iterator[None]:
    """Inside, the two signals mean what is said above; the outermost call decides, and only a main thread can listen.

    Raises:
        StoppedError: a signal came.
    """
    if _now.listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    fd_before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, _ask) for number in SIGNALS}
    watcher = threading.Thread(target=_end_at_the_second, args=(read,), daemon=True)
    watcher.start()
    _now.listening, _now.held, _now.signal, _now.requeued = True, False, 0, False
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # the command line has held SIGUSR1 back until now
        yield
    except StoppedError:
        requeue()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(fd_before)
        os.close(write)
        watcher.join()
        os.close(read)
        _now.listening, _now.signal = False, 0


@contextmanager
def held() -> Iterator[None]:
    """Inside, a first signal is only noted: ask for it with `asked`.

    Raises:
        StoppedError: on leaving, if a signal came that nobody has asked for, such as while the last checkpoint was
            written.
    """
    _now.held = True
    try:
        yield
    finally:
        _now.held = False
    if _now.signal:
        raise _broken_off(_now.signal)


@contextmanager
def released() -> Iterator[None]:
    """Inside `held`: a stretch that a signal may break off.

    Raises:
        StoppedError: a signal came, or had come.
    """
    _now.held = False
    try:
        if _now.signal:
            raise _broken_off(_now.signal)
        yield
    finally:
        _now.held = True


def asked() -> int:
    """The signal that came, 0 for none; of several the one that says more: SIGTERM before SIGUSR1."""
    return _now.signal


def agree() -> int:
    """`asked` of all ranks together; all must call it. What comes while they talk is for the next time."""
    agreed = int(ranks.gather_numbers([float(_now.signal)]).max())
    _now.signal = max(_now.signal, agreed)
    return agreed


def requeue(environ: Mapping[str, str] | None = None) -> None:
    """Sends this SLURM job back to its queue if SIGUSR1 came, once, from rank 0; says so if SLURM will not.

    All ranks should call it: SLURM ends the turn by SIGTERM, which is then no second request.
    """
    environ = os.environ if environ is None else environ
    job = slurm_job(environ)
    if _now.signal != signal.SIGUSR1 or _now.requeued or job is None:
        return
    _now.requeued = True
    if ranks.find_place(environ).rank != 0:
        return
    try:
        subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=True, timeout=60)
        log.info("job %s goes back to the queue", job)
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip()
        log.warning("job %s was not requeued (%s); submit the same job again to go on", job, reason)


def slurm_job(environ: Mapping[str, str]) -> str | None:
    """What `scontrol` calls this job; None outside of SLURM.

    The last task of an array has the number of the whole array: by that alone all tasks would go back to the queue,
    those that are done too.
    """
    array, task = environ.get("SLURM_ARRAY_JOB_ID"), environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else environ.get("SLURM_JOB_ID")


def stopped(done: str) -> StoppedError:
    """The error to raise; `done` says what is safe."""
    return StoppedError(f"{_name(_now.signal)}; {done}")


def _name(number: int) -> str:
    return f"stopped by {signal.Signals(number).name}"


def _ask(number: int, frame: FrameType | None) -> None:
    first = not _now.signal
    _now.signal = max(_now.signal, number)
    if first and not _now.held:
        raise _broken_off(number)


def _broken_off(number: int) -> StoppedError:
    return StoppedError(f"{_name(number)}; the same command goes on, training with --resume auto")


def _end_at_the_second(read: int) -> None:
    """A thread, since Python's own handlers wait for torch to come back, from a lost rank for hours."""
    first: float | None = None
    requeued = False
    while number := os.read(read, 1):
        if number[0] not in SIGNALS:
            continue
        now = time.monotonic()
        if first is None or _now.requeued > requeued:  # SLURM's answer to `requeue` belongs to the first
            first, requeued = now, _now.requeued
        if now - first >= REPEAT_S:
            with suppress(OSError):
                os.write(2, b"second signal: ended at once, the last checkpoint is whole\n")
            os._exit(128 + number[0])


@contextmanager
def unheard_by_children() -> Iterator[None]:
    """Processes started inside do not get the two signals: a reader of data that dies would end the run first.

    SLURM signals every process of a step. A child keeps what is blocked, so it has to be ended by other means.
    """
    resource_tracker.ensure_running()  # starting it, multiprocessing would unblock SIGTERM
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

"""`log.csv`, `validation.jsonl`, TensorBoard, `heartbeat.json` and, if asked for, Weights & Biases; rank 0 only."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
import socket
import time
import uuid
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from vol3d.errors import ConfigError, StoppedError
from vol3d.files import json_text, write_json, write_whole

BEAT_S = 10.0
"""Seconds between heartbeats."""

log = logging.getLogger("vol3d")


class RunLog:
    """Appends; what a killed run wrote past its last checkpoint is cut off before (`RunFolder.begin`)."""

    def __init__(self, root: Path, step: int, wandb: str | None = None) -> None:
        self._root = root
        self._columns = _read_columns(root / "log.csv")
        self._csv = (root / "log.csv").open("a", buffering=1)
        self._board = SummaryWriter(str(root / "tensorboard"), purge_step=step + 1)
        self._online = _start_wandb(wandb, root) if wandb else None
        self._since: dict[str, list[float]] = {}
        self._latest: dict[str, float] = {}
        self._saved: dict[str, float] | None = None
        self._first, self._began, self._beaten = step, time.monotonic(), -math.inf
        self._step, self._steps = step, step

    def add(self, figures: dict[str, float]) -> None:
        """Figures of one step; nan is "none of this kind in this step"."""
        self._latest = figures
        for name, value in figures.items():
            self._since.setdefault(name, []).append(value)

    def row(self, step: int) -> None:
        """One row with the mean of every figure since the last row, written so that it reads back exactly."""
        means = {}
        for name, values in self._since.items():
            known = [v for v in values if not math.isnan(v)]
            means[name] = math.fsum(known) / len(known) if known else math.nan
        self._since = {}
        if not self._columns:
            self._columns = ["step", *means]
            self._csv.write(",".join(self._columns) + "\n")
        elif not set(means) <= set(self._columns):
            self._widen([name for name in means if name not in self._columns])
        row = {"step": step, **means}
        self._csv.write(",".join(repr(row.get(name, math.nan)) for name in self._columns) + "\n")
        self._scalars({f"train/{name}": value for name, value in means.items()}, step)

    def validated(self, step: int, metrics: dict[str, Any]) -> None:
        """One line of JSON; numbers also go to TensorBoard."""
        with (self._root / "validation.jsonl").open("a") as file:
            file.write(json_text({"step": step, **metrics}) + "\n")
        self._scalars({f"validation/{k}": v for k, v in metrics.items() if isinstance(v, int | float)}, step)

    def saved(self, step: int, seconds: float) -> None:
        """A checkpoint was written: how long that takes decides how early a job must be warned."""
        self._saved = {"step": step, "seconds": round(seconds, 3)}
        log.info("checkpoint after %d steps written in %.1f s", step, seconds)

    def beat(self, doing: str, step: int, steps: int, *, always: bool = False, reason: str | None = None) -> None:
        """Rewrites `heartbeat.json`, at most every ten seconds unless told `always`."""
        self._step, self._steps = step, steps
        now = time.monotonic()
        if not always and now - self._beaten < BEAT_S:
            return
        self._beaten = now
        done, passed = step - self._first, now - self._began
        figures = {name: value for name, value in self._latest.items() if math.isfinite(value)}
        record = {
            "doing": doing,
            "reason": reason,
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "step": step,
            "steps": steps,
            "seconds_left": round((steps - step) * passed / done, 1) if done else None,
            "checkpoint": self._saved,
            "figures": figures,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
        }
        write_json(self._root / "heartbeat.json", record)

    def _scalars(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if self._online is not None:
            self._online.log({**values, "step": step})

    def _widen(self, names: list[str]) -> None:
        """Adds columns, with nothing in the rows there are: a run may be resumed by a newer version."""
        path = self._root / "log.csv"
        self._csv.close()
        old = path.read_text().splitlines()[1:]
        self._columns += names
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([self._columns, *(line.split(",") + ["nan"] * len(names) for line in old)])
        write_whole(path, text.getvalue())
        self._csv = path.open("a", buffering=1)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = isinstance(error, StoppedError)
        doing = "finished" if error is None else "stopped" if stopped else "failed"
        with suppress(OSError):  # a full disk is told by the error itself
            self.beat(doing, self._step, self._steps, always=True, reason=str(error) if error else None)
        self._csv.close()
        self._board.close()
        if self._online is not None:
            self._online.finish(exit_code=0 if error is None or stopped else 1)


def _read_columns(path: Path) -> list[str]:
    if not path.is_file():
        return []
    with path.open() as file:
        return file.readline().strip().split(",") if path.stat().st_size else []


def _start_wandb(project: str, root: Path) -> Any:
    try:
        import wandb
    except ImportError:
        raise ConfigError(
            f"expected the package wandb for train.wandb: {project}, found none; pip install 'vol3d[tracking]', or set "
            f"train.wandb=null"
        ) from None
    identity = root / "wandb-run"  # one curve for all the starts of a run
    if not identity.is_file():
        write_whole(identity, uuid.uuid4().hex[:12])
    try:
        run = wandb.init(project=project, name=root.name, dir=str(root), id=identity.read_text(), resume="allow")
    except wandb.errors.Error as error:
        raise ConfigError(
            f"expected Weights & Biases to take train.wandb: {project}, found: {error}; `wandb login` on this machine, "
            f"export WANDB_MODE=offline, or set train.wandb=null"
        ) from None
    run.define_metric("*", step_metric="step")
    return run

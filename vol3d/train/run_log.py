"""`log.csv`, `validation.jsonl` and TensorBoard of a run; written by rank 0 only."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class RunLog:
    """Appends; what a killed run wrote past its last checkpoint is cut off before (`RunFolder.begin`)."""

    def __init__(self, root: Path, step: int) -> None:
        self._validation = root / "validation.jsonl"
        self._csv = (root / "log.csv").open("a", buffering=1)
        self._empty = self._csv.tell() == 0
        self._board = SummaryWriter(str(root / "tensorboard"), purge_step=step + 1)
        self._since: dict[str, list[float]] = {}

    def add(self, figures: dict[str, float]) -> None:
        """Figures of one step; nan is "none of this kind in this step"."""
        for name, value in figures.items():
            self._since.setdefault(name, []).append(value)

    def row(self, step: int) -> None:
        """One row with the mean of every figure since the last row, written so that it reads back exactly."""
        means = {}
        for name, values in self._since.items():
            known = [v for v in values if not math.isnan(v)]
            means[name] = math.fsum(known) / len(known) if known else math.nan
        self._since = {}
        if self._empty:
            self._csv.write(",".join(["step", *means]) + "\n")
            self._empty = False
        self._csv.write(",".join([str(step), *map(repr, means.values())]) + "\n")
        for name, value in means.items():
            self._board.add_scalar(f"train/{name}", value, step)

    def validated(self, step: int, metrics: dict[str, Any]) -> None:
        """One line of JSON; numbers also go to TensorBoard."""
        with self._validation.open("a") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        for name, value in metrics.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"validation/{name}", value, step)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._csv.close()
        self._board.close()

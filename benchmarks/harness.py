"""Side-by-side timing: both sides in turns in one process, checked to agree first, rows with their goals as JSON.

A figure is a ratio against a rival that ran in the same minutes on the same cores, so that whatever else the machine
does falls on both. Where a row says "per core", CPU seconds of the process are compared, else seconds on the wall.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import multiprocessing
import operator
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

RESULTS = Path(__file__).parent / "results"
CLOCK_OF = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
Clock = Literal["wall", "cpu"]


@dataclass
class Timing:
    """Seconds of every round of one side."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    """Of all threads of this process and of the children it has waited for."""

    def median(self, clock: Clock = "wall") -> float:
        """Of all rounds."""
        return statistics.median(getattr(self, clock))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure."""

    what: str
    value: float
    unit: str
    """``x`` is a ratio."""
    goal: str | None
    """Such as ``>= 2``; None: stated for information."""
    met: bool | None
    against: str
    detail: dict[str, Any]


def arguments(doc: str | None, **defaults: Any) -> argparse.ArgumentParser:
    """What every script takes: where to work, where results go, how often, on how many threads."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/bench"), help="work folder; volumes are kept there")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON")
    parser.add_argument("--rounds", type=int, default=defaults.get("rounds", 5))
    parser.add_argument("--threads", type=int, default=defaults.get("threads", 1))
    parser.add_argument("--data", type=Path, default=_data(), help="real images; default: VOL3D_DATA")
    return parser


def _data() -> Path | None:
    return Path(os.environ["VOL3D_DATA"]) if os.environ.get("VOL3D_DATA") else None


class Bench:
    """The rows of one script."""

    def __init__(self, name: str, settings: argparse.Namespace) -> None:
        self.name, self.settings = name, settings
        self.rows: list[Row] = []
        self.notes: list[str] = []
        self._load, self._began = [round(os.getloadavg()[0], 1)], time.monotonic()
        settings.out.mkdir(parents=True, exist_ok=True)

    def row(self, what: str, value: float, goal: str | None = None, *, against: str = "", unit: str = "x",
            **detail: Any) -> None:  # fmt: skip
        """Adds and prints one figure."""
        made = Row(
            what=what, value=_rounded(value), unit=unit, goal=goal, met=None if goal is None else meets(value, goal),
            against=against, detail={k: _rounded(v) for k, v in detail.items()},
        )  # fmt: skip
        self.rows.append(made)
        self._load.append(round(os.getloadavg()[0], 1))
        print(f"{self.name}: {what}: {_shown(asdict(made))}", flush=True)

    def note(self, text: str) -> None:
        """A sentence for the reader of the JSON: a setting of a rival, or why something was left out."""
        self.notes.append(text)
        print(f"{self.name}: {text}", flush=True)

    def write(self) -> Path:
        """``RESULTS/<name>.json``."""
        import torch

        self.settings.results.mkdir(parents=True, exist_ok=True)
        options = {k: str(v) for k, v in vars(self.settings).items() if k not in ("results", "data", "out")}
        record = {
            "name": self.name,
            "command": f"python -m benchmarks.{self.name}",
            "options": options,
            "machine": {
                "cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version(),
                "torch": torch.__version__, "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            },
            "load_average": {"least": min(self._load), "most": max(self._load)},
            "minutes": round((time.monotonic() - self._began) / 60, 1),
            "notes": self.notes,
            "rows": [asdict(row) for row in self.rows],
        }  # fmt: skip
        path = self.settings.results / f"{self.name}.json"
        path.write_text(json.dumps(record, indent=1) + "\n")
        return path


def meets(value: float, goal: str) -> bool:
    """Whether a value fulfils ``<= 1.1`` and the like."""
    sign, _, limit = goal.partition(" ")
    return bool(CLOCK_OF[sign](value, float(limit)))


def table(folder: Path = RESULTS, names: Iterable[str] | None = None) -> str:
    """All rows of all results as markdown."""
    paths = [folder / f"{name}.json" for name in names] if names is not None else sorted(folder.glob("*.json"))
    meaning = "A ratio says how many times as fast vol3d is; with a goal of `<=`, how many times what the rival takes."
    lines = [meaning, "", "| script | what | value | goal | met |", "|---|---|---|---|---|"]
    for path in (p for p in paths if p.exists()):
        record = json.loads(path.read_text())
        for row in record["rows"]:
            met = {True: "yes", False: "no", None: ""}[row["met"]]
            against = f", against {row['against']}" if row["against"] else ""
            shown = f"{row['value']:g} {row['unit']}".replace(" x", "x")
            lines.append(f"| `{record['name']}` | {row['what']}{against} | {shown} | {row['goal'] or ''} | {met} |")
    return "\n".join(lines)


def in_turns(sides: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: int = 1) -> dict[str, Timing]:
    """Every side once a round, in an order that turns, after `warm_up` untimed rounds."""
    for _ in range(warm_up):
        for run in sides.values():
            run()
    times = {name: Timing() for name in sides}
    names = list(sides)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            wall, cpu = time.perf_counter(), cpu_seconds()
            sides[name]()
            times[name].cpu.append(cpu_seconds() - cpu)
            times[name].wall.append(time.perf_counter() - wall)
    return times


def ratio(one: Timing, other: Timing, clock: Clock = "wall") -> float:
    """How many times `one` takes of `other`: the median over rounds of what ran next to each other."""
    pairs = zip(getattr(one, clock), getattr(other, clock), strict=True)
    return statistics.median(a / max(b, 1e-9) for a, b in pairs)


def cpu_seconds() -> float:
    """Of this process, all threads, and of finished children (these in steps of 10 ms)."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def alone(function: Callable[..., Any], *args: Any) -> Any:
    """The result of a module's function in a fresh process: nothing that ran before is in its memory or caches."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, args)


class Peak:
    """How far the resident memory of this process rises inside the block, in bytes, beyond what it was before.

    Freed memory that the allocator still holds goes back to the system first: what came before the block would
    otherwise lend its memory to what is measured, a different amount each time.
    """

    def __enter__(self) -> Peak:
        if sys.platform == "linux":
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        self._stop, self.bytes, self._before = threading.Event(), 0, _resident()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self._look()

    def _look(self) -> None:
        self.bytes = max(self.bytes, _resident() - self._before)


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Exponent of growth: 1 is linear, by least squares on logarithms."""
    import numpy as np

    return float(np.polyfit(np.log(sizes), np.log(np.maximum(values, 1e-9)), 1)[0])


def folder_bytes(*paths: Path) -> int:
    """Bytes of all files at and below."""
    files = [f for path in paths for f in ([path] if path.is_file() else path.rglob("*"))]
    return sum(f.stat().st_size for f in files if f.is_file())


def drop_caches(paths: Iterable[Path]) -> None:
    """Asks the system to forget what it holds of these files, so that the next read comes from the disk."""
    for path in paths:
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.is_file():
                handle = os.open(file, os.O_RDONLY)
                os.fdatasync(handle)
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(handle)


def cpu_name() -> str:
    """Of the first core."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _rounded(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _shown(row: Mapping[str, Any]) -> str:
    goal = "" if row["goal"] is None else f" (goal {row['goal']}: {'met' if row['met'] else 'missed'})"
    detail = ", ".join(f"{k} {v}" for k, v in row["detail"].items())
    return f"{row['value']:g} {row['unit']}{goal}{f' [{detail}]' if detail else ''}"

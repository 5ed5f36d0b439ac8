"""What a run leaves on disk, and how it is picked up again.

``config.yaml`` and the ``preprocess.yaml`` that it names, ``run.json``, ``log.csv``, ``validation.jsonl``,
``tensorboard/``, ``best/`` and ``last/`` (plain models), ``heartbeat.json``, and ``checkpoints/step-000500/``: weights,
optimizer and averaged weights as safetensors, and `loop.json` with their checksums, everything that the loop needs to
go on as if it had not stopped, with any number of ranks and at any ZeRO stage. Nothing else carries state: samples,
learning rate and random numbers of a step follow from the seed and the step number.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import logging
import platform
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from vol3d.checkpoint import replace_folder
from vol3d.config import dump_yaml, to_tree
from vol3d.errors import CheckpointError, ConfigError
from vol3d.files import sha256_of, sync, write_json, write_whole
from vol3d.train import ranks

log = logging.getLogger("vol3d")

MAY_CHANGE = {
    "preprocess",  # a path; the recipe itself is compared by its digest
    "data.workers",
    "train.log_every",
    "train.checkpoint_every",
    "train.keep_checkpoints",
    "train.accumulation",  # the batch of an update stays what it was
    "train.deepspeed",  # every ZeRO stage makes the same updates
    "train.wandb",
}
"""Keys that do not change the curve beyond rounding, so a resumed run may set them anew."""

RECIPE, RECORD, AVERAGE = "preprocess.yaml", "loop.json", "average.safetensors"

PACKAGES = ("vol3d", "torch", "deepspeed", "monai", "numpy")


@dataclass(frozen=True, kw_only=True)
class LoopState:
    """Where the loop stands."""

    step: int
    """Updates done; the next one takes samples step * batch_size and on."""
    precision: Literal["fp32", "bf16"]
    """What ``auto`` came to."""
    fingerprint: str
    """Of the training data."""
    best: dict[str, Any] | None = None
    """Step and metrics of the best validation so far."""
    owed: bool = False
    """Whether the validation after this step was broken off, to be made up for on resuming."""


@dataclass(frozen=True)
class RunFolder:
    """Paths and files of one run."""

    root: Path

    @property
    def checkpoints(self) -> Path:
        """Resumable checkpoints, newest last by name."""
        return self.root / "checkpoints"

    def newest(self) -> tuple[Path, LoopState] | None:
        """The newest checkpoint that is whole, found by rank 0 for all; a damaged one is set aside as ``damaged-*``.

        All ranks must call it.

        Raises:
            CheckpointError: there are checkpoints and every one of them is damaged.
        """
        found = ""
        if ranks.is_main():
            found = self._find()
        name = ranks.gather_text(found)[0]
        if name.startswith("error: "):
            raise CheckpointError(name.removeprefix("error: "))
        return (self.checkpoints / name, read_state(self.checkpoints / name)) if name else None

    def _find(self) -> str:
        for aside in self.checkpoints.glob(".step-*.previous"):  # cut off between the two renames of `replace_folder`
            whole = self.checkpoints / aside.name.removeprefix(".").removesuffix(".previous")
            if not whole.exists():
                aside.rename(whole)
        damaged: dict[Path, str] = {}
        for folder in sorted(self._steps(), key=_step_of, reverse=True):
            try:
                verify(folder)
            except CheckpointError as error:
                damaged[folder] = str(error)
                continue
            for other, reason in damaged.items():
                log.warning("%s; going back to the one before", reason)
                replace_folder(other, other.with_name(f"damaged-{other.name}"))
            return folder.name
        first = next(iter(damaged.values()), "")
        return f"error: {first}; no whole checkpoint is left in {self.checkpoints}" if damaged else ""

    def _steps(self) -> list[Path]:
        return [p for p in self.checkpoints.glob("step-*") if re.fullmatch(r"step-\d+", p.name)]

    def check(self, config: Any, resume: bool) -> None:
        """Refuses to overwrite a run, or to go on with another configuration.

        Raises:
            ConfigError: see above.
        """
        stored = self.root / "config.yaml"
        if not stored.exists():
            return
        if not resume:
            raise ConfigError(f"{self.root} already holds a run; pass --resume auto to go on, or another --out")
        try:
            before = yaml.safe_load(stored.read_text())
        except yaml.YAMLError:
            before = None
        if not isinstance(before, dict):
            raise ConfigError(f"expected the configuration of a run in {stored}, found another file; restore it")
        other = differing_key(before, to_tree(config))
        if other:
            key, old, new = other
            raise ConfigError(
                f"expected {key}: {old} as in {stored}, found {new}; a resumed run keeps its configuration. "
                f"Start another --out with --init {self.root}"
            )

    def begin(self, config: Any, facts: dict[str, Any], state: LoopState, recipe: dict[str, Any] | None = None) -> None:
        """Writes or updates `config.yaml`, the recipe beside it and `run.json`, and forgets what came after `state`.

        Rank 0 only.
        """
        step = state.step
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        for left in [*self.checkpoints.glob(".*.partial"), *self.checkpoints.glob(".*.previous")]:
            shutil.rmtree(left)  # `newest` has been called: what is still here was not the only copy
        if recipe is not None:
            write_whole(self.root / RECIPE, yaml.safe_dump(recipe, sort_keys=False))
        write_whole(self.root / "config.yaml", dump_yaml(config))
        path = self.root / "run.json"
        starts = _starts(path) if step else []
        where: dict[str, Any] = {name: facts[name] for name in ("ranks", "zero_stage") if name in facts}
        starts.append({"step": step, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **where, **environment()})
        write_json(path, {**facts, "starts": starts})
        _truncate(self.root / "log.csv", lambda line: not line[0].isdigit() or int(line.split(",")[0]) <= step)
        _truncate(self.root / "validation.jsonl", lambda line: json.loads(line)["step"] <= step - state.owed)

    def partial(self, step: int) -> Path:
        """Where a checkpoint is written before it is complete."""
        return self.checkpoints / f".step-{step:06d}.partial"

    def commit(self, state: LoopState, average: dict[str, Tensor] | None, keep: int) -> None:
        """Completes the checkpoint that was written under `partial` and drops the oldest. Rank 0 only."""
        folder = self.partial(state.step)
        if average is not None:
            save_file(average, folder / AVERAGE)
        files = {}
        for path in sorted(folder.iterdir()):
            sync(path)
            files[path.name] = sha256_of(path)
        record = {**dataclasses.asdict(state), "files": files}
        write_json(folder / RECORD, record)
        replace_folder(folder, self.checkpoints / f"step-{state.step:06d}")
        for old in sorted(self._steps(), key=_step_of)[:-keep]:
            shutil.rmtree(old)


def _starts(path: Path) -> list[dict[str, Any]]:
    """What `run.json` says of the turns before; they are told, nothing depends on them."""
    try:
        return list(json.loads(path.read_text())["starts"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s does not say how the run was started before (%s)", path, error)
        return []


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def verify(folder: Path) -> None:
    """Reads every byte of a checkpoint and compares checksums.

    Raises:
        CheckpointError: a file is missing, cut short or changed.
    """
    for name, expected in _record(folder)["files"].items():
        path = folder / name
        found = sha256_of(path) if path.is_file() else "no file"
        if found != expected:
            raise CheckpointError(f"{path} is damaged: expected SHA-256 {expected[:12]}, found {found[:12]}")


def read_state(folder: Path) -> LoopState:
    """The loop state of a checkpoint.

    Raises:
        CheckpointError: it is damaged.
    """
    record = _record(folder)
    del record["files"]
    try:
        return LoopState(**record)
    except TypeError as error:
        raise CheckpointError(f"{folder / RECORD} is of another version of vol3d ({error})") from None


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    try:
        record = json.loads(path.read_text())
        record["files"].items()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged or missing ({error})") from None
    return dict(record)


def check_state(state: LoopState, folder: Path, fingerprint: str) -> None:
    """Refuses a checkpoint that this run cannot go on from.

    Raises:
        CheckpointError: it is of other data.
    """
    if state.fingerprint != fingerprint:
        raise CheckpointError(
            f"expected training data {state.fingerprint} as {folder} was made with, found {fingerprint}; "
            f"restore the cache, or start another --out with --init"
        )


def read_average(folder: Path) -> dict[str, Tensor]:
    """The averaged weights of a checkpoint."""
    return load_file(folder / AVERAGE)


def differing_key(before: Any, now: Any, key: str = "") -> tuple[str, Any, Any] | None:
    """The first key, in dots, whose value differs and matters."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*before, *now]):
            found = differing_key(before.get(name), now.get(name), f"{key}.{name}".lstrip("."))
            if found:
                return found
        return None
    return None if before == now or key in MAY_CHANGE else (key, before, now)


def environment() -> dict[str, Any]:
    """Versions and, in a working copy, the commit."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    here = Path(__file__)
    try:
        _git(
            here, "ls-files", "--error-unmatch", here.name
        )  # an installed copy may lie inside somebody else's repository
        commit = _git(here, "describe", "--always", "--dirty", "--abbrev=40")
    except (OSError, subprocess.SubprocessError):
        commit = None
    return {"versions": {"python": platform.python_version(), **versions}, "commit": commit}


def _git(here: Path, *arguments: str) -> str:
    command = ["git", "-C", str(here.parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def _truncate(path: Path, keep: Any) -> None:
    if path.is_file():
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n") and keep(line)]
        write_whole(path, "".join(lines))

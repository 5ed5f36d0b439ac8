"""One run between its checkpoints: updates, averaged weights, validation, what is saved when."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from vol3d.data.collate import StepSampler
from vol3d.errors import CheckpointError, ConfigError, StoppedError, Vol3dError
from vol3d.progress import progress
from vol3d.train import ranks, stop
from vol3d.train.engine import Engine, StepResult
from vol3d.train.optim import learning_rate
from vol3d.train.run_config import TrainConfig
from vol3d.train.run_folder import LoopState, RunFolder, check_state, read_average
from vol3d.train.run_log import RunLog

log = logging.getLogger("vol3d")

SLOW_READ_S = 30.0
"""Seconds of waiting for data after which the studies are named: their storage is slow, or its node."""

Validate = Callable[[Any], dict[str, float]]
"""Called on rank 0 with the model to judge (averaged weights, if there are any), on its device, in evaluation mode."""


@dataclass(frozen=True)
class Job:
    """What a run trains, as far as the loop has to know."""

    settings: TrainConfig
    seed: int
    fingerprint: str
    """Of the training data."""
    facts: dict[str, Any]
    """For `run.json` and the provenance of models: digests, data."""
    batches: Callable[[StepSampler], Iterator[Any]]
    """The micro-batches of this rank, in the sampler's order; a batch has `to(device)` and `study_ids`."""
    save_model: Callable[[Path, Any, dict[str, Any]], None]
    """Writes a model folder: path, model, provenance."""


@dataclass(frozen=True)
class TrainResult:
    """What came out."""

    out: Path
    step: int
    """Updates done."""
    loss: float
    """Of the last update done by this call; nan if there was none."""
    best: dict[str, Any] | None = None
    """Step and metrics of the best validation."""
    figures: dict[str, float] = field(default_factory=dict)
    """Of a dry run: bytes per rank, by use."""


class Run:
    """One run between its checkpoints."""

    def __init__(
        self,
        job: Job,
        folder: RunFolder,
        place: ranks.Place,
        engine: Engine,
        plain: nn.Module | None,
    ) -> None:
        self.job, self.settings, self.folder, self.place = job, job.settings, folder, place
        self.engine, self.plain = engine, plain
        self.state = LoopState(step=0, precision=engine.precision, fingerprint=job.fingerprint)

    def resume(self, checkpoint: Path, state: LoopState) -> None:
        """Puts everything back to where `checkpoint` was written."""
        check_state(state, checkpoint, self.state.fingerprint)
        self.state = state
        self.engine.load(checkpoint)
        if self.plain is not None and self.settings.ema_decay is not None:
            self.plain.load_state_dict(read_average(checkpoint))
        if self.place.rank == 0:
            log.info("resumed %s after %d of %d steps", checkpoint, self.state.step, self.settings.steps)

    def facts(self) -> dict[str, Any]:
        """For `run.json`."""
        return {
            "seed": self.job.seed,
            **self.job.facts,
            "ranks": self.place.world,
            "zero_stage": self.engine.stage,
            "precision": self.engine.precision,
            "device": str(ranks.device()),
            "threads": torch.get_num_threads(),
        }

    def go(self, validate: Validate | None) -> TrainResult:
        """All steps that are left.

        Raises:
            StoppedError: SIGTERM or SIGUSR1 came; a checkpoint of the last step done is written.
            RankError: another rank is gone.
            NonFiniteError: a loss or gradient is NaN or infinite; no rank has applied that update.
        """
        main = self.place.rank == 0
        with (
            ranks.together(),
            stop.listening(),
            stop.held(),
            RunLog(self.folder.root, self.state.step, self.settings.wandb) if main else nullcontext() as run_log,
        ):
            return TrainResult(self.folder.root, self.settings.steps, self._steps(validate, run_log), self.state.best)

    def _steps(self, validate: Validate | None, run_log: RunLog | None) -> float:
        settings, first, rank, world = self.settings, self.state.step, self.place.rank, self.place.world
        if self.state.owed and validate is not None:
            self._make_up(validate, run_log)
        with stop.unheard_by_children():
            batches = self.job.batches(
                StepSampler(first, settings.steps, settings.batch_size, rank, world, settings.micro_batch(world))
            )
        loss, waited, began = float("nan"), 0.0, time.monotonic()
        try:
            with progress("train", settings.steps, "steps", start=first, enabled=rank == 0) as advance:
                for step in range(first, settings.steps):
                    start = time.monotonic()
                    micro = self._read(batches)
                    wait = time.monotonic() - start
                    waited += wait
                    if wait > SLOW_READ_S and step > first:  # the first one waits for the readers to start
                        log.warning("step %d waited %.0f s for %s", step, wait, "; ".join(map(_studies, micro)))
                    rate = learning_rate(settings.optim, step, settings.steps)
                    seed_step(self.job.seed, step, rank)
                    result = self.engine.step(micro, rate, _studies)
                    loss = result.loss
                    self._average(step)
                    if run_log is not None:
                        seconds = time.monotonic() - start
                        run_log.add(_row(result, rate, seconds, wait, settings.batch_size / seconds))
                    share = waited / max(time.monotonic() - began, 1e-9)
                    advance(note=f"loss {loss:.4f}  lr {rate:.2e}  data wait {share:.0%}")
                    self._after(step + 1, validate, run_log)
        finally:
            # workers do not hear the signals by which multiprocessing would end them
            getattr(batches, "_shutdown_workers", lambda: None)()
        return loss

    def _read(self, batches: Iterator[Any]) -> list[Any]:
        device = ranks.device()
        try:
            return [next(batches).to(device, non_blocking=True) for _ in range(self.settings.accumulation)]
        except Vol3dError as error:
            text = str(error).strip()
            if not text.startswith("Caught "):
                raise
            # torch wraps what a worker raised into its whole traceback; the last line is the message
            raise type(error)(text.splitlines()[-1].partition(": ")[2]) from None

    def _average(self, step: int) -> None:
        decay = self.settings.ema_decay
        if decay is None or self.plain is None:
            return
        own = self.plain.state_dict()
        # young averages follow faster, so that the first weights are soon forgotten
        _follow(own, self.engine.weights(), 1 - min(decay, (1 + step) / (10 + step)))

    def _after(self, done: int, validate: Validate | None, run_log: RunLog | None) -> None:
        settings, last = self.settings, done == self.settings.steps
        judged = validate is not None and (
            last or bool(settings.validate_every and done % settings.validate_every == 0)
        )
        self.state = replace(self.state, step=done, owed=judged)
        if judged and validate is not None:
            self._validate(validate, run_log)
        asked = stop.agree()  # all wait here for rank 0's validation
        if run_log is not None:
            if done % settings.log_every == 0 or last or asked:
                run_log.row(done)
            run_log.beat("training", done, settings.steps)
        if last or asked or done % settings.checkpoint_every == 0:
            self._save(run_log)
        if asked:
            self._stop()

    def _stop(self) -> None:
        stopped = stop.stopped(
            f"{self.state.step} of {self.settings.steps} steps are done and saved under {self.folder.checkpoints}; "
            f"run the same command with --resume auto to go on"
        )
        stop.requeue()
        ranks.barrier()  # srun ends all ranks when one ends: not before rank 0 has asked for another turn
        raise stopped

    def _make_up(self, validate: Validate, run_log: RunLog | None) -> None:
        """The validation that was broken off when the checkpoint was written."""
        self._validate(validate, run_log)
        if stop.agree():
            self._stop()
        self._save(run_log)

    def _validate(self, validate: Validate, run_log: RunLog | None) -> None:
        """On rank 0; broken off by a signal, it stays owed."""
        self._refresh()
        if self.plain is None or run_log is None:
            return
        run_log.beat("validating", self.state.step, self.settings.steps, always=True)
        try:
            with stop.released(), ranks.tiny_numbers(are_zero=False):
                metrics = validate(self.plain)
        except StoppedError:
            return
        self.state = replace(self.state, owed=False)
        self._judge(metrics, run_log)

    def _refresh(self) -> None:
        """Puts the weights of now into the plain copy, unless it holds their average."""
        if self.settings.ema_decay is None:
            weights = self.engine.weights()
            if self.plain is not None:
                _follow(self.plain.state_dict(), weights, 1.0)

    def _judge(self, metrics: dict[str, float], run_log: RunLog) -> None:
        name, best = self.settings.best_metric, self.state.best
        if name not in metrics:
            raise ConfigError(f"expected train.best_metric among {', '.join(metrics)}, found {name!r}")
        run_log.validated(self.state.step, metrics)
        if metrics[name] == metrics[name] and (best is None or metrics[name] > best[name]):
            self.state = replace(self.state, best={"step": self.state.step, **metrics})
            self._write_model("best", metrics)

    def _save(self, run_log: RunLog | None) -> None:
        start, partial = time.monotonic(), self.folder.partial(self.state.step)
        self._refresh()
        try:
            self.engine.save(partial)
            if self.plain is not None and run_log is not None:
                self._write_model("last", {})
                average = self.plain.state_dict() if self.settings.ema_decay is not None else None
                self.folder.commit(self.state, average, self.settings.keep_checkpoints)
                run_log.saved(self.state.step, time.monotonic() - start)
        except (OSError, SafetensorError) as error:  # safetensors has its own error for a full disk
            shutil.rmtree(partial, ignore_errors=True)
            raise CheckpointError(
                f"the checkpoint of step {self.state.step} could not be written: {error}; the one before it is whole. "
                f"Make room at {self.folder.root} (it takes {self.settings.keep_checkpoints} + 1 checkpoints), and go "
                f"on with --resume auto"
            ) from error
        ranks.barrier()

    def _write_model(self, name: str, metrics: dict[str, float]) -> None:
        assert self.plain is not None
        provenance = {
            "seed": self.job.seed,
            "step": self.state.step,
            "config_digest": self.job.facts["config_digest"],
            "data_fingerprint": self.state.fingerprint,
            "metrics": metrics,
        }
        self.job.save_model(self.folder.root / name, self.plain, provenance)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Random numbers of a step depend on nothing before it, so there is no generator state to store."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))


@torch.no_grad()
def _follow(own: dict[str, Tensor], other: dict[str, Tensor], weight: float) -> None:
    for name, value in own.items():
        if weight < 1 and value.is_floating_point():
            value.lerp_(other[name], weight)
        else:
            value.copy_(other[name])


def _row(result: StepResult, rate: float, seconds: float, wait: float, samples: float) -> dict[str, float]:
    more = {"learning_rate": rate, "grad_norm": result.grad_norm, "seconds": seconds, "data_wait": wait}
    more |= {"samples_per_s": samples, "memory_mb": ranks.memory_mb()}
    return {"loss": result.loss, **result.figures, **more}


def _studies(batch: Any) -> str:
    return "studies " + ", ".join(dict.fromkeys(batch.study_ids))

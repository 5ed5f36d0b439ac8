"""DeepSpeed, known only here and in `full_state`: one engine for CPU (gloo) and GPU (nccl), ZeRO 0 to 3.

Three things DeepSpeed does not do by itself: it skips a non-finite update silently (here every rank stops before the
update), its checkpoints are pickles that belong to one number of ranks and one ZeRO stage (here they are full tensors
by parameter name, docs/decisions/0010), and at ZeRO 0 it does not report the gradient norm.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vol3d.config import SHIPPED
from vol3d.errors import ConfigError, NonFiniteError
from vol3d.train import ranks
from vol3d.train.full_state import FullState  # before deepspeed: it chooses the accelerator
from vol3d.train.muon import Muon

import deepspeed  # isort: skip

TrainingForward = Callable[[nn.Module, Any], dict[str, Tensor]]
"""(model, batch) -> named losses and figures; the sum of all ``*_loss`` is minimised."""

OWN_KEYS = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping",
            "torch_autocast", "bf16", "fp16", "optimizer", "scheduler")  # fmt: skip
"""Keys of a DeepSpeed file that the training configuration decides."""


@dataclass(frozen=True)
class StepResult:
    """One update, averaged over ranks and accumulation."""

    loss: float
    figures: dict[str, float]
    """Everything the task returned, by name."""
    grad_norm: float
    """Before clipping."""


def read_deepspeed_file(name: str) -> dict[str, Any]:
    """A shipped file by name (``zero0`` to ``zero3``), or any by path.

    Raises:
        ConfigError: no such file, not JSON, or it sets what the training configuration decides.
    """
    shipped = SHIPPED / "deepspeed" / f"{name}.json"
    path = shipped if shipped.is_file() else Path(name)
    try:
        tree = json.loads(path.read_text())
    except OSError:
        raise ConfigError(f"expected zero0, zero1, zero2, zero3 or a JSON file, found {name!r}") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None
    taken = [key for key in OWN_KEYS if key in tree]
    if taken:
        raise ConfigError(f"{path}: {', '.join(taken)} come from the training configuration; remove them here")
    return tree


class _Step(nn.Module):
    """What DeepSpeed wraps, so that its hooks and autocast cover the task's losses as well as the model."""

    def __init__(self, model: nn.Module, forward: TrainingForward) -> None:
        super().__init__()
        self.model = model
        self._forward = forward

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        figures = self._forward(self.model, batch)
        losses = [value for name, value in figures.items() if name.endswith("_loss")]
        if not losses:
            raise ValueError(f"expected named losses ending in _loss, found {sorted(figures)}")
        return torch.stack(losses).sum(), {name: value.detach() for name, value in figures.items()}


class Engine:
    """A model in training. `join()` the ranks first."""

    def __init__(
        self,
        model: nn.Module,
        forward: TrainingForward,
        optimizer: torch.optim.Optimizer,
        *,
        deepspeed_file: dict[str, Any],
        micro_batch: int,
        accumulation: int = 1,
        clip: float = 0.0,
        precision: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        self.stage = int(deepspeed_file.get("zero_optimization", {}).get("stage", 0))
        if self.stage and isinstance(optimizer, Muon):
            raise ConfigError(
                f"expected deepspeed: zero0 with the optimizer muon, which needs whole matrices, found ZeRO "
                f"{self.stage}, where each rank holds a part; use zero0, or the optimizer adamw"
            )
        self.clip, self.accumulation, self.precision = clip, accumulation, precision
        self._probe = torch.zeros((), device=ranks.device())
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.register_hook(self._probe_gradient)
        _quiet()
        deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False)
        self._engine, *_ = deepspeed.initialize(
            model=_Step(model, forward),
            optimizer=optimizer,
            config={
                **deepspeed_file,
                "train_micro_batch_size_per_gpu": micro_batch,
                "gradient_accumulation_steps": accumulation,
                # at ZeRO 0 DeepSpeed would clip without telling the norm
                "gradient_clipping": clip if self.stage > 0 else 0.0,
                # no lower-precision modules: gradients are averaged between ranks in fp32
                "torch_autocast": {
                    "enabled": precision == "bf16",
                    "dtype": "bfloat16",
                    "lower_precision_safe_modules": [],
                },
            },
        )
        self._state = FullState(self._engine, self.model, optimizer, self.stage)

    @property
    def model(self) -> nn.Module:
        """The model itself; at ZeRO 3 its weights are spread over the ranks."""
        return self._engine.module.model

    def forward(self, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Total loss and figures, without an update."""
        return self._engine(batch)

    def step(self, batches: Sequence[Any], learning_rate: float, describe: Callable[[Any], str] = str) -> StepResult:
        """One update from `accumulation` micro-batches of this rank.

        Args:
            batches: as many as `accumulation`.
            learning_rate: of this update.
            describe: names a batch (its study ids) in an error.

        Raises:
            NonFiniteError: on every rank, before the update, if any rank's loss or gradient is NaN or infinite.
        """
        if len(batches) != self.accumulation:
            raise ValueError(f"expected {self.accumulation} micro-batches, found {len(batches)}")
        self._engine.train()
        measured: list[Tensor] = []
        names: list[str] = []
        for number, batch in enumerate(batches):
            self._probe.zero_()
            loss, figures = self._engine(batch)
            names = list(figures)
            self._engine.backward(loss)
            measured.append(torch.stack([v.detach().float().mean() for v in (loss, self._probe, *figures.values())]))
            if number < self.accumulation - 1:
                self._engine.step()  # no update: DeepSpeed counts micro-batches here
        mine = torch.stack(measured).double().cpu()
        everyone = ranks.gather_numbers(mine.flatten().tolist()).view(-1, *mine.shape)  # [ranks, micro, loss probe ...]
        self._stop_if_not_finite(everyone, batches, describe)
        norm = self._update(learning_rate)
        mean = everyone.nanmean((0, 1)).tolist()  # a figure may have nothing to measure in some batch
        return StepResult(mean[0], dict(zip(names, mean[2:], strict=True)), norm)

    def _probe_gradient(self, gradient: Tensor) -> None:
        # This rank's own gradient, before DeepSpeed averages and frees it; a sum is finite only if all terms are.
        self._probe.add_(gradient.detach().sum(dtype=torch.float32))

    def _stop_if_not_finite(self, everyone: Tensor, batches: Sequence[Any], describe: Callable[[Any], str]) -> None:
        finite = torch.isfinite(everyone[..., :2])
        if finite.all():
            return
        rank = dist.get_rank()
        own = [describe(b) for b, ok in zip(batches, finite[rank].all(-1).tolist(), strict=True) if not ok]
        found = []
        for r, text in enumerate(ranks.gather_text(" ".join(own))):
            if not finite[r].all():
                what = "gradient" if finite[r, :, 0].all() else "loss"
                found.append(f"a {what} that is NaN or infinite on rank {r} ({text})")
        raise NonFiniteError(
            f"expected a finite loss and gradient, found {'; '.join(found)}; no rank has applied the update. Look at "
            f"these studies, or lower the learning rate, and go on from the last checkpoint"
        )

    def _update(self, learning_rate: float) -> float:
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = float("nan")
        if self.stage == 0:
            own = [p for p in self.model.parameters() if p.grad is not None]
            norm = float(torch.nn.utils.clip_grad_norm_(own, self.clip or float("inf")))
            if not torch.isfinite(torch.tensor(norm)):
                raise NonFiniteError("expected a finite gradient norm, found its sum over ranks infinite; not updated")
        self._engine.step()
        if not self._engine.was_step_applied():
            raise NonFiniteError("expected a finite gradient norm, found its sum over ranks infinite; not updated")
        return norm if self.stage == 0 else float(self._engine.get_global_grad_norm())

    def weights(self) -> dict[str, Tensor]:
        """The full state dict of the model: on its own device, detached; at ZeRO 3 gathered, and only rank 0 gets it.

        All ranks must call it.
        """
        return self._state.weights()

    def save(self, folder: Path) -> None:
        """Writes weights and optimizer, whole, from rank 0. All ranks must call it."""
        self._state.save(folder)

    def load(self, folder: Path) -> None:
        """Reads what `save` wrote, with whatever number of ranks and ZeRO stage. All ranks must call it.

        Raises:
            CheckpointError: a file is missing, damaged, or of another model.
        """
        self._state.load(folder)

    def close(self) -> None:
        """Frees what DeepSpeed holds."""
        self._engine.destroy()


def _quiet() -> None:
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # Otherwise DeepSpeed probes the compiler for every kernel it has, and on a CPU builds one (half a minute of gcc)
    # that only its inference uses.
    deepspeed.ops.__compatible_ops__ = {}

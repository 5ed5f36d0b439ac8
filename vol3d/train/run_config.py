"""What a training run is: one complete YAML file, see `configs/train/`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from vol3d.checkpoint import PredictConfig
from vol3d.data.dataset import DataConfig
from vol3d.errors import ConfigError
from vol3d.model.reader import ReaderConfig
from vol3d.model.vlm import ModelConfig
from vol3d.tasks.findings import FindingsConfig
from vol3d.train.optim import OptimConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop: how long, how large, how often."""

    steps: int
    """Optimizer updates. A fixed count, never a wall clock."""
    batch_size: int
    """Patches per update over all ranks together; the curve does not depend on the number of ranks."""
    accumulation: int = 1
    """Forward and backward passes per update on each rank."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and learning rate."""
    clip: float = 1.0
    """Largest global gradient norm; 0 leaves gradients as they are. nnU-Net's SGD uses 12."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """``bf16`` is autocast: weights, gradients and optimizer stay fp32. ``auto`` takes it where the hardware multiplies
    bf16 (a CPU without it needs three times as long as with fp32); a resumed run keeps what it began with."""
    deepspeed: str = "zero0"
    """A file of `configs/deepspeed` (``zero0`` to ``zero3``) or a path to a DeepSpeed JSON of the same kind."""
    ema_decay: float | None = None
    """Moving average of the weights, used for validation and the saved model; not with ZeRO 3."""
    log_every: int = 1
    """Updates between rows of `log.csv` and TensorBoard."""
    checkpoint_every: int = 500
    """Updates between resumable checkpoints; the last update always writes one."""
    keep_checkpoints: int = 2
    """Resumable checkpoints kept."""
    validate_every: int = 0
    """Updates between validations; 0 validates only after the last update."""
    best_metric: str = "dice"
    """Validation metric, higher is better, that picks RUN/best."""
    wandb: str | None = None
    """Project of Weights & Biases to log to as well (`pip install 'vol3d[tracking]'`); WANDB_MODE=offline keeps it in
    RUN/wandb on a machine without internet."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "log_every", "checkpoint_every", "keep_checkpoints"):
            if getattr(self, name) < 1:
                raise ConfigError(f"expected {name} >= 1, found {getattr(self, name)}")
        for name in ("clip", "validate_every"):
            if getattr(self, name) < 0:
                raise ConfigError(f"expected {name} >= 0, found {getattr(self, name)}")
        if self.batch_size % self.accumulation:
            raise ConfigError(
                f"expected batch_size to be a multiple of accumulation, found {self.batch_size} and {self.accumulation}"
            )
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ConfigError(f"expected ema_decay between 0 and 1, or null, found {self.ema_decay}")

    def micro_batch(self, world: int) -> int:
        """Patches per forward pass on each of `world` ranks.

        Raises:
            ConfigError: the batch cannot be shared equally.
        """
        if self.batch_size % (world * self.accumulation):
            raise ConfigError(
                f"expected batch_size to be a multiple of ranks x accumulation = {world} x {self.accumulation}, "
                f"found {self.batch_size}; change train.batch_size or train.accumulation, or run with fewer ranks"
            )
        return self.batch_size // (world * self.accumulation)


@dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """The second phase: a reader, trained on what the finished grounding model sees in the training studies."""

    model: ReaderConfig
    """Probes, visual tokens, decoder."""
    train: TrainConfig
    """Its loop. Nothing is validated in it: `validate_every` stays 0 and `best_metric` decides nothing."""

    def __post_init__(self) -> None:
        if self.train.validate_every:
            raise ConfigError(
                f"expected read.train.validate_every: 0, as the reader is not validated while it trains, found "
                f"{self.train.validate_every}; `vol3d evaluate --language` scores it"
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything a run needs beside the cache."""

    preprocess: str
    """The recipe of the cache, a path relative to this file."""
    data: DataConfig
    """Patches, channels, sampling, augmentation."""
    model: ModelConfig
    """The network."""
    task: FindingsConfig
    """The losses."""
    train: TrainConfig
    """The loop."""
    predict: PredictConfig = field(default_factory=PredictConfig)
    """How whole studies are covered, in validation and by whoever uses the model."""
    read: ReadConfig | None = None
    """Reports and answers; null: the run ends with the grounding model."""
    seed: int = 0
    """Of the weights, the samples and everything drawn in a step."""

    def __post_init__(self) -> None:
        _all_or_none(
            {
                "task.alignment": self.task.alignment is not None,
                "model.alignment_width": self.model.alignment_width > 0,
                "data.contrast_texts": self.data.contrast_texts > 0,
            }
        )
        proposals = {"task.proposal_weight": self.task.proposal_weight > 0, "model.proposals": self.model.proposals}
        _all_or_none(proposals)
        if self.model.proposals and not self.data.findings_apart:
            raise ConfigError("expected data.findings_apart with model.proposals, found false")


def _all_or_none(wanted: dict[str, bool]) -> None:
    if len(set(wanted.values())) > 1:
        given, missing = ([n for n, v in wanted.items() if v is on] for on in (True, False))
        raise ConfigError(
            f"expected {', '.join(wanted)} all together or none, found {', '.join(given)} without {', '.join(missing)}"
        )

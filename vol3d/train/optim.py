"""Optimizer and learning rate, both functions of plain numbers: nothing about them needs to be stored to resume."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from vol3d.errors import ConfigError
from vol3d.train.muon import Muon

POLY_EXPONENT = 0.9
"""nnU-Net's decay: (1 - t) ** 0.9."""

_MUON_SMALLEST = 8
"""Rows of the smallest matrix worth making orthogonal; heads with one or two outputs stay with AdamW."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights move."""

    name: Literal["adamw", "muon", "sgd"] = "adamw"
    """``sgd`` is nnU-Net's: Nesterov momentum, decay on every weight. ``adamw`` leaves biases and norms undecayed.
    ``muon`` makes the update of every matrix and kernel orthogonal, of AdamW's size, and leaves the rest (embeddings
    and heads too) to AdamW; it needs whole matrices, so ZeRO 0."""
    learning_rate: float = 1e-3
    """Peak, reached after the warm-up."""
    weight_decay: float = 1e-2
    """nnU-Net's SGD uses 3e-5."""
    momentum: float = 0.99
    """Of ``sgd`` and ``muon``, where 0.95 is usual."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of ``adamw``, and of ``muon`` for what it leaves to AdamW."""
    eps: float = 1e-8
    """As `betas`. Gradients below it hardly count; a larger one keeps their rounding, which differs with the
    number of ranks, out of the first updates, whose size AdamW makes the same for every gradient."""
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    """Decay after the warm-up, down to `final_share` of the peak at the last step."""
    warmup_steps: int = 0
    """Steps over which the rate grows linearly to its peak."""
    final_share: float = 0.0
    """Rate at the end, as a share of the peak."""

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.weight_decay < 0 or self.warmup_steps < 0:
            raise ConfigError(
                f"expected learning_rate > 0, weight_decay >= 0 and warmup_steps >= 0, found "
                f"{self.learning_rate}, {self.weight_decay} and {self.warmup_steps}"
            )
        if not 0 <= self.final_share <= 1:
            raise ConfigError(f"expected final_share between 0 and 1, found {self.final_share}")


def learning_rate(config: OptimConfig, step: int, steps: int) -> float:
    """Rate of update number `step` (from 0) of `steps`."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    t = (step - config.warmup_steps) / max(steps - config.warmup_steps, 1)
    share = {
        "cosine": 0.5 * (1 + math.cos(math.pi * t)),
        "poly": max(1 - t, 0.0) ** POLY_EXPONENT,
        "constant": 1.0,
    }[config.schedule]
    return config.learning_rate * (config.final_share + (1 - config.final_share) * share)


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Torch's own AdamW or SGD, or `Muon`, over the trainable parameters of `model`.

    Raises:
        ConfigError: every parameter is frozen.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ConfigError("expected parameters to train, found every one frozen; unfreeze a part of the model")
    if config.name == "sgd":
        return torch.optim.SGD(
            parameters,
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            nesterov=True,
        )
    matrices = _matrices(model, parameters) if config.name == "muon" else []
    own = {id(p) for p in matrices}
    rest = [p for p in parameters if id(p) not in own]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay, "momentum": config.momentum, "orthogonal": True},
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    kind = Muon if config.name == "muon" else torch.optim.AdamW
    return kind(groups, lr=config.learning_rate, betas=config.betas, eps=config.eps)


def _matrices(model: nn.Module, parameters: list[nn.Parameter]) -> list[nn.Parameter]:
    """What Muon moves. Embeddings are none: their rows have nothing to do with each other."""
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return [
        p
        for p in parameters
        if p.ndim in (2, 5) and min(p.shape[0], p[0].numel()) >= _MUON_SMALLEST and id(p) not in tables
    ]

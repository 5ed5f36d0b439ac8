"""`vol3d train --dry-run`: build everything, run one forward pass, report shapes and memory, write nothing."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import fields

import torch
from torch import Tensor, nn

from vol3d.data.collate import StepSampler, make_loader
from vol3d.data.contrast import ContrastBatch
from vol3d.data.dataset import PatchDataset
from vol3d.model.bank import EmbeddingBank
from vol3d.model.vlm import ModelConfig
from vol3d.text.knowledge import ORGAN_NAMES
from vol3d.train import ranks
from vol3d.train.engine import Engine
from vol3d.train.run_config import ReadConfig, RunConfig

log = logging.getLogger("vol3d")


def try_one(
    engine: Engine, dataset: PatchDataset, model: ModelConfig, config: RunConfig, place: ranks.Place
) -> tuple[float, dict[str, float]]:
    """Loss of the first samples, and the bytes that a rank will need, by use."""
    micro_batch = config.train.micro_batch(place.world)
    with tempfile.TemporaryDirectory(prefix="vol3d-") as scratch:
        bank = EmbeddingBank(scratch, model.text, str(ranks.device()))
        samples = [dataset[i] for i in range(micro_batch)]
        asked = {p for s in samples for p in s.phrases}
        said = {t for s in samples if s.contrast is not None for t in (*s.contrast.texts, *ORGAN_NAMES.values())}
        bank.ensure(asked | said)
        loader = make_loader(dataset, StepSampler(0, 1, micro_batch), bank, 0)
        batch = next(iter(loader)).to(ranks.device())
    kept: dict[int, int] = {}
    weights = {p.data_ptr() for p in engine.model.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss, figures = engine.forward(batch)
    sizes = memory_estimate(engine.model, config, engine.stage, place.world)
    sizes["activations"] = sum(kept.values())
    if place.rank == 0:
        for item in fields(batch):
            value = batch[item.name]
            parts = vars(value) if isinstance(value, ContrastBatch) else {item.name: value}
            for name, part in parts.items():
                log.info("%-16s %s", name, tuple(part.shape) if isinstance(part, Tensor) else part)
        log.info("loss %.4f (%s)", loss.item(), ", ".join(f"{k} {float(v):.4f}" for k, v in figures.items()))
        log.info("per rank, at ZeRO %d with %d ranks:", engine.stage, place.world)
        for name, size in sizes.items():
            log.info("  %-12s %10.1f MB", name, size / 1e6)
        log.info("dry run: nothing was written")
    return loss.item(), {name: float(size) for name, size in sizes.items()}


def memory_estimate(model: nn.Module, config: RunConfig | ReadConfig, stage: int, world: int) -> dict[str, int]:
    """Bytes per rank that do not depend on the batch: what trains is fp32; ZeRO 1 shares the optimizer, 2 gradients, 3
    weights."""
    counts = [(getattr(p, "ds_numel", p.numel()), p) for p in model.parameters()]
    trained = 4 * sum(n for n, p in counts if p.requires_grad)
    frozen = sum(n * p.element_size() for n, p in counts if not p.requires_grad)
    states = 2 if config.train.optim.name == "adamw" else 1
    return {
        "weights": (trained + frozen) // (world if stage >= 3 else 1),
        "gradients": trained // (world if stage >= 2 else 1),
        # ZeRO 1 and 2 keep the weights that a rank updates once more, flat
        "optimizer": trained * (states + (1 if stage in (1, 2) else 0)) // (world if stage >= 1 else 1),
        "plain copy": trained + (frozen if stage >= 3 else 0),
    }

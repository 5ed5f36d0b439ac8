"""`train`: everything that a run is made of, put together; the same curve however often it is stopped and resumed."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vol3d.cache import Cache
from vol3d.checkpoint import Checkpoint, save_checkpoint
from vol3d.config import digest
from vol3d.data.collate import Batch, StepSampler, make_loader
from vol3d.data.dataset import PatchDataset
from vol3d.errors import ConfigError, FingerprintError
from vol3d.model.bank import EmbeddingBank, bank_root
from vol3d.model.vlm import ModelConfig, VisionLanguageModel, resolve_model
from vol3d.tasks.findings import FindingsTask
from vol3d.train import ranks
from vol3d.train.dry_run import try_one
from vol3d.train.engine import Engine, read_deepspeed_file
from vol3d.train.optim import build_optimizer
from vol3d.train.run import Job, Run, TrainResult, Validate, seed_step
from vol3d.train.run_config import RunConfig, TrainConfig
from vol3d.train.run_folder import RECIPE, RunFolder
from vol3d.train.start import report_start, start_from, write_start

__all__ = ["TrainResult", "Validate", "open_cache", "train"]

log = logging.getLogger("vol3d")

WHITENING_TEXTS = 4096
"""Texts at most whose states decide how the text projection starts."""
WHITENING_SECTIONS = 512
"""The same of the alignment's projection; sections are ten times as long as phrases."""


@ranks.tiny_numbers(are_zero=True)
def train(
    config: RunConfig,
    cache_root: Path,
    out: Path,
    *,
    recipe_digest: str | None = None,
    init: Path | None = None,
    resume: Literal["auto", "no"] = "no",
    validate: Validate | None = None,
    dry_run: bool = False,
) -> TrainResult:
    """Trains to `config.train.steps` updates. Called by every rank with the same arguments.

    Args:
        config: the run.
        cache_root: any cache of the run's recipe.
        out: run folder, on a file system that all ranks share.
        recipe_digest: of the recipe that `config.preprocess` names; the cache has to be made with it.
        init: a checkpoint whose weights to start from (a run that resumes has its own).
        resume: ``auto`` goes on from the newest checkpoint in `out`, or starts if there is none.
        validate: returns metrics, among them `config.train.best_metric`.
        dry_run: build everything, run one forward pass, report sizes, write nothing.

    Raises:
        ConfigError, CacheError, CheckpointError: what is asked does not fit together.
        NonFiniteError: a loss or gradient is NaN or infinite; no rank has applied that update.
    """
    place = ranks.join()
    folder = RunFolder(Path(out))
    config = dataclasses.replace(config, preprocess=RECIPE)  # the recipe goes with the run, wherever it was
    folder.check(config, resume == "auto")
    cache = open_cache(cache_root, recipe_digest)
    settings = config.train
    deepspeed_file = read_deepspeed_file(settings.deepspeed)
    check_averaging(settings, int(deepspeed_file.get("zero_optimization", {}).get("stage", 0)))
    micro_batch = settings.micro_batch(place.world)
    dataset = PatchDataset(cache, cache.select(config.data.train_split), config.data, config.seed)
    model_config = resolve_model(
        config.model,
        in_channels=config.data.channels.count,
        patch_size=config.data.patch_size,
        spacing_mm=cache.recipe["spacing_mm"],
    )
    texts = [] if dry_run else dataset.texts()
    said = [] if dry_run else dataset.contrast_texts()
    bank = None if dry_run else _fill_bank([*texts, *said], model_config, place)
    torch.manual_seed(config.seed)
    model = VisionLanguageModel(model_config)
    if bank is not None:
        if texts:  # a run may contrast reports alone
            model.grounding.text.whiten(_some_states(bank, texts, WHITENING_TEXTS))
        if model.alignment is not None and said:
            model.alignment.text.whiten(_some_states(bank, said, WHITENING_SECTIONS))
    newest = folder.newest() if resume == "auto" and not dry_run else None
    precision = newest[1].precision if newest is not None else choose_precision(settings.precision, place.rank)
    started = None
    if init is not None and newest is None:
        started = start_from(model, init)
        if place.rank == 0:
            report_start(started, init)
    # A plain copy that DeepSpeed never touches: it holds the averaged weights, and is what is validated and saved.
    plain = copy.deepcopy(model).to(ranks.device()).requires_grad_(False).eval() if place.rank == 0 else None
    engine = Engine(
        model,
        FindingsTask(config.task).training_forward,
        build_optimizer(model, settings.optim),
        deepspeed_file=deepspeed_file,
        micro_batch=micro_batch,
        accumulation=settings.accumulation,
        clip=settings.clip,
        precision=precision,
    )
    try:
        if dry_run:
            seed_step(config.seed, 0, place.rank)
            loss, sizes = try_one(engine, dataset, model_config, config, place)
            return TrainResult(folder.root, 0, loss, figures=sizes)
        assert bank is not None
        run = Run(_job(config, cache, dataset, bank), folder, place, engine, plain)
        if newest is not None:
            run.resume(*newest)
        if place.rank == 0:
            folder.begin(config, run.facts(), run.state, cache.recipe)
            if started is not None and init is not None:
                write_start(started, init, folder.root)
        return run.go(validate)
    finally:
        engine.close()


def _job(config: RunConfig, cache: Cache, dataset: PatchDataset, bank: EmbeddingBank) -> Job:
    data, fingerprint = config.data, cache.fingerprint()

    def batches(sampler: StepSampler) -> Iterator[Batch]:
        return iter(make_loader(dataset, sampler, bank, data.workers, pin_memory=ranks.device().type == "cuda"))

    def save_model(folder: Path, model: VisionLanguageModel, provenance: dict[str, Any]) -> None:
        checkpoint = Checkpoint(
            model, data.channels, data.patch_size, cache.recipe, cache.recipe_digest, predict=config.predict,
            provenance=provenance,
        )  # fmt: skip
        save_checkpoint(folder, checkpoint)

    source = {"cache": str(cache.root), "fingerprint": fingerprint, "recipe_digest": cache.recipe_digest}
    facts = {"config_digest": digest(config), "data": source}
    return Job(config.train, config.seed, fingerprint, facts, batches, save_model)


def check_averaging(settings: TrainConfig, stage: int) -> None:
    """Refuses an average of weights that no rank holds.

    Raises:
        ConfigError: `ema_decay` with ZeRO 3.
    """
    if settings.ema_decay is not None and stage == 3:
        raise ConfigError(
            "expected ema_decay: null with ZeRO 3, where no rank holds all weights; or use ZeRO 0, 1 or 2"
        )


def open_cache(root: Path, recipe_digest: str | None) -> Cache:
    """The cache, if it was made with the expected recipe.

    Raises:
        FingerprintError: it was made with another.
    """
    cache = Cache(root)
    if recipe_digest is not None and cache.recipe_digest != recipe_digest:
        raise FingerprintError(
            f"expected a cache of recipe {recipe_digest}, which the configuration names under preprocess, found one of "
            f"{cache.recipe_digest} at {root}; preprocess with this configuration, or name the other recipe"
        )
    return cache


def choose_precision(asked: Literal["auto", "fp32", "bf16"], rank: int) -> Literal["fp32", "bf16"]:
    """What ``auto`` means on these machines."""
    native = ranks.multiplies_bf16()
    if asked == "bf16" and not native and rank == 0:
        log.warning("bf16 is emulated on this hardware and slower than fp32; consider train.precision: auto")
    if asked == "auto":
        return "bf16" if native else "fp32"
    return asked


def _some_states(bank: EmbeddingBank, texts: list[str], most: int) -> Tensor:
    """Token states [N, E] of an even sample of the training texts."""
    return torch.from_numpy(np.concatenate([bank.get(t) for t in texts[:: -(-len(texts) // most)]]))


def _fill_bank(texts: list[str], config: ModelConfig, place: ranks.Place) -> EmbeddingBank:
    if place.rank == 0:
        EmbeddingBank(bank_root(), config.text, str(ranks.device())).ensure(texts)
    ranks.barrier()
    return EmbeddingBank(bank_root(), config.text)

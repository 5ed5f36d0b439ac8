"""What a run will need, without data and without a GPU: `vol3d train CONFIG --dry-run` where no cache is named.

Models are built on the meta device, and one forward pass with its losses runs on tensors that have a shape, a type and
a device, but no values. What the backward pass would need is added up as autograd asks to keep it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vol3d.data.regions import FACTS
from vol3d.model.decoder import ImageDecoder
from vol3d.model.encoder import ImageEncoder
from vol3d.model.language import resolve_language
from vol3d.model.pretrained_decoder import PretrainedDecoder, find_blocks
from vol3d.model.reader import StudyReader, visual_levels
from vol3d.model.small_decoder import SmallDecoder
from vol3d.model.vlm import ModelConfig, VisionLanguageModel, resolve_model
from vol3d.tasks.losses import mask_loss, presence_loss
from vol3d.text.knowledge import ORGAN_NAMES
from vol3d.train.activations import ActivationUse, Inputs, Precision
from vol3d.train.dry_run import memory_estimate
from vol3d.train.engine import read_deepspeed_file
from vol3d.train.loop import check_averaging
from vol3d.train.run_config import ReadConfig, RunConfig, TrainConfig
from vol3d.types import ZyxMm

PHRASE_TOKENS, SECTION_TOKENS, ORGAN_TOKENS = 16, 128, 8
"""Tokens of a text that a plan reckons with, padded to the longest of a batch."""

LOSS_MAPS = 6
"""float32 maps of every phrase at full resolution that `mask_sums` holds at once on a GPU, for a moment."""


@dataclass(frozen=True)
class Phase:
    """One model of a run and its loop. Bytes are per rank."""

    name: str
    parameters: int
    trainable: int
    stage: int
    """ZeRO stage."""
    precision: Precision
    bytes_by_use: dict[str, int]
    """As `memory_estimate`; ``activations``: kept for the backward pass; ``recomputed``: with activation checkpointing
    the largest part that is computed again, at most one at a time. What a single operation needs while it runs is not
    in it."""
    shapes: dict[str, tuple[int, ...]]
    """Of inputs and outputs on one rank."""
    micro_batch: int
    accumulation: int
    steps: int
    samples: int
    """Seen in all steps by all ranks together: patches, and texts for the reader."""

    @property
    def total(self) -> int:
        """Bytes of the rank that holds most, the first one."""
        return sum(self.bytes_by_use.values())


@dataclass(frozen=True)
class Plan:
    """A run, phase by phase; the phases follow each other, so the larger one decides."""

    world: int
    phases: tuple[Phase, ...]

    def lines(self) -> Iterator[str]:
        """To print."""
        for phase in self.phases:
            yield (
                f"{phase.name}: {phase.parameters:,} parameters, {phase.trainable:,} trained; ZeRO {phase.stage} with "
                f"{self.world} ranks, {phase.precision}"
            )
            yield from (f"  {name:<16} {shape}" for name, shape in phase.shapes.items())
            yield (
                f"  {phase.steps:,} steps of {self.world} x {phase.accumulation} x {phase.micro_batch}: "
                f"{phase.samples:,} {'texts' if phase.name == 'reader' else 'patches'}"
            )
            for name, size in {**phase.bytes_by_use, "together": phase.total}.items():
                yield f"  {name:<16} {size / 1e9:10.3f} GB"


def plan_run(
    config: RunConfig,
    spacing_mm: ZyxMm,
    world: int,
    stage: int | None = None,
    *,
    device: Literal["cuda", "cpu"] = "cuda",
    precision: Precision | None = None,
) -> Plan:
    """Builds every model of a run without its weights and adds up what each needs.

    Args:
        config: the run.
        spacing_mm: of the recipe.
        world: ranks.
        stage: ZeRO stage; by default that of the configuration.
        device: whose arithmetic is planned for; none has to be there.
        precision: by default what the configuration says, and for ``auto`` bf16 on ``cuda``.

    Raises:
        ConfigError: the configuration contradicts itself, or its batch cannot be shared by so many ranks.
        ModelUnavailableError: the text or language model is not on this machine.
    """
    micro_batch = config.train.micro_batch(world)
    resolved = resolve_model(
        config.model,
        in_channels=config.data.channels.count,
        patch_size=config.data.patch_size,
        spacing_mm=spacing_mm,
    )
    recomputes = resolved.activation_checkpointing
    with torch.device("meta"):
        model = VisionLanguageModel(replace(resolved, activation_checkpointing=False))
    segments = _image_segments(model) if recomputes else []
    inputs = image_inputs(config, resolved, micro_batch)
    cells = 0

    def forward(model: Any, **given: Tensor) -> dict[str, Tensor]:
        nonlocal cells
        features = model.encode_image(given["image"])
        cells = sum(level.shape[1] for level in visual_levels(model, features))
        output = model.ground(features, given["tokens"], given["token_mask"])
        out = {"logits": output.logits[0], "presence": output.presence_BP}
        mask_loss(output.logits, given["mask"], given["token_mask"][..., 0], config.task.mask)
        presence_loss(output.presence_BP, given["present"])
        if resolved.alignment_width:
            found = model.contrast(
                features, given["organs"], given["organ_mask"], given["sections"], given["section_mask"]
            )
            out |= {"image_vectors": found.image_BOE, "text_vectors": found.text_NE}
        return out

    use = ActivationUse(device, _precision(config.train, device, precision), segments)
    phases = [_phase("grounding", model, forward, inputs, config, world, stage, use)]
    if device == "cuda":
        phases[0].bytes_by_use["mask loss"] = LOSS_MAPS * 4 * math.prod(inputs["mask"][0])
    if config.read is not None:
        phases.append(_plan_reader(config.read, cells, world, stage, device, precision))
    return Plan(world, tuple(phases))


def _plan_reader(
    read: ReadConfig, cells: int, world: int, stage: int | None, device: str, precision: Precision | None
) -> Phase:
    """The reader over as many rows as a look can have, with texts as long as it takes."""
    config = read.model
    texts = [*config.probes, *ORGAN_NAMES.values()]  # the words of the corpus are not known: as many as there may be
    language, tokenizer = resolve_language(config.language, visual_width=config.width, texts=texts)
    if language.base is None:
        language = replace(language, tokens=max(language.tokens, language.vocabulary))
    recomputes = language.activation_checkpointing
    resolved = replace(
        config, language=replace(language, activation_checkpointing=False), cell_channels=cells,
        facts=len(FACTS) + len(config.probes),
    )  # fmt: skip
    with torch.device("meta"):
        reader = StudyReader(resolved, tokenizer).train()
    batch, rows = read.train.micro_batch(world), len(config.probes) * config.parts
    voxels = math.prod(config.cells)
    inputs: Inputs = {
        "ids": ((batch, language.max_tokens), torch.int64),
        "mask": ((batch, language.max_tokens), torch.bool),
        "cells": ((batch, voxels, cells), torch.float32),
        "cell_mask": ((batch, voxels), torch.bool),
        "places": ((batch, voxels, 3), torch.float32),
        "probes": ((batch, rows), torch.int64),
        "facts": ((batch, rows, resolved.facts), torch.float32),
        "about": ((batch, rows), torch.bool),
        "row_mask": ((batch, rows), torch.bool),
    }

    def forward(model: Any, ids: Tensor, mask: Tensor, **seen: Tensor) -> dict[str, Tensor]:
        visual_BVD, visual_mask_BV = model.visual(*seen.values())
        logits_BTW = model.language(ids, mask, visual_BVD, visual_mask_BV)
        nn.functional.cross_entropy(logits_BTW.float().transpose(1, 2), ids, reduction="none")
        return {"visual": visual_BVD, "logits": logits_BTW}

    use = ActivationUse(device, _precision(read.train, device, precision), _text_segments(reader) if recomputes else [])
    return _phase("reader", reader, forward, inputs, read, world, stage, use)


def _phase(
    name: str,
    model: nn.Module,
    forward: Callable[..., dict[str, Tensor]],
    inputs: Inputs,
    config: RunConfig | ReadConfig,
    world: int,
    stage: int | None,
    use: ActivationUse,
) -> Phase:
    settings = config.train
    file = read_deepspeed_file(settings.deepspeed)
    if stage is None:
        stage = int(file.get("zero_optimization", {}).get("stage", 0))
    check_averaging(settings, stage)
    outputs = use.measure(model, forward, inputs)
    parameters = list(model.parameters())
    return Phase(
        name=name,
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        stage=stage,
        precision=use.precision,
        bytes_by_use={
            **memory_estimate(model, config, stage, world),
            "activations": use.kept,
            "recomputed": use.recomputed,
        },
        shapes={**{n: shape for n, (shape, _) in inputs.items()}, **{n: tuple(t.shape) for n, t in outputs.items()}},
        micro_batch=settings.micro_batch(world),
        accumulation=settings.accumulation,
        steps=settings.steps,
        samples=settings.steps * settings.batch_size,
    )


def image_inputs(config: RunConfig, model: ModelConfig, batch: int) -> Inputs:
    """What one rank sees in a step."""
    # statements are asked beside the phrases of masks
    phrases, size = config.data.phrases_per_patch + config.data.statements_per_patch, config.data.patch_size
    width, texts, organs = model.text.width, batch * config.data.contrast_texts, len(ORGAN_NAMES)
    inputs: Inputs = {
        "image": ((batch, model.in_channels, *size), torch.float32),
        "tokens": ((batch, phrases, PHRASE_TOKENS, width), torch.float32),
        "token_mask": ((batch, phrases, PHRASE_TOKENS), torch.bool),
        "mask": ((batch, phrases, *size), torch.uint8),
        "present": ((batch, phrases), torch.float32),
    }
    if model.alignment_width:
        inputs |= {
            "sections": ((texts, SECTION_TOKENS, width), torch.float32),
            "section_mask": ((texts, SECTION_TOKENS), torch.bool),
            "organs": ((organs, ORGAN_TOKENS, width), torch.float32),
            "organ_mask": ((organs, ORGAN_TOKENS), torch.bool),
        }
    return inputs


def _precision(settings: TrainConfig, device: str, asked: Precision | None) -> Precision:
    if asked is not None or settings.precision != "auto":
        return asked or ("bf16" if settings.precision == "bf16" else "fp32")
    return "bf16" if device == "cuda" else "fp32"


def _image_segments(model: nn.Module) -> list[nn.Module]:
    """What the image model computes again, part by part."""
    found: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, ImageEncoder):
            found += [module.net.stem, *module.net.stages]
        elif isinstance(module, ImageDecoder):
            found += module.stages
    return found


def _text_segments(reader: StudyReader) -> list[nn.Module]:
    decoder = reader.language.decoder
    if isinstance(decoder, SmallDecoder):
        return list(decoder.blocks)
    assert isinstance(decoder, PretrainedDecoder)
    return list(find_blocks(decoder.base, decoder.base.config.get_text_config().num_hidden_layers))

"""Samples to batches, and which samples make up which optimizer step.

The numbers of a step's samples depend on the step alone: step s is made of samples ``s*G .. (s+1)*G - 1`` for a global
batch of G, however many ranks share them, however many workers read them, and wherever a run was resumed.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vol3d.data.contrast import ContrastBatch
from vol3d.data.sample import Sample
from vol3d.errors import ConfigError
from vol3d.processes import end_with
from vol3d.text.knowledge import ORGAN_NAMES


class TokenSource(Protocol):
    """Anything that turns texts into padded token states, such as an embedding bank."""

    def batch(self, texts_BP: Sequence[Sequence[str]]) -> tuple[Any, Any]:
        """Returns tokens_BPTE (float32) and token_mask_BPT (bool), arrays or tensors."""
        ...


@dataclass
class Batch:
    """B samples with P phrases each, ready for the model."""

    image_BCZYX: Tensor
    mask_BPZYX: Tensor
    """uint8 0/1."""
    present_BP: Tensor
    """float32; nan: no presence loss."""
    known_BP: Tensor
    """bool; False: no mask loss."""
    tokens_BPTE: Tensor
    token_mask_BPT: Tensor
    study_ids: tuple[str, ...]
    phrases: tuple[tuple[str, ...], ...]
    index: Tensor
    """int64 [B], the sample numbers."""
    finding_BZYX: Tensor | None = None
    """uint8: 0, or the number of the finding there is."""
    contrast: ContrastBatch | None = None

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def keys(self) -> list[str]:
        """Names of the fields."""
        return [f.name for f in dataclasses.fields(self)]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """A batch whose tensors lie on `device`."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """A batch in page-locked memory; called by the DataLoader when it is told to pin."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, change: Any) -> Batch:
        values = {name: self[name] for name in self.keys()}
        values = {name: change(v) if isinstance(v, Tensor) else v for name, v in values.items()}
        if self.contrast is not None:
            values["contrast"] = self.contrast.map(change)
        return Batch(**values)


@dataclass(frozen=True)
class Collate:
    """Stacks samples and looks their texts up; picklable if the token source is."""

    tokens: TokenSource

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """One batch of samples with equally many phrases and equally large patches."""
        phrases = tuple(s.phrases for s in samples)
        findings = [s.finding_ZYX for s in samples if s.finding_ZYX is not None]
        tokens, mask = self.tokens.batch(phrases)
        return Batch(
            image_BCZYX=torch.stack([s.image_CZYX for s in samples]),
            mask_BPZYX=torch.stack([s.mask_PZYX for s in samples]),
            present_BP=torch.stack([s.present_P for s in samples]),
            known_BP=torch.stack([s.known_P for s in samples]),
            tokens_BPTE=torch.as_tensor(tokens, dtype=torch.float32),
            token_mask_BPT=torch.as_tensor(mask, dtype=torch.bool),
            study_ids=tuple(s.study_id for s in samples),
            phrases=phrases,
            index=torch.tensor([s.index for s in samples], dtype=torch.int64),
            finding_BZYX=torch.stack(findings) if findings else None,
            contrast=self._contrast(samples),
        )

    def _contrast(self, samples: Sequence[Sample]) -> ContrastBatch | None:
        parts = [s.contrast for s in samples if s.contrast is not None]
        if not parts:
            return None
        (tokens, mask), (organ_tokens, organ_mask) = (
            self.tokens.batch(texts) for texts in ([p.texts for p in parts], [tuple(ORGAN_NAMES.values())])
        )
        return ContrastBatch(
            tokens_BSTE=torch.as_tensor(tokens, dtype=torch.float32),
            token_mask_BST=torch.as_tensor(mask, dtype=torch.bool),
            text_BSC=torch.stack([p.text_SC for p in parts]),
            study_BC=torch.stack([p.study_C for p in parts]),
            organ_tokens_OTE=torch.as_tensor(organ_tokens, dtype=torch.float32)[0],
            organ_mask_OT=torch.as_tensor(organ_mask, dtype=torch.bool)[0],
            texts=tuple(p.texts for p in parts),
        )


class StepSampler(Sampler[list[int]]):
    """Batch sampler: the micro-batches of this rank, from optimizer step `start_step` to the end of the run.

    Args:
        start_step: first step to yield; a resumed run passes the number of steps it has done.
        steps: length of the whole run; steps start_step .. steps - 1 are yielded.
        global_batch: samples per optimizer step over all ranks and accumulated micro-batches.
        rank: this process among `world`.
        world: number of ranks; each takes a contiguous share of every step.
        micro_batch: samples per forward pass on this rank; default, the rank's whole share.

    Raises:
        ConfigError: the shares do not come out even.
    """

    def __init__(
        self,
        start_step: int,
        steps: int,
        global_batch: int,
        rank: int = 0,
        world: int = 1,
        micro_batch: int | None = None,
    ) -> None:
        if not 0 <= start_step <= steps:
            raise ConfigError(f"expected a first step between 0 and the run's {steps} steps, found {start_step}")
        if not 0 <= rank < world:
            raise ConfigError(f"expected a rank in 0..{world - 1}, found {rank}")
        if global_batch < 1 or global_batch % world:
            raise ConfigError(f"expected a global batch that {world} ranks can share evenly, found {global_batch}")
        local = global_batch // world
        micro = local if micro_batch is None else micro_batch
        if micro < 1 or local % micro:
            raise ConfigError(
                f"expected micro-batches that divide the {local} samples of a rank and step, found {micro}; "
                f"the global batch is {global_batch} on {world} ranks"
            )
        self.start_step, self.steps, self.global_batch = start_step, steps, global_batch
        self.rank, self.local, self.micro_batch = rank, local, micro

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start_step, self.steps):
            first = step * self.global_batch + self.rank * self.local
            for offset in range(0, self.local, self.micro_batch):
                yield list(range(first + offset, first + offset + self.micro_batch))

    def __len__(self) -> int:
        """Number of micro-batches left."""
        return (self.steps - self.start_step) * (self.local // self.micro_batch)


def make_loader(
    dataset: Dataset[Any],
    sampler: StepSampler,
    tokens: TokenSource,
    workers: int,
    *,
    pin_memory: bool = False,
    context: Literal["forkserver", "spawn", "fork"] = "forkserver",
) -> DataLoader[Batch]:
    """A loader whose batches do not depend on the number of workers.

    Workers start from a clean process by default: tensorstore ends every process that is forked after it was used.
    """
    if workers == 0:
        return DataLoader(dataset, batch_sampler=sampler, collate_fn=Collate(tokens), pin_memory=pin_memory)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=Collate(tokens),
        num_workers=workers,
        multiprocessing_context=context,
        pin_memory=pin_memory,
        prefetch_factor=2,
        worker_init_fn=functools.partial(_end_with, os.getpid()),
    )


def _end_with(trainer: int, _: int) -> None:
    end_with(trainer)

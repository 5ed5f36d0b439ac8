"""Weights and optimizer of a model in training, whole and by parameter name, whatever number of ranks and ZeRO stage.

``weights.safetensors`` holds parameters and buffers, ``optimizer.safetensors`` what the optimizer keeps of each, as
``exp_avg/encoder.stem.weight``; all in the precision in which they are kept, so that a run goes on bit by bit. Rank 0
writes, every rank reads its part. One parameter at a time is gathered; rank 0 collects all of them in its main memory,
12 bytes a trained parameter with AdamW.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vol3d.errors import CheckpointError

if not torch.cuda.is_available():
    os.environ["DS_ACCELERATOR"] = "cpu"  # read once, when deepspeed is imported

import deepspeed
import deepspeed.utils

WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"


@dataclass(frozen=True)
class FullState:
    """Access to the state of one engine."""

    engine: Any
    """DeepSpeed's."""
    model: nn.Module
    optimizer: torch.optim.Optimizer
    """The torch optimizer that DeepSpeed was given: at every stage it keeps its state in this very object."""
    stage: int

    def weights(self) -> dict[str, Tensor]:
        """The full state dict, on the model's device, detached; at ZeRO 3 gathered, and only rank 0 gets it."""
        if self.stage < 3:
            return {name: value.detach() for name, value in self.model.state_dict().items()}
        full = {name: value.detach().clone() for name, value in self.model.named_buffers()}
        for name, parameter in self.model.named_parameters():
            with deepspeed.zero.GatheredParameters([parameter]):
                if dist.get_rank() == 0:
                    full[name] = parameter.detach().clone()
        return full if dist.get_rank() == 0 else {}

    def save(self, folder: Path) -> None:
        """Writes both files from rank 0. All ranks must call it."""
        main = dist.get_rank() == 0
        self._link()
        weights, moments = self.weights(), {}
        for name, parameter in self._trained():
            for key, value in self._moments(parameter):
                if main:
                    value = value.detach().cpu().contiguous()
                    moments[f"{key}/{name}"] = value if value.ndim else value.clone()  # one number may serve all
        if main:
            folder.mkdir(parents=True, exist_ok=True)
            save_file({name: weights[name].cpu().contiguous() for name in self._tensors()}, folder / WEIGHTS)
            save_file(moments, folder / OPTIMIZER)

    @torch.no_grad()
    def load(self, folder: Path) -> None:
        """Reads both files. All ranks must call it.

        Raises:
            CheckpointError: a file is missing, damaged, or of another model.
        """
        with _opened(folder / WEIGHTS) as weights, _opened(folder / OPTIMIZER) as moments:
            self._refuse_another_model(weights, folder)
            for name, tensor in self._tensors().items():
                self._set_weight(tensor, weights.get_tensor(name))
            of: dict[str, list[str]] = {}  # keys by parameter
            shaped: set[str] = set()
            for entry in moments.keys():  # noqa: SIM118 - a file, not a dict
                key, name = entry.split("/", 1)
                of.setdefault(name, []).append(key)
                if moments.get_slice(entry).get_shape():
                    shaped.add(key)
            self._make_room(shaped)
            for name, parameter in self._trained():
                for key in of.get(name, []):
                    self._set_moment(parameter, key, moments.get_tensor(f"{key}/{name}"))

    def _tensors(self) -> dict[str, Tensor]:
        """Parameters, tied ones once, and the buffers that are saved."""
        saved = self.model.state_dict().keys()
        return {n: t for n, t in [*self.model.named_parameters(), *self.model.named_buffers()] if n in saved}

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)

    def _flat(self) -> list[Tensor]:
        """At ZeRO 1 to 3, what this rank updates: parts of all parameters in a row."""
        inner = self.engine.optimizer
        return list(inner.fp32_partitioned_groups_flat if self.stage == 3 else inner.single_partition_of_fp32_groups)

    def _moments(self, parameter: nn.Parameter) -> Iterator[tuple[str, Tensor]]:
        """What the optimizer keeps of one parameter: tensors of its shape, and numbers such as AdamW's step."""
        holder = parameter if self.stage == 0 else self._flat()[0]
        for key, value in self.optimizer.state.get(holder, {}).items():
            if isinstance(value, Tensor):
                shared = self.stage > 0 and value.ndim
                yield key, deepspeed.utils.safe_get_full_optimizer_state(parameter, key) if shared else value

    def _make_room(self, keys: set[str]) -> None:
        """Moments of this rank's parts, as the optimizer's first step would make them."""
        if self.stage == 0 or not keys:
            return
        for flat in self._flat():
            self.optimizer.state[flat] = {key: torch.zeros_like(flat) for key in sorted(keys)}
        self._link()

    def _link(self) -> None:
        """Tells DeepSpeed's accessors where the moments are; it does so once itself, after the first parameter group's
        first step, when those of the other groups are not there yet."""
        if self.stage in (1, 2):
            self.engine.optimizer._hp_optimizer_states_linked = False
            self.engine.optimizer._lazy_init_hp_params_optimizer_state()

    def _set_moment(self, parameter: nn.Parameter, key: str, value: Tensor) -> None:
        if self.stage == 0:
            self.optimizer.state[parameter][key] = value.to(parameter.device) if value.ndim else value
        elif not value.ndim:
            # at ZeRO 0 a parameter without a gradient in some step has taken fewer steps than the others
            for flat in self._flat():
                known = self.optimizer.state[flat].get(key, value)
                self.optimizer.state[flat][key] = value.maximum(known)
        elif self.stage < 3:
            deepspeed.utils.safe_set_full_optimizer_state(parameter, value, key)
        else:
            deepspeed.utils.safe_set_local_optimizer_state(parameter, _own_part(parameter, value), key)

    def _set_weight(self, tensor: Tensor, value: Tensor) -> None:
        trained = isinstance(tensor, nn.Parameter) and tensor.requires_grad
        if self.stage == 3 and isinstance(tensor, nn.Parameter):
            with deepspeed.zero.GatheredParameters([tensor], modifier_rank=0):
                if dist.get_rank() == 0:
                    tensor.data.copy_(value)
            if trained:  # what the optimizer updates is a copy
                deepspeed.utils.safe_set_local_fp32_param(tensor, _own_part(tensor, value))
            return
        tensor.data.copy_(value)
        if self.stage and trained:
            deepspeed.utils.safe_set_full_fp32_param(tensor, value)

    def _refuse_another_model(self, weights: Any, folder: Path) -> None:
        found = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118
        wanted = {name: tuple(getattr(t, "ds_shape", t.shape)) for name, t in self._tensors().items()}
        other = [name for name in {**wanted, **found} if wanted.get(name) != found.get(name)]
        if other:
            raise CheckpointError(
                f"{folder} does not fit this model: expected {other[0]} of shape {wanted.get(other[0])}, found "
                f"{found.get(other[0])}, and {len(other) - 1} more; resume with the version it was made with"
            )


def _own_part(parameter: Any, value: Tensor) -> Tensor:
    """What this rank keeps of a parameter at ZeRO 3: an equal share, the last one padded."""
    size = parameter.ds_tensor.numel()
    padded = nn.functional.pad(value.flatten(), (0, size * dist.get_world_size() - value.numel()))
    return padded.narrow(0, size * dist.get_rank(), size)


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({error}); remove {path.parent} and go on") from None

"""What a model's forward pass keeps for the backward pass, added up without data and without a GPU.

The pass runs on tensors that have a shape, a type and a device, but no values; autograd says what it asks to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

Precision = Literal["fp32", "bf16"]
Inputs = dict[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and type of every input."""


class ActivationUse:
    """Adds up storages that a forward pass keeps; those inside of `segments`, which are computed again, apart.

    After `measure`, `kept` are the bytes held until the backward pass and `recomputed` those of the largest segment.

    Args:
        device: whose arithmetic is planned for; it need not be there.
        precision: of autocast.
        segments: parts of the model with activation checkpointing.
    """

    def __init__(self, device: str, precision: Precision, segments: Sequence[nn.Module]) -> None:
        self.device, self.precision, self.segments = device, precision, segments
        self.kept = self.recomputed = 0
        self._outside: dict[int, torch.UntypedStorage] = {}
        self._inside: list[dict[int, torch.UntypedStorage]] = []
        self._weights: dict[int, torch.UntypedStorage] = {}
        self._open = False

    def measure(
        self,
        model: nn.Module,
        forward: Callable[..., dict[str, Tensor]],
        inputs: Inputs,
    ) -> dict[str, Tensor]:
        """The outputs of one forward pass."""
        handles = [
            handle
            for segment in self.segments
            for handle in (
                segment.register_forward_pre_hook(self._enter, with_kwargs=True),
                segment.register_forward_hook(self._leave),
            )
        ]
        try:
            with FakeTensorMode():
                call = _Call(model, forward)
                state = {}
                for name, held in (*call.named_parameters(), *call.named_buffers()):
                    empty = torch.empty(held.shape, dtype=held.dtype, device=self.device)
                    state[name] = empty.requires_grad_(held.requires_grad)
                self._weights = dict(map(_storage, state.values()))
                given = {n: torch.empty(shape, dtype=kind, device=self.device) for n, (shape, kind) in inputs.items()}
                with (
                    _autocast(self.device, self.precision == "bf16"),
                    torch.autograd.graph.saved_tensors_hooks(self._keep, lambda tensor: tensor),
                ):
                    outputs: dict[str, Tensor] = torch.func.functional_call(call, state, kwargs=given)
        finally:
            for handle in handles:
                handle.remove()
        self.kept = _bytes(self._outside)
        again = [{k: s for k, s in part.items() if k not in self._outside} for part in self._inside]
        self.recomputed = max(map(_bytes, again), default=0)
        return outputs

    def _keep(self, tensor: Tensor) -> Tensor:
        key, storage = _storage(tensor)
        if key not in self._weights:
            (self._inside[-1] if self._open else self._outside)[key] = storage
        return tensor

    def _enter(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor):  # from it the part is computed again
                key, storage = _storage(value)
                self._outside[key] = storage
        self._inside.append({})
        self._open = True

    def _leave(self, *_: Any) -> None:
        self._open = False


class _Call(nn.Module):
    def __init__(self, model: nn.Module, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self._forward = model, forward

    def forward(self, **inputs: Tensor) -> Any:
        return self._forward(self.model, **inputs)


def _storage(tensor: Tensor) -> tuple[int, torch.UntypedStorage]:
    """A number for the memory behind a tensor, views alike, as long as it is held on to."""
    storage = tensor.untyped_storage()
    return storage._cdata, storage


def _bytes(storages: dict[int, torch.UntypedStorage]) -> int:
    return sum(storage.nbytes() for storage in storages.values())


@contextmanager
def _autocast(device: str, enabled: bool) -> Iterator[None]:
    """`torch.autocast`, which turns itself off for a GPU that is not there."""
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, enabled)
    torch.set_autocast_dtype(device, torch.bfloat16)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])

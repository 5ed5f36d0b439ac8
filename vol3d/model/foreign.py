"""Weights of other projects' networks under the names of ours: nnU-Net v2 and VoxTell.

Their residual encoder is that of dynamic-network-architectures, as ours, so names map one to one. Only tensors and
plain values are read (``weights_only``): a checkpoint that holds anything else is refused.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vol3d.errors import CheckpointError

SUFFIXES = (".pth", ".pt")
NAMES = ("checkpoint_final.pth", "checkpoint_best.pth")
"""What nnU-Net's trainer writes into a fold's folder, the preferred first."""

WRAPPED = ("module.", "_orig_mod.")
"""Put before every name by DistributedDataParallel and torch.compile."""

STEM = "encoder.net.stem.convs.0.all_modules.0.weight"
"""The first convolution: the only tensor whose shape follows from the input channels."""

_NUMBERS = (np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_)
_SCALAR = np.float64(0).__reduce__()[0]  # the function that makes a number, private to numpy
_SCALARS: list[Any] = [np.dtype, _SCALAR, *{type(np.dtype(t)) for t in _NUMBERS}]
_SCALARS += [(_SCALAR, "numpy.core.multiarray.scalar")]  # as numpy 1 wrote it
"""The numpy numbers among the training curves that nnU-Net stores beside the weights."""


@dataclass(frozen=True)
class Foreign:
    """What a checkpoint of another project offers."""

    kind: str
    """``nnU-Net`` or ``VoxTell``."""
    tensors: dict[str, Tensor]
    """By the names of `vol3d.model.vlm.VisionLanguageModel`."""
    unused: dict[str, str]
    """Their name -> why it has no counterpart; tensors that are stored twice are named once."""
    strides: tuple[tuple[int, ...], ...] | None = None
    """(z, y, x) of every stage, where the checkpoint says it: no shape of a tensor does."""
    notes: tuple[str, ...] = field(default=())
    """What it says about its images."""


def find_foreign(path: Path) -> Path | None:
    """The file that `path` names: itself, or what nnU-Net left in a fold's folder or below it; None if none."""
    if path.is_file():
        return path if path.suffix in SUFFIXES else None
    folders = [path, *sorted(path.glob("fold_*"))]
    return next((folder / name for folder in folders for name in NAMES if (folder / name).is_file()), None)


def read_foreign(path: Path) -> Foreign:
    """Reads a checkpoint of nnU-Net v2 or VoxTell.

    Raises:
        CheckpointError: it is damaged, holds more than tensors and plain values, or is of another network.
    """
    stored = _load(path)
    weights = stored.get("network_weights", stored)
    tensors = {_unwrapped(str(k)): v for k, v in weights.items() if isinstance(v, Tensor)}
    if not any(name.startswith("encoder.stem.") for name in tensors):
        found = ", ".join(list(tensors)[:3]) or "no tensors"
        plain = any(name.startswith("encoder.stages.0.0.convs.") for name in tensors)
        hint = "; this is nnU-Net's plain U-Net, plan with a ResEnc preset" if plain else ""
        raise CheckpointError(
            f"expected network_weights of a residual-encoder U-Net (encoder.stem..., nnU-Net's ResEnc presets or "
            f"VoxTell) in {path}, found {found}{hint}"
        )
    voxtell = any(name.startswith("project_text_embed.") for name in tensors)
    ours: dict[str, Tensor] = {}
    unused: dict[str, str] = {}
    levels = 1 + max((int(m[1]) for n in tensors if (m := re.match(r"decoder\.transpconvs\.(\d+)\.", n))), default=-1)
    for name, tensor in _once(tensors):
        mapped, reason = _mapped(name, levels, encoder_only=voxtell)
        if mapped is None:
            unused[name] = reason
        else:
            ours[mapped] = tensor
    architecture, notes = _said(stored)
    return Foreign("VoxTell" if voxtell else "nnU-Net", ours, unused, _strides(architecture), tuple(notes))


def _load(path: Path) -> dict[str, Any]:
    try:
        with torch.serialization.safe_globals(_SCALARS):
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|class|global) ([\w.]+)", str(error))
        raise CheckpointError(
            f"expected tensors and plain values in {path}, found {named[1] if named else 'something else'}, which is "
            f"not loaded because it could run code; where you trust the file, store its 'network_weights' alone"
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(f"{path} is damaged or no PyTorch checkpoint ({first}); copy it again") from None
    if not isinstance(stored, dict) or not isinstance(stored.get("network_weights", stored), dict):
        raise CheckpointError(f"expected a dictionary with 'network_weights' in {path}, found {type(stored).__name__}")
    return stored


def _unwrapped(name: str) -> str:
    while name.startswith(WRAPPED):
        name = name.partition(".")[2]
    return name


def _once(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor under one name: blocks register their layers twice, and the decoder holds the encoder again."""
    for name, tensor in tensors.items():
        head, _, leaf = name.rpartition(".")
        twin = f"{head.rpartition('.')[0]}.all_modules.{0 if head.endswith('conv') else 1}.{leaf}"
        if not name.startswith("decoder.encoder.") and not (head.endswith((".conv", ".norm")) and twin in tensors):
            yield name, tensor


def _mapped(name: str, levels: int, *, encoder_only: bool) -> tuple[str | None, str]:
    """Our name, or None and why there is none. Their decoder counts levels from the coarsest, ours from the finest."""
    if re.search(r"\.all_modules\.0\.bias$", name) and (name.startswith("encoder.") or not encoder_only):
        return None, "a bias that the normalisation after it takes away"
    if name.startswith("encoder."):
        return f"encoder.net.{name.removeprefix('encoder.')}", ""
    if encoder_only:
        return None, "of VoxTell's text side or decoder"
    stage = re.fullmatch(r"decoder\.(stages|transpconvs)\.(\d+)\.(.+)", name)
    if stage is None:
        return None, "of its classes" if name.startswith("decoder.seg_layers.") else "no such part here"
    level = levels - 1 - int(stage[2])
    if stage[1] == "stages":
        return f"decoder.stages.{level}.{stage[3]}", ""
    return (f"decoder.ups.{level}.weight", "") if stage[3] == "weight" else (None, "our upsampling has no bias")


def _said(stored: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Arguments of the network, and what is known of its images: nnU-Net stores its plans with the weights."""
    arguments = stored.get("init_args")
    if not isinstance(arguments, dict):
        return {}, []
    plans, configuration = arguments.get("plans") or {}, arguments.get("configuration")
    configurations = plans.get("configurations", {})
    chosen = dict(configurations.get(configuration, {}))
    while isinstance(parent := chosen.pop("inherits_from", None), str):
        chosen = {**configurations.get(parent, {}), **chosen}
    notes = []
    if spacing := chosen.get("spacing"):
        notes.append(f"trained at {' x '.join(f'{float(s):.3g}' for s in spacing)} mm")
    dataset = arguments.get("dataset_json") or {}
    if channels := dataset.get("channel_names") or dataset.get("modality"):
        schemes = ", ".join(str(s) for s in chosen.get("normalization_schemes", ()))
        notes.append(f"its channels: {', '.join(map(str, channels.values()))}" + (f" ({schemes})" if schemes else ""))
    return dict((chosen.get("architecture") or {}).get("arch_kwargs") or {}), notes


def _strides(architecture: dict[str, Any]) -> tuple[tuple[int, ...], ...] | None:
    strides = architecture.get("strides")
    return None if strides is None else tuple(tuple(int(n) for n in stage) for stage in strides)

"""A module's weights and configuration as files: how every part of a checkpoint is written and read."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from vol3d.config import from_tree, to_tree
from vol3d.errors import CheckpointError, ConfigError
from vol3d.files import write_whole

ConfigT = TypeVar("ConfigT")


def save_module(module: nn.Module, config: Any, folder: str | Path, weights: str, name: str) -> None:
    """Writes the state dict as `folder`/`weights` and the configuration as `folder`/`name`, each by atomic rename."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{uuid.uuid4().hex}.partial"
    save_file({key: tensor.detach().contiguous().cpu() for key, tensor in module.state_dict().items()}, partial)
    os.replace(partial, folder / weights)
    write_whole(folder / name, json.dumps(to_tree(config), indent=2) + "\n")


def read_config(kind: type[ConfigT], folder: str | Path, weights: str, name: str) -> ConfigT:
    """The configuration that `save_module` wrote.

    Raises:
        CheckpointError: a file or a key is missing or unknown.
    """
    folder = Path(folder)
    for file in (weights, name):
        if not (folder / file).is_file():
            raise CheckpointError(f"expected {weights} and {name} in {folder}, found no {file}")
    try:
        return from_tree(kind, json.loads((folder / name).read_text()), str(folder / name))
    except (ConfigError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{folder / name} is no configuration of this version: {error}") from error


def load_weights(model: nn.Module, path: Path) -> None:
    """Copies a safetensors file into `model`; names and shapes must agree exactly.

    Raises:
        CheckpointError: they do not, or the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}") from error
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [n for n in own.keys() & tensors.keys() if own[n].shape != tensors[n].shape]
    if missing or unknown or shapes:
        first = [*missing[:2], *unknown[:2], *shapes[:2]]
        raise CheckpointError(
            f"{path} does not fit the model: {len(missing)} tensors missing, {len(unknown)} unknown, "
            f"{len(shapes)} of another shape (such as {', '.join(first)}); its model.json belongs to other weights"
        )
    model.load_state_dict(tensors)

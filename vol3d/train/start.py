"""`--init`: a run that starts from the weights of another one, of nnU-Net or of VoxTell."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from vol3d.checkpoint import find_model_folder
from vol3d.errors import CheckpointError
from vol3d.files import write_whole
from vol3d.model.foreign import STEM, find_foreign, read_foreign
from vol3d.model.vlm import WEIGHTS

FILE = "init.json"

log = logging.getLogger("vol3d")


class Started(NamedTuple):
    """What a model took from a checkpoint."""

    matched: list[str]
    """Names of the model's tensors that were copied."""
    unmatched: dict[str, str]
    """Name of a tensor of the model that stays as drawn -> why."""
    unused: dict[str, str]
    """Name of a tensor of the checkpoint that has no place here -> why."""
    notes: list[str]
    """What else to know before relying on it."""


def start_from(model: torch.nn.Module, path: Path) -> Started:
    """Copies the tensors of a checkpoint whose name and shape fit: of ours, of nnU-Net v2 or of VoxTell.

    Raises:
        CheckpointError: there is no checkpoint, it is damaged, or nothing fits.
    """
    weights, unused, notes, source = _weights_at(Path(path), model)
    own = model.state_dict()
    matched = [name for name, value in own.items() if name in weights and weights[name].shape == value.shape]
    if not matched:
        raise CheckpointError(
            f"expected tensors of this model in {source}, found {len(weights)} of which none has the name and shape of "
            f"one of its {len(own)}; it is another model"
        )
    model.load_state_dict({**own, **{name: weights[name] for name in matched}})
    unmatched = {
        name: f"{tuple(weights[name].shape)} there, {tuple(value.shape)} here" if name in weights else "not in it"
        for name, value in own.items()
        if name not in set(matched)
    }
    unused |= {name: "no such tensor here" for name in weights if name not in own}
    return Started(matched, unmatched, unused, notes)


def _weights_at(path: Path, model: torch.nn.Module) -> tuple[dict[str, torch.Tensor], dict[str, str], list[str], Path]:
    """Tensors by our names, theirs that have none, notes, and the file."""
    file = find_foreign(path)
    if file is None:
        folder = find_model_folder(path)
        try:
            return load_file(folder / WEIGHTS), {}, [], folder
        except SafetensorError as error:
            raise CheckpointError(f"{folder / WEIGHTS} is damaged ({error}); copy the folder again") from None
    found = read_foreign(file)
    notes = [
        f"weights of {found.kind}",
        *([f"of its file {file.relative_to(path)}"] if file != path else []),
        *found.notes,
    ]
    encoder = getattr(getattr(model, "config", None), "encoder", None)
    if encoder is not None and found.strides is not None and found.strides != tuple(map(tuple, encoder.strides)):
        notes.append(
            f"its strides are {list(map(list, found.strides))}, those here {list(map(list, encoder.strides))}: shapes "
            f"fit, but stages see other scales; state model.encoder.strides and kernel_sizes to have its own"
        )
    drawn = model.state_dict().get(STEM)
    if drawn is not None and STEM in found.tensors:
        there, here = found.tensors[STEM].shape[1], drawn.shape[1]
        notes.append(
            f"the first convolution stays as drawn: {there} input channels there, {here} here"
            if there != here
            else f"the first convolution is taken for its {here} input channels; see that they mean the same"
        )
    return found.tensors, found.unused, notes, file


def write_start(found: Started, path: Path, out: Path) -> None:
    """Keeps the report, tensor by tensor, as `init.json` of the run."""
    write_whole(out / FILE, json.dumps({"from": str(path), **found._asdict()}, indent=1) + "\n")


def report_start(found: Started, path: Path) -> None:
    """Logs what was taken, and why the rest was not."""
    log.info("%s: %d tensors taken, %d left as drawn", path, len(found.matched), len(found.unmatched))
    for note in found.notes:
        log.info("  %s", note)
    for name, reason in found.unmatched.items():
        log.info("  left as drawn: %s (%s)", name, reason)
    for reason, count in Counter(found.unused.values()).items():
        log.info("  not used: %d of its tensors (%s)", count, reason)

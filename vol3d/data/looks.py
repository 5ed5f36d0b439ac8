"""What a trained grounding model saw of a study, kept: the only thing that a language decoder reads of the image."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from vol3d.cache import check_study_id
from vol3d.errors import CacheError
from vol3d.files import write_whole
from vol3d.types import Array


@dataclass(frozen=True, eq=False)
class Look:
    """One study; V cells of C channels, N rows of F facts about the probes."""

    study_id: str
    cell_VC: Array
    """float32, coarse image features, averaged over the cells of a grid laid over the study."""
    place_V3: Array
    """float32, the cells' centres: (z, y, x) mm from the body's centre."""
    probe_N: Array
    """int64: which probe a row answers."""
    facts_NF: Array
    """float32, see `vol3d.data.regions`."""
    asked: dict[str, Array] = field(default_factory=dict)
    """Rows [n, F] about further phrases, such as what a question asks about."""

    def save(self, folder: Path) -> Path:
        """Writes ``<study_id>.safetensors``."""
        arrays = {"cells": self.cell_VC, "place": self.place_V3, "probe": self.probe_N, "facts": self.facts_NF}
        arrays |= {f"asked_{i}": rows for i, rows in enumerate(self.asked.values())}
        folder.mkdir(parents=True, exist_ok=True)
        path = look_path(folder, self.study_id)
        write_whole(
            path, save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, {"asked": json.dumps([*self.asked])})
        )
        return path


def look_path(folder: Path, study_id: str) -> Path:
    """Where the look at a study lies or would lie."""
    return Path(folder) / f"{check_study_id(study_id)}.safetensors"


def load_look(folder: Path, study_id: str) -> Look:
    """What `Look.save` wrote.

    Raises:
        CacheError: it is missing or damaged.
    """
    path = look_path(folder, study_id)
    try:
        with safe_open(path, framework="numpy") as file:
            texts = json.loads(file.metadata()["asked"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        rows = {text: arrays[f"asked_{i}"] for i, text in enumerate(texts)}
        return Look(study_id, arrays["cells"], arrays["place"], arrays["probe"], arrays["facts"], rows)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CacheError(f"expected what the model saw of {study_id} in {path}, found none that can be read ({error}); "
                         f"remove it and train again with --resume auto") from None  # fmt: skip

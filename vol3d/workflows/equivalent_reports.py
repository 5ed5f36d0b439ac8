"""Studies of a cache reported on once more from equivalent inputs: other noise, a shifted frame, other axes.

Each is stored as files again, CT on the cache's grid and PET on its own, and goes the whole way of a new study:
reading, preprocessing, report. So nothing that preprocessing does to an orientation is left out.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from preprocessing.manifest import Row
from preprocessing.transforms import PreprocessConfig
from vol3d.cache import Entry
from vol3d.config import from_tree
from vol3d.export.nifti import write_nifti
from vol3d.progress import progress
from vol3d.volume import Volume
from vol3d.workflows.drafts import Context
from vol3d.workflows.inputs import scratch_entry
from vol3d.workflows.report import Reporter
from vol3d.workflows.variants import KINDS, VariantKind, variant

FIGURES = ("identical", "overlap", "beyond_chance")
"""What a kind of change is summed up by."""


def even_sample(entries: Sequence[Entry], count: int) -> list[Entry]:
    """At most `count` of them, from all over the list."""
    at = np.linspace(0, len(entries) - 1, min(count, len(entries))).round().astype(int)
    return [entries[i] for i in dict.fromkeys(at.tolist())]


def report_again(
    reporter: Reporter, entries: Sequence[Entry], out: Path, *, show_progress: bool = True
) -> dict[str, Path]:
    """Writes ``out/<kind>/<study>/report.json`` of every variant of every study; the folder of each kind.

    Raises:
        Vol3dError: a variant cannot be preprocessed.
    """
    recipe = from_tree(PreprocessConfig, reporter.checkpoint.recipe, "the checkpoint's recipe")
    with progress("variants", len(entries) * len(KINDS), "reports", enabled=show_progress) as advance:
        for entry in entries:
            images = {"ct": entry.read_level("ct", 0)} if "ct" in entry.images else {}
            images |= {"pet": entry.pet_native()} if "pet" in entry.images else {}
            for kind in KINDS:
                with TemporaryDirectory(prefix="vol3d-") as scratch:
                    row = _stored(entry.study_id, images, kind, Path(scratch))
                    with scratch_entry(row, recipe, assume_hu=True) as changed:  # the cache holds HU
                        reporter.write(changed, row, out / kind / entry.study_id, Context())
                advance()
    return {kind: out / kind for kind in KINDS}


def _stored(study_id: str, images: dict[str, Volume], kind: VariantKind, folder: Path) -> Row:
    paths = {name: folder / f"{name}.nii.gz" for name in images}
    for name, volume in images.items():
        changed = variant(volume, kind, zlib.crc32(f"{study_id} {name}".encode()))
        write_nifti(paths[name], np.ascontiguousarray(changed.array_ZYX), changed.grid)
    return Row(study_id=study_id, patient_id="", ct=paths.get("ct"), pet=paths.get("pet"))


def figures(table: dict[str, Any]) -> dict[str, float | None]:
    """Of `evaluate_consistency`, what to look at first."""
    out = {}
    for kind in (k for k in KINDS if k in table):
        for name in FIGURES:
            value = table[kind][name]
            out[f"consistency_{kind}_{name}"] = value["value"] if isinstance(value, dict) else value
    return out

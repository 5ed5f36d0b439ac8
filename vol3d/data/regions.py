"""What is found in a study as rows of numbers: where a part lies, how large, dense and avid it is, what it overlaps.

A language decoder reads these rows instead of voxels, so the size class or the density that it writes was measured, not
guessed. They describe; no printed number comes from here, those are measured on the exported mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from vol3d.cache import Entry
from vol3d.data.channels import body_center_mm
from vol3d.measure import CONNECTIVITY_18, Component, components, diameters
from vol3d.types import Array, Zyx

FACTS = (
    "present", "absent", "logit", "part", "parts", "volume", "diameter", "z", "y", "x", "hu_mean", "hu_low", "hu_high",
    "hu_contrast", "suv_max", "suv_mean", "suv_contrast", "ct", "pet",
)  # fmt: skip
"""Columns of a row; one for each probe follows: the share of the part that lies inside what that probe found. All are
scaled to about -3..3."""

DIAMETER_SCALE_MM = 50.0
_SHELL_VOXELS = 2


@dataclass(frozen=True)
class Found:
    """The answer to one phrase on the entry's grid."""

    mask_ZYX: Array
    """bool; all False where the phrase is absent."""
    logit: float
    """Calibrated presence logit."""


def rows_of(entry: Entry, found: Found, probes: Sequence[Found], *, most: int, least_ml: float) -> Array:
    """float32 [N, len(FACTS) + len(probes)]: a row a part (18-connected), largest first; one row if nothing was found.

    Args:
        entry: the study.
        found: the answer to describe.
        probes: the answers to the phrases that every study is asked.
        most: rows at most; further, smaller parts are left out.
        least_ml: parts smaller than this are left out, unless all are.
    """
    every = components(found.mask_ZYX, entry.grid)
    parts = [p for p in every if p.volume_ml >= least_ml] or every[:1]
    if not parts:
        return _row(entry, found, None, 0, 0, len(probes))[None]
    rows = []
    for number, part in enumerate(parts[:most]):
        row = _row(entry, found, part, number, len(parts), len(probes))
        box = tuple(slice(a, b) for a, b in zip(part.start, part.stop, strict=True))
        row[len(FACTS) :] = [float(p.mask_ZYX[box][part.mask_ZYX].mean()) for p in probes]
        rows.append(row)
    return np.stack(rows)


def _row(entry: Entry, found: Found, part: Component | None, number: int, parts: int, probes: int) -> Array:
    values = {
        "present": float(part is not None), "absent": float(part is None),
        "logit": float(np.clip(found.logit / 4, -3, 3)),
        "ct": float("ct" in entry.images), "pet": float("pet" in entry.images),
    }  # fmt: skip
    if part is not None:
        values |= {"part": number / 4, "parts": parts / 4, "volume": float(np.log10(part.volume_ml + 1e-3))}
        values |= _place(entry, part)
        for image, figures in (("ct", _density), ("pet", _uptake)):
            if image in entry.images:
                values |= figures(*_voxels(entry, image, part))
    row = np.zeros(len(FACTS) + probes, np.float32)
    row[: len(FACTS)] = [values.get(name, 0.0) for name in FACTS]
    return row


def _place(entry: Entry, part: Component) -> dict[str, float]:
    """Centre in decimetres from the body's centre, and the longest axial diameter in units of 5 cm."""
    grid = entry.grid.crop(part.start, part.stop)
    x, y, z = grid.index_to_mm(np.argwhere(part.mask_ZYX).mean(axis=0)) - np.array(body_center_mm(entry))
    size = diameters(part.mask_ZYX, grid)
    assert size is not None, "a component has voxels"
    return {"z": z / 100, "y": y / 100, "x": x / 100, "diameter": size.axial_long_mm / DIAMETER_SCALE_MM}


def _voxels(entry: Entry, image: str, part: Component) -> tuple[Array, Array, Array]:
    """Values of the part, of its core (the part without its rim, where the image's blur reaches), and of a shell."""
    margin = _SHELL_VOXELS + 1
    start: Zyx = (part.start[0] - margin, part.start[1] - margin, part.start[2] - margin)
    stop: Zyx = (part.stop[0] + margin, part.stop[1] + margin, part.stop[2] + margin)
    values = entry.read(image, start, stop).astype(np.float32)
    inside = np.pad(part.mask_ZYX, margin)
    core = ndimage.binary_erosion(inside, CONNECTIVITY_18)
    near = ndimage.binary_dilation(inside, CONNECTIVITY_18)
    shell = ndimage.binary_dilation(near, CONNECTIVITY_18, iterations=_SHELL_VOXELS) & ~near
    return values[inside], values[core] if core.any() else values[inside], values[shell]


def _density(_: Array, core: Array, shell: Array) -> dict[str, float]:
    low, high = np.percentile(core, (10, 90))
    mean = float(core.mean())
    return {
        "hu_mean": float(np.clip(mean / 200, -5, 5)), "hu_low": float(np.clip(low / 200, -5, 5)),
        "hu_high": float(np.clip(high / 200, -5, 5)),
        "hu_contrast": float(np.clip((mean - float(shell.mean())) / 100, -5, 5)),
    }  # fmt: skip


def _uptake(part: Array, core: Array, shell: Array) -> dict[str, float]:
    hottest, mean, around = (max(float(v), 0.0) for v in (part.max(), core.mean(), shell.mean()))
    contrast = np.log((hottest + 0.2) / (around + 0.2))
    return {"suv_max": float(np.log1p(hottest)), "suv_mean": float(np.log1p(mean)), "suv_contrast": float(contrast)}

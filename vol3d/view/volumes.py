"""Volumes as the bytes that the page's viewer loads: NIfTI without anything but numbers and their place.

Nothing is resampled and nothing is left out. Headers are made anew, so nothing of a source's header can travel along.
"""

from __future__ import annotations

import nibabel as nib
import numpy as np

from vol3d.geometry import Grid
from vol3d.types import AIR_HU, Array
from vol3d.view.labels import LabelMap
from vol3d.volume import Volume

_LABEL_INTENT = 1002
"""NIFTI_INTENT_LABEL: values are names of things, not to be interpolated."""


def image_bytes(volume: Volume, shown: tuple[float, float]) -> bytes:
    """A CT as int16 HU or a PET as float32 SUVbw; `shown` is the range of values that a viewer opens with."""
    if volume.modality == "ct":
        array = volume.array_ZYX
        if array.dtype != np.int16:
            array = np.clip(np.rint(array), 2 * AIR_HU, np.iinfo(np.int16).max).astype(np.int16)
    else:
        array = volume.array_ZYX.astype(np.float32)
    return _nifti(array, volume.grid, shown)


def label_bytes(labels: LabelMap) -> bytes:
    """A label map, its type unchanged."""
    return _nifti(labels.array_ZYX, labels.grid, (0.0, float(max(len(labels.sets) - 1, 1))), _LABEL_INTENT)


def _nifti(array_ZYX: Array, grid: Grid, shown: tuple[float, float], intent: int = 0) -> bytes:
    image = nib.Nifti1Image(np.ascontiguousarray(array_ZYX).transpose(2, 1, 0), grid.affine_xyz)
    image.set_sform(grid.affine_xyz, code=1)
    image.set_qform(grid.affine_xyz, code=1)  # of equal codes the viewer takes the sform
    image.header.set_xyzt_units("mm")
    image.header["intent_code"] = intent
    image.header["cal_min"], image.header["cal_max"] = shown
    return image.to_bytes()

"""One mask of a 4D NIfTI file whose *first* axis counts masks, as ReXGroundingCT publishes them: (F, X, Y, Z).

NIfTI puts what is no place last, and knows no name for another order, so such a file's header speaks of the wrong axes.
What its affine holds is taken for the axes (X, Y, Z); the caller decides whether it can be believed (``placed`` in the
manifest).
"""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from preprocessing.read_nifti import nifti_bytes
from vol3d.errors import GeometryError, ReadError
from vol3d.geometry import Grid
from vol3d.types import Array


def read_channel(path: Path, channel: int) -> tuple[Array, Grid]:
    """uint8 0/1, members are all voxels of the channel that are not 0, and the grid that its header gives.

    A 3D file is its own channel 0.

    Raises:
        ReadError: no such channel, not 3 or 4 axes, not a whole NIfTI file; GeometryError: an affine that is no grid.
    """
    raw = nifti_bytes(path)
    try:
        image = nib.Nifti1Image.from_bytes(raw)
        array = np.asarray(image.dataobj)
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, ValueError, OSError) as error:
        raise ReadError(f"{path}: expected a readable NIfTI-1 file, found {error}") from error
    array_CXYZ = array[None] if array.ndim == 3 else array
    if array_CXYZ.ndim != 4:
        raise ReadError(f"{path}: expected masks x X x Y x Z, found {array.ndim} axes of shape {array.shape}")
    if channel >= array_CXYZ.shape[0]:
        raise ReadError(
            f"{path}: expected channel {channel}, found {array_CXYZ.shape[0]} along the first axis of {array.shape}"
        )
    found_XYZ = array_CXYZ[channel]
    try:
        grid = Grid.from_xyz((found_XYZ.shape[0], found_XYZ.shape[1], found_XYZ.shape[2]), image.affine)
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from error
    return (found_XYZ != 0).astype(np.uint8).transpose(2, 1, 0), grid

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
    """uint8 0/1, members are all voxels of the channel that are not 0, and the grid that its header gives (voxels of
    1 mm where it gives none).

    A 3D file is its own channel 0.

    Raises:
        ReadError: no such channel, not 3 or 4 axes, not a whole NIfTI file.
    """
    raw = nifti_bytes(path)
    try:
        image = nib.Nifti1Image.from_bytes(raw)
        shape = image.shape
        if len(shape) not in (3, 4):
            raise ReadError(f"{path}: expected masks x X x Y x Z, found {len(shape)} axes of shape {shape}")
        count = shape[0] if len(shape) == 4 else 1
        if channel >= count:
            raise ReadError(f"{path}: expected channel {channel}, found {count} along the first axis of {shape}")
        found_XYZ = np.asarray(image.dataobj[channel] if len(shape) == 4 else image.dataobj)
    except (nib.filebasedimages.ImageFileError, nib.spatialimages.HeaderDataError, ValueError, OSError) as error:
        raise ReadError(f"{path}: expected a readable NIfTI-1 file, found {error}") from error
    size = (found_XYZ.shape[0], found_XYZ.shape[1], found_XYZ.shape[2])
    try:
        grid = Grid.from_xyz(size, image.affine)
    except GeometryError:  # a header of the wrong axes; whoever believes it finds that it fits no image
        grid = Grid.from_xyz(size, np.eye(4))
    return (found_XYZ != 0).astype(np.uint8).transpose(2, 1, 0), grid

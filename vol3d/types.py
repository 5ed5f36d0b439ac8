"""Shapes and letters, written down once.

Array axes are always in the order ``[B,] [P,] [C,] Z, Y, X``; a tensor's name ends in the letters of its axes
(``image_BCZYX``, ``tokens_BPTE``):

=====  ==========================================================================
``B``  images in a batch
``P``  phrases asked of one image
``C``  image or feature channels
``Z``  first spatial axis; in the canonical frame it grows towards Superior
``Y``  second spatial axis; canonical: towards Anterior
``X``  third spatial axis; canonical: towards the patient's Right
``T``  text tokens of one phrase, padded
``E``  width of the text encoder's hidden states
``D``  width of the fusion (queries, keys, values)
``N``  voxels or points in a list
``L``  levels of a pyramid
=====  ==========================================================================

World coordinates are millimetres in RAS+ (x grows to the patient's Right, y to Anterior, z to Superior), the
convention of NIfTI. DICOM's LPS+ exists only inside the DICOM modules. A `vol3d.geometry.Grid` maps the voxel index
``(z, y, x)`` to that world; nibabel's and MONAI's ``(x, y, z)`` index order is permuted, affine columns with it, where
their arrays enter and leave.

Units: CT in Hounsfield units (HU), PET in SUVbw (g/ml), lengths in mm, volumes in ml.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
"""Any numpy array; the name of the variable says its axes."""

Affine = NDArray[np.float64]
"""4x4 homogeneous matrix."""

Zyx = tuple[int, int, int]
"""Three integers along (z, y, x)."""

ZyxMm = tuple[float, float, float]
"""Three lengths in mm along (z, y, x)."""

Modality = Literal["ct", "pet", "mask"]
"""What a volume's numbers are: HU, SUVbw, or membership 0/1."""

Unit = Literal["HU", "SUVbw", "1"]

UNIT_OF: dict[Modality, Unit] = {"ct": "HU", "pet": "SUVbw", "mask": "1"}

AIR_HU = -1024
"""What fills CT voxels that no scanner measured: padding codes, and space outside the source grid."""

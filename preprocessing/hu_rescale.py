"""Does a CT file hold HU, or the scanner's stored values that still need slope and intercept? The numbers decide.

Some sets publish slope and intercept beside NIfTI files, and some of their files hold HU already (CT-RATE: the first
release did not, the second does; the table is the same). Rescaling twice moves air to about -2000 and trains without
any error message. So both readings are tried, and the one that looks like a body is taken; if neither or both do, the
file is refused.
"""

from __future__ import annotations

import numpy as np

from preprocessing.hu import pack
from vol3d.errors import UnitError
from vol3d.types import Array

AIR_HU_RANGE = (-1100.0, -600.0)
"""Air outside the body and in the lung."""

TISSUE_HU_RANGE = (-150.0, 200.0)
"""Fat, water, organs, blood with and without contrast."""

LEAST_SHARE = 0.02
"""Of the voxels in each of the two ranges, for a reading to be a body; a chest has over a fifth in each."""

LEAST_RATIO = 4.0
"""By so much the better reading must lead."""

_SAMPLE = 2_000_000


def settle(array_ZYX: Array, slope: float, intercept: float) -> tuple[Array, tuple[str, ...]]:
    """HU, and what was done to get them, in words.

    Args:
        array_ZYX: values as the file states them.
        slope, intercept: of the original DICOM: HU = slope * stored + intercept.

    Raises:
        UnitError: neither reading looks like a body in air, or both do.
    """
    if (slope, intercept) == (1.0, 0.0):
        return array_ZYX, ()
    values = array_ZYX.reshape(-1)[:: (array_ZYX.size // _SAMPLE) | 1].astype(np.float64)
    values = values[values > values.min()]  # padding, whatever its code, and clipped air
    as_is, rescaled = _body_share(values), _body_share(slope * values + intercept)
    if as_is >= LEAST_SHARE and as_is >= LEAST_RATIO * rescaled:
        return array_ZYX, (f"holds HU already: slope {slope:g} and intercept {intercept:g} not applied",)
    if rescaled >= LEAST_SHARE and rescaled >= LEAST_RATIO * as_is:
        slabs = (slope * slab.astype(np.float64) + intercept for slab in array_ZYX)
        hu_ZYX = pack(slabs, (array_ZYX.shape[0], array_ZYX.shape[1], array_ZYX.shape[2]))
        return hu_ZYX, (f"stored values to HU: slope {slope:g}, intercept {intercept:g}",)
    raise UnitError(
        f"expected air and soft tissue either in the values as they are or after slope {slope:g} and intercept "
        f"{intercept:g}, found shares of {as_is:.1%} and {rescaled:.1%}; leave out slope and intercept if the file "
        f"holds HU, or convert the original series again"
    )


def _body_share(values_N: Array) -> float:
    """The smaller of the shares of air and of soft tissue."""
    if not values_N.size:
        return 0.0
    return min(float(((values_N >= low) & (values_N <= high)).mean()) for low, high in (AIR_HU_RANGE, TISSUE_HU_RANGE))

"""Hounsfield units: fills padding with air and refuses numbers that plainly are no HU.

A CT without HU (a windowed picture, a volume rescaled twice) trains and measures without any error message, so it is
stopped at the door. `assume_hu` lets a user who knows better through, and leaves a note.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import DTypeLike

from vol3d.errors import ReadError, UnitError
from vol3d.types import AIR_HU, Array, Zyx

PADDING_HU = (-2000, -2048, -3024)
"""Codes that scanners and converters write where nothing was measured (-3024 is -2000 rescaled by -1024)."""

HIGHEST_AIR_HU = -200
"""Unsigned storage without any value under this is a window, not a CT."""

LOWEST_AIR_MODE_HU = -1500
"""Air lies at -1000; its mode under this means that an intercept of about -1000 was added twice."""

DEEP_SHARE = 0.01
"""More voxels than this share under `LOWEST_AIR_MODE_HU`, and it was air all the same: a body that fills the view has
its own peak at -984 after the second rescale, which looks like air. Noise and metal reach there in single voxels."""

HIGHEST_HU = 32767
"""Extended scales end at 30,710 (Siemens) and 31,743 (GE); beyond are negative numbers that were read as unsigned."""

INVERTED_SHARE = 0.1
"""This share of voxels within 50 HU of each other round +1000, and less than a tenth of it under -700, is air with the
wrong sign: dense bone spreads over hundreds of HU."""

TISSUE_HU = -900
"""A header's own padding value from here on could be tissue."""

CLIPPED_SHARE = 0.005
"""Without air in view, this share of voxels at exactly the lowest or the highest value means that a window cut there:
the ends of a real distribution of tissue are thin (in 28 CTs the lowest value over -200 HU is held by 0.06 % at most).
"""

NORMALISED = 20
"""Fractions that all lie within plus and minus this are a z-score or a share of one: any body holds fat and bone."""

_SAMPLE = 4_000_000
_LOWEST = -32768


def pack(slabs: Iterable[Array], shape: Zyx, dtype: DTypeLike = np.int16) -> Array:
    """Stacks slabs (each float64 or integer, [Y, X]) along Z.

    Args:
        slabs: one per index along Z.
        shape: of the result.
        dtype: int16 falls back to float32 at the first slab that int16 cannot hold exactly; float32 is kept.
    """
    out = np.empty(shape, dtype)
    for index, slab in enumerate(slabs):
        if out.dtype == np.int16 and not _fits_int16(slab):
            out = out.astype(np.float32)
        out[index] = slab
    return out


def require_finite(array_ZYX: Array, where: str) -> None:
    """Refuses NaN and infinite values.

    Raises:
        ReadError: with their number.
    """
    if np.issubdtype(array_ZYX.dtype, np.floating):
        nan, bad = int(np.isnan(array_ZYX).sum()), int((~np.isfinite(array_ZYX)).sum())
        if bad:
            raise ReadError(
                f"{where}: expected finite values, found {nan} NaN and {bad - nan} infinite of {array_ZYX.size} "
                f"voxels; replace them with what they stand for"
            )


def to_hu(
    array_ZYX: Array, *, bits: int, signed: bool, padding_ZYX: Array | None = None, assume_hu: bool = False
) -> tuple[Array, tuple[str, ...]]:
    """Rescaled CT values with padding turned into `AIR_HU`; `array_ZYX` is changed in place.

    Args:
        array_ZYX: values after slope and intercept, int16 or float32, all finite.
        bits: stored bits per value.
        signed: whether they were stored signed (or as floating point).
        padding_ZYX: True where a voxel holds the padding value that the header names.
        assume_hu: take the numbers as HU whatever they look like.

    Returns:
        The array and what was done to it, in words.

    Raises:
        UnitError: stored in 8 bits, a window of 0 to 255, fractions within 20, no negative value (a window, or no
            intercept), no air and either unsigned or clipped at an end, air far under -1000 or at +1000, or numbers
            beyond any scale of HU.
    """
    notes: list[str] = []
    void = np.zeros(array_ZYX.shape, bool)
    for code in PADDING_HU:
        hits = array_ZYX == code
        if hits.any():
            void |= hits
            notes.append(f"padding {code} -> air: {int(hits.sum())} voxels")
    if padding_ZYX is not None and (declared := padding_ZYX & ~void).any():
        highest = float(array_ZYX[declared].max())
        if highest <= TISSUE_HU or _in_corners(padding_ZYX):
            void |= declared
            notes.append(f"padding of the header, {highest:g} HU -> air: {int(declared.sum())} voxels")
        else:
            notes.append(f"padding of the header kept: {highest:g} HU lies among tissue and fills no corner of a slice")
    fault = _unlike_hu(array_ZYX, void, bits, signed)
    if fault and not assume_hu:
        raise UnitError(f"expected a CT in HU, found {fault}; if these are HU, say so with --assume-hu")
    if assume_hu:
        notes.insert(0, f"assume-hu: {fault}" if fault else "assume-hu")
    array_ZYX[void] = AIR_HU
    return array_ZYX, tuple(notes)


def _unlike_hu(array_ZYX: Array, void_ZYX: Array, bits: int, signed: bool) -> str | None:
    """What is wrong with the numbers outside padding, or None."""
    values = array_ZYX[~void_ZYX] if void_ZYX.any() else array_ZYX.reshape(-1)
    if not values.size:
        return "nothing but padding"
    lowest, highest = float(values.min()), float(values.max())
    if bits <= 8:
        return f"values stored in {bits} bits ({lowest:g} to {highest:g}): a windowed export holds no HU"
    if values.dtype == np.float32 and ((lowest >= -NORMALISED and highest <= NORMALISED) or lowest >= 0):
        return f"fractions from {lowest:g} to {highest:g}: a normalised image or a PET holds no HU"
    if (lowest, highest) == (0, 255):
        return "values from exactly 0 to exactly 255: a windowed export holds no HU"
    if lowest >= HIGHEST_AIR_HU and (fault := _unlike_hu_without_air(values, lowest, highest, signed)):
        return fault
    if highest > HIGHEST_HU:
        return f"values up to {highest:g}, beyond any scale of HU: signed numbers stored as unsigned?"
    counts = _histogram(values[:: (values.size // _SAMPLE) | 1])
    mode, deep = _air_mode(counts), _share(counts, None, LOWEST_AIR_MODE_HU)
    if (mode is not None and mode < LOWEST_AIR_MODE_HU) or deep > DEEP_SHARE:
        what = f"air at {mode:g}" if mode is not None and mode < LOWEST_AIR_MODE_HU else f"{deep:.0%} under -1500"
        return f"{what} instead of about -1000 (lowest value {lowest:g}): rescaled twice, or an undeclared padding code"
    inverted = max(_share(counts, low, low + 50) for low in range(900, 1075, 25))
    if inverted > INVERTED_SHARE and _share(counts, None, -700) < inverted / 10:
        return f"{inverted:.0%} of the values at +1000 and hardly any air at -1000: the sign is turned round"
    return None


def _unlike_hu_without_air(values_N: Array, lowest: float, highest: float, signed: bool) -> str | None:
    """A view inside the body has no air, but fat at -100 and noise round water; a window has hard ends."""
    spread = f"with none under {HIGHEST_AIR_HU} ({lowest:g} to {highest:g})"
    if not signed:
        return f"unsigned values {spread}: a windowed export, or a CT without its intercept"
    if lowest >= 0 and ((values_N > 924) & (values_N < 1224)).mean() > 0.1:
        return f"no negative value ({lowest:g} to {highest:g}) and tissue at 1024: a CT without its intercept"
    if lowest >= 0:
        return f"no negative value ({lowest:g} to {highest:g}): a windowed export, or another quantity"
    share = max(float((values_N == end).mean()) for end in (lowest, highest))
    if share > CLIPPED_SHARE:
        return f"values {spread} and {share:.1%} of them at one end: a windowed export, its air and bone clipped away"
    return None


def _histogram(values_N: Array) -> Array:
    """How many values have each whole number as their floor, from `_LOWEST` on; what lies under it counts there."""
    floor_N = np.maximum(np.floor(values_N), _LOWEST) if values_N.dtype.kind == "f" else values_N
    return np.bincount(floor_N.astype(np.int64) - _LOWEST, minlength=HIGHEST_HU + 1 - _LOWEST)


def _share(counts: Array, low: int | None, high: int) -> float:
    """Of the values with low <= value < high."""
    return float(counts[None if low is None else low - _LOWEST : high - _LOWEST].sum() / counts.sum())


def _air_mode(counts: Array) -> int | None:
    """The commonest value under -500, to 10 HU; None if fewer than a thousandth lie there."""
    below = counts[: -500 - _LOWEST]
    if below.sum() < max(20, counts.sum() // 1000):
        return None
    tens = np.add.reduceat(below[::-1], [0, *range(9, len(below), 10)])  # the first ends at -509, the next at -519
    return -505 - 10 * int(tens.argmax())


def _in_corners(padding_ZYX: Array) -> bool:
    """True if the padding fills half of the corners of slices, as the outside of a round field of view does."""
    return bool(padding_ZYX[:, [0, 0, -1, -1], [0, -1, 0, -1]].mean() >= 0.5)


def _fits_int16(slab: Array) -> bool:
    if slab.dtype in (np.int16, np.uint8, np.int8):
        return True
    low, high = float(slab.min()), float(slab.max())  # NaN fails the comparison below
    return low >= -32768 and high <= 32767 and bool(np.array_equal(np.rint(slab), slab))

"""NIfTI-1 and NIfTI-2 files -> array and `Grid`; whatever is ambiguous about where the voxels lie is refused.

Format: nifti.nimh.nih.gov (nifti1.h, nifti2.h). nibabel parses the header; the bytes are decompressed here, so that
gzip's checksum covers every file read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import nibabel as nib
import numpy as np
from isal import igzip, isal_zlib
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError, HeaderTypeError
from nibabel.wrapstruct import WrapStructError

from preprocessing.hu import pack, require_finite
from vol3d.errors import GeometryError, ReadError
from vol3d.geometry import MM_PER_UNIT, Grid
from vol3d.types import Affine, Array, Zyx

SUFFIXES = (".nii", ".nii.gz")

FORM_TOLERANCE = 0.1
"""sform and qform are the same if no corner differs by more than this share of the smallest voxel edge: a quaternion in
float32 loses that much, a wrong flip or shift does not."""

SPACING_RANGE_MM = (0.01, 100.0)
"""What the edge of a voxel of a patient's image can measure."""

_ERRORS = (ImageFileError, HeaderDataError, HeaderTypeError, WrapStructError, OSError, EOFError, struct.error,
           ValueError, TypeError, OverflowError, KeyError)  # fmt: skip

_DAMAGED = cast(type[Exception], isal_zlib.error)


@dataclass(frozen=True)
class Nifti:
    """A file's values, scaled by its header, and how it stored them."""

    array_ZYX: Array
    """int16 where that is exact (and asked for), else float32; finite."""
    grid: Grid
    bits: int
    signed: bool
    """True for floating point too."""
    scaled: bool
    """True if the header maps stored values to others."""
    notes: tuple[str, ...]


def read_nifti(path: Path, *, exact: bool = True) -> Nifti:
    """Reads one 3D image.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        exact: keep integers as int16 where they fit; else float32 throughout.

    Raises:
        ReadError: not a whole NIfTI file, not 3D, not scalar, NaN or infinite values.
        GeometryError: no orientation, two that disagree, a shear, an impossible spacing.
    """
    raw = nifti_bytes(path)
    try:
        kind = nib.Nifti1Image if struct.unpack("<i", raw[:4])[0] in (348, 0x5C010000) else nib.Nifti2Image
        image = kind.from_bytes(raw)
        header, proxy = image.header, cast(ArrayProxy, image.dataobj)
        dtype, slope, intercept = header.get_data_dtype(), float(proxy.slope), float(proxy.inter)
    except _ERRORS as error:
        raise ReadError(f"{path}: expected a NIfTI file, found one with an unreadable header ({error})") from error
    shape_xyz = _shape(path, header.get_data_shape())
    if dtype.kind not in "iuf":
        raise ReadError(f"{path}: expected one real number per voxel, found data type {dtype}")
    grid, notes = _grid(path, header, shape_xyz)
    _check_length(path, raw, int(proxy.offset), int(np.prod(shape_xyz)) * dtype.itemsize)
    try:
        stored_ZYX = np.asarray(proxy.get_unscaled()).reshape(shape_xyz, order="F").transpose(2, 1, 0)
    except _ERRORS as error:
        raise ReadError(f"{path}: expected {shape_xyz} voxels of {dtype}, found unreadable data ({error})") from error
    scaled = (slope, intercept) != (1.0, 0.0)
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes infinite and is refused below
        slabs = (slab * np.float64(slope) + intercept if scaled else slab for slab in stored_ZYX)
        array_ZYX = pack(slabs, grid.shape, np.int16 if exact else np.float32)
    require_finite(array_ZYX, str(path))
    return Nifti(array_ZYX, grid, dtype.itemsize * 8, dtype.kind in "if", scaled, notes)


def read_labels(path: Path, value: int | tuple[int, ...] | None = None) -> tuple[Array, Grid]:
    """A mask, uint8 0/1.

    Args:
        path: NIfTI file of integers.
        value: the label, or labels, whose voxels are members; None if the file holds 0 and one other value.

    Raises:
        ReadError: not integers, or several labels and no `value` to choose one; and as `read_nifti`.
    """
    found = read_nifti(path)
    array = found.array_ZYX
    if array.dtype != np.int16:
        array = np.rint(found.array_ZYX)
        off = float(np.abs(array - found.array_ZYX).max())
        if off > 1e-3 or np.abs(array).max() > 32767:  # scl_slope = 1/255 leaves a rounding error, no more
            raise ReadError(f"{path}: expected a mask of whole numbers, found values up to {off:.3g} off")
        array = array.astype(np.int16)
    if value is not None:
        chosen = np.isin(array, value) if isinstance(value, tuple) else array == value
        return chosen.astype(np.uint8), found.grid
    lowest, highest = int(array.min()), int(array.max())
    # 0 and 255, say, is a mask all the same; np.isin would take eight bytes a voxel
    if lowest < 0 or not ((array == 0) | (array == highest)).all():
        labels = lowest + np.flatnonzero(np.bincount(array.ravel().astype(np.int32) - lowest))
        shown = ", ".join(str(v) for v in labels[:12]) + (", ..." if len(labels) > 12 else "")
        raise ReadError(f"{path}: expected a mask of 0 and one value, found the labels {shown}; say which is meant")
    return (array > 0).astype(np.uint8), found.grid


def nifti_bytes(path: Path) -> bytes:
    """The whole file, decompressed."""
    if not path.is_file():
        raise ReadError(f"expected a NIfTI file at {path}, found none")
    if not path.name.lower().endswith(SUFFIXES):
        raise ReadError(f"{path}: expected a single NIfTI file (.nii or .nii.gz); convert it")
    try:
        raw = path.read_bytes()
        raw = igzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, _DAMAGED) as error:
        raise ReadError(f"{path}: expected a whole gzip file, found a damaged one ({error}); copy it again") from error
    if len(raw) < 348 or (raw[344:347] != b"n+1" and raw[4:7] != b"n+2"):
        raise ReadError(f"{path}: expected a single-file NIfTI image, found {len(raw)} bytes without its signature")
    return raw


def _shape(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The three sizes along x, y, z; trailing axes of one voxel are dropped."""
    if len(shape) < 3 or any(n != 1 for n in shape[3:]):
        raise ReadError(f"{path}: expected a 3D volume, found {len(shape)}D of shape {shape}; split it into volumes")
    if min(shape[:3]) < 2:
        raise ReadError(f"{path}: expected a volume, found a single slice of shape {shape}")
    return shape[0], shape[1], shape[2]


def _check_length(path: Path, raw: bytes, start: int, size: int) -> None:
    held = len(raw) - start
    if held < size:
        raise ReadError(f"{path}: expected {size} bytes of voxels, found {max(held, 0)}: truncated; copy it again")
    if held > size and raw[start + size :].strip(b"\0"):
        raise ReadError(
            f"{path}: expected {size} bytes of voxels, found {held}: the header does not describe this file"
        )


def _grid(path: Path, header: nib.Nifti1Header, shape_xyz: tuple[int, int, int]) -> tuple[Grid, tuple[str, ...]]:
    try:
        sform, sform_code = header.get_sform(coded=True)
        qform, qform_code = header.get_qform(coded=True)
        unit = header.get_xyzt_units()[0]
    except _ERRORS as error:
        raise GeometryError(f"{path}: expected a readable orientation, found {error}") from error
    if unit not in MM_PER_UNIT:
        raise GeometryError(f"{path}: expected lengths in mm, found unit {unit!r}")
    chosen = sform if sform is not None else qform
    if chosen is None:
        raise GeometryError(
            f"{path}: expected an orientation, found sform_code and qform_code 0: left and right are unknown; "
            f"convert the original series again"
        )
    grid = _named(path, shape_xyz, chosen, unit, "sform" if sform is not None else "qform")
    if sform is not None and qform is not None:
        gap = _largest_gap(shape_xyz, sform, qform) * MM_PER_UNIT[unit]
        if gap > FORM_TOLERANCE * min(grid.spacing_mm):
            raise GeometryError(
                f"{path}: expected sform (code {int(sform_code)}) and qform (code {int(qform_code)}) to agree, found "
                f"corners {gap:.3f} mm apart; set the code of the wrong one to 0 or make it equal to the other"
            )
    low, high = SPACING_RANGE_MM
    if not all(low <= s <= high for s in grid.spacing_mm):
        raise GeometryError(f"{path}: expected voxels of {low} to {high} mm, found {grid.spacing_mm} (unit {unit!r})")
    return grid, () if MM_PER_UNIT[unit] == 1.0 else (f"lengths converted from {unit} to mm",)


def _named(path: Path, shape_xyz: tuple[int, int, int], affine: Affine, unit: str, form: str) -> Grid:
    try:
        return Grid.from_xyz(shape_xyz, affine, unit)
    except GeometryError as error:
        raise GeometryError(f"{path}, {form}: {error}") from error


def _largest_gap(shape: Zyx, first: Affine, second: Affine) -> float:
    """Largest distance between the places that two affines give to one corner voxel."""
    corners = np.array([[i * (shape[0] - 1), j * (shape[1] - 1), k * (shape[2] - 1), 1]
                        for i in (0, 1) for j in (0, 1) for k in (0, 1)])  # fmt: skip
    return float(np.linalg.norm(corners @ (first - second).T, axis=1).max())

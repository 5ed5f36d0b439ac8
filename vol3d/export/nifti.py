"""NIfTI out: one array on its grid, or many masks as one label map with its table of labels beside it."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from vol3d.boxes import bounding_box
from vol3d.errors import GeometryError, ReadError, Vol3dError
from vol3d.files import write_whole
from vol3d.geometry import Grid
from vol3d.types import Array

GZIP_LEVEL = 1
"""Masks shrink a thousandfold at any level; higher ones only cost time."""

QFORM_TOLERANCE_MM = 0.01
"""Up to here sform and qform say the same."""

OVERLAP_RULE = "a voxel of several masks goes to the one with the fewest voxels; of equals, to the one named first"

_GEOMETRY_FIELDS = (
    *("qform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("sform_code", "srow_x", "srow_y", "srow_z", "xyzt_units", "dim_info"),
)

_UNREADABLE = (OSError, EOFError, ValueError, struct.error, zlib.error, ImageFileError, HeaderDataError,
               WrapStructError)  # fmt: skip
"""What nibabel and the decompressors raise on files that are cut short, empty or no NIfTI; EOFError among them, which
the command line would take for Ctrl-C."""


def write_nifti(
    path: str | Path, array_ZYX: Array, grid: Grid, template: str | Path | None = None, *, slope: float | None = None
) -> None:
    """Writes one volume, atomically; bool becomes uint8, other types stay.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``; its folder must exist.
        array_ZYX: on `grid`.
        grid: written as sform and qform, both with code 1 (scanner), in mm, if there is no template; as sform alone if
            its slices lean, which a quaternion cannot say.
        template: the source NIfTI. Its sform, qform, their codes, spacing and units are kept to the bit, because
            viewers overlay files by whichever of them they prefer. Its other fields, which may hold private data, are
            not.
        slope: what a reader multiplies the stored numbers by (``scl_slope``), such as 1/255 for a probability in uint8.

    Raises:
        GeometryError: array, grid and template do not agree.
        Vol3dError: another file extension, or a type of number that NIfTI cannot hold.
    """
    path = Path(path)
    if not path.name.endswith((".nii", ".nii.gz")):
        raise Vol3dError(f"expected a name that ends in .nii or .nii.gz, found {path.name!r}")
    if array_ZYX.shape != grid.shape:
        raise GeometryError(f"expected an array of the grid's shape (z, y, x) {grid.shape}, found {array_ZYX.shape}")
    array_XYZ = (array_ZYX.view(np.uint8) if array_ZYX.dtype == bool else array_ZYX).transpose(2, 1, 0)
    if array_XYZ.dtype not in (np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64):
        raise Vol3dError(f"expected an array of 8 to 32 bit integers or floats, found {array_XYZ.dtype}")
    if template is None:
        image = nib.Nifti1Image(array_XYZ, grid.affine_xyz)
        image.set_sform(grid.affine_xyz, code=1)
        image.set_qform(grid.affine_xyz, code=1)
        if not Grid.from_xyz(array_XYZ.shape, image.get_qform()).same_as(grid, QFORM_TOLERANCE_MM):
            image.set_qform(None, code=0)  # a quaternion cannot hold slices that lean; sform alone then places it
        image.header.set_xyzt_units("mm")
    else:
        image = _on_template(array_XYZ, grid, Path(template))
    image.header["descrip"] = b"vol3d"
    if slope is not None:
        image.header.set_slope_inter(slope, 0.0)
    _write_atomically(path, image)


def read_array(path: str | Path) -> Array:
    """The array of a NIfTI file that `write_nifti` wrote, in Z, Y, X order.

    Raises:
        ReadError: there is no such file, or it is cut short or otherwise unreadable.
    """
    try:
        return np.asarray(nib.Nifti1Image.from_filename(path).dataobj).transpose()
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error


def read_grid(path: str | Path) -> Grid:
    """The grid of such a file; its voxels are not read.

    Raises:
        ReadError: as `read_array`, or it has other than three axes.
        GeometryError: its affine is none of a scanner.
    """
    try:
        image = nib.Nifti1Image.from_filename(path)
    except _UNREADABLE as error:
        raise _unreadable(path, error) from error
    if len(image.shape) != 3:
        raise ReadError(f"expected a NIfTI file of three axes at {path}, found the shape {image.shape}")
    x, y, z = image.shape
    return Grid.from_xyz((x, y, z), image.affine, _unit(image))


def _unit(image: nib.Nifti1Pair) -> str:
    return str(image.header.get_xyzt_units()[0])


def write_if_other(path: Path, array_ZYX: Array, grid: Grid) -> None:
    """`write_nifti` into a folder that is made, unless the file holds the same numbers on the same grid already: it
    then stays as it is, so that a cache entry made of it stays fresh."""
    stored = array_ZYX.view(np.uint8) if array_ZYX.dtype == bool else array_ZYX
    try:
        if path.is_file() and read_grid(path).same_as(grid) and np.array_equal(read_array(path), stored):
            return
    except ReadError:
        pass  # of an interrupted copy, say: it is written anew
    path.parent.mkdir(parents=True, exist_ok=True)
    write_nifti(path, array_ZYX, grid)


def write_multilabel(
    path: str | Path,
    masks: Iterable[tuple[str, Array]],
    grid: Grid,
    template: str | Path | None = None,
    prompts: Mapping[str, str] | None = None,
) -> None:
    """Writes one label map, and beside it (``.json`` for ``.nii.gz``) what each label means.

    Labels count from 1 in the order given. A label map holds one label a voxel: where masks overlap, `OVERLAP_RULE`
    decides (a lesion stays visible in its organ), and the table says how many voxels each mask gave away. Masks are
    taken one by one, so a generator that reads them from files keeps memory to one of them.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``.
        masks: (name, mask_ZYX), non-zero voxels are members.
        grid: of all masks.
        template: as in `write_nifti`.
        prompts: the phrase that each name answers; the name itself if not given.
    """
    path = Path(path)
    labels_ZYX = np.zeros(grid.shape, np.uint8)
    shared_ZYX = np.zeros(grid.shape, bool)
    names: list[str] = []
    voxels = [np.iinfo(np.int64).max]  # of each label; anything is smaller than the background
    for name, mask_ZYX in masks:
        if mask_ZYX.shape != grid.shape:
            raise GeometryError(f"expected mask {name!r} of the grid's shape {grid.shape}, found {mask_ZYX.shape}")
        names.append(name)
        label = len(names)
        if label == 256:
            labels_ZYX = labels_ZYX.astype(np.uint16)
        box = bounding_box(mask_ZYX)
        voxels.append(0 if box is None else int(np.count_nonzero(mask_ZYX)))
        if box is None:
            continue
        where = tuple(slice(a, b) for a, b in zip(*box, strict=True))
        member, current = mask_ZYX[where] != 0, labels_ZYX[where]
        shared_ZYX[where] |= member & (current != 0)
        current[member & (np.array(voxels)[current] > voxels[label])] = label
    left = np.bincount(labels_ZYX.ravel(), minlength=len(names) + 1)
    table = {
        "labels": {
            str(label): {
                "name": name,
                "prompt": (prompts or {}).get(name, name),
                "voxels": voxels[label],
                "voxels_given_away": voxels[label] - int(left[label]),
            }
            for label, name in enumerate(names, 1)
        },
        "overlap_rule": OVERLAP_RULE,
        "overlap_voxels": int(np.count_nonzero(shared_ZYX)),
    }
    write_nifti(path, labels_ZYX, grid, template)
    write_whole(label_table_path(path), json.dumps(table, indent=2, ensure_ascii=False) + "\n")


def label_table_path(path: str | Path) -> Path:
    """``x.json`` beside ``x.nii`` or ``x.nii.gz``."""
    path = Path(path)
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def _unreadable(path: str | Path, error: BaseException) -> ReadError:
    size = f"{Path(path).stat().st_size} bytes" if Path(path).is_file() else "no file"
    said = " ".join(str(error).split()) or type(error).__name__
    return ReadError(
        f"expected a whole NIfTI file at {path}, found {size} that cannot be read ({said}); copy it again, or run the "
        f"command that wrote it"
    )


def _on_template(array_XYZ: Array, grid: Grid, template: Path) -> nib.Nifti1Image:
    try:
        source = nib.load(template)
    except (OSError, nib.filebasedimages.ImageFileError) as error:
        raise Vol3dError(f"expected a NIfTI file as template, but {template} cannot be read: {error}") from error
    if not isinstance(source, nib.Nifti1Pair):  # NIfTI-2 is a kind of it
        raise Vol3dError(f"expected a NIfTI file as template, found {type(source).__name__} at {template}")
    x, y, z = source.shape[:3]
    there = Grid.from_xyz((x, y, z), source.affine, _unit(source))
    if not there.same_as(grid):
        raise GeometryError(f"expected the template's grid to be the mask's {grid}, found {there} in {template}")
    kind = nib.Nifti2Image if isinstance(source.header, nib.Nifti2Header) else nib.Nifti1Image
    header = kind.header_class()
    header.set_data_dtype(array_XYZ.dtype)
    for field in _GEOMETRY_FIELDS:
        header[field] = source.header[field]
    header["pixdim"][:4] = source.header["pixdim"][:4]
    return kind(array_XYZ, None, header)  # no affine: nibabel would rewrite sform and qform from it


def _write_atomically(path: Path, image: nib.Nifti1Image) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as raw:
            if path.name.endswith(".gz"):
                with igzip.IGzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=raw, mtime=0) as packed:
                    image.to_stream(packed)
            else:
                image.to_stream(raw)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

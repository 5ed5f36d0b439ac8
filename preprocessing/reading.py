"""The one door for images and masks: a NIfTI file or a DICOM folder -> `Reading` in physical units.

The volume stays on its source grid in its source's axis order; nothing is resampled or reoriented here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from preprocessing import suv
from preprocessing.hu import to_hu
from preprocessing.hu_rescale import settle
from preprocessing.options import DEFAULT, ReadOptions
from preprocessing.read_channel import read_channel
from preprocessing.read_dicom import read_dicom
from preprocessing.read_nifti import SUFFIXES, read_labels, read_nifti
from vol3d.dicom import listing
from vol3d.errors import ReadError, UnitError
from vol3d.types import Array
from vol3d.volume import Volume


@dataclass(frozen=True)
class Reading:
    """A volume and where it came from."""

    volume: Volume
    """HU (ct; int16 where exact, else float32), SUVbw (pet; float32) or 0/1 (mask; uint8)."""
    slice_numbers: tuple[int, ...] | None
    """1-based Instance Number of every index along array axis 0; None if absent or ambiguous, and in NIfTI."""
    files: tuple[Path, ...]
    """What was read, for the fingerprint."""
    notes: tuple[str, ...] = ()
    """Choices made on the way: ``"assume-hu"``, ``"padding -2000 -> air: 812 voxels"``, ``"suv: BQML, ADMIN"``."""


def read_image(
    path: Path, modality: Literal["ct", "pet"], *, assume_hu: bool = False, options: ReadOptions = DEFAULT
) -> Reading:
    """Reads a CT in HU or a PET in SUVbw.

    Args:
        path: ``.nii``, ``.nii.gz``, a DICOM folder with one series of the modality (at any depth), or a DICOM file that
            holds a whole volume. A NIfTI PET is taken as SUVbw.
        modality: what is expected there.
        assume_hu: take a CT's numbers as HU even where they look like a windowed export or a double rescale.
        options: what may be repaired, and what stands in for missing values of a PET header; of DICOM only. Slope and
            intercept of a CT: of NIfTI only.

    Raises:
        ReadError: not one readable volume; `GeometryError` if its voxels lie on no regular grid or nobody knows where,
            `UnitError` if its numbers are not HU or SUVbw.
    """
    path = Path(path)
    if path.is_dir() or _is_dicom(path):
        found = read_dicom(path, modality, assume_hu=assume_hu, options=options)
        _require_contrast(found.array_ZYX, path)
        return Reading(Volume(found.array_ZYX, found.grid, modality), found.slice_numbers, found.files, found.notes)
    image = read_nifti(path, exact=modality == "ct")
    _require_contrast(image.array_ZYX, path)
    array_ZYX, notes = image.array_ZYX, image.notes
    try:
        if modality == "ct":
            if options.rescale is not None:
                array_ZYX, done = settle(array_ZYX, options.rescale.slope, options.rescale.intercept)
                notes += done
            array_ZYX, more = to_hu(array_ZYX, bits=image.bits, signed=image.signed, assume_hu=assume_hu)
            notes += more
        else:
            suv.refuse_unlike_suv(array_ZYX, bits=image.bits, scaled=image.scaled)
    except UnitError as error:
        raise UnitError(f"{path}: {error}") from error
    return Reading(Volume(array_ZYX, image.grid, modality), None, (path,), notes)


def read_mask(path: Path, *, value: int | tuple[int, ...] | None = None, channel: int | None = None) -> Reading:
    """Reads a NIfTI mask: members are the voxels of 1, those of `value` (one or several) in a file of several labels,
    or all that are not 0 in one channel of a 4D file (`preprocessing.read_channel`).

    Raises:
        ReadError: not one readable volume of whole numbers, or several labels and no `value`; `GeometryError` as above.
    """
    path = Path(path)
    if path.is_dir() or _is_dicom(path):
        raise ReadError(f"{path}: expected a mask as NIfTI (.nii or .nii.gz), found DICOM; convert it")
    array_ZYX, grid = read_labels(path, value) if channel is None else read_channel(path, channel)
    notes = () if value is None else (f"label {value}",)
    return Reading(Volume(array_ZYX, grid, "mask"), None, (path,), notes)


def _require_contrast(array_ZYX: Array, path: Path) -> None:
    lowest, highest = float(array_ZYX.min()), float(array_ZYX.max())
    if lowest == highest:
        raise ReadError(f"{path}: expected an image, found {lowest:g} in every voxel; export the series again")


def _is_dicom(path: Path) -> bool:
    if not path.is_file():
        raise ReadError(f"expected an image at {path}, found nothing")
    if path.name.lower().endswith(SUFFIXES):
        return False
    with path.open("rb") as file:
        head = file.read(132)
    return head[128:] == b"DICM" or path.suffix.lower() in (".dcm", ".dicom", ".ima", listing.SUFFIX)

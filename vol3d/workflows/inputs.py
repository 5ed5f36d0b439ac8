"""INPUT of the command line -> studies: a study folder, or a manifest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from preprocessing.manifest import BadRow, Row, check_shard, read_manifest
from preprocessing.options import FILE_NAME, load_options
from preprocessing.study import build_entry
from preprocessing.transforms import PreprocessConfig
from vol3d.cache import Entry
from vol3d.cache_write import write_entry
from vol3d.dicom.series import MODALITY_OF, scan
from vol3d.errors import ManifestError

_NIFTI = (".nii.gz", ".nii")


def studies_in(path: Path, shard: tuple[int, int] = (1, 1)) -> list[Row | BadRow]:
    """The studies that INPUT names; of shard I/N the I-th of N and every N-th after it (1-based).

    A folder is one study: ``ct.nii.gz`` and/or ``pet.nii.gz`` (or ``.nii``), subfolders ``ct`` and/or ``pet`` with a
    DICOM series, or DICOM files of a CT and/or PET series anywhere below it; `preprocessing.options` in
    ``reading.yaml``. A file is a manifest.

    Raises:
        ManifestError: nothing there, or no image in it.
        ConfigError: its options cannot be read, or I is not one of 1 to N.
    """
    path = Path(path)
    if path.is_file():
        return list(read_manifest(path, shard))
    if not path.is_dir():
        raise ManifestError(f"expected a study folder or a manifest at {path}, found nothing")
    images = {name: found for name in ("ct", "pet") if (found := _image_in(path, name)) is not None}
    if not images:
        present = {series.modality for series in scan(path).series}
        images = {name: path for name, code in MODALITY_OF.items() if code in present}
    if not images:
        raise ManifestError(
            f"expected ct.nii.gz and/or pet.nii.gz, folders ct and/or pet, or DICOM CT or PET series in {path}, "
            f"found none"
        )
    study_id = _study_id(path.resolve().name)
    options = load_options(path / FILE_NAME) if (path / FILE_NAME).is_file() else None
    index, count = check_shard(shard)
    ct, pet = images.get("ct"), images.get("pet")
    rows: list[Row | BadRow] = [Row(study_id=study_id, patient_id=study_id, ct=ct, pet=pet, reading=options)]
    return rows[index - 1 :: count]


def _study_id(name: str) -> str:
    """The folder's name where it can be a study id; else what is left of it, with a hash that keeps names apart."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._")[:100] or "study"
    return name if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _image_in(folder: Path, name: str) -> Path | None:
    for suffix in _NIFTI:
        if (folder / f"{name}{suffix}").is_file():
            return folder / f"{name}{suffix}"
    return folder / name if (folder / name).is_dir() else None


@contextmanager
def scratch_entry(row: Row, recipe: PreprocessConfig, *, assume_hu: bool = False) -> Iterator[Entry]:
    """The study as a cache entry in a temporary folder, images only: the same preprocessing as for training."""
    images_only = Row(study_id=row.study_id, patient_id=row.patient_id, ct=row.ct, pet=row.pet, reading=row.reading)
    with TemporaryDirectory(prefix="vol3d-") as scratch:
        root = Path(scratch)
        (root / "studies").mkdir()
        yield Entry(write_entry(root, build_entry(images_only, recipe, assume_hu=assume_hu)))

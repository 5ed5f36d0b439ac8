"""Phantom studies: procedural torso CT and PET/CT with lesions, masks, wordings, structured truth and a report.

`write_phantoms` writes a manifest and its studies; `generate_study` makes one in memory. A study depends on its seed
and index alone: neither on how many are written nor on the file format (but for the order of slices).
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from preprocessing.manifest import write_manifest
from preprocessing.phantom_anatomy import TISSUES
from preprocessing.phantom_body import build_anatomy
from preprocessing.phantom_lesions import draw_lesions
from preprocessing.phantom_questions import WORDINGS, questions_of
from preprocessing.phantom_report import Facts, write_report
from preprocessing.phantom_scan import (
    Acquisition,
    PhantomOptions,
    draw_acquisition,
    draw_geometry,
    scan_ct,
    scan_pet,
    share_in_view,
    view_for_lesions,
)  # fmt: skip
from preprocessing.phantom_truth import describe, findings_of, labels_of, measure_lesion
from preprocessing.phantom_write import FileFormat, write_study
from vol3d.errors import ConfigError
from vol3d.types import Array
from vol3d.volume import Volume

Kind = Literal["petct", "ct", "mixed"]
SPLIT_NAMES = ("train", "val", "test")

CENTRES = ("phantom-a", "phantom-b", "phantom-c")

_ANATOMY, _LESIONS, _ACQUISITION, _GEOMETRY, _CT, _PET, _WORDS, _META = range(8)
"""Independent random streams of a study, so that, say, another orientation leaves the body as it is."""


@dataclass(frozen=True, eq=False)
class PhantomStudy:
    """One study in memory.

    `masks` (bool, on the CT's grid) are keyed by the label of their manifest row; `row` is the complete manifest row,
    paths relative to the manifest.
    """

    study_id: str
    ct: Volume
    pet: Volume | None
    masks: dict[str, Array]
    row: dict[str, Any]
    acquisition: Acquisition
    file_format: FileFormat


def write_phantoms(
    out: Path,
    studies: int,
    seed: int,
    file_format: FileFormat = "nifti",
    *,
    kind: Kind = "petct",
    splits: tuple[float, float, float] = (0.7, 0.1, 0.2),
    options: PhantomOptions | None = None,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Writes studies 0 to studies - 1 of a seed into `out/<study_id>/`, then `out/manifest.jsonl`.

    Args:
        out: folder, made if missing. A study of the same id in it is replaced.
        studies: how many.
        seed: same seed, same bytes; study i is the same whatever `studies` is.
        file_format: "nifti" (.nii.gz) or "dicom" (CT and PET series; masks stay NIfTI on the CT grid).
        kind: "petct", "ct", or "mixed" (half of the studies have no PET).
        splits: shares of train, val and test.
        options: how large, fine and hard.
        workers: processes.
        progress: called with the number of studies done after each one.

    Returns:
        The path of the manifest.

    Raises:
        ConfigError: a number is out of range.
    """
    if studies < 1 or seed < 0 or workers < 1:
        raise ConfigError(f"expected studies >= 1, seed >= 0, workers >= 1, found {studies}, {seed}, {workers}")
    if file_format not in ("nifti", "dicom"):
        raise ConfigError(f"expected file_format nifti or dicom, found {file_format!r}")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    options = options or PhantomOptions()
    make = functools.partial(
        _make, out=out, seed=seed, file_format=file_format, kind=kind, splits=splits, options=options
    )
    rows = []
    for row in _mapped(make, studies, workers):
        rows.append(row)
        if progress is not None:
            progress(len(rows))
    return write_manifest(rows, out / "manifest.jsonl")


def _mapped(make: Callable[[int], dict[str, Any]], studies: int, workers: int) -> Iterator[dict[str, Any]]:
    if workers == 1:
        yield from map(make, range(studies))
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(make, range(studies))


def _make(
    index: int, *, out: Path, seed: int, file_format: FileFormat, kind: Kind, splits: tuple[float, float, float],
    options: PhantomOptions,
) -> dict[str, Any]:  # fmt: skip
    study = generate_study(index, seed, file_format=file_format, kind=kind, splits=splits, options=options)
    write_study(out, study.study_id, study.row, study.ct, study.pet, study.masks, study.acquisition, study.file_format)
    return study.row


def split_of(index: int, splits: tuple[float, float, float]) -> str:
    """The split of study `index`: whichever lags its share the most, so that every first N are split about right.

    Raises:
        ConfigError: shares are negative or do not sum to 1.
    """
    if min(splits) < 0 or abs(sum(splits) - 1) > 1e-6:
        raise ConfigError(f"splits: expected three shares >= 0 that sum to 1, found {splits}")
    taken = [0, 0, 0]
    best = 0
    for i in range(index + 1):
        best = max(range(3), key=lambda s: (round(splits[s] * (i + 1) - taken[s], 9), s))
        taken[best] += 1
    return SPLIT_NAMES[best]


def generate_study(
    index: int,
    seed: int,
    *,
    file_format: FileFormat = "nifti",
    kind: Kind = "petct",
    splits: tuple[float, float, float] = (0.7, 0.1, 0.2),
    options: PhantomOptions | None = None,
) -> PhantomStudy:
    """One study in memory; see `write_phantoms` for the arguments.

    Raises:
        ConfigError: `splits` or `kind` is not valid.
    """
    options = options or PhantomOptions()
    rng = [np.random.default_rng([seed, index, stream]) for stream in range(8)]
    acquisition = draw_acquisition(rng[_ACQUISITION], options)
    if kind not in ("petct", "ct", "mixed"):
        raise ConfigError(f"expected kind petct, ct or mixed, found {kind!r}")
    with_pet = kind == "petct" or (kind == "mixed" and bool(rng[_WORDS].random() < 0.5))
    anatomy = build_anatomy(rng[_ANATOMY], options.arms, options.resections)
    geometry = draw_geometry(rng[_GEOMETRY], anatomy, acquisition.view, options, with_pet, stack=file_format == "dicom")
    in_view = {tissue: share_in_view(anatomy, tissue, geometry) for tissue in TISSUES}
    places, inside = view_for_lesions(anatomy, geometry)
    lesions = draw_lesions(rng[_LESIONS], anatomy, places, inside, options.lesions, with_pet)

    hu, labels, lesion_masks = scan_ct(rng[_CT], anatomy, lesions, geometry.ct, acquisition.ct_noise_hu)
    ct, pet = Volume(hu, geometry.ct, "ct"), None
    if geometry.pet is not None:
        suv = scan_pet(rng[_PET], anatomy, lesions, geometry.pet, acquisition.pet_noise, acquisition.psf_fwhm_mm)
        pet = Volume(suv, geometry.pet, "pet")
    measured = [measure_lesion(lesion, lesion_masks[lesion.id], ct, pet) for lesion in lesions]

    study_id = f"phantom-{seed:04d}-{index:06d}"
    words = describe(rng[_WORDS], anatomy, in_view, labels, lesions, lesion_masks, with_pet)
    ending = "" if file_format == "dicom" else ".nii.gz"
    facts = Facts(
        lesions=measured, in_view=in_view, resected=anatomy.resected, contrast=anatomy.contrast, arms=anatomy.arms,
        view=acquisition.view, dose_mbq=acquisition.dose_bq / 1e6 if with_pet else None,
        uptake_minutes=(acquisition.scan_start - acquisition.injection).total_seconds() / 60,
        ct_slice_mm=geometry.ct.spacing_mm[0], myocardium_suv=anatomy.suv["myocardium"],
    )  # fmt: skip
    row: dict[str, Any] = {"study_id": study_id, "patient_id": f"PHANTOM-{seed:04d}-{index:06d}"}
    row |= {name: f"{study_id}/{name}{ending}" for name in ("ct", "pet") if name == "ct" or with_pet}
    row |= {
        "masks": [{"path": f"{study_id}/masks/{m['label']}.nii.gz", **m} for m in words.rows],
        "absent": words.absent,
        "labels": labels_of(lesions, in_view),
        "findings": findings_of(measured, in_view),
        "report": write_report(rng[_WORDS], facts),
        "meta": {
            "sex": acquisition.sex, "age_band": f"{acquisition.age_years // 10 * 10}s",
            "scanner": acquisition.scanner, "centre": str(rng[_META].choice(CENTRES)), "view": acquisition.view,
            "oblique": geometry.oblique, "unseen_phrases": words.unseen, "unseen_absent": words.unseen_absent,
        },
        "split": split_of(index, splits),
    }  # fmt: skip
    row["qa"] = [question for wording in WORDINGS for question in questions_of(row, wording)]
    return PhantomStudy(study_id, ct, pet, words.masks, row, acquisition, file_format)

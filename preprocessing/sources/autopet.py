"""autoPET: whole-body FDG and PSMA PET/CT with lesions drawn by hand. `docs/datasets/autopet.md`.

Two layouts: nnU-Net's (autoPET III and later: ``imagesTr/fdg_PATIENT_STUDY_0000.nii.gz`` CT on the PET's grid,
``_0001`` PET in SUV) and the first release's (``PETCT_PATIENT/STUDY/{SUV,CTres,CT,SEG}.nii.gz``, FDG alone).

Names of FDG studies hold dates and descriptions: study ids are hashes of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from preprocessing.sources import nnunet, splits
from preprocessing.sources.common import age_band, known, refused, safe_id
from preprocessing.sources.tables import Cells, image_beside, read_table, stem
from vol3d.errors import ManifestError

PHRASES = {
    "fdg": (
        "FDG-avid tumour lesion",
        "hypermetabolic malignant lesion",
        "FDG-avid lesion",
        "metabolically active tumour",
    ),
    "psma": ("PSMA-avid tumour lesion", "PSMA-avid prostate cancer lesion", "PSMA-expressing lesion"),
}
"""By tracer: one mask a study, all lesions together. Where it is empty, the study lists them as absent."""

_CASE = re.compile(r"(fdg|psma)_([0-9a-f]+)_(.+)", re.I)


def rows(folder: Path) -> list[dict[str, Any]]:
    """Manifest rows; PET is taken as SUVbw.

    Raises:
        ManifestError: neither layout, or no study in it.
    """
    if (folder / "imagesTr").is_dir():
        found = list(_merged(folder))
    elif studies := sorted(p.parent for p in folder.glob("*/*/SUV.nii.gz")):
        found = [_first_release(study, _metadata(folder, "fdg")) for study in studies]
    else:
        raise ManifestError(
            f"expected imagesTr with fdg_* and psma_*, or PATIENT/STUDY/SUV.nii.gz in {folder}, found neither"
        )
    return splits.complete(found, "autopet")


def _merged(folder: Path) -> Iterator[dict[str, Any]]:
    ids = sorted({stem(p.name)[:-5] for p in (folder / "imagesTr").glob("*_000[01].nii.gz")})
    if not any(_CASE.fullmatch(case) for case in ids):
        raise ManifestError(
            f"expected cases like fdg_PATIENT_STUDY_0000.nii.gz in {folder / 'imagesTr'}, found {ids[:3]}"
        )
    split_of = nnunet.published(folder)  # fold 0 of the reference splits
    tables = {tracer: _metadata(folder, tracer) for tracer in PHRASES}
    for case in ids:
        if not (name := _CASE.fullmatch(case)):
            yield refused(safe_id(case), f"expected a case named fdg_* or psma_*, found {case!r}")
            continue
        tracer, patient = name[1].lower(), name[2]
        ct, pet = (image_beside(folder / "imagesTr", f"{case}_{n:04d}") for n in (0, 1))
        truth = image_beside(folder / "labelsTr", case)
        yield _row(tracer, patient, case, ct, pet, truth, tables[tracer]) | known(split=split_of.get(case))


def _first_release(study: Path, table: list[Cells]) -> dict[str, Any]:
    patient = study.parent.name.removeprefix("PETCT_")
    ct = image_beside(study, "CT") or image_beside(study, "CTres")
    return _row("fdg", patient, f"{study.parent.name}/{study.name}", ct, image_beside(study, "SUV"),
                image_beside(study, "SEG"), table)  # fmt: skip


def _row(
    tracer: str, patient: str, case: str, ct: Path | None, pet: Path | None, truth: Path | None, table: list[Cells]
) -> dict[str, Any]:
    study_id = f"{tracer}_{safe_id(patient)}_{safe_id(f'{case} ')[2:10]}"  # the blank: always a hash
    missing = [what for what, path in (("CT", ct), ("PET", pet), ("lesion mask", truth)) if path is None]
    if ct is None or pet is None or truth is None:
        return refused(
            study_id, f"expected CT, PET and a lesion mask of this study, found no {' and no '.join(missing)}"
        )
    facts = next((r for r in table if _subject(r) == patient.lower()), {})
    meta = known(
        tracer=tracer.upper(), sex="M" if tracer == "psma" else facts.get("sex"), age_band=age_band(facts.get("age")),
        scanner=facts.get("manufacturer_model_name"), diagnosis=facts.get("diagnosis"),
    )  # fmt: skip
    return {
        "study_id": study_id, "patient_id": f"{tracer}_{patient}", "ct": str(ct.resolve()), "pet": str(pet.resolve()),
        "masks": [{
            "path": str(truth.resolve()), "value": 1, "label": "lesion", "finding_id": "lesion",
            "phrases": list(PHRASES[tracer]),
        }],
        "meta": meta,
    }  # fmt: skip


def _subject(row: Cells) -> str:
    return re.sub(r"^(petct|psma|fdg)_", "", row.get("Subject ID", "").lower())


def _metadata(folder: Path, tracer: str) -> list[Cells]:
    path = folder / f"{tracer}_metadata.csv"
    return read_table(path, ["Subject ID"]) if path.is_file() else []

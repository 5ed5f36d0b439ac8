"""NIfTI files beside a JSON of the same name, as dcm2niix and BIDS write them -> manifest rows.

The JSON says what the image is: ``Modality`` (CT or PT, dcm2niix's) or ``image`` (ct, pet or mask, ours). A mask names
its ``phrases``. Images and masks of one study share ``study_id`` or ``StudyInstanceUID``, else subject and session of a
BIDS name (``sub-01_ses-2_ct.nii.gz``), else their folder. Any other key of a manifest row (`docs/data-flow.md`) may
stand in the JSON of an image. A PET must say that it is in SUVbw.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from preprocessing.study import KEYED, patient_key

_IMAGES = {"CT": "ct", "PT": "pet", "PET": "pet", "MASK": "mask", "SEG": "mask"}
_SUV_UNITS = ("suvbw", "suv", "gml", "g/ml")
_ROW_KEYS = ("absent", "labels", "findings", "report", "qa", "meta", "split")
_MASK_KEYS = ("phrases", "phrase", "label", "finding_id", "value")


def sidecar_rows(
    files: Sequence[Path], folder: Path, left_out: Counter[str]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Manifest rows, and a report record for every file that states what it is; records hold no name of a file.

    Args:
        files: NIfTI files.
        folder: what was searched.
        left_out: counts the others by their reason.
    """
    studies: dict[str, dict[str, Any]] = {}
    report: list[dict[str, Any]] = []
    for path in files:
        found = _Sidecar.of(path)
        if isinstance(found, str):
            left_out[found] += 1
            continue
        study_id, image = found.study_id(folder), found.image
        row = studies.setdefault(study_id, {"study_id": study_id, "masks": []})
        fault = _added(row, found, found.bids(folder)[0] or f"study {study_id}")
        report.append({
            "study": study_id, "kind": f"NIfTI {image}", "files": 1,
            "used_as": None if fault else {"mask": "masks"}.get(image, image), "reason": fault,
        })  # fmt: skip
    return [row for row in studies.values() if "ct" in row or "pet" in row], report


class _Sidecar:
    """A NIfTI file and what its JSON says."""

    def __init__(self, path: Path, record: dict[str, Any], image: str) -> None:
        self.path, self.record, self.image = path, record, image

    @classmethod
    def of(cls, path: Path) -> _Sidecar | str:
        """The sidecar, or why the file cannot be used."""
        beside = sidecar_path(path)
        if not beside.is_file():
            return "NIfTI without a JSON of the same name: nothing says what it is"
        try:
            record = json.loads(beside.read_text(encoding="utf-8-sig"))
        except ValueError:
            return "its JSON is damaged"
        if not isinstance(record, dict):
            return "its JSON holds no object"
        stated = str(record.get("image") or record.get("Modality") or "")
        image = _IMAGES.get(stated.upper())
        if image is None:
            return f"its JSON states neither CT nor PET nor mask ({'Modality' if stated else 'no Modality'})"
        return cls(path, record, image)

    def study_id(self, folder: Path) -> str:
        """As stated, if it is safe as a path; else opaque."""
        stated = str(self.record.get("study_id") or "")
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", stated):
            return stated
        place = f"folder {self.path.parent.relative_to(folder)}"
        key = stated or self.record.get("StudyInstanceUID") or "".join(self.bids(folder)) or place
        return "s" + patient_key(f"study {key}")

    def bids(self, folder: Path) -> tuple[str, str]:
        """Subject, with the data set's folder, and session; BIDS spreads a study over ``sub-01/anat``, ``sub-01/pet``.

        Empty for names of another kind.
        """
        found = re.match(r"(sub-[A-Za-z0-9]+)(_ses-[A-Za-z0-9]+)?_", self.path.name)
        if not found:
            return "", ""
        parts = self.path.parent.relative_to(folder).parts
        inside = parts[: parts.index(found[1])] if found[1] in parts else parts
        return "/".join([*inside, found[1]]), found[2] or ""


def sidecar_path(path: Path) -> Path:
    """Where the JSON of a NIfTI file would be."""
    return path.with_name(re.sub(r"\.nii(\.gz)?$", ".json", path.name))


def _added(row: dict[str, Any], found: _Sidecar, subject: str) -> str:
    """Puts an image or mask into its study's row; returns why not, else nothing. `subject`: if no patient is named."""
    record, path = found.record, str(found.path.resolve())
    if found.image == "mask":
        mask = {key: record[key] for key in _MASK_KEYS if key in record}
        if not (mask.get("phrases") or mask.get("phrase")):
            return "a mask without phrases"
        row["masks"].append({"path": path, **mask})
        return ""
    kinds = {str(v).upper() for v in record.get("ImageType") or []}
    if kinds & {"LOCALIZER", "MIP", "MINIP", "PROJECTION IMAGE"}:
        return f"Image Type {' '.join(sorted(kinds & {'LOCALIZER', 'MIP', 'MINIP', 'PROJECTION IMAGE'}))}"
    if found.image == "pet" and str(record.get("Units") or "").replace(" ", "").lower() not in _SUV_UNITS:
        return f"a PET in {record.get('Units') or 'unknown units'}, expected Units SUVbw: preprocess its DICOM instead"
    if found.image in row:
        return f"a second {found.image} of its study: give it a study_id of its own, or leave one out"
    row[found.image] = path
    row |= {key: record[key] for key in _ROW_KEYS if key in record}
    patient = str(record.get("patient_id") or record.get("PatientID") or "")
    if patient or "patient_id" not in row:
        row["patient_id"] = KEYED + patient_key(patient or subject)
    return ""

"""How a study was made, in one line: from its images and, where it is DICOM, from their headers. What is not known is
not said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from preprocessing.manifest import Row
from vol3d.cache import Entry
from vol3d.dicom.listing import files_of
from vol3d.dicom.series import MODALITY_OF, PARSE_ERRORS
from vol3d.geometry import Grid

_TAGS = [
    "Modality", "KVP", "ContrastBolusAgent", "SeriesTime", "SeriesDate", "RadiopharmaceuticalInformationSequence",
]  # fmt: skip


def technique(entry: Entry, row: Row) -> str:
    """One line, such as "PET/CT. CT: 5.0 mm slices, 120 kV. PET: fluorodeoxyglucose, 370 MBq, 62 minutes ..."."""
    name = "/".join(image.upper() for image in ("pet", "ct") if image in entry.images)
    lines = [f"{name}."]
    for image in ("ct", "pet"):
        if image in entry.images:
            header = _header(getattr(row, image), image)
            facts = [f"{_slice_mm(entry.source_grids[image]):.1f} mm slices"]
            facts += (_ct_facts if image == "ct" else _pet_facts)(header) if header is not None else []
            lines.append(f"{image.upper()}: {', '.join(facts)}.")
    return " ".join(lines)


def _slice_mm(grid: Grid) -> float:
    return next(mm for mm, code in zip(grid.spacing_mm, grid.orientation, strict=True) if code in "SI")


def _header(path: Path | None, image: str) -> Dataset | None:
    """The first header of the modality; None for NIfTI."""
    if path is None or not path.is_dir():
        return None
    wanted = next(code for name, code in MODALITY_OF.items() if name == image)
    for file in files_of(path):
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
        except PARSE_ERRORS:  # not DICOM; reading the study has already judged its files
            continue
        if header.get("Modality") == wanted:
            return header
    return None


def _ct_facts(header: Dataset) -> list[str]:
    out = []
    if header.get("KVP"):
        out.append(f"{float(header.KVP):.0f} kV")
    if str(header.get("ContrastBolusAgent") or "").strip():
        out.append("with contrast medium")
    return out


def _pet_facts(header: Dataset) -> list[str]:
    injections: Any = header.get("RadiopharmaceuticalInformationSequence") or []
    if not injections:
        return []
    injection = injections[0]
    out = [str(injection.Radiopharmaceutical)] if injection.get("Radiopharmaceutical") else []
    if injection.get("RadionuclideTotalDose"):
        dose = float(injection.RadionuclideTotalDose)
        out.append(f"{dose / 1e6 if dose > 1e4 else dose:.0f} MBq")
    start, scan = injection.get("RadiopharmaceuticalStartTime"), header.get("SeriesTime")
    if start and scan:
        minutes = (_seconds(str(scan)) - _seconds(str(start))) / 60
        if 0 < minutes < 600:  # else one of the two is not of that day
            out.append(f"{minutes:.0f} minutes after injection")
    return out


def _seconds(time: str) -> float:
    """DICOM TM, hhmmss.frac."""
    digits = time.split(".")[0].ljust(6, "0")
    return int(digits[:2]) * 3600 + int(digits[2:4]) * 60 + int(digits[4:6])

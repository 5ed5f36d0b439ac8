"""A PET header -> the plain mapping that the rules of SUV work on, private attributes resolved by their creator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydicom.uid import EnhancedPETImageStorage

from preprocessing.suv_times import number
from vol3d.dicom.series import PARSE_ERRORS
from vol3d.errors import UnitError

SERIES_WIDE = (
    "Units", "SUVType", "DecayCorrection", "DecayCorrectionDateTime", "PatientWeight", "PatientSize", "PatientSex",
    "RadionuclideTotalDose", "RadionuclideHalfLife", "RadiopharmaceuticalStartTime",
    "RadiopharmaceuticalStartDateTime", "SeriesDate", "SeriesTime",
)  # fmt: skip
"""What must be one value in all images of a series."""

PER_IMAGE = (
    "CorrectedImage", "AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "FrameReferenceTime",
    "ActualFrameDuration", "TimezoneOffsetFromUTC", "AttenuationCorrectionMethod",
)  # fmt: skip

_ISOTOPE = (
    "RadionuclideTotalDose", "RadionuclideHalfLife", "RadiopharmaceuticalStartTime", "RadiopharmaceuticalStartDateTime",
    "Radiopharmaceutical",
)  # fmt: skip
LEAST_DOSE_IN_BQ = 1e6
"""From here on the dose of an Enhanced PET is one in Bq."""

_PHILIPS = {"SUVScaleFactor": 0x00, "ActivityConcentrationScaleFactor": 0x09}
_GE = {"GEPrivatePostInjectionDateTime": 0x0D, "GEPrivateAdministrationDateTime": 0x3B}
"""Scan time (which the vendor-neutral pseudo-code and its implementations call post-injection) and administration."""


def metadata(header: Any) -> dict[str, Any]:
    """What `preprocessing.suv.suvbw` needs of a pydicom header; the item of the isotope sequence is flattened into it.

    Raises:
        UnitError: not exactly one radiopharmaceutical.
    """
    found = {keyword: header.get(keyword) for keyword in SERIES_WIDE + PER_IMAGE}
    isotopes = header.get("RadiopharmaceuticalInformationSequence") or []
    if len(isotopes) > 1:
        raise UnitError(
            f"expected one radiopharmaceutical in RadiopharmaceuticalInformationSequence (0054,0016), found "
            f"{len(isotopes)}: their uptakes cannot be told apart"
        )
    for keyword in _ISOTOPE if isotopes else ():
        found[keyword] = isotopes[0].get(keyword)
    for item in isotopes:
        found["Radionuclide"] = _meaning(item, "RadionuclideCodeSequence")
        found["Radiopharmaceutical"] = (
            str(found["Radiopharmaceutical"] or "") + " " + _meaning(item, "RadiopharmaceuticalCodeSequence")
        ).strip()
    found |= _dose_in_bq(found, str(header.get("SOPClassUID") or ""))
    philips = _private(header, 0x7053, "Philips PET Private Group", _PHILIPS)
    return found | {"PhilipsPETPrivateGroup": philips} | _private(header, 0x0009, "GEMS_PETD_01", _GE)


def _dose_in_bq(found: Mapping[str, Any], sop_class: str) -> dict[str, Any]:
    """Radionuclide Total Dose, which an Enhanced PET states in MBq (PS3.3 C.8.22.4) and every other PET in Bq.

    A million MBq are given to nobody, so such an Enhanced PET was written in Bq.
    """
    dose = number(found, "RadionuclideTotalDose")
    if sop_class != EnhancedPETImageStorage or dose is None:
        return {}
    if dose >= LEAST_DOSE_IN_BQ:
        return {"DoseNote": "suv: dose of an Enhanced PET taken as Bq, as no patient gets so many MBq"}
    return {"RadionuclideTotalDose": dose * 1e6}


def supplemented(instances: Sequence[Mapping[str, Any]], supplied: Mapping[str, str | float]) -> list[dict[str, Any]]:
    """The images with what a user supplied in place of their own values; which, is kept under ``Supplied``."""
    return [{**instance, **supplied, "Supplied": tuple(supplied)} for instance in instances]


def _meaning(item: Any, sequence: str) -> str:
    codes = item.get(sequence) or []
    return str(codes[0].get("CodeMeaning") or "") if len(codes) else ""


def _private(header: Any, group: int, creator: str, wanted: dict[str, int]) -> dict[str, Any]:
    """Private elements by their creator, in whichever of its blocks (PS3.5 7.8.1) they lie; only those there are."""
    found: dict[str, Any] = {}
    for block in range(0x10, 0x100):
        try:
            if str(header[group, block].value).strip().lower() != creator.lower():
                continue
            tags = {name: (group, (block << 8) | element) for name, element in wanted.items()}
            found = {name: _plain(header[tag].value) for name, tag in tags.items() if tag in header} | found
        except PARSE_ERRORS:  # no such element, or one that cannot be read: as good as absent
            continue
    return found


def _plain(value: Any) -> Any:
    """Text of an element whose type an archive has forgotten (UN); anything else as it is."""
    return value.decode("ascii", "replace").strip(" \0") if isinstance(value, bytes) else value

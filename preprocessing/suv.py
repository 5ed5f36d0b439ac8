"""Standardised uptake value by body weight, SUVbw in g/ml, from PET metadata.

SUVbw = concentration [Bq/ml] x weight [g] / dose decayed to the time the concentration refers to [Bq].

Sources: the vendor-neutral pseudo-code of the QIBA FDG-PET/CT profile (QIBA wiki, "Standardized Uptake Value (SUV)");
DICOM PS3.3 C.8.9.1 (PET Series: Units, SUV Type, Decay Correction, Corrected Image), C.8.9.2 (PET Isotope: dose, start
time, half-life) and C.8.9.4 (PET Image: Frame Reference Time, Actual Frame Duration). What is missing, unknown or
contradictory is refused; nothing is assumed. Messages never hold dates or other marks of a patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from preprocessing.suv_times import (
    EXPECTED,
    acquisition,
    injection,
    mean_count_offset,
    number,
    required,
    series_reference,
    text,
)
from vol3d.dicom.series import PARSE_ERRORS
from vol3d.errors import UnitError
from vol3d.types import Array

LEAST_DOSE_BQ = 1e6
"""A smaller dose is one in MBq: no diagnostic PET is made with less than 1 MBq."""

MOST_HALF_LIVES = 10
"""Scans later than this after injection mean dates of two clocks or of a half-done de-identification."""

_SERIES_WIDE = (
    "Units", "SUVType", "DecayCorrection", "PatientWeight", "RadionuclideTotalDose", "RadionuclideHalfLife",
    "RadiopharmaceuticalStartTime", "RadiopharmaceuticalStartDateTime", "SeriesDate", "SeriesTime",
)  # fmt: skip
_PER_IMAGE = (
    "CorrectedImage", "AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "FrameReferenceTime",
    "ActualFrameDuration", "TimezoneOffsetFromUTC",
)  # fmt: skip
_ISOTOPE = _SERIES_WIDE[4:8]


@dataclass(frozen=True)
class Suv:
    """Factors from rescaled pixel values to SUVbw, one per image, and the rule they follow, in words."""

    factors: tuple[float, ...]
    rule: str


def suvbw_factors(instances: Sequence[Mapping[str, Any]]) -> list[float]:
    """`suvbw` without the words: one factor per instance."""
    return list(suvbw(instances).factors)


def suvbw(instances: Sequence[Mapping[str, Any]]) -> Suv:
    """Factors by which rescaled pixel values (slope and intercept applied) become SUVbw.

    Args:
        instances: the images of one series, keyed by DICOM keyword as in `metadata`; values as numbers or DICOM
            strings. Philips' private factors stand in ``PhilipsPETPrivateGroup`` (``SUVScaleFactor`` (7053,xx00),
            ``ActivityConcentrationScaleFactor`` (7053,xx09)), GE's scan time in ``GEPrivatePostInjectionDateTime``.

    Raises:
        UnitError: units, weight, dose, half-life, times or decay correction are missing, unknown, out of range, not
            the same in all images, or contradict each other.
    """
    if not instances:
        raise UnitError("expected PET metadata of at least one image, found none")
    for keyword in _SERIES_WIDE:
        if len({str(i.get(keyword) or "").strip() for i in instances}) > 1:
            raise UnitError(f"expected one {keyword} in a PET series, found several")
    units = text(instances[0], "Units")
    if units == "BQML":
        return _from_bqml(instances)
    if units == "CNTS":
        return _from_counts(instances)
    if units == "GML":
        kind = str(instances[0].get("SUVType") or "BW").strip().upper()
        if kind != "BW":  # an absent SUV Type means BW (PS3.3 C.8.9.1)
            raise UnitError(f"expected SUVType (0054,1006) BW for Units GML, found {kind}: not SUV by body weight")
        return Suv((1.0,) * len(instances), "suv: stored as SUVbw (GML)")
    raise UnitError(f"expected {EXPECTED['Units']}, found {units!r}: no rule leads from there to SUVbw")


def metadata(header: Any) -> dict[str, Any]:
    """What `suvbw` needs of a pydicom header (the first item of the isotope sequence is flattened into it).

    Raises:
        UnitError: not exactly one radiopharmaceutical.
    """
    found = {keyword: header.get(keyword) for keyword in _SERIES_WIDE + _PER_IMAGE}
    isotopes = header.get("RadiopharmaceuticalInformationSequence") or []
    if len(isotopes) > 1:
        raise UnitError(
            f"expected one radiopharmaceutical in RadiopharmaceuticalInformationSequence (0054,0016), found "
            f"{len(isotopes)}: their uptakes cannot be told apart"
        )
    for keyword in _ISOTOPE if isotopes else ():
        found[keyword] = isotopes[0].get(keyword)
    philips = _private(header, 0x7053, "Philips PET Private Group", {"SUVScaleFactor": 0x00,
                       "ActivityConcentrationScaleFactor": 0x09})  # fmt: skip
    scan = _private(header, 0x0009, "GEMS_PETD_01", {"GEPrivatePostInjectionDateTime": 0x0D})
    return found | {"PhilipsPETPrivateGroup": philips} | scan


def refuse_unlike_suv(array_ZYX: Array, *, bits: int, scaled: bool) -> None:
    """Refuses a PET file without metadata (NIfTI) whose numbers plainly are no SUV; everything else is taken as SUVbw.

    Args:
        array_ZYX: values as they would be used.
        bits: how many each stored value has.
        scaled: the file maps stored values to others by a slope or an intercept.

    Raises:
        UnitError: an 8-bit picture, a CT, or an activity concentration.
    """
    lowest, highest = float(array_ZYX.min()), float(array_ZYX.max())
    if bits == 8 and not scaled:
        raise UnitError(
            f"expected SUVbw, found integers of 8 bits from {lowest:g} to {highest:g}: a picture of the PET; convert "
            f"the original series"
        )
    if lowest < -50:
        raise UnitError(f"expected SUVbw, found values from {lowest:g}: no uptake is that negative; is this the CT?")
    positive = array_ZYX[array_ZYX > 0]
    mean = float(positive.mean(dtype=np.float64)) if positive.size else 0.0
    if mean > 50:
        raise UnitError(
            f"expected SUVbw, found a mean of {mean:.0f} over the positive voxels (body tissue has about 1): activity "
            f"in Bq/ml or counts; divide by dose per gram at scan time, or give the DICOM series"
        )


# -- units -------------------------------------------------------------------------------------------------------


def _from_counts(instances: Sequence[Mapping[str, Any]]) -> Suv:
    """Philips: counts x SUV factor, or counts x activity factor as Bq/ml, where the first is absent or 0."""
    private = [i.get("PhilipsPETPrivateGroup") or {} for i in instances]
    suv = [number(p, "SUVScaleFactor") for p in private]
    if all(v is not None and v > 0 for v in suv):
        return Suv(tuple(float(v or 0) for v in suv), "suv: counts x Philips SUV factor")
    activity = [number(p, "ActivityConcentrationScaleFactor") for p in private]
    if not all(v is not None and v > 0 for v in activity):
        raise UnitError(
            "expected Philips' private SUV factor (7053,xx00) or activity factor (7053,xx09) for Units CNTS, found "
            "neither in every image: counts alone hold no concentration"
        )
    bqml = _from_bqml(instances)
    factors = tuple(f * float(a or 0) for f, a in zip(bqml.factors, activity, strict=True))
    return Suv(factors, bqml.rule.replace("suv: ", "suv: counts x Philips activity factor, "))


def _from_bqml(instances: Sequence[Mapping[str, Any]]) -> Suv:
    first = instances[0]
    decay = text(first, "DecayCorrection")
    if decay not in ("START", "ADMIN", "NONE"):
        raise UnitError(f"expected {EXPECTED['DecayCorrection']}, found {decay!r}")
    _check_corrections(instances, decay)
    weight_kg = required(first, "PatientWeight")
    if not 0.5 <= weight_kg <= 500:
        raise UnitError(f"expected {EXPECTED['PatientWeight']}, found {weight_kg:g}; supply the weight at the scan")
    dose_bq = required(first, "RadionuclideTotalDose")
    if dose_bq < LEAST_DOSE_BQ:
        raise UnitError(
            f"expected {EXPECTED['RadionuclideTotalDose']}, found {dose_bq:g}: "
            + ("supply the administered dose" if dose_bq <= 0 else "probably in MBq; correct the header")
        )
    atinjection = weight_kg * 1000 / dose_bq
    if decay == "ADMIN":  # pixel values are already decayed back to the administration
        return Suv((atinjection,) * len(instances), "suv: BQML, ADMIN")
    half_life_s = required(first, "RadionuclideHalfLife")
    if half_life_s <= 0:
        raise UnitError(f"expected {EXPECTED['RadionuclideHalfLife']}, found {half_life_s:g}")
    if decay == "START":
        reference, source = series_reference(instances, half_life_s)
        times = [reference] * len(instances)
        rule = f"suv: BQML, START, reference = {source}"
    else:
        times = [acquisition(i) + (mean_count_offset(i, half_life_s) or timedelta(0)) for i in instances]
        rule = "suv: BQML, NONE, each image decayed to its own time"
    elapsed = [(t - injection(first, min(times))).total_seconds() for t in times]
    if min(elapsed) < 0 or max(elapsed) > MOST_HALF_LIVES * half_life_s:
        raise UnitError(
            f"expected a scan at most {MOST_HALF_LIVES} half-lives after injection, found {min(elapsed) / 3600:.2f} to "
            f"{max(elapsed) / 3600:.2f} h with a half-life of {half_life_s:g} s: one of the dates or times is wrong"
        )
    return Suv(tuple(atinjection * 2 ** (s / half_life_s) for s in elapsed), rule)


def _check_corrections(instances: Sequence[Mapping[str, Any]], decay: str) -> None:
    """Corrected Image (0028,0051), where it is filled, must say ATTN and agree with Decay Correction."""
    for instance in instances:
        value = instance.get("CorrectedImage") or ()
        done = [value] if isinstance(value, str) else [str(v) for v in value]
        if done and "ATTN" not in done:
            raise UnitError(f"expected an attenuation-corrected PET (CorrectedImage with ATTN), found {done}")
        if done and ("DECY" in done) == (decay == "NONE"):
            raise UnitError(f"expected CorrectedImage to agree with DecayCorrection {decay}, found {done}")


def _private(header: Any, group: int, creator: str, wanted: dict[str, int]) -> dict[str, Any]:
    """Private elements by their creator, wherever its block lies (PS3.5 7.8.1)."""
    try:
        block = header.private_block(group, creator)
        return {name: block[element].value for name, element in wanted.items() if element in block}
    except PARSE_ERRORS:  # no such block, or one that cannot be read: as good as absent
        return {}

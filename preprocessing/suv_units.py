"""One rule a unit: BQML, CNTS and GML (PS3.3 C.8.9.1) -> factors to SUVbw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from preprocessing.suv_body import weight_kg
from preprocessing.suv_header import SERIES_WIDE
from preprocessing.suv_nuclides import check_half_life
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
from vol3d.errors import UnitError

DOSE_BQ = (1e6, 2e10)
"""No diagnostic PET is made with less than 1 MBq, so that a smaller dose is one in MBq, nor with more than 20 GBq."""

MOST_HALF_LIVES = 10
"""Scans later than this after injection mean dates of two clocks or of a half-done de-identification."""


@dataclass(frozen=True)
class Suv:
    """Factors from rescaled pixel values to SUVbw, one per image, and the rule they follow, in words."""

    factors: tuple[float, ...]
    rule: str
    notes: tuple[str, ...] = ()
    """What was supplied in place of the header's values; factors to SUV of other kinds."""


def require_one_series(instances: Sequence[Mapping[str, Any]]) -> None:
    """Refuses metadata that differ where a series has one value.

    Raises:
        UnitError: with the attribute.
    """
    for keyword in SERIES_WIDE:
        values = {v if (v := number(i, keyword)) is not None else str(i.get(keyword) or "").strip() for i in instances}
        if len(values) > 1:
            raise UnitError(f"expected one {keyword} in a PET series, found several")


def suv_type(instance: Mapping[str, Any]) -> str:
    """SUV Type (0054,1006); absent means BW (PS3.3 C.8.9.1)."""
    return str(instance.get("SUVType") or "BW").strip().upper()


def _supplied(instances: Sequence[Mapping[str, Any]]) -> list[str]:
    """Attributes of dose and weight that a user supplied, which SUV computed by a scanner cannot follow."""
    return [k for k in instances[0].get("Supplied", ()) if k not in ("PatientSize", "PatientSex")]


def supplied_note(instances: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names, never values, of what a user supplied."""
    names = instances[0].get("Supplied", ())
    return (f"suv: supplied by the user: {', '.join(names)}",) if names else ()


def from_suv(instances: Sequence[Mapping[str, Any]]) -> Suv:
    """GML: stored SUV, taken only where it is by body weight."""
    _require_attenuation(instances)
    kind = suv_type(instances[0])
    if kind != "BW":
        raise UnitError(f"expected SUVType (0054,1006) BW for Units GML, found {kind}: not SUV by body weight")
    if _supplied(instances):
        raise UnitError(
            f"expected activity to go with what was supplied ({', '.join(_supplied(instances))}), found values stored "
            f"as SUVbw: the scanner used its own; export the series in BQML"
        )
    return Suv((1.0,) * len(instances), "suv: stored as SUVbw (GML)")


def from_counts(instances: Sequence[Mapping[str, Any]]) -> Suv:
    """Philips: counts x SUV factor, or counts x activity factor as Bq/ml, where the first is absent or 0."""
    _require_attenuation(instances)
    private = [i.get("PhilipsPETPrivateGroup") or {} for i in instances]
    suv = [number(p, "SUVScaleFactor") for p in private]
    supplied = ", ".join(_supplied(instances))
    if all(v is not None and v > 0 for v in suv) and not supplied:
        return Suv(tuple(float(v or 0) for v in suv), "suv: counts x Philips SUV factor")
    activity = [number(p, "ActivityConcentrationScaleFactor") for p in private]
    if not all(v is not None and v > 0 for v in activity):
        if supplied:
            raise UnitError(
                f"expected Philips' private activity factor (7053,xx09) to go with what was supplied ({supplied}), "
                f"found none in every image: the SUV factor holds the scanner's own values"
            )
        raise UnitError(
            "expected Philips' private SUV factor (7053,xx00) or activity factor (7053,xx09) for Units CNTS, found "
            "neither in every image: counts alone hold no concentration"
        )
    bqml = from_bqml(instances)
    factors = tuple(f * float(a or 0) for f, a in zip(bqml.factors, activity, strict=True))
    return Suv(factors, bqml.rule.replace("suv: ", "suv: counts x Philips activity factor, "))


def from_bqml(instances: Sequence[Mapping[str, Any]]) -> Suv:
    """Activity concentration: weight over the dose that is left at the moment the values are decay-corrected to."""
    first = instances[0]
    decay = text(first, "DecayCorrection")
    if decay not in ("START", "ADMIN", "NONE"):
        raise UnitError(f"expected {EXPECTED['DecayCorrection']}, found {decay!r}")
    _check_corrections(instances, decay)
    weight = weight_kg(first)
    dose_bq = _dose(first)
    atinjection = weight * 1000 / dose_bq
    if decay == "ADMIN":  # pixel values are already decayed back to the administration
        return Suv((atinjection,) * len(instances), "suv: BQML, ADMIN")
    half_life_s = required(first, "RadionuclideHalfLife")
    if half_life_s <= 0:
        raise UnitError(f"expected {EXPECTED['RadionuclideHalfLife']}, found {half_life_s:g}; supply half_life_s")
    check_half_life(first, half_life_s)
    if decay == "START":
        reference, source = series_reference(instances, half_life_s)
        times = [reference] * len(instances)
        rule = f"suv: BQML, START, reference = {source}"
    else:
        times = [acquisition(i) + _to_mean_count(i, half_life_s) for i in instances]
        rule = "suv: BQML, NONE, each image decayed to its own time"
    start = injection(first, min(times), half_life_s)
    elapsed = [(t - start).total_seconds() for t in times]
    if min(elapsed) < 0 or max(elapsed) > MOST_HALF_LIVES * half_life_s:
        raise UnitError(
            f"expected a scan at most {MOST_HALF_LIVES} half-lives after injection, found {min(elapsed) / 3600:.2f} to "
            f"{max(elapsed) / 3600:.2f} h with a half-life of {half_life_s:g} s: one of the dates or times is wrong; "
            f"supply the injection time (injected)"
        )
    return Suv(tuple(atinjection * 2 ** (s / half_life_s) for s in elapsed), rule)


def _to_mean_count(instance: Mapping[str, Any], half_life_s: float) -> timedelta:
    offset = mean_count_offset(instance, half_life_s)
    if offset is None:
        raise UnitError(
            "expected ActualFrameDuration (0018,1242) of a PET with DecayCorrection NONE, found none: at which moment "
            "of the frame its activity is the mean is unknown"
        )
    return offset


def _dose(instance: Mapping[str, Any]) -> float:
    dose_bq = required(instance, "RadionuclideTotalDose")
    expected = f"expected {EXPECTED['RadionuclideTotalDose']}, found {dose_bq:g}"
    if dose_bq <= 0:
        raise UnitError(f"{expected}: supply the administered dose (dose_bq)")
    if dose_bq < DOSE_BQ[0]:
        raise UnitError(f"{expected}: probably in {'kBq' if dose_bq >= 1000 else 'MBq'}; supply dose_bq")
    if dose_bq > DOSE_BQ[1]:
        raise UnitError(f"{expected}: no patient gets more than {DOSE_BQ[1]:g}; supply dose_bq")
    return dose_bq


def _check_corrections(instances: Sequence[Mapping[str, Any]], decay: str) -> None:
    """Corrected Image (0028,0051), where it is filled, must say ATTN and agree with Decay Correction."""
    _require_attenuation(instances)
    for instance in instances:
        done = _corrected(instance)
        if done and ("DECY" in done) == (decay == "NONE"):
            raise UnitError(f"expected CorrectedImage to agree with DecayCorrection {decay}, found {done}")


def _require_attenuation(instances: Sequence[Mapping[str, Any]]) -> None:
    for instance in instances:
        done = _corrected(instance)
        if done and "ATTN" not in done:
            raise UnitError(f"expected an attenuation-corrected PET (CorrectedImage with ATTN), found {done}")
        method = str(instance.get("AttenuationCorrectionMethod") or "").strip().upper()
        if not done and method in ("NONE", "NO"):
            raise UnitError(f"expected an attenuation-corrected PET, found AttenuationCorrectionMethod {method}")


def _corrected(instance: Mapping[str, Any]) -> list[str]:
    value = instance.get("CorrectedImage") or ()
    return [v.strip().upper() for v in (value.split("\\") if isinstance(value, str) else map(str, value))]

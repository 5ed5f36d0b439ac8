"""The times and values of PET metadata: strings of DICOM -> datetimes and numbers, and which moment START refers to.

Mappings are keyed by DICOM keyword, see `preprocessing.suv.suvbw`. Messages never hold a date.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from vol3d.errors import UnitError

EXPECTED = {
    "Units": "Units (0054,1001), one of BQML, CNTS or GML",
    "DecayCorrection": "DecayCorrection (0054,1102), one of START, ADMIN or NONE",
    "PatientWeight": "PatientWeight (0010,1030) in kg, between 0.5 and 500",
    "PatientSize": "PatientSize (0010,1020), the height in m, between 0.2 and 2.5",
    "PatientSex": "PatientSex (0010,0040), M or F",
    "RadionuclideTotalDose": "RadionuclideTotalDose (0018,1074) in Bq",
    "RadionuclideHalfLife": "RadionuclideHalfLife (0018,1075) in s",
    "RadiopharmaceuticalStartTime": "RadiopharmaceuticalStartTime (0018,1072) or StartDateTime (0018,1078)",
    "AcquisitionTime": "AcquisitionDate (0008,0022) and AcquisitionTime (0008,0032)",
    "SeriesTime": "SeriesDate (0008,0021) and SeriesTime (0008,0031)",
}
"""What each attribute should hold, for messages."""

SUPPLY = {
    "PatientWeight": "weight_kg", "PatientSize": "height_m", "RadionuclideTotalDose": "dose_bq",
    "RadionuclideHalfLife": "half_life_s", "DecayCorrection": "decay_correction",
}  # fmt: skip
"""Keys of the file of options (`preprocessing.options.PetSupplement`) that supply an attribute."""

DATED_HALF_LIFE_S = 6 * 3600.0
"""With a longer half-life patients come back on later days, and a time of injection without its date is no time."""

LONGEST_NIGHT = timedelta(hours=12)
"""A time of injection after that of the scan is of the evening before only if no more than this lies between them; else
the two are of different clocks (UTC and local time), and 17 hours would pass for nine half-lives."""

SAME_MOMENT = 0.01
"""Share of a half-life within which Frame Reference Times agree on one moment: 0.7% of SUV."""

TELLING = 0.05
"""Share of a half-life from which a contradiction is told: 3.5% of SUV."""

SAME_CLOCK = timedelta(minutes=1)
"""How far apart two statements of one time may lie."""


def series_reference(instances: Sequence[Mapping[str, Any]], half_life_s: float) -> tuple[datetime, str]:
    """The one time that all beds of a START series are decayed to, and what says so.

    The series time, unless post-processing moved it past the first acquisition; then GE's private scan time; then the
    acquisition minus Frame Reference Time (the offset of the mean count rate from the reference, PS3.3 C.8.9.4) plus
    the time of the mean count rate within the frame; then the earliest acquisition. An enhanced PET states the moment
    itself (Decay Correction DateTime, C.8.22.5).
    """
    if (stated := _datetime(instances[0], "DecayCorrectionDateTime")) is not None:
        return stated, "decay correction time"
    acquisitions = [acquisition(i) for i in instances]
    series = _join(instances[0], "SeriesDate", "SeriesTime")
    if series is None:
        raise UnitError(f"expected {EXPECTED['SeriesTime']}, found none: the reference time of START is unknown")
    offsets = [number(i, "FrameReferenceTime") for i in instances]
    means = [mean_count_offset(i, half_life_s) for i in instances]
    candidates = [
        acquired - timedelta(milliseconds=offset) + mean
        for acquired, offset, mean in zip(acquisitions, offsets, means, strict=True)
        if offset is not None and offset > 0 and mean is not None
    ]
    spread = (max(candidates) - min(candidates)).total_seconds() if candidates else 0.0
    if series <= min(acquisitions):
        return series, "series time" + _contradiction(series, candidates, len(instances), spread, half_life_s)
    scan = _datetime(instances[0], "GEPrivatePostInjectionDateTime")
    if scan is not None:
        if not timedelta(hours=-6) <= scan - min(acquisitions) <= SAME_CLOCK:
            raise UnitError(
                f"expected GE's private scan time within the 6 hours before the first acquisition, found it "
                f"{(scan - min(acquisitions)).total_seconds() / 3600:.2f} h from it: dates of two clocks, or changed"
            )
        return scan, "GE scan time"
    if len(candidates) < len(instances):
        return min(acquisitions), "earliest acquisition"
    if spread > SAME_MOMENT * half_life_s:
        raise UnitError(
            f"expected acquisition minus frame reference time to be one time for the whole series, found a spread of "
            f"{spread:.0f} s: the reference time of START is unknown"
        )
    return sorted(candidates)[len(candidates) // 2], "acquisition - frame reference time"


def _contradiction(
    series: datetime, candidates: Sequence[datetime], images: int, spread: float, half_life_s: float
) -> str:
    """Words for the entry's notes where Frame Reference Times agree on another moment than the series time, which is
    used all the same: vendors do not agree on what they count from."""
    if len(candidates) < images or spread > SAME_MOMENT * half_life_s:
        return ""
    apart = (sorted(candidates)[len(candidates) // 2] - series).total_seconds()
    return f" (frame reference times say {apart:+.0f} s: check it)" if abs(apart) > TELLING * half_life_s else ""


def mean_count_offset(instance: Mapping[str, Any], half_life_s: float) -> timedelta | None:
    """From the start of a frame to the time at which its activity equals its mean; None without a duration."""
    duration_ms = number(instance, "ActualFrameDuration")
    if duration_ms is None or duration_ms <= 0:
        return None
    decay = math.log(2) / half_life_s
    exponent = decay * duration_ms / 1000
    return timedelta(seconds=math.log(exponent / -math.expm1(-exponent)) / decay)


def acquisition(instance: Mapping[str, Any]) -> datetime:
    """Start of an image's acquisition; its date from the series if it has none of its own."""
    found = _join(instance, "AcquisitionDate", "AcquisitionTime") or _datetime(instance, "AcquisitionDateTime")
    if found is not None:
        return found
    found, series = _join(instance, "SeriesDate", "AcquisitionTime"), _join(instance, "SeriesDate", "SeriesTime")
    if found is None or series is None:
        raise UnitError(f"expected {EXPECTED['AcquisitionTime']}, found none")
    return found + timedelta(days=series - found > timedelta(hours=12))  # a series that runs past midnight


def injection(instance: Mapping[str, Any], scan: datetime, half_life_s: float) -> datetime:
    """Start of the injection; a time without date is the last one before the scan, over midnight if need be.

    GE's private administration time stands in where the standard attributes are absent.

    Raises:
        UnitError: no time; a time without date of a tracer that is scanned days later, or plainly after the scan.
    """
    keyword = "RadiopharmaceuticalStartDateTime"
    found = _datetime(instance, keyword) if has_time(instance, keyword) else None
    if found is not None:
        return found
    value = str(instance.get("RadiopharmaceuticalStartTime") or "").strip()
    if not value:
        found = _datetime(instance, "GEPrivateAdministrationDateTime")
        if found is None:
            raise UnitError(
                f"expected {EXPECTED['RadiopharmaceuticalStartTime']}, found neither; supply the injection time "
                f"(injected)"
            )
        return found
    if half_life_s > DATED_HALF_LIFE_S:
        raise UnitError(
            f"expected RadiopharmaceuticalStartDateTime (0018,1078) for a half-life of {half_life_s / 3600:.1f} h, "
            f"found a time without its date: on which day before the scan? Supply injected with its date"
        )
    start = _parse(scan.strftime("%Y%m%d"), value, "RadiopharmaceuticalStartTime")
    if start <= scan:
        return start
    if scan - start + timedelta(days=1) > LONGEST_NIGHT:
        raise UnitError(
            f"expected the injection before the scan, found RadiopharmaceuticalStartTime (0018,1072) "
            f"{(start - scan).total_seconds() / 3600:.2f} h after it: clocks of two time zones, or a scan that begins "
            f"before its injection; supply the injection time with its date (injected)"
        )
    return start - timedelta(days=1)


def two_injections_note(instance: Mapping[str, Any]) -> tuple[str, ...]:
    """A note if Start DateTime, which is used, and Start Time show different times of day."""
    dated = str(instance.get("RadiopharmaceuticalStartDateTime") or "").strip()
    clock = str(instance.get("RadiopharmaceuticalStartTime") or "").strip()
    if (
        not has_time(instance, "RadiopharmaceuticalStartDateTime")
        or not clock
        or any(sign in dated[8:] for sign in "+-")
    ):
        return ()
    first, second = (_parse(dated[:8], t, "RadiopharmaceuticalStartDateTime") for t in (dated[8:], clock))
    apart = min(abs(first - second), abs(timedelta(days=1) - abs(first - second)))
    if apart <= SAME_CLOCK:
        return ()
    minutes = apart.total_seconds() / 60
    return (f"suv: RadiopharmaceuticalStartDateTime used; RadiopharmaceuticalStartTime is {minutes:.0f} min off",)


def has_time(instance: Mapping[str, Any], keyword: str) -> bool:
    """False for a DT of a date alone, which is legal (PS3.5 6.2) and no time."""
    return len(str(instance.get(keyword) or "").strip()) > len("YYYYMMDD")


def _join(instance: Mapping[str, Any], date: str, time: str) -> datetime | None:
    days, clock = (str(instance.get(k) or "").strip() for k in (date, time))
    return _parse(days, clock, time) if days and clock else None


def _datetime(instance: Mapping[str, Any], keyword: str) -> datetime | None:
    """A DT value in the local time of the other attributes (PS3.5 6.2)."""
    value = str(instance.get(keyword) or "").strip()
    if not value:
        return None
    for sign in "+-":
        if sign in value[8:]:
            value, _, offset = value.partition(sign)
            local = str(instance.get("TimezoneOffsetFromUTC") or "").strip()
            if not local:
                raise UnitError(f"expected TimezoneOffsetFromUTC (0008,0201) beside {keyword} with its UTC offset")
            shift = _offset(local, keyword) - _offset(sign + offset, keyword)
            return _parse(value[:8], value[8:], keyword) + shift
    return _parse(value[:8], value[8:], keyword)


def _offset(value: str, keyword: str) -> timedelta:
    try:
        return timedelta(hours=int(value[:3]), minutes=int(value[0] + value[3:5]))
    except ValueError as error:
        raise UnitError(f"expected a UTC offset as in +0100 for {keyword}, found {value!r}") from error


def _parse(date: str, time: str, keyword: str) -> datetime:
    """DA YYYYMMDD and TM HH[MM[SS[.F]]]; the separators of older standards are accepted."""
    date, time = date.replace(".", "").replace("-", ""), time.replace(":", "")
    try:
        seconds = float(time[4:]) if len(time) > 4 else 0.0
        minutes = int(time[2:4]) if len(time) > 2 else 0
        if len(date) != 8 or not (0 <= seconds < 61 and 0 <= minutes < 60 and 0 <= int(time[:2]) < 24):
            raise ValueError(time)
        return datetime.strptime(date, "%Y%m%d") + timedelta(hours=int(time[:2]), minutes=minutes, seconds=seconds)
    except ValueError as error:
        raise UnitError(f"expected {keyword} as YYYYMMDD and HHMMSS, found an unreadable value") from error


def text(instance: Mapping[str, Any], keyword: str) -> str:
    """A code string in upper case; refused if absent."""
    value = str(instance.get(keyword) or "").strip().upper()
    if not value:
        raise UnitError(f"expected {EXPECTED[keyword]}, found none{_advice(keyword)}")
    return value


def number(instance: Mapping[str, Any], keyword: str) -> float | None:
    """None if absent, empty or no finite number."""
    try:
        value = float(instance.get(keyword))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def required(instance: Mapping[str, Any], keyword: str) -> float:
    """A finite number; refused if absent."""
    value = number(instance, keyword)
    if value is None:
        raise UnitError(f"expected {EXPECTED[keyword]}, found none{_advice(keyword)}")
    return value


def _advice(keyword: str) -> str:
    return f"; supply {SUPPLY[keyword]} in the study's file of options" if keyword in SUPPLY else ""

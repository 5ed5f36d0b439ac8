"""Standardised uptake value by body weight, SUVbw in g/ml, from PET metadata.

SUVbw = concentration [Bq/ml] x weight [g] / dose decayed to the time the concentration refers to [Bq].

Sources: the vendor-neutral pseudo-code of the QIBA FDG-PET/CT profile (QIBA wiki, "Standardized Uptake Value (SUV)");
DICOM PS3.3 C.8.9.1 (PET Series: Units, SUV Type, Decay Correction, Corrected Image), C.8.9.2 (PET Isotope: dose, start
time, half-life) and C.8.9.4 (PET Image: Frame Reference Time, Actual Frame Duration). What is missing, unknown or
contradictory is refused; nothing is assumed. Messages never hold dates or other marks of a patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from preprocessing.suv_body import STORED_AS, Kind, body_note, per_suvbw
from preprocessing.suv_times import EXPECTED, text, two_injections_note
from preprocessing.suv_units import Suv, from_bqml, from_counts, from_suv, require_one_series, supplied_note, suv_type
from vol3d.errors import UnitError
from vol3d.types import Array


def suv_factors(instances: Sequence[Mapping[str, Any]], kind: Kind) -> list[float]:
    """Factors from rescaled pixel values to SUV of another kind (`preprocessing.suv_body`), one per instance.

    Raises:
        UnitError: as `suvbw`; height or sex is missing; the stored values are SUV of yet another kind.
    """
    if not instances:
        raise UnitError("expected PET metadata of at least one image, found none")
    if kind != "bw" and text(instances[0], "Units") == "GML" and suv_type(instances[0]) == STORED_AS[kind]:
        require_one_series(instances)
        return [1.0] * len(instances)
    return [factor * per_suvbw(instances[0], kind) for factor in suvbw(instances).factors]


def suvbw(instances: Sequence[Mapping[str, Any]]) -> Suv:
    """Factors by which rescaled pixel values (slope and intercept applied) become SUVbw.

    Args:
        instances: the images of one series, keyed by DICOM keyword as in `preprocessing.suv_header.metadata`; values as
            numbers or DICOM strings. Philips' private factors stand in ``PhilipsPETPrivateGroup`` (``SUVScaleFactor``
            (7053,xx00), ``ActivityConcentrationScaleFactor`` (7053,xx09)), GE's scan time (0009,xx0d) in
            ``GEPrivatePostInjectionDateTime``.

    Raises:
        UnitError: units, weight, dose, half-life, times or decay correction are missing, unknown, out of range, not
            the same in all images, or contradict each other.
    """
    if not instances:
        raise UnitError("expected PET metadata of at least one image, found none")
    require_one_series(instances)
    units = text(instances[0], "Units")
    if units == "BQML":
        found = from_bqml(instances)
    elif units == "CNTS":
        found = from_counts(instances)
    elif units == "GML":
        found = from_suv(instances)
    else:
        raise UnitError(f"expected {EXPECTED['Units']}, found {units!r}: no rule leads from there to SUVbw")
    first = instances[0]
    notes = two_injections_note(first) if units == "BQML" else ()
    notes += (first["DoseNote"],) if units == "BQML" and first.get("DoseNote") else ()
    return Suv(found.factors, found.rule, (*supplied_note(instances), *notes, *body_note(first)))


def refuse_unlike_suv(array_ZYX: Array, *, bits: int, scaled: bool) -> None:
    """Refuses a PET file without metadata (NIfTI) whose numbers plainly are no SUV; everything else is taken as SUVbw.

    Args:
        array_ZYX: values as they would be used.
        bits: how many each stored value has.
        scaled: the file maps stored values to others by a slope or an intercept.

    Raises:
        UnitError: an 8-bit picture, a CT, or an activity concentration.
    """
    if bits == 8 and not scaled:
        lowest, highest = float(array_ZYX.min()), float(array_ZYX.max())
        raise UnitError(
            f"expected SUVbw, found integers of 8 bits from {lowest:g} to {highest:g}: a picture of the PET; convert "
            f"the original series"
        )
    lowest = float(array_ZYX.min())
    if lowest < -50:
        raise UnitError(f"expected SUVbw, found values from {lowest:g}: no uptake is that negative; is this the CT?")
    refuse_unlike_uptake(array_ZYX, 50)


def refuse_unlike_uptake(array_ZYX: Array, highest_mean: float = 500) -> None:
    """Refuses numbers that no rule of SUV can have meant to yield: a sign, a unit or a time is wrong in the source.

    Args:
        array_ZYX: SUVbw.
        highest_mean: of the positive voxels; body tissue has about 1, and a header is given the benefit of the doubt.

    Raises:
        UnitError: negative throughout, or far above what a body can take up.
    """
    lowest, highest = float(array_ZYX.min()), float(array_ZYX.max())
    if lowest < 0 and highest < -lowest / 10:
        raise UnitError(
            f"expected SUVbw, found values from {lowest:g} to {highest:g}: no uptake is negative; a RescaleSlope "
            f"(0028,1053) of the wrong sign?"
        )
    positive = array_ZYX[array_ZYX > 0]
    mean = float(positive.mean(dtype=np.float64)) if positive.size else 0.0
    if mean > highest_mean:
        raise UnitError(
            f"expected SUVbw, found a mean of {mean:.0f} over the positive voxels (body tissue has about 1): activity "
            f"in Bq/ml or counts, or a weight, dose or time that is wrong: give the DICOM series, or correct its values"
        )

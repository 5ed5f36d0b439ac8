"""Are the numbers of a report right? Of lesions that were found (Dice from 0.5 on), against the structured truth.

SUVmax is right within 0.1, the longest axial diameter within two voxels of the source's slices, the slice within the
lesion's own extent if that is known, else within two slices. Volumes have no bound: their error is reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from vol3d.metrics.bootstrap import Interval, bootstrap_interval
from vol3d.metrics.segmentation import dice
from vol3d.types import Array

FOUND_DICE = 0.5
SUV_TOLERANCE = 0.1
DIAMETER_VOXELS = 2.0
SLICES = 2


@dataclass(frozen=True, kw_only=True)
class NumberCase:
    """A true lesion and what the report's numbers say of it; NaN where there is nothing to compare."""

    study_id: str
    patient: str
    finding_id: str
    dice: float
    """Of the exported mask that fits it best; 0 if none touches it."""
    suv_max: float = math.nan
    suv_max_true: float = math.nan
    diameter_mm: float = math.nan
    diameter_true_mm: float = math.nan
    voxel_mm: float = math.nan
    """The larger side of an in-plane voxel of the source."""
    volume_ml: float = math.nan
    volume_true_ml: float = math.nan
    slices_off: float = math.nan
    """0 inside the lesion's own slices."""

    @property
    def found(self) -> bool:
        """Whether its numbers are judged at all."""
        return self.dice >= FOUND_DICE

    @property
    def suv_right(self) -> float:
        """1 or 0."""
        return _within(self.suv_max - self.suv_max_true, SUV_TOLERANCE)

    @property
    def diameter_right(self) -> float:
        """1 or 0."""
        return _within(self.diameter_mm - self.diameter_true_mm, DIAMETER_VOXELS * self.voxel_mm)

    @property
    def slice_right(self) -> float:
        """1 or 0."""
        return _within(self.slices_off, SLICES)

    @property
    def volume_error(self) -> float:
        """(reported - true) / true."""
        return (self.volume_ml - self.volume_true_ml) / self.volume_true_ml


def match_masks(masks: Sequence[Array], truths: Sequence[Array]) -> list[tuple[int | None, float]]:
    """For each true mask the exported mask that is its own and their Dice; one for one, by the largest sum of Dice."""
    overlap_TM = np.array([[dice(m, t) for m in masks] for t in truths]).reshape(len(truths), len(masks))
    overlap_TM = np.nan_to_num(overlap_TM)
    out: list[tuple[int | None, float]] = [(None, 0.0)] * len(truths)
    for t, m in zip(*linear_sum_assignment(-overlap_TM), strict=True):
        if overlap_TM[t, m] > 0:
            out[t] = (int(m), float(overlap_TM[t, m]))
    return out


def number_case(
    study_id: str,
    patient: str,
    finding: Mapping[str, Any],
    overlap: float,
    measurement: Mapping[str, Any] | None,
    voxel_mm: float,
    own_slices: tuple[int, int] | None = None,
) -> NumberCase:
    """Compares a report's measurement with a finding's `measurements`.

    Args:
        study_id: of the study.
        patient: of the study.
        finding: with `id` and `measurements` (`diameter_mm`, `volume_ml`, `suv_max`).
        overlap: Dice of their masks.
        measurement: of report.json: `longest_diameter_mm`, `volume_ml`, `suv_max`, `slice`; None without a mask.
        voxel_mm: the larger side of an in-plane voxel of the source.
        own_slices: first and last slice number of the true lesion.
    """
    true, told = finding.get("measurements") or {}, measurement or {}
    place = _number(told, "slice")
    away = math.nan
    if own_slices is not None and not math.isnan(place):
        away = max(own_slices[0] - place, place - own_slices[1], 0.0)
    return NumberCase(
        study_id=study_id, patient=patient, finding_id=str(finding.get("id", "")), dice=overlap,
        suv_max=_number(told, "suv_max"), suv_max_true=_number(true, "suv_max"),
        diameter_mm=_number(told, "longest_diameter_mm"), diameter_true_mm=_number(true, "diameter_mm"),
        voxel_mm=voxel_mm, volume_ml=_number(told, "volume_ml"), volume_true_ml=_number(true, "volume_ml"),
        slices_off=away,
    )  # fmt: skip


@dataclass(frozen=True)
class NumberSummary:
    """Shares over found lesions, with 95% intervals by patient."""

    found: Interval
    """Of all true lesions."""
    suv_right: Interval
    diameter_right: Interval
    slice_right: Interval
    volume_error: Interval
    """Mean of the signed relative error."""
    volume_absolute_error: Interval
    """Mean without its sign."""


def summarise_numbers(cases: Sequence[NumberCase], *, samples: int = 1000) -> NumberSummary:
    """Over all lesions; a number that the truth lacks is left out, one that the report lacks is wrong."""
    found = [c for c in cases if c.found]

    def share(values: Sequence[float], of: Sequence[NumberCase] = found) -> Interval:
        return bootstrap_interval(np.array(values, float), [c.patient for c in of], samples=samples)

    return NumberSummary(
        share([float(c.found) for c in cases], cases),
        share([c.suv_right if not math.isnan(c.suv_max) else _missing(c.suv_max_true) for c in found]),
        share([c.diameter_right if not math.isnan(c.diameter_mm) else _missing(c.diameter_true_mm) for c in found]),
        share([c.slice_right for c in found]),
        share([c.volume_error for c in found]),
        share([abs(c.volume_error) for c in found]),
    )


def _missing(true: float) -> float:
    return math.nan if math.isnan(true) else 0.0


def _within(difference: float, tolerance: float) -> float:
    if math.isnan(difference) or math.isnan(tolerance):
        return math.nan
    return float(abs(difference) <= tolerance + 1e-9)


def _number(table: Mapping[str, Any], name: str) -> float:
    value = table.get(name)
    return math.nan if value is None else float(value)

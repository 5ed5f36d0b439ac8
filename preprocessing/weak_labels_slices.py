"""Where a claim's slice lies on the native PET, under either direction of numbering.

A slice number is 1-based within its series: by InstanceNumber where the source has one, else from the first slice of
the array (docs/coordinates.md). Workstations often count the other way round, and count axial slices where a file's
first axis is not the axial one; which of these a study's report used is found from all of its sentences together
(`preprocessing.weak_labels`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from preprocessing.weak_labels_text import Claim, SeriesName
from vol3d.geometry import Grid
from vol3d.types import Array

Direction = Literal["as stored", "reversed"]


DIRECTIONS: tuple[Direction, Direction] = ("as stored", "reversed")


@dataclass(frozen=True)
class Numbering:
    """One way to read a study's slice numbers."""

    series: SeriesName
    direction: Direction
    axis: int = 0
    """Array axis along which slices are counted."""


@dataclass(frozen=True, eq=False)
class Series:
    """One image series as its slices are numbered."""

    grid: Grid
    """Source grid."""
    numbers: tuple[int, ...] | None = None
    """InstanceNumber of every index along axis 0; None: index + 1."""

    @property
    def axial(self) -> int:
        """The array axis that runs along head and feet."""
        return next(a for a, code in enumerate(self.grid.orientation) if code in "SI")

    def slice_of(self, mm_N3: Array, numbering: Numbering) -> Array:
        """Slice number, not rounded, of world positions (x, y, z), shape [N, 3]."""
        count = self.grid.shape[numbering.axis]
        index_N = self.grid.mm_to_index(mm_N3)[..., numbering.axis]
        numbers = np.arange(1, count + 1) if self.numbers is None or numbering.axis else np.array(self.numbers)
        number_N = np.interp(index_N, np.arange(count), numbers)
        return number_N if numbering.direction == "as stored" else numbers.min() + numbers.max() - number_N

    def numberings(self, name: SeriesName) -> list[Numbering]:
        """Every way to count its slices, the documented one first."""
        axes = dict.fromkeys((0, self.axial))
        return [Numbering(name, direction, axis) for axis in axes for direction in DIRECTIONS]


def series_of(grids: Mapping[str, Grid], numbers: Mapping[str, Sequence[int] | None]) -> dict[SeriesName, Series]:
    """The numbered series of a study, from a cache entry's ``source_grids`` and ``slice_numbers``."""
    names: tuple[SeriesName, SeriesName] = ("ct", "pet")
    return {
        n: Series(grids[n], tuple(int(i) for i in found) if (found := numbers.get(n)) else None)
        for n in names if n in grids
    }  # fmt: skip


def slices_off(
    claim: Claim, mm_N3: Array, series: Mapping[SeriesName, Series], numbering: Numbering, pet_spacing_mm: float
) -> Array:
    """How many PET slices world positions, shape [N, 3], are off what the claim says; [N], 0 on the slice itself.

    A z that the sentence states needs no numbering and decides alone. Off a CT slice thinner than the PET's is counted
    in PET slices too, since that is how finely uptake can be placed.
    """
    if claim.z_mm is not None:
        return np.maximum(np.abs(mm_N3[..., 2] - claim.z_mm) / pet_spacing_mm - 0.5, 0.0)
    assert claim.slices is not None, "a claim without z has slices"
    number_N = series[numbering.series].slice_of(mm_N3, numbering)
    first, last = claim.slices
    off_N = np.maximum(np.maximum(first - number_N, number_N - last), 0.0)
    if numbering.series == "ct":
        step = series["ct"].grid.spacing_mm[numbering.axis] / pet_spacing_mm
        off_N = np.maximum(off_N * min(step, 1.0) - 0.5, 0.0)
    return off_N

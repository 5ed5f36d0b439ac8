"""Slices -> one regular `Grid`, or a refusal that names every fault.

Slices are ordered by their position along the normal of their plane and the distance between them is that of their
positions (PS3.3 C.7.6.2.1.1: Image Position and Image Orientation are what places a slice). Instance Number, Slice
Location, Slice Thickness, Spacing Between Slices and Gantry/Detector Tilt are never asked: they are optional, rounded,
or say something else. Two faults, a gantry tilt and uneven steps, can be repaired on request: `vol3d.dicom.straighten`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vol3d.dicom.frames import Frame
from vol3d.errors import GeometryError
from vol3d.geometry import ORTHOGONALITY_TOLERANCE, Grid
from vol3d.types import Array

MIN_SLICES = 3
"""Fewer slices are no volume: with two, nothing shows whether one is missing between them."""

SAME_POSITION_MM = 0.01
"""Slices nearer than this lie at one position."""

STEP_TOLERANCE = 0.03
"""A step may differ from the median step by this share of it: a whole-body PET of several beds (GE Discovery) has steps
of 3.27 mm with 3.19 and 3.29 mm at the seams."""

PLACE_TOLERANCE = 0.02
"""A slice may lie this share of a step off its place on the regular grid; in that PET it is 0.012."""

ROUNDING_MM = 0.01
"""Added to both: positions rounded to two decimals."""

IN_PLANE_TOLERANCE_MM = 0.1
"""A slice may lie this far off the line through all the others, within its plane."""

COARSEST_ROUNDING_MM = 0.1
"""Positions written with a single decimal are taken as rounded from a regular grid if they fit one that closely."""


@dataclass(frozen=True)
class Layout:
    """Where the slices of a series lie, in the patient's LPS+, ordered along their normal; and every fault of that."""

    order: tuple[int, ...]
    """Indices into the frames, from the first slice along the normal to the last."""
    shape: tuple[int, int, int]
    """Slices, rows, columns."""
    row: Array
    """Unit vector along a row; a step along it is `spacing_mm[1]`, the next column."""
    column: Array
    """Unit vector down a column; a step along it is `spacing_mm[0]`, the next row."""
    spacing_mm: tuple[float, ...]
    origin_mm: Array
    """Centre of the first pixel of the first slice."""
    along_mm: Array
    """Distance of each slice from the first, along the normal."""
    drift: Array
    """In-plane shift per mm along the normal, an LPS vector: the tangent of a gantry tilt."""
    tilt: str | None
    """A gantry tilt, in words."""
    uneven: str | None
    """Steps that differ, in words."""
    missing: bool
    """The steps differ by whole steps, and few do: slices were lost on the way."""
    wobble: str | None
    """A slice off the line through the others, in words."""

    @property
    def normal(self) -> Array:
        """Unit vector from slice to slice."""
        return np.cross(self.row, self.column)

    @property
    def faults(self) -> tuple[str, ...]:
        """All that keeps these slices from being one regular grid."""
        return tuple(fault for fault in (self.tilt, self.wobble, self.uneven) if fault)

    def require_regular(self, *, tilt_allowed: bool = False, steps_allowed: bool = False) -> None:
        """Raises `GeometryError` with every fault that is not allowed."""
        allowed = {self.tilt if tilt_allowed else None, self.uneven if steps_allowed and not self.missing else None}
        faults = [fault for fault in self.faults if fault not in allowed]
        if faults:
            raise GeometryError(
                f"expected {len(self.order)} slices on one regular grid, found " + "; and ".join(faults)
            )

    def grid(self) -> Grid:
        """Of the stacked array (slice, row, column); for a regular layout."""
        step = float(self.along_mm[-1]) / (len(self.order) - 1)
        # a drift below what counts as tilt is rounding of the directions: the positions are the better witness
        leans = np.linalg.norm(self.drift) <= ORTHOGONALITY_TOLERANCE
        return lps_grid(self, self.origin_mm, step * (self.normal + self.drift if leans else self.normal), self.shape)


def lps_grid(layout: Layout, origin_mm: Array, step_mm: Array, shape: tuple[int, int, int]) -> Grid:
    """A grid with a layout's rows and columns, from its first pixel's place and the way to the next slice (LPS)."""
    affine = np.eye(4)
    columns = (step_mm, layout.column * layout.spacing_mm[0], layout.row * layout.spacing_mm[1])
    affine[:3, :3] = np.stack(columns, axis=1)
    affine[:3, 3] = origin_mm
    return Grid.from_lps(shape, affine)


def stack(frames: Sequence[Frame]) -> tuple[list[int], Grid]:
    """The order of slices along their normal (row direction x column direction), and their grid.

    Returns:
        Indices into `frames` from the first slice along the normal to the last, and the grid of the stacked array
        (slice, row, column).

    Raises:
        GeometryError: as `layout_of`, or a gantry tilt, or uneven steps (a missing slice among them).
    """
    layout = layout_of(frames)
    layout.require_regular()
    return list(layout.order), layout.grid()


def layout_of(frames: Sequence[Frame]) -> Layout:
    """Measures a series.

    Raises:
        GeometryError: too few slices, mixed sizes, spacings or orientations, several slices at one position: no choice
            of ours makes one volume of these.
    """
    if len(frames) < MIN_SLICES:
        raise GeometryError(
            f"expected a volume of at least {MIN_SLICES} slices, found {len(frames)} "
            f"slice{'s' if len(frames) != 1 else ''}: the distance between slices cannot be established"
        )
    for what in ("rows", "columns"):
        _same(frames, np.array([[getattr(f, what)] for f in frames], np.float64), what, 0.0)
    _same(frames, np.array([f.spacing_mm for f in frames]), "PixelSpacing", 1e-4)
    _same(frames, np.array([f.orientation for f in frames]), "ImageOrientationPatient", 1e-4)
    row, column = _directions(frames[0])
    normal = np.cross(row, column)
    position_N3 = np.array([f.position_mm for f in frames])
    order = tuple(int(i) for i in np.argsort(position_N3 @ normal, kind="stable"))
    ordered, position_N3 = [frames[i] for i in order], position_N3[list(order)]
    along = position_N3 @ normal
    _require_places_of_their_own(ordered, along)
    rounding = _rounding_mm(position_N3)
    across = position_N3 - np.outer(along, normal)
    drift, offset = np.polyfit(along - along[0], across - across[0], 1)
    wobble = np.linalg.norm(across - across[0] - offset - np.outer(along - along[0], drift), axis=1)
    uneven, missing = _step_faults(ordered, along, rounding)
    return Layout(
        order=order,
        shape=(len(frames), frames[0].rows, frames[0].columns),
        row=row,
        column=column,
        spacing_mm=frames[0].spacing_mm,
        origin_mm=position_N3[0],
        along_mm=along - along[0],
        drift=drift,
        tilt=_tilt(drift, along, rounding),
        uneven=uneven,
        missing=missing,
        wobble=_wobble(ordered, wobble, rounding),
    )


def _same(frames: Sequence[Frame], values: Array, what: str, tolerance: float) -> None:
    off = np.flatnonzero(np.abs(values - values[0]).max(axis=1) > tolerance)
    if len(off):
        raise GeometryError(
            f"expected one {what} in a series, found {values[0].tolist()} in {frames[0].name} and "
            f"{values[off[0]].tolist()} in {frames[off[0]].name} ({len(off)} of {len(frames)} slices differ)"
        )


def _directions(frame: Frame) -> tuple[Array, Array]:
    row, column = np.array(frame.orientation[:3]), np.array(frame.orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(n - 1) for n in lengths) > 1e-2 or abs(row @ column) > ORTHOGONALITY_TOLERANCE:
        raise GeometryError(
            f"{frame.name}: expected ImageOrientationPatient to be two orthogonal unit vectors, found "
            f"{list(frame.orientation)}"
        )
    row, column = row / lengths[0], column / lengths[1]
    return row, column - row * (row @ column)


def _require_places_of_their_own(frames: Sequence[Frame], along: Array) -> None:
    twins = np.flatnonzero(np.diff(along) < SAME_POSITION_MM)
    if len(twins):
        where = twins[0]
        raise GeometryError(
            f"expected each slice at a position of its own, found {len(twins)} of {len(frames)} slices at the position "
            f"of another one, e.g. {frames[where].name} and {frames[where + 1].name} at {along[where]:.3f} mm along "
            f"the normal: duplicates, time points, phases or reconstructions in one series; separate them"
        )


def _tilt(drift: Array, along: Array, rounding: float) -> str | None:
    slope = float(np.linalg.norm(drift))
    total = slope * (along[-1] - along[0])
    if slope <= ORTHOGONALITY_TOLERANCE or total <= 2 * ROUNDING_MM + rounding:
        return None
    return (
        f"slices shifted in their plane by a gantry tilt of {np.degrees(np.arctan(slope)):.2f} degrees ({total:.2f} mm "
        f"over the stack): no orthogonal grid; have the tilt corrected first, or ask for it (tilt: correct)"
    )


def _wobble(frames: Sequence[Frame], wobble: Array, rounding: float) -> str | None:
    if wobble.max() <= IN_PLANE_TOLERANCE_MM + rounding:
        return None
    worst = int(wobble.argmax())
    return f"{frames[worst].name} shifted in its plane by {wobble[worst]:.3f} mm against the others"


def _step_faults(frames: Sequence[Frame], along: Array, rounding: float) -> tuple[str | None, bool]:
    """What is wrong with the distances between slices, and whether lost slices explain it."""
    steps = np.diff(along)
    median = float(np.median(steps))
    tolerance = ROUNDING_MM + STEP_TOLERANCE * median
    line = np.polyval(np.polyfit(np.arange(len(along)), along, 1), np.arange(len(along)))
    off_steps = np.abs(steps - median) > max(tolerance, rounding + ROUNDING_MM)
    allowed = max(ROUNDING_MM + PLACE_TOLERANCE * median, 0.7 * rounding + ROUNDING_MM)
    off_grid = np.abs(along - line).max() > allowed
    if not off_steps.any() and not off_grid:
        return None, False
    smallest = float(steps.min())
    whole = np.rint(steps / smallest)
    found = f"steps between slices of {step_summary(steps)} mm"
    if (
        whole.max() > 1
        and (np.abs(steps - whole * smallest) <= rounding + whole * (ROUNDING_MM + STEP_TOLERANCE * smallest)).all()
    ):
        gap = int(whole.argmax())
        missing, few = int(whole.sum()) - len(steps), median < 1.5 * smallest
        otherwise = "" if few else ", or if it has two spacings, or beds that overlap, ask for one (spacing: resample)"
        return (
            f"{missing} missing slice{'s' if missing > 1 else ''}: {found}, a gap after {frames[gap].name} at "
            f"{along[gap]:.3f} mm along the normal; fetch the series again{otherwise}",
            few,
        )
    return (
        f"variable spacing: {found}; resample or reconstruct with one spacing, or ask for it (spacing: resample)",
        False,
    )


def step_summary(steps: Array) -> str:
    """Distinct steps in their order of frequency, to 0.01 mm."""
    values, counts = np.unique(np.round(steps, 2), return_counts=True)
    most = np.argsort(-counts, kind="stable")
    listed = ", ".join(f"{values[i]:.2f} ({counts[i]}x)" for i in most[:6])
    return listed + (f" and {len(values) - 6} others" if len(values) > 6 else "")


def _rounding_mm(position_N3: Array) -> float:
    """The unit in which positions are written, if that is coarse enough to explain uneven steps; else 0."""
    for decimals in range(1, 4):
        if np.abs(position_N3 - np.round(position_N3, decimals)).max() < 1e-6:
            unit = 10.0**-decimals
            return unit if unit <= COARSEST_ROUNDING_MM * 1.001 else 0.0
    return 0.0

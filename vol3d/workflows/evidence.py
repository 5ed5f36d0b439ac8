"""What a model says of phrases in one study, asked in as few passes as can be, and the parts of what it found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import ndimage

from vol3d.appearance import Appearance
from vol3d.boxes import bounding_box
from vol3d.cache import Entry
from vol3d.checkpoint import Calibration
from vol3d.data.channels import body_center_mm
from vol3d.data.phrases import swap_sides
from vol3d.export.regrid import to_source_grid
from vol3d.geometry import Grid
from vol3d.measure import components, diameters, slices, suv_statistics, volume_ml
from vol3d.text.mentions import laterality
from vol3d.text.organs import Side
from vol3d.text.statements import SideWord
from vol3d.types import Array, Zyx
from vol3d.volume import Volume
from vol3d.workflows.scoring import Ask

LEAST_VOXELS, LEAST_SHARE = 4, 0.01
"""A part counts as a thing of its own from this many voxels of the common grid on, and from this share of the largest
part: below that it is the crumb of an edge."""

SAME_THING = 0.5
"""Two parts, found by different words, are one thing from this Dice on."""

MIDLINE_MM = 15.0
"""The midline is the body's centroid: one arm in view moves it by up to 19 mm, a turned patient by as much."""

_ANY_NEIGHBOUR = ndimage.generate_binary_structure(3, 3)


@dataclass(frozen=True, eq=False)
class Part:
    """One connected piece of an answer, on the common grid, with the probabilities that belong to it."""

    phrase: str
    start: Zyx
    stop: Zyx
    member_ZYX: Array
    """bool, the crop start <= index < stop."""
    probability_ZYX: Array
    """uint8, the same crop: 0 wherever another part lies."""
    voxels: int
    centroid_mm: tuple[float, float, float]
    """World (x, y, z)."""

    @property
    def window(self) -> tuple[slice, slice, slice]:
        """Where the crop lies in the whole array."""
        z, y, x = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return z, y, x


class Evidence:
    """Answers about one entry; each phrase is asked once, however often it is used."""

    def __init__(self, entry: Entry, ask: Ask, calibration: Calibration) -> None:
        self.entry, self.calibration = entry, calibration
        self._ask = ask
        self._answers: dict[str, tuple[Array, float]] = {}
        self._parts: dict[str, list[Part]] = {}
        self.appearances: dict[Part, Appearance] = {}
        """Filled by `vol3d.workflows.appearances`."""

    def ask(self, phrases: Iterable[str]) -> None:
        """One pass over the study for all of them that are new."""
        new = [p for p in dict.fromkeys(phrases) if p not in self._answers]
        if new:
            self.hear(new, *self._ask(self.entry, new))

    def answers(self, entry: Entry, phrases: list[str]) -> tuple[Array, Array]:
        """An `Ask` about this entry: copies of what was asked before, after one pass for what was not."""
        self.ask(phrases)
        found = [self._answers[p] for p in phrases]
        return np.stack([mask for mask, _ in found]), np.array([logit for _, logit in found], np.float32)

    def hear(self, phrases: Sequence[str], probability_PZYX: Array, presence_P: Array) -> None:
        """Takes what the model has answered already."""
        for phrase, probability_ZYX, logit in zip(phrases, probability_PZYX, presence_P, strict=True):
            self._answers[phrase] = (probability_ZYX, float(logit))

    def probability(self, phrase: str) -> float:
        """That it is there at all, calibrated."""
        self.ask([phrase])
        return self.calibration.probability(self._answers[phrase][1])

    def likely(self, phrase: str) -> bool:
        """The probability reaches the threshold."""
        return self.probability(phrase) >= self.calibration.presence_threshold

    def present(self, phrase: str, side: SideWord = None) -> bool:
        """Likely, and some of it is seen (on that side)."""
        return self.likely(phrase) and bool(self.parts(phrase, side))

    def mask(self, phrase: str) -> Array:
        """bool on the common grid, whatever the presence."""
        self.ask([phrase])
        return self._answers[phrase][0] >= self.calibration.mask_level

    def parts(self, phrase: str, side: SideWord = None) -> list[Part]:
        """Pieces of the mask, largest first; with a side, those whose centroid lies on it. Empty if not likely."""
        if not self.likely(phrase):
            return []
        if phrase not in self._parts:
            self._parts[phrase] = self._split(phrase)
        found = self._parts[phrase]
        return [p for p in found if side not in ("left", "right") or self.side_of(p) == side]

    def side_of(self, part: Part) -> Side:
        """Of the body's midline; x grows to the patient's right."""
        return "right" if part.centroid_mm[0] >= body_center_mm(self.entry)[0] else "left"

    def near_midline(self, part: Part) -> bool:
        """Whether its centroid is so near the midline that `side_of` may be wrong."""
        return abs(part.centroid_mm[0] - body_center_mm(self.entry)[0]) < MIDLINE_MM

    def cut_by_view(self, phrase: str) -> bool:
        """Whether the mask of a structure reaches an end of the scan (head or foot end of what was measured)."""
        mask_ZYX = self.mask(phrase)
        box = bounding_box(mask_ZYX)
        if box is None:
            return False
        (z0, y0, x0), (z1, y1, x1) = box
        start, stop = (z0 - 1, y0, x0), (z1 + 1, y1, x1)
        covered_ZYX = np.ones([b - a for a, b in zip(start, stop, strict=True)], bool)
        for image in self.entry.images:
            covered_ZYX &= self.entry.coverage(image, start, stop)
        inner_ZYX = covered_ZYX[:-2] & covered_ZYX[2:]
        ends = np.count_nonzero(mask_ZYX[z0:z1, y0:y1, x0:x1] & ~inner_ZYX)
        return bool(ends >= 0.02 * np.count_nonzero(mask_ZYX))

    def taken_out(self, phrase: str) -> bool:
        """Whether a structure that is not seen cannot be out of view, because the other side's is seen whole."""
        twin = swap_sides(phrase)
        return twin not in (None, phrase) and self.likely(str(twin)) and not self.cut_by_view(str(twin))

    def _split(self, phrase: str) -> list[Part]:
        probability_ZYX, _ = self._answers[phrase]
        grid = self.entry.grid
        mask_ZYX = self.mask(phrase)
        found = components(mask_ZYX, grid)
        out = []
        for piece in found:
            if piece.voxels < max(LEAST_VOXELS, LEAST_SHARE * found[0].voxels):
                break
            start: Zyx = (max(piece.start[0] - 2, 0), max(piece.start[1] - 2, 0), max(piece.start[2] - 2, 0))
            stop = tuple(min(b + 2, n) for b, n in zip(piece.stop, grid.shape, strict=True))
            where = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
            member_ZYX = np.zeros([b - a for a, b in zip(start, stop, strict=True)], bool)
            inner = tuple(slice(a - o, b - o) for a, b, o in zip(piece.start, piece.stop, start, strict=True))
            member_ZYX[inner] = piece.mask_ZYX
            others_ZYX = mask_ZYX[where] & ~member_ZYX
            own_ZYX = ndimage.binary_dilation(member_ZYX, _ANY_NEIGHBOUR) & ~others_ZYX
            centre = grid.index_to_mm(np.argwhere(member_ZYX).mean(axis=0) + start)
            out.append(
                Part(
                    phrase, start, (stop[0], stop[1], stop[2]), member_ZYX, probability_ZYX[where] * own_ZYX,
                    piece.voxels, (float(centre[0]), float(centre[1]), float(centre[2])),
                )
            )  # fmt: skip
        return out


class Evidences:
    """Evidence of the study in work, shared by the writer and by those who check it."""

    def __init__(self, ask: Ask, calibration: Calibration) -> None:
        self._ask, self._calibration = ask, calibration
        self._last: Evidence | None = None

    def of(self, entry: Entry) -> Evidence:
        """The evidence about an entry; only the last one's is kept."""
        if self._last is None or self._last.entry is not entry:
            self._last = Evidence(entry, self._ask, self._calibration)
        return self._last


def part_dice(a: Part, b: Part) -> float:
    """Dice of two parts of one study."""
    return 2 * shared_voxels(a, b) / (a.voxels + b.voxels)


def shared_voxels(a: Part, b: Part) -> int:
    """Members of both."""
    low = [max(p, q) for p, q in zip(a.start, b.start, strict=True)]
    high = [min(p, q) for p, q in zip(a.stop, b.stop, strict=True)]
    if any(p >= q for p, q in zip(low, high, strict=True)):
        return 0
    one, other = (
        part.member_ZYX[tuple(slice(p - o, q - o) for p, q, o in zip(low, high, part.start, strict=True))]
        for part in (a, b)
    )
    return int(np.count_nonzero(one & other))


def on_grid(part: Part, entry: Entry, grid: Grid, calibration: Calibration) -> Array:
    """The part as a mask (uint8) on a grid of the source."""
    own = entry.grid.crop(part.start, part.stop)
    return to_source_grid(part.probability_ZYX, own, grid, calibration.mask_threshold)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Figures of one mask, each measured on the exported files; None where there is nothing to measure.

    Sizes and slices on the source grid (`series`), uptake on the PET's own grid.
    """

    series: str
    volume_ml: float
    longest_diameter_mm: float
    """In one axial slice, between outer faces of voxels (RECIST's long axis)."""
    short_diameter_mm: float
    slice: int
    """1-based within the series: the one with the most of it."""
    z_mm: float
    first_slice: int
    last_slice: int
    suv_max: float | None = None
    suv_mean: float | None = None
    suv_peak: float | None = None
    tlg_g: float | None = None
    pet_slice: int | None = None
    pet_z_mm: float | None = None


UNITS = {
    "volume_ml": "ml", "longest_diameter_mm": "mm", "short_diameter_mm": "mm", "z_mm": "mm", "pet_z_mm": "mm",
    "suv_max": "SUVbw g/ml", "suv_mean": "SUVbw g/ml", "suv_peak": "SUVbw g/ml", "tlg_g": "g",
    "slice": "1-based in series", "pet_slice": "1-based in pet",
}  # fmt: skip


def measure_masks(
    mask_ZYX: Array,
    grid: Grid,
    series: str,
    slice_numbers: dict[str, Sequence[int] | None],
    pet_mask_ZYX: Array | None = None,
    pet: Volume | None = None,
) -> Measurement | None:
    """Measures a mask on its source grid and, where there is a PET, its twin on the PET's grid; None if it is empty."""
    size = diameters(mask_ZYX, grid)
    where = slices(mask_ZYX, grid, slice_numbers.get(series))
    if size is None or where is None:
        return None
    out = Measurement(
        series=series,
        volume_ml=volume_ml(mask_ZYX, grid),
        longest_diameter_mm=size.axial_long_mm,
        short_diameter_mm=size.axial_short_mm,
        slice=where.largest,
        z_mm=where.largest_z_mm,
        first_slice=where.first,
        last_slice=where.last,
    )
    if pet is None or pet_mask_ZYX is None:
        return out
    uptake = suv_statistics(pet_mask_ZYX, pet)
    on_pet = slices(pet_mask_ZYX, pet.grid, slice_numbers.get("pet"))
    if on_pet is None:
        return out
    figures: dict[str, Any] = {name: getattr(uptake, name) for name in ("suv_max", "suv_mean", "suv_peak", "tlg_g")}
    return replace(out, **figures, pet_slice=on_pet.largest, pet_z_mm=on_pet.largest_z_mm)


def body_sides(phrase: str) -> SideWord:
    """The side of the body that a phrase places its thing on; None for "left lobe of the liver" or "left atrium"."""
    side = laterality(phrase)
    return side if side == "bilateral" or swap_sides(phrase) not in (None, phrase) else None

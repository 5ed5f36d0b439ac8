"""Which of a study's series are its CT and its PET: the rules, in one place. `docs/how-to/intake.md` states them.

A series is first left out for what it is (`exclusion`). Of those that remain the first by `_ct_criteria` or
`_pet_criteria` is taken, and every other one is told which criterion decided. A series whose slices make no regular
grid is taken only where there is no sound one: reading refuses it then, by name, or straightens it as the recipe says.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from preprocessing.sources.headers import Header
from vol3d.dicom.geometry import MIN_SLICES, stack
from vol3d.dicom.listing import opaque
from vol3d.errors import ConfigError, GeometryError
from vol3d.geometry import Grid

NO_REGIONS = ("body", "external", "skin", "couch.*", ".*table.*", "marker.*", "iso.?cent.*", "support.*", "bolus.*")


@dataclass(frozen=True, kw_only=True)
class IntakeConfig:
    """Choices that depend on what the studies are wanted for."""

    ct: Literal["soft", "thin"] = "soft"
    """Which of several CT reconstructions: the soft-tissue kernel, then the thinnest; or the other way round."""
    phrases: dict[str, list[str]] = field(default_factory=dict)
    """Name of a region or segment (a regular expression, any case) to its phrases; else its name in plain words."""
    skip_regions: list[str] = field(default_factory=lambda: list(NO_REGIONS))
    """Names of regions (regular expressions, any case) that are no finding and no organ."""

    def __post_init__(self) -> None:
        for pattern in (*self.phrases, *self.skip_regions):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(f"expected a regular expression, found {pattern!r}: {error}") from None


_NOT_A_VOLUME = {
    "MIP": "a maximum intensity projection", "MINIP": "a minimum intensity projection",
    "MAX_IP": "a maximum intensity projection", "MIN_IP": "a minimum intensity projection",
    "PROJECTION IMAGE": "a projection", "REPROJECTION": "a projection", "VRT": "a rendering", "SSD": "a rendering",
    "VOLUME_RENDER": "a rendering", "3D": "a rendering", "SCREEN SAVE": "a screen capture",
    "SCREEN CAPTURE": "a screen capture", "DOSE": "a dose report", "PATIENT PROTOCOL": "a protocol page",
    "FUSED": "a fusion", "FUSION": "a fusion", "SUBTRACTION": "a subtraction", "PERFUSION": "a perfusion map",
    "CBF": "a perfusion map", "CBV": "a perfusion map", "MTT": "a perfusion map", "TTP": "a perfusion map",
    "IODINE": "a material map", "WATER": "a material map", "EFF_ATOMIC_NUM": "a material map",
}  # fmt: skip
"""Image Types (PS3.3 C.7.6.1.1.2, C.8.2.1.1.1, vendors' own) whose pixels are neither HU nor activity in a slice."""

_DESCRIBED = (
    (r"\b(scout|topogram|localizer|surview|scanogram)\b", "a localizer by its description"),
    (r"\bm(ax)?ips?\b|\bminips?\b", "a projection by its description"),
    (r"\bdose\b.*\breport\b|\bscreen ?(save|capture|shot)", "a report page by its description"),
)
_NOT_CORRECTED = r"\bnac\b|\bnon?[ _-]?a(tt(en)?)?c|uncorrected|non[ _-]attenuation|without ac\b"
_SOFT_GE, _SHARP_GE = r"soft|stand|std|chest", r"lung|bone|edge|sharp|ultra|hires|hd ?plus"


@dataclass(frozen=True)
class SeriesFacts:
    """Files of one series and what they have in common."""

    name: str
    """Opaque."""
    headers: tuple[Header, ...]
    note: str = ""
    """How it came into its study, where that is not by the Study Instance UID alone."""

    @property
    def first(self) -> Header:
        """The header that speaks for all."""
        return self.headers[0]

    @cached_property
    def grid(self) -> Grid | str:
        """The grid of its slices, or why there is none; messages name no file."""
        faults = [h.fault for h in self.headers if h.fault]
        if faults:
            return f"{len(faults)} of {len(self.headers)} files: {faults[0]}"
        if len({h.kernel for h in self.headers}) > 1:
            return "several reconstructions under one Series Instance UID (ConvolutionKernel differs); separate them"
        frames = [replace(f, path=Path(opaque(i))) for i, h in enumerate(self.headers) for f in h.frames]
        try:
            return stack(frames)[1]
        except GeometryError as error:
            return str(error)

    @property
    def derived(self) -> bool:
        """Image Type says DERIVED or SECONDARY: reformatted or processed, but still an image."""
        return "DERIVED" in self.first.image_type or "SECONDARY" in self.first.image_type

    @property
    def attenuation_corrected(self) -> bool | None:
        """By Corrected Image (0028,0051), else Attenuation Correction Method, else the description; None: not said."""
        first = self.first
        if first.corrected:
            return "ATTN" in first.corrected
        if first.attenuation:
            return first.attenuation.upper() not in ("NO", "NONE")
        words = first.description.lower().replace("_", " ")
        if re.search(_NOT_CORRECTED, words):
            return False
        return True if re.search(r"\bac\b|\bctac\b|attenuation corrected", words) else None

    @property
    def kernel_rank(self) -> int:
        """0 soft tissue, 1 not known, 2 sharp (lung, bone)."""
        return kernel_rank(self.first.kernel) if self.first.kernel else kernel_rank(self.first.description)


def kernel_rank(kernel: str) -> int:
    """0 soft tissue, 1 not known, 2 sharp, by the names that vendors give their kernels.

    Siemens: a letter or two and a number, sharper as it grows (B30f, Br40d, I26f; lung and bone from 50). Canon and
    Toshiba: FC01 to FC29 soft, FC30 and above bone and lung. Philips: A to C soft, D and above sharp. GE: words.
    """
    name = kernel.strip().lower()
    if found := re.match(r"fc(\d\d)", name):
        return 0 if int(found[1]) < 30 else 2
    if found := re.match(r"(?:[bhijtuqd][a-z]?)(\d\d)", name):
        return 0 if int(found[1]) <= 45 else 2
    if re.search(_SHARP_GE, name):
        return 2
    if re.search(_SOFT_GE, name) or re.fullmatch(r"u?[abc]", name):
        return 0
    return 2 if re.fullmatch(r"[de]|y[a-e]|l", name) else 1


def exclusion(series: SeriesFacts) -> str | None:
    """Why a CT or PET series is no candidate, whatever else the study holds; None if it is one."""
    first = series.first
    if "LOCALIZER" in first.image_type:
        return "a localizer"
    for value in (*first.image_type, *first.series_type):
        if value in _NOT_A_VOLUME:
            return f"{_NOT_A_VOLUME[value]} (Image or Series Type {value})"
    for pattern, what in _DESCRIBED:
        if re.search(pattern, first.description.lower().replace("_", " ")):
            return what
    if first.kind == "PT":
        if series.attenuation_corrected is False:
            return "not attenuation-corrected"
        if {"DYNAMIC", "GATED"} & set(first.series_type):
            return f"several time points (Series Type {' '.join(first.series_type)})"
    slices = sum(len(h.frames) for h in series.headers)
    if slices < MIN_SLICES:
        return f"{slices} slices are no volume" + (f" ({first.fault})" if first.fault else "")
    return None


@dataclass
class Choice:
    """A study's CT and PET, and for every series that is neither the reason."""

    ct: SeriesFacts | None = None
    pet: SeriesFacts | None = None
    reasons: dict[str, str] = field(default_factory=dict)


def choose(candidates: Sequence[SeriesFacts], drawn_on: frozenset[str], config: IntakeConfig) -> Choice:
    """The CT and the PET of one study.

    Args:
        candidates: its CT and PET series.
        drawn_on: Series Instance UIDs that contours or segments of the study refer to.
        config: which reconstruction is wanted.
    """
    choice = Choice()
    left: dict[str, list[SeriesFacts]] = {"CT": [], "PT": []}
    for series in candidates:
        reason = exclusion(series)
        if reason:
            choice.reasons[series.name] = reason
        else:
            left[series.first.kind].append(series)
    choice.pet = _first(left["PT"], _pet_criteria(left["PT"], drawn_on), choice.reasons)
    cts = left["CT"]
    if choice.pet is not None:
        frame_uid = choice.pet.first.frame_uid
        for series in cts:
            if not frame_uid or series.first.frame_uid != frame_uid:
                choice.reasons[series.name] = (
                    "another Frame of Reference than the PET's: nothing says how they lie to each other"
                    if series.first.frame_uid and frame_uid
                    else "no Frame of Reference in common with the PET: one of them states none"
                )
        cts = [s for s in cts if s.name not in choice.reasons]
    choice.ct = _first(cts, _ct_criteria(cts, choice.pet, drawn_on, config), choice.reasons)
    return choice


Criteria = list[tuple[str, list[Any]]]
"""What decides, most important first: a name, and a key a series; the lower key wins."""


def _pet_criteria(series: Sequence[SeriesFacts], drawn_on: frozenset[str]) -> Criteria:
    return [
        *_sound(series),
        ("contours refer to the other", [s.first.series_uid not in drawn_on for s in series]),
        ("the other is known to be attenuation-corrected", [s.attenuation_corrected is None for s in series]),
        ("the other is longer", _short(series)),
        ("the other is primary, this one derived", [s.derived for s in series]),
        ("the other has thinner slices", [round(_step_mm(s), 1) for s in series]),
        *_last(series),
    ]


def _ct_criteria(
    series: Sequence[SeriesFacts], pet: SeriesFacts | None, drawn_on: frozenset[str], config: IntakeConfig
) -> Criteria:
    kernel = ("the other has a softer kernel", [s.kernel_rank for s in series])
    thin = ("the other has thinner slices", [round(_step_mm(s), 1) for s in series])
    return [
        *_sound(series),
        ("contours refer to the other", [s.first.series_uid not in drawn_on for s in series]),
        ("the other covers more of the PET", [-round(_coverage(s, pet), 1) for s in series]),
        ("the other is longer", _short(series)),
        ("the other is primary, this one derived", [s.derived for s in series]),
        *((kernel, thin) if config.ct == "soft" else (thin, kernel)),
        *_last(series),
    ]


def _sound(series: Sequence[SeriesFacts]) -> Criteria:
    faulty = [isinstance(s.grid, str) for s in series]
    return [("the slices of this one make no regular grid", faulty)]


def _last(series: Sequence[SeriesFacts]) -> Criteria:
    """Nothing tells them apart: the order must at least not depend on the file system."""
    numbers = [s.first.number if s.first.number is not None else 10**9 for s in series]
    return [("the other has a lower Series Number", numbers), ("equal in all that counts", [s.name for s in series])]


def _first(series: Sequence[SeriesFacts], criteria: Criteria, reasons: dict[str, str]) -> SeriesFacts | None:
    if not series:
        return None
    keys = list(zip(*(values for _, values in criteria), strict=True))
    best = min(range(len(series)), key=keys.__getitem__)
    for number, key in enumerate(keys):
        if number != best:
            decided = next(i for i, (a, b) in enumerate(zip(key, keys[best], strict=True)) if a != b)
            why = f"not chosen beside {series[best].name}: {criteria[decided][0]}"
            found = series[number].grid
            reasons[series[number].name] = f"{why}: {found}" if decided == 0 and isinstance(found, str) else why
    return series[best]


def _step_mm(series: SeriesFacts) -> float:
    return series.grid.spacing_mm[0] if isinstance(series.grid, Grid) else 0.0


def _short(series: Sequence[SeriesFacts]) -> list[bool]:
    """True for a series shorter than nine tenths of the longest one."""
    lengths = [s.grid.shape[0] * _step_mm(s) if isinstance(s.grid, Grid) else 0.0 for s in series]
    return [length < 0.9 * max(lengths) for length in lengths]


def _coverage(series: SeriesFacts, pet: SeriesFacts | None) -> float:
    """Share of the PET's length, along its slices' normal, that a CT covers; 1 without a PET."""
    if pet is None or isinstance(pet.grid, str) or isinstance(series.grid, str):
        return 1.0
    slices = pet.grid.shape[0]
    index = pet.grid.mm_to_index(series.grid.corners_mm())[:, 0]
    return float(np.clip(min(index.max(), slices - 1) - max(index.min(), 0), 0, None)) / (slices - 1)

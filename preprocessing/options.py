"""Choices a user makes for one study, in a small file beside it: what may be repaired, and what its header lacks.

A manifest row names the file under ``reading``; a study folder holds it as ``reading.yaml``. What was done because of
it stands in the notes of the cache entry. See `docs/how-to/dicom-geometry.md` and `docs/how-to/suv.md`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vol3d.config import load_yaml
from vol3d.errors import ConfigError

FILE_NAME = "reading.yaml"
"""Of the options in a study folder."""

_CLOCK = r"([01]\d|2[0-3])[0-5]\d([0-5]\d(\.\d+)?)?"


@dataclass(frozen=True, kw_only=True)
class PetSupplement:
    """What replaces, or supplies, values of a PET's header. Only what is set is used."""

    weight_kg: float | None = None
    """Patient's Weight at the scan."""
    height_m: float | None = None
    """Patient's Size; for SUVlbm, SUVbsa and SUVibw only."""
    sex: Literal["M", "F"] | None = None
    """For SUVlbm and SUVibw only."""
    dose_bq: float | None = None
    """Administered activity (less the residual in the syringe) at the time of injection."""
    half_life_s: float | None = None
    """Of the radionuclide."""
    injected: str | None = None
    """Time of injection in the scanner's local time: ``"HH:MM:SS"`` (the last one before the scan) or
    ``"YYYY-MM-DD HH:MM:SS"``."""
    decay_correction: Literal["START", "ADMIN", "NONE"] | None = None
    """To what the stored values are decay-corrected."""

    def attributes(self) -> dict[str, str | float]:
        """What is set, by DICOM keyword.

        Raises:
            ConfigError: `injected` is no time.
        """
        found: dict[str, str | float | None] = {
            "PatientWeight": self.weight_kg,
            "PatientSize": self.height_m,
            "PatientSex": self.sex,
            "RadionuclideTotalDose": self.dose_bq,
            "RadionuclideHalfLife": self.half_life_s,
            "DecayCorrection": self.decay_correction,
        }
        if self.injected is not None:
            date, _, time = self.injected.strip().replace("T", " ").rpartition(" ")
            date, time = date.replace("-", ""), time.replace(":", "")
            if not re.fullmatch(_CLOCK, time) or not re.fullmatch(r"(\d{8})?", date):
                raise ConfigError(
                    'injected: expected "HH:MM:SS" or "YYYY-MM-DD HH:MM:SS", in quotes, found another form'
                )
            # one of the two is blanked, so that a header's own value of the other does not contradict what was supplied
            found["RadiopharmaceuticalStartTime"] = "" if date else time
            found["RadiopharmaceuticalStartDateTime"] = date + time if date else ""
        return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class CtRescale:
    """Slope and intercept of a NIfTI CT's original DICOM, for a file that may hold stored values instead of HU."""

    slope: float
    """HU per stored unit."""
    intercept: float
    """HU at a stored 0."""

    def __post_init__(self) -> None:
        if self.slope <= 0:
            raise ConfigError(f"slope: expected more than 0, found {self.slope}")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How one study is read; by default nothing is repaired."""

    tilt: Literal["refuse", "correct"] = "refuse"
    """A gantry tilt: refused, or the slices shifted back by linear interpolation (`vol3d.dicom.straighten`)."""
    spacing: Literal["refuse", "resample"] = "refuse"
    """Uneven distances between slices: refused, or resampled linearly to even ones. A missing slice is refused."""
    frames: Literal["refuse", "registered"] = "refuse"
    """CT and PET in two frames of reference: refused, or taken as one, as after a registration elsewhere."""
    pet: PetSupplement = field(default_factory=PetSupplement)
    """Values that a PET's header lacks."""
    rescale: CtRescale | None = None
    """Of a NIfTI CT; applied only if the numbers say that they are no HU yet (`preprocessing.hu_rescale`)."""

    def __post_init__(self) -> None:
        self.pet.attributes()


DEFAULT = ReadOptions()


def load_options(path: Path) -> ReadOptions:
    """Reads a file of options.

    Raises:
        ConfigError: an unknown key or a wrong value.
    """
    try:
        return load_yaml(path, ReadOptions)
    except ConfigError as error:
        if "injected: expected str" in str(error):  # YAML takes 10:35:00 for a number in base 60
            raise ConfigError(f'{path}: pet: injected: expected a time in quotes, "10:35:00"') from error
        raise

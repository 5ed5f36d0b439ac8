"""Is the half-life that of the radionuclide? A dose in MBq or a half-life in minutes looks like any other number.

Half-lives: NNDC NuDat 3, Brookhaven National Laboratory, rounded to what a tolerance of 2 % needs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vol3d.errors import UnitError

HALF_LIFE_S = {
    "C-11": 1221.8, "N-13": 597.9, "O-15": 122.2, "F-18": 6586.2, "Na-22": 8.21e7, "Sc-43": 14010.0, "Sc-44": 14551.0,
    "Mn-52": 483062.0, "Fe-52": 29790.0, "Co-55": 63108.0, "Cu-60": 1422.0, "Cu-61": 12020.0, "Cu-62": 580.4,
    "Cu-64": 45721.0, "Ga-66": 34164.0, "Ga-68": 4062.6, "Ge-68": 2.341e7, "As-72": 93600.0, "Br-76": 58320.0,
    "Rb-82": 75.5, "Y-86": 53064.0, "Y-90": 230600.0, "Zr-89": 282276.0, "Tc-94m": 3120.0, "I-120": 4896.0,
    "I-124": 360806.0, "Tb-152": 63000.0,
}  # fmt: skip
"""Positron emitters used in patients and phantoms."""

TOLERANCE = 0.02
"""Headers round: 6586 and 6588 s, 68 min for Ga-68 (0.4 % more), 76 s for Rb-82."""

_ELEMENT = {
    "CARBON": "C", "NITROGEN": "N", "OXYGEN": "O", "FLUORINE": "F", "FLUOR": "F", "SODIUM": "Na", "SCANDIUM": "Sc",
    "MANGANESE": "Mn", "IRON": "Fe", "COBALT": "Co", "COPPER": "Cu", "GALLIUM": "Ga", "GERMANIUM": "Ge",
    "ARSENIC": "As", "BROMINE": "Br", "RUBIDIUM": "Rb", "YTTRIUM": "Y", "ZIRCONIUM": "Zr", "TECHNETIUM": "Tc",
    "IODINE": "I", "TERBIUM": "Tb",
}  # fmt: skip
_SYMBOL = {name.split("-")[0].upper(): name.split("-")[0] for name in HALF_LIFE_S} | _ELEMENT
_NAMES = "|".join(sorted(_SYMBOL, key=len, reverse=True))
_NUMBER = r"\^?(\d{2,3})\^?(M?)\^?"
_FORMS = (
    re.compile(
        rf"(?<![A-Z0-9]){_NUMBER}[\s\-\[\]\(\)]*({_NAMES})(?![A-Z])"
    ),  # 18F, ^18^Fluorine, [18F], F18-FDG's twin
    re.compile(rf"(?<![A-Z])({_NAMES})[\s\-\^\[\]\(\)]*{_NUMBER}(?!\d)"),  # F-18, F^18^, Fluorine 18
)


def nuclide_in(text: str) -> str | None:
    """The positron emitter that a name or code meaning states (``"^18^Fluorine"``, ``"F-18"``), as in `HALF_LIFE_S`."""
    upper = text.upper()
    found = set()
    for match in _FORMS[0].finditer(upper):
        found.add(f"{_SYMBOL[match[3]]}-{match[1]}{match[2].lower()}")
    for match in _FORMS[1].finditer(upper):
        found.add(f"{_SYMBOL[match[1]]}-{match[2]}{match[3].lower()}")
    known = found & HALF_LIFE_S.keys()
    return known.pop() if len(known) == 1 else None


def check_half_life(instance: Mapping[str, Any], half_life_s: float) -> None:
    """Refuses a half-life that contradicts the named radionuclide, or that fits none.

    Args:
        instance: ``Radionuclide`` and ``Radiopharmaceutical`` hold names as in `preprocessing.suv_header.metadata`.
        half_life_s: as the header states it.

    Raises:
        UnitError: with the half-life that was expected.
    """
    for keyword in ("Radionuclide", "Radiopharmaceutical"):
        name = nuclide_in(str(instance.get(keyword) or ""))
        if name is None:
            continue
        if abs(half_life_s / HALF_LIFE_S[name] - 1) > TOLERANCE:
            raise UnitError(
                f"expected RadionuclideHalfLife (0018,1075) of {name}, {HALF_LIFE_S[name]:g} s, found {half_life_s:g}: "
                f"tracer and half-life contradict each other; supply half_life_s"
            )
        return
    if instance.get("Radionuclide"):
        return  # one that is not in the table: nothing to check against
    nearest = min(HALF_LIFE_S, key=lambda n: abs(half_life_s / HALF_LIFE_S[n] - 1))
    if abs(half_life_s / HALF_LIFE_S[nearest] - 1) > TOLERANCE:
        minutes = [n for n, s in HALF_LIFE_S.items() if abs(half_life_s * 60 / s - 1) < TOLERANCE]
        hint = f" (in minutes it would be {minutes[0]}'s)" if minutes else ""
        raise UnitError(
            f"expected RadionuclideHalfLife (0018,1075) in s of a positron emitter, found {half_life_s:g}{hint}: none "
            f"has it (nearest: {nearest}, {HALF_LIFE_S[nearest]:g} s), and no radionuclide is named; supply half_life_s"
        )

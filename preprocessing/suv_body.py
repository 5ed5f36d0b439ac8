"""Other normalisations of SUV: by lean body mass, body surface and ideal body weight, as multiples of SUVbw.

Formulas as DICOM codes them (PS3.16 CID 85 "SUV Units", codes 126401 ff.) and the QIBA FDG-PET/CT profile cites them:

- SUVlbm: Janmahasatian et al. 2005, Clin Pharmacokinet 44:1051. LBM [kg] = 9270 W / (6680 + 216 BMI) for men,
  9270 W / (8780 + 244 BMI) for women.
- SUVbsa: Du Bois and Du Bois 1916. BSA [m2] = 0.007184 W^0.425 H[cm]^0.725; SUVbsa is in cm2/ml.
- SUVibw: Sugawara et al. 1999, Radiology 213:521. IBW [kg] = 48.0 + 1.06 (H[cm] - 152) for men,
  45.5 + 0.91 (H[cm] - 152) for women.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from preprocessing.suv_times import EXPECTED, required
from vol3d.errors import UnitError

Kind = Literal["bw", "lbm", "bsa", "ibw"]
"""By what SUV is normalised: body weight, lean body mass, body surface area, ideal body weight."""

STORED_AS: dict[Kind, str] = {"bw": "BW", "lbm": "LBMJANMA", "bsa": "BSA", "ibw": "IBW"}
"""SUV Type (0054,1006) of stored values that are of a kind already; plain LBM does not say by which formula."""


def weight_kg(instance: Mapping[str, Any]) -> float:
    """Patient's weight.

    Raises:
        UnitError: absent, 0 or impossible.
    """
    found = required(instance, "PatientWeight")
    if not 0.5 <= found <= 500:
        raise UnitError(
            f"expected {EXPECTED['PatientWeight']}, found {found:g}; supply weight_kg, the weight at the scan"
        )
    return found


def height_m(instance: Mapping[str, Any]) -> float:
    """Patient's height.

    Raises:
        UnitError: absent, 0 or impossible.
    """
    found = required(instance, "PatientSize")
    if not 0.2 <= found <= 2.5:
        hint = "probably in cm; " if 20 <= found <= 250 else ""
        raise UnitError(f"expected {EXPECTED['PatientSize']}, found {found:g}: {hint}supply height_m")
    return found


def per_suvbw(instance: Mapping[str, Any], kind: Kind) -> float:
    """What SUVbw is multiplied by; SUVbsa comes out in cm2/ml, the others in g/ml.

    Raises:
        UnitError: weight, height or sex is missing or impossible.
    """
    if kind == "bw":
        return 1.0
    weight, height = weight_kg(instance), height_m(instance)
    if kind == "bsa":
        return 0.007184 * weight**0.425 * (100 * height) ** 0.725 * 1e4 / (weight * 1000)
    sex = str(instance.get("PatientSex") or "").strip().upper()
    if sex not in ("M", "F"):
        raise UnitError(f"expected {EXPECTED['PatientSex']} for SUV{kind}, found {sex or 'none'}; supply sex")
    if kind == "lbm":
        base, slope = (6680, 216) if sex == "M" else (8780, 244)
        return 9270 / (base + slope * weight / height**2)
    ideal = 48.0 + 1.06 * (100 * height - 152) if sex == "M" else 45.5 + 0.91 * (100 * height - 152)
    if ideal <= 0:
        raise UnitError(f"expected a height for which an ideal body weight is defined, found {height:g} m")
    return ideal / weight


def body_note(instance: Mapping[str, Any]) -> tuple[str, ...]:
    """One note with the factors to the other kinds, as far as weight, height and sex are known."""
    kinds: tuple[tuple[Kind, str], ...] = (("lbm", "Janmahasatian"), ("bsa", "Du Bois, cm2/ml"), ("ibw", "Sugawara"))
    found = []
    for kind, formula in kinds:
        try:
            found.append(f"SUV{kind} = {per_suvbw(instance, kind):.6g} x SUVbw ({formula})")
        except UnitError:
            continue  # a note, not a result: what `suv_factors` is asked for, it refuses
    return ("; ".join(found),) if found else ()

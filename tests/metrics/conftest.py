"""Reports of phantoms with their structured truth, without the images: a body, its view, lesions and their words."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from preprocessing.phantom_anatomy import TISSUES
from preprocessing.phantom_lesions import PLACE_SIZES, PLACES, SIZES, TWIN, Traits
from preprocessing.phantom_report import FULLY, Facts, Measured, write_report
from preprocessing.phantom_truth import findings_of
from vol3d.metrics.report_claims import report_text


@pytest.fixture(scope="session")
def phantom_reports() -> Callable[..., list[dict[str, Any]]]:
    """(number, seed, lesions) -> rows with `patient_id`, `findings`, `report` and `text`."""
    return lambda number, seed=1, lesions=(0, 7): [
        _row(np.random.default_rng([seed, i]), i, lesions) for i in range(number)
    ]


def _row(rng: np.random.Generator, index: int, lesions: tuple[int, int]) -> dict[str, Any]:
    with_pet = bool(rng.random() < 0.7)
    share = {t: float(rng.choice([0.0, 0.6, 1.0], p=[0.15, 0.15, 0.7])) for t in TISSUES}
    resected = (str(rng.choice(["left kidney", "spleen", "gallbladder"])),) if rng.random() < 0.3 else ()
    places = [p for p in PLACES if share[p] >= FULLY and p not in resected]
    drawn: list[Traits] = []
    for _ in range(int(rng.integers(lesions[0], lesions[1] + 1)) if places else 0):
        drawn.append(_traits(rng, places, with_pet, drawn))
    measured = [_measured(rng, i, t) for i, t in enumerate(drawn, 1)]
    facts = Facts(
        lesions=measured, in_view=share, resected=resected, contrast=True, arms=False, view="torso",
        dose_mbq=300.0 if with_pet else None, uptake_minutes=60.0, ct_slice_mm=3.0, myocardium_suv=3.0,
    )  # fmt: skip
    report = write_report(rng, facts)
    findings = findings_of(measured, share)
    return {"patient_id": f"p{index}", "findings": findings, "report": report, "text": report_text(report)}


def _traits(rng: np.random.Generator, places: list[str], with_pet: bool, drawn: list[Traits]) -> Traits:
    place = str(rng.choice(places))
    if drawn and rng.random() < 0.4 and TWIN.get(drawn[-1].place) in places:
        return Traits(TWIN[drawn[-1].place], drawn[-1].size, drawn[-1].density, drawn[-1].uptake)
    uptake = str(rng.choice(["avid", "non-avid"])) if with_pet else None
    densities = [d for d in PLACES[place] if uptake == "avid" or d != "isodense"]
    size = str(rng.choice(PLACE_SIZES.get(place, tuple(SIZES))))
    return Traits(place, size, str(rng.choice(densities)), uptake)


def _measured(rng: np.random.Generator, number: int, traits: Traits) -> Measured:
    diameter = round(float(2 * rng.uniform(*SIZES[traits.size]) * rng.uniform(0.95, 1.1)), 1)
    suv = (
        None
        if traits.uptake is None
        else round(float(rng.uniform(*((3, 15) if traits.uptake == "avid" else (0.5, 3)))), 3)
    )
    return Measured(
        id=f"lesion_{number}", traits=traits, diameter_mm=diameter, volume_ml=round((diameter / 10) ** 3 / 2, 3),
        suv_max=suv, slice_number=int(rng.integers(1, 90)), z_mm=float(rng.uniform(-300, 300)),
    )  # fmt: skip

"""Reports of the phantoms: findings by organ section and an impression, in varied prose, true for the study."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from preprocessing.phantom_lesions import Traits
from preprocessing.phantom_text import PLACE_WORDS


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A lesion as measured on its mask; `suv_max` is None without PET."""

    id: str
    traits: Traits
    diameter_mm: float
    volume_ml: float
    suv_max: float | None
    slice_number: int
    """1-based, of the CT slice with the most of it."""
    z_mm: float


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a report may say. `in_view` is the share of each tissue that the field of view holds."""

    lesions: list[Measured]
    in_view: dict[str, float]
    resected: tuple[str, ...]
    contrast: bool
    arms: bool
    view: str
    dose_mbq: float | None
    uptake_minutes: float
    ct_slice_mm: float
    myocardium_suv: float


SECTIONS: dict[str, tuple[str, ...]] = {
    "Lungs": ("left lung", "right lung"), "Mediastinum": ("mediastinum",), "Liver": ("liver",), "Spleen": ("spleen",),
    "Kidneys": ("left kidney", "right kidney"), "Spine": ("spine",),
    "Soft tissues": ("left paraspinal", "right paraspinal"),
}  # fmt: skip

_CLEAR: dict[str, tuple[str, ...]] = {
    "Lungs": ("No pulmonary nodule or mass.", "Both lungs are clear.", "No focal lung lesion."),
    "Mediastinum": ("No enlarged mediastinal lymph node.", "No mediastinal lymphadenopathy."),
    "Liver": ("No focal hepatic lesion.", "Homogeneous liver without focal lesion."),
    "Spleen": ("Spleen without focal lesion.", "No focal splenic lesion."),
    "Kidneys": ("No focal renal lesion.", "Both kidneys without focal lesion."),
    "Spine": ("No suspicious bone lesion in the imaged spine.", "No focal lesion of the imaged spine."),
    "Soft tissues": ("No focal lesion of the paraspinal muscles.", "Unremarkable paraspinal soft tissues."),
}
DENIED: dict[str, tuple[str, ...]] = {
    "lungs": ("pulmonary nodule or mass", "focal lung lesion"),
    "mediastinum": ("enlarged mediastinal lymph node", "mediastinal lymphadenopathy"),
    "liver": ("focal hepatic lesion",), "spleen": ("focal splenic lesion",), "kidneys": ("focal renal lesion",),
    "left kidney": ("focal lesion of the left kidney",), "right kidney": ("focal lesion of the right kidney",),
    "spine": ("suspicious bone lesion in the imaged spine", "focal lesion of the imaged spine"),
    "soft tissue": ("focal lesion of the paraspinal muscles",),
}  # fmt: skip
"""What those sentences deny, by place: asked where it is there, too, so that the words do not give the answer away."""
_INDICATIONS = (
    "Staging.", "Restaging after chemotherapy.", "Follow-up.", "Known malignancy, assessment of response.",
    "Weight loss, search for a primary tumour.",
)  # fmt: skip
FULLY, HARDLY = 0.97, 0.15
"""Share of a tissue in view from which its lesions can be ruled out, and under which it is not shown at all."""


def write_report(rng: np.random.Generator, facts: Facts) -> dict[str, str]:
    """Findings, impression, indication and technique."""
    sections = []
    for title, tissues in SECTIONS.items():
        lines = [_lesion(rng, lesion) for lesion in facts.lesions if lesion.traits.place in tissues]
        lines = lines or [_without_lesion(rng, title, tissues, facts)]
        lines += [f"The {t} has been resected." for t in tissues if t in facts.resected and facts.in_view[t] >= FULLY]
        sections.append(f"{title}: {' '.join(line for line in lines if line)}")
    sections.append(f"Other: {' '.join(_other(rng, facts))}")
    return {
        "indication": str(rng.choice(_INDICATIONS)),
        "technique": _technique(facts),
        "findings": "\n".join(sections),
        "impression": "\n".join(f"{i}. {line}" for i, line in enumerate(_impression(rng, facts), 1)),
    }


def name_of(traits: Traits) -> str:
    """Short name of a lesion, e.g. "FDG-avid solid nodule in the right lung"."""
    uptake = {"avid": "FDG-avid ", "non-avid": "non-avid ", None: ""}[traits.uptake]
    return f"{uptake}{traits.density} {_noun(traits)} {PLACE_WORDS[traits.place].after[0]}"


def _noun(traits: Traits) -> str:
    return PLACE_WORDS[traits.place].nouns[-1] if traits.place != "liver" else "lesion"


def _length(rng: np.random.Generator, diameter_mm: float) -> str:
    return f"{diameter_mm:.0f} mm" if rng.random() < 0.7 else f"{diameter_mm / 10:.1f} cm"


def _lesion(rng: np.random.Generator, lesion: Measured) -> str:
    return str(rng.choice(lesion_forms(lesion, _length(rng, lesion.diameter_mm))))


def lesion_forms(lesion: Measured, length: str) -> tuple[str, ...]:
    """Every way in which the findings may speak of a lesion; `length` is its diameter as written."""
    traits = lesion.traits
    where = f"ct slice {lesion.slice_number}, z = {lesion.z_mm:.1f} mm"
    noun, place = _noun(traits), PLACE_WORDS[traits.place].after[0]
    size = traits.size.replace("medium", "medium-sized").capitalize()
    suv = "" if lesion.suv_max is None else f"SUVmax {lesion.suv_max:.1f}"
    forms: tuple[str, ...]
    if traits.uptake is None:
        forms = (
            f"{size} {traits.density} {noun} {place} measuring {length} ({where}).",
            f"There is a {length} {traits.density} {noun} {place} ({where}).",
        )
    elif traits.uptake == "avid":
        forms = (
            f"There is a {length} {traits.density} {noun} {place} with increased FDG uptake, {suv} ({where}).",
            f"{size} hypermetabolic {traits.density} {noun} {place}, {length}, {suv} ({where}).",
            f"FDG-avid {noun} {place}, {traits.density} on CT, measuring {length} with {suv} ({where}).",
        )
    else:
        forms = (
            f"There is a {length} {traits.density} {noun} {place} without FDG uptake, {suv} ({where}).",
            f"{size} non-avid {traits.density} {noun} {place}, {length}, {suv} ({where}).",
            f"A {traits.density} {noun} {place} of {length} shows no increased uptake, {suv} ({where}).",
        )
    return tuple(_AN.sub("an ", form) for form in forms)


_AN = re.compile(r"\ba (?=8|11 |18 )")


def _without_lesion(rng: np.random.Generator, title: str, tissues: tuple[str, ...], facts: Facts) -> str:
    shown = [facts.in_view[t] for t in tissues]
    kept = [t for t in tissues if t not in facts.resected]
    if not kept:
        return "" if min(shown) >= FULLY else f"{title} not included in the field of view."
    if max(shown) < HARDLY:
        return f"{title} not included in the field of view."
    if title in ("Spine", "Soft tissues") or min(shown) >= FULLY:
        clear = _CLEAR[title] if len(kept) == len(tissues) else (f"No focal lesion of the {kept[0]}.",)
        return str(rng.choice(clear))
    return f"{title} only partly included, no focal lesion in the part shown."


def _other(rng: np.random.Generator, facts: Facts) -> list[str]:
    """Physiological uptake, resections that have no section of their own, arms."""
    out = []
    if "gallbladder" in facts.resected and facts.in_view["gallbladder"] >= FULLY:
        out.append("Status after cholecystectomy.")
    if facts.dose_mbq is not None:
        hot = []
        if facts.myocardium_suv > 2.5 and facts.in_view["heart"] > HARDLY:
            hot.append("the myocardium")
        if facts.in_view["left kidney"] > HARDLY or facts.in_view["right kidney"] > HARDLY:
            hot.append("the urinary tract")
        if facts.in_view["bladder"] > HARDLY:
            hot.append("the bladder")
        if hot:
            last = hot.pop()
            listed = f"{', '.join(hot)} and {last}" if hot else last
            forms = (f"Physiological uptake in {listed}.", f"Uptake in {listed} is physiological.")
            out.append(str(rng.choice(forms)))
    if facts.arms:
        out.append("Arms at the sides of the body.")
    return out or ["No further findings."]


def _technique(facts: Facts) -> str:
    region = {"torso": "neck base to pelvis", "chest": "chest", "abdomen": "abdomen and pelvis"}[facts.view]
    contrast = "with intravenous contrast, portal venous phase" if facts.contrast else "without intravenous contrast"
    ct = f"CT of the region {region}, {facts.ct_slice_mm:.1f} mm slices, {contrast}."
    if facts.dose_mbq is None:
        return ct
    return f"FDG PET {facts.uptake_minutes:.0f} minutes after injection of {facts.dose_mbq:.0f} MBq. {ct}"


def _impression(rng: np.random.Generator, facts: Facts) -> list[str]:
    if not facts.lesions:
        forms = ("No focal lesion in the field of view.", "No evidence of malignancy in the imaged region.")
        return [str(rng.choice(forms))]
    out = []
    for lesion in sorted(facts.lesions, key=lambda m: -(m.suv_max or m.diameter_mm / 100)):
        out.append(str(rng.choice(impression_forms(lesion))))
    return out


def impression_forms(lesion: Measured) -> tuple[str, ...]:
    """Every way in which the impression may speak of a lesion."""
    suv = "" if lesion.suv_max is None else f", SUVmax {lesion.suv_max:.1f}"
    name = name_of(lesion.traits)
    return (
        f"{name[0].upper()}{name[1:]} ({lesion.diameter_mm:.0f} mm{suv}).",
        f"{lesion.diameter_mm:.0f} mm {name}{suv}.",
    )

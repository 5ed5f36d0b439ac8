"""A model that is always right: it finds what a phantom's truth says a phrase means. And the phantoms it knows."""

import re

import numpy as np

from vol3d.cache import Entry
from vol3d.text.mentions import laterality
from vol3d.text.reports import organs_in

TRAINED = (
    "right lung lesion", "left lung lesion", "lung lesion", "mediastinal lymph node", "mediastinal lesion",
    "liver lesion", "spleen lesion", "left renal lesion", "right renal lesion", "renal lesion", "bone lesion",
    "left paraspinal lesion", "right paraspinal lesion", "paraspinal lesion", "lesion", "left lung", "right lung",
    "heart", "aorta", "liver", "gallbladder", "spleen", "stomach", "left kidney", "right kidney", "urinary bladder",
    "spine",
)  # fmt: skip
ORGANS = {"lung": "lung", "kidney": "kidney", "liver": "liver", "spleen": "spleen", "mediastinum": "mediastinum",
          "bone": "spine", "soft_tissue": "soft tissue"}  # fmt: skip
DENSITIES = {
    "solid": "solid", "ground-glass": "ground-glass", "calcified|calcific": "calcified",
    "hypodense|low-attenuation|hypoattenuating": "hypodense",
    "hyperdense|high-attenuation|hyperattenuating": "hyperdense",
    "isodense|equal-density": "isodense", "lytic|lucent": "lytic", "sclerotic|osteoblastic": "sclerotic",
}  # fmt: skip
SIZES = {"small": "small|little", "medium": "medium|moderate|mid|intermediate", "large": "large|big|bulky|sizeable"}
NON_AVID = re.compile(
    r"non-?\w*-?avid|not fdg-avid|pet-negative|non-hypermetabolic|no appreciable|lacking|metabolically inactive|"
    r"(?:without|no) (?:\w+ )?(?:\w+ )?uptake"
)
AVID = re.compile(r"avid|pet-positive|glucose|accumulation|hypermetabolic|metabolically active|uptake")
THING = re.compile(r"lesion|nodule|lymph node|abnormalit|mass|sarcoma|tumou?r|malignan|\bfoc(?:us|i)\b")


def oracle(entry: Entry, phrases):
    """An `Ask`: 255 and +8 where the truth is, 0 and -8 elsewhere."""
    out = np.zeros((len(phrases), *entry.grid.shape), np.uint8)
    for i, phrase in enumerate(phrases):
        for mask in entry.masks:
            if mask.name in _masks(entry, phrase.lower()):
                out[i] |= entry.read_mask(mask.name, (0, 0, 0), entry.grid.shape) * 255
    return out, np.where(out.reshape(len(phrases), -1).any(axis=1), 8.0, -8.0).astype(np.float32)


def _masks(entry, phrase):
    if not THING.search(phrase):
        words = re.sub(r"^(?:the|urinary|entire) ", "", phrase).replace(" ", "_")
        return {m.name for m in entry.masks if m.label == words}
    return {_own_mask(entry, f["id"]) for f in entry.findings if f["present"] and _means(phrase, f)}


def _own_mask(entry, finding):
    """The one mask that shows this lesion alone; a phantom keeps one wherever some phrase means it alone."""
    return next(m.name for m in entry.masks if m.finding_id == finding)


def _means(phrase, finding):
    phrase = re.sub(r"intra(renal|splenic)", r"\1", phrase)
    organs = {ORGANS.get(organ) for _, _, organ in organs_in(phrase)}
    side = laterality(phrase)
    density = [value for words, value in DENSITIES.items() if re.search(rf"\b(?:{words})\b", phrase)]
    sizes = [name for name, words in SIZES.items() if re.search(rf"\b(?:{words})\b", phrase)]
    uptake = "non-avid" if NON_AVID.search(phrase) else "avid" if AVID.search(phrase) else None
    return (
        (not organs or finding["organ"] in organs)
        and (side in (None, "bilateral") or finding["side"] in (None, side))
        and (not density or finding["density"] in density)
        and (not sizes or finding["size"] in sizes)
        and (uptake is None or finding["uptake"] == uptake)
    )

"""Words and their counterparts, for `perturb`: what to put in place of what, and where not to."""

from __future__ import annotations

import re

ORGAN_WORDS = {
    "liver": "spleen", "spleen": "liver", "hepatic": "splenic", "splenic": "hepatic", "intrahepatic": "intrasplenic",
    "intrasplenic": "intrahepatic", "lung": "kidney", "lungs": "kidneys", "kidney": "lung", "kidneys": "lungs",
    "pulmonary": "renal", "renal": "pulmonary", "pleural": "pericardial", "pericardial": "pleural",
    "pancreas": "liver", "pancreatic": "hepatic", "mediastinum": "axilla", "mediastinal": "axillary",
    "axillary": "mediastinal", "adrenal": "renal", "spine": "sternum", "bladder": "gallbladder", "stomach": "spleen",
    "heart": "aorta", "aorta": "heart", "gallbladder": "spleen",
}  # fmt: skip
PAIRED = frozenset({"lung", "lungs", "kidney", "kidneys", "pulmonary", "renal", "adrenal"})

SIZES = (
    ("small-sized", "large-sized"), ("large-sized", "small-sized"), ("medium-sized", "large"),
    ("moderate-sized", "large"), ("small", "large"), ("large", "small"), ("tiny", "large"), ("huge", "small"),
    ("minimal", "massive"), ("massive", "minimal"), ("mild", "severe"), ("severe", "mild"), ("slight", "marked"),
    ("marked", "slight"), ("mildly", "severely"), ("severely", "mildly"), ("slightly", "markedly"),
    ("markedly", "slightly"), ("moderate", "minimal"),
)  # fmt: skip
NOT_A_SIZE = re.compile(
    r"\b(?:small|large)[- ](?:bowel|intestin\w*|cell|airways?|vessel\w*|joint|part)|"
    r"\b(?:moderate(?:ly)?|mild(?:ly)?|slight(?:ly)?) to\b|\bto (?:moderate|severe|marked)",
    re.I,
)
DENSITIES = (
    ("hypodense", "hyperdense"), ("hyperdense", "hypodense"), ("hypoattenuating", "hyperattenuating"),
    ("hyperattenuating", "hypoattenuating"), ("low-attenuation", "high-attenuation"),
    ("high-attenuation", "low-attenuation"), ("lytic", "sclerotic"), ("sclerotic", "lytic"),
)  # fmt: skip
UPTAKES = (
    ("non-FDG-avid", "FDG-avid"), ("not FDG-avid", "FDG-avid"), ("non-tracer-avid", "tracer-avid"),
    ("non-avid", "FDG-avid"), ("FDG-avid", "non-FDG-avid"), ("tracer-avid", "non-tracer-avid"),
    ("hypermetabolic", "non-avid"), ("metabolically active", "metabolically inactive"),
    ("metabolically inactive", "metabolically active"), ("shows no increased", "shows increased"),
    ("shows increased", "shows no increased"), ("without increased FDG uptake", "with increased FDG uptake"),
    ("with increased FDG uptake", "without increased FDG uptake"), ("without FDG uptake", "with increased FDG uptake"),
    ("with FDG uptake", "without FDG uptake"), ("with intense tracer uptake", "without tracer uptake"),
    ("without tracer uptake", "with intense tracer uptake"),
)  # fmt: skip

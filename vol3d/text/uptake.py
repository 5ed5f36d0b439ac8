"""Whether words speak of tracer uptake, which only a PET can show."""

import re

_UPTAKE = re.compile(
    r"\b(?:fdg|psma|(?:non-?)?avid|avidity|(?:hyper|hypo|iso)-?metabolic\w*|metabolic(?:ally)? (?:activity|active|"
    r"inactive)|(?:hyper|hypo)?-?metabolism|uptake|tracer|photopenic|suv\w*)\b",
    re.I,
)


def needs_pet(text: str) -> bool:
    """True for "FDG-avid nodule", and for "nodule without uptake": a CT can show neither to be so."""
    return _UPTAKE.search(text) is not None

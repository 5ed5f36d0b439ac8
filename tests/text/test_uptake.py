import pytest

from vol3d.text.uptake import needs_pet


@pytest.mark.parametrize(
    "text",
    ["FDG-avid nodule", "non-avid mass", "nodule without increased uptake", "hypermetabolic node", "SUVmax of the mass",
     "is the lesion metabolically active", "PSMA uptake", "tracer-avid lesion", "hypometabolism"],
)  # fmt: skip
def test_uptake_needs_a_pet(text):
    assert needs_pet(text)


@pytest.mark.parametrize("text", ["nodule in the right lung", "metabolic bone disease", "avidly enhancing mass"])
def test_what_a_ct_shows_does_not(text):
    assert not needs_pet(text)

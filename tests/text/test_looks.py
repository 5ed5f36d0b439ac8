"""Words for density, uptake and size, and what stays of a phrase without them."""

import pytest

from preprocessing.phantom_text import all_queries, wordings
from vol3d.text.looks import density_of, plain_of, size_of, uptake_of


@pytest.mark.parametrize(
    ("phrase", "plain"),
    [
        ("calcified lesion in the liver without FDG uptake", "lesion in the liver"),
        ("FDG-avid hypodense focal lesion of the left kidney", "focal lesion of the left kidney"),
        ("non-FDG-avid nodule in the right lung", "nodule in the right lung"),
        ("soft-tissue density nodule in the right lung", "nodule in the right lung"),
        ("lesion of the spleen showing no FDG uptake", "lesion of the spleen"),
        ("small densely calcified node", "small node"),
        ("nodule of ground-glass attenuation in the left lung", "nodule in the left lung"),
        ("metabolically inactive abnormality", "abnormality"),
        ("lesion in the liver", "lesion in the liver"),
        ("non-calcified nodule", "non-calcified nodule"),
    ],
)
def test_what_stays(phrase, plain):
    assert plain_of(phrase) == plain


def test_no_wording_of_the_phantoms_keeps_or_loses_more():
    changed = 0
    for query in all_queries(True):
        for number in (1, 2):
            for phrase in (p for words in wordings(query, number, 40) for p in words):
                plain = plain_of(phrase)
                assert density_of(plain) is None, phrase
                assert uptake_of(plain) is None, phrase
                assert (plain == phrase) == (density_of(phrase) is None and uptake_of(phrase) is None), phrase
                changed += plain != phrase
    assert changed > 1000


@pytest.mark.parametrize(
    ("text", "uptake"),
    [
        ("hypermetabolic nodule", "avid"), ("lesion with increased FDG uptake", "avid"), ("FDG-avid lesion", "avid"),
        ("a lesion that shows no increased uptake", "non-avid"), ("non-avid nodule", "non-avid"),
        ("lesion without FDG uptake", "non-avid"), ("nodule, not FDG-avid", "non-avid"), ("solid nodule", None),
        ("metabolically inactive lesion", "non-avid"),
    ],
)  # fmt: skip
def test_uptake_is_read_with_its_denial(text: str, uptake: str | None):
    assert uptake_of(text) == uptake


@pytest.mark.parametrize(
    ("text", "density", "size"),
    [
        ("a soft-tissue density nodule", "solid", None), ("small non-calcified nodule", None, "small"),
        ("tiny subsolid nodule", "part-solid", "small"), ("moderate-sized osteolytic lesion", "lytic", "medium"),
        ("enlarged node at the small bowel", None, None), ("large low-attenuation lesion", "hypodense", "large"),
    ],
)  # fmt: skip
def test_density_and_size_words(text: str, density: str | None, size: str | None):
    assert (density_of(text), size_of(text)) == (density, size)

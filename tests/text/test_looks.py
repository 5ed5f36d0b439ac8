"""Words for density, uptake and size, and what stays of a phrase without them."""

import pytest

from preprocessing.phantom_text import all_queries, wordings
from vol3d.text.looks import (
    denies_look,
    density_of,
    plain_of,
    says_how_it_looks,
    says_what_is_not_measured,
    size_of,
    uptake_of,
)


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


@pytest.mark.parametrize(
    "phrase",
    [
        "partly calcified lesion in the liver", "rim-calcified lesion", "lesion with a calcified wall",
        "solid and ground-glass nodules", "FDG-avid and non-avid lesions in the liver", "non calcified nodule",
        "non-calcified nodule", "lesion with decreased FDG uptake", "mildly avid node", "lesion isodense to muscle",
        "node with uptake above liver",
    ],
)  # fmt: skip
def test_looks_of_a_part_of_two_things_or_by_comparison_are_not_measured(phrase):
    assert not says_how_it_looks(phrase)
    assert says_what_is_not_measured(phrase)


@pytest.mark.parametrize("phrase", ["calcified lesion", "FDG avid node", "sclerotic bone lesion without FDG uptake"])
def test_looks_of_a_whole_thing_are(phrase):
    assert says_how_it_looks(phrase)
    assert not says_what_is_not_measured(phrase)


@pytest.mark.parametrize(
    ("sentence", "uptake"),
    [
        ("The liver lesion shows FDG uptake.", "avid"), ("The lesion takes up FDG.", "avid"),
        ("The liver lesion does not show FDG uptake.", "non-avid"), ("not hypermetabolic lesion", "non-avid"),
        ("photopenic lesion", "non-avid"), ("FDG-negative node", "non-avid"), ("lesion without uptake", "non-avid"),
    ],
)  # fmt: skip
def test_uptake_said_with_a_verb(sentence, uptake):
    assert uptake_of(sentence) == uptake


def test_a_look_that_is_denied_denies_no_thing():
    assert denies_look("The liver lesion is not calcified.")
    assert denies_look("The lesion does not show FDG uptake.")
    assert not denies_look("There is no calcified lesion in the liver.")
    assert not denies_look("A lesion is not seen in the liver.")

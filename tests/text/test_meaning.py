"""Phrases that mean the same lesion are told to, and those that narrow it otherwise are not."""

import pytest

from vol3d.text.meaning import is_of_many, meaning_of


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("PET-avid paravertebral lesion", "FDG-avid paraspinal lesion"),
        ("abnormality in the paravertebral muscles", "paraspinal lesion"),
        ("lesion in the mediastinal compartment", "mediastinal lesion"),
        ("solid-appearing nodule in either lung", "solid pulmonary nodule"),
        ("small-volume focal lesion", "small lesion"),
        ("intermediate-sized intrasplenic lesion", "medium-sized lesion in the spleen"),
        ("lesion on this examination without FDG uptake", "non-avid lesion"),
        ("calcific lesion in the vertebral column", "calcified spinal lesion"),
        ("left kidney parenchymal lesion", "lesion in the kidney on the left"),
    ],
)
def test_the_same_in_other_words(one, other):
    assert meaning_of(one) == meaning_of(other) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("lesion in the left kidney", "lesion in the right kidney"),
        ("lesion in the left kidney", "renal lesion"),
        ("left upper lobe nodule", "left lung nodule"),
        ("lung mass", "lung nodule"),
        ("mediastinal lymph node", "mediastinal lesion"),
        ("hypodense liver lesion", "liver lesion"),
        ("soft tissue lesion", "paraspinal lesion"),
        ("small bowel lesion", "small liver lesion"),
        ("bone lesion", "spinal lesion"),
    ],
)
def test_not_the_same(one, other):
    assert meaning_of(one) != meaning_of(other)
    assert meaning_of(one) is not None


@pytest.mark.parametrize(
    "phrase",
    ["hilar lymph node", "subcarinal lymph node", "rib lesion", "subpleural nodule", "lesion in the liver dome",
     "lesion in the wall of the stomach", "liver metastasis", "cystic renal lesion", "partly calcified liver lesion",
     "solid and ground-glass nodule", "lesion of the left lobe of the liver", "subcutaneous nodule", "liver",
     "lesion in the liver and the spleen", "lesion 3", "large bowel lesion", "cortical lesion of the left kidney",
     "perirenal lesion", "lesion with a nodule", "non-calcified liver lesion"],
)  # fmt: skip
def test_what_is_not_understood_has_no_meaning(phrase):
    assert meaning_of(phrase) is None


def test_number():
    assert is_of_many("FDG-avid nodules in the lungs")
    assert not is_of_many("FDG-avid nodule in the lungs")

"""Masks to triplets and phrases, with places and numbers known by hand."""

import numpy as np
import pytest

from preprocessing.weak_labels_describe import NamedMask, describe
from vol3d.geometry import Grid
from vol3d.text.uptake import needs_pet
from vol3d.volume import Volume

GRID = Grid.from_spacing((20, 20, 20), (5.0, 5.0, 5.0))


def block(*where):
    mask = np.zeros(GRID.shape, np.uint8)
    mask[tuple(slice(a, b) for a, b in where)] = 1
    return mask


LUNG = NamedMask("lung_right", block((8, 20), (0, 20), (10, 20)), "right lung")
LIVER = NamedMask("liver", block((0, 6), (0, 20), (10, 20)), "liver")


def test_organ_side_size_uptake_and_relation():
    lesion = NamedMask("lesion_1", block((9, 11), (9, 11), (14, 18)))  # 4 voxels of 5 mm along x: 20 mm
    suv = np.full(GRID.shape, 0.5, np.float32)
    suv[9, 9, 15] = 7.25
    (told,) = describe([lesion], [LUNG, LIVER], GRID, Volume(suv, GRID, "pet"), "FDG")
    assert (told.organ, told.side) == ("lung", "right")
    assert told.measurements == {"diameter_mm": 20.6, "volume_ml": 2.0, "suv_max": 7.25}
    assert told.phrase == "medium-sized hypermetabolic lesion in the right lung, above the liver"
    assert told.triplets == (
        ("lesion_1", "is in", "right lung"),
        ("lesion_1", "is on the", "right"),
        ("lesion_1", "measures", "20.6 mm"),
        ("lesion_1", "has SUVmax", "7.2"),
        ("lesion_1", "lies above", "liver"),
    )


def test_without_organs_or_pet_the_words_of_the_mask_tell_what_they_can():
    lesion = NamedMask("tumour", block((9, 10), (9, 10), (9, 10)), "node in the left axilla")
    other = NamedMask("other", block((9, 10), (9, 10), (2, 3)), "")
    told = describe([lesion, other, NamedMask("none", block((0, 0), (0, 0), (0, 0)))], [], GRID)
    assert [d.name for d in told] == ["tumour", "other"]
    assert told[0].phrase == "small lesion in the left axilla"
    assert ("tumour", "lies to the right of", "other") in told[0].triplets  # x grows to the patient's right
    assert told[1].organ is None
    assert "suv_max" not in told[1].measurements


@pytest.mark.parametrize(
    ("tracer", "suv_max", "words"),
    [
        ("FDG", 12.0, "intensely hypermetabolic"), ("PSMA", 12.0, "intensely PSMA-avid"),
        ("PSMA", 4.0, "mildly PSMA-avid"), ("DOTA", 7.0, "DOTA-avid"), (None, 12.0, "intensely tracer-avid"),
        ("Ga-68-XYZ", 7.0, "tracer-avid"), ("PSMA", 1.0, "non-avid"),
    ],
)  # fmt: skip
def test_uptake_is_of_the_tracer(tracer, suv_max, words):
    """Only FDG shows metabolism."""
    lesion = NamedMask("lesion", block((9, 10), (9, 10), (9, 10)))
    suv = np.full(GRID.shape, suv_max, np.float32)
    (told,) = describe([lesion], [], GRID, Volume(suv, GRID, "pet"), tracer)
    assert told.phrase == f"small {words} lesion"
    assert needs_pet(told.phrase)


def test_one_mask_of_all_lesions_is_told_in_the_plural():
    suv = np.full(GRID.shape, 0.5, np.float32)
    suv[10, 10, 15], suv[15, 15, 17] = 20.0, 12.0
    pet = Volume(suv, GRID, "pet")
    both = block((9, 11), (9, 11), (14, 16)) | block((14, 16), (14, 16), (16, 18))
    (told,) = describe([NamedMask("lesions", both, "lesions")], [LUNG, LIVER], GRID, pet, "PSMA")
    assert told.phrase == "intensely PSMA-avid lesions in the right lung"
    assert told.measurements == {"volume_ml": 2.0, "suv_max": 20.0}  # no diameter: each has its own
    assert told.triplets == (
        ("lesions", "counts", "2 lesions"), ("lesions", "is in", "right lung"), ("lesions", "is on the", "right"),
        ("lesions", "has SUVmax", "20.0"))  # fmt: skip
    suv[15, 15, 17] = 6.0
    (told,) = describe([NamedMask("lesions", both | block((2, 3), (5, 6), (12, 13)))], [LUNG, LIVER], GRID, pet, "PSMA")
    assert told.phrase == "lesions"  # one of them is not avid, and they are in two organs
    assert told.organ is None
    (told,) = describe([NamedMask("lesions", both)], [], GRID, pet, "FDG")
    assert told.phrase == "hypermetabolic lesions"
    # beside another finding's mask a plural would mean that one as well
    other = NamedMask("other", block((2, 3), (2, 3), (2, 3)))
    assert [d.name for d in describe([NamedMask("lesions", both), other], [], GRID, pet)] == ["other"]


@pytest.mark.parametrize(
    ("words", "called"),
    [("kidney left", "left kidney"), ("vertebrae l5", "L5 vertebra"), ("left kidney", "left kidney")],
)
def test_neighbours_are_called_as_in_speech(words, called):
    lesion = NamedMask("lesion", block((9, 10), (9, 10), (4, 5)))
    near = NamedMask(words.replace(" ", "_"), block((9, 10), (2, 4), (4, 5)), words)
    (told,) = describe([lesion], [near], GRID)
    assert told.phrase == f"small lesion, anterior to the {called}"
    assert ("lesion", "lies anterior to", called) in told.triplets

"""Masks to triplets and phrases, with places and numbers known by hand."""

import numpy as np

from preprocessing.weak_labels_describe import NamedMask, describe
from vol3d.geometry import Grid
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
    (told,) = describe([lesion], [LUNG, LIVER], GRID, Volume(suv, GRID, "pet"))
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

import math

import numpy as np
import pytest

from vol3d.metrics.report_numbers import match_masks, number_case, summarise_numbers

TRUE = {"id": "lesion_1", "measurements": {"diameter_mm": 30.0, "volume_ml": 10.0, "suv_max": 5.0}}


def told(**changes) -> dict:
    return {"longest_diameter_mm": 30.0, "volume_ml": 10.0, "suv_max": 5.0, "slice": 12} | changes


def box(start: int, stop: int):
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[start:stop, 2:6, 2:6] = 1
    return mask


def test_masks_are_matched_one_to_one_by_the_largest_sum():
    truths = [box(0, 4), box(4, 8)]
    pairs = match_masks([box(4, 7), box(1, 4), box(0, 1)], truths)
    assert [m for m, _ in pairs] == [1, 0]
    assert [d for _, d in pairs] == pytest.approx([6 / 7, 6 / 7])
    assert match_masks([], truths) == [(None, 0.0), (None, 0.0)]
    assert sorted(d for _, d in match_masks([box(0, 8)], truths)) == pytest.approx([0, 2 / 3])


@pytest.mark.parametrize(
    ("changes", "suv", "diameter", "slice_right"),
    [
        ({}, 1, 1, 1),
        ({"suv_max": 5.1}, 1, 1, 1),
        ({"suv_max": 5.11}, 0, 1, 1),
        ({"longest_diameter_mm": 26.0}, 1, 1, 1),  # two voxels of 2 mm
        ({"longest_diameter_mm": 34.1}, 1, 0, 1),
        ({"slice": 17}, 1, 1, 1),
        ({"slice": 18}, 1, 1, 0),
    ],
)
def test_tolerances(changes: dict, suv: int, diameter: int, slice_right: int):
    case = number_case("s", "p", TRUE, 0.8, told(**changes), voxel_mm=2.0, own_slices=(10, 15))
    assert (case.suv_right, case.diameter_right, case.slice_right) == (suv, diameter, slice_right)
    assert case.found


def test_volume_error_is_relative_and_signed():
    assert number_case("s", "p", TRUE, 0.8, told(volume_ml=8.0), 2.0).volume_error == pytest.approx(-0.2)


def test_a_summary_judges_found_lesions_and_counts_what_is_left_unsaid_as_wrong():
    cases = [
        number_case("a", "a", TRUE, 0.9, told(volume_ml=12.0), 2.0, (10, 15)),
        number_case("b", "b", TRUE, 0.6, told(suv_max=None, volume_ml=8.0), 2.0, (10, 15)),
        number_case("c", "c", TRUE, 0.4, told(suv_max=50.0), 2.0, (10, 15)),
        number_case("d", "d", TRUE, 0.0, None, 2.0, (10, 15)),
    ]
    table = summarise_numbers(cases, samples=100)
    assert table.found.value == 0.5
    assert table.suv_right.value == 0.5
    assert table.diameter_right.value == 1
    assert table.suv_right.cases == 2
    assert table.volume_error.value == pytest.approx(0)
    assert table.volume_absolute_error.value == pytest.approx(0.2)


def test_a_ct_has_no_suv_to_be_right_about():
    truth = {"id": "x", "measurements": {"diameter_mm": 30.0, "volume_ml": 10.0}}
    case = number_case("s", "p", truth, 0.9, told(suv_max=None), 2.0)
    assert math.isnan(summarise_numbers([case], samples=10).suv_right.value)

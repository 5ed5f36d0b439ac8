"""Many masks as one label map: nothing is lost where they overlap."""

import numpy as np
import pytest

from vol3d.errors import GeometryError
from vol3d.geometry import Grid
from vol3d.view.labels import combine

GRID = Grid.from_spacing((6, 8, 10), (3.0, 2.0, 1.0), origin_mm=(-5.0, 7.0, 11.0))


def box(*ends):
    mask = np.zeros(GRID.shape, np.uint8)
    mask[tuple(slice(*end) for end in ends)] = 1
    return mask


def test_every_voxel_knows_all_of_its_masks():
    masks = {4: box((1, 4), (1, 5), (1, 6)), 7: box((2, 5), (2, 6), (4, 9)), 9: box((3, 4), (3, 4), (4, 5))}
    found = combine(masks.items(), GRID)
    assert found.array_ZYX.dtype == np.uint8
    assert found.sets[0] == ()
    assert set(found.sets) == {(), (4,), (7,), (4, 7), (4, 7, 9)}
    for number, mask in masks.items():
        holds = np.array([number in members for members in found.sets])[found.array_ZYX]
        back = np.zeros(GRID.shape, np.uint8)
        for index in np.argwhere(holds):
            at = np.rint(GRID.mm_to_index(found.grid.index_to_mm(index))).astype(int)
            back[tuple(at)] = 1
        np.testing.assert_array_equal(back, mask)


def test_the_part_that_is_kept_has_an_empty_margin_even_past_the_edge_of_the_image():
    found = combine([(0, box((0, 2), (0, 8), (9, 10)))], GRID)
    assert found.grid.shape == (4, 10, 3)
    assert found.grid.index_to_mm((1, 1, 1)).tolist() == GRID.index_to_mm((0, 0, 9)).tolist() == [4.0, 7.0, 11.0]
    inner = found.array_ZYX[1:-1, 1:-1, 1:-1]
    assert inner.all()
    assert found.array_ZYX.sum() == inner.sum() == 2 * 8


def test_empty_masks_have_no_label_and_no_mask_no_map():
    empty = np.zeros(GRID.shape, bool)
    assert combine([(0, empty)], GRID) is None
    assert combine([], GRID) is None
    assert combine([(0, empty), (1, box((0, 1), (0, 1), (0, 1)))], GRID).sets == ((), (1,))


def test_more_than_256_sets_take_two_bytes():
    single = []
    for number in range(300):
        mask = np.zeros(GRID.shape, bool)
        mask.reshape(-1)[number] = True
        single.append((number, mask))
    found = combine(single, GRID)
    assert found.array_ZYX.dtype == np.uint16
    assert len(found.sets) == 301
    assert found.sets[found.array_ZYX[1, 1, 8]] == (7,)


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(GeometryError, match=r"shape \(6, 8, 10\), found \(6, 8, 9\)"):
        combine([(0, np.zeros((6, 8, 9), bool))], GRID)

"""Overlap, surfaces, lesions and sides, by hand and against DeepMind's surface-distance."""

import time

import numpy as np
import pytest
from scipy import ndimage

from vol3d.errors import GeometryError
from vol3d.geometry import Grid
from vol3d.metrics.segmentation import (
    LesionCounts,
    dice,
    hd95,
    lesion_counts,
    lesion_f1,
    mirror_left_right,
    nsd,
    score,
    surface_scores,
    suv_match,
    wrong_side,
)
from vol3d.metrics.surface import surface_distances
from vol3d.volume import Volume

SHAPE = (12, 14, 16)


def mask_at(*voxels, shape=SHAPE):
    mask = np.zeros(shape, np.uint8)
    for voxel in voxels:
        mask[voxel] = 1
    return mask


def blobs(seed, shape=(18, 20, 22), level=0.05):
    return ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.0) > level


def test_dice_by_hand():
    assert dice(mask_at((0, 0, 0), (0, 0, 1), (0, 0, 2)), mask_at((0, 0, 2), (0, 0, 3))) == pytest.approx(2 / 5)
    assert dice(mask_at((1, 1, 1)), mask_at((1, 1, 1))) == 1.0
    assert dice(mask_at((1, 1, 1)) * 255, mask_at((1, 1, 1)).astype(bool)) == 1.0  # members are non-zero


def test_empty_masks_follow_the_convention():
    empty, full = mask_at(), mask_at((3, 3, 3))
    spacing = (3.0, 2.0, 1.0)
    assert np.isnan(dice(empty, empty))
    assert all(np.isnan(surface_scores(empty, empty, spacing)))
    diagonal = np.sqrt((12 * 3) ** 2 + (14 * 2) ** 2 + 16**2)
    for pred, truth in [(empty, full), (full, empty)]:
        assert dice(pred, truth) == 0.0
        assert nsd(pred, truth, spacing) == 0.0
        assert hd95(pred, truth, spacing) == pytest.approx(diagonal)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_two_voxels_a_known_distance_apart(axis):
    spacing = (3.0, 2.0, 1.0)
    there = [2, 2, 2]
    there[axis] += 7
    pred, truth = mask_at((2, 2, 2)), mask_at(tuple(there))
    # the voxels' corners on the near side are 6 steps apart, on the far side 7: 95% of the area is within 7 steps
    found = surface_distances(pred, truth, spacing)
    assert found.pred_to_truth_mm.tolist() == pytest.approx([6 * spacing[axis]] * 4 + [7 * spacing[axis]] * 4)
    assert hd95(pred, truth, spacing) == pytest.approx(7 * spacing[axis])
    assert nsd(pred, truth, spacing, 7 * spacing[axis]) == 1.0
    assert nsd(pred, truth, spacing, 6.5 * spacing[axis]) == pytest.approx(0.5)
    assert nsd(pred, truth, spacing, 5.5 * spacing[axis]) == 0.0


def test_one_voxel_has_the_surface_of_an_octahedron():
    found = surface_distances(mask_at((5, 5, 5)), mask_at((5, 5, 5)), (1.0, 1.0, 1.0))
    assert found.truth_area_mm2.sum() == pytest.approx(8 * np.sqrt(3) / 8)  # 8 corners, a triangle each
    assert found.truth_to_pred_mm.max() == 0.0


def test_the_surface_of_a_slab_has_its_area_in_mm2():
    mask = np.zeros((10, 40, 40), np.uint8)
    mask[4:6, 5:35, 5:35] = 1
    found = surface_distances(mask, mask, (3.0, 2.0, 1.0))
    flat = 2 * (30 * 2.0) * (30 * 1.0)
    rim = 2 * (2 * 3.0) * (60.0 + 30.0)
    assert flat * 0.93 < found.truth_area_mm2.sum() < flat + rim


def test_rounding_in_the_spacing_does_not_move_the_tolerance():
    pred, truth = mask_at(*np.ndindex(3, 3, 3)), mask_at(*(tuple(np.add(i, (2, 0, 0))) for i in np.ndindex(3, 3, 3)))
    noisy = (1.0 + 3e-8, 1.0, 1.0)  # a float32 header
    assert nsd(pred, truth, noisy) == nsd(pred, truth, (1.0, 1.0, 1.0)) == 1.0


# (NSD at 2 mm, HD95) of surface-distance 0.1 for blobs(2 n) against blobs(2 n + 1), spacing (3.3, 1.7, 0.9)
FROZEN = (
    (0.4898921277762307, 7.312318373812781),
    (0.46449220707976835, 9.899999999999999),
    (0.5879093522621744, 7.158910531638177),
)


@pytest.mark.parametrize("case", range(3))
def test_surface_scores_equal_the_reference_numbers(case):
    found = surface_scores(blobs(2 * case), blobs(2 * case + 1), (3.3, 1.7, 0.9))
    assert found == pytest.approx(FROZEN[case], rel=1e-9)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.77, 0.77), (2.5, 1.25, 4.0), (3.27, 5.47, 5.47)])
@pytest.mark.parametrize("seed", [10, 20])
def test_parity_with_surface_distance(spacing, seed):
    reference = pytest.importorskip("surface_distance")
    pred, truth = blobs(seed), blobs(seed + 1, level=0.12)
    theirs = reference.compute_surface_distances(truth, pred, spacing)
    ours = surface_distances(pred, truth, spacing)
    np.testing.assert_allclose(ours.pred_to_truth_mm, theirs["distances_pred_to_gt"], atol=1e-9)
    np.testing.assert_allclose(ours.truth_to_pred_mm, theirs["distances_gt_to_pred"], atol=1e-9)
    assert ours.pred_area_mm2.sum() == pytest.approx(theirs["surfel_areas_pred"].sum(), rel=1e-9)
    assert ours.truth_area_mm2.sum() == pytest.approx(theirs["surfel_areas_gt"].sum(), rel=1e-9)
    assert hd95(pred, truth, spacing) == pytest.approx(reference.compute_robust_hausdorff(theirs, 95), abs=1e-9)
    for tolerance in (0.5, 2.0, 3.3):
        expected = reference.compute_surface_dice_at_tolerance(theirs, tolerance)
        assert nsd(pred, truth, spacing, tolerance) == pytest.approx(expected, abs=1e-9)


def test_far_apart_masks_stay_cheap():
    truth, pred = np.zeros((300, 400, 400), bool), np.zeros((300, 400, 400), bool)
    truth[5:15, 5:25, 5:25], pred[280:295, 370:390, 370:390] = True, True
    start = time.perf_counter()
    assert hd95(pred, truth, (1.0, 1.0, 1.0)) > 500
    assert time.perf_counter() - start < 10.0  # distance maps of the whole box take far longer


def test_masks_on_different_grids_are_refused():
    with pytest.raises(GeometryError, match="two masks on one grid"):
        dice(np.ones((2, 2, 2)), np.ones((2, 2, 3)))


def test_lesions_are_counted_by_one_voxel_of_overlap():
    grid = Grid.from_spacing(SHAPE, (10.0, 10.0, 5.0))
    truth = mask_at((0, 0, 0), (0, 0, 1), (5, 5, 5), (5, 6, 6), (9, 9, 9), (9, 9, 10))
    pred = mask_at((0, 0, 1), (5, 7, 7), (11, 0, 0), (11, 0, 1), (11, 0, 2))
    # truth lesions: (0,0,0-1) hit; (5,5,5)+(5,6,6) one by an edge, missed; (9,9,9-10) missed
    counts = lesion_counts(pred, truth, grid)
    assert (counts.tp, counts.fn, counts.fp) == (1, 2, 2)
    assert counts.fn_ml == pytest.approx(4 * 0.5)
    assert counts.fp_ml == pytest.approx(4 * 0.5)


def test_corner_neighbours_are_two_lesions():
    grid = Grid.from_spacing(SHAPE, (1.0, 1.0, 1.0))
    counts = lesion_counts(mask_at(), mask_at((1, 1, 1), (2, 2, 2)), grid)
    assert (counts.tp, counts.fn, counts.fp) == (0, 2, 0)


def test_no_lesion_and_no_answer_count_nothing():
    grid = Grid.from_spacing(SHAPE, (1.0, 1.0, 1.0))
    assert lesion_counts(mask_at(), mask_at(), grid) == LesionCounts(0, 0, 0, 0.0, 0.0)


def test_f1_pools_lesions_over_cases():
    cases = [LesionCounts(3, 1, 0, 0.0, 0.0), LesionCounts(0, 0, 2, 0.0, 0.0)]
    assert lesion_f1(cases) == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert np.isnan(lesion_f1([LesionCounts(0, 0, 0, 0.0, 0.0)]))


def test_suv_match_needs_the_peak_voxel_and_some_overlap():
    grid = Grid.from_spacing(SHAPE, (4.0, 4.0, 4.0))
    array = np.ones(SHAPE, np.float32)
    array[5, 5, 5], array[5, 5, 6] = 8.0, 7.9
    pet = Volume(array, grid, "pet")
    truth = mask_at((5, 5, 4), (5, 5, 5), (5, 5, 6))
    assert suv_match(mask_at((5, 5, 5)), truth, pet) == 1.0
    assert suv_match(mask_at((5, 5, 6)), truth, pet) == 1.0  # 7.9 is within 0.1 of 8.0
    assert suv_match(mask_at((5, 5, 4)), truth, pet) == 0.0  # its maximum is 1.0
    assert suv_match(mask_at((5, 5, 5), *np.ndindex(3, 3, 3)), truth, pet) == 0.0  # Dice 2 / 31
    assert suv_match(mask_at(), truth, pet) == 0.0
    assert suv_match(truth, mask_at(), pet) == 0.0
    assert np.isnan(suv_match(mask_at(), mask_at(), pet))


def test_wrong_side_is_more_of_the_other_or_nothing():
    left, right = mask_at((1, 1, 1), (1, 1, 2), (1, 1, 3)), mask_at((1, 1, 12), (1, 1, 13))
    assert not wrong_side(mask_at((1, 1, 1), (1, 1, 12)), left, right)  # a tie
    assert wrong_side(mask_at((1, 1, 1), (1, 1, 12), (1, 1, 13)), left, right)
    assert not wrong_side(mask_at((1, 1, 1), (1, 1, 2), (1, 1, 12)), left, right)
    assert wrong_side(mask_at(), left, right)
    assert not wrong_side(mask_at((9, 9, 9)), left, right)  # elsewhere: a miss, but no swap


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("flips", [(), (0, 2)])
def test_mirror_reflects_in_the_midline(order, flips):
    grid = Grid.from_spacing((4, 5, 11), (3.0, 2.0, 2.0), (-50.0, 0.0, 0.0))
    mask = mask_at((1, 2, 3), shape=grid.shape)  # x = -44 mm
    volume = Volume(mask, grid, "mask").permute(order).flip(flips)
    mirrored = mirror_left_right(volume.array_ZYX, volume.grid, midline_mm=-41.0)
    (found,) = np.argwhere(mirrored)
    assert volume.grid.index_to_mm(found) == pytest.approx((-38.0, 4.0, 3.0))
    gone = mirror_left_right(volume.array_ZYX, volume.grid, midline_mm=0.0)
    assert not gone.any()


def test_mirror_refuses_an_oblique_grid():
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0.6, 0.8], [0, 0.8, -0.6], [1, 0, 0]]
    with pytest.raises(GeometryError, match="axis-aligned"):
        mirror_left_right(np.zeros((4, 4, 4)), Grid((4, 4, 4), affine), 0.0)


def test_score_gathers_all_of_it():
    grid = Grid.from_spacing(SHAPE, (10.0, 10.0, 5.0))
    found = score(mask_at((0, 0, 0), (0, 0, 1)), mask_at((0, 0, 1)), grid)
    assert found.dice == pytest.approx(2 / 3)
    assert (found.pred_ml, found.truth_ml) == (1.0, 0.5)
    assert found.lesions == LesionCounts(1, 0, 0, 0.0, 0.0)
    assert found.hd95_mm == pytest.approx(5.0)

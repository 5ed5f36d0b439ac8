"""Sizes and uptake against numbers worked out by hand."""

import time

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from vol3d.errors import GeometryError
from vol3d.geometry import Grid
from vol3d.measure import (
    PEAK_DIAMETER_MM,
    bounding_box,
    components,
    diameters,
    peak_weights,
    slices,
    suv_statistics,
    volume_ml,
)
from vol3d.volume import Volume

GRID = Grid.from_spacing((20, 20, 20), (4.0, 2.0, 1.0), (-10.0, 5.0, 100.0))


def mask_at(*voxels, grid=GRID):
    mask = np.zeros(grid.shape, np.uint8)
    for voxel in voxels:
        mask[voxel] = 1
    return mask


def ball(grid, centre_mm, radius_mm):
    mm = grid.index_to_mm(np.moveaxis(np.indices(grid.shape), 0, -1))
    return (np.linalg.norm(mm - centre_mm, axis=-1) <= radius_mm).astype(np.uint8)


def oblique(shape, spacing, angles=(20, 30, 40), order=(0, 1, 2)):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()[:, ::-1] * spacing
    affine[:3, 3] = (12.5, -40.25, 7.75)
    return Grid(shape, affine).permute(order)


def pet(array, grid):
    return Volume(array.astype(np.float32), grid, "pet")


def test_volume_counts_voxels_times_their_size():
    assert volume_ml(mask_at((0, 0, 0), (3, 4, 5)), GRID) == pytest.approx(2 * 4 * 2 * 1 / 1000)


def test_an_empty_mask_has_no_sizes():
    empty = mask_at()
    assert volume_ml(empty, GRID) == 0.0
    assert bounding_box(empty) is None
    assert components(empty, GRID) == []
    assert diameters(empty, GRID) is None
    assert slices(empty, GRID) is None
    statistics = suv_statistics(empty, pet(np.ones(GRID.shape), GRID))
    assert (statistics.voxels, statistics.volume_ml, statistics.tlg_g) == (0, 0.0, 0.0)
    assert (statistics.suv_max, statistics.suv_mean, statistics.suv_peak, statistics.max_mm) == (None,) * 4


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(GeometryError, match=r"\(20, 20, 20\), found \(2, 2, 2\)"):
        volume_ml(np.ones((2, 2, 2)), GRID)


def test_bounding_box_is_half_open():
    assert bounding_box(mask_at((2, 3, 4), (5, 3, 9))) == ((2, 3, 4), (6, 4, 10))


def test_one_voxel_is_as_wide_as_itself():
    sizes = diameters(mask_at((4, 5, 6)), GRID)
    assert sizes.axial_long_mm == pytest.approx(2.0)  # along y
    assert sizes.axial_short_mm == pytest.approx(1.0)  # along x
    assert sizes.longest_3d_mm == pytest.approx(4.0)  # along z
    assert sizes.axial_index == 4


def test_a_row_of_voxels_with_anisotropic_spacing():
    sizes = diameters(mask_at(*[(3, y, 7) for y in range(5, 12)]), GRID)
    assert sizes.axial_long_mm == pytest.approx(7 * 2.0)
    assert sizes.axial_short_mm == pytest.approx(1.0)
    assert sizes.axial_ends_mm[0][2] == pytest.approx(100.0 + 3 * 4.0)
    assert sorted(end[1] for end in sizes.axial_ends_mm) == pytest.approx([5 + 2 * 4.5, 5 + 2 * 11.5])


def test_two_voxels_apart_in_two_slices():
    sizes = diameters(mask_at((0, 0, 0), (10, 0, 0)), GRID)
    assert sizes.longest_3d_mm == pytest.approx(11 * 4.0)
    assert sizes.axial_long_mm == pytest.approx(2.0)  # no slice holds both


def test_a_rectangle_spans_its_face_centres():
    grid = Grid.from_spacing((3, 40, 40), (1.0, 1.0, 1.0))
    mask = np.zeros(grid.shape, np.uint8)
    mask[1, 5:35, 10:20] = 1  # 30 mm by 10 mm
    sizes = diameters(mask, grid)
    # farthest face centres: (top of one corner voxel) to (bottom of the opposite one): 30 mm by 9 mm
    assert sizes.axial_long_mm == pytest.approx(np.hypot(30, 9))
    assert 10.0 < sizes.axial_short_mm < 10.6  # 10 / cos(16.7 deg) = 10.44, less the cut corners


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_a_ball_has_its_diameter_on_any_grid(order):
    grid = oblique((40, 60, 70), (2.0, 1.2, 1.0), order=order)
    centre = grid.index_to_mm((np.array(grid.shape) - 1) / 2)
    sizes = diameters(ball(grid, centre, 25.0), grid)
    assert sizes.longest_3d_mm == pytest.approx(50.0, abs=2.0)
    assert sizes.axial_long_mm == pytest.approx(50.0, abs=2.0)
    assert sizes.axial_short_mm == pytest.approx(50.0, abs=2.0)
    axial_axis = order.index(0)
    assert sizes.axial_index == pytest.approx((grid.shape[axial_axis] - 1) / 2, abs=3)
    ends = np.array(sizes.axial_ends_mm)
    assert np.linalg.norm(ends[0] - ends[1]) == pytest.approx(sizes.axial_long_mm, abs=1e-6)
    assert np.linalg.norm(ends - centre, axis=1) == pytest.approx([25.0, 25.0], abs=3.0)


def test_diameters_agree_with_every_pair_of_face_centres():
    generator = np.random.default_rng(0)
    grid = oblique((9, 10, 11), (3.0, 1.5, 0.8), angles=(3, 5, 8))
    for _ in range(5):
        mask = (ndimage.gaussian_filter(generator.normal(size=grid.shape), 1.2) > 0.12).astype(np.uint8)
        voxels = np.argwhere(mask)
        steps = np.concatenate([np.eye(3), -np.eye(3)]) / 2
        faces = grid.index_to_mm((voxels[:, None] + steps).reshape(-1, 3))
        expected = max(np.linalg.norm(faces - face, axis=1).max() for face in faces)
        sizes = diameters(mask, grid)
        assert sizes.longest_3d_mm == pytest.approx(expected, abs=1e-6)
        in_plane = steps[steps[:, 0] == 0]
        longest = 0.0
        for z in np.unique(voxels[:, 0]):
            own = voxels[voxels[:, 0] == z]
            edge = grid.index_to_mm((own[:, None] + in_plane).reshape(-1, 3))
            longest = max(longest, *(np.linalg.norm(edge - point, axis=1).max() for point in edge))
        assert sizes.axial_long_mm == pytest.approx(longest, abs=1e-6)
        assert 0 < sizes.axial_short_mm <= sizes.axial_long_mm


def test_diameters_of_a_large_organ_are_quick():
    grid = Grid.from_spacing((150, 200, 250), (3.0, 1.5, 1.5))
    mask = ball(grid, grid.index_to_mm((75.0, 100.0, 125.0)), 140.0)
    start = time.perf_counter()
    sizes = diameters(mask, grid)
    assert time.perf_counter() - start < 20.0
    assert sizes.longest_3d_mm == pytest.approx(280.0, abs=3.0)


def test_components_join_over_edges_but_not_over_corners():
    edge = components(mask_at((1, 1, 1), (1, 2, 2)), GRID)
    corner = components(mask_at((1, 1, 1), (2, 2, 2)), GRID)
    assert [c.voxels for c in edge] == [2]
    assert [c.voxels for c in corner] == [1, 1]


def test_components_are_ordered_by_size_and_know_their_place():
    mask = mask_at((0, 0, 0), *[(8, y, 7) for y in range(3, 6)])
    first, second = components(mask, GRID)
    assert (first.voxels, first.start, first.stop) == (3, (8, 3, 7), (9, 6, 8))
    assert first.volume_ml == pytest.approx(3 * 8 / 1000)
    assert (second.voxels, second.start) == (1, (0, 0, 0))
    assert first.mask_ZYX.shape == (1, 3, 1)


def test_slices_count_from_one_and_tell_z():
    mask = mask_at((3, 0, 0), (4, 0, 0), (4, 0, 1), (6, 0, 0))
    found = slices(mask, GRID)
    assert (found.first, found.last, found.largest) == (4, 7, 5)
    assert (found.first_z_mm, found.last_z_mm, found.largest_z_mm) == pytest.approx((112.0, 124.0, 116.0))


def test_slices_take_instance_numbers_that_run_backwards():
    found = slices(mask_at((3, 0, 0), (4, 0, 0)), GRID, slice_numbers=tuple(range(120, 100, -1)))
    assert (found.first, found.last) == (116, 117)
    assert (found.first_z_mm, found.last_z_mm) == pytest.approx((116.0, 112.0))
    assert found.largest == 117


def test_slices_refuse_numbers_that_do_not_fit():
    with pytest.raises(GeometryError, match="each of 20 slices, found 3"):
        slices(mask_at((0, 0, 0)), GRID, slice_numbers=(1, 2, 3))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (5.0, 4.0, 4.0), (3.27, 5.47, 5.47), (2.0, 13.0, 2.0)])
def test_peak_weights_are_a_sphere_of_one_ml(spacing):
    weights = peak_weights(spacing)
    assert weights.sum() * np.prod(spacing) / 1000 == pytest.approx(1.0, rel=0.02)
    assert np.array_equal(weights, weights[::-1, ::-1, ::-1])
    assert weights.min() >= 0
    assert weights.max() <= 1
    assert all(n % 2 == 1 for n in weights.shape)
    assert pytest.approx(12.407, abs=1e-3) == PEAK_DIAMETER_MM


def test_suv_statistics_by_hand():
    grid = Grid.from_spacing((5, 5, 5), (10.0, 10.0, 10.0))
    array = np.zeros(grid.shape)
    array[1, 2, 3], array[1, 2, 4], array[4, 4, 4] = 6.0, 3.0, 50.0
    statistics = suv_statistics(mask_at((1, 2, 3), (1, 2, 4), grid=grid), pet(array, grid))
    assert (statistics.suv_max, statistics.suv_mean) == (6.0, 4.5)
    assert statistics.volume_ml == pytest.approx(2.0)
    assert statistics.tlg_g == pytest.approx(9.0)
    assert statistics.max_mm == pytest.approx((30.0, 20.0, 10.0))


def test_peak_of_a_constant_is_the_constant_up_to_the_edge():
    grid = Grid.from_spacing((6, 7, 8), (3.0, 4.0, 4.0))
    volume = pet(np.full(grid.shape, 3.5), grid)
    for voxel in [(3, 3, 3), (0, 0, 0), (5, 6, 7)]:
        assert suv_statistics(mask_at(voxel, grid=grid), volume).suv_peak == pytest.approx(3.5, rel=1e-6)


def test_peak_of_a_point_is_its_share_of_one_ml():
    grid = Grid.from_spacing((15, 15, 15), (2.0, 2.0, 2.0))
    array = np.zeros(grid.shape)
    array[7, 7, 7] = 100.0
    peak = suv_statistics(mask_at((7, 7, 7), grid=grid), pet(array, grid)).suv_peak
    assert peak == pytest.approx(100.0 * 8.0 / 1000.0, rel=0.02)
    far = suv_statistics(mask_at((7, 7, 12), grid=grid), pet(array, grid)).suv_peak  # 10 mm off, radius 6.2 mm
    assert far == pytest.approx(0.0, abs=1e-9)


def test_peak_agrees_with_a_plain_loop_over_the_neighbourhood():
    generator = np.random.default_rng(1)
    grid = oblique((10, 11, 12), (3.3, 4.1, 3.9))
    array = generator.gamma(1.0, 2.0, grid.shape)
    mask = mask_at((0, 1, 2), (5, 5, 5), (9, 10, 11), grid=grid)
    weights = peak_weights(grid.spacing_mm)
    reach = np.array(weights.shape) // 2
    best = 0.0
    for centre in np.argwhere(mask):
        total = share = 0.0
        for offset in np.ndindex(weights.shape):
            at = centre + offset - reach
            if (at >= 0).all() and (at < grid.shape).all():
                total += weights[offset] * np.float32(array[tuple(at)])
                share += weights[offset]
        best = max(best, total / share)
    assert suv_statistics(mask, pet(array, grid)).suv_peak == pytest.approx(best, rel=1e-6)


def test_uptake_is_measured_on_pet_only():
    with pytest.raises(GeometryError, match="expected a PET volume"):
        suv_statistics(mask_at((0, 0, 0)), Volume(np.zeros(GRID.shape, np.int16), GRID, "ct"))


def test_tumour_of_sts_001_has_its_known_uptake(data_dir):
    import nibabel as nib

    folder = data_dir / "sts" / "STS_001"
    image = nib.load(next(folder.glob("PET_image*")))
    mask = nib.load(next(folder.glob("PET_mask*")))
    grid = Grid.from_xyz(image.shape, image.affine)
    statistics = suv_statistics(
        np.asarray(mask.dataobj).transpose(2, 1, 0), pet(np.asarray(image.dataobj).transpose(2, 1, 0), grid)
    )
    assert statistics.suv_max == pytest.approx(7.910674, rel=1e-4)
    assert statistics.suv_mean == pytest.approx(2.55515, rel=1e-4)
    assert statistics.voxels == 5095
    assert statistics.suv_mean < statistics.suv_peak < statistics.suv_max

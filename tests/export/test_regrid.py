"""A structure drawn in mm on the common grid lands on the same mm of any source grid."""

import itertools
import tracemalloc

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.transform import Rotation

from vol3d.errors import GeometryError, Vol3dError
from vol3d.export.regrid import probability_on, to_source_grid
from vol3d.geometry import Grid
from vol3d.resampling import resample

COMMON = Grid.from_spacing((40, 44, 48), (3.0, 3.0, 3.0), (-70.0, -65.0, -60.0))
BOX_MM = ((-31.0, -20.0, -12.0), (26.0, 25.0, 30.0))  # 57 x 45 x 42 mm


def box_on(grid, low=BOX_MM[0], high=BOX_MM[1]):
    mm = grid.index_to_mm(np.moveaxis(np.indices(grid.shape), 0, -1))
    return ((mm > low) & (mm < high)).all(axis=-1)


def soft_box():
    """Share of each common voxel inside the box, as uint8 0..255: its half level is the box's faces."""
    shares = []
    for axis, n in enumerate(COMMON.shape):
        world = 2 - axis
        centre = COMMON.origin_mm[world] + 3.0 * np.arange(n)
        inside = np.minimum(centre + 1.5, BOX_MM[1][world]) - np.maximum(centre - 1.5, BOX_MM[0][world])
        shares.append(np.clip(inside / 3.0, 0, 1))
    return np.round(255 * shares[0][:, None, None] * shares[1][:, None] * shares[2]).astype(np.uint8)


def blob(shape, seed=0, sigma=3.0):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), sigma)
    return np.clip(128 + 90 * noise / noise.std(), 0, 255).astype(np.uint8)


def axis_aligned_sources():
    fine = Grid.from_spacing((90, 110, 130), (1.5, 0.98, 0.98), (-64.0, -55.0, -65.0))
    coarse = Grid.from_spacing((24, 25, 26), (5.0, 4.6, 4.6), (-60.0, -58.0, -58.0))
    for grid, order, flips in itertools.product(
        (fine, coarse), ((0, 1, 2), (1, 2, 0), (2, 1, 0)), ((), (1, 2), (0, 1, 2))
    ):
        yield grid.permute(order).flip(flips)


def oblique_source(angles, spacing):
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    affine[:3, :3] = turn[:, ::-1] * spacing
    shape = tuple(int(150 / s) for s in spacing)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


@pytest.mark.parametrize("source", axis_aligned_sources(), ids=lambda g: f"{g.orientation}-{g.spacing_mm[0]:.1f}")
def test_a_box_lands_on_its_millimetres(source):
    mask = to_source_grid(soft_box(), COMMON, source, 0.5)
    assert mask.dtype == np.uint8
    found = source.index_to_mm(np.argwhere(mask))
    half = max(source.spacing_mm) / 2
    reach = half + 0.35  # the half level of an interpolated step lies up to a third of a mm off the face
    assert found.min(axis=0) == pytest.approx(BOX_MM[0], abs=reach + half)
    assert found.max(axis=0) == pytest.approx(BOX_MM[1], abs=reach + half)
    inner = box_on(source, np.add(BOX_MM[0], 2.0), np.subtract(BOX_MM[1], 2.0))
    outer = box_on(source, np.subtract(BOX_MM[0], 1.5), np.add(BOX_MM[1], 1.5))
    rounded = 3.0  # edges and corners of the box, where shares multiply, are cut
    assert mask[~outer].sum() == 0
    assert (mask[inner] == 0).sum() * source.voxel_ml < 0.02 * 57 * 45 * 42 / 1000 * rounded
    on_lattice = source.index_to_mm(np.argwhere(box_on(source))).mean(axis=0)
    assert found.mean(axis=0) == pytest.approx(on_lattice, abs=0.2 * half)


@pytest.mark.parametrize("angles", [(4.0, 0.0, 0.0), (20.0, 30.0, 40.0), (-70.0, 10.0, 160.0)])
@pytest.mark.parametrize("spacing", [(1.5, 1.2, 1.2), (5.0, 4.0, 4.0)])
def test_a_box_lands_on_its_millimetres_of_an_oblique_grid(angles, spacing):
    source = oblique_source(angles, spacing)
    mask = to_source_grid(soft_box(), COMMON, source, 0.5)
    expected = box_on(source)
    dice = 2 * (mask & expected).sum() / (mask.sum() + expected.sum())
    assert dice > (0.97 if spacing[0] < 2 else 0.93)
    centre = source.index_to_mm(np.argwhere(mask)).mean(axis=0)
    on_lattice = source.index_to_mm(np.argwhere(expected)).mean(axis=0)
    assert centre == pytest.approx(on_lattice, abs=0.15 * max(spacing))


def test_a_half_space_is_cut_at_the_hand_computed_voxel():
    grid = Grid.from_spacing((4, 4, 10), (2.0, 2.0, 2.0))  # x centres 0, 2, .. 18
    probability = np.zeros(grid.shape, np.uint8)
    probability[:, :, :5] = 255  # half level at x = 9, between 8 and 10
    source = Grid.from_spacing((4, 4, 20), (2.0, 2.0, 1.0), (-0.4, 0.0, 0.0)).flip((2,))  # x = 18.6 .. -0.4
    mask = to_source_grid(probability, grid, source, 0.5)
    x_mm = source.index_to_mm(np.argwhere(mask))[:, 0]
    assert (x_mm.min(), x_mm.max()) == pytest.approx((-0.4, 8.6))
    strict = to_source_grid(probability, grid, source, 0.9)  # 0.9 is reached at x = 8.2
    assert source.index_to_mm(np.argwhere(strict))[:, 0].max() == pytest.approx(7.6)


def test_a_tie_is_a_member():
    grid = Grid.from_spacing((1, 1, 2), (2.0, 2.0, 2.0))
    source = Grid.from_spacing((1, 1, 3), (2.0, 2.0, 1.0))
    assert to_source_grid(np.array([[[255, 0]]], np.uint8), grid, source, 0.5).tolist() == [[[1, 1, 0]]]


def test_outside_the_common_grid_there_is_nothing():
    full = np.full(COMMON.shape, 255, np.uint8)
    source = COMMON.pad((5, 6, 7), (8, 9, 10))
    mask = to_source_grid(full, COMMON, source, 0.5)
    assert mask.sum() == full.size
    assert mask[5:45, 6:50, 7:55].all()
    away = COMMON.crop((100, 0, 0), (110, 10, 10))
    assert not to_source_grid(full, COMMON, away, 0.5).any()


def test_the_same_grid_thresholds_only():
    probability = blob(COMMON.shape)
    assert np.array_equal(to_source_grid(probability, COMMON, COMMON, 0.5), probability >= 127.5)


@pytest.mark.parametrize("slab_voxels", [1, 4000, 60000])
@pytest.mark.parametrize("source", list(axis_aligned_sources())[::4], ids=lambda g: f"{g.orientation}-{g.shape[0]}")
def test_slabs_equal_the_whole(source, slab_voxels):
    probability = blob(COMMON.shape)
    whole = resample(probability, COMMON, source, 0.0)  # 0..255
    mask = to_source_grid(probability, COMMON, source, 0.5, slab_voxels)
    level = 127.5 - 255e-4  # a tie is a member
    clear = np.abs(whole - level) > 1e-3
    assert clear.mean() > 0.999
    assert np.array_equal(mask[clear], whole[clear] >= level)
    assert 0.2 < mask.mean() < 0.8


def test_a_small_lesion_equals_the_whole():
    probability = np.zeros(COMMON.shape, np.uint8)
    probability[20:22, 17:20, 30:32] = 255
    for source in (*axis_aligned_sources(), oblique_source((20.0, 30.0, 40.0), (1.5, 1.2, 1.2))):
        whole = resample(probability, COMMON, source, 0.0) >= 127.5 - 0.03
        assert np.array_equal(to_source_grid(probability, COMMON, source, 0.5), whole)
        assert whole.any() or source.voxel_ml > 0.05


def test_floats_and_masks_are_probabilities_too():
    source = next(axis_aligned_sources())
    quantised = blob(COMMON.shape)
    as_float = to_source_grid(quantised.astype(np.float32) / 255, COMMON, source, 0.5)
    assert (as_float != to_source_grid(quantised, COMMON, source, 0.5)).mean() < 1e-4
    member = quantised > 127
    as_mask = to_source_grid(member, COMMON, source, 0.5)
    assert np.array_equal(as_mask, to_source_grid(member.astype(np.uint8) * 255, COMMON, source, 0.5))


def test_memory_is_the_mask_and_little_more():
    source = Grid.from_spacing((240, 360, 360), (0.5, 0.36, 0.36), (-65.0, -60.0, -58.0)).flip((0, 1))
    probability = blob(COMMON.shape)
    tracemalloc.start()
    mask = to_source_grid(probability, COMMON, source, 0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert mask.mean() > 0.2
    assert peak < 2.2 * mask.nbytes  # a float32 array of the source alone would be 4


def test_nonsense_is_refused():
    probability = blob(COMMON.shape)
    with pytest.raises(GeometryError, match="grid's shape"):
        to_source_grid(probability[1:], COMMON, COMMON, 0.5)
    with pytest.raises(Vol3dError, match="threshold above 0"):
        to_source_grid(probability, COMMON, COMMON, 0.0)
    with pytest.raises(Vol3dError, match=r"uint8 0\.\.255 or float 0\.\.1, found int64"):
        to_source_grid(probability.astype(np.int64), COMMON, COMMON, 0.5)


def test_the_probability_itself_is_interpolated_between_voxels():
    grid = Grid.from_spacing((1, 1, 3), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    source = Grid.from_spacing((1, 1, 7), (2.0, 2.0, 1.0), (-1.0, 0.0, 0.0))  # from 1 mm before to 1 mm behind it
    stored = np.array([[[0, 100, 255]]], np.uint8)
    # at 0, 1, ... 4 mm: 0, half of 100, 100, half-way from 100 to 255, 255
    assert probability_on(stored, grid, source)[0, 0, 1:6].tolist() == [0, 50, 100, 178, 255]
    whole = probability_on(stored / np.float32(255), grid, source)
    np.testing.assert_array_equal(whole, probability_on(stored, grid, source))
    far = Grid.from_spacing((1, 1, 2), (2.0, 2.0, 2.0), (90.0, 0.0, 0.0))
    assert not probability_on(stored, grid, far).any()


def test_the_thresholded_probability_is_the_mask():
    probability = (blob((12, 14, 16)) * 255).astype(np.uint8)
    grid = Grid.from_spacing(probability.shape, (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))
    source = Grid.from_spacing((20, 30, 40), (1.7, 1.3, 1.1), (2.0, 1.0, 0.5))
    mask, values = to_source_grid(probability, grid, source, 0.5), probability_on(probability, grid, source)
    assert mask.any()
    assert (mask[values > 128] == 1).all()
    assert (mask[values < 127] == 0).all()

"""Resampling keeps millimetres and means: linear ramps come back as themselves on any grid."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vol3d.boxes import crop_or_fill
from vol3d.errors import GeometryError
from vol3d.geometry import Grid
from vol3d.resampling import _resample_oblique, resample
from vol3d.types import AIR_HU
from vol3d.volume import Volume

GRID = Grid.from_spacing((24, 26, 28), (3.0, 2.0, 2.5), (-30.0, -20.0, 5.0))
SLOPE, OFFSET = np.array([1.5, -0.7, 2.2]), 40.0


def ramp(grid):
    return (grid.index_to_mm(np.moveaxis(np.indices(grid.shape), 0, -1)) @ SLOPE + OFFSET).astype(np.float32)


def turned(angles, shape=(20, 22, 18), spacing=(2.0, 2.2, 2.4)):
    """A grid about the middle of GRID, turned."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()[:, ::-1] * spacing
    middle = GRID.index_to_mm((np.array(GRID.shape) - 1) / 2)
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def well_inside(source, target, margin):
    index = source.mm_to_index(target.index_to_mm(np.moveaxis(np.indices(target.shape), 0, -1)))
    return ((index >= margin) & (index <= np.array(source.shape) - 1 - margin)).all(axis=-1)


def outside(source, target):
    index = source.mm_to_index(target.index_to_mm(np.moveaxis(np.indices(target.shape), 0, -1)))
    return ((index < -0.501) | (index > np.array(source.shape) - 0.499)).any(axis=-1)


def test_array_and_grid_must_agree():
    with pytest.raises(GeometryError, match=r"\(24, 26, 28\), found \(24, 26, 27\)"):
        Volume(np.zeros((24, 26, 27)), GRID, "ct")


@pytest.mark.parametrize(("modality", "unit"), [("ct", "HU"), ("pet", "SUVbw"), ("mask", "1")])
def test_the_unit_follows_from_the_modality(modality, unit):
    assert Volume(np.zeros(GRID.shape), GRID, modality).unit == unit


def test_crop_fills_with_air_and_keeps_its_type():
    volume = Volume(np.arange(np.prod(GRID.shape), dtype=np.int16).reshape(GRID.shape), GRID, "ct")
    crop = volume.crop((-1, 2, 27), (2, 4, 30))
    assert crop.array_ZYX.dtype == np.int16
    assert (crop.array_ZYX[0] == AIR_HU).all()
    assert (crop.array_ZYX[:, :, 1:] == AIR_HU).all()
    assert crop.array_ZYX[1, 0, 0] == volume.array_ZYX[0, 2, 27]
    assert crop.grid.index_to_mm((1, 0, 0)) == pytest.approx(GRID.index_to_mm((0, 2, 27)))
    assert (Volume(np.ones(GRID.shape), GRID, "pet").crop((-5, 0, 0), (0, 3, 3)).array_ZYX == 0).all()


def test_crop_or_fill_far_outside_is_all_fill():
    assert (crop_or_fill(np.ones((3, 3, 3)), (10, 10, 10), (12, 12, 12), 7.0) == 7.0).all()
    assert (crop_or_fill(np.ones((3, 3, 3)), (-9, 0, 0), (-5, 3, 3), 7.0) == 7.0).all()


@settings(max_examples=60, deadline=None)
@given(st.permutations([0, 1, 2]), st.sets(st.integers(0, 2)))
def test_flips_and_permutations_keep_every_value_at_its_millimetre(order, axes):
    moved = Volume(ramp(GRID), GRID, "pet").permute(tuple(order)).flip(tuple(axes))
    np.testing.assert_allclose(moved.array_ZYX, ramp(moved.grid), rtol=1e-5)


def test_to_orientation_is_lossless():
    volume = Volume(ramp(GRID), GRID, "pet")
    there = volume.permute((2, 0, 1)).flip((0, 2))
    back = there.to_orientation("SAR")
    assert back.grid.same_as(GRID, 1e-9)
    assert np.array_equal(back.array_ZYX, volume.array_ZYX)


TARGETS = [
    GRID.resample((1.5, 1.5, 1.5)),
    GRID.resample((3.0, 3.0, 3.0)),
    GRID.resample((7.0, 5.0, 6.0)),
    GRID.crop((2, 3, 4), (20, 20, 20)).resample((1.1, 4.0, 2.5)).permute((2, 0, 1)).flip((0, 1)),
    GRID.permute((1, 2, 0)).flip((2,)),
    turned((20, 30, 40)),
    turned((180, 5, -3)),
    turned((20, 30, 40), (12, 10, 9), (5.0, 5.5, 6.0)),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda g: f"{g.orientation}-{g.spacing_mm[0]:.1f}")
@pytest.mark.parametrize(("order", "flips"), [((0, 1, 2), ()), ((2, 0, 1), (1, 2))])
def test_a_linear_ramp_comes_back_as_itself(target, order, flips):
    source = GRID.permute(order).flip(flips)
    found = resample(ramp(source), source, target, -1000.0)
    assert found.shape == target.shape
    assert found.dtype == np.float32
    coarse = max(np.linalg.norm(source.inverse[:3, :3] @ target.affine[:3, :3], axis=1))
    inside = well_inside(source, target, 1.0 + coarse)
    assert inside.sum() > 100
    assert np.abs(found - ramp(target))[inside].max() < 2e-3


@pytest.mark.parametrize("target", TARGETS, ids=lambda g: f"{g.orientation}-{g.spacing_mm[0]:.1f}")
def test_separable_and_simpleitk_paths_agree(target):
    """On a grid as fine as the source both are plain linear interpolation, edges and outside included."""
    generator = np.random.default_rng(0)
    array = generator.normal(size=GRID.shape).astype(np.float32)
    fine = target.resample((1.7, 1.6, 1.9)).pad((3, 3, 3), (3, 3, 3))
    if (np.abs(GRID.inverse[:3, :3] @ fine.affine[:3, :3]) > 1.0).any():
        fine = fine.resample((1.6, 1.6, 1.6))
    ours, itk = resample(array, GRID, fine, -7.0), _resample_oblique(array, GRID, fine, -7.0, False)
    index = GRID.mm_to_index(fine.index_to_mm(np.moveaxis(np.indices(fine.shape), 0, -1)))
    on_face = (np.abs(index - np.round(index + 0.5) + 0.5) < 1e-6).any(axis=-1)
    assert np.abs(ours - itk)[~on_face].max() < 1e-3
    assert (ours[outside(GRID, fine)] == -7.0).all()


@pytest.mark.parametrize("modality", ["ct", "pet", "mask"])
@pytest.mark.parametrize("angles", [(0, 0, 0), (15, 0, 30)])
def test_outside_the_source_stands_the_fill(modality, angles):
    target = turned(angles, (40, 40, 40), (4.0, 4.0, 4.0))
    found = Volume(np.full(GRID.shape, 3.0, np.float32), GRID, modality).resample_to(target).array_ZYX
    fill = AIR_HU if modality == "ct" else 0.0
    away = outside(GRID.pad((1, 1, 1), (1, 1, 1)), target)
    assert away.any()
    assert (found[away] == fill).all()
    assert found[well_inside(GRID, target, 1.5)] == pytest.approx(3.0, abs=1e-4)


def test_coarser_voxels_are_means_not_samples():
    array = np.zeros((32, 32, 32), np.float32)
    array[::2] = 1.0  # a stripe pattern that point sampling at every second plane would turn into 0 or 1
    grid = Grid.from_spacing(array.shape, (1.0, 1.0, 1.0))
    found = resample(array, grid, grid.resample((4.0, 4.0, 4.0)), 0.0)
    assert np.abs(found[1:-1] - 0.5).max() < 0.15
    noise = np.random.default_rng(0).normal(size=array.shape)
    assert resample(noise, grid, grid.resample((4.0, 4.0, 4.0)), 0.0).std() < 0.25


def test_a_mask_keeps_its_volume():
    grid = Grid.from_spacing((40, 40, 40), (1.0, 1.0, 1.0))
    mm = grid.index_to_mm(np.moveaxis(np.indices(grid.shape), 0, -1))
    mask = Volume((np.linalg.norm(mm - 19.5, axis=-1) < 12).astype(np.uint8), grid, "mask")
    for target in (grid.resample((2.0, 2.0, 2.0)), grid.resample((0.7, 0.7, 0.7)), grid.resample((3.0, 3.0, 3.0))):
        share = mask.resample_to(target).array_ZYX
        assert share.min() >= 0
        assert share.max() <= 1 + 1e-6
        volume = (share >= 0.5).sum() * target.voxel_ml
        assert volume == pytest.approx(4 / 3 * np.pi * 1.2**3, rel=0.05)


@pytest.mark.parametrize("target", TARGETS, ids=lambda g: f"{g.orientation}-{g.spacing_mm[0]:.1f}")
@pytest.mark.parametrize("box", [(3, 9, 4, 5, 20, 28), (0, 1, 0, 26, 0, 1), (0, 0, 0, 0, 0, 0)])
def test_a_mask_is_what_its_numbers_as_an_image_are(target, box):
    """Only the box round a mask is resampled."""
    mask = np.zeros(GRID.shape, np.uint8)
    mask[box[0] : box[1], box[2] : box[3], box[4] : box[5]] = 1
    found, expected = (resample(mask, GRID, target, 0.0, mask=known) for known in (True, False))
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("target", TARGETS[:6], ids=lambda g: f"{g.orientation}-{g.spacing_mm[0]:.1f}")
def test_nearest_keeps_labels(target):
    labels = np.random.default_rng(0).choice(np.array([0, 7, 200], np.uint8), GRID.shape)
    found = Volume(labels, GRID, "mask").resample_to(target, nearest=True).array_ZYX
    assert found.dtype == np.uint8
    assert set(np.unique(found)) <= {0, 7, 200}
    inside = well_inside(GRID, target, 0.0)
    index = GRID.mm_to_index(target.index_to_mm(np.moveaxis(np.indices(target.shape), 0, -1)))
    clear = inside & (np.abs(index - np.floor(index) - 0.5) > 1e-3).all(axis=-1)  # no tie between two voxels
    nearest = np.rint(index[clear]).astype(int)
    assert clear.sum() > 100
    assert np.array_equal(found[clear], labels[tuple(nearest.T)])


@pytest.mark.parametrize("dtype", [bool, ">i2", "<i2", np.uint8])
@pytest.mark.parametrize("target", [TARGETS[1], TARGETS[5]], ids=["aligned", "oblique"])
def test_nearest_takes_masks_of_any_kind(dtype, target):
    labels = (np.random.default_rng(1).random(GRID.shape) > 0.5).astype(dtype)
    found = resample(labels, GRID, target, 0, nearest=True)
    assert found.dtype.newbyteorder("=") == labels.dtype.newbyteorder("=")
    assert np.array_equal(found, resample(labels.astype(np.uint8), GRID, target, 0, nearest=True))


def test_the_source_is_never_changed():
    array = ramp(GRID)
    before = array.copy()
    for target in (*TARGETS, GRID.pad((2, 2, 2), (2, 2, 2))):
        resample(array, GRID, target, -1.0)
    assert np.array_equal(array, before)


def test_there_and_back_over_every_orientation():
    smooth = ramp(GRID)
    for order, flips in itertools.product(itertools.permutations(range(3)), [(), (0,), (1, 2), (0, 1, 2)]):
        other = GRID.permute(order).flip(flips)
        there = resample(smooth, GRID, other, 0.0)
        np.testing.assert_allclose(there, ramp(other), rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(resample(there, other, GRID, 0.0), smooth, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("target", [(7.0, 3.0, 5.0), (1.3, 3.0, 0.7), (3.0, 0.6, 9.0)])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_a_few_slices_at_a_time_are_the_whole_at_once(target, order):
    """Against one dense product of the three weight matrices in double precision."""
    from vol3d.resampling import _weights

    source = Grid.from_spacing((37, 21, 30), (2.0, 1.5, 1.0), (3.0, -7.0, 11.0)).flip((1,)).permute(order)
    grid = Grid.from_spacing((37, 21, 30), (2.0, 1.5, 1.0), (3.0, -7.0, 11.0)).resample(target)
    array = np.random.default_rng(0).integers(-1000, 1000, source.shape).astype(np.int16)
    found = resample(array, source, grid, 0.0)
    plain = Volume(array, source, "ct").to_orientation(grid.orientation)
    matrices = []
    for axis in range(3):
        step = grid.spacing_mm[axis] / plain.grid.spacing_mm[axis]
        start = plain.grid.mm_to_index(grid.index_to_mm((0, 0, 0)))[axis]
        matrices.append(_weights(start + step * np.arange(grid.shape[axis]), step, plain.grid.shape[axis]))
    expected = np.einsum("zk,yl,xm,klm->zyx", *(m.astype(float) for m in matrices), plain.array_ZYX.astype(float))
    inside = tuple(slice(1, -1) for _ in range(3))  # what lies outside the source's box is fill
    np.testing.assert_allclose(found[inside], expected[inside], atol=2e-3)

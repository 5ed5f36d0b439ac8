"""`Grid` against millimetres worked out by hand, and round trips over any rotation, flip and order."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from vol3d.errors import GeometryError
from vol3d.geometry import Grid

GRID = Grid.from_spacing((10, 20, 30), (3.0, 2.0, 1.0), (100.0, -50.0, 7.0))

sizes = st.tuples(*[st.integers(1, 40)] * 3)
spacings = st.tuples(*[st.floats(0.3, 8.0)] * 3)
origins = st.tuples(*[st.floats(-2000, 2000)] * 3)
angles = st.tuples(*[st.floats(-180, 180)] * 3)


@st.composite
def grids(draw):
    shape, spacing = draw(sizes), draw(spacings)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", draw(angles), degrees=True).as_matrix() * spacing
    affine[:3, 3] = draw(origins)
    if draw(st.booleans()):
        affine[:3, 1] *= -1
    return Grid(shape, affine).permute(draw(st.permutations([0, 1, 2])))


def some_indices(grid):
    return np.array(list(itertools.product(*[(-3.0, 0.0, (n - 1) / 2, n + 2.5) for n in grid.shape])))


def test_canonical_grid_by_hand():
    assert GRID.index_to_mm((0, 0, 0)).tolist() == [100.0, -50.0, 7.0]
    assert GRID.index_to_mm((1, 0, 0)).tolist() == [100.0, -50.0, 10.0]
    assert GRID.index_to_mm((2, 3, 4)).tolist() == [104.0, -44.0, 13.0]
    assert GRID.mm_to_index((104.0, -44.0, 13.0)).tolist() == [2.0, 3.0, 4.0]
    assert GRID.spacing_mm == (3.0, 2.0, 1.0)
    assert GRID.origin_mm == (100.0, -50.0, 7.0)
    assert GRID.orientation == "SAR"
    assert GRID.voxel_ml == pytest.approx(0.006)


def test_nibabel_order_is_permuted_with_its_columns():
    affine_xyz = np.array([[-0.5, 0, 0, 90], [0, 0.7, 0, -120], [0, 0, 4, 30], [0, 0, 0, 1.0]])
    grid = Grid.from_xyz((512, 256, 40), affine_xyz)
    assert grid.shape == (40, 256, 512)
    assert grid.spacing_mm == (4.0, 0.7, 0.5)
    assert grid.orientation == "SAL"
    assert grid.index_to_mm((3, 2, 1)).tolist() == pytest.approx([89.5, -118.6, 42.0])
    assert np.array_equal(grid.affine_xyz, affine_xyz)


def test_an_axial_dicom_series_in_lps():
    # ImagePositionPatient (-200, -180, 50), rows to the patient's left, columns to posterior, 5 mm apart upwards
    affine_lps = np.array([[0, 0, 0.8, -200], [0, 0.8, 0, -180], [5, 0, 0, 50], [0, 0, 0, 1.0]])
    grid = Grid.from_lps((10, 512, 512), affine_lps)
    assert grid.orientation == "SPL"
    assert grid.index_to_mm((0, 0, 0)).tolist() == [200.0, 180.0, 50.0]
    assert grid.index_to_mm((1, 10, 100)).tolist() == [120.0, 172.0, 55.0]
    assert np.array_equal(grid.affine_lps, affine_lps)


def test_canonical_has_right_and_anterior_growing():
    """World x grows to the patient's right: a point to the right has the larger index and the larger x."""
    right = GRID.index_to_mm((0, 0, 29)) - GRID.index_to_mm((0, 0, 0))
    assert right.tolist() == [29.0, 0.0, 0.0]
    assert GRID.flip((2,)).orientation == "SAL"


@settings(max_examples=80, deadline=None)
@given(grids())
def test_index_to_mm_and_back(grid):
    index = some_indices(grid)
    assert np.abs(grid.mm_to_index(grid.index_to_mm(index)) - index).max() < 1e-7
    mm = grid.index_to_mm(index)
    assert np.abs(grid.index_to_mm(grid.mm_to_index(mm)) - mm).max() < 1e-6


@settings(max_examples=80, deadline=None)
@given(grids(), st.permutations([0, 1, 2]), st.sets(st.integers(0, 2)))
def test_permute_and_flip_move_no_voxel(grid, order, axes):
    axes = tuple(sorted(axes))
    moved = grid.permute(tuple(order)).flip(axes)
    index = np.array(list(np.ndindex(*[min(n, 3) for n in moved.shape])), float)
    old = np.empty_like(index)
    for new_axis, old_axis in enumerate(order):
        flipped = moved.shape[new_axis] - 1 - index[:, new_axis]
        old[:, old_axis] = flipped if new_axis in axes else index[:, new_axis]
    assert np.abs(moved.index_to_mm(index) - grid.index_to_mm(old)).max() < 1e-4
    back = moved.flip(axes).permute(tuple(np.argsort(order)))
    assert back.same_as(grid, 1e-4)


@settings(max_examples=80, deadline=None)
@given(grids())
def test_every_orientation_can_be_reached_and_undone(grid):
    canonical, order, flips = grid.to_orientation("SAR")
    assert sorted(map(tuple, np.round(canonical.corners_mm(), 4))) == sorted(map(tuple, np.round(grid.corners_mm(), 4)))
    assert canonical.flip(flips).permute(tuple(np.argsort(order))).same_as(grid, 1e-4)
    linear = canonical.affine[:3, :3] / canonical.spacing_mm
    # no other order and direction of axes lies closer to the world's: z to S, y to A, x to R
    alignment = linear[2, 0] + linear[1, 1] + linear[0, 2]
    for permutation in itertools.permutations(range(3)):
        other = sum(abs(linear[world, axis]) for axis, world in enumerate(permutation))
        assert alignment >= other - 1e-9


@pytest.mark.parametrize(
    "codes", ["".join(c) for p in itertools.permutations(("RL", "AP", "SI")) for c in itertools.product(*p)]
)
def test_all_48_orientations_reach_each_other(codes):
    there, order, flips = GRID.to_orientation(codes)
    assert there.orientation == codes
    back, _, _ = there.to_orientation("SAR")
    assert back.same_as(GRID, 1e-9)
    array = np.arange(np.prod(GRID.shape)).reshape(GRID.shape)
    moved = np.flip(array.transpose(order), flips)
    at = tuple(n // 3 for n in there.shape)
    origin = np.rint(GRID.mm_to_index(there.index_to_mm(at))).astype(int)
    assert moved[at] == array[tuple(origin)]


def test_crop_and_pad_by_hand():
    crop = GRID.crop((1, -2, 3), (4, 5, 33))
    assert crop.shape == (3, 7, 30)
    assert crop.origin_mm == (103.0, -54.0, 10.0)
    padded = GRID.pad((1, 2, 3), (4, 5, 6))
    assert padded.shape == (15, 27, 39)
    assert padded.origin_mm == (97.0, -54.0, 4.0)
    assert padded.crop((1, 2, 3), (11, 22, 33)).same_as(GRID, 1e-9)


def test_resample_keeps_the_box_of_space():
    grid = Grid.from_spacing((10, 10, 10), (2.0, 2.0, 2.0))  # faces at -1 and 19 mm
    fine, coarse = grid.resample((1.0, 1.0, 1.0)), grid.resample((4.0, 5.0, 2.0))
    assert (fine.shape, fine.origin_mm) == ((20, 20, 20), (-0.5, -0.5, -0.5))
    assert (coarse.shape, coarse.origin_mm) == ((5, 4, 10), (0.0, 1.5, 1.0))
    uneven = grid.resample((3.0, 3.0, 3.0))  # 20 / 3 -> 7 voxels, 21 mm: half a mm over on both sides
    assert (uneven.shape, uneven.origin_mm) == ((7, 7, 7), (0.0, 0.0, 0.0))


@settings(max_examples=60, deadline=None)
@given(grids(), spacings)
def test_resample_keeps_centre_and_axes(grid, spacing):
    other = grid.resample(spacing)
    assert other.spacing_mm == pytest.approx(spacing)
    centres = [g.index_to_mm((np.array(g.shape) - 1) / 2) for g in (grid, other)]
    assert np.abs(centres[0] - centres[1]).max() < 1e-6
    size, wanted = np.array(other.shape) * other.spacing_mm, np.array(grid.shape) * grid.spacing_mm
    assert (np.abs(size - wanted) <= np.maximum(np.array(spacing) / 2, spacing - wanted) + 1e-6).all()


@settings(max_examples=40, deadline=None)
@given(grids())
def test_dict_is_exact(grid):
    back = Grid.from_dict(json.loads(json.dumps(grid.to_dict())))
    assert back.shape == grid.shape
    assert np.array_equal(back.affine, grid.affine)


def test_same_as_sees_shape_place_and_direction():
    assert GRID.same_as(Grid(GRID.shape, GRID.affine))
    assert not GRID.same_as(GRID.crop((0, 0, 0), (9, 20, 30)))
    assert not GRID.same_as(GRID.flip((0,)))
    shifted = GRID.affine.copy()
    shifted[0, 3] += 0.02
    assert not GRID.same_as(Grid(GRID.shape, shifted))
    assert GRID.same_as(Grid(GRID.shape, shifted), tolerance_mm=0.1)


def test_same_as_sees_the_spacing_of_a_single_slice():
    thin, thick = Grid.from_spacing((1, 5, 5), (1.0, 2.0, 2.0)), Grid.from_spacing((1, 5, 5), (5.0, 2.0, 2.0))
    assert not thin.same_as(thick)


def test_contains():
    assert GRID.contains(GRID.crop((1, 1, 1), (9, 19, 29)))
    assert GRID.contains(GRID)
    assert not GRID.crop((1, 1, 1), (9, 19, 29)).contains(GRID)
    assert not GRID.contains(GRID.crop((0, 0, 0), (12, 20, 30)))


def test_axis_aligned():
    assert GRID.is_axis_aligned
    assert GRID.permute((2, 0, 1)).flip((1,)).is_axis_aligned
    turned = GRID.affine.copy()
    turned[:3, :3] = Rotation.from_euler("z", 1, degrees=True).as_matrix() @ turned[:3, :3]
    assert not Grid(GRID.shape, turned).is_axis_aligned


def test_the_affine_is_a_copy_and_frozen():
    affine = GRID.affine.copy()
    grid = Grid((2, 2, 2), affine)
    affine[0, 3] = 999.0
    assert grid.origin_mm[0] == 100.0
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 3] = 1.0


def bad(row, column, value):
    affine = GRID.affine.copy()
    affine[row, column] = value
    return affine


@pytest.mark.parametrize(
    ("shape", "affine", "message"),
    [
        ((10, 20), GRID.affine, "3 positive sizes"),
        ((0, 20, 30), GRID.affine, "3 positive sizes"),
        ((10, 20, 30), np.eye(3), "finite 4x4"),
        ((10, 20, 30), bad(0, 0, np.nan), "finite 4x4"),
        ((10, 20, 30), bad(3, 0, 0.1), "last row"),
        ((10, 20, 30), bad(0, 2, 0.0), "positive voxel spacing"),
        ((10, 20, 30), bad(1, 0, 0.1), r"shear \(cosine between axes 0.03"),
    ],
)
def test_invalid_grids_are_refused(shape, affine, message):
    with pytest.raises(GeometryError, match=message):
        Grid(shape, affine)


def test_a_gantry_tilt_of_a_tenth_of_a_degree_is_a_shear_and_float32_noise_is_not():
    tilted = GRID.affine.copy()
    tilted[1, 0] = 3.0 * np.tan(np.radians(0.1))
    with pytest.raises(GeometryError, match="shear"):
        Grid(GRID.shape, tilted)
    turned = Rotation.from_euler("xyz", (10, 20, 30), degrees=True).as_matrix().astype(np.float32) * np.float32(0.7)
    affine = np.eye(4)
    affine[:3, :3] = turned
    Grid(GRID.shape, affine)


def test_nonsense_requests_are_refused():
    with pytest.raises(GeometryError, match="permutation"):
        GRID.permute((0, 0, 1))
    with pytest.raises(GeometryError, match="positive spacing"):
        GRID.resample((0.0, 1.0, 1.0))
    with pytest.raises(GeometryError, match="3 positive sizes"):
        GRID.crop((5, 0, 0), (5, 10, 10))
    for axes in [(-1,), (3,), (1, 1)]:
        with pytest.raises(GeometryError, match="axes to flip"):
            GRID.flip(axes)
    for codes in ["SAX", "SSA", "SA", "sar"]:
        with pytest.raises(GeometryError, match="orientation"):
            GRID.to_orientation(codes)


def test_real_files_round_trip(data_dir):
    import nibabel as nib

    for path in sorted(data_dir.glob("hard/nifti/oblique_ct.nii.gz")) + sorted(
        data_dir.glob("totalsegmentator/*.nii.gz")
    ):
        image = nib.load(path)
        grid = Grid.from_xyz(image.shape, image.affine)
        assert np.array_equal(grid.affine_xyz, image.affine)
        last = tuple(n - 1 for n in image.shape)
        there = nib.affines.apply_affine(image.affine, last)
        assert grid.index_to_mm(last[::-1]) == pytest.approx(there, abs=1e-6)
        canonical, _, _ = grid.to_orientation()
        assert canonical.orientation == "SAR"
        assert nib.aff2axcodes(canonical.affine_xyz) == ("R", "A", "S")

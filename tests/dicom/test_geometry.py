"""Slices to grid: order, spacing and direction from positions alone, and every way in which they fail to be regular."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from vol3d.dicom.frames import Frame
from vol3d.dicom.geometry import stack
from vol3d.errors import GeometryError

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def frames(positions, orientation=AXIAL, spacing=(0.8, 0.7)):
    return [
        Frame(
            path=Path(f"{i:03}.dcm"),
            index=0,
            number=i + 1,
            header=Dataset(),
            rows=6,
            columns=5,
            position_mm=tuple(p),
            orientation=orientation,
            spacing_mm=spacing,
            slope=1.0,
            intercept=0.0,
            rescale_type="",
        )
        for i, p in enumerate(positions)
    ]


def axial(zs, x=-10.0, y=20.0):
    return frames([(x, y, z) for z in zs])


def test_axial_series_has_hand_computed_world_positions():
    order, grid = stack(axial([4.0, 0.0, 2.0]))
    assert order == [1, 2, 0]
    assert grid.orientation == "SPL"
    assert grid.spacing_mm == pytest.approx((2.0, 0.8, 0.7))
    # voxel (slice 2, row 3, column 4): LPS (-10 + 4 * 0.7, 20 + 3 * 0.8, 4), and RAS turns the first two signs
    np.testing.assert_allclose(grid.index_to_mm((2, 3, 4)), (7.2, -22.4, 4.0), atol=1e-9)


def test_order_follows_the_normal_not_the_z_axis():
    # rows run towards the head-foot axis: normal = A->P x S->I direction = right-left
    order, grid = stack(frames([(x, 0, 0) for x in (3.0, 1.0, 2.0)], (0, 1, 0, 0, 0, -1)))
    assert order == [0, 2, 1]  # normal (0,1,0) x (0,0,-1) = (-1,0,0): from the patient's left to the right
    assert grid.orientation == "RIP"


@pytest.mark.parametrize("seed", range(5))
def test_oblique_series_with_six_decimals_is_exact(seed):
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    row, column = axes[0], axes[1]
    normal = np.cross(row, column)
    zs = np.arange(40) * 1.25
    shuffled = rng.permutation(40)
    positions = np.round(np.array([5.0, -7.0, 11.0]) + np.outer(zs, normal), 6)[shuffled]
    order, grid = stack(frames(positions, tuple(np.round(np.concatenate([row, column]), 6))))
    assert [int(shuffled[i]) for i in order] == list(range(40))
    far = np.array([5.0, -7.0, 11.0]) + 39 * 1.25 * normal + 5 * 0.8 * column + 4 * 0.7 * row
    np.testing.assert_allclose(grid.index_to_mm((39, 5, 4)), far * [-1, -1, 1], atol=1e-4)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_slices(count):
    with pytest.raises(GeometryError, match=f"at least 3 slices, found {count}"):
        stack(axial(range(count)))


def test_missing_slice_is_named_with_its_steps():
    with pytest.raises(GeometryError, match=r"1 missing slice.*5\.00 \(4x\), 10\.00 \(1x\).*after 002\.dcm"):
        stack(axial([0, 5, 10, 20, 25, 30]))


def test_beds_that_overlap_are_told_of_the_option():
    with pytest.raises(GeometryError, match=r"3\.00 \(4x\), 1\.50 \(3x\).*beds that overlap.*spacing: resample"):
        stack(axial([0, 3, 6, 9, 7.5, 10.5, 13.5, 16.5]))
    with pytest.raises(GeometryError, match=r"1 missing slice.*fetch the series again$"):
        stack(axial([0, 3, 6, 12, 15, 18]))


def test_two_missing_slices_in_one_gap():
    with pytest.raises(GeometryError, match="2 missing slices"):
        stack(axial([0, 5, 20, 25]))


@pytest.mark.parametrize(
    "zs",
    [
        [0, 4, 8, 12, 19, 26, 33],
        [0, 1, 2, 3.2, 4.2, 5.2],
        [0, 1.0, 2.01, 3.03, 4.06, 5.1, 6.15, 7.21, 8.28, 9.36],
        [*range(15), *(14 + 1.02 * np.arange(1, 16))],
    ],
    ids=["two spacings", "one wide step", "growing", "two percent"],
)
def test_variable_spacing(zs):
    with pytest.raises(GeometryError, match="variable spacing"):
        stack(axial(zs))


def test_seams_of_bed_positions_are_no_variable_spacing():
    steps = np.full(266, 3.27)
    steps[[43, 87, 175, 219]], steps[131] = 3.29, 3.19  # as in the shared GE PET
    _, grid = stack(axial(np.concatenate([[0], np.cumsum(steps)])))
    assert grid.spacing_mm[0] == pytest.approx(3.27, abs=1e-6)


def test_positions_rounded_to_one_decimal_are_regular():
    _, grid = stack(axial(np.round(-120.3 + 0.625 * np.arange(200), 1)))
    assert grid.spacing_mm[0] == pytest.approx(0.625, abs=1e-3)


def test_one_displaced_slice_is_not_rounding():
    zs = np.arange(30) * 1.0
    zs[17] += 0.3
    with pytest.raises(GeometryError, match="variable spacing"):
        stack(axial(zs))


def test_duplicates():
    with pytest.raises(
        GeometryError, match=r"1 of 5 slices at the position of another one, e\.g\. 001\.dcm and 004\.dcm"
    ):
        stack(axial([0, 5, 10, 15, 5]))


@pytest.mark.parametrize("degrees", [0.2, 5.0, -18.5, 30.0])
def test_gantry_tilt_without_its_tag(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    with pytest.raises(GeometryError, match=f"gantry tilt of {abs(degrees):.2f} degrees"):
        stack(frames([(0, 0, 5.0 * i) for i in range(20)], (1, 0, 0, 0, c, -s)))


def test_tilt_and_spacing_are_both_named():
    c, s = np.cos(0.3), np.sin(0.3)
    with pytest.raises(GeometryError, match=r"gantry tilt.*variable spacing"):
        stack(frames([(0, 0, z) for z in (0, 4, 8, 12, 19, 26)], (1, 0, 0, 0, c, -s)))


def test_a_slice_shifted_in_its_plane():
    positions = [[0, 0, 2.0 * i] for i in range(10)]
    positions[6][0] = 1.5
    with pytest.raises(GeometryError, match=r"006\.dcm shifted in its plane by 1\.\d+ mm"):
        stack(frames(positions))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"orientation": (0, 1, 0, 0, 0, -1)}, "one ImageOrientationPatient"),
        ({"spacing_mm": (0.8, 0.71)}, "one PixelSpacing"),
        ({"rows": 7}, "one rows"),
        ({"columns": 7}, "one columns"),
    ],
)
def test_slices_that_do_not_match(change, message):
    good = axial([0, 1, 2, 3])
    odd = replace(axial([4.0])[0], **change)
    with pytest.raises(GeometryError, match=rf"{message}.*1 of 5 slices differ"):
        stack([*good, odd])


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0.5, 0.866, 0), (0, 0, 0, 0, 1, 0), (2, 0, 0, 0, 1, 0)])
def test_orientation_that_is_none(orientation):
    with pytest.raises(GeometryError, match="two orthogonal unit vectors"):
        stack(frames([(0, 0, z) for z in range(4)], orientation))


def test_any_flip_and_axis_order_gives_the_same_world():
    """A point of the patient keeps its place whatever way the slices were cut."""
    for axes in itertools.permutations(np.eye(3)):
        for signs in itertools.product((1, -1), repeat=2):
            row, column = axes[0] * signs[0], axes[1] * signs[1]
            normal = np.cross(row, column)
            order, grid = stack(frames([tuple(3.0 * k * normal) for k in range(4)], (*row, *column)))
            assert order == [0, 1, 2, 3]
            lps = 2 * 3.0 * normal + 1 * 0.8 * column + 3 * 0.7 * row
            np.testing.assert_allclose(grid.index_to_mm((2, 1, 3)), lps * [-1, -1, 1], atol=1e-9)

"""Where a mask is looked at: the hottest voxel of the native PET, or a voxel in its middle."""

import numpy as np
import pytest

from vol3d.geometry import Grid
from vol3d.view.points import evidence_point
from vol3d.volume import Volume

CT = Grid.from_spacing((20, 24, 24), (3.0, 2.0, 2.0), origin_mm=(-23.0, -23.0, 0.0))


def turned(degrees, shape, spacing, origin):
    """A grid turned about the body's long axis, flipped along z and x."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, -s, c], [0, c, s], [1, 0, 0]]) * spacing
    affine[:3, 3] = origin
    return Grid(shape, affine).flip((0, 2))


PET_GRIDS = {
    "same axes": Grid.from_spacing((12, 12, 12), (5.0, 4.0, 4.0), origin_mm=(-22.0, -22.0, 1.0)),
    "turned, flipped": turned(17, (12, 16, 16), (5.0, 4.0, 4.0), (-20.0, -35.0, 1.0)),
}


def ball(grid, centre_mm, radius_mm):
    index = np.moveaxis(np.indices(grid.shape), 0, -1)
    return (np.linalg.norm(grid.index_to_mm(index) - centre_mm, axis=-1) <= radius_mm).astype(np.uint8)


@pytest.mark.parametrize("name", PET_GRIDS)
def test_the_hottest_voxel_of_a_carried_mask(name):
    grid = PET_GRIDS[name]
    rng = np.random.default_rng(3)
    suv = rng.uniform(0, 1, grid.shape).astype(np.float32)
    centre = np.array([3.0, -4.0, 27.0])
    inside = np.argwhere(ball(grid, centre, 6.0))
    hot = inside[4]
    suv[tuple(hot)] = 9.5
    far = np.argwhere(ball(grid, centre, 100.0) & ~ball(grid, centre, 22.0).astype(bool))[0]
    suv[tuple(far)] = 50.0  # hotter, and outside of the mask
    point = evidence_point(ball(CT, centre, 10.0), CT, Volume(suv, grid, "pet"))
    assert point.kind == "hottest"
    assert point.suv == pytest.approx(9.5)
    np.testing.assert_allclose(point.mm, grid.index_to_mm(hot), atol=1e-9)


def test_the_mask_on_the_pet_decides_where_there_is_one():
    grid = PET_GRIDS["same axes"]
    suv = np.full(grid.shape, 0.5, np.float32)
    suv[5, 5, 5], suv[6, 6, 6] = 4.0, 7.0
    own = np.zeros(grid.shape, np.uint8)
    own[5, 5, 4:7] = 1
    point = evidence_point(ball(CT, (0.0, 0.0, 28.0), 9.0), CT, Volume(suv, grid, "pet"), own)
    assert point.mm == (-22.0 + 5 * 4.0, -22.0 + 5 * 4.0, 1.0 + 5 * 5.0)
    assert point.suv == 4.0


def test_a_measured_suvmax_names_its_voxel_at_the_edge():
    """The mask was carried as a probability when it was measured: its hottest voxel may be a neighbour of ours."""
    grid = PET_GRIDS["same axes"]
    suv = np.full(grid.shape, 0.5, np.float32)
    suv[5, 5, 5], suv[5, 5, 6] = 4.0, 6.25
    mask = ball(CT, grid.index_to_mm((5, 5, 5)), 3.0)
    plain = evidence_point(mask, CT, Volume(suv, grid, "pet"))
    measured = evidence_point(mask, CT, Volume(suv, grid, "pet"), suv_max=6.25)
    assert plain.suv == 4.0
    np.testing.assert_allclose(measured.mm, grid.index_to_mm((5, 5, 6)))
    elsewhere = evidence_point(mask, CT, Volume(suv, grid, "pet"), suv_max=123.0)
    assert elsewhere == plain


def test_a_mask_smaller_than_a_pet_voxel_still_has_its_voxel():
    grid = PET_GRIDS["same axes"]
    suv = np.random.default_rng(1).uniform(1, 2, grid.shape).astype(np.float32)
    mask = np.zeros(CT.shape, np.uint8)
    mask[8, 9, 10] = 1
    point = evidence_point(mask, CT, Volume(suv, grid, "pet"))
    gap = np.abs(np.array(point.mm) - CT.index_to_mm((8, 9, 10)))
    assert (gap <= np.array([4.0, 4.0, 5.0]) / 2 + np.array([2.0, 2.0, 3.0]) / 2).all()


def test_without_pet_a_member_in_the_middle():
    hollow = ball(CT, (1.0, 1.0, 30.0), 12.0) - ball(CT, (1.0, 1.0, 30.0), 7.0)
    point = evidence_point(hollow, CT)
    index = np.rint(CT.mm_to_index(point.mm)).astype(int)
    assert point.kind == "centre"
    assert point.suv is None
    np.testing.assert_allclose(CT.index_to_mm(index), point.mm)
    assert hollow[tuple(index)] == 1
    one = np.zeros(CT.shape, np.uint8)
    one[3, 4, 5] = 1
    assert evidence_point(one, CT).mm == (-23.0 + 5 * 2.0, -23.0 + 4 * 2.0, 9.0)


def test_where_the_pet_does_not_reach_the_middle_counts():
    grid = Grid.from_spacing((4, 4, 4), (5.0, 4.0, 4.0), origin_mm=(200.0, 200.0, 200.0))
    pet = Volume(np.ones(grid.shape, np.float32), grid, "pet")
    assert evidence_point(ball(CT, (0.0, 0.0, 28.0), 9.0), CT, pet).kind == "centre"


def test_an_empty_mask_has_no_point():
    assert evidence_point(np.zeros(CT.shape, np.uint8), CT) is None

"""Meshes lie where the mask lies, face outwards on every grid and say which coordinates they use."""

import itertools

import numpy as np
import pytest

from vol3d.errors import GeometryError, Vol3dError
from vol3d.export.mesh import surface, write_stl
from vol3d.geometry import Grid

GRID = Grid.from_spacing((30, 32, 34), (2.0, 1.0, 1.25), origin_mm=(-50.0, 20.0, 300.0))


def ball(grid, centre_mm, radius_mm):
    points = grid.index_to_mm(np.moveaxis(np.indices(grid.shape), 0, -1))
    return np.linalg.norm(points - centre_mm, axis=-1) <= radius_mm


CENTRE = GRID.index_to_mm((14, 15, 16))
MASK = ball(GRID, CENTRE, 12.0)


def enclosed(vertices, triangles):
    a, b, c = (vertices[triangles[:, i]] for i in range(3))
    return np.einsum("ij,ij->", a - vertices.mean(axis=0), np.cross(b - a, c - a)) / 6


def read_stl(path):
    data = path.read_bytes()
    count = int(np.frombuffer(data[80:84], "<u4")[0])
    layout = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    assert len(data) == 84 + 50 * count
    return data[:80], np.frombuffer(data[84:], layout)


@pytest.mark.parametrize(
    "flips", list(itertools.chain.from_iterable(itertools.combinations(range(3), n) for n in range(4)))
)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_a_ball_is_a_ball_on_every_grid(flips, order):
    mask, grid = np.flip(MASK.transpose(order), flips), GRID.permute(order).flip(flips)
    vertices, triangles = surface(mask, grid)
    assert enclosed(vertices, triangles) == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.03)  # positive: outwards
    distance = np.linalg.norm(vertices - CENTRE, axis=1)
    assert distance.min() > 10.5
    assert distance.max() < 13.5
    edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), axis=1)
    _, shared = np.unique(edges, axis=0, return_counts=True)
    assert (shared == 2).all()  # closed


def test_the_file_is_in_lps_or_says_otherwise(tmp_path):
    count = write_stl(tmp_path / "lps.stl", MASK, GRID)
    assert write_stl(tmp_path / "ras.stl", MASK, GRID, "RAS") == count
    header, lps = read_stl(tmp_path / "lps.stl")
    assert b"SPACE=LPS" in header
    assert not header.startswith(b"solid")  # that would be the text form
    header, ras = read_stl(tmp_path / "ras.stl")
    assert b"SPACE=RAS" in header
    assert len(lps) == count
    np.testing.assert_allclose(lps["corners"] * (-1, -1, 1), ras["corners"])
    np.testing.assert_allclose(lps["corners"].mean(axis=(0, 1)) * (-1, -1, 1), CENTRE, atol=0.05)
    outwards = lps["corners"].mean(axis=1) - CENTRE * (-1, -1, 1)
    assert (np.einsum("ij,ij->i", outwards, lps["normal"]) > 0).all()
    np.testing.assert_allclose(np.linalg.norm(lps["normal"], axis=1), 1, atol=1e-5)


def test_masks_at_the_border_are_closed_and_empty_ones_refused(tmp_path):
    whole = np.ones((2, 3, 4), np.uint8)
    grid = Grid.from_spacing(whole.shape, (1.0, 1.0, 1.0))
    vertices, triangles = surface(whole, grid)
    assert vertices.min() == -0.5
    assert vertices.max() == 3.5
    assert 20 < enclosed(vertices, triangles) < 24
    with pytest.raises(Vol3dError, match="empty one"):
        write_stl(tmp_path / "e.stl", whole * 0, grid)
    with pytest.raises(GeometryError, match="grid's shape"):
        surface(whole[1:], grid)
    assert not (tmp_path / "e.stl").exists()

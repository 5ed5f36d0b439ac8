"""Contours enclose exactly the pixels of the mask, holes and corners included."""

import datetime

import numpy as np
import pydicom
import pytest
from matplotlib.path import Path as Outline
from scipy.spatial.transform import Rotation

from preprocessing.phantom_scan import legal_stack
from preprocessing.rtstruct import rasterise, read_contours
from vol3d.errors import Vol3dError
from vol3d.export.contours import outlines
from vol3d.export.dicom_rtstruct import write_rtstruct
from vol3d.export.segments import Segment
from vol3d.export.source_series import read_source
from vol3d.geometry import Grid

CREATED = datetime.datetime(2026, 3, 4, 5, 6, 7)


def filled(polygons, shape):
    """Pixels whose centre lies in a polygon."""
    centres = np.argwhere(np.ones(shape))
    return sum((Outline(p).contains_points(centres).reshape(shape) for p in polygons), np.zeros(shape, int))


def area(polygon):
    y, x = polygon.T
    return abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def ring(*frames):
    mask = np.zeros((13, 15), bool)
    for (y0, x0, y1, x1), value in frames:
        mask[y0:y1, x0:x1] = value
    return mask


SHAPES = {
    "pixel": ring(((3, 4, 4, 5), 1)),
    "whole": np.ones((13, 15), bool),
    "hole": ring(((1, 1, 9, 9), 1), ((3, 3, 5, 6), 0)),
    "island in a hole": ring(((0, 0, 13, 15), 1), ((2, 2, 11, 12), 0), ((4, 4, 9, 10), 1), ((6, 6, 7, 7), 0)),
    "holes in a row": ring(
        ((1, 1, 12, 14), 1), ((3, 3, 5, 4), 0), ((3, 6, 6, 8), 0), ((4, 10, 9, 12), 0), ((7, 3, 9, 5), 0)
    ),
    "holes at corners": ring(((1, 1, 12, 14), 1), ((3, 3, 4, 4), 0), ((4, 4, 5, 5), 0), ((5, 3, 6, 4), 0)),
    "two parts": ring(((1, 1, 3, 3), 1), ((5, 5, 9, 12), 1)),
    "checkerboard": np.indices((13, 15)).sum(axis=0) % 2 == 0,
    "empty": np.zeros((13, 15), bool),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name):
    mask = SHAPES[name]
    polygons = outlines(mask)
    assert np.array_equal(filled(polygons, mask.shape), mask.astype(int))
    assert sum(area(p) for p in polygons) == pytest.approx(mask.sum())
    for polygon in polygons:
        steps = np.diff(np.vstack([polygon, polygon[:1]]), axis=0)
        assert ((steps != 0).sum(axis=1) == 1).all()  # along rows and columns, and no point twice in a row
        assert (polygon % 1 == 0.5).all()


def test_one_pixel_has_four_corners():
    (square,) = outlines(SHAPES["pixel"])
    assert square.tolist() == [[2.5, 3.5], [2.5, 4.5], [3.5, 4.5], [3.5, 3.5]]


@pytest.mark.parametrize("seed", range(60))
def test_random_masks(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 14), rng.integers(1, 14))) < rng.uniform(0.2, 0.95)
    polygons = outlines(mask)
    assert np.array_equal(filled(polygons, mask.shape), mask.astype(int))
    assert sum(area(p) for p in polygons) == pytest.approx(mask.sum())


def test_structures_come_back_as_the_masks(tmp_path, make_series, algorithm, errors_of):
    turn = Rotation.from_euler("xyz", (11, -23, 31), degrees=True).as_matrix()
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]]).T * (3.0, 0.75, 1.25)
    affine[:3, 3] = (-200.125, 31.0625, -812.5)
    grid = legal_stack(Grid.from_lps((5, 13, 15), affine))
    source = read_source(make_series(tmp_path / "ct", grid))
    masks = [np.zeros(grid.shape, bool) for _ in range(3)]
    for plane, name in zip(
        range(5), ("hole", "holes in a row", "island in a hole", "two parts", "checkerboard"), strict=True
    ):
        masks[0][plane] = SHAPES[name]
    masks[1][2:4] = SHAPES["holes at corners"]
    prompts = ["left kidney", "lesion \\ odd", "spleen"]
    states = ["present", "present", "absent"]
    segments = [Segment(prompt=p, load=lambda m=m: m, state=s) for p, m, s in zip(prompts, masks, states, strict=True)]
    path = tmp_path / "rt.dcm"
    write_rtstruct(path, source, segments, algorithm, CREATED)
    assert errors_of(path) == []
    stored = pydicom.dcmread(path)
    assert [r.ROIName for r in stored.StructureSetROISequence] == ["left kidney", "lesion / odd", "spleen (absent)"]
    assert [r.ROIDescription for r in stored.StructureSetROISequence] == prompts
    assert stored.ApprovalStatus == "UNAPPROVED"
    images = {str(plane.image.SOPInstanceUID): i for i, plane in enumerate(source.planes)}
    for mask, item in zip(masks, stored.ROIContourSequence, strict=True):
        found = np.zeros(mask.shape, int)
        for contour in item.get("ContourSequence", []):
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints
            index = source.grid.mm_to_index(points * (-1, -1, 1))
            plane = images[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            assert np.abs(index[:, 0] - plane).max() < 1e-4
            found[plane] += filled([index[:, 1:]], mask.shape[1:])
        assert np.array_equal(found, mask.astype(int))
    again = rasterise(read_contours(path, 1), source.grid)
    assert np.array_equal(again.astype(bool), masks[0])
    write_rtstruct(tmp_path / "again.dcm", source, segments, algorithm, CREATED)
    assert path.read_bytes() == (tmp_path / "again.dcm").read_bytes()
    with pytest.raises(Vol3dError, match="at least one mask"):
        write_rtstruct(path, source, [], algorithm, CREATED)


def test_long_contours_fit(tmp_path, make_series, algorithm):
    """A decimal string of more than 64 KB, which explicit VR could not hold."""
    grid = Grid.from_lps((3, 101, 101), [[0, 0, 1, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1.0]])
    source = read_source(make_series(tmp_path / "ct", grid))
    mask = np.zeros(grid.shape, bool)
    mask[1, ::2] = mask[1, :, 0] = True  # a comb
    mask[1, 1::2, 1::2] = True
    write_rtstruct(tmp_path / "rt.dcm", source, [Segment(prompt="comb", load=lambda: mask)], algorithm, CREATED)
    contours = pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence[0].ContourSequence
    assert max(len("\\".join(map(str, c.ContourData))) for c in contours) > 65536
    found = sum(
        filled(
            [source.grid.mm_to_index(np.array(c.ContourData, float).reshape(-1, 3) * (-1, -1, 1))[:, 1:]], (101, 101)
        )
        for c in contours
    )
    assert np.array_equal(found, mask[1].astype(int))

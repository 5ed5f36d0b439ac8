"""The patient's right is on the left of the picture, feet are down; checked on the pixels of the PNG."""

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.image import imread

from vol3d.errors import GeometryError, Vol3dError
from vol3d.export.figures import picture, save_overlay_png
from vol3d.geometry import Grid
from vol3d.volume import Volume

GRID = Grid.from_spacing((50, 30, 40), (4.0, 5.0, 6.0), (-117.0, -72.5, -500.0))


def body():
    z, y, x = np.indices(GRID.shape)
    mm = GRID.index_to_mm(np.stack([z, y, x], axis=-1))
    inside = (mm[..., 0] / 100) ** 2 + (mm[..., 1] / 65) ** 2 < 1
    marker = np.zeros(GRID.shape, np.uint8)
    marker[38:44, 20:24, 28:34] = 1  # superior, anterior, right
    ct = Volume(np.where(inside, 40.0, -1000.0).astype(np.float32), GRID, "ct")
    pet = Volume((0.8 * inside + 9.0 * marker).astype(np.float32), GRID, "pet")
    return ct, pet, marker


def outline_centres(png, panels):
    """Centre (right, up) of the first mask's outline in each panel, as shares of the panel's width and height."""
    pixels = imread(png)[..., :3]
    close = np.abs(pixels - colormaps["tab10"](0)[:3]).max(axis=-1) < 0.12
    close[int(0.92 * len(close)) :] = False  # the legend
    width = close.shape[1] / panels
    found = []
    for panel in range(panels):
        row, column = np.nonzero(close[:, int(panel * width) : int((panel + 1) * width)])
        found.append((column.mean() / width, 1 - row.mean() / len(close)))
    return found


def test_the_picture_of_a_slice_is_radiological():
    axial = np.zeros((3, 4))
    axial[2, 3] = 1  # most anterior, most right
    assert picture(axial, "axial")[0, 0] == 1  # top left
    coronal = np.zeros((3, 4))
    coronal[0, 3] = 1  # feet, right
    assert picture(coronal, "coronal")[-1, 0] == 1  # bottom left
    sagittal = np.zeros((3, 4))
    sagittal[2, 3] = 1  # head, anterior
    assert picture(sagittal, "sagittal")[0, 0] == 1  # top left


def test_a_marker_on_the_right_side_appears_on_the_left(tmp_path):
    ct, pet, marker = body()
    save_overlay_png(tmp_path / "a.png", ct, pet, [("right upper nodule", marker), ("nothing", marker * 0)], "title")
    axial, coronal, sagittal, projection = outline_centres(tmp_path / "a.png", 4)
    for across, up in (axial, coronal, sagittal, projection):
        assert across < 0.45
        assert up > 0.52


@pytest.mark.parametrize("images", ["ct", "pet"])
def test_one_image_is_enough(tmp_path, images):
    ct, pet, marker = body()
    save_overlay_png(
        tmp_path / "a.png", ct if images == "ct" else None, pet if images == "pet" else None, [("m", marker)]
    )
    assert len(outline_centres(tmp_path / "a.png", 3 if images == "ct" else 4)) in (3, 4)


def test_millimetres_are_square(tmp_path):
    """A cube of 60 mm has an outline as high as wide on every slice, though voxels are 4 x 5 x 6 mm."""
    ct, _, _ = body()
    cube = np.zeros(GRID.shape, np.uint8)
    cube[10:25, 9:21, 15:25] = 1
    save_overlay_png(tmp_path / "a.png", ct, None, [("cube", cube)])
    pixels = imread(tmp_path / "a.png")[..., :3]
    close = np.abs(pixels - colormaps["tab10"](0)[:3]).max(axis=-1) < 0.12
    close[int(0.92 * len(close)) :] = False
    for panel in np.array_split(close, 3, axis=1):
        row, column = np.nonzero(panel)
        assert np.ptp(row) == pytest.approx(np.ptp(column), abs=4)
        assert np.ptp(row) > 40


def test_focus_chooses_the_slices(tmp_path):
    ct, pet, marker = body()
    organ = np.zeros(GRID.shape, np.uint8)
    organ[5:25, 5:25, 5:25] = 1
    save_overlay_png(tmp_path / "a.png", ct, pet, [("nodule", marker), ("organ", organ)], focus="nodule")
    assert len(outline_centres(tmp_path / "a.png", 4)) == 4
    assert not np.isnan(outline_centres(tmp_path / "a.png", 4)).any()


def test_what_cannot_be_drawn_is_refused(tmp_path):
    ct, pet, marker = body()
    with pytest.raises(Vol3dError, match="found neither"):
        save_overlay_png(tmp_path / "a.png", None, None, [])
    with pytest.raises(GeometryError, match="canonical"):
        save_overlay_png(tmp_path / "a.png", ct.flip((2,)), None, [])
    with pytest.raises(GeometryError, match="on one grid"):
        save_overlay_png(tmp_path / "a.png", ct, pet.crop((0, 0, 0), (9, 9, 9)), [])
    with pytest.raises(GeometryError, match="mask 'm'"):
        save_overlay_png(tmp_path / "a.png", ct, pet, [("m", marker[1:])])
    assert not (tmp_path / "a.png").exists()

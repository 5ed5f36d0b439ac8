import numpy as np
import pytest
import torch

from vol3d.data.channels import ChannelConfig, axis_coordinates_mm, crop_to_channels, read_crop, to_channels
from vol3d.errors import ConfigError
from vol3d.geometry import Grid

CONFIG = ChannelConfig(ct_windows=((-1000.0, 1000.0), (0.0, 100.0)), pet_clips=(5.0, 20.0), coordinates=False)


def test_windows_and_clips_by_hand():
    ct = np.array([[[-2000, -1000, 0, 50, 250, 3000]]], np.int16)
    pet = np.array([[[-1.0, 0.0, 2.5, 5.0, 10.0, 40.0]]], np.float32)
    image = to_channels(ct, pet, None, None, CONFIG)
    assert image.shape == (6, 1, 1, 6)
    assert CONFIG.count == 6
    expected = [
        [-1, -1, 0, 0.05, 0.25, 1],
        [-1, -1, -1, 0, 1, 1],
        [-1, -1, 0, 1, 1, 1],
        [-1, -1, -0.75, -0.5, 0, 1],
        [1] * 6,
        [1] * 6,
    ]
    torch.testing.assert_close(image[:, 0, 0], torch.tensor(expected, dtype=torch.float32))


def test_absent_and_uncovered_are_minus_one_with_validity_zero():
    ct = np.full((1, 1, 3), 40, np.int16)
    valid = np.array([[[True, False, True]]])
    image = to_channels(ct, None, valid, None, CONFIG)
    assert image[0, 0, 0].tolist() == pytest.approx([0.04, -1, 0.04], abs=1e-6)
    assert image[1, 0, 0].tolist() == pytest.approx([-0.2, -1, -0.2], abs=1e-6)
    assert (image[2:4] == -1).all()
    assert image[4, 0, 0].tolist() == [1, 0, 1]
    assert (image[5] == 0).all()


def test_coordinates_are_mm_from_the_body_centre_over_200(make_cache, make_study):
    centre = (10.0, -20.0, 30.0)  # world x, y, z
    entry = make_cache(make_study("a", absent=("x",), body_center_mm=centre)).entry("a")
    config = ChannelConfig(ct_windows=((-1000.0, 1000.0),), pet_clips=(), coordinates=True)
    start, stop = (-2, 5, 7), (6, 13, 15)
    image = crop_to_channels(entry, read_crop(entry, start, stop), start, stop, config)
    for index in [(0, 0, 0), (3, 7, 2)]:
        x, y, z = entry.grid.index_to_mm(np.add(start, index))
        expected = [(z - 30) / 200, (y + 20) / 200, (x - 10) / 200]
        found = [float(image[(c, *index)]) for c in config.coordinate_channels]
        assert found == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="exactly when"):
        to_channels(np.zeros((2, 2, 2)), None, None, None, config)
    assert [len(a) for a in axis_coordinates_mm(entry, start, stop)] == [8, 8, 8]


def test_padding_and_the_edge_of_the_pet_are_invalid(make_cache, make_study):
    short = Grid.from_spacing((40, 44, 24), (4.0, 3.0, 2.0), (-50.0, -60.0, -70.0))
    entry = make_cache(make_study("a", absent=("x",), source_grids={"pet": short})).entry("a")
    crop = read_crop(entry, (-1, 0, 20), (7, 8, 28))
    assert not crop.ct_valid_ZYX[0].any()
    assert crop.ct_valid_ZYX[1:].all()
    assert crop.pet_valid_ZYX[1:, :, :4].all()
    assert not crop.pet_valid_ZYX[:, :, 4:].any()
    assert read_crop(entry, (0, 0, 0), (8, 8, 8)).ct_valid_ZYX is None


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"ct_windows": ((100.0, 0.0),)}, "low < high"),
        ({"pet_clips": (0.0,)}, "above 0 SUV"),
        ({"ct_windows": (), "pet_clips": ()}, "no image"),
    ],
)
def test_bad_channels_are_refused(change, fragment):
    values = {"ct_windows": ((-1000.0, 1000.0),), "pet_clips": (5.0,), "coordinates": False}
    with pytest.raises(ConfigError, match=fragment):
        ChannelConfig(**{**values, **change})

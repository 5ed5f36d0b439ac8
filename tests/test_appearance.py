"""Density and uptake of synthetic things, against numbers worked out by hand."""

import numpy as np
import pytest

from vol3d.appearance import Appearance, around, core_of, densities, organ_hu, organ_suv, uptake

SPACING = (6.0, 4.0, 2.0)


def ball(shape, centre, radius_mm, spacing=SPACING):
    index = np.moveaxis(np.indices(shape), 0, -1)
    return (((index - centre) * spacing) ** 2).sum(axis=-1) <= radius_mm**2


@pytest.fixture(scope="module")
def scene():
    """A ball of 15 mm radius in an organ of 40 mm, which lies in fat."""
    shape = (17, 25, 49)
    thing, organ = ball(shape, (8, 12, 24), 15), ball(shape, (8, 12, 24), 40)
    ct = np.where(thing, 30, np.where(organ, 100, -100)).astype(np.int16)
    pet = np.where(thing, 6.0, np.where(organ, 2.0, 0.3)).astype(np.float32)
    return thing, organ, ct, pet


def test_around_keeps_its_distance_in_mm_along_every_axis(scene):
    shell = around(scene[0], SPACING)
    z, y, x = 8, 12, 24
    # edges of the ball at 12 mm (z: 2 voxels), 12 mm (y: 3), 14 mm (x: 7): the shell is 5 to 20 mm further out
    assert shell[:, y, x].nonzero()[0].tolist() == [3, 4, 5, 11, 12, 13]
    assert shell[z, :, x].nonzero()[0].tolist() == [4, 5, 6, 7, 17, 18, 19, 20]
    assert shell[z, y].nonzero()[0].tolist() == [*range(7, 15), *range(34, 42)]


def test_the_edge_shares_its_voxels_with_the_surroundings_and_is_left_out(scene):
    core = core_of(scene[0])
    assert core.any()
    assert not (core & ~scene[0]).any()
    assert core[:, 12, 24].sum() == scene[0][:, 12, 24].sum() - 2
    small = ball((9, 9, 9), (4, 4, 4), 5, (4, 4, 4))
    assert np.array_equal(core_of(small), small)  # of 7 voxels one would stay


def test_the_organ_around_a_thing_and_not_the_fat_behind_it(scene):
    thing, organ, ct, pet = scene
    shell = around(thing, SPACING)
    assert organ_hu(ct, shell, organ) == 100
    assert organ_hu(ct, shell, None) == 100  # fat is no parenchyma
    assert organ_suv(pet, shell, organ) == 2.0
    lung = np.where(thing, 30, -800)
    assert organ_hu(lung, shell, None) == -800
    assert organ_hu(np.where(thing, 30, -100), shell, None) is None  # fat alone is no organ
    assert organ_hu(np.where(thing, 30, -1000), shell, None) is None  # nor is air outside the body
    nothing = np.zeros_like(shell)
    assert organ_hu(ct, nothing, None) is None
    assert organ_suv(pet, nothing, None) is None


@pytest.mark.parametrize(
    ("hu", "around_hu", "organ", "words", "certain"),
    [
        (30, 100, "liver", ("hypodense", "solid"), True),
        (100, 108, "liver", ("isodense", "solid"), True),
        (100, 112, "liver", ("isodense", "hypodense", "solid"), False),
        (100, 117, "liver", ("hypodense", "isodense", "solid"), False),
        (170, 100, "liver", ("hyperdense", "solid"), True),
        (260, 180, "kidney", ("hyperdense", "solid"), True),  # enhanced: 260 HU are no calcium here
        (420, 180, "kidney", ("calcified", "hyperdense"), True),
        (420, None, None, ("calcified", "hyperdense"), True),
        (40, None, "liver", (), False),
        (-450, -800, "lung", ("ground-glass",), True),
        (-380, -800, "lung", ("ground-glass", "solid"), False),
        (30, -800, None, ("solid",), True),
        (180, -800, "lung", ("calcified", "solid"), False),  # a small one shares its voxels with the lung
        (240, -800, "lung", ("calcified",), True),
        (45, -90, "mediastinum", ("solid",), True),
        (600, -90, "mediastinum", ("calcified", "hyperdense"), True),
        (40, 220, "bone", ("lytic",), True),
        (250, 220, "bone", ("isodense",), True),
        (800, 220, "bone", ("sclerotic",), True),
        (130, 220, "bone", ("lytic", "isodense"), False),
        (800, None, "bone", (), False),
    ],
)
def test_words_for_density(hu, around_hu, organ, words, certain):
    assert densities(hu, around_hu, organ) == (words, certain)


@pytest.mark.parametrize(
    ("suv", "around_suv", "word"),
    [(6, 2, "avid"), (2.9, 2, None), (2.7, 2, "non-avid"), (0.8, 0.2, "non-avid"), (1.9, 0.4, None), (2.0, 0.4, "avid"),
     (5, None, None), (1, None, "non-avid")],
)  # fmt: skip
def test_words_for_uptake(suv, around_suv, word):
    assert uptake(suv, around_suv) == word


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("calcified lesion in the liver", True),
        ("hyperdense lesion in the liver", True),
        ("hypodense lesion in the liver", False),
        ("calcified lesion in the liver without FDG uptake", False),
        ("FDG-avid calcified lesion in the liver", True),
        ("lesion in the liver", None),
        ("part-solid nodule", None),
    ],
)
def test_a_text_fits_where_each_of_its_words_holds(text, fits):
    looks = Appearance(hu=450.0, densities=("calcified", "hyperdense"), certain=True, suv=6.0, uptake="avid")
    assert looks.fits(text) is fits
    assert looks.called(text) == ("calcified" in text)


def test_what_was_not_measured_fits_and_contradicts_nothing():
    assert Appearance().fits("FDG-avid calcified lesion") is None
    assert Appearance().density is None
    assert Appearance(hu=60.0, densities=("isodense", "hypodense")).density is None  # in doubt

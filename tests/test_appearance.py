"""Density and uptake of synthetic things, against numbers worked out by hand."""

import numpy as np
import pytest

from vol3d.appearance import Appearance, Judged, around, core_of, judge_density, judge_uptake, organ_hu, organ_suv
from vol3d.text.looks import density_of

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
    assert core_of(small) is None  # of 7 voxels one would stay


def test_the_organ_around_a_thing_and_not_the_fat_behind_it(scene):
    thing, organ, ct, pet = scene
    shell = around(thing, SPACING)
    assert organ_hu(ct, shell, organ) == 100
    assert organ_hu(ct, shell, None) == 100  # fat is no parenchyma
    assert organ_suv(pet, shell, organ) == 2.0
    lung = np.where(thing, 30, -800)
    assert organ_hu(lung, shell, None) == -800
    assert organ_hu(np.where(thing, 30, -100), shell, None) is None  # fat alone is no organ
    assert organ_hu(ct, shell, None, only_organ=True) is None  # muscle does not stand in for bone or kidney
    assert (
        organ_hu(np.where(thing, 30, np.where(shell & (np.indices(shell.shape)[2] % 2 == 0), 5, 60)), shell, None) == 60
    )
    assert organ_hu(np.where(thing, 30, -1000), shell, None) is None  # nor is air outside the body
    nothing = np.zeros_like(shell)
    assert organ_hu(ct, nothing, None) is None
    assert organ_suv(pet, nothing, None) is None


@pytest.mark.parametrize(
    ("hu", "around_hu", "organ", "words", "certain", "refuted"),
    [
        (30, 100, "liver", "hypodense", True, "isodense hyperdense calcified ground-glass"),
        (100, 108, "liver", "isodense", True, "hypodense hyperdense calcified ground-glass"),
        (100, 112, "liver", "isodense hypodense", False, "hyperdense calcified ground-glass"),
        (100, 117, "liver", "hypodense isodense", False, "hyperdense calcified ground-glass"),
        (170, 100, "liver", "hyperdense", True, "hypodense isodense calcified ground-glass"),
        (260, 180, "kidney", "hyperdense", True, "hypodense isodense calcified ground-glass"),  # enhanced
        (230, 100, "liver", "hyperdense", True, "hypodense isodense ground-glass"),  # calcium or contrast medium
        (420, 180, "kidney", "calcified hyperdense", True, "hypodense isodense ground-glass"),
        (420, None, None, "calcified hyperdense", True, "hypodense ground-glass"),
        (220, None, "pancreas", "", False, "ground-glass"),  # a vessel, a node in the arterial phase
        (40, None, "liver", "", False, "calcified"),
        (-450, -800, "lung", "ground-glass", True, "solid calcified"),
        (-380, -800, "lung", "ground-glass solid", False, "calcified"),
        (30, -800, None, "solid", True, "ground-glass calcified"),
        (180, -800, "lung", "calcified solid", False, "ground-glass"),
        (240, -800, "lung", "calcified hyperdense", True, "hypodense ground-glass"),
        (-980, -850, "lung", "", False, ""),  # a cavity
        (-790, -800, "lung", "", False, ""),  # as dark as its lung
        (45, None, "mediastinum", "solid", True, "calcified ground-glass hypodense"),
        (5, None, "mediastinum", "hypodense solid", False, "calcified ground-glass"),  # necrotic, or half of it fat
        (220, None, "mediastinum", "", False, "ground-glass"),
        (600, None, "mediastinum", "calcified hyperdense", True, "hypodense ground-glass"),
        (40, 220, "bone", "lytic hypodense", True, "sclerotic isodense hyperdense calcified"),
        (40, 95, "bone", "lytic hypodense", True, "sclerotic isodense hyperdense calcified"),  # thin bone
        (250, 220, "bone", "isodense", True, "lytic sclerotic"),
        (800, 220, "bone", "sclerotic hyperdense", True, "lytic isodense hypodense"),
        (130, 220, "bone", "lytic isodense", False, "sclerotic"),
        (800, None, "bone", "", False, ""),
    ],
)
def test_words_for_density(hu, around_hu, organ, words, certain, refuted):
    expected = Judged(tuple(words.split()), certain, frozenset(refuted.split()))
    assert judge_density(hu, around_hu, organ) == expected


@pytest.mark.parametrize(
    ("hu", "around_hu", "organ", "words", "refuted"),
    [
        (-450, -800, "lung", "ground-glass solid", ""),  # solid, with lung in its voxels
        (60, -800, "lung", "solid", "ground-glass"),  # perhaps calcified
        (104, 100, "liver", "isodense", ""),
        (30, 100, "liver", "hypodense", "isodense hyperdense calcified ground-glass"),  # darker still without its edge
    ],
)
def test_a_thing_without_a_core_is_drawn_towards_its_surroundings(hu, around_hu, organ, words, refuted):
    found = judge_density(hu, around_hu, organ, small=True)
    assert (found.words, found.refuted) == (tuple(words.split()), frozenset(refuted.split()))


@pytest.mark.parametrize(
    ("suv", "around_suv", "word"),
    [(1.9, 1.85, "non-avid"), (1.9, 2.4, "non-avid"),
     (6, 2, "avid"), (2.9, 2, None), (2.7, 2, "non-avid"), (0.8, 0.2, "non-avid"), (1.9, 0.4, None), (2.0, 0.4, "avid"),
     (5, None, None), (1, None, "non-avid")],
)  # fmt: skip
def test_words_for_uptake(suv, around_suv, word):
    assert judge_uptake(suv, around_suv) == word


def test_a_tumour_in_hot_urine_is_not_called_pale():
    assert judge_uptake(9.0, 25.0, "bladder") is None
    assert judge_uptake(9.0, 25.0, "kidney") == "non-avid"


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
    looks = Appearance(hu=450.0, density=judge_density(450, 60, "liver"), suv=6.0, uptake="avid")
    assert looks.fits(text) is fits
    assert looks.called(text) == (density_of(text) in (None, "calcified"))


def test_what_was_not_measured_fits_and_contradicts_nothing():
    assert Appearance().fits("FDG-avid calcified lesion") is None
    assert Appearance().word is None
    assert Appearance(density=judge_density(100, 112, "liver")).word is None  # in doubt
    bone = Appearance(density=judge_density(800, 220, "bone"))
    assert bone.fits("calcified lesion of the spine") is None  # calcium or bone: nobody can tell
    assert bone.record() == {
        "hu": None, "around_hu": None, "suv": None, "around_suv": None, "uptake": None, "density": "sclerotic",
        "possible_densities": ["sclerotic", "hyperdense"],
    }  # fmt: skip


def test_a_word_for_density_alone_means_an_organ_in_which_it_is_said():
    nodule = Appearance(hu=25.0, around_hu=-850.0, density=judge_density(25.0, -850.0, "lung"), organ="lung")
    assert nodule.fits("hyperdense lesion") is False  # denser than lung are all of them
    assert nodule.fits("hyperdense lesion in the lung") is None
    assert nodule.fits("lytic lesion") is False
    assert nodule.fits("solid lesion") is True
    bone = Appearance(hu=767.0, around_hu=240.0, density=judge_density(767.0, 240.0, "bone"), organ="bone")
    assert bone.fits("calcified lesion") is False  # sclerotic
    assert bone.fits("sclerotic lesion") is True
    nowhere = Appearance(hu=25.0, density=judge_density(25.0, None, None))
    assert nowhere.fits("lytic lesion") is None

"""Sentences to lesions: on a PET built by hand, and on real PET with sentences written from the contour."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from preprocessing.reading import read_image, read_mask
from preprocessing.weak_labels import label_study
from preprocessing.weak_labels_checks import Organs, side_in_body
from preprocessing.weak_labels_region import Growth, Region, grow
from preprocessing.weak_labels_slices import Numbering, Series, series_of
from vol3d.errors import ConfigError, GeometryError
from vol3d.geometry import Grid
from vol3d.metrics.segmentation import dice
from vol3d.volume import Volume

SHAPE, SPACING = (60, 50, 110), (4.0, 4.0, 4.0)
GRID = Grid.from_spacing(SHAPE, SPACING, (-218.0, -98.0, 0.0))


def pet_with(*balls, grid=GRID, background=0.5):
    """Body of SUV 0.5 with blurred balls (centre, radius in voxels, SUVmax); the last digit of each is exact."""
    array = np.full(grid.shape, 0.0, np.float32)
    array[:, 5:-5, 5:-5] = background
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    for centre, radius, suv in balls:
        ball = ndimage.gaussian_filter((np.linalg.norm(index - centre, axis=-1) <= radius).astype(float), 0.7)
        peak = 1 + 1e-3 * np.exp(-(np.linalg.norm(index - centre, axis=-1) ** 2))
        array = np.maximum(array, (ball * peak / (ball * peak).max() * suv).astype(np.float32))
    return Volume(array, grid, "pet")


def labelled(pet, *sentences, numbers=None, **options):
    return label_study(pet, {"findings": "\n".join(sentences)}, {"pet": Series(pet.grid, numbers)}, **options)


def seeds(found):
    return [label.region.seed for label in found.labels]


MASS = "FDG-avid mass, SUVmax {} (slice {})."


# -- regions ----------------------------------------------------------------------------------------------------------


def test_a_large_ball_comes_back_within_a_voxel_of_its_edge():
    pet = pet_with(((30, 25, 40), 8, 8.0))
    region = grow(pet, (30, 25, 40), Growth())
    assert isinstance(region, Region)
    assert region.background_suv == pytest.approx(0.5, abs=0.05)
    radius = (region.mask_ZYX.sum() * 3 / 4 / np.pi) ** (1 / 3)
    assert 7.5 < radius < 9.0
    assert region.threshold_suv == pytest.approx(0.5 + 0.4 * 7.5**0.5, abs=0.15)


def test_the_share_of_the_threshold_falls_as_lesions_get_hotter():
    shares = []
    for suv in (3.0, 8.0, 20.0):
        region = grow(pet_with(((30, 25, 40), 8, suv)), (30, 25, 40), Growth())
        shares.append(region.threshold_suv / suv)
    assert shares[0] > shares[1] > shares[2]


def test_a_hotter_neighbour_that_touches_is_cut_off_at_the_valley():
    pet = pet_with(((30, 25, 40), 6, 6.0), ((30, 25, 53), 6, 30.0))
    region = grow(pet, (30, 25, 40), Growth())
    assert region.parted
    assert region.mask_ZYX[30, 25, 40]
    assert not region.mask_ZYX[30, 25, 50:].any()


@pytest.mark.parametrize(
    ("balls", "reason"),
    [
        ([((30, 25, 40), 8, 8.0), ((30, 25, 46), 2, 9.0)], "secondary peak"),
        ([((30, 25, 40), 8, 0.7)], "does not stand out"),
    ],
)
def test_what_is_no_lesion_of_its_own_is_refused(balls, reason):
    assert reason in grow(pet_with(*balls), (30, 25, 40), Growth())


def test_a_single_hot_voxel_is_a_spike():
    pet = pet_with()
    pet.array_ZYX[30, 25, 40] = 9.0
    assert "spike of 1 voxels" in grow(pet, (30, 25, 40), Growth())


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match="gain > 0"):
        Growth(gain=0.0)


# -- slices -----------------------------------------------------------------------------------------------------------


def test_slice_numbers_follow_instance_numbers_and_both_directions():
    series = Series(GRID, tuple(range(70, 10, -1)))
    place = GRID.index_to_mm(np.array([[0, 3, 4], [59, 3, 4]]))
    assert series.slice_of(place, Numbering("pet", "as stored")).tolist() == [70, 11]
    assert series.slice_of(place, Numbering("pet", "reversed")).tolist() == [11, 70]
    assert Series(GRID).slice_of(place, Numbering("pet", "as stored")).tolist() == [1, 60]


def test_a_grid_whose_first_axis_is_not_axial_is_counted_both_ways():
    turned = Series(GRID.permute((1, 0, 2)))
    assert [(n.axis, n.direction) for n in turned.numberings("pet")] == [
        (0, "as stored"), (0, "reversed"), (1, "as stored"), (1, "reversed")]  # fmt: skip
    assert len(Series(GRID).numberings("pet")) == 2
    assert series_of({"pet": GRID}, {"pet": None})["pet"].numbers is None


# -- sentences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [-3, 0, 3])
def test_the_lesion_near_the_slice_is_labelled(offset):
    pet = pet_with(((20, 25, 40), 5, 7.9), ((40, 25, 70), 5, 9.3))
    found = labelled(pet, MASS.format("7.9", 21 + offset))
    assert seeds(found) == [(20, 25, 40)]
    assert found.labels[0].claim.phrase == "FDG-avid mass"
    assert found.labels[0].region.suv_max == pytest.approx(7.9)


def test_the_slice_may_cut_a_long_lesion_far_from_its_hottest_voxel():
    pet = pet_with(((20, 25, 40), 9, 7.9))
    assert seeds(labelled(pet, MASS.format("7.9", 27))) == [(20, 25, 40)]
    assert "within 3 slices of slice 52" in labelled(pet, MASS.format("7.9", 52)).refusals[0].reason


def test_direction_is_inferred_from_all_sentences_of_a_study():
    # two lesions of one SUVmax, mirror images along z: one sentence cannot tell which, a third lesion does
    twins = (((15, 25, 40), 4, 5.5), ((44, 25, 70), 4, 5.5))
    alone = labelled(pet_with(*twins), MASS.format("5.5", 16))
    assert not alone.labels
    assert "counted the other way" in alone.refusals[0].reason
    pet = pet_with(*twins, ((8, 25, 20), 4, 9.1))
    reversed_slice = 60 + 1 - 9
    found = labelled(pet, MASS.format("5.5", 16), "Hypermetabolic node, SUVmax 9.1 (slice 9).")
    assert seeds(found) == [(15, 25, 40), (8, 25, 20)]
    assert found.numberings["pet"].direction == "as stored"
    found = labelled(pet, MASS.format("5.5", 16), f"Hypermetabolic node, SUVmax 9.1 (slice {reversed_slice}).")
    assert seeds(found) == [(44, 25, 70), (8, 25, 20)]
    assert found.numberings["pet"].direction == "reversed"


def test_two_equal_peaks_near_the_slice_are_refused_unless_the_side_tells():
    pet = pet_with(((30, 25, 30), 4, 5.5), ((30, 25, 80), 4, 5.5))
    found = labelled(pet, MASS.format("5.5", 31))
    assert not found.labels
    assert "2 lesions fit" in found.refusals[0].reason
    assert side_in_body(pet, (30, 25, 30)) == "left"  # x grows to the patient's right
    assert side_in_body(pet, (30, 25, 54)) is None
    found = labelled(pet, "FDG-avid mass on the left, SUVmax 5.5 (slice 31).")
    assert seeds(found) == [(30, 25, 30)]
    found = labelled(pet, "FDG-avid mass on the right, SUVmax 5.5 (slice 31).")
    assert seeds(found) == [(30, 25, 80)]


@pytest.mark.parametrize("suv", ["7.7", "8.1", "3.0", "0.5", "55.0"])
def test_an_suv_that_no_lesion_has_gets_no_label(suv):
    pet = pet_with(((30, 25, 40), 5, 7.9))
    found = labelled(pet, MASS.format(suv, 31))
    assert not found.labels
    assert found.refusals[0].reason


def test_a_contour_that_leaves_out_the_hottest_voxels_still_finds_its_lesion():
    pet = pet_with(((30, 25, 40), 5, 10.0))
    pet.array_ZYX[30, 25, 42] = 9.4
    found = labelled(pet, MASS.format("9.4", 31))
    assert seeds(found) == [(30, 25, 40)]
    assert not found.labels[0].exact
    assert not labelled(pet, MASS.format("9.4", 33)).labels  # on the very slice only


def test_organ_masks_confirm_contradict_and_forbid():
    pet = pet_with(((30, 25, 30), 4, 5.5))
    bladder = np.zeros(SHAPE, np.uint8)
    bladder[25:36, 20:31, 25:36] = 1
    far = np.zeros(SHAPE, np.uint8)
    far[:5] = 1
    organs = Organs({"a": "urinary bladder", "b": "liver"}, {"a": bladder, "b": far}.__getitem__)
    assert "bladder, which FDG always shows" in labelled(pet, MASS.format("5.5", 31), organs=organs).refusals[0].reason
    assert labelled(pet, "FDG-avid bladder mass, SUVmax 5.5 (slice 31).", organs=organs).labels
    hepatic = labelled(pet, "Metastasis in the liver, SUVmax 5.5 (slice 31).", organs=organs)
    assert "not near the liver" in hepatic.refusals[0].reason


def test_z_needs_no_slice_and_ct_slices_are_carried_to_the_pet():
    pet = pet_with(((20, 25, 40), 4, 5.5), ((45, 25, 40), 4, 5.5))
    ct = Grid.from_spacing((240, 50, 110), (1.0, 4.0, 4.0), (-218.0, -98.0, -1.5))
    series = {"pet": Series(pet.grid), "ct": Series(ct)}
    for text in ("FDG-avid mass, SUVmax 5.5 (z = 80.0 mm).", "FDG-avid mass, SUVmax 5.5 (ct slice 82)."):
        found = label_study(pet, {"findings": text}, series)
        assert seeds(found) == [(20, 25, 40)], text


def test_a_volume_that_is_no_pet_is_refused():
    ct = Volume(np.zeros((4, 4, 4), np.int16), Grid.from_spacing((4, 4, 4), SPACING), "ct")
    with pytest.raises(GeometryError, match="expected a PET"):
        label_study(ct, {"findings": ""}, {"pet": Series(ct.grid)})


# -- real PET ---------------------------------------------------------------------------------------------------------


def sarcomas(data_dir: Path):
    for folder in sorted([*(data_dir / "sts").glob("STS_*"), *(data_dir / "sts_pet_only").glob("STS_*")]):
        pet = read_image(folder / "PET_image.nii.gz", "pet").volume
        truth = read_mask(folder / "PET_mask.nii.gz").volume.array_ZYX != 0
        suv = float(pet.array_ZYX[truth].max())
        yield folder.name, pet, truth, suv, tuple(np.argwhere(truth & (pet.array_ZYX == suv))[0])


def test_sentences_written_from_the_contour_of_31_sarcomas(data_dir):
    hit, scores, turned = [], [], []
    for name, pet, truth, suv, hottest in sarcomas(data_dir):
        sentence = "Hypermetabolic soft tissue mass with SUVmax {:.1f} (slice {})."
        found = labelled(pet, sentence.format(suv, hottest[0] + 1))
        mask = found.labels[0].region.mask_ZYX if found.labels else np.zeros(truth.shape, bool)
        hit.append(bool(mask[hottest]))
        scores.append(dice(mask, truth))
        back = labelled(pet, sentence.format(suv, pet.grid.shape[0] - hottest[0]))
        turned += [bool(label.region.mask_ZYX[hottest]) for label in back.labels]
        assert not labelled(pet, sentence.format(float(pet.array_ZYX.max()) + 2.0, hottest[0] + 1)).labels, name
    assert len(hit) == 31
    assert np.mean(hit) >= 0.98
    assert np.mean(scores) >= 0.65
    assert len(turned) >= 0.85 * 31
    assert all(turned)


def test_the_whole_length_pet_gives_the_tumour_of_its_crop(data_dir):
    raw = read_image(data_dir / "sts_raw_pet" / "image", "pet")
    mask = read_mask(data_dir / "sts" / "STS_001" / "PET_mask.nii.gz").volume
    truth = mask.resample_to(raw.volume.grid, nearest=True).array_ZYX != 0
    suv = float(raw.volume.array_ZYX[truth].max())
    assert suv == pytest.approx(7.910674, abs=1e-4)
    z, y, x = np.argwhere(truth & (raw.volume.array_ZYX == suv))[0]
    for number in (raw.slice_numbers[z] + 2, 268 - raw.slice_numbers[z]):
        found = labelled(raw.volume, MASS.format("7.9", number), numbers=raw.slice_numbers)
        assert found.labels[0].region.mask_ZYX[z, y, x]
        assert dice(found.labels[0].region.mask_ZYX, truth) > 0.65

import numpy as np
import pytest

from preprocessing.transforms import PreprocessConfig, body_box, common_grid, compose, transforms
from vol3d.errors import ConfigError, GeometryError
from vol3d.geometry import Grid
from vol3d.volume import Volume


def config(**fields):
    base = {"spacing_mm": (3.0, 3.0, 3.0), "extent": "union", "body_crop": False, "body_margin_mm": 6.0}
    return PreprocessConfig(**{**base, "levels": 1, "chunk": 32, **fields})


def box_volume(grid, low_mm, high_mm, modality, inside, outside):
    """A world-axis-aligned box, drawn on any grid by the position of its voxel centres."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    mm = grid.index_to_mm(index)
    member = ((mm >= low_mm) & (mm <= high_mm)).all(-1)
    dtype = np.uint8 if modality == "mask" else np.float32
    return Volume(np.where(member, inside, outside).astype(dtype), grid, modality)


def rotated(degrees):
    angle = np.deg2rad(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn


AXIAL = Grid.from_spacing((40, 60, 60), (2.5, 2.0, 2.0), (-59.0, -59.0, -50.0))
SOURCES = {
    "canonical": AXIAL,
    "flipped": AXIAL.flip((0, 2)),
    "permuted": AXIAL.permute((2, 0, 1)),
    "flipped and permuted": AXIAL.flip((1,)).permute((1, 2, 0)),
    "oblique": Grid(AXIAL.shape, rotated(12) @ AXIAL.affine),
}


@pytest.mark.parametrize("name", SOURCES)
def test_a_box_keeps_its_place_in_the_world(name):
    """The centroid of a box at x -30..6, y -10..30, z -20..25 is (-12, 10, 2.5) mm whatever the source's axes."""
    grid = SOURCES[name]
    low, high = np.array([-30, -10, -20]), np.array([6, 30, 25])
    study = {
        "ct": box_volume(grid, low, high, "ct", 50.0, -1000.0),
        "mask:box": box_volume(grid, low, high, "mask", 1, 0),
        "steps": [],
    }
    done = compose(config())(study)
    common = done["ct"].grid
    assert common.orientation == "SAR"
    assert common.spacing_mm == pytest.approx((3, 3, 3))
    assert done["mask:box"].grid.same_as(common)
    center = common.index_to_mm(np.argwhere(done["mask:box"].array_ZYX)).mean(axis=0)
    assert center == pytest.approx([-12, 10, 2.5], abs=0.8)
    volume = done["mask:box"].array_ZYX.sum() * common.voxel_ml
    assert volume == pytest.approx(36 * 40 * 45 / 1000, rel=0.12)
    inside = done["mask:box"].array_ZYX > 0
    assert done["ct"].array_ZYX[inside].mean() > -150  # partial volume at the faces only


def test_ct_and_pet_share_one_grid_and_extents_differ():
    ct = box_volume(AXIAL, np.full(3, -40), np.full(3, 40), "ct", 40.0, -1000.0)
    pet_grid = Grid.from_spacing((30, 25, 25), (5.0, 5.0, 5.0), (-60.0, -60.0, -50.0))
    pet = box_volume(pet_grid, np.full(3, -40), np.full(3, 40), "pet", 2.0, 0.0)
    done = compose(config())({"ct": ct, "pet": pet, "steps": []})
    assert done["ct"].grid.same_as(done["pet"].grid)
    assert done["pet"].grid.contains(pet_grid)  # the PET is 50 mm longer than the CT
    only_ct = compose(config(extent="ct"))({"ct": ct, "pet": pet, "steps": []})
    assert only_ct["ct"].grid.shape[0] == round(40 * 2.5 / 3)


@pytest.mark.parametrize("extent", ["union", "ct", "pet"])
def test_images_without_a_place_in_common_are_refused(extent):
    ct = box_volume(AXIAL, np.full(3, -40), np.full(3, 40), "ct", 40.0, -1000.0)
    far = Grid.from_spacing((30, 25, 25), (5.0, 5.0, 5.0), (-60.0, -60.0, 900.0))
    pet = Volume(np.ones(far.shape, np.float32), far, "pet")
    with pytest.raises(GeometryError, match="expected CT and PET to overlap"):
        compose(config(extent=extent))({"ct": ct, "pet": pet, "steps": []})


def test_orientation_comes_before_resampling_and_steps_are_recorded():
    study = {"ct": box_volume(AXIAL.flip((0,)), np.full(3, -9), np.full(3, 9), "ct", 40.0, -1000.0), "steps": []}
    steps = [s["step"] for s in compose(config(body_crop=True))(study)["steps"]]
    assert steps == ["orient", "resample", "common_grid", "crop"]


def test_body_crop_keeps_the_body_and_every_mask():
    low, high = np.array([-30, -30, -40]), np.array([30, 30, 40])
    study = {
        "ct": box_volume(AXIAL, low, high, "ct", 40.0, -1000.0),
        "mask:far": box_volume(AXIAL, np.array([50, 50, 30]), np.array([58, 58, 40]), "mask", 1, 0),
        "steps": [],
    }
    done = compose(config(body_crop=True))(study)
    grid = done["ct"].grid
    assert done["mask:far"].array_ZYX.sum() == compose(config())(study)["mask:far"].array_ZYX.sum()
    alone = compose(config(body_crop=True))({"ct": study["ct"], "steps": []})["ct"].grid
    assert alone.shape < AXIAL.resample((3, 3, 3)).shape
    assert grid.contains(alone)
    assert (alone.index_to_mm((0, 0, 0)) <= low).all()
    assert (alone.index_to_mm(np.array(alone.shape) - 1) >= high).all()


def test_the_table_is_no_body():
    body = box_volume(AXIAL, np.array([-40, -20, -60]), np.array([40, 30, 60]), "ct", 40.0, -1000.0).array_ZYX
    table = box_volume(AXIAL, np.array([-50, -50, -60]), np.array([50, -47, 60]), "ct", 300.0, -1000.0).array_ZYX
    _, _, center = body_box(Volume(np.maximum(body, table), AXIAL, "ct"))
    assert center[0] == pytest.approx(0, abs=4)
    assert center[1] == pytest.approx(5, abs=4)


def test_a_tiny_mask_survives_a_coarse_grid():
    mask = np.zeros(AXIAL.shape, np.uint8)
    mask[20, 30, 30] = 1
    ct = Volume(np.zeros(AXIAL.shape, np.float32), AXIAL, "ct")
    done = compose(config(spacing_mm=(8.0, 8.0, 8.0)))({"ct": ct, "mask:dot": Volume(mask, AXIAL, "mask"), "steps": []})
    found = np.argwhere(done["mask:dot"].array_ZYX)
    assert len(found) == 1
    distance = done["ct"].grid.index_to_mm(found[0]) - AXIAL.index_to_mm((20, 30, 30))
    assert np.abs(distance).max() <= 4.1


def test_a_grid_at_the_wanted_spacing_is_left_alone():
    """No resampling, so no blur: every voxel of the cache is a voxel of the scanner."""
    grid = Grid.from_spacing((12, 14, 16), (3.0, 3.0, 3.0), (5.3, -7.1, 2.9))
    assert common_grid([grid.flip((0, 1))], (3, 3, 3)).same_as(grid, 1e-6)


@pytest.mark.parametrize(
    "bad", [{"spacing_mm": (0.0, 1.0, 1.0)}, {"levels": 0}, {"chunk": 4}, {"body_margin_mm": -1.0}]
)
def test_configuration_is_checked(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        config(**bad)


def test_monai_chains_the_same_transforms_to_the_same_bits():
    from monai.transforms import Compose

    settings = config(body_crop=True)
    ct = box_volume(SOURCES["oblique"], (-30, -30, -30), (30, 30, 30), "ct", 40, -1000)
    mask = box_volume(SOURCES["oblique"], (-9, -9, -9), (9, 9, 9), "mask", 1, 0)
    study = {"ct": ct, "mask:liver": mask, "steps": []}
    ours, theirs = compose(settings)(study), Compose(transforms(settings))(study)
    assert ours["steps"] == theirs["steps"]
    for name in ("ct", "mask:liver"):
        np.testing.assert_array_equal(ours[name].array_ZYX, theirs[name].array_ZYX)
        assert ours[name].grid.same_as(theirs[name].grid)

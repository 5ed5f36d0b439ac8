import numpy as np
import pytest
import torch

from vol3d.data.augment import (
    OFF,
    AugmentConfig,
    Placement,
    draw_motion,
    resample_CZYX,
    vary_ct,
    vary_pet,
)
from vol3d.errors import ConfigError

SPACING_MM = (4.0, 3.0, 2.0)
SIZE = (20, 24, 28)
START = (15, 12, 11)


def ramp(low, high):
    """Each voxel's own (z, y, x) index, three channels."""
    return list(
        torch.tensor(np.stack(np.meshgrid(*[np.arange(a, b) for a, b in zip(low, high, strict=True)], indexing="ij")))
    )


def sources(placement):
    box = placement.box(START, SIZE, SPACING_MM)
    return resample_CZYX(ramp(*box), placement.grid(START, SIZE, SPACING_MM, box)).numpy()


def test_every_voxel_comes_from_where_the_matrix_says_in_mm():
    rng = np.random.default_rng(3)
    config = AugmentConfig(spatial_probability=1.0, rotation_deg=(30, 20, 25), scale=(0.8, 1.25))
    motion = draw_motion(rng, config, (False, False, False), False)
    found = sources(motion.pet)
    spacing, centre = np.array(SPACING_MM), np.array(START) + (np.array(SIZE) - 1) / 2
    for index in [(0, 0, 0), (19, 23, 27), (3, 20, 9), (10, 12, 14)]:
        offset_mm = (np.array(index) + START - centre) * spacing
        expected = centre + motion.pet.matrix @ offset_mm / spacing
        np.testing.assert_allclose(found[(slice(None), *index)], expected, atol=2e-3)


def test_rotation_about_z_by_90_degrees_by_hand():
    turn = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # source y = -x, source x = y, in mm
    found = sources(Placement(turn, np.zeros(3)))
    # voxel (10, 12, 14) lies 0.5 voxels of 3 mm in y and 0.5 of 2 mm in x beyond the centre (24.5, 23.5, 24.5):
    # offset (2, 1.5, 1) mm, so the source offset is (2, -1, 1.5) mm = (0.5, -1/3, 0.75) voxels
    np.testing.assert_allclose(found[:, 10, 12, 14], [25.0, 23.5 - 1 / 3, 24.5 + 0.75], atol=1e-3)


def test_identity_and_shift_in_mm():
    still = sources(Placement(np.eye(3), np.zeros(3)))
    np.testing.assert_allclose(still[:, 0, 0, 0], START, atol=1e-3)
    shifted = sources(Placement(np.eye(3), np.array([4.0, -6.0, 1.0])))
    np.testing.assert_allclose(shifted[:, 5, 5, 5], np.array(START) + 5 + [1, -2, 0.5], atol=1e-3)


def test_rotation_keeps_lengths_and_scale_is_what_was_drawn():
    config = AugmentConfig(spatial_probability=1.0, scale=(1.25, 1.25))
    matrix = draw_motion(np.random.default_rng(0), config, (False,) * 3, False).ct.matrix
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3) / 1.25**2, atol=1e-12)
    assert np.linalg.det(matrix) > 0


def test_mirroring_needs_both_the_option_and_the_phrases():
    config = AugmentConfig(mirror_axes=("z", "y"), mirror_lr="swap_words", spatial_probability=0)
    seen = {draw_motion(np.random.default_rng(i), config, (True, True, True), False).flips for i in range(60)}
    assert len(seen) == 8
    for i in range(60):
        assert draw_motion(np.random.default_rng(i), config, (False, False, False), False).flips == ()
        assert draw_motion(np.random.default_rng(i), AugmentConfig(), (True, True, True), False).flips == ()


def test_a_mirrored_patch_is_the_flipped_patch():
    motion = draw_motion(np.random.default_rng(1), AugmentConfig(spatial_probability=0), (True,) * 3, False)
    assert not motion.turned
    flip = Placement(np.diag([1.0, 1.0, -1.0]), np.zeros(3))
    expected = np.flip(sources(Placement(np.eye(3), np.zeros(3))), 3)
    np.testing.assert_allclose(sources(flip), expected, atol=1e-3)


@pytest.mark.parametrize("follow", ["pet", "ct"])
def test_misalignment_moves_the_ct_alone(follow):
    config = AugmentConfig(spatial_probability=0, misalign_probability=1.0, masks_follow=follow)
    motion = draw_motion(np.random.default_rng(2), config, (False,) * 3, True)
    np.testing.assert_array_equal(motion.pet.matrix, np.eye(3))
    assert not motion.pet.shift_mm.any()
    assert 0 < np.abs(motion.ct.shift_mm).max() <= 5
    assert (motion.masks is motion.pet) == (follow == "pet")
    alone = draw_motion(np.random.default_rng(2), config, (False,) * 3, False)
    assert not alone.turned


def test_body_offset_is_where_the_patient_would_have_moved_it():
    motion = draw_motion(
        np.random.default_rng(5), AugmentConfig(spatial_probability=1.0, scale=(1.1, 1.2)), (False,) * 3, False
    )
    offset = np.array([30.0, -10.0, 55.0])
    np.testing.assert_allclose(motion.masks.matrix @ motion.body_offset_mm(offset), offset, atol=1e-9)
    assert np.linalg.norm(motion.body_offset_mm(offset)) > np.linalg.norm(offset) * 1.09


def test_ct_variation_stays_within_its_ranges_in_hu():
    ct = torch.full((16, 16, 16), 100.0)
    only_shift = AugmentConfig(
        intensity_probability=1.0, ct_noise_hu=0, blur_voxels=0, low_resolution=1, ct_contrast=0, ct_shift_hu=10
    )
    shifts = [float(vary_ct(ct, np.random.default_rng(i), only_shift)[0, 0, 0]) - 100 for i in range(200)]
    assert max(np.abs(shifts)) <= 10
    assert min(shifts) < -8
    assert max(shifts) > 8
    only_noise = AugmentConfig(
        intensity_probability=1.0, ct_noise_hu=20, blur_voxels=0, low_resolution=1, ct_contrast=0, ct_shift_hu=0
    )
    sigma = [float(vary_ct(ct, np.random.default_rng(i), only_noise).std()) for i in range(50)]
    assert 15 < max(sigma) < 21


def test_contrast_leaves_water_at_zero():
    config = AugmentConfig(intensity_probability=1.0, ct_noise_hu=0, blur_voxels=0, low_resolution=1, ct_shift_hu=0)
    out = vary_ct(torch.tensor([[[0.0, 1000.0]]]), np.random.default_rng(0), config)
    assert out[0, 0, 0] == 0
    assert 950 <= out[0, 0, 1] <= 1050


def test_pet_is_never_scaled():
    pet = torch.full((24, 24, 24), 4.0)
    strong = AugmentConfig(intensity_probability=1.0, pet_noise=0.2)
    means = [float(vary_pet(pet, np.random.default_rng(i), strong).mean()) for i in range(30)]
    assert np.allclose(means, 4.0, atol=0.02)
    assert (vary_pet(torch.zeros(8, 8, 8), np.random.default_rng(0), strong) == 0).all()


def test_off_changes_nothing():
    ct = torch.randn(8, 8, 8)
    assert vary_ct(ct, np.random.default_rng(0), OFF) is ct
    assert vary_pet(ct, np.random.default_rng(0), OFF) is ct
    motion = draw_motion(np.random.default_rng(0), OFF, (True,) * 3, True)
    assert not motion.turned
    assert motion.flips == ()


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"spatial_probability": 1.5}, "spatial_probability"),
        ({"scale": (1.2, 0.8)}, "scale"),
        ({"ct_noise_hu": -1.0}, "ct_noise_hu"),
        ({"drop_ct_probability": 0.6, "drop_pet_probability": 0.6}, "one image must stay"),
        ({"low_resolution": 0.5}, "low_resolution"),
    ],
)
def test_bad_ranges_are_refused(change, fragment):
    with pytest.raises(ConfigError, match=fragment):
        AugmentConfig(**change)

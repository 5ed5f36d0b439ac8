import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from vol3d.config import from_tree, to_tree
from vol3d.data.augment import AugmentConfig
from vol3d.data.channels import ChannelConfig, crop_to_channels, read_crop
from vol3d.data.dataset import DataConfig, PatchDataset
from vol3d.data.phrases import swap_sides
from vol3d.errors import CacheError, ConfigError
from vol3d.geometry import Grid

CHANNELS = ChannelConfig(ct_windows=((-1000.0, 1000.0),), pet_clips=(5.0,), coordinates=True)
CONFIG = DataConfig(patch_size=(16, 16, 16), phrases_per_patch=4, channels=CHANNELS, workers=0)


def with_(**change):
    return dataclasses.replace(CONFIG, **change)


def plain(cache, config=CONFIG, seed=7):
    return PatchDataset(cache, cache.select("train"), config, seed, augment=False)


def same(one, other):
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, torch.Tensor):
            if not torch.equal(
                a.nan_to_num(9) if a.is_floating_point() else a, b.nan_to_num(9) if b.is_floating_point() else b
            ):
                return False
        elif a != b:
            return False
    return True


def test_a_sample_depends_on_seed_and_number_alone(torso):
    first, second = (PatchDataset(torso, torso.select("train"), CONFIG, 7) for _ in range(2))
    wanted = [first[i] for i in range(8)]
    assert all(same(second[i], wanted[i]) for i in reversed(range(8)))
    assert not same(PatchDataset(torso, torso.select("train"), CONFIG, 8)[3], wanted[3])


def test_each_epoch_shows_every_study_once_in_its_own_order(torso):
    dataset = plain(torso)
    epochs = [[dataset[5 * e + i].study_id for i in range(5)] for e in range(4)]
    assert all(sorted(e) == ["s0", "s1", "s2", "s3", "s4"] for e in epochs)
    assert len({tuple(e) for e in epochs}) > 1


def test_image_and_masks_are_the_voxels_of_one_place(torso):
    """The CT value names its voxel, so the masks can be checked against where the patch was taken from."""
    dataset = plain(torso, with_(foreground_fraction=0.5))
    boxes = {
        "left kidney": ((5, 20, 4), (15, 30, 14)),
        "right kidney": ((5, 20, 34), (15, 30, 44)),
        "adrenal glands": ((16, 20, 4), (20, 30, 44)),
        "nodule in the left lung": ((30, 20, 8), (34, 24, 12)),
    }
    boxes |= {"Lt. kidney": boxes["left kidney"], "Rt. kidney": boxes["right kidney"]}
    boxes |= {"left pulmonary nodule": boxes["nodule in the left lung"]}
    seen = Counter()
    for i in range(30):
        sample = dataset[i]
        entry = torso.entry(sample.study_id)
        spacing, centre = np.array((4.0, 3.0, 2.0)), (np.array(entry.grid.shape) - 1) / 2
        start = [round(float(sample.image_CZYX[2 + a].min()) * 200 / spacing[a] + centre[a]) for a in range(3)]
        stop = [a + 16 for a in start]
        expected = crop_to_channels(entry, read_crop(entry, start, stop), start, stop, CHANNELS)
        torch.testing.assert_close(sample.image_CZYX, expected, atol=1e-5, rtol=0)
        for phrase, mask_ZYX, present in zip(sample.phrases, sample.mask_PZYX, sample.present_P, strict=True):
            low, high = boxes.get(phrase, ((0, 0, 0), (0, 0, 0)))
            size = [max(0, min(h, b) - max(lo, a)) for lo, h, a, b in zip(low, high, start, stop, strict=True)]
            assert int(mask_ZYX.sum()) == np.prod(size)
            assert present == 0 if np.prod(size) == 0 else (np.isnan(present) or present == 1)
            seen[phrase] += 1
    assert set(seen) == {*boxes, "nodule in the right lung", "ascites"}


def test_nothing_is_asked_that_the_study_does_not_state(torso):
    dataset = plain(torso)
    stated = {s.study_id: set(s.phrases()) for s in dataset.studies}
    for i in range(20):
        sample = dataset[i]
        assert set(sample.phrases) <= stated[sample.study_id]
        assert len(set(sample.phrases)) == 4
    assert "nodule in the left lung" not in stated["s0"], "neither present nor listed as absent: unknown"


def test_listed_absence_is_a_negative_and_unfilled_places_give_no_loss(make_cache, make_study, make_mask):
    mask = make_mask("mass", ("mass",), (10, 10, 10), (20, 20, 20))
    dataset = plain(make_cache(make_study("a", masks=[mask], absent=("ascites",))))
    for i in range(10):
        sample = dataset[i]
        assert sample.known_P.sum() == 2
        assert sample.present_P[~sample.known_P].isnan().all()
        at = sample.phrases.index("ascites")
        if sample.known_P[at]:
            assert sample.present_P[at] == 0
            assert sample.mask_PZYX[at].sum() == 0


def test_findings_are_told_apart_whatever_is_asked(make_cache, make_study, make_mask):
    large = make_mask("mass", ("mass",), (4, 4, 4), (16, 16, 16), finding_id="f1")
    small = make_mask("node", ("node",), (20, 4, 4), (24, 8, 8), finding_id="f2")
    both = make_mask("both", ("lesions",), (4, 4, 4), (24, 16, 16), finding_id="f1+f2")  # covers what lies between
    organ = make_mask("liver", ("liver",), (0, 0, 0), (40, 40, 40), label="liver")
    cache = make_cache(make_study("a", masks=[small, large, both, organ]))
    dataset = plain(cache, with_(findings_apart=True, patch_size=(48, 48, 48), phrases_per_patch=1))
    for i in range(4):
        number_ZYX = dataset[i].finding_ZYX
        assert number_ZYX.dtype == torch.uint8
        assert torch.bincount(number_ZYX.flatten().long()).tolist()[1:] == [
            20 * 12 * 12 - 12**3 - 4**3, 12**3, 4**3,
        ]  # fmt: skip
    assert plain(cache)[0].finding_ZYX is None


def test_presence_needs_a_share_of_the_mask(make_cache, make_study, make_mask):
    small = make_mask("small", ("small",), (20, 20, 20), (22, 22, 22))  # 8 voxels: one of them is 10 %
    large = make_mask("large", ("large",), (0, 0, 24), (40, 44, 48))
    cache = make_cache(make_study("a", masks=[small, large]))
    dataset = plain(cache, with_(phrases_per_patch=2, presence_voxels=500, foreground_fraction=0.0))
    seen = set()
    for i in range(150):
        sample = dataset[i]
        for phrase, mask_ZYX, present in zip(sample.phrases, sample.mask_PZYX, sample.present_P, strict=True):
            n, p = int(mask_ZYX.sum()), float(present)
            if phrase == "small":
                assert p == (1 if n else 0)
            else:
                assert p == 1 if n >= 500 else np.isnan(p) if n else p == 0
                seen.add(str(p))
    assert seen == {"1.0", "nan", "0.0"}


def test_foreground_and_absent_fractions_hold(torso):
    dataset = plain(torso, with_(foreground_fraction=1.0, absent_fraction=0.0, phrases_per_patch=1))
    samples = [dataset[i] for i in range(60)]
    assert all(s.mask_PZYX.sum() > 0 for s in samples)
    asked = Counter(s.phrases[0] for s in samples if s.study_id in ("s1", "s3"))
    lesions = asked["nodule in the left lung"] + asked["left pulmonary nodule"]
    assert 0.25 < lesions / asked.total() < 0.75  # finding_fraction is a half
    absent = plain(torso, with_(absent_fraction=1.0, foreground_fraction=0.0, phrases_per_patch=2))
    assert all(set(absent[i].phrases) == {"nodule in the right lung", "ascites"} for i in range(5))


def test_rare_concepts_are_asked_more_often_than_their_share(make_cache, make_study, make_mask):
    def organ(i):
        return make_mask(f"organ{i}", (f"organ {i}",), (10, 10, 4 * i), (20, 20, 4 * i + 3), label=f"organ{i}")

    rare = make_mask("cyst", ("cyst",), (30, 30, 30), (34, 34, 34), label="cyst")
    studies = [make_study(f"s{i}", masks=[organ(j) for j in range(5)] + [rare] * (i == 0)) for i in range(5)]
    dataset = plain(make_cache(*studies), with_(phrases_per_patch=1, foreground_fraction=1.0))
    asked = Counter(dataset[i].phrases[0] for i in range(400) if dataset.studies[dataset._study_of(i)].study_id == "s0")
    assert 0.3 < asked["cyst"] / asked.total() < 0.7  # weights 1 against 5 times 1/5; unweighted it would be 1 in 6


def test_a_phrase_of_two_masks_means_both(make_cache, make_study, make_mask):
    masks = [
        make_mask("a", ("nodule", "first nodule"), (10, 10, 10), (12, 12, 12)),
        make_mask("b", ("Nodule",), (14, 14, 14), (16, 16, 16)),
    ]
    cache = make_cache(make_study("a", masks=masks))
    config = with_(phrases_per_patch=2, patch_size=(40, 44, 48))
    for i in range(8):
        sample = plain(cache, config)[i]
        voxels = dict(
            zip((p.lower() for p in sample.phrases), sample.mask_PZYX.flatten(1).sum(1).tolist(), strict=True)
        )
        assert voxels == {"nodule": 16, "first nodule": 8}


def test_a_patch_larger_than_the_volume_is_padded_evenly_with_air(torso):
    sample = plain(torso, with_(patch_size=(64, 48, 48)))[0]
    image_CZYX = sample.image_CZYX
    assert image_CZYX.shape == (7, 64, 48, 48)
    valid = image_CZYX[-2] == 1
    assert valid.sum() == 40 * 44 * 48
    assert valid[12:52, 2:46].all()
    assert (image_CZYX[0][~valid] == -1).all()
    assert sample.mask_PZYX[:, ~valid].sum() == 0


def test_turned_patches_keep_image_and_masks_together(make_cache, make_study, make_mask):
    """The mask is where the CT says it is, whatever the motion."""
    mask = make_mask("box", ("box",), (12, 14, 16), (28, 30, 32))
    ct = np.where(mask[1] > 0, 1000, -1000).astype(np.int16)
    cache = make_cache(make_study("a", masks=[mask], arrays={"ct": ct}))
    augmentation = AugmentConfig(spatial_probability=1.0, intensity_probability=0, mirror_axes=("z", "y"))
    config = with_(patch_size=(24, 24, 24), phrases_per_patch=1, augmentation=augmentation)
    dataset = PatchDataset(cache, ["a"], config, 0)
    for i in range(10):
        sample = dataset[i]
        inside = sample.image_CZYX[0] >= 0
        union = (inside | (sample.mask_PZYX[0] > 0)).sum()
        assert (inside != (sample.mask_PZYX[0] > 0)).sum() <= 0.01 * union


def test_left_is_never_shown_as_right_while_the_text_says_left(torso):
    """The kidneys differ in the CT: the left one lies at low x, which coordinates and the CT ramp both show."""
    augmentation = AugmentConfig(mirror_lr="swap_words", intensity_probability=0, spatial_probability=0)
    config = with_(patch_size=(16, 16, 48), augmentation=augmentation, absent_fraction=0.0)
    dataset = PatchDataset(torso, torso.select("train"), config, 0)
    mirrored = 0
    for i in range(40):
        sample = dataset[i]
        x_mm = sample.image_CZYX[4] * 200
        assert (x_mm[0, 0].diff() > 0).all(), "positions stay on the grid's axes"
        flipped = bool(sample.image_CZYX[0, 0, 0, 0] > sample.image_CZYX[0, 0, 0, -1])
        mirrored += flipped
        for phrase, mask_ZYX in zip(sample.phrases, sample.mask_PZYX, strict=True):
            if "kidney" in phrase.lower() and mask_ZYX.any():
                side = float(x_mm[mask_ZYX > 0].mean())
                says_left = "left" in phrase.lower() or "lt" in phrase.lower().split(".")[0].split()
                assert says_left == (side < 0)
    assert 10 < mirrored < 30
    never = PatchDataset(torso, torso.select("train"), with_(patch_size=(16, 16, 48)), 0)
    assert all(not never._draw_motion(np.random.default_rng(i), [], torso.entry("s0")).mirrored for i in range(30))


def test_no_mirroring_where_one_phrase_has_no_mirror_image(make_cache, make_study, make_mask):
    mask = make_mask("atrium", ("left atrium",), (10, 10, 4), (30, 30, 20))
    augmentation = AugmentConfig(mirror_lr="swap_words", intensity_probability=0, spatial_probability=0)
    dataset = PatchDataset(
        make_cache(make_study("a", masks=[mask], absent=("left kidney",))), ["a"], with_(augmentation=augmentation), 0
    )
    for i in range(20):
        image = dataset[i].image_CZYX
        assert image[0, 0, 0, 0] < image[0, 0, 0, -1]


def test_upper_and_lower_are_not_exchanged(make_cache, make_study, make_mask):
    mask = make_mask("lobe", ("upper lobe",), (10, 10, 4), (30, 30, 20))
    augmentation = AugmentConfig(mirror_axes=("z", "y"), intensity_probability=0, spatial_probability=0)
    dataset = PatchDataset(make_cache(make_study("a", masks=[mask])), ["a"], with_(augmentation=augmentation), 0)
    images = [dataset[i].image_CZYX[0] for i in range(20)]
    assert all(image[0, 0, 0] < image[-1, 0, 0] for image in images)
    assert any(image[0, 0, 0] > image[0, -1, 0] for image in images)


@pytest.mark.parametrize("mirror_lr", ["none", "swap_words"])
def test_texts_hold_all_that_is_ever_drawn(torso, mirror_lr):
    augmentation = AugmentConfig(mirror_lr=mirror_lr, spatial_probability=0, intensity_probability=0)
    dataset = PatchDataset(torso, torso.select("train"), with_(augmentation=augmentation), 0)
    texts = dataset.texts()
    assert texts == sorted(set(texts))
    drawn = {p for i in range(150) for p in dataset[i].phrases}
    assert drawn <= set(texts)
    phrases = {p for s in dataset.studies for p in s.phrases()}
    if mirror_lr == "swap_words":
        phrases |= {swap_sides(p) for p in phrases}
    assert len(texts) <= 3 * len(phrases)
    assert len(drawn) > 0.8 * len(texts)


def test_modalities_are_dropped_as_often_as_asked(torso):
    augmentation = AugmentConfig(drop_pet_probability=0.5, spatial_probability=0, intensity_probability=0)
    dataset = PatchDataset(torso, torso.select("train"), with_(augmentation=augmentation), 0)
    validity = [tuple(dataset[i].image_CZYX[-2:].amax((1, 2, 3)).tolist()) for i in range(40)]
    assert set(validity) == {(1.0, 1.0), (1.0, 0.0)}
    assert 10 < sum(v == (1.0, 0.0) for v in validity) < 30
    assert any(m.any() for i in range(40) if validity[i] == (1.0, 0.0) for m in [dataset[i].mask_PZYX])


def test_one_image_is_enough(make_cache, make_study, make_mask):
    mask = make_mask("mass", ("mass",), (10, 10, 10), (20, 20, 20))
    cache = make_cache(
        make_study("ct", images=("ct",), masks=[mask]),
        make_study("pet", images=("pet",), masks=[(dataclasses.replace(mask[0], image="pet", source="pet"), mask[1])]),
    )
    dataset = PatchDataset(cache, ["ct", "pet"], CONFIG, 0)
    for i in range(8):
        sample = dataset[i]
        other = 0 if sample.study_id == "pet" else 1
        assert (sample.image_CZYX[other] == -1).all()
        assert (sample.image_CZYX[other - 2] == 0).all()


def test_a_mask_of_the_pet_says_nothing_where_there_is_no_pet(make_cache, make_study, make_mask):
    record, mask = make_mask("mass", ("mass",), (2, 10, 10), (8, 20, 20), source="pet")
    short = Grid.from_spacing((12, 44, 48), (4.0, 3.0, 2.0), (-50.0, -60.0, -70.0))
    cache = make_cache(make_study("a", masks=[(record, mask)], absent=("ascites",), source_grids={"pet": short}))
    dataset = plain(cache, with_(foreground_fraction=0.0, phrases_per_patch=2))
    for i in range(30):
        sample = dataset[i]
        at, covered = sample.phrases.index("mass"), float(sample.image_CZYX[-1].mean())
        assert bool(sample.known_P[at]) == (covered >= 0.5 or bool(sample.mask_PZYX[at].any()))
        assert sample.known_P[1 - at]
        if not sample.known_P[at]:
            assert sample.present_P[at].isnan()


def test_contradictions_and_empty_studies_are_refused(make_cache, make_study, make_mask):
    mask = make_mask("mass", ("Mass",), (10, 10, 10), (20, 20, 20))
    cache = make_cache(make_study("a", masks=[mask], absent=("mass",)), make_study("b"))
    with pytest.raises(CacheError, match="for a mask and as absent"):
        PatchDataset(cache, ["a"], CONFIG, 0)
    with pytest.raises(CacheError, match="leave the study out"):
        PatchDataset(cache, ["b"], CONFIG, 0)
    with pytest.raises(CacheError, match="no"):
        PatchDataset(cache, [], CONFIG, 0)


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        ({"patch_size": (4, 16, 16)}, "patch_size"),
        ({"absent_fraction": 1.2}, "absent_fraction"),
        ({"presence_share": 0.0}, "presence_share"),
        ({"phrases_per_patch": 0}, "phrases_per_patch"),
        ({"val_split": "train"}, "different splits"),
    ],
)
def test_bad_configurations_are_refused(change, fragment):
    with pytest.raises(ConfigError, match=fragment):
        with_(**change)


def test_configuration_survives_the_trip_through_yaml():
    config = with_(augmentation=AugmentConfig(mirror_axes=("z",), mirror_lr="swap_words"))
    assert from_tree(DataConfig, to_tree(config), "test") == config


def test_damage_is_raised_and_never_replaced(make_cache, make_study):
    cache = make_cache(make_study("a", absent=("ascites",)), make_study("b", absent=("ascites",)))
    for path in (cache.root / "studies" / "a.zarr" / "ct").glob("0/c/**/*"):
        if path.is_file():
            path.write_bytes(bytes(1000))
    dataset = plain(cache)
    broken = next(i for i in range(2) if dataset._study_of(i) == 0)
    with pytest.raises(CacheError, match="damaged"):
        dataset[broken]
    assert dataset[1 - broken].study_id == "b"

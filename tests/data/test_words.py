"""Statements and contrast in samples: what they add, and that they change nothing else."""

import hashlib
import pickle
from dataclasses import replace

import pytest
import torch

from vol3d.data import index
from vol3d.data.augment import OFF, AugmentConfig
from vol3d.data.channels import ChannelConfig
from vol3d.data.collate import Collate
from vol3d.data.contrast import pair_targets
from vol3d.data.dataset import DataConfig, PatchDataset
from vol3d.errors import CacheError, ConfigError
from vol3d.text.knowledge import ORGAN_NAMES

CHANNELS = ChannelConfig(ct_windows=((-160, 240),), pet_clips=(), coordinates=False)
PLAIN = DataConfig(patch_size=(16, 16, 16), phrases_per_patch=4, channels=CHANNELS, augmentation=OFF)
WORDY = replace(PLAIN, statements_per_patch=3, contrast_texts=4)
WHOLE = replace(WORDY, patch_size=(48, 48, 48))
REPORT = "Lungs: There is a 6 mm nodule in the left lung (image 31). No pleural effusion.\nLiver: No hepatic lesion."


@pytest.fixture
def cache(make_cache, make_study, make_mask):
    kidneys = [
        make_mask("kidney_left", ("left kidney",), (5, 20, 4), (15, 30, 14), label="kidney_left"),
        make_mask("kidney_right", ("right kidney",), (5, 20, 34), (15, 30, 44), label="kidney_right"),
    ]
    studies = [
        make_study("told", masks=kidneys, absent=("nodule in the right lung",)),
        make_study("labelled"),
        make_study("other", absent=("ascites in the abdomen",)),
    ]
    studies[0].attributes["report"] = {"findings": REPORT}
    studies[0].attributes["labels"] = {"kidney_stone": 1}
    studies[1].attributes["labels"] = {"lung_nodule": 0, "cardiomegaly": 1}
    studies[2].attributes["report"] = {"findings": "Both lungs are clear. Nodule in the right adrenal gland."}
    return make_cache(*studies)


class Tokens:
    """States that say which text they are of."""

    def batch(self, texts_BP):
        most = max(len(row) for row in texts_BP)
        tokens = torch.tensor([[[[float(len(t))]] for t in row] for row in texts_BP])
        return tokens.reshape(len(texts_BP), most, 1, 1), torch.ones(len(texts_BP), most, 1, dtype=torch.bool)


def test_off_means_the_samples_of_before(torso):
    """The digest is of texts, masks and targets as they were before there were statements."""
    config = replace(PLAIN, augmentation=AugmentConfig(mirror_lr="swap_words"))
    dataset = PatchDataset(torso, torso.select("train"), config, 7)
    digest = hashlib.sha256()
    for i in range(12):
        sample = dataset[i]
        digest.update(repr((sample.phrases, sample.known_P.tolist(), sample.contrast)).encode())
        digest.update(repr(torch.nan_to_num(sample.present_P, nan=-1.0).tolist()).encode())
        digest.update(repr(sample.mask_PZYX.sum((1, 2, 3)).tolist()).encode())
    digest.update(repr(dataset.texts()).encode())
    assert digest.hexdigest()[:16] == "ec0e9dada45c6b16"
    assert dataset.contrast_texts() == []


def test_on_adds_and_changes_nothing_else(cache):
    study = ["told"]
    plain, wordy = (PatchDataset(cache, study, c, 3) for c in (PLAIN, WORDY))
    for i in range(6):
        one, other = plain[i], wordy[i]
        assert torch.equal(one.image_CZYX, other.image_CZYX)
        assert one.phrases == other.phrases[:4]
        assert torch.equal(one.mask_PZYX, other.mask_PZYX[:4])
        assert other.mask_PZYX.shape[0] == 7
        assert not other.mask_PZYX[4:].any()
        assert len(other.contrast.texts) == 4
        again = PatchDataset(cache, study, WORDY, 3)[i]
        assert (again.phrases, again.contrast.texts) == (other.phrases, other.contrast.texts)
        assert torch.equal(again.contrast.study_C, other.contrast.study_C)


def test_of_very_many_studies_the_words_are_kept_on_disk_and_the_samples_are_the_same(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("VOL3D_CACHE_HOME", str(tmp_path / "home"))
    cache.write_index()
    near = PatchDataset(cache, cache.select(), WORDY, 3)
    monkeypatch.setattr(index, "KEPT", 0)
    far = PatchDataset(cache, cache.select(), WORDY, 3)
    assert (far.texts(), far.contrast_texts()) == (near.texts(), near.contrast_texts())
    received = pickle.loads(pickle.dumps(far))  # as a reading process gets it
    for i in range(6):
        one, other = near[i], received[i]
        assert (one.phrases, one.contrast.texts) == (other.phrases, other.contrast.texts)
        assert torch.equal(one.contrast.study_C, other.contrast.study_C)
    (path,) = (tmp_path / "home/words").glob("*.parquet")
    made = path.stat().st_mtime_ns
    PatchDataset(cache, cache.select(), WORDY, 4)  # another run over the same studies
    assert path.stat().st_mtime_ns == made
    PatchDataset(cache, cache.select()[1:], WORDY, 3)
    assert len(list(path.parent.glob("*.parquet"))) == 2


def test_of_very_many_studies_no_report_is_read_again_at_the_next_start(cache, tmp_path, monkeypatch):
    """Most of an archive has reports and no masks: reading them one after the other would take hours, on every rank."""
    monkeypatch.setenv("VOL3D_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(index, "KEPT", 0)
    PatchDataset(cache, cache.select(), WORDY, 3)
    with monkeypatch.context() as patch:
        patch.setattr(index, "knowledge_of", None)
        assert len(PatchDataset(cache, cache.select(), WORDY, 3).texts()) > 10


def test_a_study_whose_words_say_nothing_is_refused_among_very_many_too(make_cache, make_study, tmp_path, monkeypatch):
    monkeypatch.setenv("VOL3D_CACHE_HOME", str(tmp_path / "home"))
    studies = [make_study("labelled"), make_study("mute")]
    studies[0].attributes["labels"] = {"lung_nodule": 0}
    cache = make_cache(*studies)
    for kept in (10, 0):
        monkeypatch.setattr(index, "KEPT", kept)
        with pytest.raises(CacheError, match="mute: expected masks with phrases, labels or a report"):
            PatchDataset(cache, cache.select(), WORDY, 3)


def asked(cache, config, study, samples=24):
    """Statement -> set of (present, known) over some samples."""
    dataset, out = PatchDataset(cache, [study], config, 0), {}
    for i in range(samples):
        sample = dataset[i]
        for text, present, known in zip(sample.phrases[4:], sample.present_P[4:], sample.known_P[4:], strict=True):
            out.setdefault(text, set()).add((present.item() if present == present else None, known.item()))
    return out


def test_what_is_true_needs_a_patch_that_shows_it_and_what_is_untrue_does_not(cache):
    part, whole = asked(cache, WORDY, "told"), asked(cache, WHOLE, "told")
    assert part["pleural effusion"] == whole["pleural effusion"] == {(0.0, True)}  # empty mask, known
    assert whole["nodule in the left lung"] == {(1.0, False)}  # there, but nobody drew it
    assert "nodule in the left lung" not in part
    assert whole["stone in a kidney"] == {(1.0, False)}  # a patch of everything shows both kidneys
    assert all(text in ("", *whole) for text in part)


def test_an_organ_with_masks_is_shown_by_a_patch_of_its_own(cache):
    kidneys = replace(WORDY, patch_size=(16, 16, 48), foreground_fraction=1.0, statement_cover=0.6)
    assert (1.0, False) in asked(cache, kidneys, "told")["stone in a kidney"]
    assert "nodule in the left lung" not in asked(cache, kidneys, "told")


def test_studies_with_labels_alone_train(cache):
    with pytest.raises(CacheError, match="labelled: expected masks with phrases or absent phrases"):
        PatchDataset(cache, ["labelled"], PLAIN, 0)
    found = asked(cache, WHOLE, "labelled")
    assert found["pulmonary nodule"] == {(0.0, True)}
    assert found["cardiomegaly"] == {(1.0, False)}
    sample = PatchDataset(cache, ["labelled"], WHOLE, 0)[0]
    assert sample.phrases[:4] == ("",) * 4  # nothing to ask about masks
    assert not sample.known_P[:4].any()
    assert torch.isnan(sample.present_P[:4]).all()


@pytest.mark.parametrize("mirror", ["none", "swap_words"])
def test_every_text_is_known_beforehand(cache, mirror):
    config = replace(WHOLE, augmentation=AugmentConfig(mirror_lr=mirror, spatial_probability=0))
    dataset = PatchDataset(cache, ["told", "labelled", "other"], config, 1)
    known = {*dataset.texts(), *dataset.contrast_texts(), ""}
    seen = set()
    for i in range(45):
        seen |= {*dataset[i].phrases, *dataset[i].contrast.texts}
    assert seen <= known
    assert "nodule in the left lung" in seen
    assert ("Nodule in the left adrenal gland." in seen) is (mirror == "swap_words")
    assert set(ORGAN_NAMES.values()) <= known


def test_a_batch_carries_the_contrast_to_its_device(cache):
    dataset = PatchDataset(cache, ["told", "other"], WHOLE, 1)
    batch = Collate(Tokens())([dataset[0], dataset[1]]).to("cpu")
    found = batch.contrast
    assert found.tokens_BSTE.shape == (2, 4, 1, 1)
    assert found.organ_tokens_OTE.shape == (len(ORGAN_NAMES), 1, 1)
    assert found.texts[0] == dataset[0].contrast.texts
    target = pair_targets(found.study_BC, found.text_BSC.flatten(0, 1), 1.0)
    assert target.shape == (2, 8)
    for b, text in enumerate(found.texts):
        own = [s.text for s in dataset.studies[dataset._study_of(b)].knowledge.sections]
        row = target[b, 4 * b : 4 * b + 4]
        assert all(row[j] == 1 for j, t in enumerate(text) if t in own)
    assert Collate(Tokens())([PatchDataset(cache, ["told"], PLAIN, 1)[0]]).contrast is None


def test_refusals():
    for change, message in (
        ({"statements_per_patch": -1}, "at least 0"),
        ({"contrast_texts": 1}, "0 or at least 2, found 0 and 1"),
        ({"statement_cover": 0.0}, "above 0 and at most 1, found 0.0"),
        ({"hard_negative_fraction": 2.0}, "between 0 and 1, found 2.0"),
    ):
        with pytest.raises(ConfigError, match=message):
            replace(PLAIN, **change)

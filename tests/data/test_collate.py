import os

import numpy as np
import pytest
import torch

from vol3d.data.augment import AugmentConfig
from vol3d.data.channels import ChannelConfig
from vol3d.data.collate import Collate, StepSampler, make_loader
from vol3d.data.dataset import DataConfig, PatchDataset
from vol3d.errors import ConfigError

CONFIG = DataConfig(
    patch_size=(12, 12, 12),
    phrases_per_patch=3,
    channels=ChannelConfig(ct_windows=((-1000.0, 1000.0),), pet_clips=(5.0,), coordinates=False),
    augmentation=AugmentConfig(spatial_probability=1.0, intensity_probability=1.0),
)


class Letters:
    """Token states that say what the text was: one token a character, of width 2."""

    def batch(self, texts_BP):
        longest = max(len(t) for row in texts_BP for t in row)
        tokens = np.zeros((len(texts_BP), len(texts_BP[0]), longest, 2), np.float32)
        mask = np.zeros(tokens.shape[:3], bool)
        for b, row in enumerate(texts_BP):
            for p, text in enumerate(row):
                tokens[b, p, : len(text), 0] = [ord(c) for c in text]
                mask[b, p, : len(text)] = True
        return tokens, mask


def test_a_batch_holds_the_samples_in_order(torso):
    dataset = PatchDataset(torso, torso.select("train"), CONFIG, 0)
    samples = [dataset[i] for i in (4, 9)]
    batch = Collate(Letters())(samples)
    assert batch.index.tolist() == [4, 9]
    assert batch["image_BCZYX"].shape == (2, 4, 12, 12, 12)
    torch.testing.assert_close(batch.mask_BPZYX[1], samples[1].mask_PZYX)
    text = samples[1].phrases[2]
    assert "".join(chr(int(c)) for c in batch.tokens_BPTE[1, 2, :, 0][batch.token_mask_BPT[1, 2]]) == text
    assert batch.phrases[1][2] == text
    assert batch.study_ids == tuple(s.study_id for s in samples)
    moved = batch.to("cpu")
    assert moved.keys() == batch.keys()
    assert moved.phrases == batch.phrases


@pytest.mark.parametrize(("world", "micro"), [(1, None), (1, 2), (2, 3), (3, 1), (6, 2), (4, 3)])
def test_ranks_share_every_step_without_loss_or_overlap(world, micro):
    ranks = [list(StepSampler(2, 7, 12, rank, world, micro)) for rank in range(world)]
    per_step = len(ranks[0]) // 5
    for step in range(5):
        mine = [sum(r[step * per_step : (step + 1) * per_step], []) for r in ranks]
        assert sorted(sum(mine, [])) == list(range((step + 2) * 12, (step + 3) * 12))
    assert all(len(StepSampler(2, 7, 12, r, world, micro)) == len(ranks[r]) for r in range(world))


def test_resuming_continues_with_the_next_step():
    whole = list(StepSampler(0, 6, 4, 1, 2, 1))
    assert list(StepSampler(4, 6, 4, 1, 2, 1)) == whole[8:]


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ((0, 5, 7, 0, 2), "share evenly"),
        ((0, 5, 8, 2, 2), "rank"),
        ((6, 5, 8), "first step"),
        ((0, 5, 8, 0, 2, 3), "divide"),
    ],
)
def test_uneven_shares_are_refused(arguments, fragment):
    with pytest.raises(ConfigError, match=fragment):
        StepSampler(*arguments)


@pytest.mark.parametrize(("workers", "context"), [(1, "forkserver"), (2, "spawn"), (3, "fork")])
def test_workers_change_nothing(torso, workers, context):
    """Also under fork, after this process has read from the cache itself."""
    dataset = PatchDataset(torso, torso.select("train"), CONFIG, 0)
    expected = [Collate(Letters())([dataset[i] for i in range(2 * s, 2 * s + 2)]) for s in range(1, 5)]
    loader = make_loader(dataset, StepSampler(1, 5, 2), Letters(), workers, context=context)
    for batch, wanted in zip(loader, expected, strict=True):
        assert torch.equal(batch.image_BCZYX, wanted.image_BCZYX)
        assert torch.equal(batch.mask_BPZYX, wanted.mask_BPZYX)
        assert torch.equal(batch.tokens_BPTE, wanted.tokens_BPTE)
        assert batch.index.tolist() == wanted.index.tolist()
    assert os.getpid() in {pid for pid, _ in dataset._opened}

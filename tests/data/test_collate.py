import os
import signal
import subprocess
import sys
import time
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch

from vol3d.config import to_tree
from vol3d.data.augment import AugmentConfig
from vol3d.data.channels import ChannelConfig
from vol3d.data.collate import Collate, StepSampler, make_loader
from vol3d.data.dataset import DataConfig, PatchDataset
from vol3d.errors import ConfigError
from vol3d.model.bank import EmbeddingBank
from vol3d.model.text import TextConfig

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
        mine = chain.from_iterable(r[step * per_step : (step + 1) * per_step] for r in ranks)
        assert sorted(chain.from_iterable(mine)) == list(range((step + 2) * 12, (step + 3) * 12))
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


@pytest.mark.parametrize(("workers", "context"), [(1, "forkserver"), (2, "spawn")])
def test_workers_change_nothing(torso, tmp_path, workers, context):
    dataset = PatchDataset(torso, torso.select("train"), CONFIG, 0)
    bank = EmbeddingBank(tmp_path / "bank", TextConfig())
    bank.ensure(dataset.texts())
    expected = [Collate(bank)([dataset[i] for i in range(2 * s, 2 * s + 2)]) for s in range(1, 5)]
    loader = make_loader(dataset, StepSampler(1, 5, 2), bank, workers, context=context)
    for batch, wanted in zip(loader, expected, strict=True):
        assert torch.equal(batch.image_BCZYX, wanted.image_BCZYX)
        assert torch.equal(batch.mask_BPZYX, wanted.mask_BPZYX)
        assert torch.equal(batch.tokens_BPTE, wanted.tokens_BPTE)
        assert batch.index.tolist() == wanted.index.tolist()


def test_fork_works_while_this_process_has_not_read_yet(torso):
    """In a process of its own: once it has read, tensorstore itself refuses a fork."""
    script = f"""
import numpy as np
from vol3d.cache import Cache
from vol3d.config import from_tree
from vol3d.data.collate import StepSampler, make_loader
from vol3d.data.dataset import DataConfig, PatchDataset

class Ones:
    def batch(self, texts_BP):
        shape = (len(texts_BP), len(texts_BP[0]), 1)
        return np.ones((*shape, 2), np.float32), np.ones(shape, bool)

cache = Cache({str(torso.root)!r})
dataset = PatchDataset(cache, cache.select("train"), from_tree(DataConfig, {to_tree(CONFIG)!r}, "test"), 0)
sums = [b.image_BCZYX.sum((1, 2, 3, 4)) for b in make_loader(dataset, StepSampler(0, 3, 2), Ones(), 2, context="fork")]
expected = [sum(float(dataset[2 * s + i].image_CZYX.sum()) for i in range(2)) for s in range(3)]
assert np.allclose([float(s.sum()) for s in sums], expected, rtol=1e-4), (sums, expected)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


class WhoReads(torch.utils.data.Dataset):
    """Every sample is the process that read it."""

    def __getitem__(self, index):
        return os.getpid()


def print_worker_and_wait():
    end = make_loader(WhoReads(), StepSampler(0, 9, 1), Letters(), workers=1).worker_init_fn
    loader = torch.utils.data.DataLoader(
        WhoReads(), None, sampler=range(9), num_workers=1, multiprocessing_context="forkserver", worker_init_fn=end
    )
    batches = iter(loader)
    print(int(next(batches)), flush=True)
    time.sleep(60)


def test_workers_end_with_a_killed_trainer():
    code = "import test_collate; test_collate.print_worker_and_wait()"
    trainer = subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True
    )
    worker = int(trainer.stdout.readline())
    assert worker != trainer.pid
    os.kill(worker, 0)
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not Path(f"/proc/{worker}").exists()

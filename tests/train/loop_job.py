"""A tiny run on a synthetic cache; imported by the tests, and run by them as a rank or as a process to kill."""

import logging
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from vol3d.cache import Cache, MaskRecord
from vol3d.cache_write import EntryData, create_cache, write_entry
from vol3d.config import from_tree
from vol3d.errors import StoppedError, Vol3dError
from vol3d.geometry import Grid
from vol3d.train import loop
from vol3d.train.engine import Engine
from vol3d.train.run_config import RunConfig
from vol3d.volume import Volume

SHAPE = (24, 24, 24)
SPACING_MM = (4.0, 4.0, 4.0)

CONFIG = {
    "preprocess": "../preprocess/petct.yaml",
    "seed": 3,
    "data": {
        "patch_size": [16, 16, 16],
        "phrases_per_patch": 2,
        "channels": {"ct_windows": [[-160, 240]], "pet_clips": [10], "coordinates": True},
        "workers": 0,
    },
    "model": {"width": 8, "heads": 2, "encoder": {"features": [4, 8, 8], "blocks": [1, 1, 1]}},
    "task": {},
    "train": {
        "steps": 6,
        "batch_size": 2,
        "optim": {"learning_rate": 5e-3, "warmup_steps": 2},
        "checkpoint_every": 2,
        "precision": "fp32",
    },
}


def config(**train):
    """CONFIG with other values under train; data=... and seed=... go one level up."""
    tree = {**CONFIG, "train": {**CONFIG["train"], **train}}
    for name in ("seed", "data", "model"):
        if name in train:
            value = tree["train"].pop(name)
            tree[name] = {**CONFIG[name], **value} if isinstance(value, dict) else value
    return from_tree(RunConfig, tree, "test")


def make_cache(root, studies=3):
    """CT with a bright box, PET with a hot one, in each study somewhere else."""
    cache = create_cache(root, {"spacing_mm": list(SPACING_MM)}, "recipe-1")
    for i in range(studies):
        rng = np.random.default_rng(i)
        grid = Grid.from_spacing(SHAPE, SPACING_MM, (-48.0, -48.0, -48.0))
        organ, lesion = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
        z, y, x = rng.integers(2, 12, 3)
        organ[z : z + 8, y : y + 8, x : x + 8] = 1
        lesion[z + 2 : z + 5, y + 2 : y + 5, x + 2 : x + 5] = 1
        ct = (organ * 100 + rng.normal(0, 20, SHAPE)).astype(np.int16)
        pet = (lesion * 8 + rng.random(SHAPE)).astype(np.float32)
        masks = [
            (MaskRecord(name="liver", image="ct", phrases=("liver",), label="liver"), organ),
            (MaskRecord(name="lesion", image="ct", phrases=("avid lesion",), finding_id="f1", source="pet"), lesion),
        ]
        attributes = {
            "absent": ["ascites", "pleural effusion"], "split": "train", "recipe_digest": "recipe-1",
            "fingerprint": f"f{i}", "patient_key": f"p{i}", "findings": [], "labels": {}, "report": {}, "meta": {},
        }  # fmt: skip
        write_entry(
            cache.root,
            EntryData(
                study_id=f"study-{i}",
                images={"ct": Volume(ct, grid, "ct"), "pet": Volume(pet, grid, "pet")},
                masks=masks,
                source_grids={"ct": grid, "pet": grid},
                attributes=attributes,
                chunk=16,
            ),
        )
    return Cache(cache.root)


def kill_after(step, rank=0):
    """The process dies in the middle of the update after `step`, if it is that rank."""
    whole = Engine._update

    def dying(self, rate):
        if self._engine.global_steps == step and os.environ["RANK"] == str(rank):
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, rate)

    Engine._update = dying


SGD = {"name": "sgd", "learning_rate": 0.003, "warmup_steps": 2}
"""For comparing numbers of ranks: AdamW turns the rounding of tiny gradients into full steps."""


def slow_checkpoint(step):
    """Writing the checkpoint of `step` takes a minute."""
    whole = Engine.save

    def slow(self, folder):
        if folder.name == f".step-{step:06d}.partial":
            folder.mkdir(parents=True)
            (folder / "begun").touch()
            time.sleep(60)
        whole(self, folder)

    Engine.save = slow


def main(cache_root, out, killed, *settings):
    """A run as a process: settings are stage=N, workers=N, steps=N, pause=S a step, slow_checkpoint=STEP, rank=R."""
    chosen = dict(item.split("=") for item in settings)
    train, data = {"steps": int(chosen.get("steps", 6))}, {"workers": int(chosen.get("workers", 0))}
    if int(killed):
        kill_after(int(killed), int(chosen.get("rank", 0)))
    if "slow_checkpoint" in chosen:
        slow_checkpoint(int(chosen["slow_checkpoint"]))
    if "stage" in chosen:
        train |= {"deepspeed": f"zero{chosen['stage']}", "optim": SGD}
    if "pause" in chosen:
        whole = Engine.step

        def slow(self, *arguments):
            time.sleep(float(chosen["pause"]))
            return whole(self, *arguments)

        Engine.step = slow
    logging.basicConfig(level=logging.INFO)
    try:
        loop.train(config(**train, data=data), Path(cache_root), Path(out), resume="auto")
    except StoppedError as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except Vol3dError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])

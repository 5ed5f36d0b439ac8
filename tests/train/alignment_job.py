"""A tiny run that learns from reports; imported by test_alignment.py, and run by it as a rank or a process to stop."""

import sys
from pathlib import Path

import numpy as np

from vol3d.cache import Cache, MaskRecord
from vol3d.cache_write import EntryData, create_cache, write_entry
from vol3d.config import from_tree
from vol3d.geometry import Grid
from vol3d.train import loop
from vol3d.train.run_config import RunConfig
from vol3d.volume import Volume

SHAPE = (16, 16, 16)
SPACING_MM = (4.0, 4.0, 4.0)
REPORTS = (
    "Lungs: There is a 12 mm nodule in the left lung. No nodule in the right lung.\nLiver: No focal hepatic lesion.",
    "Lungs: There is a 9 mm nodule in the right lung. No nodule in the left lung.\nLiver: No focal hepatic lesion.",
    "Lungs: Both lungs are clear.\nLiver: There is a 15 mm lesion in the liver.",
    "Lungs: Both lungs are clear.\nLiver: No focal hepatic lesion.",
)
PLACES = ((4, 4, 3), (4, 4, 10), (11, 9, 6), None)
"""First voxel of each report's lesion."""


def config(**train: object) -> RunConfig:
    """Values under train; everything with words on."""
    tree = {
        "preprocess": "../preprocess/petct.yaml",
        "seed": 3,
        "data": {
            "patch_size": list(SHAPE), "phrases_per_patch": 2, "workers": 0, "statements_per_patch": 2,
            "contrast_texts": 6, "channels": {"ct_windows": [[-160, 240]], "pet_clips": [], "coordinates": True},
            "augmentation": {"spatial_probability": 0.0, "intensity_probability": 0.0},
        },
        "model": {
            "width": 8, "heads": 2, "encoder": {"features": [4, 8, 8], "blocks": [1, 1, 1]}, "alignment_width": 16,
        },
        "task": {"alignment": {"pair_weight": 0.5, "softmax_weight": 0.5}},
        "train": {
            "steps": 80, "batch_size": 4, "optim": {"learning_rate": 3e-3, "warmup_steps": 2, "eps": 1e-6},
            "checkpoint_every": 100, "precision": "fp32", **train,
        },
    }  # fmt: skip
    return from_tree(RunConfig, tree, "test")


def make_cache(root: Path, studies: int = 8) -> Cache:
    """A bright box where the report says that there is a lesion; masks of an organ that says nothing of it."""
    cache = create_cache(root, {"spacing_mm": list(SPACING_MM)}, "recipe-1")
    for i in range(studies):
        rng = np.random.default_rng(i)
        grid = Grid.from_spacing(SHAPE, SPACING_MM, (-32.0, -32.0, -32.0))
        ct = rng.normal(0, 10, SHAPE)
        if (place := PLACES[i % 4]) is not None:
            ct[tuple(slice(p, p + 3) for p in place)] += 200
        organ = np.zeros(SHAPE, np.uint8)
        organ[13:15, 13:15, 2:6] = 1
        attributes = {
            "absent": ["ascites in the abdomen"], "split": "train", "recipe_digest": "recipe-1", "fingerprint": f"f{i}",
            "patient_key": f"p{i}", "findings": [], "labels": {}, "report": {"findings": REPORTS[i % 4]}, "meta": {},
        }  # fmt: skip
        record = MaskRecord(name="spleen", image="ct", phrases=("spleen",), label="spleen")
        write_entry(
            cache.root,
            EntryData(
                study_id=f"study-{i}", images={"ct": Volume(ct.astype(np.int16), grid, "ct")}, masks=[(record, organ)],
                source_grids={"ct": grid}, attributes=attributes, chunk=16,
            ),
        )  # fmt: skip
    return Cache(cache.root)


if __name__ == "__main__":
    settings = dict(item.split("=") for item in sys.argv[3:])
    sgd = {"name": "sgd", "learning_rate": 3e-3, "warmup_steps": 2}
    run = config(steps=6, checkpoint_every=2, deepspeed=f"zero{settings.get('stage', 0)}", optim=sgd)
    if "stop" in settings:
        whole, stop = loop.FindingsTask.training_forward, int(settings["stop"])
        calls = []

        def stopping(self, model, batch):
            calls.append(batch)
            if len(calls) > stop:
                raise KeyboardInterrupt
            return whole(self, model, batch)

        loop.FindingsTask.training_forward = stopping
    loop.train(run, Path(sys.argv[1]), Path(sys.argv[2]), resume="auto")

"""Phantom acceptance: the shipped config on unseen seeds, beside its two controls.

    python -m benchmarks.accuracy_phantom --out out/accuracy_phantom [--studies 160] [--controls]

Trains `configs/train/phantom_seg.yaml` on studies of one seed and scores studies of another. The controls are the same
training with `model.text_ablation` (no prompt) and a threshold at 41% of SUVmax.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from preprocessing.build_cache import preprocess
from preprocessing.phantom import write_phantoms
from vol3d.cache import Cache
from vol3d.metrics.segmentation import dice
from vol3d.workflows.evaluate import evaluate
from vol3d.workflows.prepare import load_recipe

TRAIN_SEED, TEST_SEED = 11, 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--studies", type=int, default=160)
    parser.add_argument("--test-studies", type=int, default=40)
    parser.add_argument("--config", type=Path, default=Path("configs/train/phantom_seg.yaml"))
    parser.add_argument("--set", dest="overrides", nargs="*", default=[])
    parser.add_argument("--controls", action="store_true")
    arguments = parser.parse_args()
    out, recipe = arguments.out, load_recipe(arguments.config)
    caches = {}
    for name, seed, count, splits in (
        ("train", TRAIN_SEED, arguments.studies, (0.9, 0.1, 0.0)),
        ("test", TEST_SEED, arguments.test_studies, (0.0, 0.0, 1.0)),
    ):
        manifest = out / name / "manifest.jsonl"
        if not manifest.exists():
            write_phantoms(out / name, count, seed, splits=splits, workers=2)
        caches[name] = out / f"cache-{name}"
        preprocess(manifest, recipe, caches[name], workers=2)
    results = {"threshold_41": {"lesion_dice": threshold_41(Cache(caches["test"]))}}
    runs = {"shared": [], **({"no_prompt": ["model.text_ablation=true"]} if arguments.controls else {})}
    for name, overrides in runs.items():
        minutes = train(arguments.config, caches["train"], out / f"run-{name}", [*arguments.overrides, *overrides])
        summary = evaluate(out / f"run-{name}", caches["test"], out / f"evaluation-{name}", split="test")
        results[name] = {"train_minutes": minutes, **summary["headline"], **summary["probes"]}
    print(json.dumps(results, indent=1))
    (out / "results.json").write_text(json.dumps(results, indent=1))


def train(config: Path, cache: Path, run: Path, overrides: list[str]) -> float:
    """Minutes of the real command."""
    start = time.monotonic()
    command = [sys.executable, "-m", "vol3d.cli", "train", str(config), "--cache", str(cache), "--out", str(run)]
    subprocess.run([*command, "--resume", "auto", *[a for o in overrides for a in ("--set", o)]], check=True)
    return round((time.monotonic() - start) / 60, 1)


def threshold_41(cache: Cache) -> float:
    """Mean Dice over lesion masks of "everything at 41% of the SUVmax in the study or hotter"."""
    scores = []
    for study in cache.study_ids:
        entry = cache.entry(study)
        pet = entry.pet_native().array_ZYX
        answer = pet >= 0.41 * pet.max()
        scores += [dice(answer, entry.native_mask(m.name)) for m in entry.masks if m.finding_id]
    return round(float(np.mean(scores)), 4)


if __name__ == "__main__":
    main()

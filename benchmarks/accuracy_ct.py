"""Organs by words on the labelled example CT: trained and scored on the one scan, which tests the way, not the reach.

    python -m benchmarks.accuracy_ct --data $VOL3D_DATA --out out/accuracy_ct

Every wording of every label over 5 ml is asked; a label's Dice is its worst wording's. Sides are checked against the
label of the other side.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from preprocessing.build_cache import preprocess
from preprocessing.manifest import write_manifest
from preprocessing.sources.multilabel import row
from vol3d.cache import Cache
from vol3d.checkpoint import load_checkpoint
from vol3d.workflows.asking import Asker
from vol3d.workflows.prepare import load_recipe
from vol3d.workflows.scoring import ask_study, probes_of, score_probe

MIN_ML = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=Path("configs/train/ct_organs.yaml"))
    parser.add_argument("--set", dest="overrides", nargs="*", default=[])
    arguments = parser.parse_args()
    folder, out = arguments.data / "totalsegmentator", arguments.out
    scan = row(
        "example_ct_sm", folder / "example_ct_sm.nii.gz", folder / "example_seg.nii.gz", min_voxels=20, split="train"
    )
    preprocess(
        write_manifest([scan], out / "manifest.jsonl"),
        load_recipe(arguments.config),
        out / "cache",
        show_progress=False,
    )
    start = time.monotonic()
    command = [sys.executable, "-m", "vol3d.cli", "train", str(arguments.config), "--cache", str(out / "cache")]
    command += ["--out", str(out / "run"), "--resume", "auto"]
    subprocess.run(command + [a for o in arguments.overrides for a in ("--set", o)], check=True)
    minutes = (time.monotonic() - start) / 60
    entry = Cache(out / "cache").entry("example_ct_sm")
    checkpoint = load_checkpoint(out / "run")
    probes = probes_of(entry, wordings="all")
    probability_PZYX, presence_P = ask_study(Asker(checkpoint, "cpu"), entry, probes)
    worst: dict[str, float] = defaultdict(lambda: 1.0)
    sides = []
    for probe, probability_ZYX, logit in zip(probes, probability_PZYX, presence_P, strict=True):
        case = score_probe(probe, entry, probability_ZYX, float(logit), checkpoint.calibration)
        sides += [] if np.isnan(case.wrong_side) else [case.wrong_side]
        if case.truth_ml >= MIN_ML:
            worst[case.label] = min(worst[case.label], case.dice)
    for label, value in sorted(worst.items(), key=lambda item: item[1]):
        print(f"{label:32s} {value:.3f}")
    summary = {
        "train_minutes": round(minutes, 1),
        "labels_over_5_ml": len(worst),
        "lowest_dice": round(float(min(worst.values())), 4),
        "mean_dice": round(float(np.mean(list(worst.values()))), 4),
        "labels_at_0.90": int(sum(v >= 0.9 for v in worst.values())),
        "sided_phrases": len(sides),
        "wrong_side": int(sum(sides)),
    }
    print(json.dumps(summary, indent=1))
    (out / "results.json").write_text(json.dumps({**summary, "dice": worst}, indent=1))


if __name__ == "__main__":
    main()

"""Tumour Dice and SUV match on the sarcoma PET/CT set, vol3d against nnU-Net v2, five patient folds.

    python -m benchmarks.accuracy_sts --data $VOL3D_DATA/sts --out out/accuracy_sts --sides vol3d nnunet

Both sides train on the same patients of each fold, on the same cores, one after the other, and are scored on the native
PET grid of the patients left out. nnU-Net plans for itself (`3d_fullres`, trainer `nnUNetTrainer_5epochs`), with the CT
resampled to the PET grid as its second channel; `nnUNet_compile=f` (no GPU), one worker for augmentation (two cores).
The answer of vol3d is that of the first wording; Dice of the others stands beside it. With `--masks weak` (and
an `--out` of its own) vol3d trains on masks from sentences alone (docs/how-to/weak-labels.md). No validation patient is
used by vol3d: the thresholds stay at 0.5.
Results: `--out`/results.json, one row a patient and side, with paired bootstrap.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from preprocessing.build_cache import preprocess
from preprocessing.manifest import write_manifest
from preprocessing.reading import read_image, read_mask
from preprocessing.sources.sts import PHRASES, rows
from preprocessing.transforms import PreprocessConfig
from vol3d.cache import Cache
from vol3d.checkpoint import load_checkpoint
from vol3d.export.nifti import write_nifti
from vol3d.export.regrid import to_source_grid
from vol3d.metrics.bootstrap import bootstrap_interval, paired_difference
from vol3d.metrics.segmentation import dice, suv_match
from vol3d.workflows.asking import Asker
from vol3d.workflows.prepare import load_recipe
from vol3d.workflows.weak_label import weak_label

DATASET = "Dataset801_STS"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--sides", nargs="+", choices=["vol3d", "nnunet"], default=["vol3d", "nnunet"])
    parser.add_argument("--config", type=Path, default=Path("configs/train/sts_petct.yaml"))
    parser.add_argument("--set", dest="overrides", nargs="*", default=[])
    parser.add_argument("--trainer", default="nnUNetTrainer_5epochs")
    parser.add_argument("--masks", choices=["manual", "weak"], default="manual", help="what vol3d trains on")
    arguments = parser.parse_args()
    folds = json.loads((arguments.data / "split.json").read_text())["folds"]
    path = arguments.out / "results.json"
    found = json.loads(path.read_text()) if path.exists() else []
    for fold in arguments.folds:
        for side in arguments.sides:
            found = [r for r in found if (r["fold"], r["side"]) != (fold, side)]
            run = run_vol3d if side == "vol3d" else run_nnunet
            found += [{"fold": fold, "side": side, **row} for row in run(arguments, fold, folds[fold])]
            path.write_text(json.dumps(found, indent=1))
            print_table(found)


def run_vol3d(arguments: argparse.Namespace, fold: int, test: list[str]) -> list[dict]:
    """Trains on all other patients; scores the ones left out."""
    out = arguments.out / f"vol3d-{fold}"
    manifest = write_manifest(fold_rows(arguments.data, test), out / "manifest.jsonl")
    if arguments.masks == "weak":
        manifest = weak_manifest(manifest, load_recipe(arguments.config), out)
    preprocess(manifest, load_recipe(arguments.config), out / "cache", show_progress=False)
    start = time.monotonic()
    command = [sys.executable, "-m", "vol3d.cli", "train", str(arguments.config), "--cache", str(out / "cache")]
    command += ["--out", str(out / "run"), "--resume", "auto"]
    subprocess.run(command + [a for o in arguments.overrides for a in ("--set", o)], check=True)
    minutes = (time.monotonic() - start) / 60
    checkpoint = load_checkpoint(out / "run")
    asker, cache = Asker(checkpoint, "cpu"), Cache(out / "cache")
    results = []
    for study in test:
        entry = cache.entry(study)
        pet, calibration = entry.pet_native(), checkpoint.calibration
        scores = []
        for probability_ZYX, logit in zip(*asker(entry, list(PHRASES)), strict=True):
            mask = np.zeros(pet.grid.shape, np.uint8)
            if calibration.probability(float(logit)) >= calibration.presence_threshold:  # as `vol3d segment` answers
                mask = to_source_grid(probability_ZYX, entry.grid, pet.grid, calibration.mask_threshold)
            scores.append(score_patient(arguments.data / study, mask, minutes))
        by_phrase = {phrase: score["dice"] for phrase, score in zip(PHRASES, scores, strict=True)}
        results.append({**scores[0], "dice_by_phrase": by_phrase})
    return results


def fold_rows(data: Path, test: list[str]) -> list[dict]:
    """Every patient, the fold's as test and all others as train."""
    return [{**row, "split": "test" if row["study_id"] in test else "train"} for row in rows(data)]


def weak_manifest(manifest: Path, recipe: PreprocessConfig, out: Path) -> Path:
    """The same patients without drawn masks: sentences with SUVmax and slice, one for each wording, stand for them, and
    `vol3d weak-label` makes the masks."""
    studies = [json.loads(line) for line in manifest.read_text().splitlines()]
    for row in studies:
        pet = read_image(Path(row["pet"]), "pet").volume.array_ZYX
        truth = read_mask(Path(row["pet"]).with_name("PET_mask.nii.gz")).volume.array_ZYX != 0
        suv = pet[truth].max()
        number = int(np.argwhere(truth & (pet == suv))[0][0]) + 1
        lines = [f"{phrase[0].upper()}{phrase[1:]}, SUVmax {suv:.1f} (PET slice {number})." for phrase in PHRASES]
        row |= {"masks": [], "report": {"technique": "FDG PET/CT.", "findings": "\n".join(lines)}}
    reports = write_manifest(studies, out / "reports.jsonl")
    preprocess(reports, recipe, out / "cache-reports", show_progress=False)
    summary = weak_label(out / "cache-reports", out / "weak.jsonl", manifest=reports, show_progress=False)
    print(f"{summary.labels} sentences of {summary.studies} patients labelled, {summary.refused} not")
    return out / "weak.jsonl"


def run_nnunet(arguments: argparse.Namespace, fold: int, test: list[str]) -> list[dict]:
    """Plans, preprocesses and trains nnU-Net; its own validation predicts the patients left out."""
    root = arguments.out / "nnunet"
    folders = {name: root / name for name in ("raw", "preprocessed", "results")}
    variables = {f"nnUNet_{name}": str(path.resolve()) for name, path in folders.items()}
    environment = {**os.environ, **variables, "nnUNet_compile": "f", "nnUNet_n_proc_DA": "1"}
    binaries = Path(sys.executable).parent
    if not (folders["preprocessed"] / DATASET / "splits_final.json").exists():
        write_nnunet_raw(arguments.data, folders["raw"] / DATASET)
        plan = [str(binaries / "nnUNetv2_plan_and_preprocess"), "-d", "801", "-c", "3d_fullres", "-np", "2"]
        subprocess.run([*plan, "--verify_dataset_integrity"], env=environment, check=True)
        splits = json.loads((arguments.data / "split.json").read_text())["folds"]
        everyone = [row["study_id"] for row in rows(arguments.data)]
        final = [{"train": [s for s in everyone if s not in held], "val": held} for held in splits]
        (folders["preprocessed"] / DATASET / "splits_final.json").write_text(json.dumps(final))
    start = time.monotonic()
    train = [str(binaries / "nnUNetv2_train"), "801", "3d_fullres", str(fold), "-tr", arguments.trainer]
    subprocess.run([*train, "-device", "cpu"], env=environment, check=True)
    minutes = (time.monotonic() - start) / 60
    plans = f"{arguments.trainer}__nnUNetPlans__3d_fullres"
    predicted = folders["results"] / DATASET / plans / f"fold_{fold}" / "validation"
    return [
        score_patient(arguments.data / s, read_mask(predicted / f"{s}.nii.gz").volume.array_ZYX, minutes) for s in test
    ]


def write_nnunet_raw(data: Path, out: Path) -> None:
    """PET as it is, CT carried to its grid, and the mask drawn on it."""
    studies = list(rows(data))
    for folder in ("imagesTr", "labelsTr"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for row in studies:
        name = row["study_id"]
        pet = read_image(Path(row["pet"]), "pet").volume
        ct = read_image(Path(row["ct"]), "ct").volume.resample_to(pet.grid)
        write_nifti(out / "imagesTr" / f"{name}_0000.nii.gz", ct.array_ZYX.astype(np.float32), pet.grid)
        write_nifti(out / "imagesTr" / f"{name}_0001.nii.gz", pet.array_ZYX.astype(np.float32), pet.grid)
        mask = read_mask(data / name / "PET_mask.nii.gz").volume
        write_nifti(out / "labelsTr" / f"{name}.nii.gz", mask.array_ZYX, pet.grid)
    header = {
        "channel_names": {"0": "CT", "1": "PET"}, "labels": {"background": 0, "tumour": 1},
        "numTraining": len(studies), "file_ending": ".nii.gz",
    }  # fmt: skip
    (out / "dataset.json").write_text(json.dumps(header))


def score_patient(folder: Path, mask_ZYX: np.ndarray, minutes: float) -> dict:
    """Dice and SUV match on the native PET grid."""
    pet = read_image(folder / "PET_image.nii.gz", "pet").volume
    truth = read_mask(folder / "PET_mask.nii.gz").volume
    assert truth.grid.same_as(pet.grid, 0.1)
    assert mask_ZYX.shape == pet.grid.shape
    return {
        "study": folder.name,
        "dice": dice(mask_ZYX, truth.array_ZYX),
        "suv_match": suv_match(mask_ZYX, truth.array_ZYX, pet),
        "train_minutes": round(minutes, 1),
    }


def print_table(found: list[dict]) -> None:
    """Mean of each side with its interval, and the paired difference where both have run."""
    for side in ("vol3d", "nnunet"):
        own = [r for r in found if r["side"] == side]
        for name in ("dice", "suv_match"):
            interval = bootstrap_interval(np.array([r[name] for r in own]), [r["study"] for r in own])
            spread = f"({interval.low:.3f} to {interval.high:.3f}), n={interval.cases}"
            print(f"{side:8s} {name:10s} {interval.value:.3f} {spread}")
    asked = [r["dice_by_phrase"] for r in found if "dice_by_phrase" in r]
    for phrase in asked[0] if asked else ():
        print(f"vol3d    dice of {phrase!r}: {np.mean([r[phrase] for r in asked]):.3f}")
    by_study = {(r["side"], r["study"]): r for r in found}
    both = sorted({r["study"] for r in found if all((s, r["study"]) in by_study for s in ("vol3d", "nnunet"))})
    for name in ("dice", "suv_match") if both else ():
        a, b = (np.array([by_study[s, p][name] for p in both]) for s in ("vol3d", "nnunet"))
        d = paired_difference(a, b, both)
        print(
            f"vol3d - nnunet {name:10s} {d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f}), p={d.p_value:.3f}, n={d.cases}"
        )


if __name__ == "__main__":
    main()

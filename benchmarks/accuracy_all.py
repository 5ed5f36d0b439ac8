"""All tasks with one checkpoint on phantoms: the shipped config on unseen seeds, beside its controls.

    python -m benchmarks.accuracy_all --out out/accuracy_all

Trains `configs/train/phantom_all.yaml` on studies of one seed and scores studies of another: masks, findings and pairs
(`vol3d evaluate`), reports and questions (`--language`), the same decoder with a blank image, and retrieval. Pairs, of
which a study has few of some kinds, are asked of `--pair-studies` further studies. With `--segmentation FOLDER`, the
output of `benchmarks.accuracy_phantom`, its segmentation is set beside this one's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.accuracy_phantom import TEST_SEED, phantom_caches, train
from preprocessing.build_cache import preprocess
from preprocessing.phantom import write_phantoms
from preprocessing.phantom_pairs import PAIRS
from preprocessing.transforms import PreprocessConfig
from vol3d.cache import Cache
from vol3d.checkpoint import load_checkpoint
from vol3d.metrics.probes import PairAnswer
from vol3d.workflows.asking import Asker
from vol3d.workflows.evaluate import evaluate
from vol3d.workflows.evaluate_findings import pair_table, phantom_pairs
from vol3d.workflows.evaluate_language import evaluate_language
from vol3d.workflows.prepare import load_recipe
from vol3d.workflows.scoring import Said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--studies", type=int, default=180)
    parser.add_argument("--test-studies", type=int, default=40)
    parser.add_argument("--pair-studies", type=int, default=110)
    parser.add_argument("--config", type=Path, default=Path("configs/train/phantom_all.yaml"))
    parser.add_argument("--set", dest="overrides", nargs="*", default=[])
    parser.add_argument("--segmentation", type=Path, help="output of benchmarks.accuracy_phantom")
    arguments = parser.parse_args()
    out = arguments.out
    caches = phantom_caches(arguments.config, out, arguments.studies, arguments.test_studies)
    minutes = train(arguments.config, caches["train"], out / "run", arguments.overrides)
    summary = evaluate(out / "run", caches["test"], out / "evaluation", split="test")
    language = evaluate_language(out / "run", caches["test"], out / "evaluation", split="test")
    results: dict[str, Any] = {
        "train_minutes": minutes,
        "masks_and_findings": {**summary["headline"], **summary["probes"]},
        "language": language["headline"],
        "pairs": more_pairs(out, load_recipe(arguments.config), arguments.pair_studies),
        "numbers": language.get("reports", {}).get("numbers"),
        "evidence": language.get("reports", {}).get("evidence"),
    }
    if arguments.segmentation is not None:
        results["segmentation_alone"] = json.loads((arguments.segmentation / "results.json").read_text())["shared"]
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def more_pairs(out: Path, recipe: PreprocessConfig, studies: int) -> dict[str, Any]:
    """Pairs of phrases about studies of one more seed; nothing else is asked of them."""
    manifest = out / "pairs" / "manifest.jsonl"
    if not manifest.exists():
        write_phantoms(out / "pairs", studies, TEST_SEED + 100, splits=(0.0, 0.0, 1.0), workers=2)
    preprocess(manifest, recipe, out / "cache-pairs", workers=2)
    cache, checkpoint = Cache(out / "cache-pairs"), load_checkpoint(out / "run")
    entries = {study: cache.entry(study) for study in cache.study_ids}
    pairs = phantom_pairs(list(entries.values()), PAIRS)
    phrases: dict[str, list[str]] = {}
    for pair in pairs:
        phrases.setdefault(pair.present_study, []).append(pair.present)
        phrases.setdefault(pair.absent_study, []).append(pair.absent)
    ask, said = Asker(checkpoint, "cpu"), {}
    for study, asked in phrases.items():
        distinct = list(dict.fromkeys(asked))
        probability_PZYX, presence_P = ask(entries[study], distinct)
        for phrase, mask_ZYX, logit in zip(distinct, probability_PZYX, presence_P, strict=True):
            said[study, phrase] = Said(float(logit), int(mask_ZYX.max()))
    answers = []
    for pair in pairs:
        true, false = said[pair.present_study, pair.present], said[pair.absent_study, pair.absent]
        right = true.present(checkpoint.calibration), not false.present(checkpoint.calibration)
        answers.append((PairAnswer(pair.kind, *right, pair.present_study), true.logit > false.logit))
    return pair_table(answers)


if __name__ == "__main__":
    main()

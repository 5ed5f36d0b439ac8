"""All tasks with one checkpoint on phantoms: the shipped config on unseen seeds, beside its controls.

    python -m benchmarks.accuracy_all --out out/accuracy_all

Trains `configs/train/phantom_all.yaml` on studies of one seed and scores studies of another: masks, findings and pairs
(`vol3d evaluate`), reports and questions (`--language`), the same decoder with a blank image, and retrieval. With
`--spine FOLDER`, the output of `benchmarks.accuracy_phantom`, its segmentation is set beside this one's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.accuracy_phantom import phantom_caches, train
from vol3d.workflows.evaluate import evaluate
from vol3d.workflows.evaluate_language import evaluate_language


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--studies", type=int, default=180)
    parser.add_argument("--test-studies", type=int, default=40)
    parser.add_argument("--config", type=Path, default=Path("configs/train/phantom_all.yaml"))
    parser.add_argument("--set", dest="overrides", nargs="*", default=[])
    parser.add_argument("--spine", type=Path, help="output of benchmarks.accuracy_phantom")
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
        "numbers": language.get("reports", {}).get("numbers"),
        "evidence": language.get("reports", {}).get("evidence"),
    }
    if arguments.spine is not None:
        results["spine"] = json.loads((arguments.spine / "results.json").read_text())["shared"]
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

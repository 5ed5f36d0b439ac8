"""Start-up over many studies: python -m benchmarks.index_scale [--studies 200000] [--masks 18] [--roots 1]

Writes the rows of an index (no entries: an empty folder stands for each). Measures in processes of their own what a run
does before its first patch, whether every rank gets its share of every epoch and nothing else, and how long a manifest
of as many rows is to read.
"""

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from preprocessing.manifest import read_manifest
from vol3d import study_table
from vol3d.cache import Cache
from vol3d.cache_write import create_cache, join_caches
from vol3d.data.channels import ChannelConfig
from vol3d.data.collate import StepSampler
from vol3d.data.dataset import DataConfig, PatchDataset
from vol3d.workflows.leakage import require_no_leakage

RECIPE = {"spacing_mm": [3.0, 3.0, 3.0]}
CHANNELS = ChannelConfig(ct_windows=((-160, 240),), pet_clips=(), coordinates=False)
RANKS = (1, 2, 8, 64)


def main() -> None:
    arguments = read_arguments()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        out: dict[str, object] = {"studies": arguments.studies, "masks": arguments.masks, "roots": arguments.roots}
        cache = make_cache(Path(folder), arguments.studies, arguments.masks, arguments.roots)
        files = [root / study_table.INDEX for root in Cache(cache).roots]
        out["index_mb"] = round(sum(file.stat().st_size for file in files) / 1e6, 1)
        for what in ("start", "coverage"):
            command = [sys.executable, "-m", "benchmarks.index_scale", "--do", what, "--cache", str(cache)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            out |= json.loads(done.stdout)
        out |= manifest_seconds(Path(folder), arguments.studies)
    print(json.dumps(out, indent=1))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=200_000)
    parser.add_argument("--masks", type=int, default=18)
    parser.add_argument("--roots", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=None, help="where to write")
    parser.add_argument("--do", choices=["start", "coverage"], help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.do:
        print(json.dumps({"start": start_up, "coverage": coverage}[arguments.do](arguments.cache)))
        sys.exit()
    return arguments


def make_cache(folder: Path, studies: int, masks: int, roots: int) -> Path:
    """A cache, joined of several where there is more than one root."""
    parts, kinds = [folder / f"cache-{i}" for i in range(roots)], {}
    for i, root in enumerate(parts):
        create_cache(root, RECIPE, "recipe")
        rows = [row(n, masks, kinds) for n in range(i, studies, roots)]
        for line in rows:
            (root / "studies" / f"{line['study_id']}.zarr").mkdir()
        rows.sort(key=lambda line: line["study_id"])
        table = study_table.StudyTable(pa.Table.from_pylist(rows, schema=study_table.schema()))
        study_table.save(table, root / study_table.INDEX)
    return parts[0] if roots == 1 else join_caches(parts, folder / "joined").root


KINDS = 1000


def row(number: int, masks: int, kinds: dict[int, dict[str, object]]) -> dict[str, object]:
    """As an entry's: one of a thousand lists of structures and absences, and in every third study a lesion of its own
    words."""
    kind = number % KINDS
    if kind not in kinds:
        names = [f"structure {i}" for i in np.random.default_rng(kind).permutation(120 + masks)[: masks + 20]]
        own = [{"name": n, "label": n, "finding_id": None, "voxels": 9, "phrases": [n, f"the {n}"]} for n in names]
        record = {"study_id": "", "images": ["ct"], "masks": own[:masks], "absent": names[masks:], "report": {"a": "b"}}
        kinds[kind] = study_table.row_of(record, 9, 9)
    found = {
        **kinds[kind],
        "study_id": f"study-{number:07d}",
        "fingerprint": f"{number:032x}",
        "split": (*["train"] * 8, "val", "test")[number % 10],
        "patient_key": f"{number:064x}",
    }
    if number % 3 == 0:
        lesion = json.dumps(["lesion", None, [f"nodule of {number % 997} mm in structure {number % 89}"]])
        found["masks"] = [*found["masks"], lesion]
    return found


def dataset_of(root: Path) -> PatchDataset:
    config = DataConfig(patch_size=(64, 64, 64), phrases_per_patch=4, channels=CHANNELS)
    cache = Cache(root)
    return PatchDataset(cache, cache.select(config.train_split), config, 0)


def start_up(root: Path) -> dict[str, float]:
    """What `vol3d train` asks of a cache before it builds a model."""
    before, start, cpu = peak_mb(), time.monotonic(), time.process_time()
    require_no_leakage([root], near_duplicates=False)
    leakage = time.monotonic() - start
    Cache(root).select("val")
    dataset = dataset_of(root)
    texts = len(dataset.texts())
    fingerprint = dataset.cache.fingerprint()
    whole, cpu, memory = time.monotonic() - start, time.process_time() - cpu, peak_mb() - before
    start = time.monotonic()
    sent = pickle.dumps(dataset)
    received = pickle.loads(sent)
    return {
        "start_up_s": round(whole, 2),
        "start_up_cpu_s": round(cpu, 2),
        "of_it_leakage_s": round(leakage, 2),
        "memory_mb": round(memory),
        "texts": texts,
        "worker_mb": round(len(sent) / 1e6, 1),
        "worker_s": round(time.monotonic() - start, 2),
        "fingerprint": fingerprint,
        "train": len(received),
    }


def peak_mb() -> float:
    """Of this process since it began; getrusage would count what it was forked from."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1e3


def coverage(root: Path) -> dict[str, object]:
    """Whether the shares of all ranks together are every study once an epoch, in two epochs."""
    dataset, exact, seconds = dataset_of(root), {}, 0.0
    for world in RANKS:
        batch = 4 * world
        steps = -(-2 * len(dataset) // batch)
        drawn = [
            index for rank in range(world) for micro in StepSampler(0, steps, batch, rank, world, 2) for index in micro
        ]
        assert sorted(drawn) == list(range(steps * batch))
        start = time.monotonic()
        studies = np.array([dataset._study_of(index) for index in range(2 * len(dataset))]).reshape(2, -1)
        seconds = time.monotonic() - start
        exact[world] = all(np.array_equal(np.sort(epoch), np.arange(len(dataset))) for epoch in studies)
        assert not np.array_equal(*studies)
    return {"coverage_exact": exact, "shuffle_us_per_sample": round(seconds / (2 * len(dataset)) * 1e6, 2)}


def manifest_seconds(folder: Path, studies: int) -> dict[str, float]:
    """All of a manifest with reports, and one shard of 64."""
    (folder / "image.nii.gz").touch()
    path, words = folder / "manifest.jsonl", "The lungs are clear. No pleural effusion. " * 20
    with path.open("w") as file:
        for n in range(studies):
            line = {"study_id": f"s{n}", "ct": "image.nii.gz", "split": "train", "report": {"findings": words}}
            file.write(json.dumps(line) + "\n")
    out = {"manifest_mb": round(path.stat().st_size / 1e6)}
    for name, shard in (("manifest", (1, 1)), ("manifest_shard", (3, 64))):
        start, cpu = time.monotonic(), time.process_time()
        count = sum(1 for _ in read_manifest(path, shard))
        assert count == len(range(shard[0] - 1, studies, shard[1]))
        out[f"{name}_s"], out[f"{name}_cpu_s"] = round(time.monotonic() - start, 2), round(time.process_time() - cpu, 2)
    return out


if __name__ == "__main__":
    main()

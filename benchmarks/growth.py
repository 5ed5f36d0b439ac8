"""How time and memory grow with volume size, phrases, studies and ranks, against a straight line.

    python -m benchmarks.growth --out out/bench

Each figure is the exponent of a power law through the measured points: 1 is linear, less is better. A small model, so
that many points take little time; CPU seconds, each point in turns with the others; memory in a process for each point.
Ranks: a step of the same global batch on 1 and on 2 ranks of one thread each, seconds on the wall.
"""

from __future__ import annotations

import csv
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from benchmarks import harness
from benchmarks.cache_read import RECIPE_DIGEST
from benchmarks.segment import CHANNELS, phrases
from vol3d.cache import Cache, Entry
from vol3d.cache_write import EntryData, create_cache, write_entry
from vol3d.checkpoint import PredictConfig
from vol3d.data.dataset import DataConfig, PatchDataset
from vol3d.geometry import Grid
from vol3d.infer.predictor import predict
from vol3d.model.encoder import EncoderConfig
from vol3d.model.text import TextConfig
from vol3d.model.vlm import ModelConfig, VisionLanguageModel, resolve_model
from vol3d.volume import Volume

DEPTHS = (48, 96, 192, 384)
PHRASES = (1, 4, 16, 64)
STUDIES = (50, 200, 800)
PATCH = (32, 32, 32)


def main() -> None:
    parser = harness.arguments(__doc__, rounds=3)
    parser.add_argument("--no-ranks", action="store_true")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    bench = harness.Bench("growth", settings)
    with tempfile.TemporaryDirectory(dir=settings.out) as folder:
        entries = {depth: written(Path(folder) / "volumes", depth) for depth in DEPTHS}
        volume(bench, entries)
        asked(bench, entries[DEPTHS[1]])
        studies(bench, Path(folder))
        if not settings.no_ranks:
            ranks(bench, Path(folder))
    bench.write()


def written(root: Path, depth: int) -> Entry:
    """A volume of noise, `depth` slices of 64x64."""
    shape = (depth, 64, 64)
    grid = Grid.from_spacing(shape, (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))
    hu = np.random.default_rng(0).normal(0, 40, shape).astype(np.int16)
    attributes = {"recipe_digest": RECIPE_DIGEST, "fingerprint": "0", "split": "train", "absent": ["nothing"]}
    data = EntryData(
        study_id=f"depth-{depth}", images={"ct": Volume(hu, grid, "ct")}, masks=[], source_grids={"ct": grid},
        attributes=attributes, chunk=32,
    )  # fmt: skip
    return Entry(write_entry(create_cache(root, {"spacing_mm": [3.0] * 3}, RECIPE_DIGEST).root, data))


def build() -> VisionLanguageModel:
    torch.manual_seed(0)
    config = ModelConfig(encoder=EncoderConfig(features=(8, 16, 32), blocks=(1, 1, 1)), text=TextConfig())
    config = resolve_model(config, in_channels=CHANNELS.count, patch_size=PATCH, spacing_mm=(3.0, 3.0, 3.0))
    return VisionLanguageModel(config).eval()


def ask(model: VisionLanguageModel, entry: Entry, count: int) -> None:
    predict(model, entry, *phrases(count, model), CHANNELS, PATCH, PredictConfig(skip_air=False, overlap=0.25))


def peak_of(path: Path, count: int) -> int:
    """In a fresh process, after a first prediction of one tile's worth."""
    torch.set_num_threads(1)
    model, entry = build(), Entry(path)
    with torch.inference_mode():
        model(torch.zeros(1, CHANNELS.count, *PATCH), *(t[None] for t in phrases(min(count, 16), model)))
    with harness.Peak() as peak:
        ask(model, entry, count)
    return peak.bytes


def volume(bench: harness.Bench, entries: dict[int, Entry]) -> None:
    model = build()
    times = harness.in_turns({str(d): lambda e=e: ask(model, e, 4) for d, e in entries.items()}, bench.settings.rounds)
    seconds = [times[str(d)].median("cpu") for d in entries]
    state(bench, "time of a study against its slices", list(entries), seconds)
    peaks = [float(harness.alone(peak_of, e.path, 4)) for e in entries.values()]
    state(bench, "memory of a study against its slices", list(entries), [p / 1e6 for p in peaks])


def asked(bench: harness.Bench, entry: Entry) -> None:
    model = build()
    times = harness.in_turns({str(n): lambda n=n: ask(model, entry, n) for n in PHRASES}, bench.settings.rounds)
    state(bench, "time of a study against its phrases", PHRASES, [times[str(n)].median("cpu") for n in PHRASES])
    peaks = [harness.alone(peak_of, entry.path, n) / 1e6 for n in PHRASES]
    state(bench, "memory of a study against its phrases", PHRASES, peaks)


def studies(bench: harness.Bench, folder: Path) -> None:
    """Opening a cache for training: select, index, the first two patches."""
    first = written(folder / "one", 48).path
    config = DataConfig(patch_size=PATCH, phrases_per_patch=2, channels=CHANNELS, workers=0)

    def opened(root: Path) -> None:
        cache = Cache(root)
        dataset = PatchDataset(cache, cache.select("train"), config, 0)
        dataset[0], dataset[1]

    roots = {}
    for count in STUDIES:
        root = folder / f"cache-{count}"
        create_cache(root, {}, RECIPE_DIGEST)
        for number in range(count):
            place = root / "studies" / f"study-{number:05d}.zarr"
            shutil.copytree(first, place, copy_function=os.link, ignore=shutil.ignore_patterns("zarr.json"))
            for group in first.rglob("zarr.json"):
                text = group.read_text().replace('"depth-48"', f'"study-{number:05d}"')
                (place / group.relative_to(first)).write_text(text)
        Cache(root).write_index()
        roots[count] = root
    times = harness.in_turns({str(n): lambda r=r: opened(r) for n, r in roots.items()}, bench.settings.rounds)
    seconds = [times[str(n)].median("cpu") for n in STUDIES]
    state(bench, "first batch against the studies of a cache", STUDIES, seconds)


def ranks(bench: harness.Bench, folder: Path) -> None:
    """`vol3d train` on 1 and 2 ranks, the same global batch."""
    from preprocessing.build_cache import preprocess
    from preprocessing.phantom import write_phantoms
    from vol3d.workflows.prepare import load_recipe

    config = Path("configs/train/demo.yaml")
    write_phantoms(folder / "phantoms", 3, 1, splits=(1.0, 0.0, 0.0))
    preprocess(folder / "phantoms" / "manifest.jsonl", load_recipe(config), folder / "cache", show_progress=False)
    seconds = []
    for world in (1, 2):
        out = folder / f"ranks-{world}"
        changes = ["train.steps=12", "train.batch_size=4", "train.log_every=1", "data.workers=0", "data.val_split=none"]
        command = [sys.executable, "-m", "vol3d.cli", "train", str(config), "--cache", str(folder / "cache")]
        command += ["--out", str(out), *(a for change in changes for a in ("--set", change))]
        processes = [
            subprocess.Popen(command, env=_environment(rank, world), stdout=subprocess.DEVNULL) for rank in range(world)
        ]
        assert [p.wait() for p in processes] == [0] * world
        with (out / "log.csv").open() as file:
            seconds.append(float(np.median([float(row["seconds"]) for row in csv.DictReader(file)][2:])))
    bench.row("a step on 2 ranks over 1, same global batch (0.5 is ideal on two idle cores)", seconds[1] / seconds[0],
              "<= 0.6", seconds=seconds[1])  # fmt: skip


_PORT: dict[int, int] = {}


def _environment(rank: int, world: int) -> dict[str, str]:
    if world not in _PORT:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            _PORT[world] = probe.getsockname()[1]
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": _PORT[world]}
    return {**os.environ, **{k: str(v) for k, v in place.items()}, "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}


def state(bench: harness.Bench, what: str, sizes: object, values: list[float]) -> None:
    """The exponent, and the points."""
    points = {str(s): round(v, 4) for s, v in zip(sizes, values, strict=True)}  # type: ignore[call-overload]
    bench.row(f"{what}: exponent", harness.slope(list(sizes), values), "<= 1.1", unit="", points=points)  # type: ignore


if __name__ == "__main__":
    main()

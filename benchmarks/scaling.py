"""What a large data set takes: nodes, storage and hours, from costs that are measured (docs/scaling.md).

python -m benchmarks.scaling measure --data DIR > costs.json      costs of this machine, about ten minutes
python -m benchmarks.scaling plan [--costs costs.json] [--gpu-tflops 100] [--studies 25000 200000] ...    the tables
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch.utils.flop_counter import FlopCounterMode

from preprocessing.build_cache import Job, Outcome, build_one
from preprocessing.manifest import Row, read_manifest
from preprocessing.phantom import write_phantoms
from preprocessing.phantom_write import write_nifti
from preprocessing.read_nifti import read_nifti
from preprocessing.transforms import PreprocessConfig
from vol3d import arrays
from vol3d.cache import Cache
from vol3d.cache_write import create_cache
from vol3d.config import digest, load_yaml, to_tree
from vol3d.data.dataset import PatchDataset
from vol3d.geometry import Grid
from vol3d.model.vlm import VisionLanguageModel, resolve_model
from vol3d.train.plan import image_inputs
from vol3d.train.run_config import RunConfig
from vol3d.volume import Volume
from vol3d.workflows.prepare import load_recipe

CONFIGS = Path(__file__).parents[1] / "configs"
CHEST_SHAPE, CHEST_MM = (300, 512, 512), (1.22, 0.6, 0.6)
NOISE_HU = 15.0


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Of one study and one sample. CPU seconds are of one core, so they do not depend on what else a machine does."""

    study_cpu_s: float
    """Raw to cache."""
    memory_gb: float
    """Most that a process held that built a study and then drew samples."""
    raw_mb: float
    cache_mb: float
    files: int
    """And `folders`: on most file systems both count against a quota."""
    folders: int
    sample_cpu_s: float
    """Read, moved, varied."""
    sample_mb: float
    """Read from the cache."""
    forward_tflop: float
    """Of one patch; counted, not timed."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=["measure", "plan"])
    parser.add_argument("--data", type=Path, default=os.environ.get("VOL3D_DATA"), help="the folder of test data")
    parser.add_argument("--cases", choices=["chest", "petct"], nargs="+", default=["chest", "petct"])
    parser.add_argument("--costs", type=Path, help="what `measure` printed; default: docs/scaling-costs.json")
    parser.add_argument("--studies", type=int, nargs="+", default=[25_000, 200_000])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 8, 32], help="for preprocessing")
    parser.add_argument("--cores", type=int, default=64, help="of a node")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 32, 128])
    parser.add_argument("--gpu-tflops", type=float, default=100.0, help="sustained by one GPU, not its peak")
    parser.add_argument("--patches-per-study", type=float, default=64.0, help="seen in training; 64: 64 epochs")
    parser.add_argument("--storage-gb-s", type=float, default=20.0, help="of the file system, for reading")
    arguments = parser.parse_args()
    if arguments.do == "measure":
        if arguments.data is None:
            sys.exit("expected --data DIR or VOL3D_DATA, found neither")
        measured = measure(Path(arguments.data), arguments.cases)
        print(json.dumps({name: asdict(costs) for name, costs in measured.items()}, indent=1))
        return
    path = arguments.costs or Path(__file__).parents[1] / "docs/scaling-costs.json"
    for name, costs in json.loads(path.read_text()).items():
        print("\n".join(tables(name, Costs(**costs), arguments)))


# ----------------------------------------------------------------------------------------------------------- the plan


def tables(name: str, costs: Costs, chosen: argparse.Namespace) -> Iterator[str]:
    """Markdown."""
    yield f"\n### {name}\n"
    yield "| studies | raw | cache | files and folders | core hours of preprocessing | " + " | ".join(
        f"{n} node{'s' * (n > 1)} of {chosen.cores} cores" for n in chosen.nodes
    ) + " |"  # fmt: skip
    yield "|---" * (5 + len(chosen.nodes)) + "|"
    for studies in chosen.studies:
        cells = [
            f"{studies:,}",
            f"{studies * costs.raw_mb / 1e6:.1f} TB",
            f"{studies * costs.cache_mb / 1e6:.1f} TB",
            f"{studies * (costs.files + costs.folders) / 1e6:.1f} million",
            f"{studies * costs.study_cpu_s / 3600:,.0f}",
            *(hours(max(build_hours(costs, studies, n, chosen))) for n in chosen.nodes),
        ]
        yield "| " + " | ".join(cells) + " |"
    rate = samples_per_s(costs, chosen.gpu_tflops)
    yield (
        f"\nA GPU at {chosen.gpu_tflops:g} TFLOP/s: {rate:.2f} patches/s, {rate * costs.sample_mb:.0f} MB/s from the "
        f"cache, {rate * costs.sample_cpu_s:.1f} cores to read and vary them.\n"
    )
    yield "| studies | patches | " + " | ".join(f"{n} GPUs" for n in chosen.gpus) + " |"
    yield "|---" * (2 + len(chosen.gpus)) + "|"
    for studies in chosen.studies:
        patches = studies * chosen.patches_per_study
        cells = [
            f"{hours(patches / rate / n / 3600)}, {n * rate * costs.sample_mb / 1e3:.1f} GB/s" for n in chosen.gpus
        ]
        yield f"| {studies:,} | {patches / 1e6:.1f} million | " + " | ".join(cells) + " |"


def build_hours(costs: Costs, studies: int, nodes: int, chosen: argparse.Namespace) -> tuple[float, float]:
    """Preprocessing, as far as cores and as far as the file system decides."""
    computed = studies * costs.study_cpu_s / (nodes * chosen.cores)
    moved = studies * (costs.raw_mb + costs.cache_mb) / 1e3 / chosen.storage_gb_s
    return computed / 3600, moved / 3600


def samples_per_s(costs: Costs, tflops: float) -> float:
    """Of one GPU: a backward pass is two forward passes, and activations that are computed again are one more."""
    return tflops / (4 * costs.forward_tflop)


def hours(value: float) -> str:
    """Days where they are many."""
    if value * 60 < 1:
        return "< 1 min"
    return f"{value * 60:.0f} min" if value < 1 else f"{value:.1f} h" if value < 72 else f"{value / 24:.1f} d"


# -------------------------------------------------------------------------------------------------------- the costs


def measure(data: Path, cases: list[str]) -> dict[str, Costs]:
    """A chest CT without masks, and PET/CT phantoms with masks, by the recipes and configurations for production."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch, threadpool_limits(1):
        torch.set_num_threads(1)
        makes: dict[str, tuple[str, str, Callable[[Path], list[Row]]]] = {
            "chest": ("chest CT, no masks", "ct_rate_chest", lambda folder: chest(data, folder)),
            "petct": ("PET/CT, phantoms with masks", "petct_all", phantoms),
        }
        for name, config, make in (makes[case] for case in cases):
            print(name, file=sys.stderr)
            folder = Path(scratch) / config
            folder.mkdir()
            found[name] = measure_one(CONFIGS / f"train/{config}.yaml", make(folder), folder / "cache")
    return found


def chest(data: Path, folder: Path) -> list[Row]:
    """A real CT on the matrix of a scanner; what its resampling smoothed away is put back as noise."""
    read = read_nifti(data / "totalsegmentator/example_ct.nii.gz")
    small = Volume(read.array_ZYX.astype(np.float32), read.grid, "ct")
    centre_mm = small.grid.index_to_mm((np.array(small.grid.shape) - 1) / 2)
    origin_mm = tuple(c - (n - 1) / 2 * s for c, n, s in zip(centre_mm, CHEST_SHAPE[::-1], CHEST_MM[::-1], strict=True))
    large = small.resample_to(Grid.from_spacing(CHEST_SHAPE, CHEST_MM, origin_mm))
    dice = np.random.default_rng(0)
    noise_ZYX = dice.normal(0, NOISE_HU, CHEST_SHAPE).astype(np.float32)
    image = np.clip(np.rint(large.array_ZYX + noise_ZYX), -1024, 3071).astype(np.int16)
    write_nifti(folder / "ct.nii.gz", image, large.grid)
    rows = [{"study_id": f"chest-{i}", "ct": "ct.nii.gz", "absent": ["ascites"], "split": "train"} for i in range(2)]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [row for row in read_manifest(folder / "manifest.jsonl") if isinstance(row, Row)]


def phantoms(folder: Path) -> list[Row]:
    """Two of the generator's own resolution."""
    manifest = write_phantoms(folder / "raw", 2, 7, "nifti", splits=(1.0, 0.0, 0.0))
    return [row for row in read_manifest(manifest) if isinstance(row, Row)]


def measure_one(path: Path, rows: list[Row], root: Path) -> Costs:
    """Every cost of some studies under one training configuration."""
    recipe = load_recipe(path)
    create_cache(root, to_tree(recipe), digest(recipe))
    built = [cpu_seconds(lambda row=row: build(row, recipe, root)) for row in rows]  # the first one imports
    config = without_words(load_yaml(path, RunConfig))
    counts = [(len(folders), len(files)) for _, folders, files in os.walk(root / "studies")]
    dataset = PatchDataset(Cache(root), [row.study_id for row in rows], config.data, 0)
    dataset[0]
    before = bytes_read()
    indices = range(1, 7)
    sampled = [cpu_seconds(lambda i=i: draw(dataset, i)) for i in indices]
    return Costs(
        study_cpu_s=round(float(np.median(built[1:])), 2),
        memory_gb=round(peak_gb(), 2),
        raw_mb=round(float(np.mean([raw_bytes(row) for row in rows])) / 1e6, 1),
        cache_mb=round(
            sum(f.stat().st_size for f in (root / "studies").rglob("*") if f.is_file()) / len(rows) / 1e6, 1
        ),
        files=round(sum(n for _, n in counts) / len(rows)),
        folders=round(sum(n for n, _ in counts) / len(rows)),
        sample_cpu_s=round(float(np.mean(sampled)), 3),
        sample_mb=round((bytes_read() - before) / len(indices) / 1e6, 1),
        forward_tflop=round(forward_tflop(config, recipe), 3),
    )


def build(row: Row, recipe: PreprocessConfig, root: Path) -> Outcome:
    outcome = build_one(Job(row, recipe, root, False))
    assert outcome.state == "built", outcome.reason
    return outcome


def draw(dataset: PatchDataset, index: int) -> None:
    """A sample of a study that was not open: among very many the next one never is."""
    dataset._opened.clear()
    arrays._CONTEXTS.clear()
    dataset[index]


def without_words(config: RunConfig) -> RunConfig:
    """Images decide what a sample costs; these studies have no reports."""
    data = replace(config.data, statements_per_patch=0, contrast_texts=0)
    task, model = replace(config.task, alignment=None), replace(config.model, alignment_width=0)
    return replace(config, data=data, task=task, model=model, read=None)


def forward_tflop(config: RunConfig, recipe: PreprocessConfig) -> float:
    """Multiplications and additions of one patch through the image model and all its phrases."""
    size = config.data.patch_size
    resolved = resolve_model(
        config.model, in_channels=config.data.channels.count, patch_size=size, spacing_mm=recipe.spacing_mm
    )
    with torch.device("meta"):
        model = VisionLanguageModel(replace(resolved, activation_checkpointing=False))
        given = {n: torch.empty(shape, dtype=kind) for n, (shape, kind) in image_inputs(config, resolved, 1).items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.ground(model.encode_image(given["image"]), given["tokens"], given["token_mask"])
    return counter.get_total_flops() / 1e12


def cpu_seconds(do: Callable[[], object]) -> float:
    """Of this process: what else runs on the machine does not count."""
    start = time.process_time()
    do()
    return time.process_time() - start


def raw_bytes(row: Row) -> int:
    return sum(p.stat().st_size for p in (row.ct, row.pet) if p is not None)


def bytes_read() -> int:
    """By this process, from disk or from memory that holds the file."""
    return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["rchar"])


def peak_gb() -> float:
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmHWM")).split()[1]) / 1e6


if __name__ == "__main__":
    main()

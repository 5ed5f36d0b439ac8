"""A training step with 8 phrases a patch beside nnU-Net's step without text, and the share of waiting for data.

    python -m benchmarks.train_step --out out/bench

Same stages, patch and batch, fp32, random images with random balls as masks. vol3d: `Engine.step` through DeepSpeed
(ZeRO 0), forward, losses, backward, clipping and AdamW. nnU-Net: `nnUNetTrainer.train_step`, its loss with deep
supervision, clipping and SGD. Then `vol3d train` on phantoms with two workers, and what its log says of waiting.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from benchmarks import harness
from benchmarks.rivals import nnunet_plans, nnunet_targets, nnunet_trainer, quiet

CHANNELS, TOKENS = 7, 8


def main() -> None:
    parser = harness.arguments(__doc__, rounds=5)
    parser.add_argument("--patch", type=int, nargs=3, default=[64, 64, 64])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--phrases", type=int, default=8)
    parser.add_argument("--features", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--steps", type=int, default=30, help="of the run with workers; 0 leaves it out")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    bench = harness.Bench("train_step", settings)
    step(bench)
    if settings.steps:
        waiting(bench)
    bench.write()


def step(bench: harness.Bench) -> None:
    from vol3d.model.encoder import EncoderConfig
    from vol3d.model.text import TextConfig
    from vol3d.model.vlm import ModelConfig, VisionLanguageModel, resolve_model
    from vol3d.tasks.segment import SegmentConfig, SegmentTask
    from vol3d.train import ranks
    from vol3d.train.engine import Engine, read_deepspeed_file
    from vol3d.train.optim import OptimConfig, build_optimizer

    settings = bench.settings
    patch, spacing = tuple(settings.patch), (3.0, 3.0, 3.0)
    encoder = EncoderConfig(
        features=tuple(settings.features), blocks=(1, *(2 for _ in settings.features[1:]))
    )  # fmt: skip
    config = ModelConfig(encoder=encoder, text=TextConfig())
    config = resolve_model(config, in_channels=CHANNELS, patch_size=patch, spacing_mm=spacing)
    trainer = nnunet_trainer(nnunet_plans(config.encoder, patch, spacing, batch=settings.batch, channels=CHANNELS),
                             channels=CHANNELS)  # fmt: skip
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    ranks.join()  # after nnU-Net's trainer, which takes a process group for GPUs
    torch.manual_seed(0)
    model = VisionLanguageModel(config)
    engine = Engine(
        model, SegmentTask(SegmentConfig()).training_forward, build_optimizer(model, OptimConfig()),
        deepspeed_file=read_deepspeed_file("zero0"), micro_batch=settings.batch, clip=1.0,
    )  # fmt: skip
    batch, theirs = made(settings, config.text.width, trainer)
    first = engine.step([batch], 1e-4).loss  # both learn: the loss of the same batch falls
    with quiet():
        their_first = float(trainer.train_step(theirs)["loss"])
    losses: dict[str, float] = {}

    def ours() -> None:
        losses["vol3d"] = engine.step([batch], 1e-4).loss

    def nnunet() -> None:
        losses["nnunet"] = float(trainer.train_step(theirs)["loss"])

    times = harness.in_turns({"vol3d": ours, "nnunet": nnunet}, settings.rounds)
    assert losses["vol3d"] < first, f"expected a loss that falls, found {first:.4f} and then {losses['vol3d']:.4f}"
    assert losses["nnunet"] < their_first, "expected nnU-Net's loss to fall"
    shape = "x".join(map(str, patch))
    bench.row(f"a step of {settings.batch} patches of {shape}, {settings.phrases} phrases each",
              harness.ratio(times["vol3d"], times["nnunet"], "cpu"), "<= 1.15",
              against="nnUNetTrainer.train_step without text", cpu_seconds=times["vol3d"].median("cpu"),
              rival_cpu_seconds=times["nnunet"].median("cpu"),
              wall_ratio=harness.ratio(times["vol3d"], times["nnunet"]))  # fmt: skip


def made(settings: object, width: int, trainer: object) -> tuple[SimpleNamespace, dict]:
    """The same images for both; nnU-Net's target is the first phrase's mask."""
    batch, phrases, patch = settings.batch, settings.phrases, tuple(settings.patch)  # type: ignore[attr-defined]
    generator = torch.Generator().manual_seed(0)
    grid = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, n) for n in patch), indexing="ij"))
    centres = torch.rand(batch, phrases, 3, 1, 1, 1, generator=generator) * 1.2 - 0.6
    mask_BPZYX = ((grid - centres).norm(dim=2) < 0.35).to(torch.uint8)
    image_BCZYX = torch.randn(batch, CHANNELS, *patch, generator=generator) * 0.3
    image_BCZYX[:, 0] += mask_BPZYX[:, 0]
    ours = SimpleNamespace(
        image_BCZYX=image_BCZYX,
        tokens_BPTE=torch.randn(batch, phrases, TOKENS, width, generator=generator),
        token_mask_BPT=torch.ones(batch, phrases, TOKENS, dtype=torch.bool),
        mask_BPZYX=mask_BPZYX,
        present_BP=torch.ones(batch, phrases),
        known_BP=torch.ones(batch, phrases, dtype=torch.bool),
        study_ids=("bench",) * batch,
    )
    return ours, {"data": image_BCZYX, "target": nnunet_targets(trainer, mask_BPZYX[:, 0])}


def waiting(bench: harness.Bench) -> None:
    """`vol3d train` as a command, `demo` settings with two workers."""
    from preprocessing.build_cache import preprocess
    from preprocessing.phantom import write_phantoms
    from vol3d.workflows.prepare import load_recipe

    config, out = Path("configs/train/demo.yaml"), bench.settings.out / "train_step"
    if not (out / "phantoms" / "manifest.jsonl").exists():
        write_phantoms(out / "phantoms", 6, 1, splits=(1.0, 0.0, 0.0))
    preprocess(out / "phantoms" / "manifest.jsonl", load_recipe(config), out / "cache", show_progress=False)
    run = out / f"run-{os.getpid()}"
    steps = bench.settings.steps
    changes = ["data.workers=2", f"train.steps={steps}", "train.log_every=1", "data.val_split=none"]
    command = [
        sys.executable,
        "-m",
        "vol3d.cli",
        "train",
        str(config),
        "--cache",
        str(out / "cache"),
        "--out",
        str(run),
    ]
    command += [a for change in changes for a in ("--set", change)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    with (run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))[min(5, steps - 1) :]  # workers start during the first
    waited, all_of_it = (float(np.sum([float(row[name]) for row in rows])) for name in ("data_wait", "seconds"))
    bench.row("share of a run spent waiting for data, two workers", waited / all_of_it, "<= 0.05", unit="",
              steps=len(rows), seconds_a_step=all_of_it / len(rows))  # fmt: skip


if __name__ == "__main__":
    main()

"""How long a user waits before anything happens: help texts, and the first mask of a tiny study.

    python -m benchmarks.startup --out out/bench

Each command is a process of its own, in turns. `vol3d segment` runs a small model on a study of 32 cubed, NIfTI in,
masks out; its rival is the time that TotalSegmentator and nnU-Net need before they have done anything. TotalSegmentator
is left out where it is not installed (`pip install 'vol3d[bench]'`).
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import harness

SEGMENT_PHRASES = ("liver", "spleen")


def main() -> None:
    settings = harness.arguments(__doc__, rounds=5).parse_args()
    bench = harness.Bench("startup", settings)
    scripts = Path(sys.executable).parent
    run, study = tiny(settings.out / "startup")
    masks = settings.out / "startup" / "masks"
    prompts = [a for p in SEGMENT_PHRASES for a in ("--prompt", p)]
    commands = {
        "vol3d --help": [str(scripts / "vol3d"), "--help"],
        "nnUNetv2_predict -h": [str(scripts / "nnUNetv2_predict"), "-h"],
        "vol3d segment": [str(scripts / "vol3d"), "segment", str(run), str(study), *prompts, "--out", str(masks)],
    }
    if importlib.util.find_spec("totalsegmentator"):
        commands["TotalSegmentator --help"] = [sys.executable, "-m", "totalsegmentator.bin.TotalSegmentator", "--help"]
    else:
        bench.note("TotalSegmentator is not installed: left out")
    times = harness.in_turns({name: call(command) for name, command in commands.items()}, settings.rounds)
    written = sorted((masks / study.name / "masks").glob("*.nii.gz"))
    assert len(written) == len(SEGMENT_PHRASES), f"expected {len(SEGMENT_PHRASES)} masks, found {len(written)}"
    ours, first = times["vol3d --help"], times["vol3d segment"]
    bench.row("vol3d --help", ours.median(), "< 0.3", unit="s", cpu_seconds=ours.median("cpu"))
    for name in ("TotalSegmentator --help", "nnUNetv2_predict -h"):
        if name in times:
            bench.row(
                "vol3d --help", harness.ratio(ours, times[name]), against=name, rival_seconds=times[name].median()
            )
            bench.row("vol3d segment of a tiny study, to the masks", harness.ratio(first, times[name]), "<= 1",
                      against=name, seconds=first.median(), rival_seconds=times[name].median(),
                      cpu_ratio=harness.ratio(first, times[name], "cpu"))  # fmt: skip
    bench.write()


def call(command: list[str]) -> Callable[[], None]:
    def run() -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    return run


def tiny(folder: Path) -> tuple[Path, Path]:
    """A model folder with random weights, and a study folder with a CT."""
    run, study = folder / "model", folder / "tiny"
    if (run / "checkpoint.json").exists() and (study / "ct.nii.gz").exists():
        return run, study
    import torch

    from preprocessing.transforms import PreprocessConfig
    from vol3d.checkpoint import Checkpoint, save_checkpoint
    from vol3d.config import digest, to_tree
    from vol3d.data.channels import ChannelConfig
    from vol3d.export.nifti import write_nifti
    from vol3d.geometry import Grid
    from vol3d.model.encoder import EncoderConfig
    from vol3d.model.text import TextConfig
    from vol3d.model.vlm import ModelConfig, VisionLanguageModel, resolve_model

    torch.manual_seed(0)
    channels = ChannelConfig(ct_windows=((-160.0, 240.0),), pet_clips=(), coordinates=True)
    recipe = PreprocessConfig(
        spacing_mm=(4.0, 4.0, 4.0), extent="ct", body_crop=False, body_margin_mm=10.0, levels=1, chunk=32
    )  # fmt: skip
    config = ModelConfig(encoder=EncoderConfig(features=(8, 16, 32), blocks=(1, 1, 1)), text=TextConfig())
    config = resolve_model(config, in_channels=channels.count, patch_size=(32, 32, 32), spacing_mm=(4.0, 4.0, 4.0))
    model = VisionLanguageModel(config).eval()
    save_checkpoint(run, Checkpoint(model, channels, (32, 32, 32), to_tree(recipe), digest(recipe)))
    study.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    hu = np.where(np.hypot(*np.mgrid[-16:16, -16:16]) < 12, 40.0, -1000.0) + rng.normal(0, 12, (32, 32, 32))
    grid = Grid.from_spacing((32, 32, 32), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0))
    write_nifti(study / "ct.nii.gz", np.clip(hu, -1024, 3000).astype(np.int16), grid)
    return run, study


if __name__ == "__main__":
    main()

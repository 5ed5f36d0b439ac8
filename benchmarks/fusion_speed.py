"""Time of one volume against the number of phrases, `shared` beside `contextual`.

    python benchmarks/fusion_speed.py --size 64 --threads 2

Prints JSON: seconds of one image with 1, 8 and 32 phrases at inference (median of the repeats), what 32 cost relative
to 1, and seconds of a training step (two images).
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch

from vol3d.model.encoder import EncoderConfig
from vol3d.model.text import TextConfig
from vol3d.model.vlm import ModelConfig, VisionLanguageModel, resolve_model
from vol3d.tasks.segment import SegmentConfig, SegmentTask

PHRASES = (1, 8, 32)
IN_CHANNELS, TOKENS = 7, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="edge of the cube in voxels")
    parser.add_argument("--features", type=int, nargs="+", default=[16, 32, 64, 128])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--train-phrases", type=int, default=6, help="phrases of the training step; 0 skips it")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = {"torch": torch.__version__, **vars(args)}
    print(json.dumps({**result, "designs": {name: measure(name, args) for name in ("shared", "contextual")}}, indent=2))


def measure(fusion: str, args: argparse.Namespace) -> dict[str, float]:
    torch.manual_seed(0)
    size = (args.size,) * 3
    blocks = (1, *(2 for _ in args.features[1:]))
    encoder = EncoderConfig(features=tuple(args.features), blocks=blocks)
    config = ModelConfig(fusion=fusion, encoder=encoder, text=TextConfig())
    config = resolve_model(config, in_channels=IN_CHANNELS, patch_size=size, spacing_mm=(4.0, 4.0, 4.0))
    model = VisionLanguageModel(config).to(args.device).eval()
    seconds = {}
    for phrases in PHRASES:
        batch = random_batch(1, phrases, size, config.text.width, args.device)
        with torch.inference_mode():
            seconds[f"phrases_{phrases}_s"] = clock(lambda batch=batch: predict(model, batch, args), args)
    seconds["32_over_1"] = seconds["phrases_32_s"] / seconds["phrases_1_s"]
    if args.train_phrases:
        batch = random_batch(2, args.train_phrases, size, config.text.width, args.device)
        task = SegmentTask(SegmentConfig())
        model.train()
        seconds["train_step_s"] = clock(lambda: train_step(model, task, batch, args), args)
    return {name: round(value, 4) for name, value in seconds.items()}


def predict(model: VisionLanguageModel, batch: SimpleNamespace, args: argparse.Namespace) -> None:
    with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
        model(batch.image_BCZYX, batch.tokens_BPTE, batch.token_mask_BPT)


def train_step(model: VisionLanguageModel, task: SegmentTask, batch: SimpleNamespace, args: argparse.Namespace) -> None:
    with torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16"):
        losses = task.training_forward(model, batch)
    sum(value for name, value in losses.items() if name.endswith("_loss")).backward()
    model.zero_grad()


def random_batch(batch: int, phrases: int, size: tuple[int, ...], width: int, device: str) -> SimpleNamespace:
    return SimpleNamespace(
        image_BCZYX=torch.randn(batch, IN_CHANNELS, *size, device=device),
        tokens_BPTE=torch.randn(batch, phrases, TOKENS, width, device=device),
        token_mask_BPT=torch.ones(batch, phrases, TOKENS, dtype=torch.bool, device=device),
        mask_BPZYX=(torch.rand(batch, phrases, *size, device=device) > 0.99).to(torch.uint8),
        present_BP=torch.ones(batch, phrases, device=device),
        known_BP=torch.ones(batch, phrases, dtype=torch.bool, device=device),
    )


def clock(call: Callable[[], None], args: argparse.Namespace) -> float:
    call()
    times = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        call()
        if args.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()

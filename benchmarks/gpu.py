"""On a GPU: a training step and a whole-body inference beside nnU-Net's, and what share of the device they reach.

    python -m benchmarks.gpu --out out/bench

bf16 autocast on both sides' own terms (nnU-Net: its trainer, float16 autocast with a scaler, torch.compile, as it does
by default on CUDA); cubes of 128 and 192; nnU-Net's ResEnc M and L. vol3d with and without torch.compile. The ceilings
are measured first: a copy of 1 GiB and a bf16 matrix product of 8192. Without a GPU one note says so.
"""

from __future__ import annotations

import itertools
import os
import statistics
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import torch

from benchmarks import harness
from benchmarks.rivals import nnunet_plans, nnunet_predictor, nnunet_targets, nnunet_trainer, quiet

PRESETS = {
    "M": ((32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)),
    "L": ((32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6)),
}
"""Features and blocks; nnU-Net's M and L differ in patch and batch, which its planner fits to 8 and 24 GB."""

BATCH = {"M": 2, "L": 4}
CHANNELS, TOKENS, PHRASES = 7, 8, 8
SPACING_MM = (1.5, 1.5, 1.5)
BODY = (400, 256, 256)
"""Voxels of a whole body at 1.5 mm."""


def main() -> None:
    parser = harness.arguments(__doc__, rounds=10)
    parser.add_argument("--cubes", type=int, nargs="+", default=[128, 192])
    parser.add_argument("--presets", nargs="+", choices=PRESETS, default=list(PRESETS))
    parser.add_argument("--device", default="cuda")
    settings = parser.parse_args()
    bench = harness.Bench("gpu", settings)
    if settings.device == "cuda" and not torch.cuda.is_available():
        bench.note("no GPU is present: nothing was measured")
        bench.write()
        return
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if settings.device.startswith("cuda") else "cpu")
    flops = ceilings(bench)
    for preset, cube in itertools.product(settings.presets, settings.cubes):
        try:
            step(bench, preset, cube, flops)
            inference(bench, preset, cube)
        except torch.OutOfMemoryError as error:
            bench.note(f"ResEnc {preset}, cube {cube}: {str(error).splitlines()[0]}")
        finally:
            torch.cuda.empty_cache()
    bench.write()


def ceilings(bench: harness.Bench) -> float:
    """bf16 operations a second of a large product."""
    device, large = bench.settings.device, bench.settings.device.startswith("cuda")
    source = torch.empty(2**30 if large else 2**24, dtype=torch.uint8, device=device)
    target, n = torch.empty_like(source), 8192 if large else 256
    one = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    copy = clock(lambda: target.copy_(source), bench, 20)
    product = clock(lambda: one @ one, bench, 20)
    bench.row("ceiling: device copy", 2 * source.numel() / copy / 1e12, unit="TB/s")
    bench.row("ceiling: bf16 matrix product", 2 * n**3 / product / 1e12, unit="TFLOP/s")
    return 2 * n**3 / product


def step(bench: harness.Bench, preset: str, cube: int, ceiling: float) -> None:
    """Forward, losses, backward, clipping, update."""
    from vol3d.tasks.segment import SegmentConfig, SegmentTask
    from vol3d.train import ranks
    from vol3d.train.engine import Engine, read_deepspeed_file
    from vol3d.train.optim import OptimConfig, build_optimizer

    device, batch_size = bench.settings.device, BATCH[preset]
    model = network(preset, cube)
    plans = nnunet_plans(model.config.encoder, (cube,) * 3, SPACING_MM, batch=batch_size, channels=CHANNELS)
    trainer = nnunet_trainer(plans, device, channels=CHANNELS)
    ours, theirs = batches(model.config.text.width, cube, batch_size, device, trainer)
    with quiet():
        their_seconds = clock(partial(trainer.train_step, theirs), bench)
    del trainer, theirs
    ranks.join()  # after nnU-Net's trainer, which would join its ranks
    for compiled in (False, True):
        # compiled in place: the stages run through the modules' own call
        for module in (model.encoder.net, model.decoder) if compiled else ():
            module.compile()
        engine = Engine(
            model, SegmentTask(SegmentConfig()).training_forward, build_optimizer(model, OptimConfig()),
            deepspeed_file=read_deepspeed_file("zero0"), micro_batch=batch_size, clip=1.0, precision="bf16",
        )  # fmt: skip
        seconds = clock(lambda engine=engine: engine.step([ours], 1e-3), bench)
        flops = counted(model, ours) * 3  # backward costs about twice the forward pass
        what = f"ResEnc {preset}, cube {cube}, batch {batch_size}, {PHRASES} phrases{', torch.compile' * compiled}"
        bench.row(f"training step, {what}", their_seconds / seconds, ">= 1", against="nnUNetTrainer.train_step",
                  seconds=seconds, rival_seconds=their_seconds, share_of_matmul_ceiling=flops / seconds / ceiling,
                  gigabytes=memory_gb(device))  # fmt: skip


def inference(bench: harness.Bench, preset: str, cube: int) -> None:
    """A whole body: encode and ground all tiles, beside nnU-Net's predictor; probabilities stay on the device."""
    device = bench.settings.device
    model = network(preset, cube).to(device).eval()
    predictor = nnunet_predictor(nnunet_plans(model.config.encoder, (cube,) * 3, SPACING_MM), device)
    body = tuple(max(n, cube) for n in (BODY if device.startswith("cuda") else (cube,) * 3))
    volume = torch.randn(1, *body)
    with quiet():
        tiles = len(predictor._internal_get_sliding_window_slicers(body))
        theirs = clock(lambda: predictor.predict_sliding_window_return_logits(volume), bench, 2)
    tokens = torch.randn(1, 1, TOKENS, model.config.text.width, device=device)
    mask = torch.ones(1, 1, TOKENS, dtype=torch.bool, device=device)
    image = torch.randn(1, CHANNELS, *(cube,) * 3, device=device)

    def ours() -> None:
        with torch.inference_mode(), torch.autocast(device.split(":")[0], torch.bfloat16):
            for _ in range(tiles):
                model(image, tokens, mask).logits[0].sigmoid()

    seconds = clock(ours, bench, 2)
    bench.row(f"inference, one phrase, {tiles} tiles, ResEnc {preset}, cube {cube}", theirs / seconds, ">= 1",
              against="nnU-Net's predictor", seconds=seconds, rival_seconds=theirs)  # fmt: skip


def network(preset: str, cube: int):
    from vol3d.model.encoder import EncoderConfig
    from vol3d.model.text import TextConfig
    from vol3d.model.vlm import ModelConfig, VisionLanguageModel, resolve_model

    features, blocks = PRESETS[preset]
    stages = min(len(features), max(3, cube.bit_length() - 2))  # a small cube, on a CPU, allows fewer
    config = ModelConfig(encoder=EncoderConfig(features=features[:stages], blocks=blocks[:stages]), text=TextConfig())
    config = resolve_model(config, in_channels=CHANNELS, patch_size=(cube,) * 3, spacing_mm=SPACING_MM)
    torch.manual_seed(0)
    return VisionLanguageModel(config)


def batches(width: int, cube: int, batch: int, device: str, trainer: object) -> tuple[SimpleNamespace, dict]:
    shape = (cube,) * 3
    image = torch.randn(batch, CHANNELS, *shape, device=device)
    mask = (torch.rand(batch, PHRASES, *shape, device=device) > 0.99).to(torch.uint8)
    ours = SimpleNamespace(
        image_BCZYX=image, tokens_BPTE=torch.randn(batch, PHRASES, TOKENS, width, device=device),
        token_mask_BPT=torch.ones(batch, PHRASES, TOKENS, dtype=torch.bool, device=device), mask_BPZYX=mask,
        present_BP=torch.ones(batch, PHRASES, device=device),
        known_BP=torch.ones(batch, PHRASES, dtype=torch.bool, device=device), study_ids=("bench",) * batch,
    )  # fmt: skip
    return ours, {"data": image, "target": nnunet_targets(trainer, mask[:, 0].cpu())}


def counted(model: torch.nn.Module, batch: SimpleNamespace) -> float:
    """Floating point operations of a forward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(batch.image_BCZYX, batch.tokens_BPTE, batch.token_mask_BPT)
    return float(counter.get_total_flops())


def clock(call: Callable[[], object], bench: harness.Bench, rounds: int | None = None) -> float:
    """Median seconds after two warm calls, the device waited for."""
    import time

    cuda, times = bench.settings.device.startswith("cuda"), []
    for number in range((rounds or bench.settings.rounds) + 2):
        start = time.perf_counter()
        call()
        if cuda:
            torch.cuda.synchronize()
        if number >= 2:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def memory_gb(device: str) -> float:
    return torch.cuda.max_memory_allocated() / 1e9 if device.startswith("cuda") else 0.0


if __name__ == "__main__":
    main()

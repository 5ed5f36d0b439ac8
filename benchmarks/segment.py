"""One whole study asked 1, 8, 32 and 128 phrases, beside nnU-Net's predictor, VoxTell's model class and `contextual`.

    python -m benchmarks.segment --out out/bench

The whole-body phantom at a model grid of 4 mm, tiles of 64 cubed that overlap by half. vol3d and nnU-Net run all of it;
VoxTell's class and `contextual` run `--windows` fixed windows beside vol3d on the same ones, since they would take
hours. Weights are random; that nnU-Net's network and vol3d's compute the same is checked on a window first, with its
weights read by vol3d. Peak memory is what each side adds to a fresh process that has its model and modules loaded.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import harness
from benchmarks.rivals import nnunet_network, nnunet_plans, nnunet_predictor, quiet, voxtell_model
from benchmarks.volumes import whole_body
from preprocessing.build_cache import preprocess
from preprocessing.transforms import PreprocessConfig
from vol3d.cache import Cache, Entry
from vol3d.checkpoint import PredictConfig
from vol3d.data.channels import ChannelConfig, crop_to_channels, read_crop
from vol3d.export.nifti import write_nifti
from vol3d.export.regrid import to_source_grid
from vol3d.infer.predictor import predict
from vol3d.infer.tiles import tile_rows
from vol3d.model.encoder import EncoderConfig
from vol3d.model.foreign import read_foreign
from vol3d.model.text import TextConfig
from vol3d.model.vlm import ModelConfig, VisionLanguageModel, resolve_model
from vol3d.types import Zyx

PATCH: Zyx = (64, 64, 64)
SPACING_MM = (4.0, 4.0, 4.0)
PHRASES = (1, 8, 32, 128)
MANY = 32
TOKENS = 8
CHANNELS = ChannelConfig(ct_windows=((-160.0, 240.0), (-1000.0, 600.0)), pet_clips=(), coordinates=True)


def main() -> None:
    parser = harness.arguments(__doc__, rounds=3)
    parser.add_argument("--windows", type=int, default=16, help="for rivals that would take hours")
    parser.add_argument("--grid-mm", type=float, default=4.0, help="voxels of the model grid")
    parser.add_argument("--skip", nargs="*", choices=["rivals", "memory", "whole", "writing"], default=[])
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    bench = harness.Bench("segment", settings)
    entry = Entry(prepared(settings.out, settings.grid_mm))
    model = build("shared")
    check_same_network(model, entry)
    shape = "x".join(map(str, entry.grid.shape))
    bench.note(f"model grid {shape} at {settings.grid_mm:g} mm, tiles of 64 cubed, overlap 0.5")
    bench.note("nnU-Net: Gaussian weights, step 0.5, no mirroring; VoxTell: constructor's defaults, patch and widths "
               "of this encoder, text embeddings given")  # fmt: skip
    if "whole" not in settings.skip:
        whole_study(bench, model, entry)
    if "memory" not in settings.skip:
        memory(bench, entry)
    if "rivals" not in settings.skip:
        rivals_by_window(bench, model, entry)
    if "writing" not in settings.skip:
        writing(bench, entry, settings.out)
    bench.write()


def whole_study(bench: harness.Bench, model: VisionLanguageModel, entry: Entry) -> None:
    """All tiles; nnU-Net beside each round."""
    predictor, data = nnunet_predictor(plans(model)), nnunet_input(entry)
    sides = {f"{count}": lambda count=count: ask(model, entry, count) for count in PHRASES}
    tiles = sum(len(row) for _, row in tile_rows(entry.grid.shape, PATCH, 0.5))
    with quiet():
        theirs = len(predictor._internal_get_sliding_window_slicers(entry.grid.shape))
    times = harness.in_turns(
        {"nnunet": lambda: nnunet(predictor, data), **sides}, bench.settings.rounds, warm_up=0
    )  # fmt: skip
    seconds = {name: round(t.median(), 2) for name, t in times.items()}
    bench.row("one phrase, a whole study", harness.ratio(times["1"], times["nnunet"], "cpu"), "<= 1.1",
              against="nnU-Net's predictor", seconds=seconds["1"], nnunet_seconds=seconds["nnunet"], tiles=tiles,
              nnunet_tiles=theirs, wall_ratio=harness.ratio(times["1"], times["nnunet"]))  # fmt: skip
    for count in PHRASES[1:]:
        goal = "<= 3" if count == 128 else None
        bench.row(f"{count} phrases over one, a whole study", harness.ratio(times[f"{count}"], times["1"], "cpu"), goal,
                  seconds=seconds[f"{count}"])  # fmt: skip


def rivals_by_window(bench: harness.Bench, model: VisionLanguageModel, entry: Entry) -> None:
    """The same windows for all sides; times by the number of tiles of the study."""
    every = [start for _, row in tile_rows(entry.grid.shape, PATCH, 0.5) for start in row]
    chosen = every[:: max(1, len(every) // bench.settings.windows)][: bench.settings.windows]
    images = [window(entry, start) for start in chosen]
    others = {"voxtell": voxtell_model(model.config.encoder, PATCH), "contextual": build("contextual")}
    tokens, mask = phrases(MANY, model)
    vectors = torch.randn(1, MANY, 1, others["voxtell"].text_embedding_dim)
    runs = {
        "vol3d": lambda image: grounded(model, image, tokens, mask),
        "contextual": lambda image: grounded(others["contextual"], image, tokens, mask, chunk=4),
        "voxtell": lambda image: others["voxtell"](image[:, :1], vectors).sigmoid(),
    }
    times = {name: harness.Timing() for name in runs}
    with torch.inference_mode():
        shapes = {name: tuple(run(images[0]).shape) for name, run in runs.items()}
        assert len(set(shapes.values())) == 1, f"expected the same maps of all, found {shapes}"
        for image in images:
            for name, run in runs.items():
                wall, cpu = time.perf_counter(), harness.cpu_seconds()
                run(image)
                times[name].cpu.append(harness.cpu_seconds() - cpu)
                times[name].wall.append(time.perf_counter() - wall)
    for name, shown in (("voxtell", "VoxTell's model class"), ("contextual", "`contextual`")):
        bench.row(f"{MANY} phrases, a window (extrapolated to the study by the number of tiles)",
                  harness.ratio(times[name], times["vol3d"], "cpu"), ">= 3", against=shown, windows=len(images),
                  study_seconds=times["vol3d"].median() * len(every),
                  rival_study_seconds=times[name].median() * len(every))  # fmt: skip


def memory(bench: harness.Bench, entry: Entry) -> None:
    """What a prediction adds to a process of its own."""
    voxels = int(np.prod(entry.grid.shape))
    theirs = harness.alone(peak_of_nnunet, entry.path, bench.settings.threads)
    for count in PHRASES:
        ours = harness.alone(peak_of_vol3d, entry.path, count, bench.settings.threads)
        allowed = theirs + voxels * count
        bench.row(f"peak memory with {count} phrases over nnU-Net's plus a byte per voxel and phrase", ours / allowed,
                  "<= 1", against="nnU-Net's predictor", megabytes=ours / 1e6, nnunet_megabytes=theirs / 1e6,
                  voxels=voxels)  # fmt: skip


def peak_of_vol3d(path: Path, count: int, threads: int) -> int:
    """In a fresh process."""
    torch.set_num_threads(threads)
    model, entry = build("shared"), Entry(path)
    grounded(model, window(entry, (0, 0, 0)), *phrases(1, model))  # oneDNN's own buffers are there on both sides
    with harness.Peak() as peak:
        ask(model, entry, count)
    return peak.bytes


def peak_of_nnunet(path: Path, threads: int) -> int:
    """In a fresh process; the preprocessed image counts, as vol3d's reading of the cache does."""
    torch.set_num_threads(threads)
    model, entry = build("shared"), Entry(path)
    predictor = nnunet_predictor(plans(model))
    with torch.inference_mode():
        predictor.network(torch.zeros(1, 1, *PATCH))
    with harness.Peak() as peak:
        nnunet(predictor, nnunet_input(entry))
    return peak.bytes


def writing(bench: harness.Bench, entry: Entry, out: Path) -> None:
    """Masks carried to the 512x512x600 grid and written, timed apart."""
    source, count = entry.source_grids["ct"], 8
    rng = np.random.default_rng(0)
    probability_PZYX = np.zeros((count, *entry.grid.shape), np.uint8)
    for one_ZYX in probability_PZYX:  # a ball of a tenth to a fifth of the field of view
        centre = [rng.uniform(0.3, 0.7) * n for n in entry.grid.shape]
        radius = rng.uniform(0.1, 0.2) * min(entry.grid.shape)
        distance = np.sqrt(sum((x - c) ** 2 for x, c in zip(np.ogrid[tuple(map(slice, one_ZYX.shape))], centre,
                                                            strict=True)))  # fmt: skip
        one_ZYX[:] = np.clip(255 * (radius + 2 - distance) / 4, 0, 255)
    with tempfile.TemporaryDirectory(dir=out) as folder:
        carry, write = harness.Timing(), harness.Timing()
        for number, one_ZYX in enumerate(probability_PZYX):
            start = harness.cpu_seconds()
            mask_ZYX = to_source_grid(one_ZYX, entry.grid, source, 0.5)
            carry.cpu.append(harness.cpu_seconds() - start)
            start = harness.cpu_seconds()
            write_nifti(Path(folder) / f"{number}.nii.gz", mask_ZYX, source)
            write.cpu.append(harness.cpu_seconds() - start)
    bench.row("a mask carried to 512x512x600", carry.median("cpu"), unit="CPU s")
    bench.row("that mask written as .nii.gz", write.median("cpu"), unit="CPU s")


# -- both sides ------------------------------------------------------------------------------------------------------


def prepared(out: Path, grid_mm: float) -> Path:
    """The study at the model grid, preprocessed once."""
    study = whole_body(out / "volumes")
    cache = out / f"segment-cache-{grid_mm:g}"
    recipe = PreprocessConfig(
        spacing_mm=(grid_mm,) * 3, extent="ct", body_crop=True, body_margin_mm=10.0, levels=1, chunk=48
    )  # fmt: skip
    preprocess(study / "manifest.jsonl", recipe, cache, show_progress=False)
    return Cache(cache).entry("whole-body").path


def build(fusion: str) -> VisionLanguageModel:
    """vol3d's default encoder, random weights."""
    torch.manual_seed(0)
    config = ModelConfig(fusion=fusion, encoder=EncoderConfig(), text=TextConfig())  # type: ignore[arg-type]
    resolved = resolve_model(config, in_channels=CHANNELS.count, patch_size=PATCH, spacing_mm=SPACING_MM)
    return VisionLanguageModel(resolved).eval()


def plans(model: VisionLanguageModel) -> dict:
    return nnunet_plans(model.config.encoder, PATCH, SPACING_MM)


def phrases(count: int, model: VisionLanguageModel) -> tuple[Tensor, Tensor]:
    """tokens_PTE and mask, random."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(count, TOKENS, model.config.text.width, generator=generator)
    return tokens, torch.ones(count, TOKENS, dtype=torch.bool)


def ask(model: VisionLanguageModel, entry: Entry, count: int) -> None:
    """All tiles: as in nnU-Net, none is skipped."""
    tokens, mask = phrases(count, model)
    found = predict(model, entry, tokens, mask, CHANNELS, PATCH, PredictConfig(skip_air=False))
    assert found.probability_PZYX.shape == (count, *entry.grid.shape)


def nnunet_input(entry: Entry) -> Tensor:
    """The CT as nnU-Net's preprocessor would leave it: float32, clipped and scaled."""
    array = entry.read_level("ct", 0).array_ZYX.astype(np.float32)
    return torch.from_numpy((np.clip(array, -970, 400) + 60) / 180)[None]


def nnunet(predictor: object, data: Tensor) -> None:
    with quiet():
        found = predictor.predict_logits_from_preprocessed_data(data)  # type: ignore[attr-defined]
    assert found.shape[1:] == data.shape[1:]


def window(entry: Entry, start: Zyx) -> Tensor:
    stop = (start[0] + PATCH[0], start[1] + PATCH[1], start[2] + PATCH[2])
    return crop_to_channels(entry, read_crop(entry, start, stop), start, stop, CHANNELS)[None]


@torch.inference_mode()
def grounded(model: VisionLanguageModel, image: Tensor, tokens: Tensor, mask: Tensor, chunk: int = 16) -> Tensor:
    """Probabilities of all phrases in one window, a few at a time."""
    features = model.encode_image(image)
    parts = [
        model.ground(features, tokens[None, i : i + chunk], mask[None, i : i + chunk]).logits[0].sigmoid()
        for i in range(0, len(tokens), chunk)
    ]
    return torch.cat(parts, dim=1)


def check_same_network(model: VisionLanguageModel, entry: Entry) -> None:
    """nnU-Net's network gives the same full-resolution features as ours with its weights."""
    channels = CHANNELS.count
    theirs = nnunet_network(nnunet_plans(model.config.encoder, PATCH, SPACING_MM, channels=channels), channels)
    ours = build("shared")
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"network_weights": theirs.state_dict()}, Path(folder) / "checkpoint_final.pth")
        weights = read_foreign(Path(folder) / "checkpoint_final.pth").tensors
    own = ours.state_dict()
    assert set(weights) <= set(own)
    ours.load_state_dict({**own, **weights})
    caught: list[Tensor] = []
    theirs.decoder.stages[-1].register_forward_hook(lambda _m, _i, output: caught.append(output))  # type: ignore
    image = window(entry, tuple((n - p) // 2 for n, p in zip(entry.grid.shape, PATCH, strict=True)))  # type: ignore
    with torch.inference_mode():
        theirs(image)
        assert ours.decoder is not None
        found = ours.decoder(ours.encoder(image))[0]
    difference = float((found - caught[0]).abs().max() / caught[0].abs().max())
    assert difference < 1e-3, f"expected the same features of both networks, found a difference of {difference:.2e}"


if __name__ == "__main__":
    main()

"""Random patches from disk: the cache beside nnU-Net's Blosc2 files, MONAI, gz NIfTI, zarr-python, memmap and memory.

    python -m benchmarks.cache_read --out out/bench

All sides hold the whole-body CT (and PET) resampled to 1.5 mm, `--studies` times under different names, and are asked
for the same boxes, CPU seconds a core. nnU-Net keeps what its preprocessor would: float32, clipped and scaled, in
blocks that it plans for the patch size at hand. vol3d keeps HU and SUV in chunks of 32 for all patch sizes and no
decoded chunk in memory; "ready" means as float32 scaled
channels, as nnU-Net's are, "voxels" as stored. MONAI's PersistentDataset and gz NIfTI can only load a whole volume, so
they load it for every patch.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import nibabel as nib
import numpy as np

from benchmarks import harness
from benchmarks.rivals import INTENSITIES
from benchmarks.volumes import whole_body
from preprocessing.reading import read_image
from vol3d.cache import Cache, Entry
from vol3d.cache_write import EntryData, create_cache, write_entry
from vol3d.data.channels import ChannelConfig, to_channels
from vol3d.types import Array, Zyx
from vol3d.volume import Volume

SIZES = (64, 96, 128)
SPACING_MM = (1.5, 1.5, 1.5)
CHANNELS = {
    "ct": ChannelConfig(ct_windows=((-970.0, 400.0),), pet_clips=(), coordinates=False),
    "pet": ChannelConfig(ct_windows=(), pet_clips=(20.0,), coordinates=False),
}
RECIPE_DIGEST = "bench"

Read = Callable[[int, Zyx, Zyx], Array]
"""(study, start, stop) -> voxels."""


def main() -> None:
    parser = harness.arguments(__doc__, rounds=24)
    parser.add_argument("--studies", type=int, default=4)
    parser.add_argument("--many", type=int, default=10_000, help="studies of the cache whose first batch is timed")
    parser.add_argument("--slices", type=int, default=400, help="of the volume at 1.5 mm, from its middle")
    settings = parser.parse_args()
    bench = harness.Bench("cache_read", settings)
    made = prepare(settings)
    sizes_on_disk(bench, made)
    for image in ("ct", "pet"):
        for size in SIZES:
            patches(bench, made, image, size)
    two_workers(bench, made)
    cold(bench, made)
    first_batch(bench, made, settings.many)
    bench.write()


# -- the same voxels, as each side stores them -----------------------------------------------------------------------


class Made:
    """Where everything lies."""

    def __init__(self, root: Path, studies: int) -> None:
        self.root, self.studies = root, studies
        self.cache, self.nnunet, self.other = root / "cache", root / "nnunet", root / "other"


def prepare(settings: object) -> Made:
    """Written once; studies are links to the first, so that no side profits from a cache of decoded chunks."""
    out, slices = settings.out, settings.slices  # type: ignore[attr-defined]
    made = Made(out / f"cache_read-{slices}", settings.studies)  # type: ignore[attr-defined]
    if (made.root / "done").exists():
        return made
    shutil.rmtree(made.root, ignore_errors=True)
    for folder in (made.nnunet, made.other):
        folder.mkdir(parents=True)
    study = whole_body(out / "volumes")
    native = read_image(study / "pet.nii.gz", "pet").volume
    ct = read_image(study / "ct.nii.gz", "ct").volume
    grid = ct.grid.resample(SPACING_MM)
    if slices < grid.shape[0]:
        low = (grid.shape[0] - slices) // 2
        grid = grid.crop((low, 0, 0), (low + slices, *grid.shape[1:]))
        ends = [native.grid.mm_to_index(grid.index_to_mm((z, 0, 0)))[0] for z in (0, slices - 1)]
        first, last = max(0, round(min(ends))), min(native.grid.shape[0], round(max(ends)) + 1)
        native = native.crop((first, 0, 0), (last, *native.grid.shape[1:]))
    exact = {"ct": ct.resample_to(grid), "pet": native.resample_to(grid)}
    attributes = {"recipe_digest": RECIPE_DIGEST, "fingerprint": "0", "split": "train", "absent": ["nothing"]}
    data = EntryData(
        study_id="study-0", images=exact, masks=[], source_grids={"ct": ct.grid, "pet": native.grid},
        pet_native=native, attributes=attributes, levels=3, chunk=32,
    )  # fmt: skip
    first = write_entry(create_cache(made.cache, {}, RECIPE_DIGEST).root, data)
    link_studies(first, made.cache, made.studies)
    for image, volume in exact.items():
        stored = np.rint(volume.array_ZYX).astype(np.int16) if image == "ct" else volume.array_ZYX
        np.save(made.other / f"{image}.npy", stored)
        nib.save(nib.Nifti1Image(stored.transpose(2, 1, 0), grid.affine_xyz), made.other / f"{image}.nii.gz")
        for size in SIZES:
            save_nnunet(made, [image], exact, size)
    save_nnunet(made, ["ct", "pet"], exact, 128)
    (made.root / "done").touch()
    return made


def link_studies(first: Path, cache: Path, count: int) -> None:
    for number in range(1, count):
        place = cache / "studies" / f"study-{number}.zarr"
        if not place.exists():
            shutil.copytree(first, place, copy_function=os.link)


def scaled(image: str, array: Array) -> Array:
    """As nnU-Net's CTNormalization, and its ZScoreNormalization for PET."""
    if image == "pet":
        return (array.astype(np.float32) - np.float32(0.5)) / np.float32(1.5)
    clipped = np.clip(array.astype(np.float32), INTENSITIES["percentile_00_5"], INTENSITIES["percentile_99_5"])
    return (clipped - INTENSITIES["mean"]) / INTENSITIES["std"]


def save_nnunet(made: Made, images: list[str], exact: dict[str, Volume], size: int) -> None:
    """By its own dataset class, in the blocks that its preprocessor would choose for this patch size."""
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params, nnUNetDatasetBlosc2

    data = np.stack([scaled(image, exact[image].array_ZYX) for image in images])
    seg = np.zeros((1, *data.shape[1:]), np.int16)
    (blocks, chunks), (seg_blocks, seg_chunks) = (
        comp_blosc2_params(a.shape, (size,) * 3, a.itemsize) for a in (data, seg)
    )
    name = made.nnunet / f"{'_'.join(images)}_{size}"
    nnUNetDatasetBlosc2.save_case(
        data, seg, {"class_locations": {1: np.zeros((10_000, 4), int)}}, str(name), chunks=chunks, blocks=blocks,
        chunks_seg=seg_chunks, blocks_seg=seg_blocks,
    )  # fmt: skip


# -- reading ---------------------------------------------------------------------------------------------------------


def readers(made: Made, image: str, size: int) -> dict[str, Read]:
    """Every side, open and warm."""
    import zarr
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    cache = Cache(made.cache)
    entries = [cache.entry(f"study-{n}") for n in range(made.studies)]
    dataset = nnUNetDatasetBlosc2(str(made.nnunet))
    case = f"{image}_{size}"
    opened = [dataset.load_case(case)[0] for _ in range(made.studies)]
    arrays = [zarr.open_array(e.path / image / "0", mode="r") for e in entries]
    mapped = np.load(made.other / f"{image}.npy", mmap_mode="r")
    memory = np.ascontiguousarray(mapped)

    def ready(study: int, start: Zyx, stop: Zyx) -> Array:
        voxels = entries[study].read(image, start, stop)
        given = (voxels, None) if image == "ct" else (None, voxels)
        return to_channels(*given, None, None, CHANNELS[image])[0].numpy()

    return {
        "vol3d voxels": lambda n, a, b: entries[n].read(image, a, b),
        "vol3d ready": ready,
        "vol3d opening": lambda n, a, b: cache.entry(f"study-{n}").read(image, a, b),
        "nnU-Net": lambda n, a, b: np.asarray(opened[n][(0, *box(a, b))]),
        "nnU-Net opening": lambda n, a, b: np.asarray(dataset.load_case(case)[0][(0, *box(a, b))]),
        "zarr-python": lambda n, a, b: np.asarray(arrays[n][box(a, b)]),
        "npy memmap": lambda n, a, b: np.array(mapped[box(a, b)]),
        "memory copy": lambda n, a, b: memory[box(a, b)].copy(),
    }  # fmt: skip


def box(start: Zyx, stop: Zyx) -> tuple[slice, ...]:
    return tuple(slice(a, b) for a, b in zip(start, stop, strict=True))


def patches(bench: harness.Bench, made: Made, image: str, size: int) -> None:
    sides = readers(made, image, size)
    shape = Cache(made.cache).entry("study-0").grid.shape
    rng = np.random.default_rng(size)
    boxes = [draw(rng, made.studies, shape, size) for _ in range(bench.settings.rounds)]
    check(image, sides, boxes[0])
    times = {name: harness.Timing() for name in sides}
    for place in [boxes[0], *boxes]:  # the first warms up
        for name, read in sides.items():
            cpu, wall = time.process_time(), time.perf_counter()
            read(*place)
            times[name].cpu.append(time.process_time() - cpu)
            times[name].wall.append(time.perf_counter() - wall)
    for timing in times.values():
        del timing.cpu[0], timing.wall[0]
    shown = {name: times[name].median("cpu") * 1e3 for name in sides}
    what = f"{image.upper()} patches of {size}, a core"
    for ours, theirs in (("voxels", ""), ("ready", ""), ("opening", " opening")):
        bench.row(f"{what}: {ours}", harness.ratio(times[f"nnU-Net{theirs}"], times[f"vol3d {ours}"], "cpu"), ">= 2",
                  against=f"nnU-Net's Blosc2 class{theirs and ', opening each time'}", ms=shown[f"vol3d {ours}"],
                  rival_ms=shown[f"nnU-Net{theirs}"])  # fmt: skip
    bench.row(f"{what}: time over a memory copy", harness.ratio(times["vol3d voxels"], times["memory copy"], "cpu"),
              "<= 8", against="plain copy of the same voxels", rival_ms=shown["memory copy"])  # fmt: skip
    for other in ("zarr-python", "npy memmap"):
        bench.row(f"{what}: voxels", harness.ratio(times[other], times["vol3d voxels"], "cpu"), against=other,
                  rival_ms=shown[other])  # fmt: skip
    if size == 96:
        whole_volumes(bench, made, image, shown["vol3d voxels"])


def draw(rng: np.random.Generator, studies: int, shape: Zyx, size: int) -> tuple[int, Zyx, Zyx]:
    z, y, x = (int(rng.integers(0, max(1, n - size + 1))) for n in shape)
    top = [min(a + size, n) for a, n in zip((z, y, x), shape, strict=True)]
    return int(rng.integers(studies)), (z, y, x), (top[0], top[1], top[2])


def check(image: str, sides: dict[str, Read], place: tuple[int, Zyx, Zyx]) -> None:
    """The same voxels, up to the rounding of HU to whole numbers."""
    truth = sides["memory copy"](*place).astype(np.float32)
    rounding = 0.5 / INTENSITIES["std"] if image == "ct" else 1e-3
    for name, read in sides.items():
        found = read(*place)
        if name == "vol3d ready":
            low, high = CHANNELS["ct"].ct_windows[0] if image == "ct" else (0.0, 20.0)
            expected = np.clip((truth - low) * 2 / (high - low) - 1, -1, 1)
            np.testing.assert_allclose(found, expected, atol=1e-3)
        elif name.startswith("nnU-Net"):
            np.testing.assert_allclose(found, scaled(image, truth), atol=rounding + 1e-4)
        else:
            relative, absolute = (2.0**-11, 2.0**-25) if image == "pet" else (0, 0)
            np.testing.assert_allclose(found, truth, rtol=relative, atol=absolute, err_msg=name)


def whole_volumes(bench: harness.Bench, made: Made, image: str, ours_ms: float) -> None:
    """Sides that load all for a patch."""
    from monai.data import PersistentDataset
    from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged

    path = made.other / f"{image}.nii.gz"
    dataset = PersistentDataset(
        [{"image": str(path)}], Compose([LoadImaged("image"), EnsureChannelFirstd("image")]), made.other / "monai"
    )
    loads = {
        "gz NIfTI (nibabel)": lambda: np.asarray(nib.load(path).dataobj),
        "MONAI PersistentDataset": lambda: dataset[0],
    }
    for name, load in loads.items():
        timing = harness.in_turns({name: load}, 2)[name]
        bench.row(f"{image.upper()} patches of 96, a core: voxels", timing.median("cpu") * 1e3 / ours_ms, against=name,
                  rival_ms=timing.median("cpu") * 1e3)  # fmt: skip


# -- workers, disk, bytes, many studies ------------------------------------------------------------------------------


def read_some(root: Path, studies: int, side: str, size: int, seed: int, count: int) -> float:
    """Seconds on the wall of one worker; it opens for itself."""
    made = Made(root, studies)
    read = readers(made, "ct", size)[side]
    rng, shape = np.random.default_rng(seed), Cache(made.cache).entry("study-0").grid.shape
    boxes = [draw(rng, studies, shape, size) for _ in range(count)]
    read(*boxes[0])
    start = time.perf_counter()
    for place in boxes:
        read(*place)
    return time.perf_counter() - start


def two_workers(bench: harness.Bench, made: Made) -> None:
    """Patches a second of two processes at once, wall clock."""
    count = 2 * bench.settings.rounds
    rates: dict[str, list[float]] = {"vol3d voxels": [], "nnU-Net": []}
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for turn in range(3):
            for side, found in rates.items():
                jobs = [
                    pool.submit(read_some, made.root, made.studies, side, 96, seed + turn, count) for seed in (0, 9)
                ]
                found.append(sum(count / job.result() for job in jobs))
    pairs = zip(rates["vol3d voxels"], rates["nnU-Net"], strict=True)
    bench.row("CT patches of 96, two workers: rate", median(a / b for a, b in pairs), ">= 2",
              against="nnU-Net's Blosc2 class", patches_per_s=median(rates["vol3d voxels"]))  # fmt: skip


def cold(bench: harness.Bench, made: Made) -> None:
    """After the system was told to forget the files; wall clock, since the disk is waited for."""
    sides = {"vol3d opening": made.cache, "nnU-Net opening": made.nnunet}
    reads = {name: readers(made, "ct", 96)[name] for name in sides}
    shape = Cache(made.cache).entry("study-0").grid.shape
    rng, times = np.random.default_rng(5), {name: harness.Timing() for name in sides}
    for _ in range(max(3, bench.settings.rounds // 2)):
        place = draw(rng, made.studies, shape, 96)
        for name, folder in sides.items():
            harness.drop_caches([folder])
            start = time.perf_counter()
            reads[name](*place)
            times[name].wall.append(time.perf_counter() - start)
    bench.row("CT patches of 96, cold, opening", harness.ratio(times["nnU-Net opening"], times["vol3d opening"]),
              against="nnU-Net's Blosc2 class", ms=times["vol3d opening"].median() * 1e3)  # fmt: skip


def sizes_on_disk(bench: harness.Bench, made: Made) -> None:
    """Everything a study's images take, pyramids included."""
    path = Entry(made.cache / "studies" / "study-0.zarr").path
    ct = harness.folder_bytes(path / "ct")
    both = ct + harness.folder_bytes(path / "pet", path / "pet_native")
    theirs = {name: (made.nnunet / f"{name}_128.b2nd").stat().st_size for name in ("ct", "ct_pet")}
    bench.row("bytes of a CT, three levels", ct / theirs["ct"], "<= 0.6", against="nnU-Net's Blosc2 file",
              megabytes=ct / 1e6, rival_megabytes=theirs["ct"] / 1e6)  # fmt: skip
    bench.row("bytes of a PET/CT, three levels and the native PET", both / theirs["ct_pet"], "<= 0.9",
              against="nnU-Net's Blosc2 file", megabytes=both / 1e6,
              rival_megabytes=theirs["ct_pet"] / 1e6)  # fmt: skip


def first_batch(bench: harness.Bench, made: Made, count: int) -> None:
    """A cache of links to one study: opened, listed, indexed, and two patches drawn, in a fresh process."""
    many = made.root / f"many-{count}"
    if not (many / "done").exists():
        create_cache(many, {}, RECIPE_DIGEST)
        for number in range(count):  # the record is a file of its own, the arrays are links
            place, first = many / "studies" / f"study-{number:06d}.zarr", made.cache / "studies" / "study-0.zarr"
            place.mkdir(parents=True, exist_ok=True)
            record = (first / "zarr.json").read_text().replace('"study-0"', f'"study-{number:06d}"')
            (place / "zarr.json").write_text(record)
            for name in ("ct", "pet", "pet_native", "index"):
                if not (place / name).exists():
                    (place / name).symlink_to((first / name).resolve(), target_is_directory=True)
        Cache(many).write_index()  # as preprocessing leaves it
        (many / "done").touch()
    seconds, cpu, queued = harness.alone(partial(time_first_batch, many))
    bench.row(f"first batch of a cache of {count} studies", seconds, "< 5", unit="s", cpu_seconds=cpu,
              waited_for_a_core_s=queued)  # fmt: skip


def time_first_batch(root: Path) -> tuple[float, float, float]:
    """Seconds by the clock, of the processor, and ready to run while others had the cores; imports not counted."""
    from vol3d.data.dataset import DataConfig, PatchDataset

    config = DataConfig(patch_size=(96, 96, 96), phrases_per_patch=2, channels=CHANNELS["ct"], workers=0)
    start, cpu, queued = time.perf_counter(), time.process_time(), queue_seconds()
    cache = Cache(root)
    dataset = PatchDataset(cache, cache.select("train"), config, 0)
    samples = [dataset[n] for n in range(2)]
    assert len({s.index for s in samples}) == 2
    return time.perf_counter() - start, time.process_time() - cpu, queue_seconds() - queued


def queue_seconds() -> float:
    """How long the first thread of this process was kept from running by others; 0 where the system does not say."""
    path = Path("/proc/self/schedstat")
    return int(path.read_text().split()[1]) / 1e9 if path.exists() else 0.0


if __name__ == "__main__":
    main()

"""Studies to a cache: beside nnU-Net's preprocessor and MONAI's transforms into a PersistentDataset.

    python -m benchmarks.preprocess --out out/bench --data $VOL3D_DATA

CT and one mask of `--patients` sarcoma patients, and the whole-body CT, to the same spacing. nnU-Net:
`DefaultPreprocessor.run_case_save` with its plans at order 1, the order of vol3d's interpolation, and its own default
of order 3 stated beside. MONAI: LoadImage, Orientation, Spacing (bilinear), CropForeground, into PersistentDataset.
Only vol3d writes a pyramid, an index, checksums and a record. DICOM against MONAI with ITK, since nnU-Net reads no
series. CPU seconds of one process; peak memory is that of a process of its own, beyond its imports.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import harness
from benchmarks.rivals import CONFIGURATION, dataset_json, nnunet_plans, quiet
from benchmarks.volumes import whole_body
from preprocessing.build_cache import preprocess
from preprocessing.manifest import write_manifest
from preprocessing.transforms import PreprocessConfig
from vol3d.cache import Cache

PATCH = (64, 64, 64)

COPIES = 64
"""Of every patient's CT for the row of workers: a tenth of a second each, and starting a pool takes two to three."""


def main() -> None:
    parser = harness.arguments(__doc__, rounds=3)
    parser.add_argument("--patients", type=int, default=6)
    parser.add_argument("--skip", nargs="*", choices=["sts", "dicom", "large", "workers"], default=[])
    settings = parser.parse_args()
    bench = harness.Bench("preprocess", settings)
    with tempfile.TemporaryDirectory(dir=settings.out) as folder:
        work = Path(folder)
        if settings.data is None:
            bench.note("VOL3D_DATA is not set: the real studies are left out")
        else:
            patients = sorted((settings.data / "sts").glob("STS_*"))[: settings.patients]
            if "sts" not in settings.skip:
                small(bench, work, patients)
            if "dicom" not in settings.skip:
                dicom(bench, work, settings.data / "totalsegmentator" / "example_ct_dicom")
            if "workers" not in settings.skip:
                workers(bench, work, patients)
        if "large" not in settings.skip:
            large(bench, work, whole_body(settings.out / "volumes"))
    bench.write()


def recipe(spacing: float) -> PreprocessConfig:
    return PreprocessConfig(
        spacing_mm=(spacing,) * 3, extent="ct", body_crop=True, body_margin_mm=10.0, levels=3, chunk=32
    )  # fmt: skip


def small(bench: harness.Bench, work: Path, patients: list[Path]) -> None:
    """CT and mask of each patient, 2 mm."""
    cases = [(p / "CT_image.nii.gz", p / "CT_mask.nii.gz") for p in patients]
    sides: dict[str, Callable[[], object]] = {
        "vol3d": partial(ours, work, cases, 2.0),
        "nnU-Net's preprocessor, order 1": partial(nnunet, work, cases, 2.0, 1),
        "nnU-Net's preprocessor, order 3 (its default)": partial(nnunet, work, cases, 2.0, 3),
        "MONAI into PersistentDataset": partial(monai, work, cases, 2.0),
    }
    agree(work, sides, cases)
    times = harness.in_turns(sides, bench.settings.rounds, warm_up=0)
    for name in list(sides)[1:]:
        bench.row(f"{len(cases)} CTs with a mask to 2 mm, studies a core-hour",
                  harness.ratio(times[name], times["vol3d"], "cpu"), ">= 2", against=name,
                  cpu_seconds=times["vol3d"].median("cpu") / len(cases),
                  rival_cpu_seconds=times[name].median("cpu") / len(cases))  # fmt: skip


def agree(work: Path, sides: dict[str, Callable[[], object]], cases: list[tuple[Path, Path]]) -> None:
    """The mean HU inside the mask, of what each side left of the first study, within 3 HU; nnU-Net's scaled back."""
    for run in sides.values():
        run()
    entry = Cache(work / "cache").entry(cases[0][0].parent.name)
    name = entry.masks[0].name
    where = entry.read_mask(name, (0, 0, 0), entry.grid.shape) > 0
    found = {"vol3d": float(entry.read("ct", (0, 0, 0), entry.grid.shape)[where].mean())}
    from monai.data import PersistentDataset
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    data, seg, _, _ = nnUNetDatasetBlosc2(str(work / "nnunet")).load_case(cases[0][0].parent.name)
    found["nnU-Net"] = float(np.asarray(data[0])[np.asarray(seg[0]) > 0].mean()) * 180 - 60
    item = PersistentDataset(monai_items(cases[:1]), monai_transforms(2.0), work / "monai")[0]
    found["MONAI"] = float(item["image"][item["label"] > 0.5].mean())
    if max(found.values()) - min(found.values()) > 3:
        raise AssertionError(f"expected the same mean HU in the mask, found {found}")


def ours(work: Path, cases: list[tuple[Path, Path | None]], spacing: float) -> None:
    shutil.rmtree(work / "cache", ignore_errors=True)
    rows = []
    for image, mask in cases:
        name = image.parent.name if image.is_file() else image.name
        masks = [] if mask is None else [{"path": str(mask.resolve()), "phrase": "mass", "label": "mass"}]
        rows.append({"study_id": name, "ct": str(image.resolve()), "masks": masks, "split": "train"})
    if not rows:
        return
    summary = preprocess(
        write_manifest(rows, work / "manifest.jsonl"), recipe(spacing), work / "cache", show_progress=False
    )
    assert len(summary.built) == len(cases), summary.quarantined


def nnunet(work: Path, cases: list[tuple[Path, Path | None]], spacing: float, order: int) -> None:
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from vol3d.model.encoder import EncoderConfig, plan_encoder

    encoder = plan_encoder(EncoderConfig(), PATCH, (spacing,) * 3)
    manager = PlansManager(nnunet_plans(encoder, PATCH, (spacing,) * 3, order=order))
    shutil.rmtree(work / "nnunet", ignore_errors=True)
    (work / "nnunet").mkdir()
    for image, mask in cases:
        with quiet():
            DefaultPreprocessor(verbose=False).run_case_save(
                str(work / "nnunet" / image.parent.name), [str(image)], None if mask is None else str(mask), manager,
                manager.get_configuration(CONFIGURATION), dataset_json(),
            )  # fmt: skip


def monai_items(cases: list[tuple[Path, Path | None]]) -> list[dict[str, str]]:
    return [{"image": str(i), **({} if m is None else {"label": str(m)})} for i, m in cases]


def monai_transforms(spacing: float) -> object:
    from monai.transforms import Compose, CropForegroundd, LoadImaged, Orientationd, Spacingd

    keys = ["image", "label"]
    return Compose(
        [
            LoadImaged(keys, ensure_channel_first=True, allow_missing_keys=True),
            Orientationd(keys, axcodes="RAS", labels=None, allow_missing_keys=True),
            Spacingd(keys, pixdim=(spacing,) * 3, mode=("bilinear", "nearest"), allow_missing_keys=True),
            CropForegroundd(keys, source_key="image", select_fn=lambda x: x > -400, allow_missing_keys=True),
        ]
    )


def monai(work: Path, cases: list[tuple[Path, Path | None]], spacing: float) -> None:
    from monai.data import PersistentDataset

    shutil.rmtree(work / "monai", ignore_errors=True)
    dataset = PersistentDataset(monai_items(cases), monai_transforms(spacing), work / "monai")
    for number in range(len(cases)):
        dataset[number]


def dicom(bench: harness.Bench, work: Path, series: Path) -> None:
    """20 slices of 512x512, JPEG 2000, to 2 mm."""
    cases: list[tuple[Path, Path | None]] = [(series, None)]
    sides: dict[str, Callable[[], object]] = {
        "vol3d": partial(ours, work, cases, 2.0), "monai": partial(monai, work, cases, 2.0)
    }  # fmt: skip
    times = harness.in_turns(sides, bench.settings.rounds)
    bench.row("a DICOM CT to 2 mm, studies a core-hour", harness.ratio(times["monai"], times["vol3d"], "cpu"), ">= 2",
              against="MONAI into PersistentDataset", cpu_seconds=times["vol3d"].median("cpu"),
              rival_cpu_seconds=times["monai"].median("cpu"))  # fmt: skip


def large(bench: harness.Bench, work: Path, study: Path) -> None:
    """The 512x512x600 CT with one mask, each side in a process of its own."""
    case = [(study / "ct.nii.gz", study / "liver.nii.gz")]
    found = {}
    for name, run in (("vol3d", partial(ours, work, case, 3.0)), ("nnunet", partial(nnunet, work, case, 3.0, 1)),
                      ("monai", partial(monai, work, case, 3.0))):  # fmt: skip
        found[name] = harness.alone(measured, run)
    for name, shown in (("nnunet", "nnU-Net's preprocessor, order 1"), ("monai", "MONAI into PersistentDataset")):
        (cpu, peak), (their_cpu, their_peak) = found["vol3d"], found[name]
        bench.row("a CT of 512x512x600 with a mask to 3 mm, studies a core-hour", their_cpu / cpu, ">= 2",
                  against=shown, cpu_seconds=cpu, rival_cpu_seconds=their_cpu)  # fmt: skip
        bench.row("a CT of 512x512x600 with a mask to 3 mm, peak memory", peak / their_peak, "<= 0.7", against=shown,
                  megabytes=peak / 1e6, rival_megabytes=their_peak / 1e6)  # fmt: skip


def measured(run: Callable[[], object]) -> tuple[float, int]:
    """CPU seconds and rise of memory of one call, imports done before by a call without cases."""
    run.func(run.args[0], [], *run.args[2:])  # type: ignore[attr-defined]
    start = harness.cpu_seconds()
    with harness.Peak() as peak:
        run()
    return harness.cpu_seconds() - start, peak.bytes


def workers(bench: harness.Bench, work: Path, patients: list[Path]) -> None:
    """Wall clock of one and of two workers: only an idle machine of two cores can show it."""
    rows = [
        {"study_id": f"{p.name}-{n}", "ct": str((p / "CT_image.nii.gz").resolve()), "split": "train"}
        for p in patients
        for n in range(COPIES)
    ]
    manifest = write_manifest(rows, work / "many.jsonl")
    sides = {str(n): partial(rebuilt, manifest, work / f"workers-{n}", n) for n in (1, 2)}
    times = harness.in_turns(sides, max(1, bench.settings.rounds // 2), warm_up=0)
    bench.row(f"two workers over one, {len(rows)} studies, start-up included", harness.ratio(times["1"], times["2"]),
              ">= 1.8", seconds=times["2"].median())  # fmt: skip


def rebuilt(manifest: Path, out: Path, count: int) -> None:
    shutil.rmtree(out, ignore_errors=True)
    preprocess(manifest, recipe(2.0), out, workers=count, show_progress=False)


if __name__ == "__main__":
    main()

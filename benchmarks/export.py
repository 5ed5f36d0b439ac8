"""Masks out: 100 segments as DICOM SEG beside highdicom called plainly, and 100 NIfTI masks beside nibabel.

    python -m benchmarks.export --out out/bench

DICOM: `highdicom.seg.Segmentation` of the stacked masks, then `save_as`, its defaults; both objects are read back by
highdicom and must hold the same voxels. NIfTI: `nibabel.save` to ``.nii.gz`` with its default compression; both files
are read back. Masks are balls of all sizes, as organs are; CPU seconds are compared. The worst case for DICOM, every
segment in every slice of 512x512x300, is `benchmarks.export_dicom`.
"""

from __future__ import annotations

import datetime
import tempfile
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
from highdicom.sr import CodedConcept

from benchmarks import harness
from preprocessing.phantom_dicom import Patient, write_ct_series
from preprocessing.phantom_scan import PhantomOptions, draw_acquisition
from vol3d.export.dicom_common import Algorithm
from vol3d.export.dicom_seg import write_dicom_seg
from vol3d.export.nifti import read_array, write_nifti
from vol3d.export.segments import Segment
from vol3d.export.source_series import SourceSeries, read_source
from vol3d.geometry import Grid
from vol3d.types import Array, Zyx
from vol3d.volume import Volume

ORGAN = CodedConcept("85756007", "SCT", "Tissue")


def main() -> None:
    parser = harness.arguments(__doc__, rounds=3)
    parser.add_argument("--segments", type=int, default=100)
    parser.add_argument("--dicom-shape", type=int, nargs=3, default=[80, 256, 256], metavar=("Z", "Y", "X"))
    parser.add_argument("--nifti-shape", type=int, nargs=3, default=[600, 512, 512], metavar=("Z", "Y", "X"))
    parser.add_argument("--nifti-masks", type=int, default=10, help="timed; the figure is for a mask")
    settings = parser.parse_args()
    bench = harness.Bench("export", settings)
    with tempfile.TemporaryDirectory(dir=settings.out) as folder:
        dicom(bench, Path(folder), tuple(settings.dicom_shape))
        nifti(bench, Path(folder), tuple(settings.nifti_shape))
    bench.write()


def dicom(bench: harness.Bench, folder: Path, shape: Zyx) -> None:
    grid = Grid.from_lps(shape, np.array([[0, 0, 0.8, -200], [0, 0.8, 0, -200], [1.5, 0, 0, 0], [0, 0, 0, 1.0]]))
    acquisition = draw_acquisition(np.random.default_rng(0), PhantomOptions())
    patient = Patient(study_id="bench-0000000001", patient_id="bench", acquisition=acquisition)
    write_ct_series(folder / "ct", Volume(np.zeros(shape, np.int16), grid, "ct"), patient)
    source = read_source(folder / "ct")
    masks = [ball(shape, number) for number in range(bench.settings.segments)]
    paths = {name: folder / f"{name}.dcm" for name in ("vol3d", "highdicom")}
    times = harness.in_turns(
        {
            "vol3d": lambda: ours(paths["vol3d"], source, masks),
            "highdicom": lambda: plainly(paths["highdicom"], source, masks),
        },
        bench.settings.rounds,
        warm_up=0,
    )
    one, other = (hd.seg.segread(paths[name]) for name in ("vol3d", "highdicom"))
    for number in (1, len(masks) // 2, len(masks)):
        stored = [s.get_volume(segment_numbers=[number], combine_segments=False).array[..., 0] for s in (one, other)]
        assert np.array_equal(stored[0], stored[1]), f"segment {number} differs"
    bench.row(f"{len(masks)} segments on {'x'.join(map(str, shape))} to DICOM SEG",
              harness.ratio(times["highdicom"], times["vol3d"], "cpu"), ">= 2", against="highdicom called plainly",
              cpu_seconds=times["vol3d"].median("cpu"), rival_cpu_seconds=times["highdicom"].median("cpu"))  # fmt: skip


def ours(path: Path, source: SourceSeries, masks: list[Array]) -> None:
    segments = [Segment(prompt=f"structure {n}", load=lambda m=mask: m) for n, mask in enumerate(masks)]
    write_dicom_seg(path, source, segments, Algorithm(version="bench", weights_sha256="0" * 64),
                    datetime.datetime(2026, 1, 1))  # fmt: skip


def plainly(path: Path, source: SourceSeries, masks: list[Array]) -> None:
    """As in highdicom's documentation, with one channel a segment."""
    algorithm = hd.AlgorithmIdentificationSequence(name="bench", version="1", family=ORGAN)
    described = [
        hd.seg.SegmentDescription(
            segment_number=n + 1, segment_label=f"structure {n}", segmented_property_category=ORGAN,
            segmented_property_type=ORGAN, algorithm_type="AUTOMATIC", algorithm_identification=algorithm,
        )
        for n in range(len(masks))
    ]  # fmt: skip
    made = hd.seg.Segmentation(
        source_images=source.images, pixel_array=np.stack(masks, axis=-1), segmentation_type="BINARY",
        segment_descriptions=described, series_instance_uid=hd.UID(), series_number=1, sop_instance_uid=hd.UID(),
        instance_number=1, manufacturer="bench", manufacturer_model_name="bench", software_versions="1",
        device_serial_number="1",
    )  # fmt: skip
    made.save_as(path)


def nifti(bench: harness.Bench, folder: Path, shape: Zyx) -> None:
    grid = Grid.from_spacing(shape, (1.0, 0.84, 0.84), (0.0, 0.0, 0.0))
    number = [0]

    def write(name: str) -> None:
        mask_ZYX = masks[number[0] % len(masks)]
        path = folder / f"{name}.nii.gz"
        if name == "vol3d":
            write_nifti(path, mask_ZYX, grid)
        else:
            nib.save(nib.Nifti1Image(mask_ZYX.transpose(2, 1, 0), grid.affine_xyz), path)

    masks = [ball(shape, n) for n in range(3)]
    times = {name: harness.Timing() for name in ("vol3d", "nibabel")}
    for number[0] in range(bench.settings.nifti_masks):
        once = harness.in_turns({name: lambda name=name: write(name) for name in times}, 1, warm_up=0)
        for name, timing in once.items():
            times[name].wall += timing.wall
            times[name].cpu += timing.cpu
    stored = [read_array(folder / f"{name}.nii.gz") for name in times]
    assert np.array_equal(stored[0], stored[1]), "the masks differ"
    sizes = {name: (folder / f"{name}.nii.gz").stat().st_size for name in times}
    bench.row(f"a mask on {'x'.join(map(str, shape))} to .nii.gz (100 take 100 times that)",
              harness.ratio(times["nibabel"], times["vol3d"], "cpu"), ">= 2", against="nibabel with default gzip",
              cpu_seconds=times["vol3d"].median("cpu"), rival_cpu_seconds=times["nibabel"].median("cpu"),
              bytes=sizes["vol3d"], rival_bytes=sizes["nibabel"])  # fmt: skip


def ball(shape: Zyx, seed: int) -> Array:
    """uint8, somewhere, with a tenth to a fifth of the field of view as its radius."""
    rng = np.random.default_rng(seed)
    centre, radius = rng.uniform(0.25, 0.75, 3), rng.uniform(0.05, 0.2)
    axes = [((np.arange(n) / n - c) / radius) ** 2 for n, c in zip(shape, centre, strict=True)]
    z, y, x = axes
    return (z[:, None, None] + y[None, :, None] + x[None, None, :] < 1).astype(np.uint8)


if __name__ == "__main__":
    main()

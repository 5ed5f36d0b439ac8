"""Time and memory of a DICOM SEG with many segments on a large grid.

    python benchmarks/export_dicom.py --segments 100 --shape 300 512 512

Masks are compressed NIfTI files, as `vol3d segment` writes them, and every segment reaches through all slices, so that
BINARY has segments x slices frames: the worst case. Each kind runs in a process of its own. Prints JSON: seconds from
the files to the finished object, peak memory of the process, size of the object, and what `highdicom` reads back.
"""

from __future__ import annotations

import argparse
import datetime
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import highdicom
import numpy as np

from preprocessing.phantom_dicom import Patient, write_ct_series
from preprocessing.phantom_scan import PhantomOptions, draw_acquisition
from vol3d.export.dicom_common import Algorithm
from vol3d.export.dicom_seg import write_dicom_seg
from vol3d.export.nifti import write_nifti
from vol3d.export.segments import Segment
from vol3d.export.source_series import read_source
from vol3d.geometry import Grid
from vol3d.volume import Volume
from vol3d.workflows.segment import read_array


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--segments", type=int, default=100)
    parser.add_argument("--shape", type=int, nargs=3, default=[300, 512, 512], metavar=("Z", "Y", "X"))
    parser.add_argument("--child", choices=["binary", "labelmap", "overlap"])
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.folder, args.child)))
        return
    with tempfile.TemporaryDirectory(prefix="vol3d-bench-") as folder:
        prepare(Path(folder), args.segments, tuple(args.shape))
        result = {}
        for kind in ("binary", "labelmap", "overlap"):
            command = [sys.executable, __file__, "--child", kind, "--folder", folder]
            result[kind] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(json.dumps({"segments": args.segments, "shape": args.shape, **result}, indent=2))


def prepare(folder: Path, segments: int, shape: tuple[int, int, int]) -> None:
    """A CT series and one mask a segment: columns through all slices, side by side."""
    grid = Grid.from_lps(shape, np.array([[0, 0, 0.8, -200], [0, 0.8, 0, -200], [1.5, 0, 0, 0], [0, 0, 0, 1.0]]))
    acquisition = draw_acquisition(np.random.default_rng(0), PhantomOptions())
    patient = Patient(study_id="bench-0000000001", patient_id="bench", acquisition=acquisition)
    write_ct_series(folder / "ct", Volume(np.zeros(shape, np.int16), grid, "ct"), patient)
    side = int(np.ceil(np.sqrt(segments)))
    height, width = shape[1] // side, shape[2] // side
    (folder / "masks").mkdir()
    for number in range(segments):
        mask = np.zeros(shape, np.uint8)
        y, x = number // side * height, number % side * width
        mask[:, y : y + height - 2, x : x + width - 2] = 1
        write_nifti(folder / "masks" / f"{number:03d}.nii.gz", mask, grid)


def measure(folder: Path, kind: str) -> dict[str, float | int | str]:
    """Writes the object from the files; `overlap` adds a segment that covers all others."""
    paths = sorted((folder / "masks").glob("*.nii.gz"))
    start = time.perf_counter()
    source = read_source(folder / "ct")
    segments = [Segment(prompt=f"phrase number {path.stem}", load=lambda p=path: read_array(p)) for path in paths]
    if kind == "overlap":
        segments[-1] = Segment(prompt="all", load=lambda: np.ones(source.grid.shape, bool))
    algorithm = Algorithm(version="bench", weights_sha256="0" * 64)
    out = folder / f"{kind}.dcm"
    made = write_dicom_seg(out, source, segments, algorithm, datetime.datetime(2026, 1, 1), labelmap=kind == "labelmap")
    seconds = time.perf_counter() - start
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    stored = highdicom.seg.segread(out, lazy_frame_retrieval=True)
    return {
        "kind": made.kind,
        "seconds": round(seconds, 1),
        "peak_gb": round(peak_gb, 2),
        "file_mb": round(out.stat().st_size / 1e6, 1),
        "frames": int(stored.NumberOfFrames),
        "segments_read_back": len(stored.segment_numbers),
    }


if __name__ == "__main__":
    main()

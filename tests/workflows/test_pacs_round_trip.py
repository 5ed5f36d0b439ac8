"""A real CT asked, exported, stored in a PACS, fetched back: the same voxels as the NIfTI masks."""

import json
import shutil

import highdicom as hd
import numpy as np
import pydicom
import pytest

from vol3d.export.nifti import read_array
from vol3d.export.source_series import read_source

PROMPTS = ["liver", "left kidney", "a phrase that is longer than the sixty-four bytes which a Segment Label can hold"]


@pytest.fixture(scope="module")
def real(vol3d, tiny, tmp_path_factory, data_dir):
    """Answers on a real series by the tiny model, with thresholds at which even that finds something."""
    out = tmp_path_factory.mktemp("real")
    shutil.copytree(tiny.run, out / "run", ignore=shutil.ignore_patterns("checkpoints"))
    for path in (out / "run").glob("*/checkpoint.json"):
        record = json.loads(path.read_text())
        record["calibration"] |= {"presence_threshold": 0.0, "mask_threshold": 0.3}
        path.write_text(json.dumps(record))
    series = data_dir / "totalsegmentator" / "example_ct_dicom"
    prompts = [part for p in PROMPTS for part in ("--prompt", p)]
    assert vol3d("segment", out / "run", series, *prompts, "--out", out) == 0
    return out / series.name, series


def overlaps(path, folder, grid):
    """Dice of each segment of a SEG, read by highdicom, with the NIfTI mask of its number."""
    stored = hd.seg.segread(path)
    answers = json.loads((folder / "segmentation.json").read_text())["answers"]
    numbers = stored.segment_numbers
    assert [stored.get_segment_description(n).SegmentDescription for n in numbers] == [a["prompt"] for a in answers]
    volume = stored.get_volume(combine_segments=False, segment_numbers=numbers, allow_missing_positions=True)
    first = round(float(grid.mm_to_index(volume.affine[:3, 3] * (-1, -1, 1))[0]))
    found = np.zeros((*grid.shape, len(numbers)), bool)
    found[first - np.arange(len(volume.array))] = volume.array > 0  # highdicom's slices run against the normal
    masks = np.stack([read_array(folder / a["file"]) > 0 for a in answers], axis=-1)
    assert masks.any(axis=(0, 1, 2)).sum() >= 2
    sums = found.sum(axis=(0, 1, 2)) + masks.sum(axis=(0, 1, 2))
    return [1.0 if not s else 2 * np.sum(found[..., i] & masks[..., i]) / s for i, s in enumerate(sums)]


@pytest.mark.parametrize(("way", "more"), [("dicom", []), ("web", []), ("web", ["--labelmap"])])
def test_what_the_pacs_gives_back_is_what_was_segmented(vol3d, real, orthanc, tmp_path, capsys, way, more):
    folder, series = real
    sent, back, url = tmp_path / "sent", tmp_path / "back", getattr(orthanc, way)
    assert vol3d("export", "dicom-seg", folder, "--source", series, "--out", sent, *more) == 0
    seg = pydicom.dcmread(sent / "seg.dcm")
    assert vol3d("send", sent, "--to", url) == 0
    assert "1 sent" in capsys.readouterr().out
    assert vol3d("fetch", "--from", url, "--study", seg.StudyInstanceUID, "--out", back) == 0
    fetched = back / seg.SeriesInstanceUID / f"{seg.SOPInstanceUID}.dcm"
    assert [p for p in back.rglob("*") if p.is_file()] == [fetched]
    assert overlaps(fetched, folder, read_source(series).grid) == [1.0] * len(PROMPTS)
    assert pydicom.dcmread(fetched).SegmentationType == ("BINARY" if not more else seg.SegmentationType)

"""`vol3d export` on what `vol3d segment` wrote, and on answers whose masks are known."""

import json
import logging
import os
import shutil
from pathlib import Path

import highdicom as hd
import nibabel
import numpy as np
import pydicom
import pytest

from vol3d.export.nifti import read_array, write_nifti
from vol3d.export.source_series import read_source
from vol3d.geometry import Grid
from vol3d.measure import diameters, volume_ml

PROMPTS = ["left kidney", "nodule in the right lung", "FDG-avid lesion of the liver"]


def study_of(tiny, number=0):
    row = json.loads(Path(tiny.manifest).read_text().splitlines()[number])
    return tiny.manifest.parent / row["study_id"]


@pytest.fixture(scope="module")
def answered(tiny, vol3d, tmp_path_factory):
    """Real answers, with two masks drawn over: the tiny model finds little."""
    out = tmp_path_factory.mktemp("answered")
    study = study_of(tiny)
    options = [part for p in PROMPTS for part in ("--prompt", p)]
    assert vol3d("segment", tiny.run, study, *options, "--out", out) == 0
    folder = out / study.name
    record = json.loads((folder / "segmentation.json").read_text())
    grid = read_source(study / "ct").grid
    masks = [np.zeros(grid.shape, np.uint8) for _ in PROMPTS]
    masks[0][2:6, 5:15, 8:20] = 1
    masks[1][4:9, 10:13, 10:30] = 1
    states = ["present", "present", "absent"]
    suv = [{"suv_max": 4.5, "suv_mean": 2.25, "suv_peak": 3.5, "tlg_g": 12.5}, {}, {}]
    for answer, mask, state, more in zip(record["answers"], masks, states, suv, strict=True):
        answer |= {"state": state, "probability": 0.875} | more
        write_nifti(folder / answer["file"], mask, grid)
    (folder / "segmentation.json").write_text(json.dumps(record))
    return folder, study / "ct", masks, grid


def of_nobody(folder, out):
    """A copy of the answers as they are for NIfTI, which names no patient."""
    shutil.copytree(folder, out)
    record = json.loads((out / "segmentation.json").read_text())
    record["patient"]["header"] = None
    (out / "segmentation.json").write_text(json.dumps(record))
    return out


def test_segment_states_every_suv_figure(tiny, answered):
    record = json.loads((answered[0] / "segmentation.json").read_text())
    assert {"suv_max", "suv_mean", "suv_peak", "tlg_g"} <= set(record["answers"][2])


def test_seg_and_its_sidecar(vol3d, answered, tmp_path, capsys):
    folder, ct, masks, grid = answered
    assert vol3d("export", "dicom-seg", folder, "--source", ct, "--out", tmp_path) == 0
    shown = capsys.readouterr()
    assert "1 of 3 segments are empty: FDG-avid lesion of the liver (absent)" in shown.err
    assert shown.out.split() == [str(tmp_path / "seg.dcm"), str(tmp_path / "seg.json")]
    stored = hd.seg.segread(tmp_path / "seg.dcm")
    sidecar = json.loads((tmp_path / "seg.json").read_text())
    assert sidecar["sop_instance_uid"] == stored.SOPInstanceUID
    assert [s["voxels"] for s in sidecar["segments"]] == [int(m.sum()) for m in masks]
    assert [s["prompt"] for s in sidecar["segments"]] == PROMPTS
    volume = stored.get_volume(combine_segments=False, segment_numbers=[1, 2])
    first = grid.mm_to_index(volume.affine[:3, 3] * (-1, -1, 1))
    planes = round(float(first[0])) - np.arange(len(volume.array))
    for i in range(2):
        found = np.zeros(grid.shape, np.uint8)
        found[planes] = volume.array[..., i]
        assert np.array_equal(found, masks[i])
    record = json.loads((folder / "segmentation.json").read_text())
    model = stored.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert record["provenance"]["weights_sha256"] in model.AlgorithmParameters
    assert "probability=0.875" in model.AlgorithmParameters
    before = (tmp_path / "seg.dcm").read_bytes()
    shutil.copytree(folder, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "segmentation.json", (1, 1))  # copied without its time: still the same object
    assert vol3d("export", "dicom-seg", tmp_path / "copy", "--source", ct.parent, "--out", tmp_path) == 0
    assert (tmp_path / "seg.dcm").read_bytes() == before


def test_labelmap_where_possible(vol3d, answered, tmp_path, capsys):
    folder, ct, masks, _ = answered
    assert (masks[0] & masks[1]).any()
    assert vol3d("export", "dicom-seg", folder, "--source", ct, "--labelmap", "--out", tmp_path) == 0
    assert "written as BINARY" in capsys.readouterr().err
    assert pydicom.dcmread(tmp_path / "seg.dcm").SegmentationType == "BINARY"


def test_sr_measures_the_masks(vol3d, answered, tmp_path, capsys):
    folder, ct, masks, grid = answered
    assert vol3d("export", "dicom-sr", folder, "--source", ct, "--out", tmp_path) == 0
    assert "--pet" in capsys.readouterr().err
    groups = hd.sr.srread(tmp_path / "sr.dcm").content.get_volumetric_roi_measurement_groups()
    numbers = [
        {(m.name.meaning, m.derivation.meaning if m.derivation else ""): m.value for m in g.get_measurements()}
        for g in groups
    ]
    for mask, found in zip(masks, numbers, strict=False):
        assert found["Volume", ""] == pytest.approx(volume_ml(mask, grid), rel=1e-6)
        assert found["Long axis", ""] == pytest.approx(diameters(mask, grid).axial_long_mm, rel=1e-6)
    assert numbers[0]["SUVbw", "Maximum"] == 4.5
    assert numbers[0]["Total Lesion Glycolysis", ""] == 12.5
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    assert groups[0].referenced_segment.referenced_sop_instance_uid == seg.SOPInstanceUID
    assert vol3d("export", "dicom-sr", folder, "--source", ct, "--pet", ct.parent / "pet", "--out", tmp_path) == 0
    assert "--pet" not in capsys.readouterr().err


def test_rtstruct_meshes_and_label_map(vol3d, answered, tmp_path, capsys):
    folder, ct, masks, grid = answered
    assert vol3d("export", "dicom-rtstruct", folder, "--source", ct, "--out", tmp_path) == 0
    contours = pydicom.dcmread(tmp_path / "rtstruct.dcm").ROIContourSequence
    assert [len(c.get("ContourSequence", [])) for c in contours] == [4, 5, 0]
    assert vol3d("export", "mesh", folder, "--out", tmp_path / "mesh") == 0
    assert "no mesh of 'FDG-avid lesion of the liver'" in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "mesh").iterdir()) == [
        "01-left-kidney.stl", "02-nodule-in-the-right-lung.stl",
    ]  # fmt: skip
    assert vol3d("export", "nifti", folder, "--out", tmp_path) == 0
    labels = nibabel.load(tmp_path / "labels.nii.gz")
    assert Grid.from_xyz(labels.shape, labels.affine).same_as(grid, 1e-3)
    array = read_array(tmp_path / "labels.nii.gz")
    assert np.array_equal(array > 0, (masks[0] | masks[1]) > 0)


def test_reports(vol3d, answered, tmp_path, capsys):
    folder, ct, _, _ = answered
    (tmp_path / "words.txt").write_text("FINDINGS: a nodule.\nIMPRESSION: one nodule.\n", encoding="utf-8")
    common = ["--source", ct, "--text", tmp_path / "words.txt", "--out", tmp_path]
    assert vol3d("export", "report", folder, *common) == 0
    assert pydicom.dcmread(tmp_path / "report-sr.dcm").ContentSequence[-1].ContentSequence[0].TextValue == "one nodule."
    assert vol3d("export", "report", folder, *common, "--pdf") == 0
    assert pydicom.dcmread(tmp_path / "report-pdf.dcm").EncapsulatedDocument.startswith(b"%PDF")
    (tmp_path / "alone").mkdir()
    shutil.copy(tmp_path / "words.txt", tmp_path / "alone" / "report.txt")  # a report needs no masks
    assert vol3d("export", "report", tmp_path / "alone", "--source", ct) == 0
    assert (tmp_path / "alone" / "dicom" / "report-sr.dcm").exists()


def test_mistakes_are_explained(vol3d, answered, tiny, tmp_path, capsys):
    folder, ct, _, _ = answered
    other = study_of(tiny, 1) / "ct"
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "masks" / "02-nodule-in-the-right-lung.nii.gz").unlink()
    unknown = of_nobody(folder, tmp_path / "unknown")
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    (nothing / "segmentation.json").write_text("{}")
    cases = [
        (["dicom-seg", folder], "expected --source"),
        (["dicom-seg", folder.parent, "--source", ct], f"it holds the studies {folder.name}"),
        (["dicom-seg", tmp_path / "nowhere", "--source", ct], "expected a study's folder"),
        (["dicom-seg", folder, "--source", other], "found another Patient ID"),
        (["dicom-seg", unknown, "--source", other], "grid of the source series"),
        (["dicom-seg", folder, "--source", ct.parent / "pet"], "expected a CT series"),
        (["dicom-seg", folder, "--source", tmp_path / "nowhere"], "found nothing"),
        (["dicom-seg", broken, "--source", ct], "segment the study again"),
        (["nifti", nothing], "segment the study again"),
        (["report", folder, "--source", ct], "--text"),
    ]
    for arguments, message in cases:
        assert vol3d("export", *arguments, "--out", tmp_path / "out") == 1, arguments
        shown = capsys.readouterr().err
        assert message in shown, (arguments, shown)
        assert "Traceback" not in shown


def test_masks_cut_short_are_told(vol3d, answered, tmp_path, capsys):
    folder, ct, _, _ = answered
    copy = tmp_path / folder.name
    shutil.copytree(folder, copy)
    path = copy / json.loads((folder / "segmentation.json").read_text())["answers"][0]["file"]
    whole = path.read_bytes()
    for kept in (len(whole) - 20, 0):
        path.write_bytes(whole[:kept])
        for kind in ("mesh", "nifti", "dicom-seg"):
            assert vol3d("export", kind, copy, "--source", ct, "--out", tmp_path / "out") == 1
            shown = capsys.readouterr().err
            assert f"expected a whole NIfTI file at {path}, found {kept} bytes that cannot be read" in shown
            assert "Traceback" not in shown


def test_names_of_patients_stay_out_of_the_logs(vol3d, answered, tmp_path, capsys, caplog):
    folder, ct, _, _ = answered
    secret = tmp_path / "series"
    shutil.copytree(ct, secret)
    for path in secret.iterdir():
        dataset = pydicom.dcmread(path)
        dataset.PatientName, dataset.PatientID = "Secretname^X", "secret-id"
        dataset.save_as(path)
    caplog.set_level(logging.DEBUG)
    assert vol3d("export", "dicom-seg", folder, "--source", secret, "--out", tmp_path) == 1
    assert "found another Patient ID" in capsys.readouterr().err
    folder = of_nobody(folder, tmp_path / "answers")
    for kind in ("dicom-seg", "dicom-sr", "dicom-rtstruct"):
        assert vol3d("export", kind, folder, "--source", secret, "--out", tmp_path) == 0
    (tmp_path / "words.txt").write_text("FINDINGS: none.")
    more = ["--text", tmp_path / "words.txt", "--pdf", "--out", tmp_path]
    assert vol3d("export", "report", folder, "--source", secret, *more) == 0
    shown = "".join(capsys.readouterr()) + caplog.text
    assert "glyph" not in shown.lower()  # fontTools tells the letters of a page, the patient's name among them
    assert "secret" not in shown.lower().replace(str(tmp_path).lower(), "")
    for name in ("seg", "sr", "rtstruct"):
        assert str(pydicom.dcmread(tmp_path / f"{name}.dcm").PatientName) == "Secretname^X"

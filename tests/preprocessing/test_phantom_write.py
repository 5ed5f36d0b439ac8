"""Phantoms on disk: the same bytes for a seed, SUV by hand from the DICOM, and back through the readers."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

from preprocessing.manifest import Row, read_manifest
from preprocessing.phantom import PhantomOptions, PhantomStudy, generate_study, write_phantoms
from preprocessing.phantom_dicom import Patient, write_ct_series
from preprocessing.reading import read_image, read_mask
from vol3d.errors import ConfigError, GeometryError

TINY = PhantomOptions(ct_spacing_mm=(6.0, 7.0), pet_spacing_mm=((7.0, 7.0, 7.0),), views=("chest", "abdomen"))


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@pytest.mark.parametrize("file_format", ["nifti", "dicom"])
def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_studies(tmp_path: Path, file_format: str):
    calls: list[int] = []
    write_phantoms(tmp_path / "a", 2, 3, file_format, options=TINY, progress=calls.append)
    write_phantoms(tmp_path / "b", 1, 3, file_format, options=TINY)
    write_phantoms(tmp_path / "c", 1, 4, file_format, options=TINY)
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert calls == [1, 2]
    shared = [name for name in b if name != "manifest.jsonl"]
    assert len(shared) > 8
    assert all(a[name] == b[name] for name in shared)
    lines = [(tmp_path / name / "manifest.jsonl").read_text().splitlines() for name in "ab"]
    assert lines[0][0] == lines[1][0]
    assert not set(c.values()) & set(b.values())


def test_worker_processes_write_the_same_study(tmp_path: Path):
    one = write_phantoms(tmp_path / "one", 2, 9, options=TINY)
    two = write_phantoms(tmp_path / "two", 2, 9, options=TINY, workers=2)
    assert digests(one.parent) == digests(two.parent)


@pytest.fixture(scope="module")
def dicom(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[PhantomStudy]]:
    out = tmp_path_factory.mktemp("dicom")
    options = replace(TINY, orientation="oblique", lesions=(2, 3))
    write_phantoms(out, 2, 6, "dicom", options=options)
    return out, [generate_study(i, 6, file_format="dicom", options=options) for i in range(2)]


def seconds(time: str) -> float:
    return 3600 * int(time[:2]) + 60 * int(time[2:4]) + float(time[4:])


def test_dicom_suv_comes_back_by_the_formula(dicom: tuple[Path, list[PhantomStudy]]):
    """SUVbw = Bq/ml * weight in g / (dose * 2 ^ (-(series time - injection) / half-life)), PS3.3 C.8.9.1."""
    out, studies = dicom
    for study in studies:
        assert study.pet is not None
        suv = study.pet.array_ZYX
        slices = [pydicom.dcmread(p) for p in sorted((out / study.row["pet"]).iterdir())]
        assert [int(ds.InstanceNumber) for ds in slices] == list(range(1, len(suv) + 1))
        assert len({ds.RescaleSlope for ds in slices}) > 5
        for k, ds in enumerate(slices):
            assert (ds.Units, ds.DecayCorrection) == ("BQML", "START")
            assert {"ATTN", "DECY"} <= set(ds.CorrectedImage)
            info = ds.RadiopharmaceuticalInformationSequence[0]
            waited = seconds(ds.SeriesTime) - seconds(info.RadiopharmaceuticalStartTime)
            dose = float(info.RadionuclideTotalDose) * 2 ** (-waited / float(info.RadionuclideHalfLife))
            bq = ds.pixel_array * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
            found = bq * float(ds.PatientWeight) * 1000 / dose
            np.testing.assert_allclose(found, suv[k], atol=float(suv[k].max()) / 32766 * 0.51 + 1e-6)
        assert len({ds.AcquisitionTime for ds in slices}) >= 2  # beds: the later ones must not shift the decay


def test_dicom_series_are_legal_stacks_in_one_frame_of_reference(dicom: tuple[Path, list[PhantomStudy]]):
    out, studies = dicom
    for study in studies:
        frames, instances = set(), set()
        for name, volume in (("ct", study.ct), ("pet", study.pet)):
            assert volume is not None
            slices = [pydicom.dcmread(p) for p in sorted((out / study.row[name]).iterdir())]
            row, column = np.array(slices[0].ImageOrientationPatient, float).reshape(2, 3)
            step = np.diff([np.array(ds.ImagePositionPatient, float) for ds in slices], axis=0)
            expected = np.cross(row, column) * volume.grid.spacing_mm[0]
            np.testing.assert_allclose(step, np.broadcast_to(expected, step.shape), atol=1e-4)
            frames |= {ds.FrameOfReferenceUID for ds in slices}
            instances |= {ds.SOPInstanceUID for ds in slices}
        assert len(frames) == 1
        assert len(instances) == study.ct.grid.shape[0] + study.pet.grid.shape[0]  # type: ignore[union-attr]


@pytest.mark.parametrize("file_format", ["nifti", "dicom"])
def test_the_readers_give_back_what_was_generated(tmp_path: Path, file_format: str):
    manifest = write_phantoms(tmp_path, 2, 8, file_format, options=TINY)  # type: ignore[arg-type]
    for index, row in enumerate(read_manifest(manifest)):
        assert isinstance(row, Row), row
        study = generate_study(index, 8, file_format=file_format, options=TINY)  # type: ignore[arg-type]
        for name, volume in (("ct", study.ct), ("pet", study.pet)):
            assert volume is not None
            reading = read_image(getattr(row, name), name)
            back, true = reading.volume.to_orientation("SAR"), volume.to_orientation("SAR")
            assert back.grid.same_as(true.grid, 0.01)
            tolerance = 0 if name == "ct" else float(true.array_ZYX.max()) / 32766 if file_format == "dicom" else 1e-6
            np.testing.assert_allclose(back.array_ZYX, true.array_ZYX, atol=tolerance)
        for mask in row.masks:
            assert mask.label is not None
            volume = read_mask(mask.path).volume
            assert volume.grid.same_as(study.ct.grid, 0.01)
            np.testing.assert_array_equal(volume.array_ZYX.astype(bool), study.masks[mask.label])


def test_a_left_handed_stack_is_refused(tmp_path: Path):
    study = generate_study(0, 6, file_format="dicom", options=TINY)
    patient = Patient(study_id=study.study_id, patient_id="x", acquisition=study.acquisition)
    with pytest.raises(GeometryError, match="right-handed stack"):
        write_ct_series(tmp_path / "ct", study.ct.flip((0,)), patient)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ({"studies": 0}, "studies >= 1"),
        ({"file_format": "analyze"}, "nifti or dicom"),
        ({"kind": "mr"}, "petct, ct or mixed"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, arguments: dict, fragment: str):
    with pytest.raises(ConfigError, match=fragment):
        write_phantoms(tmp_path, **{"studies": 1, "seed": 1, **arguments})

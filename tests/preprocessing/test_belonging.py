"""CT and PET of different patients or coordinate systems."""

from pathlib import Path

import pydicom
import pytest

from preprocessing.manifest import Row
from preprocessing.options import ReadOptions
from preprocessing.phantom import write_phantoms
from preprocessing.study import build_entry
from preprocessing.transforms import PreprocessConfig
from vol3d.errors import GeometryError, ReadError

RECIPE = PreprocessConfig(
    spacing_mm=(12.0, 12.0, 12.0), extent="union", body_crop=False, body_margin_mm=0.0, levels=1, chunk=32
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom")
    write_phantoms(folder, 1, 3, file_format="dicom")
    return next(p for p in folder.iterdir() if p.is_dir())


def changed(study, out, **tags):
    """The study's PET under other tags."""
    (out / "pet").mkdir()
    for path in (study / "pet").iterdir():
        dataset = pydicom.dcmread(path)
        for keyword, value in tags.items():
            setattr(dataset, keyword, value)
        dataset.save_as(out / "pet" / path.name)
    return out / "pet"


def row(study, pet: Path, **options):
    reading = ReadOptions(**options) if options else None
    return Row(study_id="a", patient_id="a", ct=study / "ct", pet=pet, reading=reading)


def test_one_study_is_taken(study):
    entry = build_entry(row(study, study / "pet"), RECIPE)
    assert set(entry.images) == {"ct", "pet"}
    assert not any("frames" in note for note in entry.attributes["notes"]["pet"])


def test_two_patients_are_refused_and_not_named(study, tmp_path):
    with pytest.raises(ReadError, match="one patient, found two Patient IDs") as caught:
        build_entry(row(study, changed(study, tmp_path, PatientID="somebody else")), RECIPE)
    assert "somebody" not in str(caught.value)


def test_two_frames_of_reference_are_refused_unless_they_were_registered(study, tmp_path):
    pet = changed(study, tmp_path, FrameOfReferenceUID="1.2.3")
    with pytest.raises(GeometryError, match=r"one Frame of Reference .* found two"):
        build_entry(row(study, pet), RECIPE)
    entry = build_entry(row(study, pet, frames="registered"), RECIPE)
    assert entry.attributes["notes"]["pet"][-1] == "two frames of reference, taken as one: registered"


def test_what_a_header_lacks_says_nothing(study, tmp_path):
    assert build_entry(row(study, changed(study, tmp_path, FrameOfReferenceUID="", PatientID="")), RECIPE)

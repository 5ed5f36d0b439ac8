"""A study's own file of choices, from the manifest row or the folder to the notes of its cache entry."""

import json

import numpy as np
import pytest

from preprocessing.manifest import BadRow, read_manifest
from preprocessing.options import PetSupplement, ReadOptions, load_options
from preprocessing.reading import read_image
from preprocessing.study import build_entry, fingerprint
from preprocessing.transforms import PreprocessConfig
from vol3d.errors import ConfigError, GeometryError
from vol3d.workflows.inputs import studies_in

RECIPE = PreprocessConfig(
    spacing_mm=(8.0, 8.0, 8.0), extent="union", body_crop=False, body_margin_mm=0.0, levels=1, chunk=32
)
BOTH = "tilt: correct\nspacing: resample\n"


def test_complete_file(tmp_path):
    text = BOTH + 'pet:\n  weight_kg: 71\n  height_m: 1.63\n  sex: F\n  dose_bq: 3.8e8\n  injected: "10:35:00"\n'
    (tmp_path / "a.yaml").write_text(text)
    found = load_options(tmp_path / "a.yaml")
    assert (found.tilt, found.spacing) == ("correct", "resample")
    assert found.pet.attributes() == {
        "PatientWeight": 71.0, "PatientSize": 1.63, "PatientSex": "F", "RadionuclideTotalDose": 3.8e8,
        "RadiopharmaceuticalStartTime": "103500", "RadiopharmaceuticalStartDateTime": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tlit: correct", "unknown key 'tlit'; did you mean 'tilt'"),
        ("tilt: yes", "one of 'refuse', 'correct'"),
        ("pet: {weight: 70}", "unknown key 'weight'"),
        ("pet: {injected: 10:35:00}", "a time in quotes"),  # YAML 1.1 reads a number in base 60
    ],
)
def test_mistakes(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_options(tmp_path / "a.yaml")


def test_mistake_quarantines_one_row(tmp_path, data_dir):
    (tmp_path / "a.yaml").write_text("tlit: correct")
    row = {"study_id": "a", "ct": str(data_dir / "hard/dicom/philips_untilted"), "reading": "a.yaml"}
    (tmp_path / "m.jsonl").write_text(json.dumps(row))
    (bad,) = read_manifest(tmp_path / "m.jsonl")
    assert isinstance(bad, BadRow)
    assert "did you mean 'tilt'" in bad.reason


def test_tilted_real_head_from_manifest_to_entry(tmp_path, data_dir):
    """18.5 degrees and steps of 4.0, 7.0 and 1.08 mm: refused, and loaded where both repairs are asked for."""
    folder = data_dir / "hard/dicom/ge_tilt_variable_spacing"
    for options, fault in ((ReadOptions(tilt="correct"), "variable"), (ReadOptions(spacing="resample"), "tilt")):
        with pytest.raises(GeometryError, match=fault):
            read_image(folder, "ct", options=options)
    (tmp_path / "reading.yaml").write_text(BOTH)
    rows = [{"study_id": name, "ct": str(folder)} for name in "ab"]
    (tmp_path / "m.jsonl").write_text(
        "\n".join(json.dumps(r) for r in (rows[0], rows[1] | {"reading": "reading.yaml"}))
    )
    plain, repaired = read_manifest(tmp_path / "m.jsonl")
    with pytest.raises(GeometryError, match="gantry tilt"):
        build_entry(plain, RECIPE)
    entry = build_entry(repaired, RECIPE)
    notes = " ".join(entry.attributes["notes"]["ct"])
    assert "gantry tilt of 18.50 degrees corrected by linear shear" in notes
    assert "steps of 4.00 (13x), 7.00 (13x), 1.08 (1x) mm resampled linearly to 4" in notes
    assert entry.attributes["slice_numbers"]["ct"] is None
    assert fingerprint(repaired, RECIPE) != fingerprint(plain, RECIPE)
    grid = entry.source_grids["ct"]
    assert grid.spacing_mm[0] == pytest.approx(4.0, rel=0.03)
    # the head stays where it is: centre of mass of bone, in mm of the patient, from the files and from the repair
    import pydicom

    places, total = [], 0
    for file in folder.iterdir():
        d = pydicom.dcmread(file)
        y, x = np.nonzero(d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) > 300)
        row, column = np.array(d.ImageOrientationPatient[:3]), np.array(d.ImageOrientationPatient[3:])
        at = (
            np.array(d.ImagePositionPatient)
            + np.outer(x, row) * d.PixelSpacing[1]
            + np.outer(y, column) * d.PixelSpacing[0]
        )
        places.append(at[:, :2].sum(axis=0))
        total += len(at)
    ours = read_image(folder, "ct", options=ReadOptions(tilt="correct", spacing="resample")).volume
    bone = ours.grid.index_to_mm(np.argwhere(ours.array_ZYX > 300)).mean(axis=0)
    # slices lie denser in one half of the files than in the even volume, so only left-right is the same
    assert bone[0] == pytest.approx(-np.sum(places, axis=0)[0] / total, abs=1.0)


def test_study_folder(tmp_path, data_dir):
    (tmp_path / "ct").symlink_to(data_dir / "hard/dicom/philips_untilted")
    (plain,) = studies_in(tmp_path)
    (tmp_path / "reading.yaml").write_text(BOTH)
    (found,) = studies_in(tmp_path)
    assert (plain.reading, found.reading) == (None, ReadOptions(tilt="correct", spacing="resample"))
    a, b = (read_image(plain.ct, "ct", options=o) for o in (ReadOptions(), found.reading))
    np.testing.assert_array_equal(a.volume.array_ZYX, b.volume.array_ZYX)  # a sound series is not touched
    assert a.notes == b.notes


@pytest.mark.parametrize("page", ["dicom-geometry", "suv"])
def test_files_in_the_docs_are_read(tmp_path, page):
    from pathlib import Path

    text = (Path(__file__).parents[2] / f"docs/how-to/{page}.md").read_text()
    blocks = text.split("```yaml\n")[1:]
    assert blocks
    for block in blocks:
        (tmp_path / "a.yaml").write_text(block.split("```")[0])
        assert load_options(tmp_path / "a.yaml") != ReadOptions()


@pytest.mark.parametrize("time", ["2024-01-31T10:35:00", "2024-01-31 10:35", "2024-01-31 10:35:00.5"])
def test_forms_of_a_time(time):
    found = PetSupplement(injected=time).attributes()["RadiopharmaceuticalStartDateTime"]
    assert str(found).startswith("202401311035")


@pytest.mark.parametrize("time", ["99:99:99", "10:61", "1035.5", "24:00:00", "31.1. 10:35"])
def test_no_times(time):
    with pytest.raises(ConfigError, match="injected: expected"):
        ReadOptions(pet=PetSupplement(injected=time))

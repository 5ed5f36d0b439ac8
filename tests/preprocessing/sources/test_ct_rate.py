import logging

import numpy as np
import pytest

from preprocessing.sources import ct_rate
from vol3d.errors import ManifestError

REPORTS = "VolumeName,ClinicalInformation_EN,Technique_EN,Findings_EN,Impressions_EN"
META = (
    "VolumeName,PatientSex,PatientAge,ManufacturerModelName,ConvolutionKernel,XYSpacing,RescaleIntercept,RescaleSlope,"
    "NumberofSlices,ZSpacing,StudyDate"
)
SPACING = '"[5.0, 5.0]"'


def meta(name, kernel="B30f", intercept=-1024, spacing=SPACING, slices=24, z=4.0):
    return f"{name},F,056Y,Definition,{kernel},{spacing},{intercept},1,{slices},{z},20200101"


@pytest.fixture
def folder(tmp_path, make):
    """Two scans of a patient in training, one with two reconstructions; one scan of the published validation set."""
    root = tmp_path / "CT-RATE" / "dataset"
    for name in ("train_1_a_1", "train_1_a_2", "train_1_b_1"):
        make.ct(root / "train_fixed" / "train_1" / name[:-2] / f"{name}.nii.gz")
    make.ct(root / "valid_fixed" / "valid_1" / "valid_1_a" / "valid_1_a_1.nii.gz", make.chest() + 1024)
    names = ["train_1_a_1", "train_1_a_2", "train_1_b_1"]
    make.csv(
        root / "radiology_text_reports" / "train_reports.csv", REPORTS,
        *(f'{n}.nii.gz,Cough.,Not given.,"Heart is enlarged, no effusion.",Cardiomegaly.' for n in names),
    )  # fmt: skip
    make.csv(
        root / "radiology_text_reports" / "validation_reports.csv", REPORTS,
        "valid_1_a_1.nii.gz,,,Normal.,Not given.", "valid_9_a_1.nii.gz,,,Normal.,",
    )  # fmt: skip
    labels = ["VolumeName,Cardiomegaly,Pericardial effusion", *(f"{n}.nii.gz,1,0" for n in names)]
    make.csv(root / "multi_abnormality_labels" / "train_predicted_labels.csv", *labels)
    make.csv(
        root / "metadata" / "train_metadata.csv", META, meta("train_1_a_1.nii.gz", "B70f"), meta("train_1_a_2.nii.gz"),
        meta("train_1_b_1.nii.gz"),
    )  # fmt: skip
    make.csv(root / "metadata" / "validation_metadata.csv", META, meta("valid_1_a_1.nii.gz"))
    return root.parent


def test_rows(folder, caplog):
    with caplog.at_level(logging.WARNING, "vol3d"):
        rows = {row["study_id"]: row for row in ct_rate.rows(folder)}
    assert set(rows) == {"train_1_a", "train_1_b", "valid_1_a"}
    first = rows["train_1_a"]
    assert first["ct"].endswith("train_1_a_2.nii.gz")  # the softer kernel
    assert first["patient_id"] == rows["train_1_b"]["patient_id"] == "train_1"
    assert rows["valid_1_a"]["split"] == "test"
    assert first["split"] == rows["train_1_b"]["split"] in ("train", "val")
    assert first["report"] == {
        "indication": "Cough.", "findings": "Heart is enlarged, no effusion.", "impression": "Cardiomegaly.",
    }  # fmt: skip
    assert first["labels"] == {"cardiomegaly": 1, "pericardial_effusion": 0}
    assert first["absent"] == ["pericardial effusion", "fluid in the pericardium"]
    assert first["meta"]["age_band"] == "50-59"
    assert "20200101" not in str(rows)
    assert rows["valid_1_a"]["report"] == {"findings": "Normal."}
    assert "1 volumes of the tables that are not here" in caplog.text


def test_hu_files_stay_and_stored_values_are_rescaled_once(folder, tmp_path, make):
    """The validation file holds stored values (HU + 1024), those of training HU; the metadata say -1024 of all."""
    cache, summary = make.cached(ct_rate.rows(folder), tmp_path)
    assert not summary.quarantined
    for study, words in (("train_1_a", "holds HU already"), ("valid_1_a", "stored values to HU")):
        entry = cache.entry(study)
        assert np.array_equal(entry.read("ct", (0, 0, 0), entry.grid.shape), make.chest().astype(np.int16))
        assert words in entry.attributes["notes"]["ct"][0]


def test_a_header_that_is_not_the_series_is_refused_and_the_rest_goes_on(folder, tmp_path, make):
    path = folder / "dataset" / "metadata" / "validation_metadata.csv"
    make.csv(path, META, meta("valid_1_a_1.nii.gz", spacing='"[0.7, 0.7]"'))
    cache, summary = make.cached(ct_rate.rows(folder), tmp_path)
    assert set(cache.study_ids) == {"train_1_a", "train_1_b"}
    assert "[0.7, 0.7, 4.0]" in summary.quarantined["valid_1_a"]
    assert "valid_fixed" in summary.quarantined["valid_1_a"]


def test_of_two_releases_the_fixed_file_is_taken(folder, make):
    first = make.ct(folder / "dataset" / "train" / "train_1" / "train_1_b" / "train_1_b_1.nii.gz")
    assert ct_rate.index_volumes(folder)["train_1_b_1.nii.gz"] != first
    assert "train_fixed" in str(ct_rate.index_volumes(folder)["train_1_b_1.nii.gz"])


def test_choice_of_a_reconstruction():
    names = [f"train_1_a_{n}.nii.gz" for n in range(1, 5)]
    facts = {
        names[0]: {"ConvolutionKernel": "B30f", "NumberofSlices": "3", "ZSpacing": "1.0"},
        names[1]: {"ConvolutionKernel": "B70f", "NumberofSlices": "300", "ZSpacing": "1.0"},
        names[2]: {"ConvolutionKernel": "B30f", "NumberofSlices": "300", "ZSpacing": "1.5"},
        names[3]: {"ConvolutionKernel": "B31f", "NumberofSlices": "300", "ZSpacing": "1.0"},
    }
    assert ct_rate.choose(names, facts) == names[3]
    assert ct_rate.choose(names[:3], facts) == names[2]
    assert ct_rate.choose(names[:2], facts) == names[1]
    assert ct_rate.choose(names, {}) == names[0]


def test_brain_scans_of_the_list_are_left_out(folder, make):
    make.csv(folder / "dataset" / "metadata" / "no_chest_train.txt", "train_1_b_1.nii.gz")
    assert "train_1_b" not in {row["study_id"] for row in ct_rate.rows(folder)}


def test_missing_pieces_are_named(tmp_path, make):
    with pytest.raises(ManifestError, match=r"train_1_a_1\.nii\.gz"):
        ct_rate.rows(tmp_path)
    make.ct(tmp_path / "train_1_a_1.nii.gz")
    with pytest.raises(ManifestError, match=r"reports .* or labels"):
        ct_rate.rows(tmp_path)
    make.csv(tmp_path / "train_reports.csv", "Volume,Findings_EN", "train_1_a_1.nii.gz,Normal")
    with pytest.raises(ManifestError, match=r"column 'VolumeName', found Volume, Findings_EN.*rename it to 'Volume'"):
        ct_rate.rows(tmp_path)


def test_the_publication_s_label_maps_are_not_taken_for_volumes(folder, make):
    """`ts_seg` has a file of each volume's name, also in folders named ``*_fixed``."""
    before = {row["study_id"]: row["ct"] for row in ct_rate.rows(folder)}
    for part, name in (("train", "train_1_a_2"), ("train", "train_1_b_1"), ("valid", "valid_1_a_1")):
        patient, scan = name.rsplit("_", 2)[0], name.rsplit("_", 1)[0]
        make.mask(
            folder / "dataset" / "ts_seg" / "ts_total" / f"{part}_fixed" / patient / scan / f"{name}.nii.gz",
            make.box((4, 10, 10), (12, 20, 20)),
        )
    assert {row["study_id"]: row["ct"] for row in ct_rate.rows(folder)} == before


@pytest.mark.parametrize("cell", ["0.7", "yes", "nan", "-1"])
def test_a_label_that_is_neither_0_nor_1_refuses_its_scan(folder, make, cell):
    """A probability of 0.7 was once cut to 0, and so its finding said to be absent."""
    path = folder / "dataset" / "multi_abnormality_labels" / "train_predicted_labels.csv"
    make.csv(path, "VolumeName,Cardiomegaly", f"train_1_a_2.nii.gz,{cell}", "train_1_b_1.nii.gz,1.0")
    rows = {row["study_id"]: row for row in ct_rate.rows(folder)}
    assert f"labels of 0 or 1, found {{'cardiomegaly': '{cell}'}}" in rows["train_1_a"]["refused"]
    assert rows["train_1_b"]["labels"] == {"cardiomegaly": 1}


def test_a_list_of_other_parts_in_another_encoding_is_told(folder):
    (folder / "no_chest_train.txt").write_bytes("train_1_a_2.nii.gz\n".encode("utf-16"))
    with pytest.raises(ManifestError, match=r"in UTF-8, one a line, found .*no_chest_train\.txt"):
        ct_rate.rows(folder)


def test_reports_without_the_column_of_findings_are_refused(folder, make):
    path = folder / "dataset" / "radiology_text_reports" / "train_reports.csv"
    make.csv(path, "VolumeName,Findings,Impressions_EN", "train_1_a_1.nii.gz,Normal.,")
    with pytest.raises(
        ManifestError, match=r"train_reports\.csv: expected the column 'Findings_EN', found .*'Findings'"
    ):
        ct_rate.rows(folder)


def test_other_columns_of_reports_that_are_missing_are_told(folder, make, caplog):
    path = folder / "dataset" / "radiology_text_reports" / "train_reports.csv"
    make.csv(path, "VolumeName,Findings_EN,Technique_EN", "train_1_a_2.nii.gz,Normal.,CT.")
    with caplog.at_level(logging.WARNING, "vol3d"):
        ct_rate.rows(folder)
    assert f"nothing under Impressions_EN, ClinicalInformation_EN in {path}" in caplog.text


def test_labels_that_contradict_each_other_refuse_their_scan(folder, make):
    path = folder / "dataset" / "multi_abnormality_labels" / "train_predicted_labels.csv"
    make.csv(
        path,
        "VolumeName,Cardiomegaly",
        *(f"train_1_{scan}.nii.gz,{n}" for scan, n in (("a_2", 1), ("b_1", 1), ("b_1", 0))),
    )
    rows = {row["study_id"]: row for row in ct_rate.rows(folder)}
    assert rows["train_1_a"]["labels"] == {"cardiomegaly": 1}
    assert "found 2 that differ in Cardiomegaly" in rows["train_1_b"]["refused"]


@pytest.mark.parametrize("data", [b"", b"no image", b"\x1f\x8b\x08damaged"])
def test_a_damaged_file_refuses_its_scan_alone(folder, data):
    (folder / "dataset" / "train_fixed" / "train_1" / "train_1_b" / "train_1_b_1.nii.gz").write_bytes(data)
    rows = {row["study_id"]: row for row in ct_rate.rows(folder)}
    assert "download it again" in rows["train_1_b"]["refused"]
    assert "refused" not in rows["train_1_a"]

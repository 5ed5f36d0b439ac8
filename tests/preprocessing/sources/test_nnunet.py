import json

import numpy as np
import pytest

from preprocessing.sources import nnunet
from vol3d.errors import ManifestError
from vol3d.export.nifti import write_nifti

LABELS = {"background": 0, "liver": [1, 2], "liver_tumor": 2}


def write_set(root, make, dataset=None, cases=("c1", "c2", "c3")):
    dataset = {"channel_names": {"0": "CT"}, "labels": LABELS, "file_ending": ".nii.gz", **(dataset or {})}
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(dataset))
    organ, tumour = make.box((4, 10, 10), (12, 20, 20)), make.box((6, 12, 12), (8, 14, 14))
    for number, case in enumerate(cases):
        make.ct(root / "imagesTr" / f"{case}_0000.nii.gz")
        make.mask(root / "labelsTr" / f"{case}.nii.gz", organ + (tumour if number else 0))
    return root


def test_regions_splits_and_test_cases(tmp_path, make):
    root = write_set(tmp_path / "Dataset500_Liver", make)
    (root / "splits_final.json").write_text(json.dumps([{"train": ["c1", "c2"], "val": ["c3"]}]))
    make.ct(root / "imagesTs" / "t1_0000.nii.gz")
    assert len(nnunet.rows(root)) == 3  # test images without labels have no truth
    make.mask(root / "labelsTs" / "t1.nii.gz", make.box((4, 10, 10), (12, 20, 20)))
    rows = {row["study_id"]: row for row in nnunet.rows(root)}
    assert {k: row["split"] for k, row in rows.items()} == {"c1": "train", "c2": "train", "c3": "val", "t1": "test"}
    cache, summary = make.cached(rows.values(), tmp_path)
    assert not summary.quarantined
    assert {m.label: m.voxels for m in cache.entry("c2").masks} == {"liver": 800, "liver_tumor": 8}
    assert cache.entry("c1").absent == [
        "liver tumour",
        "liver tumor",
        "liver neoplasm",
        "tumour of the liver",
        "hepatic tumour",
    ]


def test_pet_and_ct_by_the_names_of_the_channels(tmp_path, make):
    root = write_set(tmp_path, make, {"channel_names": {"0": "PET (SUV)", "1": "CT"}}, ["c1"])
    (root / "imagesTr" / "c1_0000.nii.gz").rename(root / "imagesTr" / "c1_0001.nii.gz")
    write_nifti(root / "imagesTr" / "c1_0000.nii.gz", np.ones(make.grid.shape, np.float32), make.grid)
    (row,) = nnunet.rows(root)
    assert row["pet"].endswith("c1_0000.nii.gz")
    assert row["ct"].endswith("c1_0001.nii.gz")


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ({"channel_names": {"0": "T1", "1": "FLAIR"}}, "named CT or PET, found .*FLAIR"),
        ({"channel_names": {"0": "CT", "1": "CT"}}, "one channel of CT and one of PET"),
        ({"labels": {"background": 0, "ignore": 2, "liver": 1}}, "'ignore'"),
        ({"labels": {"background": 0}}, "at least one class"),
        ({"file_ending": ".nrrd"}, r"found '\.nrrd'"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, make, dataset, words):
    with pytest.raises(ManifestError, match=words):
        nnunet.rows(write_set(tmp_path, make, dataset, ["c1"]))


def test_missing_pieces_are_named(tmp_path, make):
    with pytest.raises(ManifestError, match=r"dataset\.json"):
        nnunet.rows(tmp_path)
    root = write_set(tmp_path, make)
    (root / "labelsTr" / "c2.nii.gz").unlink()
    assert "c2.nii.gz for case c2" in nnunet.rows(root)[1]["refused"]
    with pytest.raises(ManifestError, match="imagesTr/CASE_0000"):
        nnunet.rows(write_set(tmp_path / "empty", make, cases=()))


def test_labels_of_the_first_version(tmp_path, make):
    root = write_set(tmp_path, make, {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "lKidney"}}, ["c1"])
    (row,) = nnunet.rows(root)
    assert [(m["label"], m["value"], m["phrases"][0]) for m in row["masks"]] == [("lkidney", 1, "left kidney")]


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ({"channel_names": ["CT"]}, "under 'channel_names', found a list"),
        ({"channel_names": {"ct": "CT"}}, "number of a channel, found 'ct'"),
        ({"labels": ["liver"]}, "under 'labels', found a list"),
        ({"labels": {"background": 0, "liver": "one"}}, "label of 'liver', found 'one'"),
    ],
)
def test_a_dataset_json_of_another_make_is_told(tmp_path, make, dataset, words):
    with pytest.raises(ManifestError, match=words):
        nnunet.rows(write_set(tmp_path, make, dataset, ["c1"]))


def test_a_dataset_json_that_is_a_list_is_told(tmp_path, make):
    root = write_set(tmp_path, make, cases=["c1"])
    (root / "dataset.json").write_text("[]")
    with pytest.raises(ManifestError, match="found a list"):
        nnunet.rows(root)


@pytest.mark.parametrize("line", ['{"study_id": "c1"', '{"patient_id": "p"}', "[]"])
def test_a_broken_sidecar_names_its_line(tmp_path, make, line):
    root = write_set(tmp_path, make, cases=["c1"])
    (root / nnunet.SIDECAR).write_text(f'\n{{"study_id": "c9"}}\n{line}\n')
    with pytest.raises(ManifestError, match=r"vol3d\.jsonl, line 3: expected a row as vol3d export nnunet writes it"):
        nnunet.rows(root)

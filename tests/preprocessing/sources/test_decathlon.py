import json

import pytest

from preprocessing.sources import decathlon
from vol3d.errors import ManifestError


def task(root, name, modality, labels, cases):
    root = root / name
    root.mkdir(parents=True, exist_ok=True)
    listed = [{"image": f"./imagesTr/{c}.nii.gz", "label": f"./labelsTr/{c}.nii.gz"} for c in cases]
    dataset = {"name": name, "modality": {"0": modality}, "labels": labels, "training": listed, "test": []}
    (root / "dataset.json").write_text(json.dumps(dataset))
    return root


@pytest.fixture
def folder(tmp_path, make):
    liver = task(
        tmp_path, "Task03_Liver", "CT", {"0": "background", "1": "liver", "2": "cancer"}, ["liver_0", "liver_1"]
    )
    task(tmp_path, "Task02_Heart", "MRI", {"0": "background", "1": "left atrium"}, ["la_1"])
    organ, tumour = make.box((4, 10, 10), (12, 20, 20)), make.box((6, 12, 12), (8, 14, 14))
    for case, with_tumour in (("liver_0", True), ("liver_1", False)):
        make.ct(liver / "imagesTr" / f"{case}.nii.gz")
        make.mask(liver / "labelsTr" / f"{case}.nii.gz", organ + (tumour if with_tumour else 0))
    return tmp_path


def test_the_organ_includes_its_tumour(folder, tmp_path, make):
    rows = decathlon.rows(folder)
    assert {row["study_id"] for row in rows} == {"liver_0", "liver_1"}
    cache, _ = make.cached(rows, tmp_path)
    ill, well = cache.entry("liver_0"), cache.entry("liver_1")
    assert {m.label: m.voxels for m in ill.masks} == {"liver": 800, "liver_tumour": 8}
    assert {m.label: m.voxels for m in well.masks} == {"liver": 800}
    assert "liver tumour" in well.absent
    assert "liver" not in well.absent


def test_missing_pieces_are_named(folder, tmp_path):
    (folder / "Task03_Liver" / "labelsTr" / "liver_1.nii.gz").unlink()
    assert "labelsTr/liver_1.nii.gz of Task03_Liver" in decathlon.rows(folder)[1]["refused"]
    with pytest.raises(ManifestError, match=r"Task02_Heart.*MRI"):
        decathlon.rows(folder / "Task02_Heart")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="Task03_Liver"):
        decathlon.rows(tmp_path / "empty")


def test_a_task_of_other_labels_uses_its_own(tmp_path, make):
    root = task(tmp_path, "Task55_Mine", "CT", {"0": "background", "1": "Left_Kidney"}, ["k_1"])
    make.ct(root / "imagesTr" / "k_1.nii.gz")
    make.mask(root / "labelsTr" / "k_1.nii.gz", make.box((1, 1, 1), (3, 3, 3)))
    (row,) = decathlon.rows(root)
    assert row["masks"][0]["phrases"][0] == "left kidney"
    assert row["masks"][0]["value"] == 1


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        ([], "found a list"),
        ({"modality": "CT"}, "under 'modality', found text"),
        ({"modality": {"0": "CT"}, "labels": {"liver": 1}, "training": [{}]}, "label of 1, found 'liver'"),
        ({"modality": {"0": "CT"}, "labels": {"1": "liver"}, "training": ["a"]}, "with image and label"),
    ],
)
def test_a_dataset_json_of_another_make_is_told(tmp_path, dataset, words):
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(ManifestError, match=words):
        decathlon.rows(tmp_path)

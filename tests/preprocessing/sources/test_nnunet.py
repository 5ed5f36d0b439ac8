import json
import logging

import numpy as np
import pytest

from preprocessing.sources import nnunet
from preprocessing.sources.nnunet_channels import channels
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


def with_test_cases(root, make, *names):
    for name in names:
        make.ct(root / "imagesTs" / f"{name}_0000.nii.gz")
        make.mask(root / "labelsTs" / f"{name}.nii.gz", make.box((4, 10, 10), (12, 20, 20)))
    return root


def split_of(rows):
    return {row["study_id"]: row.get("split") for row in rows}


def empty_set(root, names, dataset=None):
    """Files of a set with nothing in them, to look at the rows alone."""
    dataset = {"channel_names": {"0": "CT"}, "labels": LABELS, **(dataset or {})}
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(dataset))
    for name in names:
        (root / "imagesTr" / f"{name}_0000.nii.gz").touch()
        (root / "labelsTr" / f"{name}.nii.gz").touch()
    return root


def test_test_labels_without_splits_final_leave_cases_to_train_on(tmp_path, make):
    root = with_test_cases(empty_set(tmp_path, [f"c{n:03d}" for n in range(100)]), make, "t1")
    found = split_of(nnunet.rows(root))
    assert found.pop("t1") == "test"
    assert set(found.values()) == {"train", "val"}
    assert 3 < list(found.values()).count("val") < 20  # a tenth, drawn


def test_without_test_labels_a_tenth_each_is_drawn(tmp_path):
    found = split_of(nnunet.rows(empty_set(tmp_path, [f"c{n:03d}" for n in range(200)])))
    assert {"train", "val", "test"} == set(found.values())


def test_cases_that_splits_final_does_not_name_are_told(tmp_path, caplog):
    root = empty_set(tmp_path, ["c1", "c2", "c3"])
    (root / "splits_final.json").write_text(json.dumps([{"train": ["c1"], "val": ["c2"]}]))
    with caplog.at_level(logging.WARNING, "vol3d"):
        assert split_of(nnunet.rows(root)) == {"c1": "train", "c2": "val", "c3": None}
    assert "1 studies are in no split, the first c3" in caplog.text
    (root / "splits_final.json").write_text(json.dumps([{"train": ["c1.nii.gz"], "val": ["c2.nii.gz"]}]))
    with pytest.raises(ManifestError, match=r"fold 0, like c1, found none of them but c1\.nii\.gz"):
        nnunet.rows(root)
    (root / "splits_final.json").write_text(json.dumps([{"train": "c1", "val": []}]))
    with pytest.raises(ManifestError, match="lists of cases under train and val, found c1"):
        nnunet.rows(root)


def test_a_fold_that_validates_on_what_it_trains_on_has_no_val(tmp_path):
    root = tmp_path
    (root / "splits_final.json").write_text(json.dumps([{"train": ["a", "b"], "val": ["a", "b"]}]))
    assert nnunet.published(root) == {"a": "train", "b": "train"}
    (root / "splits_final.json").write_text(json.dumps([{"train": ["a", "b"], "val": ["b"]}]))
    assert nnunet.published(root) == {"a": "train", "b": "val"}


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["CT", "SUVbw"], {"ct": "0000", "pet": "0001"}),
        (["FDG_PET", "CTres"], {"pet": "0000", "ct": "0001"}),
        (["CT_portal"], {"ct": "0000"}),
        (["CTPortal", "PETSuv"], {"ct": "0000", "pet": "0001"}),
        (["computed tomography", "PT"], {"ct": "0000", "pet": "0001"}),
        (["ct", "suv"], {"ct": "0000", "pet": "0001"}),
        (["Ct", "Pet1"], {"ct": "0000", "pet": "0001"}),
    ],
)
def test_names_of_channels(tmp_path, names, found):
    assert channels(tmp_path, {"channel_names": {str(n): name for n, name in enumerate(names)}}) == found


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["PET/CT"], "found 'PET/CT', which says both"),
        (["CT", "petCT"], "found 'petCT', which says both"),
        (["PETCT"], "which says both"),
        (["CT", "CTres"], "one channel of CT"),
        (["CT", "SUVlbm"], r"PET in SUVbw, found the channel 'SUVlbm' \(lbm\)"),
        (["CT", "PET (Bq/ml)"], "PET in SUVbw"),
        (["FACT", "petrous", "impact"], "named CT or PET"),
    ],
)
def test_names_of_channels_that_are_refused(tmp_path, names, words):
    with pytest.raises(ManifestError, match=words):
        channels(tmp_path, {"channel_names": {str(n): name for n, name in enumerate(names)}})


def test_channels_that_are_not_read_are_named(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "vol3d"):
        assert channels(tmp_path, {"channel_names": {"0": "CT", "1": "tracer", "2": "T1"}}) == {"ct": "0000"}
    assert "'tracer', 'T1'" in caplog.text


def sidecar(root, *records):
    (root / nnunet.SIDECAR).write_text("".join(json.dumps(record) + "\n" for record in records))
    return root


def test_a_case_added_to_an_exported_folder_keeps_its_masks(tmp_path, make, caplog):
    record = {"study_id": "c1", "split": "train", "masks": {"liver": {"phrases": ["my liver"]}}, "absent": ["cyst"]}
    root = sidecar(write_set(tmp_path / "set", make, cases=["c1", "c2"]), record)
    (root / "splits_final.json").write_text(json.dumps([{"train": ["c1"], "val": ["c2"]}]))
    with caplog.at_level(logging.WARNING, "vol3d"):
        rows = nnunet.rows(root)
    assert "1 cases have no row in vol3d.jsonl, the first c2" in caplog.text
    assert split_of(rows) == {"c1": "train", "c2": "val"}
    cache, summary = make.cached(rows, tmp_path)
    assert not summary.quarantined
    assert {m.label: m.voxels for m in cache.entry("c2").masks} == {"liver": 800, "liver_tumor": 8}
    assert [(m.label, m.phrases) for m in cache.entry("c1").masks] == [("liver", ("my liver",))]
    assert cache.entry("c1").absent == ["cyst", *(p for p in cache.entry("c1").absent if p != "cyst")]


def test_a_class_that_is_drawn_by_hand_in_an_exported_case_is_read(tmp_path, make):
    """The record is silent on the tumour, another study's names it: where there is one in the label map, it counts."""
    liver = {"liver": {"phrases": ["liver"]}}
    tumour = {"liver_tumor": {"phrases": ["mass of the liver"], "finding_id": "f1"}}
    root = sidecar(
        write_set(tmp_path / "set", make, cases=["c1", "c2", "c3"]), {"study_id": "c1", "masks": liver},
        {"study_id": "c2", "masks": liver}, {"study_id": "c3", "masks": liver | tumour},
    )  # fmt: skip
    cache, summary = make.cached(nnunet.rows(root), tmp_path)
    assert not summary.quarantined
    labels = {study: {m.label: m.phrases[0] for m in cache.entry(study).masks} for study in cache.study_ids}
    assert labels["c1"] == {"liver": "liver"}
    assert set(labels["c2"]) == {"liver", "liver_tumor"}
    assert labels["c3"]["liver_tumor"] == "mass of the liver"
    assert cache.entry("c1").absent == []  # nothing was said of a tumour, and nothing is


def test_an_edited_splits_final_wins_over_the_sidecar(tmp_path):
    root = empty_set(tmp_path, ["c1", "c2", "c3"])
    sidecar(
        root, *({"study_id": c, "split": s, "masks": {}} for c, s in (("c1", "train"), ("c2", "train"), ("c3", "val")))
    )
    assert split_of(nnunet.rows(root)) == {"c1": "train", "c2": "train", "c3": "val"}
    (root / "splits_final.json").write_text(json.dumps([{"train": ["c3", "c2"], "val": ["c1"]}]))
    assert split_of(nnunet.rows(root)) == {"c1": "val", "c2": "train", "c3": "train"}


def test_a_patient_of_the_sidecar_is_not_split_by_hand(tmp_path):
    root = empty_set(tmp_path, ["c1", "c2", "c3"])
    sidecar(root, *({"study_id": c, "patient_id": p, "masks": {}} for c, p in (("c1", "p"), ("c2", "p"), ("c3", "q"))))
    (root / "splits_final.json").write_text(json.dumps([{"train": ["c1", "c3"], "val": ["c2"]}]))
    assert split_of(nnunet.rows(root)) == {"c1": None, "c2": "val", "c3": "train"}


@pytest.mark.parametrize("masks", ['["liver"]', '{"liver": 1}'])
def test_masks_of_another_make_in_the_sidecar_are_told(tmp_path, masks):
    root = empty_set(tmp_path, ["c1"])
    (root / nnunet.SIDECAR).write_text(f'{{"study_id": "c1", "masks": {masks}}}\n')
    with pytest.raises(ManifestError, match=r"vol3d\.jsonl, line 1"):
        nnunet.rows(root)

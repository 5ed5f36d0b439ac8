import json
import logging

import numpy as np
import pytest

from preprocessing.sources import placement, rexgroundingct
from vol3d.errors import ManifestError

SENTENCES = {"0": "Consolidation in the left lower lobe.", "1": "Nodule in the right lung."}


def lesions(make):
    """In HU, and as masks on the image's array: a consolidation and a nodule in the lungs."""
    hu = make.chest()
    masks = [make.box((6, 20, 10), (10, 26, 14)), make.box((14, 18, 26), (17, 22, 30))]
    for mask, value in zip(masks, (30, 20), strict=True):
        hu[mask > 0] = value
    return hu, masks


def write_set(root, make, turn, names=("train_1_a_1", "train_2_a_1", "valid_3_a_2")):
    hu, masks = lesions(make)
    drawn = [mask[:, ::-1, ::-1] if turn else mask for mask in masks]
    drawn[0] = drawn[0] * 3  # entities of one finding have values of their own
    for name in names:
        make.ct(root / "train_fixed" / f"{name}.nii.gz", hu)
        make.channels(root / "segmentations" / f"{name}.nii.gz", drawn, np.diag([1.0, 2.0, 3.0, 1.0]))
    item = {"findings": SENTENCES, "categories": {"0": "2b", "1": "2d"}, "shape": [40, 40, 24]}
    listed = {
        "train": [{"name": f"{n}.nii.gz", **item} for n in names[:2]],
        "val": [{"name": f"{n}.nii.gz", **item} for n in names[2:]], "test": [{"name": "valid_9_a_1.nii.gz", **item}],
    }  # fmt: skip
    (root / "dataset.json").write_text(json.dumps(listed))
    return masks


@pytest.mark.parametrize("turn", [False, True])
def test_each_sentence_gets_its_mask_where_the_image_has_it(tmp_path, make, turn):
    masks = write_set(tmp_path / "rex", make, turn)
    rows = rexgroundingct.rows(tmp_path / "rex")
    assert {row["study_id"]: row["split"] for row in rows} == {
        "train_1_a_1": "train", "train_2_a_1": "train", "valid_3_a_2": "val",
    }  # fmt: skip
    cache, summary = make.cached(rows, tmp_path)
    assert not summary.quarantined
    entry = cache.entry("train_1_a_1")
    for record, mask, sentence in zip(entry.masks, masks, SENTENCES.values(), strict=True):
        assert record.phrases == (sentence,)
        assert np.array_equal(entry.read_mask(record.name, (0, 0, 0), entry.grid.shape), mask)
    assert entry.masks[1].label == "pulmonary nodule or mass"


def test_masks_that_fit_nowhere_are_refused(tmp_path, make):
    write_set(tmp_path, make, turn=False)
    rng = np.random.default_rng(5)
    for n, path in enumerate(sorted((tmp_path / "segmentations").glob("*.nii.gz"))):
        _, masks = lesions(make)
        volume = rng.normal(0, 1, make.grid.shape)
        for mask in masks:  # half of the findings fit as they are, the others turned
            volume[(mask if (n + int(mask[6].any())) % 2 else mask[:, ::-1, ::-1]) > 0] = 500
        make.ct(tmp_path / "train_fixed" / path.name, volume)
    with pytest.raises(ManifestError, match=r"edges of the image.*for 6 findings"):
        rexgroundingct.rows(tmp_path)


def test_missing_pieces_are_named(tmp_path, make):
    with pytest.raises(ManifestError, match=r"dataset\.json"):
        rexgroundingct.rows(tmp_path)
    write_set(tmp_path, make, turn=False)
    (tmp_path / "train_fixed" / "train_2_a_1.nii.gz").unlink()
    rows = {row["study_id"]: row for row in rexgroundingct.rows(tmp_path)}
    assert "train_2_a_1.nii.gz" in rows["train_2_a_1"]["refused"]
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(ManifestError, match="train, val and test"):
        rexgroundingct.rows(tmp_path)


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ({"train": ["x"]}, "list of volumes under 'train'"),
        ({"train": [{"name": "train_1_a_1.nii.gz", "findings": ["Nodule."]}]}, "under 'findings', found a list"),
        ({"train": [{"name": "train_1_a_1.nii.gz", "findings": {"a": "Nodule."}}]}, "channel of a finding"),
    ],
)
def test_a_dataset_json_of_another_make_is_told(tmp_path, listed, words):
    (tmp_path / "dataset.json").write_text(json.dumps(listed))
    with pytest.raises(ManifestError, match=words):
        rexgroundingct.rows(tmp_path)


@pytest.mark.parametrize("part", ["segmentations", "train_fixed"])
def test_a_damaged_file_stops_its_own_study_alone(tmp_path, make, part):
    root = tmp_path / "rex"
    write_set(root, make, turn=True)
    (root / part / "train_2_a_1.nii.gz").write_bytes(b"no image")
    cache, summary = make.cached(rexgroundingct.rows(root), tmp_path)
    assert set(cache.study_ids) == {"train_1_a_1", "valid_3_a_2"}
    assert "train_2_a_1" in summary.quarantined["train_2_a_1"]


@pytest.mark.parametrize("channel", ["5", "-1"])
def test_a_finding_outside_of_the_channels_stops_its_own_study_alone(tmp_path, make, channel):
    root = tmp_path / "rex"
    write_set(root, make, turn=False)
    listed = json.loads((root / "dataset.json").read_text())
    listed["train"][0]["findings"] = {"0": "Consolidation.", channel: "Nodule."}
    (root / "dataset.json").write_text(json.dumps(listed))
    cache, summary = make.cached(rexgroundingct.rows(root), tmp_path)
    assert set(cache.study_ids) == {"train_2_a_1", "valid_3_a_2"}
    assert "channel" in summary.quarantined["train_1_a_1"]


def test_where_nothing_can_be_read_the_first_fault_is_told(tmp_path, make, caplog):
    write_set(tmp_path, make, turn=False)
    for path in (tmp_path / "segmentations").glob("*.nii.gz"):
        path.write_bytes(b"no image")
    with pytest.raises(ManifestError, match=r"found none among 3, the first: .*train_1_a_1\.nii\.gz"):
        rexgroundingct.rows(tmp_path)


def test_others_are_looked_at_in_place_of_those_that_cannot_be_read(tmp_path, make, monkeypatch, caplog):
    names = tuple(f"train_{n}_a_1" for n in range(1, 7))
    write_set(tmp_path, make, turn=True, names=names)
    monkeypatch.setattr(placement, "STUDIES", 2)  # the first and the fourth
    for name in (names[0], names[3]):
        (tmp_path / "segmentations" / f"{name}.nii.gz").write_bytes(b"no image")
    with caplog.at_level(logging.WARNING, "vol3d"):
        rows = rexgroundingct.rows(tmp_path)
    assert {mask["placed"] for row in rows for mask in row["masks"]} == {"turned"}
    assert "2 volumes or masks cannot be read" in caplog.text

import logging

import pytest

from preprocessing.sources import totalsegmentator
from vol3d.errors import ManifestError

HEADER = (
    "\ufeffimage_id;age;gender;institute;study_type;split;manufacturer;scanner_model;kvp;pathology;pathology_location"
)


@pytest.fixture
def folder(tmp_path, make):
    root = tmp_path / "Totalsegmentator_dataset_v201"
    for subject in ("s0000", "s0001"):
        make.ct(root / subject / "ct.nii.gz")
        make.mask(root / subject / "segmentations" / "kidney_left.nii.gz", make.box((4, 10, 10), (8, 14, 14)))
        make.mask(root / subject / "segmentations" / "prostate.nii.gz", make.box((0, 0, 0), (0, 0, 0)))
    make.csv(
        root / "meta.csv", HEADER, "s0000;78;m;A;ct thorax;train;siemens;Definition;120;tumor;lung",
        "s0001;40;f;B;ct abdomen;test;;;;;",
    )  # fmt: skip
    return root


def test_rows_and_cache(folder, tmp_path, make):
    rows = totalsegmentator.rows(folder)
    assert rows[0]["split"] in ("train", "val")
    assert rows[1]["split"] == "test"
    assert rows[0]["meta"]["age_band"] == "70-79"
    cache, summary = make.cached(rows, tmp_path)
    assert not summary.quarantined
    entry = cache.entry("s0000")
    assert {m.label: m.voxels for m in entry.masks} == {"kidney_left": 64}
    assert "left kidney" in entry.masks[0].phrases
    assert entry.absent == []  # a prostate out of view is no patient without one


def test_missing_pieces_are_named(folder, tmp_path, make):
    (folder / "s0001" / "ct.nii.gz").rename(folder / "s0001" / "mri.nii.gz")
    assert "ct.nii.gz" in totalsegmentator.rows(folder)[1]["refused"]
    (folder / "s0000" / "ct.nii.gz").rename(folder / "s0000" / "mri.nii.gz")
    with pytest.raises(ManifestError, match="MR images are not read"):
        totalsegmentator.rows(folder)
    with pytest.raises(ManifestError, match="s0000, s0001"):
        totalsegmentator.rows(tmp_path)


def test_an_unknown_split_is_refused_with_its_row(folder):
    table = folder / "meta.csv"
    table.write_text(table.read_text().replace(";test;", ";training;"))
    first, second = totalsegmentator.rows(folder)
    assert first["split"] in ("train", "val")
    assert second["refused"] == (
        "meta.csv, row 3: expected the split train, val or test, found 'training'; write train"
    )


def test_rows_that_contradict_each_other_refuse_their_subject(folder):
    table = folder / "meta.csv"
    table.write_text(table.read_text() + "s0001;41;f;B;ct abdomen;train;;;;;\n")
    first, second = totalsegmentator.rows(folder)
    assert "refused" not in first
    assert "'s0001', found 2 that differ in age, split" in second["refused"]


def test_a_table_without_splits_is_told(folder, make, caplog):
    make.csv(folder / "meta.csv", "image_id;age", "s0000;78", "s0001;40")
    with caplog.at_level(logging.WARNING, "vol3d"):
        rows = totalsegmentator.rows(folder)
    assert "no column 'split'" in caplog.text
    assert all(row["split"] in ("train", "val", "test") for row in rows)

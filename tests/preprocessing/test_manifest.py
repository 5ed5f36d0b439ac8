import json

import pytest

from preprocessing.manifest import BadRow, Row, parse_row, read_manifest
from vol3d.errors import ConfigError, ManifestError


@pytest.fixture
def folder(tmp_path):
    for name in ("ct.nii.gz", "pet.nii.gz", "liver.nii.gz"):
        (tmp_path / name).touch()
    return tmp_path


def row(**fields):
    return {"study_id": "s1", "patient_id": "p1", "ct": "ct.nii.gz", **fields}


def test_a_row_resolves_its_paths(folder):
    parsed = parse_row(row(pet="pet.nii.gz", masks=[{"path": "liver.nii.gz", "phrase": "liver"}], split="val"), folder)
    assert parsed.ct == folder / "ct.nii.gz"
    assert parsed.masks[0].phrases == ("liver",)
    assert parsed.split == "val"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ct": None}, "neither 'ct' nor 'pet'"),
        ({"ct": "nowhere.nii.gz"}, "nothing there"),
        ({"study_id": "../etc"}, "study_id"),
        ({"phrase": "liver"}, "unknown row key 'phrase'"),
        ({"abscent": []}, "did you mean 'absent'"),
        ({"split": "dev"}, "train, val or test"),
        ({"masks": [{"path": "liver.nii.gz"}]}, "expected 'phrases'"),
        ({"masks": [{"path": "liver.nii.gz", "phrases": [""]}]}, "expected text"),
        ({"masks": ["liver.nii.gz"]}, "list of objects with a path"),
        ({"masks": [{"path": "liver.nii.gz", "phrases": "liver"}]}, "'phrases' to be a list"),
        ({"masks": [{"path": "liver.nii.gz", "phrase": "liver", "value": "5"}]}, "'value' of a mask"),
        ({"absent": [3]}, "'absent' to be a list of phrases"),
        ({"absent": "lesion"}, "'absent' to be a list of phrases"),
        ({"labels": {"effusion": "yes"}}, "1, 0 or null"),
        ({"report": "normal"}, "'report' to be an object"),
        ({"findings": "none"}, "'findings' to be a list"),
        ({"patient_id": ""}, "patient_id"),
    ],
)
def test_faults_are_named(folder, fields, message):
    with pytest.raises(ManifestError, match=message):
        parse_row(row(**fields), folder)


def test_null_is_as_good_as_left_out(folder):
    nothing = dict.fromkeys(("patient_id", "masks", "absent", "labels", "findings", "report", "qa", "meta", "split"))
    parsed = parse_row(row(**nothing), folder)
    assert parsed.patient_id == "s1"  # not the text "None", which would make one patient of many
    assert parsed == parse_row({"study_id": "s1", "ct": "ct.nii.gz"}, folder)


def test_one_bad_line_does_not_stop_the_others(folder):
    lines = [json.dumps(row()), "{broken", json.dumps(row(study_id="s2", ct="gone.nii.gz")), "", json.dumps(row())]
    (folder / "m.jsonl").write_text("\n".join(lines))
    good, broken, missing, twice = read_manifest(folder / "m.jsonl")
    assert isinstance(good, Row)
    assert isinstance(broken, BadRow)
    assert broken.study_id == "line 2"
    assert missing.study_id == "s2"
    assert "gone.nii.gz" in missing.reason
    assert "twice" in twice.reason
    assert twice.study_id == "s1 (line 5)"  # so that the quarantine does not name the first s1


def test_an_empty_missing_or_foreign_manifest(folder):
    (folder / "image.nii.gz").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(ManifestError, match="UTF-8"):
        list(read_manifest(folder / "image.nii.gz"))
    with pytest.raises(ManifestError, match="no file"):
        list(read_manifest(folder / "none.jsonl"))
    (folder / "empty.jsonl").write_text("\n")
    with pytest.raises(ManifestError, match="at least one study"):
        list(read_manifest(folder / "empty.jsonl"))


def test_shards_share_the_rows_and_know_of_each_other(folder):
    lines = [{"study_id": name, "ct": "ct.nii.gz"} for name in "abcdea"]
    (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n\n" for line in lines))
    shards = [list(read_manifest(folder / "m.jsonl", (i, 3))) for i in (1, 2, 3)]
    assert [[r.study_id for r in rows] for rows in shards] == [["a", "d"], ["b", "e"], ["c", "a (line 11)"]]
    assert isinstance(shards[2][1], BadRow)
    assert [r.study_id for r in read_manifest(folder / "m.jsonl")] == ["a", "b", "c", "d", "e", "a (line 11)"]
    with pytest.raises(ConfigError, match="found 4/3"):
        list(read_manifest(folder / "m.jsonl", (4, 3)))

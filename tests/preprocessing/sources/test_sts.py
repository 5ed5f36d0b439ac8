import json

import pytest

from preprocessing.sources import sts
from vol3d.errors import ManifestError


@pytest.fixture
def folder(tmp_path):
    for n in range(200):
        (tmp_path / f"STS_{n:03d}").mkdir()
    return tmp_path


def splits_of(folder):
    return {row["study_id"]: row.get("split") for row in sts.rows(folder)}


def test_without_split_json_a_tenth_each_is_drawn(folder):
    found = list(splits_of(folder).values())
    assert [found.count(s) / 200 for s in ("train", "val", "test")] == pytest.approx([0.8, 0.1, 0.1], abs=0.08)


def test_split_json_stays(folder):
    """Other lists than those of studies, such as folds, are nothing to this reader."""
    stated = {"train": ["STS_000", "STS_002"], "val": ["STS_001"], "folds": [["STS_000"], ["STS_001"]]}
    (folder / "split.json").write_text(json.dumps(stated))
    found = splits_of(folder)
    assert (found["STS_000"], found["STS_001"], found["STS_002"], found["STS_003"]) == ("train", "val", "train", None)


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ({"train": 5}, r"list of studies like STS_001 under 'train', found 5"),
        ({"train": [1, 2]}, "under 'train'"),
        ({"train": "STS_001"}, "under 'train', found STS_001"),
        ({"train": ["STS_001"], "validation": ["STS_002"]}, "train, val or test, found 'validation'; write val"),
    ],
)
def test_a_split_json_of_another_make_is_told(folder, split, words):
    (folder / "split.json").write_text(json.dumps(split))
    with pytest.raises(ManifestError, match=words):
        sts.rows(folder)

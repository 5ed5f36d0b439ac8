"""The index of a cache: never anything but what the entries say, at whatever moment somebody stops or changes them."""

import json
import pickle
import shutil

import numpy as np
import pytest

from preprocessing.verify_cache import verify
from vol3d import study_table
from vol3d.cache import Cache, MaskRecord
from vol3d.cache_write import EntryData, create_cache, join_caches, write_entry
from vol3d.errors import CacheError, FingerprintError
from vol3d.geometry import Grid
from vol3d.volume import Volume

GRID = Grid.from_spacing((6, 6, 6), (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))
INDEX = study_table.INDEX


def study(study_id, split="train", version="1", phrases=("liver",), label="liver"):
    mask = np.zeros(GRID.shape, np.uint8)
    mask[2:4, 2:4, 2:4] = 1
    attributes = {
        "recipe_digest": "r", "fingerprint": f"{study_id}-{version}", "split": split, "absent": ["ascites", "Ascites"],
        "patient_key": f"p-{study_id}", "report": {}, "labels": {}, "findings": [],
    }  # fmt: skip
    return EntryData(
        study_id=study_id,
        images={"ct": Volume(np.full(GRID.shape, 40.0, np.float32), GRID, "ct")},
        masks=[(MaskRecord(name="m", image="ct", phrases=phrases, label=label), mask)],
        source_grids={"ct": GRID},
        attributes=attributes,
        chunk=8,
    )


def make(root, *studies):
    cache = create_cache(root, {}, "r")
    for data in studies:
        write_entry(cache.root, data)
    return Cache(root)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "cache"
    make(root, study("a"), study("b", "val"), study("c"), study("d", None, phrases=("left kidney",), label="kidney"))
    return root


def test_rows_are_what_the_entries_say(root):
    before = Cache(root)
    read = before.fingerprint(), before.select("train"), before.select()
    table = Cache(root).write_index()
    assert table.column("split") == ["train", "val", "train", None]
    assert table.concepts() == {"liver": 3, "kidney": 1}
    assert table.phrases() == {"liver", "left kidney", "ascites", "Ascites"}
    assert table.of_split("val").phrases() == {"liver", "ascites", "Ascites"}
    assert (root / INDEX).is_file()
    for path in (root / "studies").rglob("zarr.json"):  # from here on there is nothing else to read
        path.unlink()
    after = Cache(root)
    assert (after.fingerprint(), after.select("train"), after.select()) == read


def test_a_row_has_no_empty_or_wordless_masks():
    mask = {"name": "lesion_2", "label": None, "finding_id": "f", "voxels": 3, "phrases": ["cyst"]}
    masks = [mask, {**mask, "voxels": 0, "phrases": ["node"]}, {**mask, "phrases": []}]
    row = study_table.row_of({"study_id": "s", "images": ["pet"], "masks": masks, "absent": ["gas", "Cyst "]}, 7, 8)
    assert row["masks"] == ['["lesion", null, ["cyst"]]']
    assert row["disputed"] == "Cyst "
    assert row["image"] == "pet"


def test_only_what_changed_is_read_again(root):
    table = Cache(root).write_index()
    write_entry(root, study("b", "val", version="2"))
    assert not (root / INDEX).exists()  # the writer set it aside
    read = []

    def record(study_id):
        read.append(study_id)
        return Cache(root).entry(study_id).attributes

    study_table.rewrite(root, record)
    assert read == ["b"]
    assert study_table.load(root / INDEX).column("fingerprint") == ["a-1", "b-2", "c-1", "d-1"]
    assert table.column("fingerprint") == ["a-1", "b-1", "c-1", "d-1"]


@pytest.mark.parametrize("change", ["one more", "one less"])
def test_an_index_of_other_studies_is_not_used(root, change, caplog):
    cache = Cache(root)
    cache.write_index()
    kept = (root / INDEX).read_bytes()
    if change == "one more":
        write_entry(root, study("e"))
    else:
        shutil.rmtree(root / "studies/b.zarr")
    (root / INDEX).write_bytes(kept)  # as if it had been written a moment too early
    there = ["a", "b", "c", "d", "e"] if change == "one more" else ["a", "c", "d"]
    assert Cache(root).select() == there
    assert f"expected an index of {len(there)} studies" in caplog.text
    assert f"expected the {len(there)} studies" in verify(root, show_progress=False)[""][0]


def test_an_entry_behind_the_back_of_the_index_is_refused(root):
    cache = Cache(root)
    cache.write_index()
    kept = (root / INDEX).read_bytes()
    write_entry(root, study("a", version="2"))
    (root / INDEX).write_bytes(kept)
    cache = Cache(root)
    assert cache.select("train") == ["a", "c"]
    with pytest.raises(FingerprintError, match=r"a: expected the entry a-1 of the index, found a-2.*vol3d index"):
        cache.entry("a")
    with pytest.raises(FingerprintError, match="found a-2"):
        pickle.loads(pickle.dumps(cache)).entry("a")
    assert "not the entry that the index knows" in verify(root, show_progress=False)["a"][0]
    cache.write_index()
    assert Cache(root).entry("a").fingerprint == "a-2"
    assert verify(root, show_progress=False) == {}


def test_an_entry_written_while_the_index_is_sets_it_aside(root):
    def record(study_id):
        if study_id == "a":  # entries are read by several threads
            write_entry(root, study("late"))
        return Cache(root).entry(study_id).attributes

    study_table.rewrite(root, record)
    assert not (root / INDEX).exists()
    assert Cache(root).select() == ["a", "b", "c", "d", "late"]


def test_quarantined_studies_are_no_part_of_the_table(root):
    Cache(root).write_index()
    (root / "quarantine.jsonl").write_text('{"study_id": "c", "reason": "gone"}\n{"study_id": "x", "reason": "bad"}\n')
    cache = Cache(root)
    assert cache.select() == ["a", "b", "d"]
    assert cache.quarantine() == {"c": "gone", "x": "bad"}


@pytest.mark.parametrize("damage", [b"", b"PAR1 no table"])
def test_a_damaged_index_is_as_good_as_none(root, damage):
    Cache(root).write_index()
    expected = Cache(root).fingerprint()
    (root / INDEX).write_bytes(damage)
    assert Cache(root).fingerprint() == expected


def test_several_roots_are_one_cache(root, tmp_path):
    whole = Cache(root)
    for name, own in (("one", ("a", "c")), ("two", ("b", "d"))):
        make(tmp_path / name, *(study_of(s) for s in own)).write_index()
    joined = join_caches([tmp_path / "one", tmp_path / "two"], tmp_path / "joined")
    assert joined.study_ids == whole.study_ids
    assert joined.fingerprint() == whole.fingerprint()
    assert joined.select("train") == ["a", "c"]
    assert [joined.entry(s).path.parents[1].name for s in "abcd"] == ["one", "two", "one", "two"]
    assert [e.study_id for e in joined.entries()[1:3]] == ["b", "c"]
    assert json.loads((tmp_path / "joined/cache.json").read_text())["parts"] == ["../one", "../two"]
    assert verify(tmp_path / "joined", show_progress=False) == {}
    shutil.move(tmp_path / "joined", tmp_path / "elsewhere")  # beside its parts it may be renamed
    assert Cache(tmp_path / "elsewhere").entry("b").study_id == "b"


def study_of(study_id):
    more = {"phrases": ("left kidney",), "label": "kidney"} if study_id == "d" else {}
    return study(study_id, {"b": "val", "d": None}.get(study_id, "train"), **more)


def test_what_cannot_be_joined(root, tmp_path):
    make(tmp_path / "twice", study("a"))
    with pytest.raises(CacheError, match=r"found 1 in several \(a, \.\.\)"):
        join_caches([root, tmp_path / "twice"], tmp_path / "joined")
    assert not (tmp_path / "joined/cache.json").exists()
    create_cache(tmp_path / "other", {}, "another recipe")
    with pytest.raises(FingerprintError, match="to be of recipe r, found another recipe"):
        join_caches([root, tmp_path / "other"], tmp_path / "joined")
    make(tmp_path / "second", study("z"))
    join_caches([root, tmp_path / "second"], tmp_path / "joined")
    with pytest.raises(CacheError, match="found one joined of 2 parts; name a part"):
        create_cache(tmp_path / "joined", {}, "r")

"""Leakage is refused where it does harm: before training, and before a test set is believed."""

import json
import logging
import shutil

import pytest

from preprocessing.phantom import PhantomOptions, write_phantoms
from vol3d.cache import Cache
from vol3d.checkpoint import find_model_folder
from vol3d.errors import CheckpointError
from vol3d.workflows import split_guard
from vol3d.workflows.leakage import LeakageError
from vol3d.workflows.split_guard import FILE, require_apart
from vol3d.workflows.trained_on import KEY, MARK, noted, require_unseen

SMALL = PhantomOptions(ct_spacing_mm=(6.0, 6.0), pet_spacing_mm=((7.0, 7.0, 7.0),))


def rows_of(manifest):
    return [json.loads(line) for line in manifest.read_text().splitlines()]


def cache_of(vol3d, config, manifest, rows, name):
    """A cache of these rows. Their manifest stands beside the studies; the cache does not, as other tests list them."""
    path = manifest.parent / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = manifest.parent.parent / f"cache-{name}"
    assert vol3d("preprocess", path, "--config", config, "--out", out) == 0
    return out


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("guard") / "studies", 3, 31, options=SMALL)


@pytest.fixture(scope="module")
def copied(vol3d, tiny, phantoms):
    """The training study stands in the test split too, under another name and patient."""
    one, two, _ = rows_of(phantoms)
    rows = [
        {**one, "split": "train"}, {**two, "split": "val"},
        {**one, "study_id": "copy", "patient_id": "someone-else", "split": "test"},
    ]  # fmt: skip
    return cache_of(vol3d, tiny.config, phantoms, rows, "copied")


def test_a_copy_under_another_name_is_neither_trained_on_nor_evaluated(copied, vol3d, tiny, tmp_path, capsys):
    wanted = "cache-copied/copy (test) and cache-copied/phantom-0031-000000 (train): near-duplicate volume"
    assert vol3d("train", tiny.config, "--cache", copied, "--out", tmp_path / "run", *tiny.settings) == 1
    assert wanted in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert vol3d("evaluate", tiny.run, copied, "--out", tmp_path / "eval") == 1
    assert wanted in capsys.readouterr().err
    assert not (copied / FILE).exists()


def test_volumes_are_compared_once_until_something_changes(tiny, monkeypatch, tmp_path):
    cache = tmp_path / "cache"
    shutil.copytree(tiny.cache, cache)
    (cache / FILE).unlink(missing_ok=True)
    asked = []
    real = split_guard.require_no_leakage
    monkeypatch.setattr(
        split_guard, "require_no_leakage",
        lambda caches, near_duplicates=True: (asked.append(near_duplicates), real(caches, near_duplicates=False)),
    )  # fmt: skip
    require_apart(cache)
    require_apart(cache)
    assert asked == [False, True, False]  # patients, volumes, patients
    assert json.loads((cache / FILE).read_text())["pairs"] == split_guard.pairs_of(Cache(cache)) > 0
    (cache / FILE).write_text('{"apart": "another state"}')
    require_apart(cache)
    assert asked[3:] == [False, True]


def test_too_many_volumes_are_said_not_to_be_compared(copied, monkeypatch, caplog):
    monkeypatch.setattr(split_guard, "MOST_PAIRS", 1)
    with caplog.at_level(logging.WARNING, "vol3d"):
        require_apart(copied)
    assert "were not compared: 3 pairs" in caplog.text
    assert f"vol3d verify {copied} --near-duplicates" in caplog.text


def test_a_checkpoint_knows_whom_it_has_seen(tiny):
    seen = {s.role: s for s in noted(tiny.run)}
    splits = Cache(tiny.cache).table.column("split")
    for role, split in (("training", "train"), ("validation", "val")):
        assert seen[role].split == split
        assert len(seen[role].patients) == len(seen[role].scans) == MARK * splits.count(split)
    record = (find_model_folder(tiny.run) / "checkpoint.json").read_text()
    assert not any(key in record for key in Cache(tiny.cache).table.column("patient_key"))


def test_a_test_cache_with_a_patient_or_scan_of_the_training_is_refused(vol3d, tiny, tmp_path, capsys):
    known = next(r for r in rows_of(tiny.manifest) if r["split"] == "train")
    tuned = next(r for r in rows_of(tiny.manifest) if r["split"] == "val")
    new = next(r for r in rows_of(tiny.manifest) if r["split"] == "test")
    for name, row in (
        ("patient", {**new, "study_id": "again", "patient_id": known["patient_id"], "split": "test"}),
        ("scan", {**known, "study_id": "renamed", "patient_id": "someone-else", "split": "test"}),
        ("validation", {**tuned, "study_id": "tuned", "split": "test"}),
    ):
        cache = cache_of(vol3d, tiny.config, tiny.manifest, [row], name)
        assert vol3d("evaluate", tiny.run, cache, "--out", tmp_path / name) == 1
        error = capsys.readouterr().err
        assert f"found 1 of 1: {row['study_id']}; take them out" in error
        assert row["patient_id"] not in error
        assert vol3d("evaluate", tiny.run, cache, "--language", "--out", tmp_path / name) == 1
    row = {**known, "study_id": "elsewhere", "split": "val"}
    elsewhere = cache_of(vol3d, tiny.config, tiny.manifest, [row], "elsewhere")
    with pytest.raises(LeakageError):  # of another cache, trained patients are no validation
        require_unseen(tiny.run, Cache(elsewhere), "val")


@pytest.mark.parametrize(
    ("split", "words"), [("train", "say nothing about patients"), ("val", "are better than"), ("test", "None of the")]
)
def test_what_was_seen_may_be_evaluated_knowingly(tiny, split, words):
    seen = require_unseen(tiny.run, Cache(tiny.cache), split)
    assert seen["compared"]
    assert words in seen["statement"]


def test_a_checkpoint_that_does_not_say_is_evaluated_with_a_word(tiny, tmp_path, caplog):
    shutil.copytree(tiny.run / "last", tmp_path / "old")
    path = tmp_path / "old" / "checkpoint.json"
    record = json.loads(path.read_text())
    del record[KEY]
    path.write_text(json.dumps(record))
    with caplog.at_level(logging.WARNING, "vol3d"):
        assert not require_unseen(tmp_path / "old", Cache(tiny.cache), "test")["compared"]
    assert "does not say which patients" in caplog.text
    with pytest.raises(CheckpointError):
        noted(tmp_path / "nothing")


def test_marks_come_along_with_weights_and_exports(vol3d, tiny, phantoms, tmp_path):
    rows = [{**row, "split": split} for row, split in zip(rows_of(phantoms), ("train", "val", "test"), strict=True)]
    cache = cache_of(vol3d, tiny.config, phantoms, rows, "next")
    run = tmp_path / "run"
    more = ["--init", tiny.run, *tiny.settings]
    assert vol3d("train", tiny.config, "--cache", cache, "--out", run, *more) == 0
    assert noted(run)[2:] == noted(tiny.run)
    assert vol3d("export-model", run, "--out", tmp_path / "model") == 0
    assert noted(tmp_path / "model") == noted(run)
    first = Cache(tiny.cache)
    first.select = lambda split=None: list(first.table.of_split("train").study_ids)  # taken for a test set
    with pytest.raises(LeakageError, match="found 3 of 3"):
        require_unseen(run, first, "test")

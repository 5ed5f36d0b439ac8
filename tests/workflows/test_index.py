"""`vol3d index`: what of a manifest is there, in however many roots, and what is not."""

import json

import numpy as np
import pytest

from vol3d.cache import Cache, MaskRecord
from vol3d.cache_write import EntryData, create_cache, write_entry
from vol3d.errors import CacheError, ConfigError, ManifestError
from vol3d.geometry import Grid
from vol3d.volume import Volume
from vol3d.workflows.index import index

GRID = Grid.from_spacing((6, 6, 6), (3.0, 3.0, 3.0), (0.0, 0.0, 0.0))


def make(root, *studies):
    cache = create_cache(root, {}, "r")
    mask = np.zeros(GRID.shape, np.uint8)
    mask[2:4, 2:4, 2:4] = 1
    for study in studies:
        attributes = {"recipe_digest": "r", "fingerprint": study, "split": "train", "absent": [], "patient_key": study}
        data = EntryData(
            study_id=study,
            images={"ct": Volume(np.full(GRID.shape, 40.0, np.float32), GRID, "ct")},
            masks=[(MaskRecord(name="m", image="ct", phrases=("liver",), label="liver"), mask)],
            source_grids={"ct": GRID},
            attributes=attributes,
            chunk=8,
        )
        write_entry(cache.root, data)
    return root


@pytest.fixture
def roots(tmp_path):
    one, two = make(tmp_path / "one", "a", "c"), make(tmp_path / "two", "b")
    (two / "quarantine.jsonl").write_text('{"study_id": "e", "reason": "ReadError: no image"}\n')
    (one / "studies/.d~elsewhere~1~0").mkdir()
    return [one, two]


def test_what_is_there_and_what_is_missing(roots, tmp_path):
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps({"study_id": s, "ct": "not looked for"}) + "\n" for s in "abcde"))
    found = index(roots, out=tmp_path / "all", manifest=manifest)
    assert list(found.missing) == ["d"]
    text = "\n".join(found.lines())
    assert f"{roots[0]}: 2 studies" in text
    assert "all: 3 train" in text
    assert "quarantined: 1 ReadError\n  e: ReadError: no image" in text
    assert "unfinished: 1 hidden folders" in text
    assert Cache(tmp_path / "all").select() == ["a", "b", "c"]
    assert all((root / "index.parquet").is_file() for root in roots)


def test_what_is_asked_wrongly(roots, tmp_path):
    with pytest.raises(ConfigError, match="expected --out JOINED with several caches, found 2"):
        index(roots)
    (tmp_path / "m.jsonl").write_text("[]\n")
    with pytest.raises(ManifestError, match="expected JSON lines with a study_id"):
        index(roots[:1], manifest=tmp_path / "m.jsonl")


def test_a_joined_cache_is_none_of_its_own_parts(roots, tmp_path):
    """As `vol3d index caches/* --out caches/all` asks for at its second call; what was joined before stays."""
    joined = tmp_path / "all"
    index(roots, out=joined)
    for parts in ([joined], [*roots, joined]):
        with pytest.raises(CacheError, match="expected a folder for the joined cache that is none of its parts"):
            index(parts, out=joined)
    twice = make(tmp_path / "twice", "a")
    with pytest.raises(CacheError, match="found 1 in several"):
        index([*roots, twice], out=joined)
    assert Cache(joined).select() == ["a", "b", "c"]


def test_a_spoilt_list_of_the_quarantined_is_named(roots):
    path = roots[1] / "quarantine.jsonl"
    path.write_text(path.read_text() + "\n")
    assert list(Cache(roots[1]).quarantine()) == ["e"]
    path.write_text('{"study_id": "e", "rea')
    with pytest.raises(CacheError, match=r"expected a study_id and a reason in every line of .*quarantine.jsonl"):
        Cache(roots[1]).quarantine()

import dataclasses
import json
import os
import pickle

import numpy as np
import pytest
import zarr

from vol3d.cache import Cache, Entry, MaskRecord, check_study_id, entry_path, level_grid
from vol3d.cache_write import EntryData, abandoned, create_cache, half, write_entry
from vol3d.errors import CacheError, FingerprintError, ManifestError
from vol3d.geometry import Grid
from vol3d.volume import Volume

GRID = Grid.from_spacing((21, 34, 40), (3.0, 2.0, 2.0), (-40.0, -30.0, 100.0))
NATIVE = Grid.from_spacing((16, 17, 18), (4.0, 4.0, 5.0), (-40.0, -30.0, 100.0)).flip((1,))


def study(study_id="s1", seed=0):
    rng = np.random.default_rng(seed)
    ct = rng.integers(-1000, 2000, GRID.shape).astype(np.float32)
    pet = rng.random(GRID.shape, dtype=np.float32) * 20
    liver = np.zeros(GRID.shape, np.uint8)
    liver[3:15, 4:30, 5:33] = 1  # overlaps the lesion
    lesion = np.zeros(GRID.shape, np.uint8)
    lesion[10:12, 10:12, 10:13] = 1
    native = rng.random(NATIVE.shape, dtype=np.float32) * 30
    return EntryData(
        study_id=study_id,
        images={"ct": Volume(ct, GRID, "ct"), "pet": Volume(pet, GRID, "pet")},
        masks=[
            (MaskRecord(name="liver", image="ct", phrases=("liver", "hepatic parenchyma"), label="liver"), liver),
            (MaskRecord(name="lesion", image="ct", phrases=("liver lesion",), finding_id="f1"), lesion),
        ],
        source_grids={"ct": GRID.crop((2, 0, 0), (19, 34, 40)), "pet": NATIVE},
        pet_native=Volume(native, NATIVE, "pet"),
        native_masks={"lesion": (native > 25).astype(np.uint8)},
        attributes={"recipe_digest": "r", "fingerprint": "f" + study_id, "split": "train", "absent": ["spleen lesion"]},
        levels=3,
        chunk=16,
    )


@pytest.fixture
def root(tmp_path):
    create_cache(tmp_path, {"spacing_mm": [3, 2, 2]}, "r")
    return tmp_path


def test_arrays_come_back_as_written(root):
    data = study()
    write_entry(root, data)
    entry = Cache(root).entry("s1")
    whole = (0, 0, 0), GRID.shape
    np.testing.assert_array_equal(entry.read("ct", *whole), data.images["ct"].array_ZYX)
    assert entry.read("ct", *whole).dtype == np.int16
    np.testing.assert_allclose(entry.read("pet", *whole), data.images["pet"].array_ZYX, rtol=2.0**-11)
    for record, mask in data.masks:
        np.testing.assert_array_equal(entry.read_mask(record.name, *whole), mask)
    np.testing.assert_array_equal(entry.pet_native().array_ZYX, data.pet_native.array_ZYX)
    np.testing.assert_array_equal(entry.native_mask("lesion"), data.native_masks["lesion"])
    assert entry.grid.same_as(GRID, 1e-9)
    assert entry.pet_native().grid.same_as(NATIVE, 1e-9)


def test_a_crop_past_the_edge_is_air_and_zero(root):
    data = study()
    write_entry(root, data)
    entry = Cache(root).entry("s1")
    crop = entry.read("ct", (-2, 30, 5), (4, 38, 9))
    assert crop.shape == (6, 8, 4)
    assert (crop[:2] == -1024).all()
    assert (crop[:, 4:] == -1024).all()
    np.testing.assert_array_equal(crop[2:, :4], data.images["ct"].array_ZYX[:4, 30:34, 5:9])
    assert not entry.read("pet", (-9, 0, 0), (-1, 5, 5)).any()
    assert not entry.read_mask("liver", (21, 0, 0), (25, 4, 4)).any()


def test_coverage_is_the_source_box(root):
    write_entry(root, study())
    covered = Cache(root).entry("s1").coverage("ct", (0, 0, 0), (21, 34, 40))
    assert covered[2:19].all()
    assert not covered[:2].any()
    assert not covered[19:].any()


def test_foreground_lists_members(root):
    write_entry(root, study())
    entry = Cache(root).entry("s1")
    assert len(entry.foreground("lesion")) == entry.mask("lesion").voxels == 12
    liver = entry.foreground("liver")
    assert len(liver) == 4096
    assert entry.read_mask("liver", (0, 0, 0), GRID.shape)[tuple(liver.T)].all()


def test_suv_on_the_common_grid_is_float16(root):
    suv = np.array([0.0, 1.0, 1 + 2.0**-10, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 7.910674, -3.3, 6e4], np.float32)
    found = half(suv)
    np.testing.assert_allclose(found.astype(np.float32), suv, rtol=2.0**-11)
    assert found[:5].tolist() == [0.0, 1.0, 1 + 2.0**-10, 1.0, 1 + 2 * 2.0**-10]  # ties to even
    tiny = np.linspace(-6e-5, 6e-5, 1001, dtype=np.float32)
    np.testing.assert_allclose(half(tiny).astype(np.float32), tiny, rtol=0, atol=2.0**-25)
    many = np.random.default_rng(0).random(1000, dtype=np.float32) * 20
    assert abs(float(np.mean(half(many).astype(np.float32) / many)) - 1) < 1e-5  # no drift up or down
    entry = Entry(write_entry(root, study()))
    assert entry.stored == {"ct": "int16", "pet": "float16"}
    assert entry.read("pet", (0, 0, 0), (2, 2, 2)).dtype == entry.read_level("pet", 1).array_ZYX.dtype == np.float32


@pytest.mark.parametrize("odd", [np.nan, np.inf, 65505.0])
def test_suv_that_no_float16_holds_stays_float32(root, odd):
    data = study()
    data.images["pet"].array_ZYX[3, 4, 5] = odd
    entry = Entry(write_entry(root, data))
    assert entry.stored["pet"] == "float32"
    np.testing.assert_array_equal(entry.read("pet", (0, 0, 0), GRID.shape), data.images["pet"].array_ZYX)


def test_pyramid_keeps_the_world(root):
    """A level's first voxel is centred on the block it averages: translation grows by (scale_n - scale_0) / 2."""
    write_entry(root, study())
    entry = Cache(root).entry("s1")
    level = entry.read_level("pet", 1)
    first = entry.read("pet", (0, 0, 0), (2, 2, 2)).mean()
    assert level.array_ZYX[0, 0, 0] == pytest.approx(first, rel=2.0**-10)
    assert level.grid.origin_mm == pytest.approx((-39.0, -29.0, 101.5))
    assert level_grid(GRID, 2).spacing_mm == pytest.approx((12.0, 8.0, 8.0))
    ome = zarr.open_group(entry.path / "pet", mode="r").attrs["ome"]
    assert ome["version"] == "0.5"
    transforms = ome["multiscales"][0]["datasets"][1]["coordinateTransformations"]
    assert transforms[0]["scale"] == [6.0, 4.0, 4.0]
    assert transforms[1]["translation"] == pytest.approx([101.5, -29.0, -39.0])


def test_zarr_python_reads_the_same(root):
    data = study()
    path = write_entry(root, data)
    np.testing.assert_array_equal(zarr.open_group(path, mode="r")["pet/0"][:], half(data.images["pet"].array_ZYX))
    assert zarr.open_group(path, mode="r")["ct/labels"].attrs["ome"]["labels"] == ["lesion", "liver"]


def test_a_failed_write_leaves_nothing(root):
    data = study()
    data.masks.append((MaskRecord(name="liver", image="ct", phrases=("again",)), data.masks[0][1]))
    with pytest.raises(Exception, match="liver"):
        write_entry(root, data)
    assert list((root / "studies").iterdir()) == []


def test_rewriting_replaces_whole_entries(root):
    write_entry(root, study(seed=0))
    newer = study(seed=1)
    write_entry(root, newer)
    entry = Cache(root).entry("s1")
    np.testing.assert_array_equal(entry.read("pet", (0, 0, 0), GRID.shape), half(newer.images["pet"].array_ZYX))
    assert [p.name for p in (root / "studies").iterdir()] == ["s1.zarr"]


def test_abandoned_sees_only_dead_writers(root):
    studies = root / "studies"
    host = os.uname().nodename
    (studies / f".a~{host}~{os.getpid()}~00").mkdir()
    (studies / f".b~{host}~4194304~00").mkdir()  # above the largest pid there can be
    (studies / ".c~elsewhere~1~00").mkdir()
    assert [p.name.split("~")[0] for p in abandoned(root)] == [".b"]


def test_damage_is_an_error_that_says_what_to_do(root):
    path = write_entry(root, study())
    shard = next(p for p in (path / "ct" / "0" / "c").rglob("*") if p.is_file())
    content = bytearray(shard.read_bytes())
    content[200] ^= 0xFF
    shard.write_bytes(content)
    with pytest.raises(CacheError, match="damaged"):
        Cache(root).entry("s1").read("ct", (0, 0, 0), GRID.shape)


@pytest.mark.parametrize("key", ["ct/0", "pet_native/0", "ct/labels/liver/0", "index/foreground"])
def test_data_that_is_gone_is_no_zeros(root, key):
    path = write_entry(root, study())
    for file in [p for p in (path / key / "c").rglob("*") if p.is_file()]:
        file.unlink()
    entry = Cache(root).entry("s1")
    read = {
        "ct/0": lambda: entry.read("ct", (0, 0, 0), (4, 4, 4)),
        "pet_native/0": entry.pet_native,
        "ct/labels/liver/0": lambda: entry.read_mask("liver", (0, 0, 0), (4, 4, 4)),
        "index/foreground": lambda: entry.foreground("liver"),
    }
    with pytest.raises(CacheError, match="is gone"):
        read[key]()


def test_an_empty_mask_on_the_native_pet_is_no_damage(root):
    write_entry(root, dataclasses.replace(study(), native_masks={"lesion": np.zeros(NATIVE.shape, np.uint8)}))
    assert not Cache(root).entry("s1").native_mask("lesion").any()


def test_an_incomplete_record_is_named(root):
    path = write_entry(root, study()) / "zarr.json"
    header = json.loads(path.read_text())
    del header["attributes"]["vol3d"]["source_grids"]
    path.write_text(json.dumps(header))
    with pytest.raises(CacheError, match="found no source_grids"):
        Cache(root).entry("s1")
    (root / "cache.json").write_text('{"schema": 1}')
    with pytest.raises(CacheError, match="recipe_digest"):
        Cache(root)


def test_other_recipe_and_schema_are_refused(root):
    path = write_entry(root, study())
    with pytest.raises(FingerprintError, match="another --out"):
        create_cache(root, {}, "other")
    header = json.loads((path / "zarr.json").read_text())
    header["attributes"]["vol3d"]["recipe_digest"] = "older"
    (path / "zarr.json").write_text(json.dumps(header))
    with pytest.raises(FingerprintError, match="preprocess again"):
        Cache(root).entry("s1")
    header["attributes"]["vol3d"]["schema"] = 99
    (path / "zarr.json").write_text(json.dumps(header))
    with pytest.raises(CacheError, match="schema"):
        Entry(path)


@pytest.mark.parametrize("bad", ["../x", "", ".hidden", "a/b", "a b", "x" * 129, "é", None, "a\n"])
def test_study_ids_never_become_paths_unchecked(bad, tmp_path):
    with pytest.raises(ManifestError, match="study_id"):
        check_study_id(bad)
    with pytest.raises(ManifestError):
        entry_path(tmp_path, bad)


def test_entries_travel_to_workers(root):
    write_entry(root, study())
    entry = Cache(root).entry("s1")
    entry.read("ct", (0, 0, 0), (4, 4, 4))
    twin = pickle.loads(pickle.dumps(entry))
    np.testing.assert_array_equal(twin.read("ct", (0, 0, 0), (4, 4, 4)), entry.read("ct", (0, 0, 0), (4, 4, 4)))
    assert twin.absent == ["spleen lesion"]


def test_not_a_cache(tmp_path):
    with pytest.raises(CacheError, match="vol3d preprocess"):
        Cache(tmp_path)

import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest

from preprocessing import build_cache
from preprocessing.build_cache import preprocess
from preprocessing.manifest import Row, read_manifest
from preprocessing.transforms import PreprocessConfig
from preprocessing.verify_cache import verify
from vol3d.cache import Cache, entry_path
from vol3d.cache_write import create_cache
from vol3d.errors import ConfigError, FingerprintError
from vol3d.export.nifti import write_nifti
from vol3d.geometry import Grid

GRID = Grid.from_spacing((20, 24, 28), (3.0, 3.0, 3.0), (-42.0, -36.0, 0.0)).flip((1, 2))
PET = Grid.from_spacing((15, 16, 18), (4.0, 4.5, 4.67), (-42.0, -36.0, 0.0))
RECIPE = PreprocessConfig(
    spacing_mm=(3.0, 3.0, 3.0), extent="ct", body_crop=False, body_margin_mm=0.0, levels=2, chunk=16
)


def write_study(folder, number, with_pet=True):
    """A box of soft tissue in air; the mask is its left half by the world's x, whatever the array's axes."""
    rng = np.random.default_rng(number)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in GRID.shape], indexing="ij"), -1)
    x = GRID.index_to_mm(index)[..., 0]
    body = (np.abs(x) < 30).astype(np.float32)
    ct = np.where(body > 0, 40, -1000) + rng.normal(0, 5, GRID.shape)
    name = f"s{number:02d}"
    write_nifti(folder / f"{name}-ct.nii.gz", ct.astype(np.int16), GRID)
    write_nifti(folder / f"{name}-left.nii.gz", ((x < 0) & (body > 0)).astype(np.uint8), GRID)
    row = {
        "study_id": name, "patient_id": f"patient-{number // 2}", "ct": f"{name}-ct.nii.gz", "split": "train",
        "masks": [{"path": f"{name}-left.nii.gz", "label": "left_half", "phrases": ["left half"]}],
        "absent": ["kidney"],
    }  # fmt: skip
    if with_pet:
        write_nifti(folder / f"{name}-pet.nii.gz", rng.random(PET.shape).astype(np.float32) * 4, PET)
        row["pet"] = f"{name}-pet.nii.gz"
    return row


def write_manifest(folder, rows):
    path = folder / "manifest.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(manifest, out, **options):
    return preprocess(manifest, RECIPE, out, show_progress=False, **options)


@pytest.fixture
def manifest(tmp_path):
    return write_manifest(tmp_path, [write_study(tmp_path, n) for n in range(4)])


def test_the_world_is_kept(manifest, tmp_path):
    run(manifest, tmp_path / "cache")
    entry = Cache(tmp_path / "cache").entry("s00")
    assert entry.grid.orientation == "SAR"
    assert entry.grid.same_as(GRID.flip((1, 2)))  # same spacing, same box: only axes were turned
    members = entry.grid.index_to_mm(entry.foreground("left_half"))
    assert members[:, 0].max() < 0  # left is negative x in RAS
    inside = entry.read_mask("left_half", (0, 0, 0), entry.grid.shape) > 0
    assert entry.read("ct", (0, 0, 0), entry.grid.shape)[inside].mean() == pytest.approx(40, abs=1)
    assert entry.pet_native().grid.same_as(PET)
    native_x = PET.index_to_mm(np.argwhere(entry.native_mask("left_half")))[:, 0]
    assert native_x.max() < 3
    assert not verify(tmp_path / "cache", show_progress=False)


def test_no_identity_is_stored_and_patients_stay_linked(manifest, tmp_path):
    run(manifest, tmp_path / "cache")
    cache = Cache(tmp_path / "cache")
    keys = [cache.entry(s).patient_key for s in cache.study_ids]
    assert keys[0] == keys[1] != keys[2] == keys[3]
    stored = "".join(p.read_text() for p in (tmp_path / "cache").rglob("zarr.json"))
    assert "patient-" not in stored
    assert str(tmp_path) not in stored


def test_shards_partition_and_workers_agree(manifest, tmp_path):
    first = run(manifest, tmp_path / "a", shard=(1, 2))
    second = run(manifest, tmp_path / "a", shard=(2, 2), workers=2)
    assert sorted(first.built + second.built) == ["s00", "s01", "s02", "s03"]
    run(manifest, tmp_path / "b")
    for study in first.built + second.built:
        a, b = (Cache(tmp_path / c).entry(study) for c in "ab")
        np.testing.assert_array_equal(a.read("ct", (0, 0, 0), a.grid.shape), b.read("ct", (0, 0, 0), b.grid.shape))
        assert a.fingerprint == b.fingerprint
    with pytest.raises(ConfigError, match="I/N"):
        run(manifest, tmp_path / "a", shard=(3, 2))


def test_resume_builds_only_what_changed(manifest, tmp_path):
    run(manifest, tmp_path / "cache")
    before = Cache(tmp_path / "cache").entry("s02").fingerprint
    again = run(manifest, tmp_path / "cache")
    assert again.built == []
    assert len(again.kept) == 4
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    rows[2]["masks"][0]["phrases"].append("sinister half")
    write_manifest(tmp_path, rows)
    assert run(manifest, tmp_path / "cache").built == ["s02"]
    assert Cache(tmp_path / "cache").entry("s02").fingerprint != before
    os.utime(tmp_path / "s01-ct.nii.gz", ns=(1, 1))
    assert run(manifest, tmp_path / "cache").built == ["s01"]
    other = PreprocessConfig(
        spacing_mm=(4.0, 4.0, 4.0), extent="ct", body_crop=False, body_margin_mm=0.0, levels=2, chunk=16
    )
    with pytest.raises(FingerprintError, match="recipe"):
        preprocess(manifest, other, tmp_path / "cache", show_progress=False)


def test_bad_studies_are_quarantined_with_reasons_and_leave_when_mended(tmp_path):
    rows = [write_study(tmp_path, n) for n in range(3)]
    (tmp_path / "s01-ct.nii.gz").write_bytes(b"not an image")
    rows[2]["absent"] = ["left half"]
    manifest = write_manifest(tmp_path, [*rows, {"study_id": "s03", "ct": "nowhere.nii.gz"}])
    summary = run(manifest, tmp_path / "cache", workers=2)
    assert summary.built == ["s00"]
    listed = {r["study_id"]: r["reason"] for r in map(json.loads, (tmp_path / "cache/quarantine.jsonl").open())}
    assert set(listed) == {"s01", "s02", "s03"} == set(summary.quarantined)
    assert "s01-ct.nii.gz" in listed["s01"]
    assert "present or absent" in listed["s02"]
    assert "nowhere.nii.gz" in listed["s03"]
    rows[1] = write_study(tmp_path, 1)
    write_manifest(tmp_path, rows[:2])
    assert run(manifest, tmp_path / "cache").quarantined == {}
    listed = {json.loads(line)["study_id"] for line in (tmp_path / "cache/quarantine.jsonl").open()}
    assert listed == {"s02", "s03"}  # not asked about this time


def test_an_error_that_nobody_foresaw_costs_one_study(tmp_path, monkeypatch):
    def build(row, *args, **options):
        if row.study_id == "s00":
            return {}["missing"]
        return build_cache_entry(row, *args, **options)

    build_cache_entry = build_cache.build_entry
    monkeypatch.setattr(build_cache, "build_entry", build)
    summary = run(write_manifest(tmp_path, [write_study(tmp_path, n) for n in range(2)]), tmp_path / "cache")
    assert summary.built == ["s01"]
    assert "please report: KeyError: 'missing' (test_build_cache.py, line" in summary.quarantined["s00"]


def test_a_mask_of_another_grid_is_refused(tmp_path):
    row = write_study(tmp_path, 0)
    shifted = GRID.crop((0, 0, 1), (20, 24, 29))
    write_nifti(tmp_path / "s00-left.nii.gz", np.ones(shifted.shape, np.uint8), shifted)
    summary = run(write_manifest(tmp_path, [row]), tmp_path / "cache")
    assert "on the CT or PET grid" in summary.quarantined["s00"]


def test_an_empty_mask_makes_its_phrases_absent(tmp_path):
    row = write_study(tmp_path, 0)
    write_nifti(tmp_path / "s00-left.nii.gz", np.zeros(GRID.shape, np.uint8), GRID)
    run(write_manifest(tmp_path, [row]), tmp_path / "cache")
    entry = Cache(tmp_path / "cache").entry("s00")
    assert entry.masks == ()
    assert entry.absent == ["kidney", "left half"]


def test_a_finding_too_small_for_one_of_two_grids_is_present(tmp_path):
    row = write_study(tmp_path, 0)
    write_nifti(tmp_path / "pet-left.nii.gz", np.zeros(PET.shape, np.uint8), PET)
    row["masks"][0]["finding_id"] = "f1"
    row["masks"].append({**row["masks"][0], "path": "pet-left.nii.gz"})
    run(write_manifest(tmp_path, [row]), tmp_path / "cache")
    entry = Cache(tmp_path / "cache").entry("s00")
    assert entry.absent == ["kidney"]
    assert [m.phrases for m in entry.masks] == [("left half",)]


def test_one_finding_drawn_on_both_grids_is_one_mask(tmp_path):
    row = write_study(tmp_path, 0)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in PET.shape], indexing="ij"), -1)
    on_pet = (PET.index_to_mm(index)[..., 0] < 0).astype(np.uint8)
    on_pet[0] = 0  # differs from the CT's drawing, so that we can tell which one is kept
    write_nifti(tmp_path / "pet-left.nii.gz", on_pet, PET)
    row["masks"][0]["finding_id"] = "f1"
    row["masks"].append({**row["masks"][0], "path": "pet-left.nii.gz"})
    run(write_manifest(tmp_path, [row]), tmp_path / "cache")
    entry = Cache(tmp_path / "cache").entry("s00")
    assert [m.name for m in entry.masks] == ["left_half"]
    np.testing.assert_array_equal(entry.native_mask("left_half"), on_pet)
    assert entry.read_mask("left_half", (0, 0, 0), entry.grid.shape)[0].any()


def ball(grid, at_xyz, radius_mm):
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), -1)
    return (np.linalg.norm(grid.index_to_mm(index) - at_xyz, axis=-1) < radius_mm).astype(np.uint8)


def drawn(tmp_path, order, row):
    """Two lesions of one finding: a and b on the CT, A and B on the PET, 40 mm apart; listed in this order."""
    grids, places = {"a": GRID, "b": GRID, "A": PET, "B": PET}, {"a": (-20, 0, 30), "b": (20, 0, 30)}
    masks = []
    for letter in order:
        path = f"lesion-{letter}-{letter.isupper()}.nii.gz"
        write_nifti(tmp_path / path, ball(grids[letter], places[letter.lower()], 8), grids[letter])
        masks.append({"path": path, "label": "lesion", "phrases": ["lesion"], "finding_id": "f1"})
    return {**row, "masks": masks}


@pytest.mark.parametrize("order", ["aAbB", "abAB", "abBA", "ABab", "BAab", "aBbA"])
def test_each_drawing_on_the_pet_goes_with_the_lesion_that_it_overlaps(tmp_path, order):
    run(write_manifest(tmp_path, [drawn(tmp_path, order, write_study(tmp_path, 0))]), tmp_path / "cache")
    entry = Cache(tmp_path / "cache").entry("s00")
    assert len(entry.masks) == 2
    for mask in entry.masks:
        left = entry.grid.index_to_mm(entry.foreground(mask.name))[:, 0].mean() < 0
        np.testing.assert_array_equal(entry.native_mask(mask.name), ball(PET, (-20 if left else 20, 0, 30), 8))


def test_two_lesions_of_one_finding_on_one_image_stay_two_whatever_way_they_are_stored(tmp_path):
    row = drawn(tmp_path, "ab", write_study(tmp_path, 0))
    flipped = GRID.flip((2,))
    write_nifti(tmp_path / row["masks"][1]["path"], ball(flipped, (20, 0, 30), 8), flipped)
    run(write_manifest(tmp_path, [row]), tmp_path / "cache")
    assert [m.name for m in Cache(tmp_path / "cache").entry("s00").masks] == ["lesion", "lesion_2"]


def test_the_native_mask_is_the_one_drawn_on_the_pet_also_where_that_is_finer(tmp_path):
    fine = Grid.from_spacing((24, 30, 30), (2.5, 2.5, 2.5), (-36.0, -36.0, 0.0))
    row = write_study(tmp_path, 0)
    assert fine.voxel_ml < GRID.voxel_ml
    write_nifti(tmp_path / "pet.nii.gz", np.random.default_rng(1).random(fine.shape).astype(np.float32) * 4, fine)
    on_pet = np.zeros(fine.shape, np.uint8)
    on_pet[5:9, 7:13, 11:16] = 1
    write_nifti(tmp_path / "pet-mask.nii.gz", on_pet, fine)
    row |= {"pet": "pet.nii.gz"}
    row["masks"][0]["finding_id"] = "f1"
    row["masks"].append({**row["masks"][0], "path": "pet-mask.nii.gz"})
    run(write_manifest(tmp_path, [row]), tmp_path / "cache")
    np.testing.assert_array_equal(Cache(tmp_path / "cache").entry("s00").native_mask("left_half"), on_pet)


def test_one_study_that_kills_its_worker_is_named_and_the_rest_goes_on_together(tmp_path, monkeypatch):
    """`_pool` stands in for the real one, which ends at the death of a worker: here study 5 kills it."""
    jobs = [SimpleNamespace(row=SimpleNamespace(study_id=f"s{n:02d}")) for n in range(40)]
    alone = []

    def pool(jobs, workers):
        if workers == 1:
            alone.extend(job.row.study_id for job in jobs)
        for job in jobs:
            if job.row.study_id == "s05":
                return
            yield build_cache.Outcome(job.row.study_id, "built")

    monkeypatch.setattr(build_cache, "_pool", pool)
    outcomes = {o.study_id: o for o in build_cache._run(jobs, 4)}
    assert sorted(outcomes) == [f"s{n:02d}" for n in range(40)]
    assert [o.study_id for o in outcomes.values() if o.state == "quarantined"] == ["s05"]
    assert "killed" in outcomes["s05"].reason
    assert alone == ["s05", "s06", "s07", "s08"]


def test_broken_off_it_does_not_build_the_rest_first(tmp_path):
    """As by a signal to the command alone, which its workers do not get."""
    rows = [write_study(tmp_path, n, with_pet=False) for n in range(16)]
    good = [row for row in read_manifest(write_manifest(tmp_path, rows)) if isinstance(row, Row)]
    cache = create_cache(tmp_path / "cache", {}, "r")
    outcomes = build_cache._pool([build_cache.Job(row, RECIPE, cache.root, False) for row in good], 2)
    assert next(outcomes).state == "built"
    outcomes.close()
    assert len(list((cache.root / "studies").glob("*.zarr"))) < 12  # one, those in the works and in the queue for it


def test_sigkill_leaves_no_broken_entry(tmp_path):
    """Killed at several moments, restarted, and in the end equal to a run that was never killed."""
    manifest = write_manifest(tmp_path, [write_study(tmp_path, n) for n in range(12)])
    (tmp_path / "recipe.yaml").write_text(
        "{spacing_mm: [3, 3, 3], extent: ct, body_crop: false, body_margin_mm: 0.0, levels: 2, chunk: 16}"
    )
    command = [sys.executable, "-m", "vol3d.cli", "preprocess", str(manifest), "--out", str(tmp_path / "cache")]
    command += ["--config", str(tmp_path / "recipe.yaml"), "--workers", "2"]
    killed_midway = 0
    for extra in (0.0, 0.2):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 300  # a busy machine; what matters is that it starts at all
        started = len(list((tmp_path / "cache").glob("studies/*"))) if (tmp_path / "cache").exists() else 0
        while len(list((tmp_path / "cache").glob("studies/*"))) <= started and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(extra)
        os.killpg(process.pid, signal.SIGKILL)
        killed_midway += process.wait() == -signal.SIGKILL
        cache = Cache(tmp_path / "cache")
        for study in cache.study_ids:  # whatever is visible is whole
            entry = cache.entry(study)
            assert entry.read("ct", (0, 0, 0), entry.grid.shape).std() > 100
    assert killed_midway >= 1
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
    assert len(Cache(tmp_path / "cache").study_ids) == 12
    assert not verify(tmp_path / "cache", show_progress=False)
    assert all(p.suffix == ".zarr" and not p.name.startswith(".") for p in (tmp_path / "cache/studies").iterdir())


def test_verify_names_what_is_wrong(manifest, tmp_path):
    run(manifest, tmp_path / "cache")
    root = tmp_path / "cache"
    shard = next(p for p in (entry_path(root, "s01") / "pet/0/c").rglob("*") if p.is_file())
    shard.write_bytes(shard.read_bytes()[:-40])
    path = entry_path(root, "s02") / "zarr.json"
    header = json.loads(path.read_text())
    header["attributes"]["vol3d"]["masks"][0]["voxels"] += 1
    path.write_text(json.dumps(header))
    path = entry_path(root, "s03") / "zarr.json"
    header = json.loads(path.read_text())
    header["attributes"]["vol3d"]["grid"]["affine"][0][3] += 50
    path.write_text(json.dumps(header))
    faults = verify(root, show_progress=False)
    assert set(faults) == {"s01", "s02", "s03"}
    assert "OME-Zarr" in faults["s03"][0]
    assert "expected" in faults["s02"][0]


def test_verify_lets_reconstruction_noise_under_zero_pass(tmp_path):
    row = write_study(tmp_path, 0)
    noise = np.random.default_rng(0).normal(0.5, 0.5, PET.shape).astype(np.float32)
    write_nifti(tmp_path / "s00-pet.nii.gz", noise, PET)
    run(write_manifest(tmp_path, [row]), tmp_path / "cache")
    assert not verify(tmp_path / "cache", show_progress=False)


def test_an_entry_whose_study_was_quarantined_since_is_named(tmp_path):
    manifest = write_manifest(tmp_path, [write_study(tmp_path, n) for n in range(2)])
    run(manifest, tmp_path / "cache")
    (tmp_path / "s01-ct.nii.gz").write_bytes(b"broken")
    assert set(run(manifest, tmp_path / "cache").quarantined) == {"s01"}
    faults = verify(tmp_path / "cache", show_progress=False)
    assert set(faults) == {"s01"}
    assert "earlier run" in faults["s01"][0]
    assert Cache(tmp_path / "cache").study_ids == ("s00",)  # nobody trains on it

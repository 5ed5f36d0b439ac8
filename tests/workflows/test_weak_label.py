"""`vol3d weak-label` on studies written as files: the new manifest preprocesses, decisions are honoured."""

import json
import os
import shutil

import numpy as np
import pytest
from scipy import ndimage

from vol3d.cache import Cache
from vol3d.export.nifti import read_array, read_grid, write_nifti
from vol3d.geometry import Grid

GRID = Grid.from_spacing((24, 24, 24), (4.0, 4.0, 4.0))
CENTRES = {"a": (8, 12, 8), "b": (14, 9, 15)}


def ball(centre, radius):
    index = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"), -1)
    return np.linalg.norm(index - centre, axis=-1) <= radius


@pytest.fixture(scope="module")
def studies(tmp_path_factory, vol3d):
    folder = tmp_path_factory.mktemp("weak")
    rows = []
    for study, centre in CENTRES.items():
        suv = 0.5 + 7.0 * ndimage.gaussian_filter(ball(centre, 4).astype(float), 1.0)
        suv[:, :2] = 0.0
        suv[centre] = 8.0
        write_nifti(folder / f"{study}.nii.gz", suv.astype(np.float32), GRID)
        number = centre[0] + 1
        report = (f"FDG-avid mass, SUVmax 8.0 (slice {number}). Node with SUVmax 3.0 (slice {number}). "
                  "No other FDG-avid lesion.")  # fmt: skip
        rows.append({"study_id": study, "patient_id": study, "pet": f"{study}.nii.gz", "report": {"findings": report}})
    mask = ball(CENTRES["a"], 4).astype(np.uint8)
    write_nifti(folder / "truth.nii.gz", mask, GRID)
    truth = {"path": "truth.nii.gz", "finding_id": "t1", "label": "tumour", "phrases": ["mass of the left thigh"]}
    rows.append({"study_id": "c", "patient_id": "c", "pet": "a.nii.gz", "masks": [truth]})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        "spacing_mm: [4.0, 4.0, 4.0]\nextent: union\nbody_crop: false\nbody_margin_mm: 0.0\nlevels: 1\nchunk: 16\n"
    )
    assert vol3d("preprocess", folder / "manifest.jsonl", "--config", recipe, "--out", folder / "cache") == 0
    return folder


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_labels_preprocess_and_hold_the_lesion(studies, tmp_path, vol3d):
    out, audit = tmp_path / "weak.jsonl", tmp_path / "audit"
    command = ("weak-label", studies / "cache", "--manifest", studies / "manifest.jsonl", "--out", out)
    assert vol3d(*command, "--audit", audit) == 0
    rows = {row["study_id"]: row for row in lines(out)}
    assert rows["a"]["masks"][0]["phrases"] == ["FDG-avid mass"]
    mask = read_array(tmp_path / rows["a"]["masks"][0]["path"])
    assert mask[CENTRES["a"]] == 1
    assert 150 < mask.sum() < 450  # the ball has 257 voxels
    fates = lines(tmp_path / "weak.sentences.jsonl")
    assert [(f["study_id"], f["state"]) for f in fates] == [
        ("a", "labelled"), ("a", "refused"), ("b", "labelled"), ("b", "refused")]  # fmt: skip
    assert rows["c"]["masks"][0]["phrases"] == [
        "mass of the left thigh", "large tracer-avid lesion on the left"]  # fmt: skip
    assert ["tumour", "has SUVmax", "8.0"] in rows["c"]["findings"][0]["triplets"]

    assert vol3d("preprocess", out, "--config", studies / "recipe.yaml", "--out", tmp_path / "cache") == 0
    entry = Cache(tmp_path / "cache").entry("b")
    assert entry.masks[0].source == "pet"
    assert entry.native_mask("weak_01")[CENTRES["b"]] == 1

    # a human rejects one and accepts the other
    labels = [f for f in fates if f["state"] == "labelled"]
    said = dict(zip((f["id"] for f in labels), ("reject", "accept"), strict=True))
    decisions = [json.dumps({"id": f["id"], "mask": f["mask"], "decision": said[f["id"]]}) for f in labels]
    (audit / "decisions-0001.jsonl").write_text("\n".join(decisions))
    assert vol3d(*command, "--audit", audit, "--only-accepted") == 0
    rows = {row["study_id"]: row for row in lines(out)}
    assert not rows["a"]["masks"]
    assert len(rows["b"]["masks"]) == 1
    assert [f["state"] for f in lines(tmp_path / "weak.sentences.jsonl")] == [
        "rejected", "refused", "accepted", "refused"]  # fmt: skip
    assert 'data-verdict="reject"' in (audit / "index.html").read_text()


def test_without_its_manifest_the_images_come_from_the_cache(studies, tmp_path, vol3d):
    out = tmp_path / "weak.jsonl"
    assert vol3d("weak-label", studies / "cache", "--out", out) == 0
    assert vol3d("preprocess", out, "--config", studies / "recipe.yaml", "--out", tmp_path / "cache") == 0
    before, after = Cache(studies / "cache").entry("a"), Cache(tmp_path / "cache").entry("a")
    assert np.array_equal(before.pet_native().array_ZYX, after.pet_native().array_ZYX)
    assert before.patient_key == after.patient_key
    again = tmp_path / "again.jsonl"  # labels of labels replace each other
    assert vol3d("weak-label", tmp_path / "cache", "--out", again) == 0
    assert [len(row["masks"]) for row in lines(again)] == [1, 1, 1]


def test_images_of_another_cache_are_written_anew(studies, tmp_path, vol3d):
    """The same command on a cache that was rebuilt with other PET values, and on one moved in space."""
    out = tmp_path / "weak.jsonl"
    (tmp_path / "cache").symlink_to(studies / "cache")
    command = ("weak-label", tmp_path / "cache", "--out", out)
    assert vol3d(*command) == 0
    image, mask = tmp_path / "weak-images" / "c" / "pet.nii.gz", tmp_path / "weak-images" / "c" / "tumour.nii.gz"
    for path in (image, mask):
        os.utime(path, (1, 1))
    assert vol3d(*command) == 0
    assert image.stat().st_mtime == mask.stat().st_mtime == 1  # nothing has changed
    before = read_array(image)

    rows = [row for row in lines(studies / "manifest.jsonl") if row["study_id"] == "c"]
    rows[0] |= {"pet": str(tmp_path / "pet.nii.gz"), "masks": [
        {**rows[0]["masks"][0], "path": str(tmp_path / "truth.nii.gz")}]}  # fmt: skip
    (tmp_path / "other.jsonl").write_text(json.dumps(rows[0]) + "\n")
    moved = Grid.from_spacing((24, 24, 24), (4.0, 4.0, 4.0), origin_mm=(0.0, 0.0, 100.0))
    for name, factor, grid in (("doubled", 2.0, GRID), ("moved", 1.0, moved)):
        write_nifti(tmp_path / "pet.nii.gz", before * np.float32(factor), grid)
        write_nifti(tmp_path / "truth.nii.gz", read_array(studies / "truth.nii.gz"), grid)
        recipe = ("--config", studies / "recipe.yaml", "--out", tmp_path / name)
        assert vol3d("preprocess", tmp_path / "other.jsonl", *recipe) == 0
        (tmp_path / "cache").unlink()
        (tmp_path / "cache").symlink_to(tmp_path / name)
        assert vol3d(*command) == 0
        np.testing.assert_array_equal(read_array(image), before * np.float32(factor))
        assert read_grid(image).same_as(grid)
        assert read_grid(mask).same_as(grid)


def test_a_manifest_kept_apart_for_its_names_is_found(studies, tmp_path, vol3d):
    shutil.copytree(studies / "cache", tmp_path / "cache")
    (tmp_path / "cache.intake").mkdir()
    rows = [{**row, "pet": str(studies / row["pet"])} for row in lines(studies / "manifest.jsonl")]
    for row in rows:
        row["masks"] = [{**m, "path": str(studies / m["path"])} for m in row.get("masks", [])]
    (tmp_path / "cache.intake" / "manifest.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = tmp_path / "out" / "weak.jsonl"
    assert vol3d("weak-label", tmp_path / "cache", "--out", out) == 0
    assert [row["pet"] for row in lines(out)] == [row["pet"] for row in rows]
    assert not (tmp_path / "out" / "weak-images").exists()
    assert out.stat().st_mode & 0o077 == 0  # its rows may name people


def test_the_tracer_of_the_study_is_the_phrases(studies, tmp_path, vol3d):
    """autoPET's PSMA studies: PSMA shows no metabolism."""
    row = {**lines(studies / "manifest.jsonl")[2], "meta": {"tracer": "PSMA"}, "pet": str(studies / "a.nii.gz")}
    row["masks"] = [{**row["masks"][0], "path": str(studies / "truth.nii.gz")}]
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    recipe = ("--config", studies / "recipe.yaml", "--out", tmp_path / "cache")
    assert vol3d("preprocess", tmp_path / "manifest.jsonl", *recipe) == 0
    assert vol3d("weak-label", tmp_path / "cache", "--out", tmp_path / "weak.jsonl") == 0
    (row,) = lines(tmp_path / "weak.jsonl")
    assert row["masks"][0]["phrases"] == ["mass of the left thigh", "large PSMA-avid lesion on the left"]


def test_what_cannot_be_done_is_said(studies, tmp_path, vol3d, capsys):
    out = ("--out", tmp_path / "weak.jsonl")
    assert vol3d("weak-label", studies / "cache", "--manifest", tmp_path / "no.jsonl", *out) == 1
    assert "manifest that the cache was made from" in capsys.readouterr().err
    (tmp_path / "few.jsonl").write_text(json.dumps({"study_id": "a", "pet": str(studies / "a.nii.gz")}) + "\n")
    assert vol3d("weak-label", studies / "cache", "--manifest", tmp_path / "few.jsonl", *out) == 1
    assert "expected a row of b in the manifest" in capsys.readouterr().err
    assert [row["study_id"] for row in lines(tmp_path / "weak.jsonl")] == ["a"]
    assert vol3d("weak-label", studies / "cache", "--out", tmp_path) == 1
    assert "found a folder" in capsys.readouterr().err
    assert vol3d("weak-label", studies / "cache", "--only-accepted", *out) == 1
    assert "--audit DIR" in capsys.readouterr().err

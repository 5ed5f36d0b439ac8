"""The real commands on a tiny model: what they write, and what they say when something is wrong."""

import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest

from preprocessing.reading import read_image
from vol3d.cache import Cache
from vol3d.checkpoint import load_checkpoint
from vol3d.config import digest
from vol3d.export.nifti import read_array, read_grid
from vol3d.geometry import Grid
from vol3d.volume import Volume
from vol3d.workflows.prepare import load_recipe

PAGE = Path(__file__).parents[2] / "docs/how-to/segment.md"
DOCUMENTED = set(re.findall(r"`(\w+)`", PAGE.read_text()))


def rows(manifest):
    return [json.loads(line) for line in Path(manifest).read_text().splitlines()]


def test_training_leaves_a_calibrated_model(tiny):
    checkpoint = load_checkpoint(tiny.run)
    assert checkpoint.recipe_digest == Cache(tiny.cache).recipe_digest
    assert checkpoint.provenance["calibrated_on"]["probes"] > 0
    assert "liver" in checkpoint.provenance["trained_phrases"]
    # a run trains again from its own files
    assert digest(load_recipe(tiny.run / "config.yaml")) == checkpoint.recipe_digest
    assert len(list((tiny.run / "checkpoints").iterdir())) >= 1


def test_masks_lie_on_the_source_grid(vol3d, tiny, tmp_path):
    study = rows(tiny.manifest)[0]["study_id"]
    source = tiny.manifest.parent / study
    prompts = ["left kidney", "liver", "left kidney"]  # twice the same: two files
    options = [part for p in prompts for part in ("--prompt", p)]
    assert vol3d("segment", tiny.run, source, *options, "--out", tmp_path) == 0
    record = json.loads((tmp_path / study / "segmentation.json").read_text())
    assert [a["prompt"] for a in record["answers"]] == prompts
    assert [a["file"] for a in record["answers"]] == [
        "masks/01-left-kidney.nii.gz", "masks/02-liver.nii.gz", "masks/03-left-kidney.nii.gz",
    ]  # fmt: skip
    ct = Cache(tiny.cache).entry(study).source_grids["ct"]
    for answer in record["answers"]:
        image = nibabel.load(tmp_path / study / answer["file"])
        assert Grid.from_xyz(image.shape, image.affine).same_as(ct, 1e-3)
        voxels = np.count_nonzero(np.asarray(image.dataobj))
        assert answer["volume_ml"] == pytest.approx(voxels * ct.voxel_ml, rel=1e-6)
        assert (answer["state"] == "present") == (voxels > 0)
        assert answer["state"] in ("present", "absent", "not in field of view")
        assert 0 <= answer["probability"] <= 1
        assert set(answer) <= DOCUMENTED
    assert set(record) <= DOCUMENTED
    labels = json.loads((tmp_path / study / "labels.json").read_text())
    assert [v["prompt"] for v in labels["labels"].values()] == prompts
    assert vol3d("segment", tiny.run, source, "--prompt", "liver", "--out", tmp_path) == 0
    assert [p.name for p in (tmp_path / study / "masks").iterdir()] == ["01-liver.nii.gz"]  # no mask of the run before


def test_an_archive_through_intake_to_masks_and_report(vol3d, tiny, tmp_path):
    """An intake names each series by a file that lists its members; masks return to the grid of that series."""
    study = rows(tiny.manifest)[0]
    assert vol3d("intake", tiny.manifest.parent / study["study_id"], "--out", tmp_path / "intake") == 0
    manifest = tmp_path / "intake" / "manifest.jsonl"
    (row,) = rows(manifest)
    assert row["ct"].endswith(".series")
    assert vol3d("segment", tiny.run, manifest, "--prompt", "liver", "--out", tmp_path / "masks") == 0
    (record,) = (tmp_path / "masks").glob("*/segmentation.json")
    (answer,) = json.loads(record.read_text())["answers"]
    mask = Volume(read_array(record.parent / answer["file"]), read_grid(record.parent / answer["file"]), "mask")
    ct = read_image(tiny.manifest.parent / study["study_id"] / "ct", "ct").volume
    assert mask.grid.same_as(ct.grid)
    assert vol3d("report", tiny.run, manifest, "--out", tmp_path / "reports") == 0


def test_folder_names_become_ids_that_stay_apart(tiny, tmp_path, vol3d):
    study = tiny.manifest.parent / rows(tiny.manifest)[0]["study_id"]
    for name in ("My Study (1)", "My Study [1]"):
        (tmp_path / f"copy {name}").mkdir()
        for part in ("ct", "pet"):
            (tmp_path / f"copy {name}" / part).symlink_to(study / part)
        assert vol3d("segment", tiny.run, tmp_path / f"copy {name}", "--prompt", "liver", "--out", tmp_path / "o") == 0
    assert len(list((tmp_path / "o").iterdir())) == 2


def test_the_pet_grid_can_be_asked_for(vol3d, tiny, tmp_path):
    study = rows(tiny.manifest)[1]["study_id"]
    source = tiny.manifest.parent / study
    (tmp_path / "prompts.txt").write_text("liver\n\nspleen\n")
    assert vol3d(
        "segment", tiny.run, source, "--prompts", tmp_path / "prompts.txt", "--grid", "pet", "--out", tmp_path / "out"
    ) == 0  # fmt: skip
    image = nibabel.load(tmp_path / "out" / study / "masks" / "02-spleen.nii.gz")
    pet = Cache(tiny.cache).entry(study).source_grids["pet"]
    assert Grid.from_xyz(image.shape, image.affine).same_as(pet, 1e-3)


def test_one_bad_study_does_not_stop_a_batch(vol3d, tiny, tmp_path, capsys):
    good = rows(tiny.manifest)[0]
    manifest = tmp_path / "two.jsonl"
    paths = {key: str(tiny.manifest.parent / good[key]) for key in ("ct", "pet")}
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    lines = [{"study_id": "bad", "ct": "broken.nii.gz"}, {"study_id": "good", **paths}]
    manifest.write_text("\n".join(map(json.dumps, lines)))
    assert vol3d("segment", tiny.run, manifest, "--prompt", "liver", "--out", tmp_path / "out") == 1
    assert "bad: ReadError" in capsys.readouterr().err
    assert (tmp_path / "out" / "good" / "segmentation.json").exists()


def test_a_finished_run_is_not_overwritten_and_resumes_to_nothing(vol3d, tiny, capsys):
    again = ["train", tiny.config, "--cache", tiny.cache, "--out", tiny.run, *tiny.settings]
    assert vol3d(*again) == 1
    assert "--resume auto" in capsys.readouterr().err
    assert vol3d(*again, "--resume", "auto") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segment", "{run}", "{study}", "--out", "{out}"], "at least one prompt"),
        (["segment", "{run}", "/nowhere", "--prompt", "liver", "--out", "{out}"], "found nothing"),
        (["segment", "/nowhere", "{study}", "--prompt", "liver", "--out", "{out}"], "checkpoint"),
        (["segment", "{run}", "{study}", "--prompt", "x", "--device", "cuda", "--out", "{out}"], "--device cpu"),
        (["segment", "{run}", "{study}", "--prompt", "x", "--device", "gpu", "--out", "{out}"], "auto, cpu, cuda"),
        (["segment", "{run}", "{study}", "--prompts", "{image}", "--out", "{out}"], "UTF-8"),
        (["segment", "{run}", "{image}", "--prompt", "x", "--out", "{out}"], "UTF-8"),
        (["preprocess", "{manifest}", "--config", "{config}", "--out", "{manifest}/cache"], "Not a directory"),
        (["evaluate", "{run}", "/nowhere", "--out", "{out}"], "vol3d preprocess"),
        (
            ["train", "{config}", "--cache", "{cache}", "--out", "{out}", "--set", "train.stepz=1"],
            "did you mean 'steps'",
        ),
        (
            ["preprocess", "{manifest}", "--config", "{config}", "--out", "{out}", "--shard", "3"],
            "expected --shard I/N",
        ),
        (["preprocess", "{manifest}", "--config", "{config}", "--out", "{out}", "--source", "zip"], "--source"),
        (["preprocess", "{manifest}", "--config", "{manifest}", "--out", "{out}"], "YAML"),
        (["verify", "{out}"], "cache.json"),
    ],
)
def test_mistakes_are_messages(vol3d, tiny, tmp_path, capsys, arguments, message):
    study = tiny.manifest.parent / rows(tiny.manifest)[0]["study_id"]
    image = tmp_path / "image.nii.gz"
    image.write_bytes(b"\x1f\x8b\x08\x00")
    places = {**vars(tiny), "study": study, "out": tmp_path / "out", "image": image}
    assert vol3d(*[a.format(**places) for a in arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error


def test_a_cache_of_another_recipe_is_refused(vol3d, tiny, tmp_path, capsys):
    recipe = tiny.config.parents[1] / "preprocess" / "ct.yaml"
    assert vol3d("preprocess", tiny.manifest, "--config", recipe, "--out", tmp_path / "c", "--shard", "1/6") == 0
    assert vol3d("train", tiny.config, "--cache", tmp_path / "c", "--out", tmp_path / "r", *tiny.settings) == 1
    assert "recipe" in capsys.readouterr().err


def test_dry_run_writes_nothing(vol3d, tiny, tmp_path):
    assert vol3d("train", tiny.config, "--cache", tiny.cache, "--out", tmp_path / "r", "--dry-run", *tiny.settings) == 0
    assert not (tmp_path / "r").exists()

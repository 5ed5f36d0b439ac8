"""A cache out to nnU-Net's raw format and back; read by nnU-Net's own code in between."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from nnunetv2.experiment_planning.verify_dataset_integrity import check_cases
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from preprocessing.build_cache import preprocess
from preprocessing.manifest import write_manifest
from preprocessing.phantom import PhantomOptions, write_phantoms
from preprocessing.sources import nnunet as source
from preprocessing.transforms import PreprocessConfig
from vol3d.cache import Cache
from vol3d.cli import main
from vol3d.errors import ConfigError
from vol3d.export.nifti import read_array
from vol3d.export.nnunet import export_nnunet, mask_class

RECIPE = PreprocessConfig(
    spacing_mm=(6.0, 6.0, 6.0), extent="union", body_crop=True, body_margin_mm=6.0, levels=1, chunk=32
)
SMALL = PhantomOptions(ct_spacing_mm=(6.0, 6.0), pet_spacing_mm=((7.0, 7.0, 7.0),))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nnunet")
    manifest = write_phantoms(folder / "studies", 5, 4, "nifti", splits=(0.4, 0.2, 0.4), options=SMALL)
    summary = preprocess(manifest, RECIPE, folder / "cache", show_progress=False)
    assert not summary.quarantined
    return Cache(folder / "cache")


@pytest.fixture(scope="module")
def exported(cache, tmp_path_factory):
    out = tmp_path_factory.mktemp("raw") / "Dataset501_Phantom"
    images = ["ct"] if any("pet" not in cache.entry(s).images for s in cache.study_ids) else []
    return export_nnunet(cache.root, out, images=images)


def by_class(entry):
    """Union of the masks of each class."""
    out = {}
    for mask in entry.masks:
        array = entry.read_mask(mask.name, (0, 0, 0), entry.grid.shape)
        out[mask_class(mask)] = out.get(mask_class(mask), 0) | array
    return out


def test_import_gives_the_same_voxels_back(cache, exported, tmp_path):
    rows = source.rows(exported.folder)
    manifest = write_manifest(rows, tmp_path / "m.jsonl")
    recipe = PreprocessConfig(
        spacing_mm=RECIPE.spacing_mm, extent="ct", body_crop=False, body_margin_mm=0, levels=1, chunk=32
    )
    summary = preprocess(manifest, recipe, tmp_path / "again", show_progress=False)
    assert not summary.quarantined
    again = Cache(tmp_path / "again")
    assert again.study_ids == cache.study_ids
    overlaps = 0
    for study in cache.study_ids:
        old, new = cache.entry(study), again.entry(study)
        assert new.grid.same_as(old.grid)
        assert np.array_equal(new.read("ct", (0, 0, 0), new.grid.shape), old.read("ct", (0, 0, 0), old.grid.shape))
        before, after = by_class(old), by_class(new)
        assert set(after) == set(before)
        for name in before:
            assert np.array_equal(after[name], before[name]), name
        overlaps += int((sum(before.values()) > 1).sum())
        assert (new.split, new.attributes["patient_key"]) == (old.split, old.attributes["patient_key"])
        assert set(new.absent) == set(old.absent)
        assert new.report == old.report
    assert overlaps > 0  # lesions lie in organs: a plain label map would have lost them


def test_nnunets_own_code_accepts_it(exported):
    dataset = json.loads((exported.folder / "dataset.json").read_text())
    manager = LabelManager(dataset["labels"], dataset.get("regions_class_order"))
    assert manager.has_regions
    assert np.all(np.ediff1d(manager.all_labels) == 1)
    assert dataset["numTraining"] == len(list((exported.folder / "labelsTr").glob("*.nii.gz"))) == len(exported.train)
    for case in exported.train:
        images = [
            str(exported.folder / "imagesTr" / f"{case}_{n:04d}.nii.gz") for n in range(len(dataset["channel_names"]))
        ]
        truth = str(exported.folder / "labelsTr" / f"{case}.nii.gz")
        assert check_cases(images, truth, len(images), SimpleITKIO)
        assert set(np.unique(read_array(truth))) <= set(manager.all_labels)


def test_splits_are_the_caches(cache, exported):
    (fold,) = json.loads((exported.folder / "splits_final.json").read_text())
    assert fold["val"] == cache.select("val")
    assert set(fold["train"]) == set(cache.select("train"))
    assert exported.test == cache.select("test")
    assert not set(exported.test) & {*fold["train"], *fold["val"]}


def test_plain_labels_without_overlaps(cache, tmp_path):
    done = export_nnunet(cache.root, tmp_path, classes=["liver", "spleen"], images=["ct"])
    assert done.labels == {"background": 0, "liver": 1, "spleen": 2}
    assert "regions_class_order" not in json.loads((tmp_path / "dataset.json").read_text())
    case = cache.select("train")[0]
    labels, entry = read_array(tmp_path / "labelsTr" / f"{case}.nii.gz"), cache.entry(case)
    assert np.array_equal(labels == 1, by_class(entry)["liver"] > 0)


def test_what_cannot_be_exported_is_named(cache, tmp_path):
    with pytest.raises(ConfigError, match=r"--label to be one of .*liver.*found 'lever'"):
        export_nnunet(cache.root, tmp_path, classes=["lever"])
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(ConfigError, match="another data set"):
        export_nnunet(cache.root, tmp_path)


def test_command(cache, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(
            ["export", "nnunet", str(cache.root), "--out", str(tmp_path), "--image", "ct", "--label", "liver", "--json"]
        )
    assert not stop.value.code
    record = json.loads(capsys.readouterr().out)
    assert record["ok"]
    assert record["labels"] == {"background": 0, "liver": 1}
    assert len(record["train"]) + len(record["test"]) == 5


def test_pet_is_the_second_channel_and_studies_without_one_are_left_out(cache, tmp_path):
    done = export_nnunet(cache.root, tmp_path, classes=["liver"], images=["ct", "pet"])
    both = [s for s in cache.study_ids if "pet" in cache.entry(s).images]
    assert sorted([*done.train, *done.test]) == both
    assert set(done.left_out.values()) <= {"no pet"}
    case = done.train[0]
    pet = read_array(tmp_path / "imagesTr" / f"{case}_0001.nii.gz")
    assert np.array_equal(pet, cache.entry(case).read("pet", (0, 0, 0), cache.entry(case).grid.shape))
    assert json.loads((tmp_path / "dataset.json").read_text())["channel_names"] == {"0": "CT", "1": "PET"}


SHORT = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
first = nnUNetTrainer.__init__
def short(self, *args, **kwargs):
    first(self, *args, **kwargs)
    self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 3, 1
nnUNetTrainer.__init__ = short
"""


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_nnunet_trains_on_it_unchanged(cache, tmp_path):
    """nnU-Net's planner, preprocessing and trainer as installed, by the functions behind their commands; an epoch of
    three steps."""
    folders = {name: tmp_path / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    export_nnunet(cache.root, folders["nnUNet_raw"] / "Dataset501_Phantom", images=["ct"])
    environment = {
        **os.environ, **{k: str(v) for k, v in folders.items()}, "nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1",
        "nnUNet_compile": "f", "OMP_NUM_THREADS": "1",
    }  # fmt: skip

    def run(module, call, *arguments):
        code = f"import sys\n{SHORT}\nfrom {module} import {call}\nif __name__ == '__main__':\n    {call}()\n"
        (tmp_path / "run.py").write_text(code)
        done = subprocess.run(
            [sys.executable, str(tmp_path / "run.py"), *arguments],
            env=environment, capture_output=True, text=True, timeout=2500, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    run(
        "nnunetv2.experiment_planning.plan_and_preprocess_entrypoints", "plan_and_preprocess_entry", "-d", "501",
        "--verify_dataset_integrity", "-c", "3d_fullres", "-np", "1", "-npfp", "1",
    )  # fmt: skip
    made = folders["nnUNet_preprocessed"] / "Dataset501_Phantom"
    splits = (folders["nnUNet_raw"] / "Dataset501_Phantom" / "splits_final.json").read_text()
    (made / "splits_final.json").write_text(splits)
    trainer = ("-tr", "nnUNetTrainer_1epoch", "-device", "cpu")
    run("nnunetv2.run.run_training", "run_training_entry", "501", "3d_fullres", "0", *trainer)
    (fold,) = folders["nnUNet_results"].rglob("fold_0")
    assert (fold / "checkpoint_final.pth").is_file()
    assert len(list((fold / "validation").glob("*.nii.gz"))) == len(json.loads(splits)[0]["val"])

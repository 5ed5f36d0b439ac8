"""Exports to nnU-Net's raw format one after the other, and what a hand has done in between."""

import json

import numpy as np
import pytest

from preprocessing.build_cache import preprocess
from preprocessing.manifest import write_manifest
from preprocessing.sources import nnunet as source
from preprocessing.transforms import PreprocessConfig
from vol3d.cache import Cache
from vol3d.errors import CacheError, ConfigError
from vol3d.export import nnunet_folder
from vol3d.export.nifti import read_array, write_nifti
from vol3d.export.nnunet import export_nnunet
from vol3d.geometry import Grid

GRID = Grid.from_spacing((8, 12, 12), (4.0, 4.0, 4.0), (0.0, 0.0, 0.0))
RECIPE = PreprocessConfig(
    spacing_mm=(4.0, 4.0, 4.0), extent="ct", body_crop=False, body_margin_mm=0.0, levels=1, chunk=16
)


@pytest.fixture(name="build")
def builder(tmp_path):
    """A cache of studies with the splits given; a study's patient is the letter that its name begins with."""

    def build(name, label="liver", **splits):
        folder = tmp_path / name
        folder.mkdir()
        mask = np.zeros(GRID.shape, np.uint8)
        mask[2:5, 3:6, 4:8] = 1
        write_nifti(folder / "mask.nii.gz", mask, GRID)
        rows = []
        for number, (study, split) in enumerate(splits.items()):
            hu = np.random.default_rng(number).normal(0, 100, GRID.shape).round()
            hu[:, :, :3] = -1000
            write_nifti(folder / f"{study}.nii.gz", hu.astype(np.int16), GRID)
            truth = {"path": str(folder / "mask.nii.gz"), "label": label, "phrases": [label]}
            rows.append({
                "study_id": study, "patient_id": study[0], "ct": str(folder / f"{study}.nii.gz"), "masks": [truth],
                "split": split,
            })  # fmt: skip
        summary = preprocess(write_manifest(rows, folder / "m.jsonl"), RECIPE, folder / "cache", show_progress=False)
        assert not summary.quarantined
        return folder / "cache"

    return build


def files_of(folder):
    return {str(p.relative_to(folder)) for p in folder.glob("*/*")}


def case(part, *names):
    return {f"images{part}/{n}_0000.nii.gz" for n in names} | {f"labels{part}/{n}.nii.gz" for n in names}


def test_studies_in_no_split_are_left_out(build, tmp_path):
    """a1 is of the patient of a2, who is in the test set."""
    done = export_nnunet(build("c", a1=None, a2="test", b1="train", c1="val", d1="train"), tmp_path / "out")
    assert (sorted(done.train), done.test) == (["b1", "c1", "d1"], ["a2"])
    assert "in no split" in done.left_out["a1"]
    assert any(note.startswith("1 studies left out, the first a1: in no split") for note in done.notes)
    assert files_of(done.folder) == case("Tr", "b1", "c1", "d1") | case("Ts", "a2")
    assert "a1" not in (done.folder / "splits_final.json").read_text() + (done.folder / "vol3d.jsonl").read_text()


def test_a_cache_without_splits_is_exported_whole(build, tmp_path):
    done = export_nnunet(build("c", a1=None, b1=None), tmp_path / "out")
    assert (sorted(done.train), done.left_out) == (["a1", "b1"], {})


def test_exporting_again_leaves_nothing_of_the_cases_before(build, tmp_path):
    out = tmp_path / "out"
    export_nnunet(build("first", a1="train", b1="train", c1="val", d1="test"), out)
    (out / "notes.txt").write_text("mine")
    done = export_nnunet(build("second", a1="test", b1="train", c1="val"), out)
    assert files_of(out) == case("Tr", "b1", "c1") | case("Ts", "a1")
    assert "4 files of an earlier export removed, the first a1_0000.nii.gz" in done.notes
    assert (out / "notes.txt").read_text() == "mine"
    assert {row["study_id"]: row["split"] for row in source.rows(out)} == {"a1": "test", "b1": "train", "c1": "val"}
    export_nnunet(build("third", b1="train"), out)
    assert files_of(out) == case("Tr", "b1")
    assert not (out / "labelsTs").exists()


def test_a_folder_with_a_case_of_somebody_else_is_refused_and_stays(build, tmp_path):
    out = tmp_path / "out"
    export_nnunet(build("first", a1="train", b1="val"), out)
    for path in ("imagesTr/mine_0000.nii.gz", "labelsTr/mine.nii.gz"):
        (out / path).write_bytes(b"mine")
    before = {path: (out / path).read_bytes() for path in files_of(out)}
    with pytest.raises(ConfigError, match=r"2 files that .*vol3d\.jsonl does not name: imagesTr/mine_0000"):
        export_nnunet(build("second", b1="train"), out)
    assert {path: (out / path).read_bytes() for path in files_of(out)} == before
    assert (out / "dataset.json").is_file()


def test_a_folder_of_images_without_a_sidecar_is_refused(build, tmp_path):
    out = tmp_path / "out"
    (out / "imagesTs").mkdir(parents=True)
    (out / "imagesTs" / "a1_0000.nii.gz").write_bytes(b"mine")
    with pytest.raises(ConfigError, match="choose another --out"):
        export_nnunet(build("c", a1="train"), out)
    assert (out / "imagesTs" / "a1_0000.nii.gz").read_bytes() == b"mine"


def test_a_sidecar_that_cannot_be_read_is_told(build, tmp_path):
    (tmp_path / "vol3d.jsonl").write_text("[]")
    with pytest.raises(ConfigError, match=r"a study_id in .*vol3d\.jsonl"):
        export_nnunet(build("c", a1="train"), tmp_path)


def test_a_refused_export_leaves_the_earlier_one(build, tmp_path):
    out = tmp_path / "out"
    export_nnunet(build("first", a1="train"), out)
    with pytest.raises(CacheError, match="studies to train on"):
        export_nnunet(build("second", a1="test"), out)
    assert [row["study_id"] for row in source.rows(out)] == ["a1"]


@pytest.mark.parametrize("cut", ["first", "again"])
def test_an_export_that_was_cut_short_is_not_read_and_goes_on(build, tmp_path, monkeypatch, cut):
    out = tmp_path / "out"
    cache = build("second", a1="test", b1="train", c1="val")
    if cut == "again":
        export_nnunet(build("first", a1="train", b1="train", z1="val"), out)
    with monkeypatch.context() as patch:
        patch.setattr(nnunet_folder, "clear", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export_nnunet(cache, out)
    with pytest.raises(ValueError, match=r"dataset\.json"):  # labels of one export, images of another
        source.rows(out)
    export_nnunet(cache, out)
    assert files_of(out) == case("Tr", "b1", "c1") | case("Ts", "a1")
    assert [row.get("split") for row in source.rows(out)] == ["train", "val", "test"]


def test_names_that_are_no_slugs_come_back(build, tmp_path):
    """Masks were lost where a label held blanks or capitals."""
    cache = build("c", label="Pulmonary nodule or mass", a1="train", b1="val")
    export_nnunet(cache, tmp_path / "out")
    manifest = write_manifest(source.rows(tmp_path / "out"), tmp_path / "again.jsonl")
    preprocess(manifest, RECIPE, tmp_path / "again", show_progress=False)
    for study in ("a1", "b1"):
        old, new = Cache(cache).entry(study), Cache(tmp_path / "again").entry(study)
        assert [(m.label, m.phrases, m.voxels) for m in new.masks] == [
            (m.label, m.phrases, m.voxels) for m in old.masks
        ]


def test_a_case_that_moves_to_the_test_folder_is_a_test_case(build, tmp_path):
    out = tmp_path / "out"
    export_nnunet(build("c", a1="train", b1="train", c1="val"), out)
    for part, name in (("images", "a1_0000.nii.gz"), ("labels", "a1.nii.gz")):
        (out / f"{part}Ts").mkdir()
        (out / f"{part}Tr" / name).rename(out / f"{part}Ts" / name)
    assert {row["study_id"]: row["split"] for row in source.rows(out)} == {"a1": "test", "b1": "train", "c1": "val"}


def test_a_cache_without_val_gets_that_of_fold_0(build, tmp_path):
    done = export_nnunet(build("c", **{f"{letter}1": "train" for letter in "abcdefghij"}), tmp_path / "out")
    fold = json.loads((done.folder / "splits_final.json").read_text())[0]
    found = {row["study_id"]: row["split"] for row in source.rows(done.folder)}
    assert {s for s, split in found.items() if split == "val"} == set(fold["val"])
    assert len(fold["val"]) == 2
    assert set(np.unique(read_array(done.folder / "labelsTr" / "a1.nii.gz"))) == {0, 1}

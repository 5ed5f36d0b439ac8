"""Study after study: the fault of one keeps no other from its answer."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from preprocessing.manifest import Row
from preprocessing.transforms import PreprocessConfig
from vol3d.config import to_tree
from vol3d.export.nifti import write_nifti
from vol3d.geometry import Grid
from vol3d.workflows.studies import each_study, templates_of

GRID = Grid.from_spacing((20, 24, 28), (3.0, 3.0, 3.0), (-42.0, -36.0, 0.0))
RECIPE = PreprocessConfig(
    spacing_mm=(3.0, 3.0, 3.0), extent="ct", body_crop=False, body_margin_mm=0.0, levels=2, chunk=16
)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError("no 9 GB")])
def test_a_study_too_large_for_the_memory_is_named_and_the_next_one_answered(tmp_path, error):
    ct = np.full(GRID.shape, -1000, np.int16)
    ct[:, 6:18, 6:22] = 40 + np.random.default_rng(0).integers(-9, 9, (20, 12, 16))
    for name in "ab":
        write_nifti(tmp_path / f"{name}.nii.gz", ct, GRID)
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps({"study_id": n, "ct": f"{n}.nii.gz"}) + "\n" for n in "ab"))

    def answer(entry, row):
        if row.study_id == "a":
            raise error

    checkpoint = SimpleNamespace(recipe=to_tree(RECIPE))
    done = each_study(manifest, checkpoint, answer, name="test", show_progress=False)
    assert done.done == ["b"]
    assert done.failed == {"a": f"{type(error).__name__}: {error}"}


def test_an_error_that_nobody_foresaw_is_the_fault_of_one_study(tmp_path):
    ct = np.full(GRID.shape, -1000, np.int16)
    ct[:, 6:18, 6:22] = 40 + np.random.default_rng(0).integers(-9, 9, (20, 12, 16))
    for name in "ab":
        write_nifti(tmp_path / f"{name}.nii.gz", ct, GRID)
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text("".join(json.dumps({"study_id": n, "ct": f"{n}.nii.gz"}) + "\n" for n in "ab"))

    def answer(entry, row):
        if row.study_id == "a":
            return {}["missing"]

    done = each_study(manifest, SimpleNamespace(recipe=to_tree(RECIPE)), answer, name="test", show_progress=False)
    assert done.done == ["b"]
    assert "please report: KeyError: 'missing' (test_studies.py, line" in done.failed["a"]


def test_templates_are_nifti_files(tmp_path):
    for name in ("ct.NII.gz", "enhanced.dcm", "pet.series"):
        (tmp_path / name).touch()
    row = Row(study_id="s", patient_id="s", ct=tmp_path / "ct.NII.gz", pet=tmp_path / "pet.series")
    assert templates_of(row) == {"ct": tmp_path / "ct.NII.gz", "pet": None}
    row = Row(study_id="s", patient_id="s", ct=tmp_path / "enhanced.dcm", pet=None)
    assert templates_of(row) == {"ct": None, "pet": None}

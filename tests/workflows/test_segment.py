"""What `vol3d segment` says of an answer that the target's grid does not hold."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from preprocessing.manifest import Row
from preprocessing.transforms import PreprocessConfig
from vol3d.checkpoint import Calibration
from vol3d.export.nifti import read_array, write_nifti
from vol3d.geometry import Grid
from vol3d.workflows.inputs import scratch_entry
from vol3d.workflows.segment import write_answers

CT = Grid.from_spacing((10, 16, 16), (4.0, 4.0, 4.0), (-32.0, -32.0, 60.0))
PET = Grid.from_spacing((25, 16, 16), (4.0, 4.0, 4.0), (-32.0, -32.0, 0.0))
RECIPE = PreprocessConfig(
    spacing_mm=(4.0, 4.0, 4.0), extent="union", body_crop=False, body_margin_mm=0.0, levels=1, chunk=16
)


@pytest.fixture
def row(tmp_path):
    """A CT that begins 60 mm above the PET, in which a lesion of SUV 7.5 lies below it."""
    pet = np.ones(PET.shape, np.float32)
    pet[4:8, 6:10, 6:10] = 7.5
    rng = np.random.default_rng(0)
    write_nifti(tmp_path / "ct.nii.gz", rng.integers(-1024, 200, CT.shape).astype(np.int16), CT)
    write_nifti(tmp_path / "pet.nii.gz", pet, PET)
    return Row(study_id="s", patient_id="s", ct=tmp_path / "ct.nii.gz", pet=tmp_path / "pet.nii.gz")


def answers(row, out, grid, logit=4.0):
    """The lesion is answered on the common grid, sure or not."""
    with scratch_entry(row, RECIPE) as entry:
        index = np.stack(np.meshgrid(*[np.arange(n) for n in entry.grid.shape], indexing="ij"), -1)
        there = np.abs(PET.mm_to_index(entry.grid.index_to_mm(index)) - (5.5, 7.5, 7.5)).max(axis=-1) < 2
        checkpoint = SimpleNamespace(calibration=Calibration(), provenance={}, recipe_digest="r")
        found = (there[None] * np.uint8(255), np.array([logit]))
        write_answers(entry, row, ["lesion"], lambda entry, phrases: found, checkpoint, out, grid)
    (answer,) = json.loads((out / "segmentation.json").read_text())["answers"]
    return answer, read_array(out / answer["file"])


def test_what_lies_beyond_the_ct_is_present_and_measured(row, tmp_path):
    on_pet, mask = answers(row, tmp_path / "on-pet", "pet")
    assert (on_pet["state"], on_pet["note"], int(mask.sum())) == ("present", None, 64)
    on_ct, mask = answers(row, tmp_path / "on-ct", None)
    assert not mask.any()
    assert on_ct["state"] == "present"
    assert "the CT does not reach" in on_ct["note"]
    assert (on_ct["volume_ml"], on_ct["slices"]) == (0.0, None)
    assert on_ct["suv_max"] == on_pet["suv_max"] == 7.5


def test_what_is_improbable_is_absent_wherever_it_lies(row, tmp_path):
    answer, mask = answers(row, tmp_path / "out", "pet", logit=-4.0)
    assert (answer["state"], answer["suv_max"], answer["note"]) == ("absent", None, None)
    assert not mask.any()

"""Source series on any grid, and the validator that exports must satisfy."""

import subprocess

import numpy as np
import pydicom
import pytest

from preprocessing.phantom_dicom import Patient, write_ct_series
from preprocessing.phantom_scan import PhantomOptions, draw_acquisition
from vol3d.export.dicom_common import Algorithm
from vol3d.volume import Volume


@pytest.fixture(scope="session")
def algorithm():
    return Algorithm(version="0.1.0", weights_sha256="c0ffee" + "0" * 58, parameters={"mask_threshold": 0.5})


@pytest.fixture(scope="session")
def make_series():
    """Writes a CT series on a right-handed grid into a folder; `change` may edit each slice."""

    def make(folder, grid, change=None, patient=None):
        acquisition = draw_acquisition(np.random.default_rng(1), PhantomOptions())
        who = Patient(study_id="test-0000000001", patient_id="p", acquisition=acquisition)
        write_ct_series(folder, Volume(np.zeros(grid.shape, np.int16), grid, "ct"), who)
        for index, path in enumerate(sorted(folder.iterdir())):
            dataset = pydicom.dcmread(path)
            for keyword, value in (patient or {}).items():
                setattr(dataset, keyword, value)
            if change is not None:
                change(index, dataset)
            dataset.save_as(path)
        return folder

    return make


@pytest.fixture(scope="session")
def errors_of(program):
    """The errors that dicom3tools' validator finds in a file."""
    validator = program("dciodvfy")

    def errors(path):
        found = subprocess.run([validator, path], capture_output=True, text=True, check=False).stderr
        return [line for line in found.splitlines() if line.startswith("Error")]

    return errors

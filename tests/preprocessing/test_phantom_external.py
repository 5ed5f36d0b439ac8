"""The phantoms' DICOM before programs that are not ours: dicom3tools' validator and dcm2niix."""

import subprocess

import nibabel
import numpy as np
import pytest

from preprocessing.phantom import PhantomOptions, write_phantoms
from preprocessing.reading import read_image

SMALL = PhantomOptions(ct_spacing_mm=(6.0, 6.0), pet_spacing_mm=((7.0, 7.0, 7.0),))


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, 3, 5, "dicom", options=SMALL)
    return sorted(p for p in folder.iterdir() if p.is_dir())


@pytest.mark.parametrize("image", ["ct", "pet"])
def test_the_validator_finds_no_error(studies, image, program):
    validator = program("dciodvfy")
    for study in studies:
        for file in sorted((study / image).iterdir())[::10]:
            found = subprocess.run([validator, file], capture_output=True, text=True, check=False).stderr
            assert [line for line in found.splitlines() if line.startswith("Error")] == []


def test_dcm2niix_sees_the_same_volume_in_the_same_place(studies, tmp_path, program):
    converter = program("dcm2niix")
    for number, study in enumerate(studies):
        out = tmp_path / str(number)
        out.mkdir()
        command = [converter, "-z", "n", "-f", "ct", "-o", out, study / "ct"]
        subprocess.run(command, check=True, capture_output=True)
        theirs = nibabel.load(out / "ct.nii")
        ours = read_image(study / "ct", "ct").volume
        corners = ours.grid.corners_mm()
        index = corners @ np.linalg.inv(theirs.affine)[:3, :3].T + np.linalg.inv(theirs.affine)[:3, 3]
        nearest = np.rint(index).astype(int)
        assert np.abs(index - nearest).max() < 1e-2
        there = np.asarray(theirs.dataobj)[tuple(nearest.T)]
        z, y, x = (np.array([0, n - 1]) for n in ours.grid.shape)
        here = ours.array_ZYX[np.ix_(z, y, x)].ravel()
        np.testing.assert_allclose(there, here, atol=0.5)
        middle = np.array(ours.grid.shape) // 2
        where = theirs.affine[:3, :3], theirs.affine[:3, 3]
        voxel = np.rint(np.linalg.solve(where[0], ours.grid.index_to_mm(middle) - where[1])).astype(int)
        assert np.asarray(theirs.dataobj)[tuple(voxel)] == pytest.approx(ours.array_ZYX[tuple(middle)], abs=0.5)

import numpy as np
import pytest

from preprocessing.hu_rescale import settle
from preprocessing.read_nifti import read_nifti
from preprocessing.reading import read_image
from vol3d.errors import UnitError


def volume(seed=0):
    """A fifth air, a third lung, the rest soft tissue with a little bone."""
    rng = np.random.default_rng(seed)
    hu = rng.normal(40, 25, (20, 40, 40))
    hu[:, :, :8], hu[:, :12, 8:] = -1000, -850
    hu[:, 30:32, 20:24] = 700
    return np.rint(hu + rng.normal(0, 8, hu.shape)).astype(np.int16)


@pytest.mark.parametrize(("slope", "intercept"), [(1.0, -1024.0), (1.0, -8192.0), (2.0, -1000.0), (1.0, -1000.0)])
def test_hu_stays_and_stored_values_become_hu(slope, intercept):
    hu = volume()
    same, notes = settle(hu, slope, intercept)
    assert np.array_equal(same, hu)
    assert "not applied" in notes[0]
    stored = np.rint((hu - intercept) / slope).astype(np.int16)
    back, notes = settle(stored, slope, intercept)
    assert np.abs(back - hu).max() <= slope / 2
    assert notes == (f"stored values to HU: slope {slope:g}, intercept {intercept:g}",)


def test_padding_decides_nothing():
    """Stored -1024 outside the scanner's circle is near air in HU; the stored air is at 24."""
    stored = volume() + 1024
    stored[:, :10, :10] = -1024
    assert settle(stored, 1.0, -1024.0)[0][10, 35, 35] == stored[10, 35, 35] - 1024


def test_neither_reading_is_refused_with_both_shares():
    with pytest.raises(UnitError, match=r"shares of 0.0% and 0.0%"):
        settle(np.full((4, 8, 8), 5000, np.int16) + np.arange(8, dtype=np.int16), 1.0, -1024.0)


def test_identity_is_not_looked_at():
    odd = np.full((4, 8, 8), 5000, np.int16)
    assert settle(odd, 1.0, 0.0) == (odd, ())


def test_real_chest_and_abdomen_either_way(data_dir):
    for name in ("example_ct.nii.gz", "example_ct_sm.nii.gz"):
        hu = read_nifti(data_dir / "totalsegmentator" / name).array_ZYX
        assert "not applied" in settle(hu, 1.0, -1024.0)[1][0]
        back, notes = settle(hu + 1024, 1.0, -1024.0)
        assert notes[0].startswith("stored values to HU")
        assert np.array_equal(back, hu)


def test_real_dicom_ct_is_never_rescaled_again(data_dir):
    hu = read_image(data_dir / "totalsegmentator" / "example_ct_dicom", "ct").volume.array_ZYX
    for intercept in (-1024.0, -1000.0, -8192.0):
        assert "not applied" in settle(hu, 1.0, intercept)[1][0]

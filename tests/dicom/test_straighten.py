"""Repairs of a stack: what they leave exactly as it is, and what no option allows."""

from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from vol3d.dicom.frames import Frame
from vol3d.dicom.geometry import layout_of
from vol3d.dicom.straighten import straighten
from vol3d.errors import GeometryError

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def layout(zs, orientation=AXIAL, origin=(-10.0, 20.0), rows=6, columns=5):
    return layout_of([
        Frame(
            path=Path(f"{i}.dcm"), index=0, number=i, header=Dataset(), rows=rows, columns=columns,
            position_mm=(*origin, z), orientation=orientation, spacing_mm=(2.0, 1.0), slope=1.0, intercept=0.0,
            rescale_type="",
        )
        for i, z in enumerate(zs)
    ])  # fmt: skip


def test_a_regular_stack_is_not_touched():
    assert straighten(layout([0, 3, 6]), tilt=True, spacing=True) is None


def test_tilt_by_whole_pixels_moves_voxels_and_changes_none():
    """Steps of 5 mm along z with the normal tilted by atan(2/4): each slice lies one row of 2 mm further."""
    scale = 2 / 5**0.5  # cos of the tilt
    sine = 1 / 5**0.5
    zs = np.arange(3) * 2 * 5**0.5  # so that a step is 4 mm along the normal and 2 mm along a column
    found = straighten(layout(zs, (1, 0, 0, 0, scale, -sine)), tilt=True, spacing=False)
    array = np.arange(3 * 6 * 5).reshape(3, 6, 5).astype(np.int16)
    out = found.apply(array, -1024)
    assert out.shape == found.grid.shape == (3, 8, 5)
    assert found.grid.spacing_mm == pytest.approx((4.0, 2.0, 1.0))
    assert "gantry tilt of 26.57 degrees" in found.notes[0]
    assert "2 rows and 0 columns wider" in found.notes[0]
    shift = [0, 1, 2] if np.allclose(out[0, 0], array[0, 0]) else [2, 1, 0]
    for k in range(3):
        np.testing.assert_allclose(out[k, shift[k] : shift[k] + 6], array[k], atol=1e-3)
        rest = np.delete(out[k], range(shift[k], shift[k] + 6), axis=0)
        assert (rest == -1024).all()
        # and every pixel is where its own header puts it
        lps = np.array([-10, 20, zs[k]]) + 3 * 2.0 * np.array([0, scale, -sine]) + 2 * np.array([1.0, 0, 0])
        np.testing.assert_allclose(found.grid.index_to_mm((k, shift[k] + 3, 2)), lps * [-1, -1, 1], atol=1e-6)


def test_uneven_steps_meet_the_slices_they_have():
    found = straighten(layout([0, 2, 4, 6, 9, 12]), tilt=False, spacing=True)
    assert found.resliced
    assert found.grid.shape == (7, 6, 5)
    assert found.grid.spacing_mm[0] == pytest.approx(2.0)
    z = np.array([0, 2, 4, 6, 9, 12.0])
    out = found.apply(np.broadcast_to(z[:, None, None], (6, 6, 5)), 0)
    np.testing.assert_allclose(out[:, 0, 0], np.arange(7) * 2.0, atol=1e-5)


def test_a_seam_is_no_spacing():
    found = straighten(layout([0, 4, 8, 8.9, 12.9, 16.9]), tilt=False, spacing=True)
    assert found.grid.spacing_mm[0] == pytest.approx(16.9 / 4)


@pytest.mark.parametrize(
    ("zs", "message"),
    [([0, 5, 10, 20, 25, 30], "missing slice"), ([0, 3, 6, 9, 12, 18], "1 missing slice")],
)
def test_missing_slices_are_never_interpolated(zs, message):
    with pytest.raises(GeometryError, match=message):
        straighten(layout(zs), tilt=True, spacing=True)


def test_head_in_blocks_of_two_spacings_is_no_series_with_gaps():
    """4 mm through the skull base, 8 mm above: as many wide steps as narrow ones."""
    zs = [0, 4, 8, 12, 20, 28, 36, 44]
    with pytest.raises(GeometryError):
        straighten(layout(zs), tilt=False, spacing=False)
    assert straighten(layout(zs), tilt=False, spacing=True).grid.shape[0] == 12


def test_one_repair_does_not_excuse_the_other():
    tilted = (1, 0, 0, 0, np.cos(0.3), -np.sin(0.3))
    with pytest.raises(GeometryError, match="variable spacing"):
        straighten(layout([0, 4, 8, 12, 19], tilted), tilt=True, spacing=False)
    with pytest.raises(GeometryError, match="gantry tilt"):
        straighten(layout([0, 4, 8, 12, 19], tilted), tilt=False, spacing=True)

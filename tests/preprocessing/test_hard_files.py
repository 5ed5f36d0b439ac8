"""The awkward real files of the data folder: each loads right or is refused with its reason, none silently wrong."""

import numpy as np
import pytest

from preprocessing.reading import read_image
from vol3d.errors import GeometryError, ReadError, UnitError

REFUSED = [
    (
        "dicom/ge_tilt_variable_spacing",
        "ct",
        GeometryError,
        r"gantry tilt of 18\.50 degrees.*4\.00 \(13x\).*1\.08 \(1x\)",
    ),
    ("dicom/tilt_without_tag", "ct", GeometryError, r"gantry tilt of 14\.00 degrees"),
    ("dicom/missing_slice", "ct", GeometryError, r"1 missing slice.*5\.00 \(2x\), 10\.00 \(1x\)"),
    ("dicom/not_a_volume", "ct", GeometryError, "3 of 4 slices at the position of another one"),
    ("dicom/duplicate_positions", "ct", GeometryError, r"CT26\.dcm and CT28\.dcm at -90\.000 mm"),
    ("dicom/two_slices", "ct", ReadError, r"found MR Image Storage series .* \(2 files\)"),
    ("dicom/enhanced_ct", "ct", GeometryError, "at least 3 slices, found 2"),
    ("dicom/broken", "ct", ReadError, r"no_meta\.dcm"),
    ("dicom/broken/no_meta.dcm", "ct", ReadError, r"no_meta\.dcm"),
    ("dicom/broken/MR_truncated.dcm", "ct", ReadError, "truncated: 8130 of 8192 bytes of pixel data"),
    ("dicom/pet_single", "pet", GeometryError, "at least 3 slices, found 1 slice"),
    ("dicom/pet_single/ge_bqml_jpeg_lossless.dcm", "pet", GeometryError, "found 1 slice"),
    ("nifti/shear.nii.gz", "ct", GeometryError, "shear"),
    ("nifti/minimal.nii.gz", "ct", GeometryError, "sform_code and qform_code 0"),
    ("nifti/nan_voxels.nii", "ct", ReadError, "153 NaN"),
    ("nifti/nan_voxels.nii", "pet", ReadError, "153 NaN"),
    ("nifti/four_d_scaled.nii", "ct", ReadError, "found 4D"),
    ("nifti/oblique_ct.nii.gz", "ct", UnitError, "8 bits"),
]


@pytest.mark.parametrize(("path", "modality", "error", "message"), REFUSED, ids=[f"{r[0]}-{r[1]}" for r in REFUSED])
def test_refused_with_its_reason(data_dir, path, modality, error, message):
    with pytest.raises(error, match=message):
        read_image(data_dir / "hard" / path, modality)


def test_every_file_is_covered(data_dir):
    known = {r[0].split("/")[1] for r in REFUSED} | {"philips_untilted"}
    found = {p.name for kind in ("dicom", "nifti") for p in (data_dir / "hard" / kind).iterdir()}
    assert found <= known


def test_philips_series_with_a_directory_file(data_dir):
    import SimpleITK as sitk  # noqa: N813

    folder = data_dir / "hard/dicom/philips_untilted"
    reading = read_image(folder, "ct")
    assert reading.volume.grid.spacing_mm == pytest.approx((5, 0.451171875, 0.451171875))
    assert reading.slice_numbers == tuple(range(1, 29))
    assert "left out, a DICOMDIR, no image: DIRFILE" in reading.notes
    theirs = sitk.ReadImage([str(f) for f in reading.files])
    np.testing.assert_array_equal(reading.volume.array_ZYX, sitk.GetArrayFromImage(theirs))
    lps = np.array(theirs.TransformIndexToPhysicalPoint((511, 3, 27)))
    np.testing.assert_allclose(reading.volume.grid.index_to_mm((27, 3, 511)), lps * [-1, -1, 1], atol=1e-6)


def test_oblique_grid_round_trips_exactly(data_dir):
    import nibabel as nib

    path = data_dir / "hard/nifti/oblique_ct.nii.gz"
    volume = read_image(path, "ct", assume_hu=True).volume
    source = nib.load(path)
    np.testing.assert_array_equal(volume.grid.affine_xyz, source.affine)
    np.testing.assert_array_equal(volume.array_ZYX.transpose(2, 1, 0), np.asarray(source.dataobj))
    index = np.random.default_rng(0).uniform(0, 57, (50, 3))
    np.testing.assert_allclose(volume.grid.mm_to_index(volume.grid.index_to_mm(index)), index, atol=1e-9)

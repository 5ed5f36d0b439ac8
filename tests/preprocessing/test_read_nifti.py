"""NIfTI: axis order, world positions, scaling, and every header that leaves one of them open."""

import contextlib
import gzip

import nibabel as nib
import numpy as np
import pytest

from preprocessing.reading import read_image, read_mask
from vol3d.errors import GeometryError, ReadError, UnitError

AFFINE = np.array([[-2.0, 0, 0, 30], [0, 1.5, 0, -20], [0, 0, 4, 5], [0, 0, 0, 1]])
SHAPE = (7, 6, 5)


def ct_xyz(shape=SHAPE):
    array = np.random.default_rng(0).integers(-80, 300, shape).astype(np.int16)
    array[:3] = -1000
    return array


def save(path, array=None, affine=AFFINE, sform=1, qform=1, kind=nib.Nifti1Image, unit="mm", **header):
    image = kind(ct_xyz() if array is None else array, affine)
    image.header.set_xyzt_units(unit)
    for key, value in header.items():
        image.header[key] = value
    image.set_sform(affine, sform)
    image.set_qform(affine, qform)
    nib.save(image, path)
    return path


@pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("order", ["<", ">"])
def test_values_and_world_positions(tmp_path, name, kind, order):
    array = ct_xyz().astype(f"{order}i2")
    image = kind(array, AFFINE, kind.header_class(endianness=order))
    image.header.set_data_dtype(array.dtype)
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / name)
    reading = read_image(tmp_path / name, "ct")
    volume = reading.volume
    np.testing.assert_array_equal(volume.array_ZYX, array.transpose(2, 1, 0))
    assert volume.array_ZYX.dtype == np.int16
    assert volume.array_ZYX.dtype.isnative
    np.testing.assert_allclose(volume.grid.index_to_mm((4, 3, 2)), (26, -15.5, 21))
    assert volume.grid.orientation == "SAL"
    assert (reading.slice_numbers, reading.files) == (None, (tmp_path / name,))


def test_scaling_is_honoured(tmp_path):
    image = nib.Nifti1Image(ct_xyz(), AFFINE)
    image.header.set_slope_inter(1.0, -24.0)
    image.header.set_xyzt_units("mm")
    raw = bytearray(image.to_bytes())
    raw[112:120] = np.array([1.0, -24.0], "<f4").tobytes()
    (tmp_path / "a.nii").write_bytes(raw)
    stored = nib.load(tmp_path / "a.nii").dataobj.get_unscaled()
    out = read_image(tmp_path / "a.nii", "ct").volume.array_ZYX
    np.testing.assert_array_equal(out, stored.transpose(2, 1, 0).astype(int) - 24)
    assert out.dtype == np.int16
    raw[112:120] = np.array([0.5, -24.0], "<f4").tobytes()
    (tmp_path / "b.nii").write_bytes(raw)
    half = read_image(tmp_path / "b.nii", "ct").volume.array_ZYX
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, stored.transpose(2, 1, 0) * 0.5 - 24)


def test_trailing_axes_of_one_voxel_are_dropped(tmp_path):
    path = save(tmp_path / "a.nii", ct_xyz()[..., None, None])
    assert read_image(path, "ct").volume.array_ZYX.shape == (5, 6, 7)


@pytest.mark.parametrize(("unit", "scale"), [("meter", 1e-3), ("micron", 1e3), ("unknown", 1)])
def test_units_of_length(tmp_path, unit, scale):
    affine = np.diag([scale, scale, scale, 1]) @ AFFINE
    reading = read_image(save(tmp_path / "a.nii", affine=affine, unit=unit), "ct")
    assert reading.volume.grid.spacing_mm == pytest.approx((4, 1.5, 2), rel=1e-6)
    assert bool(reading.notes) == (unit != "unknown")


@pytest.mark.parametrize("unit", ["meter", "micron"])
def test_a_unit_that_cannot_be(tmp_path, unit):
    with pytest.raises(GeometryError, match=rf"voxels of 0\.01 to 100\.0 mm.*unit '{unit}'"):
        read_image(
            save(tmp_path / "a.nii", affine=np.diag([200, 1.5, 4.0, 1]) if unit == "meter" else AFFINE, unit=unit), "ct"
        )


def test_one_form_is_enough(tmp_path):
    a = read_image(save(tmp_path / "s.nii", sform=2, qform=0), "ct").volume.grid
    b = read_image(save(tmp_path / "q.nii", sform=0, qform=1), "ct").volume.grid
    assert a.same_as(b, 1e-4)


def test_no_orientation(tmp_path):
    with pytest.raises(GeometryError, match="sform_code and qform_code 0"):
        read_image(save(tmp_path / "a.nii", sform=0, qform=0), "ct")


@pytest.mark.parametrize("fault", ["flip", "shift", "spacing"])
def test_forms_that_disagree(tmp_path, fault):
    image = nib.Nifti1Image(ct_xyz(), AFFINE)
    other = AFFINE.copy()
    if fault == "flip":
        other[0] *= -1
    elif fault == "shift":
        other[2, 3] += 4
    else:
        other[:, 2] *= 1.1
    image.set_sform(AFFINE, 2)
    image.set_qform(other, 1)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(
        GeometryError, match=r"sform \(code 2\) and qform \(code 1\) to agree.*set the code of the wrong"
    ):
        read_image(tmp_path / "a.nii", "ct")


def test_oblique_forms_of_float32_agree(tmp_path):
    from scipy.spatial.transform import Rotation

    for seed in range(20):
        affine = np.eye(4)
        affine[:3, :3] = Rotation.random(random_state=seed).as_matrix() * [0.7, 0.7, 3]
        affine[:3, 3] = 0.1, -200, 900
        path = save(tmp_path / f"{seed}.nii", ct_xyz((60, 60, 40)), affine)
        grid = read_image(path, "ct").volume.grid
        np.testing.assert_allclose(grid.affine_xyz, affine, atol=1e-4)


def test_shear(tmp_path):
    sheared = AFFINE.copy()
    sheared[0, 2] = 0.5
    with pytest.raises(GeometryError, match=r"sform.*shear"):
        read_image(save(tmp_path / "a.nii", affine=sheared, qform=0), "ct")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 4, 4, 3), np.int16), r"3D volume, found 4D of shape \(4, 4, 4, 3\)"),
        (np.zeros((4, 4), np.int16), "3D volume, found 2D"),
        (np.zeros((40, 40, 1), np.int16), "single slice"),
        (np.zeros((4, 4, 4), np.complex64), "one real number"),
        (np.zeros((4, 4, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")]), "one real number"),
    ],
)
def test_not_a_scalar_volume(tmp_path, array, message):
    with pytest.raises(ReadError, match=message):
        read_image(save(tmp_path / "a.nii", array), "ct")


@pytest.mark.parametrize("modality", ["ct", "pet"])
def test_an_image_of_one_value_is_none(tmp_path, modality):
    with pytest.raises(ReadError, match="0 in every voxel"):
        read_image(save(tmp_path / "a.nii", np.zeros((5, 6, 7), np.float32)), modality, assume_hu=True)


def test_nan_and_infinity_are_counted(tmp_path):
    array = ct_xyz().astype(np.float32)
    array[0, 0, :3], array[1, 1, 1] = np.nan, np.inf
    for modality in ("ct", "pet"):
        with pytest.raises(ReadError, match="3 NaN and 1 infinite of 210"):
            read_image(save(tmp_path / "a.nii.gz", array), modality)


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.4, 0.7, 0.99])
def test_truncated_files(tmp_path, suffix, share):
    path = save(tmp_path / f"a.{suffix}", ct_xyz((40, 30, 20)))
    raw = path.read_bytes()
    path.write_bytes(raw[: int(share * len(raw))])
    with pytest.raises(ReadError, match=r"truncated|damaged|signature"):
        read_image(path, "ct")


def test_a_flipped_bit_in_gzip_is_noticed(tmp_path):
    path = save(tmp_path / "a.nii.gz", ct_xyz((40, 30, 20)))
    raw = bytearray(path.read_bytes())
    for at in range(100, len(raw) - 8, len(raw) // 15):
        damaged = bytearray(raw)
        damaged[at] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(ReadError, match="gzip"):
            read_image(path, "ct")


@pytest.mark.parametrize("tail", [b"garbage after the voxels", b"\0" * 512])
def test_bytes_after_the_voxels(tmp_path, tail):
    path = save(tmp_path / "a.nii")
    path.write_bytes(path.read_bytes() + tail)
    if tail.strip(b"\0"):
        with pytest.raises(ReadError, match="does not describe this file"):
            read_image(path, "ct")
    else:
        read_image(path, "ct")  # padding to whole blocks


@pytest.mark.parametrize("content", [b"", b"x" * 1000, gzip.compress(b"\0" * 1000, mtime=0)])
def test_garbage(tmp_path, content):
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(ReadError, match="signature"):
        read_image(tmp_path / "a.nii.gz", "ct")


@pytest.mark.parametrize("seed", range(60))
def test_random_headers_never_escape_as_another_error(tmp_path, seed):
    raw = bytearray(save(tmp_path / "a.nii").read_bytes())
    rng = np.random.default_rng(seed)
    for at in rng.integers(0, 348, 5):
        raw[at] = rng.integers(256)
    (tmp_path / "a.nii").write_bytes(raw)
    with contextlib.suppress(ReadError):
        assert read_image(tmp_path / "a.nii", "ct").volume.array_ZYX.size == 210


def test_other_formats_and_missing_files(tmp_path):
    for name in ("a.mha", "a.hdr"):
        (tmp_path / name).write_bytes(b"x" * 400)
        with pytest.raises(ReadError, match="single NIfTI file"):
            read_image(tmp_path / name, "ct")
    with pytest.raises(ReadError, match="found nothing"):
        read_image(tmp_path / "absent.nii.gz", "ct")


def test_windowed_export_is_refused_by_its_storage(tmp_path):
    path = save(tmp_path / "a.nii", np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8))
    with pytest.raises(UnitError, match=r"a\.nii: expected a CT in HU, found values stored in 8 bits"):
        read_image(path, "ct")
    assert read_image(path, "ct", assume_hu=True).notes[0].startswith("assume-hu")


def test_pet_is_float32_and_taken_as_suv(tmp_path):
    array = np.random.default_rng(0).gamma(1, 1, SHAPE)
    out = read_image(save(tmp_path / "a.nii.gz", array.astype(np.float64)), "pet").volume
    assert out.array_ZYX.dtype == np.float32
    np.testing.assert_allclose(out.array_ZYX, array.transpose(2, 1, 0), rtol=1e-6)
    with pytest.raises(UnitError, match="Bq/ml"):
        read_image(save(tmp_path / "b.nii.gz", array.astype(np.float32) * 4000), "pet")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_masks(tmp_path, dtype):
    array = np.zeros(SHAPE, dtype)
    array[2:4, 1:3, 2] = 1
    volume = read_mask(save(tmp_path / "m.nii.gz", array)).volume
    assert volume.array_ZYX.dtype == np.uint8
    np.testing.assert_array_equal(volume.array_ZYX, array.transpose(2, 1, 0).astype(np.uint8))
    assert volume.modality == "mask"


def test_masks_of_several_labels_need_a_value(tmp_path):
    array = np.zeros(SHAPE, np.uint8)
    array[0], array[1], array[2, 0, 0] = 5, 1, 117
    path = save(tmp_path / "m.nii.gz", array)
    with pytest.raises(ReadError, match="one value, found the labels 0, 1, 5, 117; say which"):
        read_mask(path)
    reading = read_mask(path, value=5)
    assert reading.volume.array_ZYX.sum() == 30
    assert reading.notes == ("label 5",)
    assert read_mask(path, value=6).volume.array_ZYX.sum() == 0


def test_masks_that_are_none(tmp_path):
    with pytest.raises(ReadError, match="whole numbers"):
        read_mask(save(tmp_path / "p.nii.gz", np.random.default_rng(0).random(SHAPE).astype(np.float32)))
    with pytest.raises(ReadError, match="labels -1, 0"):
        read_mask(save(tmp_path / "n.nii.gz", -np.ones(SHAPE, np.int16) * (np.arange(5) > 2)))
    with pytest.raises(ReadError, match="found DICOM"):
        read_mask(tmp_path)


def test_labels_of_a_real_scan(data_dir):
    mask = read_mask(data_dir / "totalsegmentator/example_seg.nii.gz", value=5).volume
    ct = read_image(data_dir / "totalsegmentator/example_ct_sm.nii.gz", "ct").volume
    assert ct.grid.same_as(mask.grid)
    assert ct.array_ZYX[mask.array_ZYX > 0].mean() == pytest.approx(45, abs=1)  # liver


def test_a_mask_of_0_and_255_is_a_mask(tmp_path):
    array = np.zeros(SHAPE, np.uint8)
    array[1] = 255
    np.testing.assert_array_equal(read_mask(save(tmp_path / "m.nii.gz", array)).volume.array_ZYX.max(), 1)

"""What is written overlays its source to the bit, and says what each label means."""

import gzip
import json
import os

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from preprocessing.reading import read_mask
from vol3d.errors import GeometryError, ReadError, Vol3dError
from vol3d.export.nifti import (
    label_table_path,
    read_array,
    read_grid,
    write_if_other,
    write_multilabel,
    write_nifti,
)
from vol3d.geometry import Grid

SHAPE_XYZ = (7, 6, 5)


def oblique_affine(mirror=False):
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", (11, -23, 31), degrees=True).as_matrix() * (0.7, 1.3, 2.9)
    if mirror:
        affine[:3, 0] *= -1
    affine[:3, 3] = (-31.5, 12.25, 100.125)
    return affine


def template(path, kind=nib.Nifti1Image, codes=(2, 4), mirror=False, endianness="<"):
    affine = oblique_affine(mirror)
    header = kind.header_class(endianness=endianness)
    header.set_xyzt_units("mm", "sec")
    header["descrip"] = b"DOE^JANE 1970-01-01"
    header["aux_file"] = b"patient 42"
    header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"private"))
    image = kind(np.zeros(SHAPE_XYZ, np.int16), affine, header)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    nib.save(image, path)
    return path


def mask_zyx(seed=0):
    return np.random.default_rng(seed).random(SHAPE_XYZ[::-1]) > 0.5


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("codes", [(1, 1), (2, 4), (0, 2), (1, 0)])
@pytest.mark.parametrize("mirror", [False, True])
def test_a_template_keeps_both_forms_to_the_bit(tmp_path, kind, codes, mirror):
    source = nib.load(template(tmp_path / "source.nii.gz", kind, codes, mirror))
    grid = Grid.from_xyz(source.shape, source.affine)
    write_nifti(tmp_path / "mask.nii.gz", mask_zyx(), grid, tmp_path / "source.nii.gz")
    written = nib.load(tmp_path / "mask.nii.gz")
    assert type(written) is kind
    for field in ("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y"):
        assert written.header[field] == source.header[field]
    for field in ("qoffset_z", "srow_x", "srow_y", "srow_z", "pixdim", "xyzt_units"):
        assert np.array_equal(written.header[field], source.header[field])
    assert np.array_equal(written.affine, source.affine)
    assert written.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(written.dataobj).transpose(2, 1, 0), mask_zyx())


@pytest.mark.parametrize(("unit", "mm"), [("meter", 1000.0), ("micron", 0.001)])
def test_a_template_in_another_unit_of_length(tmp_path, unit, mm):
    affine = oblique_affine()
    in_unit = np.diag([1 / mm, 1 / mm, 1 / mm, 1.0]) @ affine
    source = nib.Nifti1Image(np.zeros(SHAPE_XYZ, np.int16), in_unit)
    source.header.set_xyzt_units(unit)
    nib.save(source, tmp_path / "source.nii.gz")
    grid = Grid.from_xyz(SHAPE_XYZ, affine)
    write_nifti(tmp_path / "mask.nii.gz", mask_zyx(), grid, tmp_path / "source.nii.gz")
    written = nib.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(written.affine, nib.load(tmp_path / "source.nii.gz").affine)
    assert written.header.get_xyzt_units()[0] == unit
    assert read_grid(tmp_path / "mask.nii.gz").same_as(grid)


def test_a_template_gives_no_names_away(tmp_path):
    source = template(tmp_path / "source.nii")
    grid = Grid.from_xyz(SHAPE_XYZ, nib.load(source).affine)
    write_nifti(tmp_path / "mask.nii", mask_zyx(), grid, source)
    stored = (tmp_path / "mask.nii").read_bytes()
    assert b"vol3d" in stored
    assert b"DOE" not in stored
    assert b"patient" not in stored
    assert b"private" not in stored


def test_a_big_endian_template_is_understood(tmp_path):
    source = template(tmp_path / "source.nii.gz", endianness=">")
    grid = Grid.from_xyz(SHAPE_XYZ, nib.load(source).affine)
    write_nifti(tmp_path / "mask.nii.gz", mask_zyx(), grid, source)
    assert np.array_equal(nib.load(tmp_path / "mask.nii.gz").affine, nib.load(source).affine)


def test_slices_that_lean_are_placed_by_sform_alone(tmp_path):
    """A quaternion cannot lean: 200 slices of a DICOM whose orientation was rounded would be 0.2 mm off by qform."""
    affine = np.diag([0.8, 0.8, 1.5, 1.0])
    affine[0, 2] = 8e-4 * 1.5
    grid = Grid.from_xyz((6, 7, 200), affine)
    write_nifti(tmp_path / "mask.nii.gz", np.ones(grid.shape, np.uint8), grid)
    image = nib.load(tmp_path / "mask.nii.gz")
    assert image.get_qform(coded=True)[1] == 0
    assert read_mask(tmp_path / "mask.nii.gz").volume.grid.same_as(grid, 1e-3)


def test_without_template_both_forms_are_scanner_space(tmp_path):
    grid = Grid.from_xyz(SHAPE_XYZ, oblique_affine())
    write_nifti(tmp_path / "ct.nii.gz", np.arange(210, dtype=np.int16).reshape(grid.shape), grid)
    image = nib.load(tmp_path / "ct.nii.gz")
    for form, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        assert code == 1
        np.testing.assert_allclose(form, oblique_affine(), atol=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert image.header.get_zooms() == pytest.approx((0.7, 1.3, 2.9))
    assert np.asarray(image.dataobj)[6, 5, 4] == 209
    assert np.asarray(image.dataobj)[1, 0, 0] == 1  # x runs fastest
    assert Grid.from_xyz(image.shape, image.affine).same_as(grid, 1e-4)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
def test_numbers_keep_their_type(tmp_path, dtype):
    grid = Grid.from_spacing((2, 3, 4), (3.0, 2.0, 1.0))
    array = (np.arange(24).reshape(grid.shape) * 1.25).astype(dtype)
    write_nifti(tmp_path / "a.nii", array, grid)
    image = nib.load(tmp_path / "a.nii")
    assert image.get_data_dtype() == dtype
    assert np.array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), array)


def test_flipped_views_are_written_as_they_read(tmp_path):
    grid = Grid.from_spacing((2, 3, 4), (3.0, 2.0, 1.0))
    array = np.arange(24, dtype=np.int16).reshape(4, 3, 2).transpose(2, 1, 0)[::-1]
    write_nifti(tmp_path / "a.nii.gz", array, grid)
    assert np.array_equal(np.asarray(nib.load(tmp_path / "a.nii.gz").dataobj).transpose(2, 1, 0), array)


def test_the_same_mask_is_the_same_file(tmp_path):
    grid = Grid.from_spacing(SHAPE_XYZ[::-1], (3.0, 2.0, 1.0))
    write_nifti(tmp_path / "a.nii.gz", mask_zyx(), grid)
    write_nifti(tmp_path / "b.nii.gz", mask_zyx(), grid)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_the_fast_gzip_holds_the_bytes_of_the_plain_file(tmp_path):
    grid = Grid.from_spacing(SHAPE_XYZ[::-1], (3.0, 2.0, 1.0))
    for name in ("a.nii", "a.nii.gz"):
        write_nifti(tmp_path / name, mask_zyx(), grid)
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes()) == (tmp_path / "a.nii").read_bytes()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    grid = Grid.from_spacing(SHAPE_XYZ[::-1], (3.0, 2.0, 1.0))
    path = tmp_path / "a.nii.gz"
    write_nifti(path, mask_zyx(), grid)
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_nifti(path, mask_zyx(1), grid)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_disagreement_is_refused(tmp_path):
    source = template(tmp_path / "source.nii.gz")
    grid = Grid.from_xyz(SHAPE_XYZ, nib.load(source).affine)
    with pytest.raises(GeometryError, match="array of the grid's shape"):
        write_nifti(tmp_path / "a.nii", mask_zyx()[1:], grid)
    with pytest.raises(GeometryError, match="template's grid"):
        write_nifti(tmp_path / "a.nii", mask_zyx(), grid.flip((0,)), source)
    with pytest.raises(Vol3dError, match=r"ends in \.nii"):
        write_nifti(tmp_path / "a.mha", mask_zyx(), grid)
    with pytest.raises(Vol3dError, match="found int64"):
        write_nifti(tmp_path / "a.nii", mask_zyx().astype(np.int64), grid)
    (tmp_path / "text.nii.gz").write_text("no image")
    with pytest.raises(Vol3dError, match="cannot be read"):
        write_nifti(tmp_path / "a.nii", mask_zyx(), grid, tmp_path / "text.nii.gz")
    assert not (tmp_path / "a.nii").exists()


def test_the_smaller_structure_wins_whatever_the_order(tmp_path):
    grid = Grid.from_spacing((4, 4, 4), (3.0, 2.0, 1.0))
    organ, lesion, far = (np.zeros(grid.shape, np.uint8) for _ in range(3))
    organ[:3], lesion[2:, :2, :2], far[3, 3, 3] = 1, 1, 1  # 48, 8 and 1 voxels; 4 of the lesion lie in the organ
    for order in ([organ, lesion, far], [lesion, organ, far]):
        names = ["liver" if m is organ else "lesion" if m is lesion else "node" for m in order]
        path = tmp_path / "labels.nii.gz"
        write_multilabel(
            path, list(zip(names, order, strict=True)), grid, prompts={"lesion": "the lesion in segment 4"}
        )
        labels = np.asarray(nib.load(path).dataobj).transpose(2, 1, 0)
        table = json.loads(label_table_path(path).read_text())
        number = {entry["name"]: int(label) for label, entry in table["labels"].items()}
        assert list(number) == names
        assert number[names[0]] == 1
        assert np.array_equal(labels == number["lesion"], lesion == 1)
        assert (labels == number["liver"]).sum() == 44
        assert labels.dtype == np.uint8
        assert table["overlap_voxels"] == 4
        given = {entry["name"]: entry["voxels_given_away"] for entry in table["labels"].values()}
        assert given == {"liver": 4, "lesion": 0, "node": 0}
        assert table["labels"][str(number["lesion"])]["prompt"] == "the lesion in segment 4"
        assert table["labels"][str(number["node"])]["prompt"] == "node"
        assert "fewest voxels" in table["overlap_rule"]


def test_equal_sizes_go_to_the_one_named_first_and_empty_masks_keep_their_label(tmp_path):
    grid = Grid.from_spacing((2, 2, 2), (1.0, 1.0, 1.0))
    mask = np.ones(grid.shape, bool)
    write_multilabel(tmp_path / "l.nii", [("a", mask), ("none", ~mask), ("b", mask)], grid)
    assert set(np.asarray(nib.load(tmp_path / "l.nii").dataobj).ravel()) == {1}
    table = json.loads((tmp_path / "l.json").read_text())["labels"]
    assert [(table[k]["voxels"], table[k]["voxels_given_away"]) for k in "123"] == [(8, 0), (0, 0), (8, 8)]


def test_more_than_255_labels_need_16_bits(tmp_path):
    grid = Grid.from_spacing((1, 1, 300), (1.0, 1.0, 1.0))
    masks = ((f"m{i}", np.arange(300).reshape(grid.shape) == i) for i in range(300))
    write_multilabel(tmp_path / "l.nii.gz", masks, grid)
    image = nib.load(tmp_path / "l.nii.gz")
    assert image.get_data_dtype() == np.uint16
    assert np.asarray(image.dataobj).ravel().tolist() == list(range(1, 301))


def test_a_real_oblique_file_is_overlaid_exactly(tmp_path, data_dir):
    path = data_dir / "hard" / "nifti" / "oblique_ct.nii.gz"
    source = nib.load(path)
    grid = Grid.from_xyz(source.shape, source.affine)
    write_nifti(tmp_path / "mask.nii.gz", np.zeros(grid.shape, bool), grid, path)
    with gzip.open(path) as a, gzip.open(tmp_path / "mask.nii.gz") as b:
        assert a.read(352)[252:328] == b.read(352)[252:328]  # qform_code .. srow_z, byte by byte


def test_a_slope_is_applied_by_readers_and_the_stored_numbers_stay(tmp_path):
    stored = np.array([[[0, 51, 255]]], np.uint8)
    grid = Grid.from_spacing((1, 1, 3), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
    for template_path in (None, tmp_path / "plain.nii.gz"):
        if template_path:
            write_nifti(template_path, stored, grid)
        write_nifti(tmp_path / "heat.nii.gz", stored, grid, template_path, slope=1 / 255)
        image = nib.load(tmp_path / "heat.nii.gz")
        np.testing.assert_allclose(image.get_fdata()[:, 0, 0], [0, 0.2, 1], atol=1e-6)
        assert np.asarray(image.dataobj.get_unscaled()).ravel().tolist() == [0, 51, 255]


@pytest.mark.parametrize("name", ["m.nii.gz", "m.nii"])
@pytest.mark.parametrize("kept", [0, 10, 200, 0.5])
def test_files_cut_short_are_named(tmp_path, name, kept):
    """EOFError, which the command line would take for Ctrl-C, among what they raise."""
    path = tmp_path / name
    rng = np.random.default_rng(0)
    array = rng.integers(0, 2, (20, 20, 20)).astype(np.uint8)
    write_nifti(path, array, Grid.from_spacing(array.shape, (1.0, 1.0, 1.0)))
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data)) if kept == 0.5 else kept])
    with pytest.raises(ReadError, match=rf"expected a whole NIfTI file at .*{name}, found \d+ bytes .*; copy it again"):
        read_array(path)
    if kept in (0, 10):
        with pytest.raises(ReadError, match="whole NIfTI"):
            read_grid(path)
    with pytest.raises(ReadError, match="found no file"):
        read_array(tmp_path / "none.nii.gz")


def test_a_file_is_rewritten_if_numbers_or_place_differ(tmp_path):
    path, array = tmp_path / "new" / "a.nii.gz", np.zeros((4, 5, 6), np.float32)
    grid = Grid.from_spacing(array.shape, (2.0, 1.0, 1.0))

    def written(array, grid):
        if path.exists():
            os.utime(path, (1, 1))
        write_if_other(path, array, grid)
        return path.stat().st_mtime != 1

    assert written(array, grid)
    assert not written(array, grid)
    moved = Grid.from_spacing(array.shape, (2.0, 1.0, 1.0), origin_mm=(0.0, 0.0, 7.0))
    assert written(array, moved)
    assert read_grid(path).same_as(moved)
    array[1, 2, 3] = 1.5
    assert written(array, moved)
    path.write_bytes(path.read_bytes()[:50])
    assert written(array, moved)
    np.testing.assert_array_equal(read_array(path), array)
    assert written(array > 0, moved)
    assert not written(array > 0, moved)

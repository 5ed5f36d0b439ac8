"""DICOM folders written with pydicom, byte by byte as scanners and archives leave them, read back or refused."""

import contextlib
import io
import shutil
from base64 import b85decode

import numpy as np
import pytest
from pydicom import dcmwrite
from pydicom import uid as uids
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from preprocessing.options import PetSupplement, ReadOptions
from preprocessing.reading import read_image
from vol3d.errors import GeometryError, ReadError, UnitError
from vol3d.types import AIR_HU

CT, PT = uids.CTImageStorage, uids.PositronEmissionTomographyImageStorage
ROWS, COLUMNS = 40, 36


def slice_(stored_YX, z, number, *, modality="CT", series="1.2.3", slope=1, intercept=-1024, **tags):
    """One Part 10 object; `tags` override or, with None, remove attributes."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CT if modality == "CT" else PT
    meta.MediaStorageSOPInstanceUID = f"{series}.{number}"
    meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
    d = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    d.SOPClassUID, d.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    d.Modality, d.SeriesInstanceUID, d.FrameOfReferenceUID = modality, series, "1.2.9"
    d.PatientName, d.PatientID = "Secret^Patient", "SECRET-ID"
    d.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    d.InstanceNumber = number
    d.ImagePositionPatient, d.ImageOrientationPatient = [-10, 20, z], [1, 0, 0, 0, 1, 0]
    d.PixelSpacing, d.SliceThickness, d.SliceLocation = [0.8, 0.7], 99, -z
    d.Rows, d.Columns = stored_YX.shape
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated = d.BitsStored = 8 * stored_YX.itemsize
    d.HighBit, d.PixelRepresentation = d.BitsStored - 1, int(stored_YX.dtype.kind == "i")
    d.RescaleSlope, d.RescaleIntercept = slope, intercept
    d.PixelData = stored_YX.tobytes()
    for keyword, value in tags.items():
        if value is None:
            delattr(d, keyword)
        else:
            setattr(d, keyword, value)
    return d


def ct_hu(depth=5, seed=0):
    """Air on the first row, soft tissue below, each voxel different enough to find it again."""
    hu = np.random.default_rng(seed).integers(-90, 200, (depth, ROWS, COLUMNS))
    hu[:, :4] = np.random.default_rng(seed + 1).integers(-1010, -990, (depth, 4, COLUMNS))
    return hu.astype(np.int16)


def ct_series(hu_ZYX, step=2.5, **tags):
    stored = (hu_ZYX.astype(np.int32) + 1024).astype(np.uint16)
    return [slice_(s, 100 + step * i, len(stored) - i, **tags) for i, s in enumerate(stored)]


def save(folder, datasets, names=None):
    folder.mkdir(parents=True, exist_ok=True)
    for i, d in enumerate(datasets):
        d.save_as(folder / (names[i] if names else f"{i:03}.dcm"), enforce_file_format=True)
    return folder


# -- values and places ---------------------------------------------------------------------------------------------


def test_shuffled_names_come_back_in_order_of_position(tmp_path):
    hu = ct_hu(6)
    save(tmp_path, ct_series(hu), names=[f"{(7 * i) % 6}.bin" for i in range(6)])
    reading = read_image(tmp_path, "ct")
    assert reading.volume.array_ZYX.dtype == np.int16
    np.testing.assert_array_equal(reading.volume.array_ZYX, hu)
    assert reading.slice_numbers == (6, 5, 4, 3, 2, 1)
    assert reading.volume.grid.spacing_mm == pytest.approx((2.5, 0.8, 0.7))  # not the SliceThickness of 99
    np.testing.assert_allclose(reading.volume.grid.index_to_mm((3, 1, 2)), (10 - 1.4, -20.8, 107.5), atol=1e-9)
    assert [f.name for f in reading.files] == [f"{(7 * i) % 6}.bin" for i in range(6)]


def test_each_slice_has_its_own_rescale(tmp_path):
    hu = ct_hu(4)
    slopes, intercepts = (1, 2, 0.5, 1), (-1024, -2048, -1100, 0)
    datasets = []
    for i, (a, b) in enumerate(zip(slopes, intercepts, strict=True)):
        stored = np.rint((hu[i].astype(float) - b) / a).astype(np.int16)
        datasets.append(slice_(stored, float(i), i + 1, slope=a, intercept=b))
        hu[i] = np.rint(stored * a + b)
    out = read_image(save(tmp_path, datasets), "ct").volume.array_ZYX
    assert out.dtype == np.int16
    np.testing.assert_array_equal(out, hu)


def test_fractional_rescale_is_kept_in_float32(tmp_path):
    stored = (ct_hu(3).astype(np.int32) + 1024).astype(np.int16)
    out = read_image(save(tmp_path, [slice_(s, i, i + 1, slope=0.75) for i, s in enumerate(stored)]), "ct").volume
    assert out.array_ZYX.dtype == np.float32
    np.testing.assert_array_equal(out.array_ZYX, (stored * 0.75 - 1024).astype(np.float32))


@pytest.mark.parametrize("junk", [0, 0xF000])
@pytest.mark.parametrize("signed", [False, True])
def test_twelve_of_sixteen_bits(tmp_path, signed, junk):
    """Overlay bits above the stored ones are no part of the value; a signed one takes its sign from bit 11."""
    hu = ct_hu(3)
    intercept = 0 if signed else -1024
    stored = ((hu.astype(np.int32) - intercept) & 0x0FFF).astype(np.uint16) | np.uint16(junk)
    tags = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": int(signed)}
    folder = save(tmp_path, [slice_(s, i, i + 1, intercept=intercept, **tags) for i, s in enumerate(stored)])
    np.testing.assert_array_equal(read_image(folder, "ct").volume.array_ZYX, hu)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32])
def test_thirty_two_bits(tmp_path, dtype):
    hu = ct_hu(3)
    datasets = [slice_((s.astype(np.int64) + 1024).astype(dtype), i, i + 1) for i, s in enumerate(hu)]
    np.testing.assert_array_equal(read_image(save(tmp_path, datasets), "ct").volume.array_ZYX, hu)


@pytest.mark.parametrize(
    "syntax", [uids.RLELossless, uids.JPEG2000Lossless, uids.JPEGLSLossless], ids=lambda s: s.name[:12]
)
def test_lossless_transfer_syntaxes(tmp_path, syntax):
    hu = ct_hu(3)
    datasets = ct_series(hu)
    for d in datasets:
        d.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(read_image(save(tmp_path, datasets), "ct").volume.array_ZYX, hu)


@pytest.mark.parametrize("syntax", [uids.ImplicitVRLittleEndian, uids.ExplicitVRBigEndian], ids=lambda s: s.name[:8])
def test_native_transfer_syntaxes(tmp_path, syntax):
    hu = ct_hu(3)
    for i, d in enumerate(ct_series(hu)):
        d.file_meta.TransferSyntaxUID = syntax
        if syntax == uids.ExplicitVRBigEndian:
            d.PixelData = np.frombuffer(d.PixelData, "<u2").astype(">u2").tobytes()
        little, implicit = syntax.is_little_endian, syntax.is_implicit_VR
        fresh = Dataset(dict(d.items()))  # forgets the byte order it was made for
        fresh.file_meta = d.file_meta
        dcmwrite(tmp_path / f"{i}.dcm", fresh, implicit_vr=implicit, little_endian=little, enforce_file_format=True)
    np.testing.assert_array_equal(read_image(tmp_path, "ct").volume.array_ZYX, hu)


def test_deflated_transfer_syntax(tmp_path):
    hu = ct_hu(3)
    for i, d in enumerate(ct_series(hu)):
        d.file_meta.TransferSyntaxUID = uids.DeflatedExplicitVRLittleEndian
        d.save_as(tmp_path / f"{i}.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_image(tmp_path, "ct").volume.array_ZYX, hu)


def test_jpeg_lossless_from_a_scanner(tmp_path, data_dir):
    """The shared GE slice, put at three places."""
    import pydicom

    source = data_dir / "hard/dicom/pet_single/ge_bqml_jpeg_lossless.dcm"
    for i in range(3):
        d = pydicom.dcmread(source)
        d.ImagePositionPatient[2] += 3.27 * i
        d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{i}"
        d.save_as(tmp_path / f"{i}.dcm")
    reading = read_image(tmp_path, "pet")
    assert reading.volume.array_ZYX.shape == (3, 128, 128)
    # 0.234542 Bq/ml x 32767 stored, 90 kg, 474.592928 MBq, 09:32:00 to the series time, half-life 6588 s
    from pydicom.pixels import pixel_array

    stored = pixel_array(source, raw=True)
    seconds = _seconds(d.SeriesTime) - _seconds("093200")
    factor = 0.234542 * 90e3 / 474592928 * 2 ** (seconds / 6588)
    np.testing.assert_allclose(reading.volume.array_ZYX[1], stored * factor, rtol=1e-6)


def _seconds(time):
    return int(time[:2]) * 3600 + int(time[2:4]) * 60 + float(time[4:])


@pytest.mark.parametrize(("code", "signed"), [(-2000, True), (63536, True), (0, False)])
def test_padding_of_the_header_becomes_air(tmp_path, code, signed):
    """63536 is -2000 of a signed image, written unsigned (as in the shared KiTS slices)."""
    hu = ct_hu(3)
    dtype, intercept = (np.int16, -1024) if signed else (np.uint16, -1100)
    stored = (hu.astype(np.int32) - intercept).astype(dtype)
    stored[:, 0, :3] = -2000 if signed else 0
    datasets = [slice_(s, i, i + 1, intercept=intercept) for i, s in enumerate(stored)]
    for d in datasets:
        d.add_new(0x00280120, "US" if code >= 0 else "SS", code)
    reading = read_image(save(tmp_path, datasets), "ct")
    expected = hu.copy()
    expected[:, 0, :3] = AIR_HU
    np.testing.assert_array_equal(reading.volume.array_ZYX, expected)
    assert any("-> air: 9 voxels" in note for note in reading.notes)


def test_padding_range(tmp_path):
    hu = ct_hu(3)
    stored = hu.copy()
    stored[:, 0, :4] = (-1500, -1499, -1400, -1399)
    datasets = [slice_(s, i, i + 1, intercept=0) for i, s in enumerate(stored)]
    for d in datasets:
        d.add_new(0x00280120, "SS", -1500)
        d.add_new(0x00280121, "SS", -1400)
    out = read_image(save(tmp_path, datasets), "ct").volume.array_ZYX
    assert out[0, 0, :4].tolist() == [AIR_HU, AIR_HU, AIR_HU, -1399]


def test_padding_value_that_is_tissue_is_kept_and_noted(tmp_path):
    """A header that declares 0 HU as padding while air stands at -1000: water must not turn into air."""
    hu = ct_hu(3)
    hu[:, 10, 5] = 0
    datasets = [slice_(s, i, i + 1, intercept=0) for i, s in enumerate(hu)]
    for d in datasets:
        d.add_new(0x00280120, "SS", 0)
    reading = read_image(save(tmp_path, datasets), "ct")
    np.testing.assert_array_equal(reading.volume.array_ZYX, hu)
    assert any("padding of the header kept" in note for note in reading.notes)


def test_legacy_converted_enhanced_ct_equals_its_single_frames(tmp_path):
    from highdicom.legacy import LegacyConvertedEnhancedCTImage

    hu = ct_hu(5)
    datasets = ct_series(hu)
    for d in datasets:
        d.StudyInstanceUID, d.StudyID, d.StudyDate, d.StudyTime = "1.2.8", "1", "20200101", "120000"
        d.PatientBirthDate, d.PatientSex, d.AccessionNumber, d.SeriesNumber = "", "", "", 1
        d.Manufacturer, d.AcquisitionDate, d.AcquisitionTime, d.ContentDate, d.ContentTime = (
            "x",
            *["20200101", "1200"] * 2,
        )
        d.ReferringPhysicianName, d.KVP, d.PositionReferenceIndicator = "", 120, ""
    single = read_image(save(tmp_path / "single", datasets), "ct")
    enhanced = LegacyConvertedEnhancedCTImage(datasets[::-1], "1.2.3.77", 2, "1.2.3.78", 1)
    (tmp_path / "multi").mkdir()
    enhanced.save_as(tmp_path / "multi" / "volume")
    for path in (tmp_path / "multi", tmp_path / "multi" / "volume"):
        multi = read_image(path, "ct")
        np.testing.assert_array_equal(multi.volume.array_ZYX, single.volume.array_ZYX)
        assert multi.volume.grid.same_as(single.volume.grid, 1e-6)
        assert sorted(multi.slice_numbers) == [1, 2, 3, 4, 5]


# -- what lies in the folder -----------------------------------------------------------------------------------------


def test_other_files_are_left_out_and_named(tmp_path):
    hu = ct_hu(4)
    folder = save(tmp_path, ct_series(hu))
    (folder / "notes.txt").write_text("hello")
    scout = slice_(
        np.zeros((ROWS, COLUMNS), np.uint16), 7, 1, series="1.2.4", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    save(folder / "scout", [scout])
    shutil.copy(folder / "001.dcm", folder / "copy.dcm")
    reading = read_image(folder, "ct")
    np.testing.assert_array_equal(reading.volume.array_ZYX, hu)
    for note in ("not DICOM: notes.txt", "a localizer: 000.dcm", "a copy of 001.dcm: copy.dcm"):
        assert f"left out, {note}" in reading.notes


def test_one_of_two_modalities_is_chosen(tmp_path):
    save(tmp_path / "a", ct_series(ct_hu(4)))
    save(tmp_path / "b", pet_series(series="1.2.5"))
    assert read_image(tmp_path, "ct").volume.modality == "ct"
    assert read_image(tmp_path, "pet").volume.modality == "pet"


def test_two_series_are_named(tmp_path):
    save(tmp_path / "a", ct_series(ct_hu(4)))
    save(tmp_path / "b", ct_series(ct_hu(3), series="1.2.77"))
    with pytest.raises(ReadError, match=r"one CT series, found 2: CT series of 000\.dcm \(4 files\), CT"):
        read_image(tmp_path, "ct")


def test_no_series_of_the_modality(tmp_path):
    save(tmp_path, ct_series(ct_hu(4)))
    with pytest.raises(ReadError, match=r"expected a PT series, found CT series of 000\.dcm \(4 files\)"):
        read_image(tmp_path, "pet")


def test_empty_and_absent_folders(tmp_path):
    with pytest.raises(ReadError, match="found no file"):
        read_image(tmp_path, "ct")
    with pytest.raises(ReadError, match="found nothing"):
        read_image(tmp_path / "absent", "ct")


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.98])
@pytest.mark.parametrize("compressed", [False, True])
def test_truncated_slice(tmp_path, share, compressed):
    datasets = ct_series(ct_hu(4))
    if compressed:
        for d in datasets:
            d.compress(uids.JPEG2000Lossless, generate_instance_uid=False)
    folder = save(tmp_path, datasets)
    whole = (folder / "002.dcm").read_bytes()
    (folder / "002.dcm").write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ReadError, match=r"002\.dcm"):
        read_image(folder, "ct")


def test_slice_whose_pixels_do_not_fill_it(tmp_path):
    datasets = ct_series(ct_hu(4))
    datasets[1].PixelData = datasets[1].PixelData[:-20]
    with pytest.raises(ReadError, match=r"001\.dcm: expected pixel data"):
        read_image(save(tmp_path, datasets), "ct")


def test_bare_dataset_without_file_meta(tmp_path):
    folder = save(tmp_path, ct_series(ct_hu(4)))
    buffer = io.BytesIO((folder / "003.dcm").read_bytes())
    buffer.seek(132)
    raw = buffer.read()
    start = raw.index(b"\x08\x00\x08\x00CS")  # ImageType, the first element after the file meta
    (folder / "003.dcm").unlink()
    (folder / "slice").write_bytes(raw[start:])
    with pytest.raises(ReadError, match="bare dataset in slice"):
        read_image(folder, "ct")


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"<html>not found</html>" * 20])
def test_file_named_as_dicom_that_is_none(tmp_path, content):
    folder = save(tmp_path, ct_series(ct_hu(4)))
    (folder / "004.dcm").write_bytes(content)
    with pytest.raises(ReadError, match=r"none in 004\.dcm"):
        read_image(folder, "ct")


def test_link_to_nothing(tmp_path):
    folder = save(tmp_path, ct_series(ct_hu(4)))
    (folder / "004.dcm").symlink_to("annexed/object")
    with pytest.raises(ReadError, match=r"004\.dcm: No such file"):
        read_image(folder, "ct")


@pytest.mark.parametrize("seed", range(20))
def test_random_damage_never_escapes_as_another_error(tmp_path, seed):
    """Bytes of one header overwritten at random: the volume comes back right in shape, or a ReadError does."""
    rng = np.random.default_rng(seed)
    folder = save(tmp_path, ct_series(ct_hu(4)))
    raw = bytearray((folder / "001.dcm").read_bytes())
    for at in rng.integers(132, len(raw) - 2 * ROWS * COLUMNS, 12):
        raw[at] = rng.integers(256)
    (folder / "001.dcm").write_bytes(bytes(raw))
    with contextlib.suppress(ReadError):
        assert read_image(folder, "ct").volume.array_ZYX.shape == (4, ROWS, COLUMNS)


# -- faults of the series --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"ImagePositionPatient": None}, ReadError, "ImagePositionPatient with 3 finite numbers, found nothing"),
        ({"ImageOrientationPatient": None}, ReadError, "ImageOrientationPatient with 6"),
        ({"PixelSpacing": None}, ReadError, "PixelSpacing with 2"),
        ({"FrameOfReferenceUID": "1.2.10"}, ReadError, "one FrameOfReferenceUID"),
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, GeometryError, "one ImageOrientationPatient"),
        ({"RescaleSlope": None}, UnitError, "RescaleSlope"),
        ({"RescaleIntercept": None}, UnitError, "RescaleIntercept"),
        ({"RescaleSlope": 0}, UnitError, "other than 0"),
        ({"RescaleType": "OD"}, UnitError, "RescaleType HU, found OD"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, ReadError, "MONOCHROME1 or 2, found PALETTE COLOR"),
        ({"SamplesPerPixel": 3}, ReadError, "one sample per pixel, found 3"),
        ({"ModalityLUTSequence": Sequence([Dataset()])}, UnitError, "modality lookup table"),
    ],
)
def test_one_bad_slice_refuses_the_series(tmp_path, change, error, message):
    datasets = ct_series(ct_hu(4))
    for keyword, value in change.items():
        if value is None:
            delattr(datasets[2], keyword)
        else:
            setattr(datasets[2], keyword, value)
    with pytest.raises(error, match=message) as caught:
        read_image(save(tmp_path, datasets), "ct")
    assert str(tmp_path) in str(caught.value)
    assert "ecret" not in str(caught.value).lower().replace(str(tmp_path).lower(), "")


def test_geometry_faults_reach_the_caller(tmp_path):
    with pytest.raises(GeometryError, match="missing slice"):
        read_image(save(tmp_path / "gap", [d for i, d in enumerate(ct_series(ct_hu(6))) if i != 3]), "ct")
    twice = [*ct_series(ct_hu(4)), slice_(np.zeros((ROWS, COLUMNS), np.uint16), 102.5, 9)]
    with pytest.raises(GeometryError, match="position of another one"):
        read_image(save(tmp_path / "twice", twice), "ct")


def test_instance_numbers_that_are_not_unique_are_none(tmp_path):
    for name, number in (("same", 1), ("absent", None)):
        datasets = ct_series(ct_hu(4))
        for d in datasets:
            d.InstanceNumber = number
        assert read_image(save(tmp_path / name, datasets), "ct").slice_numbers is None


def test_assume_hu_takes_what_has_no_rescale(tmp_path):
    stored = np.full((3, ROWS, COLUMNS), 40, np.uint8)
    stored[:, 0] = 7
    datasets = [slice_(s, i, i + 1, RescaleSlope=None, RescaleIntercept=None) for i, s in enumerate(stored)]
    with pytest.raises(UnitError, match="RescaleSlope"):
        read_image(save(tmp_path, datasets), "ct")
    reading = read_image(tmp_path, "ct", assume_hu=True)
    np.testing.assert_array_equal(reading.volume.array_ZYX, stored)
    assert reading.notes[0].startswith("assume-hu: values stored in 8 bits")


# -- PET -------------------------------------------------------------------------------------------------------------


def pet_series(series="1.2.5", **tags):
    """Five slices of two beds, 3 minutes each, injected at 10:00, series and first bed at 11:00; slopes differ."""
    isotope = Dataset()
    isotope.RadiopharmaceuticalStartTime, isotope.RadionuclideTotalDose = "100000", 350e6
    isotope.RadionuclideHalfLife = 6586.2
    datasets = []
    for i in range(5):
        stored = np.full((ROWS, COLUMNS), 1000 + i, np.int16)
        d = slice_(stored, 3.0 * i, i + 1, modality="PT", series=series, slope=0.5 + 0.1 * i, intercept=0)
        d.Units, d.DecayCorrection, d.CorrectedImage = "BQML", "START", ["ATTN", "DECY"]
        d.PatientWeight = 70
        d.SeriesDate = d.AcquisitionDate = "20240102"
        d.SeriesTime, d.AcquisitionTime = "110000", "110000" if i < 3 else "110300"
        d.ActualFrameDuration, d.FrameReferenceTime = 180000, 90000 if i < 3 else 270000
        d.RadiopharmaceuticalInformationSequence = Sequence([isotope])
        for keyword, value in tags.items():
            setattr(d, keyword, value)
        datasets.append(d)
    return datasets


ACTIVITY = np.array([(1000 + i) * (0.5 + 0.1 * i) for i in range(5)])


def test_pet_start_is_series_wide(tmp_path):
    reading = read_image(save(tmp_path, pet_series()), "pet")
    assert reading.volume.array_ZYX.dtype == np.float32
    expected = ACTIVITY * 70e3 / (350e6 * 2 ** (-3600 / 6586.2))
    np.testing.assert_allclose(reading.volume.array_ZYX[:, 2, 3], expected, rtol=1e-6)
    assert reading.notes == ("suv: BQML, START, reference = series time",)


def test_pet_admin_needs_no_decay(tmp_path):
    out = read_image(save(tmp_path, pet_series(DecayCorrection="ADMIN")), "pet").volume.array_ZYX
    np.testing.assert_allclose(out[:, 0, 0], ACTIVITY * 70e3 / 350e6, rtol=1e-6)


def test_pet_none_decays_each_bed_by_its_own_time(tmp_path):
    """Uncorrected values are means over a frame; they are reached 1/lambda ln(x / (1 - exp(-x))) after its start."""
    datasets = pet_series(DecayCorrection="NONE", CorrectedImage=["ATTN"])
    out = read_image(save(tmp_path, datasets), "pet").volume.array_ZYX
    rate = np.log(2) / 6586.2
    mean_of_frame = (1 - np.exp(-rate * 180)) / (rate * 180)  # relative to the start of the frame
    start = np.array([3600] * 3 + [3780] * 2)
    at_injection = ACTIVITY / mean_of_frame / np.exp(-rate * start)
    np.testing.assert_allclose(out[:, 0, 0], at_injection * 70e3 / 350e6, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Units": "PROPCPS"}, "Units .* found 'PROPCPS'"),
        ({"PatientWeight": 0}, r"PatientWeight \(0010,1030\) in kg, .* found 0"),
        ({"DecayCorrection": ""}, "DecayCorrection .* found none"),
        ({"RadiopharmaceuticalInformationSequence": Sequence([])}, "RadionuclideTotalDose"),
        ({"RadiopharmaceuticalInformationSequence": Sequence([Dataset(), Dataset()])}, "one radiopharmaceutical"),
        ({"CorrectedImage": ["DECY"]}, "attenuation-corrected"),
    ],
)
def test_pet_without_its_tags(tmp_path, change, message):
    with pytest.raises(UnitError, match=message):
        read_image(save(tmp_path, pet_series(**change)), "pet")


def test_philips_private_factor_in_any_block(tmp_path):
    datasets = pet_series(Units="CNTS")
    for d in datasets:
        d.private_block(0x7053, "SOMEONE ELSE", create=True).add_new(0x00, "DS", "9")
        d.private_block(0x7053, "Philips PET Private Group", create=True).add_new(0x00, "DS", "0.002")
    reading = read_image(save(tmp_path, datasets), "pet")
    np.testing.assert_allclose(reading.volume.array_ZYX[:, 0, 0], ACTIVITY * 0.002, rtol=1e-6)
    assert reading.notes == ("suv: counts x Philips SUV factor",)


def as_legacy(datasets, cls):
    """Converted by highdicom, which wants more of the header than we do."""
    for d in datasets:
        d.StudyInstanceUID, d.StudyID, d.StudyDate, d.StudyTime = "1.2.8", "1", "20240102", "105000"
        d.PatientBirthDate, d.PatientSex, d.AccessionNumber, d.SeriesNumber = "", "", "", 1
        d.Manufacturer, d.ContentDate, d.ContentTime = "x", "20240102", "110000"
        d.ReferringPhysicianName, d.PositionReferenceIndicator = "", ""
    return cls(datasets[::-1], "1.2.3.77", 2, "1.2.3.78", 1)


@pytest.mark.parametrize("decay", ["START", "NONE"])
def test_legacy_converted_enhanced_pet_equals_its_single_frames(tmp_path, decay):
    from highdicom.legacy import LegacyConvertedEnhancedPETImage

    datasets = pet_series(DecayCorrection=decay, CorrectedImage=["ATTN"] + ["DECY"] * (decay == "START"))
    single = read_image(save(tmp_path / "single", datasets), "pet")
    (tmp_path / "multi").mkdir()
    as_legacy(datasets, LegacyConvertedEnhancedPETImage).save_as(tmp_path / "multi" / "volume")
    multi = read_image(tmp_path / "multi", "pet")
    np.testing.assert_allclose(multi.volume.array_ZYX, single.volume.array_ZYX, rtol=1e-6)
    assert multi.volume.grid.same_as(single.volume.grid, 1e-6)
    assert multi.notes == single.notes


def enhanced_pet(unit="Bq/ml", slope=2.0, dose=350.0, **tags):
    """Five frames of Enhanced PET: values by Real World Value Mapping, decay-corrected to a stated moment; 350 MBq."""
    d = slice_(np.zeros((ROWS, COLUMNS), np.uint16), 0, 1, modality="PT")
    d.SOPClassUID = d.file_meta.MediaStorageSOPClassUID = uids.EnhancedPETImageStorage
    del d.ImagePositionPatient, d.ImageOrientationPatient, d.PixelSpacing, d.RescaleSlope, d.RescaleIntercept
    isotope = Dataset()
    isotope.RadiopharmaceuticalStartDateTime, isotope.RadionuclideTotalDose = "20240102100000", dose
    isotope.RadionuclideHalfLife = 6586.2
    d.RadiopharmaceuticalInformationSequence = Sequence([isotope])
    d.PatientWeight, d.DecayCorrected, d.AttenuationCorrected = 70, "YES", "YES"
    d.DecayCorrectionDateTime, d.AcquisitionDateTime = "20240102110000", "20240102110000"
    groups = []
    for i in range(5):
        g, place, mapped, code, content = (Dataset() for _ in range(5))
        place.ImagePositionPatient = [0, 0, 3.0 * i]
        code.CodeValue, code.CodingSchemeDesignator = unit, "UCUM"
        mapped.RealWorldValueSlope, mapped.RealWorldValueIntercept = slope * (i + 1), 0.0
        mapped.MeasurementUnitsCodeSequence = Sequence([code])
        content.FrameAcquisitionDateTime = f"202401021{'10000' if i < 3 else '10300'}"
        content.FrameAcquisitionDuration = 180000.0
        g.PlanePositionSequence, g.FrameContentSequence = Sequence([place]), Sequence([content])
        g.RealWorldValueMappingSequence = Sequence([mapped])
        groups.append(g)
    shared, orientation, measures, plain = (Dataset() for _ in range(4))
    orientation.ImageOrientationPatient, measures.PixelSpacing = [1, 0, 0, 0, 1, 0], [4, 4]
    plain.RescaleSlope, plain.RescaleIntercept, plain.RescaleType = 1, 0, "US"
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([orientation]), Sequence([measures])
    shared.PixelValueTransformationSequence = Sequence([plain])
    d.NumberOfFrames, d.PerFrameFunctionalGroupsSequence = 5, Sequence(groups)
    d.SharedFunctionalGroupsSequence = Sequence([shared])
    d.PixelData = np.full((5, ROWS, COLUMNS), 1000, np.uint16).tobytes()
    for keyword, value in tags.items():
        setattr(d, keyword, value)
    return d


LEFT = 2 ** (-3600 / 6586.2)


def test_enhanced_pet_by_its_real_world_values(tmp_path):
    reading = read_image(save(tmp_path, [enhanced_pet()]), "pet")
    expected = 1000 * 2.0 * np.arange(1, 6) * 70e3 / (350e6 * LEFT)
    np.testing.assert_allclose(reading.volume.array_ZYX[:, 1, 1], expected, rtol=1e-6)
    assert reading.notes == ("suv: BQML, START, reference = decay correction time",)


def test_enhanced_pet_whose_dose_was_written_in_bq(tmp_path):
    """The module says MBq (PS3.3 C.8.22.4)."""
    reading = read_image(save(tmp_path, [enhanced_pet(dose=350e6)]), "pet")
    expected = 1000 * 2.0 * np.arange(1, 6) * 70e3 / (350e6 * LEFT)
    np.testing.assert_allclose(reading.volume.array_ZYX[:, 1, 1], expected, rtol=1e-6)
    assert "suv: dose of an Enhanced PET taken as Bq, as no patient gets so many MBq" in reading.notes


def test_enhanced_pet_that_is_not_decay_corrected(tmp_path):
    """Each frame decays to its own mean, from its own start."""
    out = read_image(save(tmp_path, [enhanced_pet(DecayCorrected="NO")]), "pet").volume.array_ZYX[:, 0, 0]
    rate = np.log(2) / 6586.2
    mean_of_frame = (1 - np.exp(-rate * 180)) / (rate * 180)
    start = np.array([3600] * 3 + [3780] * 2)
    expected = 2000 * np.arange(1, 6) / mean_of_frame / np.exp(-rate * start) * 70e3 / 350e6
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_enhanced_pet_in_suv(tmp_path):
    reading = read_image(save(tmp_path, [enhanced_pet("g/ml{SUVbw}", 0.001)]), "pet")
    np.testing.assert_allclose(reading.volume.array_ZYX[:, 0, 0], np.arange(1, 6), rtol=1e-6)


@pytest.mark.parametrize(
    ("unit", "tags", "message"),
    [
        ("g/ml{SUVlbm}", {}, "Units .* found none"),
        ("Bq/ml", {"AttenuationCorrected": "NO"}, "attenuation-corrected"),
        ("Bq/ml", {"DecayCorrected": ""}, "DecayCorrection .* found none"),
        ("Bq/ml", {"DecayCorrectionDateTime": ""}, "DecayCorrection .* found none"),
    ],
)
def test_enhanced_pet_that_does_not_say(tmp_path, unit, tags, message):
    with pytest.raises(UnitError, match=message):
        read_image(save(tmp_path, [enhanced_pet(unit, **tags)]), "pet")


@pytest.mark.parametrize("syntax", [uids.RLELossless, uids.JPEG2000Lossless, uids.JPEGLSLossless], ids=str)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [12, 16])
def test_every_codec_keeps_sign_and_bits(tmp_path, syntax, signed, bits):
    hu = ct_hu(3)
    intercept = 0 if signed else -1024
    stored = (hu.astype(np.int32) - intercept).astype(np.int16 if signed else np.uint16)
    tags = {"BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": int(signed)}
    datasets = [slice_(s, i, i + 1, intercept=intercept, **tags) for i, s in enumerate(stored)]
    for d in datasets:
        d.compress(syntax, generate_instance_uid=False)
    np.testing.assert_array_equal(read_image(save(tmp_path, datasets), "ct").volume.array_ZYX, hu)


@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("deflated", [False, True])
def test_words_in_fragments(tmp_path, deflated, frames):
    """Encapsulated Uncompressed; Deflated Image Frames, which pydicom cannot write: its UID is put in afterwards."""
    import zlib

    from pydicom.encaps import encapsulate

    def packed(raw):
        stream = zlib.compressobj(wbits=-15)
        return stream.compress(raw) + stream.flush() if deflated else raw

    if frames == 1:
        hu = ct_hu(3)
        datasets = ct_series(hu)
        words = [[d.PixelData] for d in datasets]
    else:
        d = enhanced_pet()
        hu = np.frombuffer(d.PixelData, np.uint16).reshape(5, ROWS, COLUMNS)
        datasets, words = [d], [[frame.tobytes() for frame in hu]]
    for d, parts in zip(datasets, words, strict=True):
        d.file_meta.TransferSyntaxUID = uids.JPEGLSLossless if deflated else "1.2.840.10008.1.2.1.98"
        d.PixelData = encapsulate([packed(part) for part in parts])
        d["PixelData"].VR, d["PixelData"].is_undefined_length = "OB", True
    folder = save(tmp_path, datasets)
    for file in folder.iterdir() if deflated else ():
        file.write_bytes(file.read_bytes().replace(b"1.2.840.10008.1.2.4.80", b"1.2.840.10008.1.2.8.1\0"))
    if frames == 1:
        np.testing.assert_array_equal(read_image(folder, "ct").volume.array_ZYX, hu)
    else:
        factor = 2.0 * np.arange(1, 6)[:, None, None] * 70e3 / (350e6 * LEFT)
        np.testing.assert_allclose(read_image(folder, "pet").volume.array_ZYX, hu * factor, rtol=1e-6)


def test_unknown_transfer_syntax(tmp_path):
    folder = save(tmp_path, ct_series(ct_hu(3)))
    file = folder / "001.dcm"
    file.write_bytes(file.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.113619.5.2\0\0"))
    with pytest.raises(
        ReadError, match=r"001\.dcm: its transfer syntax 1\.2\.840\.113619\.5\.2 is none that can be read"
    ):
        read_image(folder, "ct")


def test_high_bit_elsewhere(tmp_path):
    datasets = ct_series(ct_hu(3), BitsStored=12, HighBit=15)
    with pytest.raises(ReadError, match=r"HighBit .* one less than BitsStored 12, found 15"):
        read_image(save(tmp_path, datasets), "ct")


def test_pet_values_supplied_by_the_user(tmp_path):
    folder = save(tmp_path, pet_series(PatientWeight=0))
    options = ReadOptions(pet=PetSupplement(weight_kg=80, height_m=1.8, sex="M"))
    reading = read_image(folder, "pet", options=options)
    np.testing.assert_allclose(reading.volume.array_ZYX[:, 0, 0], ACTIVITY * 80e3 / (350e6 * LEFT), rtol=1e-6)
    assert "suv: supplied by the user: PatientWeight, PatientSize, PatientSex" in reading.notes
    assert any(note.startswith("SUVlbm = 0.771") for note in reading.notes)


def test_dynamic_pet_is_refused(tmp_path):
    later = pet_series()
    for i, d in enumerate(later):
        d.SOPInstanceUID = d.file_meta.MediaStorageSOPInstanceUID = f"1.2.5.9{i}"
    with pytest.raises(GeometryError, match="time points"):
        read_image(save(tmp_path, pet_series() + later), "pet")


# -- real series -----------------------------------------------------------------------------------------------------


def test_raw_pet_of_sts_001_equals_its_published_suv(data_dir):
    """Tumour SUV of the data's README, and voxel for voxel the converted crop."""
    from preprocessing.reading import read_mask

    raw = read_image(data_dir / "sts_raw_pet/image", "pet")
    assert raw.volume.array_ZYX.shape[0] == 267
    converted = read_image(data_dir / "sts/STS_001/PET_image.nii.gz", "pet").volume
    mask = read_mask(data_dir / "sts/STS_001/PET_mask.nii.gz").volume
    start = np.rint(raw.volume.grid.mm_to_index(converted.grid.origin_mm)).astype(int)
    crop = raw.volume.crop(tuple(start), tuple(start + converted.grid.shape))
    assert crop.grid.same_as(converted.grid, 0.05)
    # the converted file was rounded slice by slice to 16 bits of up to 51 SUV
    np.testing.assert_allclose(crop.array_ZYX, converted.array_ZYX, rtol=0, atol=8e-4)
    hot = converted.array_ZYX > 0.5
    assert np.median(crop.array_ZYX[hot] / converted.array_ZYX[hot]) == pytest.approx(1, abs=1e-5)
    tumour = crop.array_ZYX[mask.array_ZYX > 0].astype(np.float64)
    assert tumour.size == 5095
    assert tumour.max() == pytest.approx(7.910674, rel=1e-4)
    assert tumour.mean() == pytest.approx(2.55515, rel=1e-4)


def test_example_ct_in_jpeg_2000_aligns_with_its_organ_labels(data_dir):
    """Spacing 2 mm (SliceThickness says 3), and the labels, stored in another orientation, lie on their organs."""
    import nibabel as nib

    from preprocessing.reading import read_mask

    reading = read_image(data_dir / "totalsegmentator/example_ct_dicom", "ct")
    ct = reading.volume
    assert ct.grid.spacing_mm == pytest.approx((2.0, 0.9765625, 0.9765625), abs=1e-6)
    path = data_dir / "totalsegmentator/example_seg_dicom.nii.gz"
    assert "".join(nib.aff2axcodes(nib.load(path).affine)) == "LAS"
    for label, hu in ((5, 89), (1, 80), (52, 177)):
        mask = read_mask(path, value=label).volume.resample_to(ct.grid, nearest=True).array_ZYX > 0
        assert mask.sum() > 100
        assert ct.array_ZYX[mask].mean() == pytest.approx(hu, abs=1)


def test_orientation_phantom_in_both_formats(data_dir):
    """The same numbers, and every voxel where SimpleITK places it.

    The two files do not describe one world: DICOM runs from z = 0 down, NIfTI from z = 0 up, so that what lies at -z in
    one lies at +z in the other.
    """
    import SimpleITK as sitk  # noqa: N813

    folder = data_dir / "orientation_phantom"
    path = folder / "nifti/orientation/image/orientation.nii.gz"
    dicom = read_image(folder / "dicom", "ct", assume_hu=True).volume
    nifti = read_image(path, "ct", assume_hu=True).volume
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder / "dicom/orientation"))
    for ours, theirs in ((dicom, sitk.ReadImage(names)), (nifti, sitk.ReadImage(str(path)))):
        np.testing.assert_array_equal(ours.array_ZYX, sitk.GetArrayFromImage(theirs))
        for z, y, x in ((0, 0, 0), (63, 0, 0), (5, 40, 30)):
            lps = theirs.TransformIndexToPhysicalPoint((x, y, z))
            np.testing.assert_allclose(ours.grid.index_to_mm((z, y, x)), np.array(lps) * [-1, -1, 1], atol=1e-6)
    np.testing.assert_array_equal(dicom.array_ZYX, nifti.array_ZYX[::-1])
    mirror = nifti.grid.affine.copy()
    mirror[2] *= -1
    np.testing.assert_allclose(dicom.grid.flip((0,)).affine, mirror, atol=1e-6)


# -- turned, mixed, of another size ----------------------------------------------------------------------------------


def test_a_negative_slope_is_judged_by_the_air(tmp_path):
    hu = ct_hu(4)
    turned = [slice_((-s).astype(np.int16), 3.0 * i, i, slope=-1, intercept=0) for i, s in enumerate(hu)]
    np.testing.assert_array_equal(read_image(save(tmp_path / "meant", turned), "ct").volume.array_ZYX, hu)
    wrong = [slice_(s, 3.0 * i, i, slope=-1, intercept=0) for i, s in enumerate(hu)]
    with pytest.raises(UnitError, match=r"air in a CT with a negative RescaleSlope .* found none"):
        read_image(save(tmp_path / "wrong", wrong), "ct")


def test_a_negative_slope_of_a_pet(tmp_path):
    with pytest.raises(UnitError, match=r"found values from -.* no uptake is negative; a RescaleSlope"):
        read_image(save(tmp_path, pet_series(RescaleSlope=-2)), "pet")


def test_activity_that_calls_itself_suv(tmp_path):
    with pytest.raises(UnitError, match=r"found a mean of 200\d over the positive voxels"):
        read_image(save(tmp_path, pet_series(RescaleSlope=2, Units="GML")), "pet")


def test_kernels_that_lie_between_each_other(tmp_path):
    datasets = ct_series(ct_hu(6), step=1.25)
    for i, d in enumerate(datasets):
        d.ConvolutionKernel = ["B30f", "B70f"][i % 2]
    with pytest.raises(ReadError, match=r"one ConvolutionKernel in CT series .*, found 2, e\.g\. in 000\.dcm and 001"):
        read_image(save(tmp_path, datasets), "ct")


def test_patients_in_one_series_are_not_named(tmp_path):
    datasets = ct_series(ct_hu(6))
    datasets[4].PatientID = "OTHER-ID"
    with pytest.raises(ReadError, match=r"one PatientID in CT series .*several patients") as caught:
        read_image(save(tmp_path, datasets), "ct")
    assert not any(mark in str(caught.value) for mark in ("OTHER-ID", "SECRET", "1.2.3"))


@pytest.mark.parametrize("spacing", [[-0.8, 0.7], [0.8, 0]])
def test_pixel_spacing_that_is_no_length(tmp_path, spacing):
    with pytest.raises(ReadError, match=r"PixelSpacing .* of two positive lengths"):
        read_image(save(tmp_path, ct_series(ct_hu(4), PixelSpacing=spacing)), "ct")


def test_more_pixels_than_rows(tmp_path):
    with pytest.raises(ReadError, match=r"2880 bytes of pixel data where its header \(30 rows, 36 columns, 16 bits"):
        read_image(save(tmp_path / "rows", ct_series(ct_hu(4), Rows=30)), "ct")
    with pytest.raises(ReadError, match=r"2880 bytes of pixel data where .* means 7200000000"):
        read_image(save(tmp_path / "huge", ct_series(ct_hu(4), Rows=60000, Columns=60000)), "ct")
    padded = ct_series(hu := ct_hu(4))
    for d in padded:
        d.PixelData += bytes(4)  # to a multiple of eight bytes, as some writers do
    np.testing.assert_array_equal(read_image(save(tmp_path / "padded", padded), "ct").volume.array_ZYX, hu)


HTJ2K = b85decode(
    "|4;u>04YEK0000W0000W00000000000000W0000W0000000000009pH0sl|{2mk^A000XAQUDA90ssL31q1{@0smY86Cj9?kdTm&kdTm&kdTmw"
    "h=~7W02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*00001djJ9dlfVEb<@*H(bO68r62JfxKmZbe;{XSA0Lu9T2Xp|}0Ect{zyK3K02MF*1fYPN"
    "0049V3LfBJ@Bsrf02uxwvjD&V6%YUgs{jB>Wk8H4YLbNj8F;jSM)@tChp3^Uq45b_5Wvv4000H`v;e>W7MuV9b}#@1a4Z{A1P8f%Q`3}{`G5La"
    "?Qq=y1mqEbIsiBWfG-5NB8npb*uf7!_|QWSJn*oCNs{Cp1fKnpdoI?qhA<hk7{C^?0R*9IX-VN9k9fgPuQ&j}04|;Y0eWNr0_gzIKnEH`CL@k0"
    "{(tyW)6>(_$+3Ic*slxg99?;HbH8sf^Lu;iy#XlAD$@e&f4_kH0ontIAK?6W0mcuI9YFU0)1MdcJV0>($$KXN008iR>)*Qf?!Ei3Wq<$>fC>o+"
    "0HBb7TLgpv9dWUhCoVUPvjQ4awNT1}s-y#j4j6Qx$ba|%0AkOZx596nePWbPJq?W{wE_Rx"
)
JPEG_LOSSLESS = b85decode(
    "|JeV;02u%Q0RaI40RR9100000000020RssN5C6je3lIPx03ZPX5di<%00;p900sa6_yE1O=WV&$Zg$(9w&!iR+ilI;b9UU_w>NFg+jDl?o3`fd"
    "xw~#|+ncuL?YB2=&D(Q!+}*b~ZOz+mZrhu-"
    "=Iyz=Zf@I~w&$C+=Iyz=Zf@I~w&v}*yKT+eb9UU_w>NFg+jDl?o3`fdxw~#|+ncuL?f3oP&i(iMzg_w7zkR#&-"
    "(LE6%f3DI?}vN)+uqLi_piNO=<h#zyUpHS@%M|oz2WZ%cbZ8gl1U_zNhFd<B$`Pil1U_zNhFd<B$`Pil1U_zNhFd<B$`Pil1U_zNhFd<B$`Pil"
    "1U_zNhFd<B$`Pil1U_zNhFd<B$`Pil1U_zNhFd<B$`Pil1U_zNhFd<B$`Pil1U_zNhFd<B$`Pil1U_zNhFd<B$`Pil1U_zNhFd<B$`Pil1U_zN"
    "hFd<B$`Pil1U_zNhFd<B$`Pil1U_zNhFd<B$`Pil1U_zNhFd<B$`Pil1U_zNhFd<B$`Pil1U_zNhFd<B$`Pil1U_zNhFd<B$`Pil1U_zNhFd<B"
    "$`Pil1U_zNhFd<B$`Pil1U_zNhFd<B$`Pil1U_zNhFd<B$`Pil1U_zNhFd<B!K_f"
)
"""What OpenJPH and a JPEG encoder with predictor 6 (Process 14, not its first selection value) make of `coded`."""


@pytest.mark.parametrize(
    ("stream", "syntax"),
    [(HTJ2K, "1.2.840.10008.1.2.4.201"), (HTJ2K, "1.2.840.10008.1.2.4.202"), (HTJ2K, "1.2.840.10008.1.2.4.203"),
     (JPEG_LOSSLESS, "1.2.840.10008.1.2.4.57"), (JPEG_LOSSLESS, "1.2.840.10008.1.2.4.70")],
)  # fmt: skip
def test_lossless_streams_of_other_encoders(tmp_path, stream, syntax):
    y, x = np.mgrid[:32, :32]
    coded = np.where(y < 8, 24 + (x + y) % 5, 1024 + 3 * y - 2 * x).astype(np.uint16)
    datasets = [slice_(coded, 3.0 * i, i) for i in range(3)]
    for d in datasets:
        d.file_meta.TransferSyntaxUID = syntax
        d.PixelData, d["PixelData"].is_undefined_length = encapsulate([stream]), True
        d["PixelData"].VR = "OB"
    reading = read_image(save(tmp_path, datasets), "ct")
    np.testing.assert_array_equal(reading.volume.array_ZYX, np.stack([coded.astype(np.int16) - 1024] * 3))
    assert ("lossy compressed at its source" in reading.notes) == syntax.endswith("203")  # it may be either

"""What a scan of a folder says about each of its files."""

import pytest

from vol3d.dicom.frames import frames_of
from vol3d.dicom.series import scan, select_series
from vol3d.errors import ReadError


def test_a_folder_of_pet_and_contours(data_dir):
    found = scan(data_dir / "sts_raw_pet")
    pet = select_series(found, "pet")
    assert len(pet.instances) == 267
    assert not any(i.fault for i in pet.instances)
    assert sorted(s.modality for s in found.series) == ["PT", "RT Structure Set Storage"]
    assert {reason for _, reason in found.left_out} == {"not DICOM"}
    with pytest.raises(ReadError, match=r"expected a CT series, found PT series .* \(267 files\), RT Structure Set"):
        select_series(found, "ct")


def test_a_series_without_uids_is_one_series(data_dir):
    """De-identification emptied every UID of this CT."""
    series = select_series(scan(data_dir / "totalsegmentator/example_ct_dicom"), "ct")
    assert (series.uid, len(series.instances)) == ("", 20)


def test_frames_of_a_multi_frame_object(data_dir):
    frames = frames_of(select_series(scan(data_dir / "hard/dicom/enhanced_ct"), "ct"))
    assert [f.number for f in frames] == [1, 2]
    assert [f.position_mm[2] for f in frames] == [-159.0, -149.0]
    assert {(f.spacing_mm, f.slope, f.intercept, f.rescale_type) for f in frames} == {((0.388672,) * 2, 1, -1024, "US")}
    assert frames[1].name == "eCT_Supplemental.dcm#2"


def test_damage_is_recorded_per_file(data_dir):
    (series,) = scan(data_dir / "hard/dicom/broken/MR_truncated.dcm").series
    assert series.instances[0].fault == "truncated: 8130 of 8192 bytes of pixel data"

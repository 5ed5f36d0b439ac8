"""List files: any files as one series, whose names stay out of messages."""

import pytest

from vol3d.dicom.listing import SUFFIX, files_of, without_names, write_listing
from vol3d.errors import ReadError


def test_files_and_their_names(tmp_path):
    names = ["Doe_Jane.dcm", "Doe_Jane.dcm.1", "7", "80441234"]
    files = [tmp_path / "Doe" / name for name in names]
    files[0].parent.mkdir()
    for file in files:
        file.write_text("x")
    path = tmp_path / f"ct{SUFFIX}"
    write_listing(path, tmp_path, files)
    assert files_of(path) == files
    assert files_of(files[0]) == files[:1]
    assert files_of(tmp_path / "Doe") == sorted(files)
    told = f"Doe_Jane.dcm#3: found 7 of 80441234 and {files[1]}; Doe_Jane.dcm"
    assert without_names(told, path) == "file-00000#3: found 7 of file-00003 and file-00001; file-00000"
    assert without_names(told, tmp_path) == told


def test_damaged_and_outdated_lists(tmp_path):
    path = tmp_path / f"ct{SUFFIX}"
    write_listing(path, tmp_path, [tmp_path / "gone.dcm"])
    with pytest.raises(ReadError, match=r"1 gone since the intake \(file-00000 first\)"):
        files_of(path)
    path.write_text("{")
    with pytest.raises(ReadError, match="damaged"):
        files_of(path)

import hashlib

import pytest

from vol3d.files import sha256_of, write_whole


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.json"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")  # no UTF-8
    assert path.read_text() == "old"
    write_whole(path, b"\x00new")
    assert path.read_bytes() == b"\x00new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_checksum(tmp_path):
    write_whole(tmp_path / "b", "öl")
    assert sha256_of(tmp_path / "b") == hashlib.sha256("öl".encode()).hexdigest()

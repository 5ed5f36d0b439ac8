import errno
import fcntl
import hashlib
import json
import math
import os

import pytest

from vol3d.files import json_text, locked, sha256_of, write_json, write_whole


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.json"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "\ud800")  # no UTF-8
    assert path.read_text() == "old"
    write_whole(path, b"\x00new")
    assert path.read_bytes() == b"\x00new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_records_are_json_for_every_reader(tmp_path):
    """NaN and Infinity are no JSON: jq, browsers and other languages refuse the whole file."""
    record = {
        "dice": math.nan,
        "bounds": (0.5, math.inf),
        "by": [{"low": -math.inf, "n": 3}],
        "named": "NaN",
        "ok": True,
    }
    write_json(tmp_path / "r.json", record)
    text = (tmp_path / "r.json").read_text()

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(text, parse_constant=refuse) == {
        "dice": None, "bounds": [0.5, None], "by": [{"low": None, "n": 3}], "named": "NaN", "ok": True}  # fmt: skip
    assert text.splitlines()[1] == ' "dice": null,'
    assert math.isnan(record["dice"])
    assert json_text({"a": [math.nan]}) == '{"a": [null]}'


def test_checksum(tmp_path):
    write_whole(tmp_path / "b", "öl")
    assert sha256_of(tmp_path / "b") == hashlib.sha256("öl".encode()).hexdigest()


def test_one_at_a_time(tmp_path):
    with locked(tmp_path / "lock"), (tmp_path / "lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with locked(tmp_path / "lock"):
        pass


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    """Lustre mounted without `flock`."""

    def refuse(file, how):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match=r"Function not implemented: expected a file system with flock.*lock"):
        locked(tmp_path / "lock").__enter__()

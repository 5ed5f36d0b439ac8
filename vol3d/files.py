"""Files that appear whole or not at all, records as JSON, checksums, and turns at files."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_whole(path: Path, data: str | bytes) -> None:
    """Writes under a hidden name of its own, waits for the disk and renames; text is UTF-8."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(data.encode() if isinstance(data, str) else data)
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, record: Any, *, indent: int = 1) -> None:
    """Writes a record as `json_text` says it, whole or not at all, with a line end."""
    write_whole(path, json_text(record, indent=indent) + "\n")


def json_text(record: Any, *, indent: int | None = None) -> str:
    """JSON that every reader takes: a number that is not finite (a metric without a case) is null."""
    return json.dumps(finite(record), indent=indent, allow_nan=False)


def finite(record: Any) -> Any:
    """A copy of a record with None for NaN and infinity."""
    if isinstance(record, dict):
        return {key: finite(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [finite(value) for value in record]
    return None if isinstance(record, float) and not math.isfinite(record) else record


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Inside, no other process is inside with the same file, which is made; a process that ends lets go of it.

    Raises:
        OSError: the file system has no locks, or cannot be written.
    """
    with Path(path).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                error.strerror = f"{error.strerror}: expected a file system with flock; mount it so, or use another"
                error.filename = str(path)
            raise
        yield


def user_cache() -> Path:
    """Folder for what is kept between commands: VOL3D_CACHE_HOME, by default ~/.cache/vol3d."""
    chosen = os.environ.get("VOL3D_CACHE_HOME")
    return Path(chosen) if chosen else Path.home() / ".cache" / "vol3d"


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: str | Path) -> str:
    """Hex digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

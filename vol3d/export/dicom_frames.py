"""Multi-frame objects of one-bit frames, written without ever holding them.

Frames are packed and spooled to a temporary file while masks come in one by one. The header, which needs to know every
frame, is written last: pydicom encodes it and one item of functional groups a plane, and those items are repeated with
other numbers. Thirty thousand frames would otherwise be thirty thousand nested datasets.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from vol3d.errors import Vol3dError
from vol3d.export.dicom_common import encode
from vol3d.files import sync
from vol3d.types import Array

MAX_BYTES = 2**32 - 2
"""What the length of one DICOM element can say."""

_SEGMENT_NUMBER = struct.pack("<HH2sH", 0x0062, 0x000B, b"US", 2)
_INDEX_VALUES = struct.pack("<HH2s", 0x0020, 0x9157, b"UL")
_FUNCTIONAL_GROUPS = struct.pack("<HH2sH", 0x5200, 0x9230, b"SQ", 0)
_PIXEL_DATA = struct.pack("<HH2sH", 0x7FE0, 0x0010, b"OB", 0)
_ITEM = struct.pack("<HH", 0xFFFE, 0xE000)


class Spool:
    """Packed frames on disk, and which segment and plane each belongs to.

    Bits follow each other without gaps between frames, the first pixel in the lowest bit (PS3.5 8.1.1).
    """

    def __init__(self, folder: Path, shape_YX: tuple[int, ...]) -> None:
        """`folder` holds the temporary file; it should be on the disk of the result."""
        self.frames: list[tuple[int, int]] = []
        """(segment number from 1, plane) of each frame in the order stored."""
        self.size = 0
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__
        self._pixels = int(np.prod(shape_YX))
        self._left = np.zeros(0, bool)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def add(self, segment: int, frames_NYX: Array, planes: Array) -> bytes:
        """Appends frames (bool) of a segment, numbered from 1; returns the bytes that were completed.

        Raises:
            Vol3dError: the object would not fit into one file.
        """
        self.frames += [(segment, int(plane)) for plane in planes]
        if (len(self.frames) * self._pixels + 7) // 8 > MAX_BYTES:
            raise Vol3dError(
                f"expected at most {MAX_BYTES} bytes of frames, which one DICOM object can hold, found more at segment "
                f"{segment}; ask for a LABELMAP, or export fewer masks at a time"
            )
        flat = frames_NYX.reshape(-1)
        if len(self._left):
            flat = np.concatenate([self._left, flat])
        whole = len(flat) // 8 * 8
        packed = np.packbits(flat[:whole], bitorder="little").tobytes()
        self._left = flat[whole:].copy()
        self._write(packed)
        return packed

    def close_bits(self) -> bytes:
        """Writes the last bits, pads to an even number of bytes and returns what was added; then nothing can follow."""
        rest = np.packbits(self._left, bitorder="little").tobytes()
        self._left = np.zeros(0, bool)
        rest += b"\0" * ((self.size + len(rest)) % 2)
        self._write(rest)
        return rest

    def copy_to(self, file: IO[bytes]) -> None:
        """All bytes, in pieces."""
        self._file.seek(0)
        shutil.copyfileobj(self._file, file, 1 << 22)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self.size += len(data)


def write_multi_frame(path: Path, template: Dataset, planes: Mapping[int, Dataset], spool: Spool) -> None:
    """Writes `template` with the frames of `spool` in place of its own; the file appears whole or not at all.

    Args:
        path: the file.
        template: Explicit VR Little Endian, with one segment's frames.
        planes: functional groups of every plane in use.
        spool: all frames, closed; within a segment they are in the order of the grid.
    """
    items = {plane: _encoded(item) for plane, item in planes.items()}
    length = sum(8 + len(items[plane]) for _, plane in spool.frames)
    template.NumberOfFrames = len(spool.frames)
    for keyword in ("PixelData", "PerFrameFunctionalGroupsSequence"):
        delattr(template, keyword)
    assert max(template.keys()) < 0x52009230, "an element that belongs after the frames' groups"
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("wb") as file:
            file.write(encode(template))
            file.write(_FUNCTIONAL_GROUPS + struct.pack("<L", length))
            for segment, plane in spool.frames:
                item = items[plane]
                file.write(_ITEM + struct.pack("<L", len(item)) + _renumbered(item, segment))
            file.write(_PIXEL_DATA + struct.pack("<L", spool.size))
            spool.copy_to(file)
        sync(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _encoded(item: Dataset) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, item)
    return buffer.getvalue()


def _renumbered(item: bytes, segment: int) -> bytes:
    """The item with another segment's number, and that number first in its dimension index."""
    out = bytearray(item)
    index = out.index(_INDEX_VALUES) + 8
    struct.pack_into("<L", out, index, segment)
    number = out.find(_SEGMENT_NUMBER)
    if number >= 0:  # a single segment is named once, in the shared groups
        struct.pack_into("<H", out, number + 8, segment)
    return bytes(out)

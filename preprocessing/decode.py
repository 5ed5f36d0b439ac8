"""Frames -> their stored values, whatever the transfer syntax (PS3.5 annex A)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom import uid as uids
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import pixel_array

from vol3d.dicom.frames import Frame
from vol3d.dicom.series import DEFLATED_FRAMES, PARSE_ERRORS
from vol3d.errors import ReadError
from vol3d.types import Array

_DECODERS = {uids.RLELossless: "pydicom", uids.JPEGLSLossless: "pyjpegls", uids.JPEGLSNearLossless: "pyjpegls"}
"""Named, so that what else happens to be installed does not change the pixels; JPEG and JPEG 2000 go to pylibjpeg."""

_WRAPPED = (uids.UID("1.2.840.10008.1.2.1.98"), DEFLATED_FRAMES)
"""Plain words in fragments, which pydicom does not unwrap: Encapsulated Uncompressed, and deflated ones."""

_LOSSY = (
    uids.JPEGBaseline8Bit, uids.JPEGExtended12Bit, uids.JPEGLSNearLossless, uids.JPEG2000, uids.JPEG2000MC, uids.HTJ2K,
)  # fmt: skip
"""JPEG 2000 and HTJ2K may be lossless under these too; the object then says so nowhere."""


def is_lossy(frame: Frame) -> bool:
    """True if the pixels have been through a lossy compression, or may have."""
    said = str(frame.header.get("LossyImageCompression") or "") == "01"
    return said or frame.header.file_meta.TransferSyntaxUID in _LOSSY


def decoded(frames: Sequence[Frame]) -> Iterator[tuple[Frame, Array]]:
    """Each frame with its stored values [rows, columns]; a file is decoded once, however many frames it holds.

    Raises:
        ReadError: pixels that cannot be decoded, or that do not fit their header.
    """
    path: Path | None = None
    pixels_NYX = np.empty(0)
    for frame in frames:
        if frame.path != path:
            path, pixels_NYX = frame.path, _pixels(frame)
        if frame.index >= len(pixels_NYX):
            raise ReadError(
                f"{frame.name}: expected at least {frame.index + 1} frames of pixels, found {len(pixels_NYX)}"
            )
        stored_YX = pixels_NYX[frame.index]
        if stored_YX.shape != (frame.rows, frame.columns) or stored_YX.dtype.kind not in "iu":
            raise ReadError(
                f"{frame.name}: expected {frame.rows}x{frame.columns} integers, found {stored_YX.shape} of "
                f"{stored_YX.dtype}"
            )
        yield frame, stored_YX


def _pixels(frame: Frame) -> Array:
    """All frames of a file, [frames, rows, columns]."""
    syntax = frame.header.file_meta.TransferSyntaxUID
    try:
        if syntax in _WRAPPED:
            pixels = pixel_array(_unwrapped(frame.path, syntax), raw=True)
        elif syntax == uids.DeflatedExplicitVRLittleEndian:
            # pydicom finds the pixels of a file by itself, but not inside a deflated one
            pixels = pixel_array(pydicom.dcmread(frame.path), raw=True)
        else:
            plugin = _DECODERS.get(syntax, "pylibjpeg") if syntax.is_compressed else ""
            pixels = pixel_array(frame.path, raw=True, decoding_plugin=plugin)
    except PARSE_ERRORS as error:
        raise ReadError(
            f"{frame.path.name}: expected pixel data in {syntax.name}, found it unreadable ({error})"
        ) from error
    return pixels if pixels.ndim == 3 else pixels[None]


def _unwrapped(path: Path, syntax: uids.UID) -> Dataset:
    """The file as if it were uncompressed: encapsulated words (PS3.5 A.4.11), or raw deflate streams (A.4.13)."""
    dataset = pydicom.dcmread(path)
    frames = generate_frames(dataset.PixelData, number_of_frames=int(dataset.get("NumberOfFrames") or 1))
    size = dataset.Rows * dataset.Columns * dataset.BitsAllocated // 8
    words = [zlib.decompressobj(-15).decompress(f, size + 2) if syntax == DEFLATED_FRAMES else f for f in frames]
    dataset.PixelData = b"".join(word[:size] for word in words)
    dataset["PixelData"].VR = "OW"
    dataset["PixelData"].is_undefined_length = False
    dataset.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
    return dataset

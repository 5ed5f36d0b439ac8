"""Boxes of the cache's arrays, every chunk checked against its CRC-32C before anything of it is used.

The cache writes one shard an array, of small chunks packed with Blosc (`docs/cache-format.md`), and a patch touches
tens of them. `Shard` reads those: each chunk once, into the patch, nothing kept. Any other Zarr v3 array is read by
tensorstore.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import math
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from crc32c import crc32c

from vol3d.types import Array

_CHECKED = 0x48674BC7
"""CRC-32C of any bytes that end with their own CRC-32C."""

_CRC = 4
"""Bytes of it."""

_NOTHING = 2**64 - 1
"""Place and length of a chunk that was not written: all of it is 0."""

_LITTLE = {"name": "bytes", "configuration": {"endian": "little"}}


class Stored(Protocol):
    """An array on disk."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    """What is read: float32 where float16 lies there, which holds no number to reckon with."""

    def read(self, start: Sequence[int], stop: Sequence[int]) -> Array:
        """Elements start <= index < stop, which lie inside the array.

        Raises:
            ValueError: what is there is not what was written.
            OSError: it cannot be read.
        """


def open_array(path: Path, *, keep: bool = False) -> Stored:
    """An array of the cache.

    Args:
        path: its folder.
        keep: read often: its file stays open.

    Raises:
        ValueError: there is none.
        OSError: its metadata cannot be read.
    """
    try:
        layout = _layout(json.loads((path / "zarr.json").read_bytes()))
    except (FileNotFoundError, LookupError, TypeError, ValueError):  # tensorstore says what is wrong
        layout = None
    return Other(path) if layout is None else Shard(path / "c/0/0/0", *layout, keep)


def _layout(metadata: dict[str, Any]) -> tuple[tuple[int, ...], np.dtype[Any], tuple[int, ...]] | None:
    """Shape, type and chunk of an array that is stored as the cache writes them, else None."""
    shape, dtype = tuple(metadata["shape"]), np.dtype(metadata["data_type"])
    (sharding,) = metadata["codecs"]
    chunk, blosc = sharding["configuration"]["chunk_shape"], sharding["configuration"]["codecs"][1]
    whole = [math.ceil(n / c) * c for n, c in zip(shape, chunk, strict=True)]
    known = {
        "chunk_shape": chunk,
        "codecs": [_LITTLE if dtype.itemsize > 1 else {"name": "bytes"}, blosc, {"name": "crc32c"}],
        "index_codecs": [_LITTLE, {"name": "crc32c"}],
        "index_location": "end",
    }
    same = (
        sharding == {"name": "sharding_indexed", "configuration": known}
        and (blosc["name"], blosc["configuration"]["typesize"]) == ("blosc", dtype.itemsize)
        and metadata["chunk_grid"]["configuration"]["chunk_shape"] == whole
        and metadata["chunk_key_encoding"] == {"name": "default", "configuration": {"separator": "/"}}
        and (metadata["fill_value"], len(shape), metadata.get("storage_transformers", [])) == (0, 3, [])
    )
    return (shape, dtype, tuple(chunk)) if same else None


class Shard:
    """An array of three axes in one file: its chunks, then the place and length of each, then a checksum of these.

    A file that is not there holds zeros, as Zarr has it. The file is mapped into memory: no thread is started, so that
    reading goes on in a forked process, and what was opened stays whole when the entry is replaced.

    Args:
        file: the shard.
        shape: of the array.
        dtype: of the array.
        chunk: voxels of a chunk along each axis.
        keep: the file stays open after a read.
    """

    def __init__(
        self, file: Path, shape: tuple[int, ...], dtype: np.dtype[Any], chunk: tuple[int, ...], keep: bool
    ) -> None:
        self.file, self.shape, self.chunk, self.keep = file, shape, chunk, keep
        self.dtype, self._stored = _read_as(dtype), dtype
        self._kept: memoryview | None = None
        self._places: Array | None = None

    def read(self, start: Sequence[int], stop: Sequence[int]) -> Array:
        """See `Stored`; zeros where nothing was written."""
        half = self._stored == np.float16
        out = np.empty([b - a for a, b in zip(start, stop, strict=True)], np.int32 if half else self.dtype)
        content = self._content()
        if content is None:
            out[...] = 0
            return out.view(self.dtype)
        axes = [list(_parts(a, b, c)) for a, b, c in zip(start, stop, self.chunk, strict=True)]
        reached = tuple(slice(parts[0][0], parts[-1][0] + 1) for parts in axes)
        places = self._places_in(content)[reached].reshape(-1, 2).tolist()
        chunk = np.empty(self.chunk, np.int16 if half else self.dtype)
        decode = _decoder(content, chunk)
        for (place, size), ((_, z, to_z), (_, y, to_y), (_, x, to_x)) in zip(places, product(*axes), strict=True):
            if place == _NOTHING:
                out[to_z, to_y, to_x] = 0
            elif crc32c(content[place : place + size]) == _CHECKED and decode(place, size - _CRC):
                out[to_z, to_y, to_x] = chunk[z, y, x]
            else:
                raise ValueError(f"a chunk of {self.file} is damaged")
        return _widened(out) if half else out

    def _content(self) -> memoryview | None:
        """All bytes of the file."""
        if self._kept is not None:
            return self._kept
        try:
            with open(self.file, "rb") as file:
                content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except FileNotFoundError:
            return None
        if self.keep:
            self._kept = content
        return content

    def _places_in(self, content: memoryview) -> Array:
        """Place and length of every chunk; read again where the file may be another by now."""
        if self._places is None or not self.keep:
            counts = [math.ceil(n / c) for n, c in zip(self.shape, self.chunk, strict=True)]
            size = 16 * math.prod(counts) + _CRC
            if len(content) < size or crc32c(content[-size:]) != _CHECKED:
                raise ValueError(f"the places of the chunks in {self.file} are damaged")
            self._places = np.frombuffer(bytes(content[-size:-_CRC]), "<u8").reshape(*counts, 2)
        return self._places


def _read_as(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def _widened(bits: Array) -> Array:
    """float32 of finite float16 whose bits lie in int32, in place: 3 to 4 times as fast as NumPy's own conversion."""
    bits <<= 13
    bits &= np.int32(-0x70002000)  # the sign, and none of its copies
    values = bits.view(np.float32)
    values *= np.float32(2.0**112)  # the exponents of the two are 112 apart
    return values


def _decoder(content: memoryview, chunk: Array) -> Callable[[int, int], bool]:
    """Decodes the Blosc buffer of a place and length into `chunk`; False: it does not hold a chunk.

    Always all of it: asked for a part as long as a block that begins inside one, C-Blosc2 3.3 gives another.
    """
    library = _blosc2()
    if library is None:
        import numcodecs.blosc

        def decode(place: int, size: int) -> bool:
            return bool(numcodecs.blosc.decompress(content[place : place + size], chunk).nbytes == chunk.nbytes)

        numcodecs.blosc.use_threads = False  # workers are the parallelism
        return decode
    getitem, base, target = library.blosc2_getitem, np.frombuffer(content, np.uint8).ctypes.data, chunk.ctypes.data
    voxels, nbytes = chunk.size, chunk.nbytes
    return lambda place, size: bool(getitem(base + place, size, 0, voxels, target, nbytes) == nbytes)


@cache
def _blosc2() -> Any:
    """C-Blosc2, as the package brings it, or None.

    It reads the format of Zarr's Blosc, too, on the thread that calls. numcodecs, the usual way, is built without the
    wide instructions of newer processors: a patch takes 1.3 times as long.
    """
    found = importlib.util.find_spec("blosc2")
    for folder in found.submodule_search_locations or () if found else ():
        for file in sorted((Path(folder) / "lib").glob("libblosc2.*")):
            with suppress(OSError, AttributeError):  # a static library beside it, or one for another machine
                library = ctypes.CDLL(str(file))
                pointer, number = ctypes.c_void_p, ctypes.c_int32
                library.blosc2_getitem.argtypes = [pointer, number, ctypes.c_int, ctypes.c_int, pointer, number]
                return library
    return None


def _parts(start: int, stop: int, size: int) -> Iterator[tuple[int, slice, slice]]:
    """Chunks along an axis that start <= index < stop reaches: number, what of it, where in the result."""
    for number in range(start // size, math.ceil(stop / size)):
        first = number * size
        low, high = max(start, first), min(stop, first + size)
        yield number, slice(low - first, high - first), slice(low - start, high - start)


class Other:
    """An array as tensorstore reads it.

    Raises:
        ValueError: there is none.
    """

    def __init__(self, path: Path) -> None:
        import tensorstore

        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
        self._array = tensorstore.open(spec, read=True, open=True, context=_context(), recheck_cached=False).result()
        self.shape, self.dtype = tuple(self._array.shape), _read_as(self._array.dtype.numpy_dtype)

    def read(self, start: Sequence[int], stop: Sequence[int]) -> Array:
        """See `Stored`."""
        return np.asarray(self._array[tuple(map(slice, start, stop))].read().result(), self.dtype)


_CONTEXTS: dict[int, Any] = {}


def _context() -> Any:
    """One small chunk cache and one copying thread a process: workers are the parallelism."""
    import tensorstore

    limits = {"data_copy_concurrency": {"limit": 1}, "cache_pool": {"total_bytes_limit": 32_000_000}}
    return _CONTEXTS.setdefault(os.getpid(), tensorstore.Context(limits))

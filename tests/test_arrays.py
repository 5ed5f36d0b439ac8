import math
import subprocess
import sys

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from vol3d import arrays
from vol3d.arrays import Other, Shard, open_array
from vol3d.cache_write import _array

SHAPE, CHUNK = (21, 37, 40), 16
WHOLE = (0, 0, 0), SHAPE


def voxels(dtype, seed=0):
    rng = np.random.default_rng(seed)
    if dtype == "uint8":
        return (rng.random(SHAPE) < 0.01).astype(np.uint8)
    smooth = np.cumsum(rng.normal(0, 20, SHAPE), axis=2)
    smooth[:, :CHUNK] = 0  # chunks of zeros, which are not written
    return smooth.astype(dtype)


@pytest.fixture
def write(tmp_path):
    """Writes an array as the cache does, or with other codecs; returns its folder."""

    def written(array, codec="", name="a", **blosc):
        group = zarr.open_group(tmp_path / "g", mode="a", zarr_format=3)
        if not blosc:
            _array(group, name, array, CHUNK, codec)
        else:
            shard = tuple(math.ceil(n / CHUNK) * CHUNK for n in array.shape)
            group.create_array(
                name, data=array, chunks=(CHUNK,) * 3, shards=shard, fill_value=0,
                compressors=[BloscCodec(**blosc), Crc32cCodec()],
            )  # fmt: skip
        return tmp_path / "g" / name

    return written


def boxes(count=40):
    """Whole, single voxels at corners, borders of chunks, and any."""
    yield WHOLE
    yield (0, 0, 0), (1, 1, 1)
    yield tuple(n - 1 for n in SHAPE), SHAPE
    yield (CHUNK, CHUNK, CHUNK), (CHUNK + 1, 2 * CHUNK, 2 * CHUNK)
    yield (CHUNK - 1, CHUNK - 1, CHUNK - 1), (CHUNK + 1, CHUNK + 1, CHUNK + 1)
    rng = np.random.default_rng(1)
    for _ in range(count):
        ends = [np.sort(rng.choice(n + 1, 2, replace=False)).tolist() for n in SHAPE]
        yield tuple(a for a, _ in ends), tuple(b for _, b in ends)


CODECS = [
    ("int16", {}),
    ("float32", {}),
    ("float16", {}),
    ("uint8", {}),
    ("int16", {"cname": "lz4", "clevel": 5, "shuffle": "bitshuffle"}),  # as caches were written before
    ("float32", {"cname": "zstd", "clevel": 3, "shuffle": "shuffle", "blocksize": 1024}),
    ("int16", {"cname": "lz4", "clevel": 0, "shuffle": "noshuffle"}),
]


@pytest.mark.parametrize("library", ["blosc2", "numcodecs"])
@pytest.mark.parametrize(("dtype", "blosc"), CODECS)
def test_a_shard_is_what_tensorstore_reads_bit_for_bit(write, monkeypatch, dtype, blosc, library):
    array = voxels(dtype)
    path = write(array, **blosc)
    assert arrays._blosc2() is not None, "the library that patches are read by is not there"
    if library == "numcodecs":
        monkeypatch.setattr(arrays, "_blosc2", lambda: None)
    ours, theirs = open_array(path, keep=True), Other(path)
    assert isinstance(ours, Shard)
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    for start, stop in boxes():
        found = ours.read(start, stop)
        assert found.dtype == np.dtype("float32" if dtype == "float16" else dtype)
        assert found.tobytes() == theirs.read(start, stop).tobytes()
        np.testing.assert_array_equal(found, array[tuple(map(slice, start, stop))])


def test_every_float16_becomes_its_float32(write):
    """All 63,488 finite ones: both zeros, those below 6e-5, the largest."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)].reshape(16, 62, 64)
    found = open_array(write(every)).read((0, 0, 0), every.shape)
    assert found.tobytes() == every.astype(np.float32).tobytes()


def test_every_flipped_byte_is_refused(write):
    path = write(voxels("int16"))
    file = path / "c/0/0/0"
    content = file.read_bytes()
    rng = np.random.default_rng(0)
    for place in [0, 3, 15, 16, len(content) - 1, len(content) - 5, *rng.integers(0, len(content), 60)]:
        spoilt = bytearray(content)
        spoilt[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(spoilt)
        with pytest.raises(ValueError, match="damaged"):
            open_array(path).read(*WHOLE)


@pytest.mark.parametrize("left", [0, 1, 100, -1, -5, -1000])
def test_a_short_file_is_refused(write, left):
    path = write(voxels("int16"))
    file = path / "c/0/0/0"
    file.write_bytes(file.read_bytes()[:left])
    with pytest.raises(ValueError, match=r"damaged|empty"):
        open_array(path).read((0, 0, 0), (1, 1, 1))


def test_a_file_that_is_not_there_holds_zeros(write):
    path = write(voxels("int16"))
    (path / "c/0/0/0").unlink()
    assert not open_array(path).read(*WHOLE).any()
    assert not Other(path).read(*WHOLE).any()


@pytest.mark.parametrize("keep", [True, False])
def test_what_is_replaced_is_read_whole(write, keep):
    """All of the old file where it stays open, else all of the new one."""
    old, new = voxels("int16", 0), voxels("int16", 1)
    path, other = write(old), write(new, name="b")
    array = open_array(path, keep=keep)
    np.testing.assert_array_equal(array.read(*WHOLE), old)
    (other / "c/0/0/0").replace(path / "c/0/0/0")
    np.testing.assert_array_equal(array.read(*WHOLE), old if keep else new)


def test_arrays_stored_in_another_way_go_to_tensorstore(tmp_path):
    array = voxels("int16")
    group = zarr.open_group(tmp_path / "g", mode="w", zarr_format=3)
    group.create_array("chunks", data=array, chunks=(16, 16, 16))
    group.create_array("shards", data=array, chunks=(16, 16, 16), shards=(32, 32, 32), compressors=BloscCodec())
    group.create_array(
        "larger", data=array, chunks=(16, 16, 16), shards=(64, 64, 64), fill_value=0,
        compressors=[BloscCodec(), Crc32cCodec()],
    )  # fmt: skip
    for name in ("chunks", "shards", "larger"):
        found = open_array(tmp_path / "g" / name)
        assert isinstance(found, Other)
        np.testing.assert_array_equal(found.read((1, 2, 3), (20, 30, 40)), array[1:20, 2:30, 3:40])
    with pytest.raises(ValueError, match="g/none"):
        open_array(tmp_path / "g" / "none")


def test_a_forked_process_reads_on(write):
    """In a process of its own: tensorstore, used by other tests, refuses a fork."""
    path = write(voxels("int16"))
    script = f"""
import os
from pathlib import Path
from vol3d.arrays import open_array
array = open_array(Path({str(path)!r}), keep=True)
expected = array.read((1, 1, 1), (20, 30, 40)).tobytes()
for _ in range(3):
    if (child := os.fork()) == 0:
        os._exit(0 if array.read((1, 1, 1), (20, 30, 40)).tobytes() == expected else 1)
    assert os.waitpid(child, 0)[1] == 0
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr

import itertools

import numpy as np
import pytest

from vol3d.errors import ConfigError
from vol3d.infer.tiles import axis_weights, tile_rows, tile_starts


def test_starts_by_hand():
    assert tile_starts(160, 64, 0.5) == [0, 32, 64, 96]
    assert tile_starts(100, 64, 0.5) == [0, 18, 36]
    assert tile_starts(65, 64, 0.5) == [0, 1]
    assert tile_starts(64, 64, 0.5) == [0]
    assert tile_starts(128, 64, 0.0) == [0, 64]


def test_a_small_volume_is_padded_alike_at_both_ends():
    assert tile_starts(40, 64, 0.5) == [-12]
    assert tile_starts(41, 64, 0.5) == [-11]  # 11 before, 12 behind


@pytest.mark.parametrize(
    ("size", "patch", "overlap"), itertools.product([1, 16, 17, 47, 100], [16, 24], [0.0, 0.5, 0.75])
)
def test_all_voxels_are_covered_the_last_tile_is_flush_and_weights_sum_to_one(size, patch, overlap):
    weights = axis_weights(size, patch, overlap)
    total = np.zeros(size)
    for start, share in weights.items():
        low, high = max(start, 0), min(start + patch, size)
        total[low:high] += share[low - start : high - start]
    np.testing.assert_allclose(total, 1, atol=1e-5)
    starts = tile_starts(size, patch, overlap)
    assert starts == sorted(set(starts))
    if size > patch:
        assert starts[0] == 0
        assert starts[-1] == size - patch
        assert max(np.diff(starts)) <= np.ceil(patch * (1 - overlap))


def test_weights_are_the_gaussian_of_an_eighth():
    share = axis_weights(64, 32, 0.5)
    # voxel 24 lies 8.5 voxels from the centre of tile 0 and 7.5 from that of tile 16; sigma is 4 voxels
    assert share[0][24] / share[16][8] == pytest.approx(np.exp((7.5**2 - 8.5**2) / (2 * 4**2)), rel=1e-5)
    assert share[0][24] + share[16][8] == pytest.approx(1)


def test_rows_grow_along_z():
    rows = tile_rows((100, 64, 100), (64, 64, 64), 0.5)
    assert [z for z, _ in rows] == [0, 18, 36]
    assert rows[1][1] == [(18, 0, 0), (18, 0, 18), (18, 0, 36)]


def test_a_silly_overlap_is_refused():
    with pytest.raises(ConfigError, match="overlap"):
        tile_starts(100, 64, 1.0)

"""Are two volumes the same scan? Also after noise, another kernel, a crop or a shift, under whatever name.

What tells scans apart is fine anatomy. On one lattice, anchored to the world, each volume keeps its detail between one
and four steps with local contrast evened out, and two volumes are compared by their normalised cross-correlation over
all shifts at once (masked FFT, after Padfield 2012), refined between lattice points. A coarse lattice finds suspects
cheaply; on a fine one two patients of like build lie further apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import fft
from scipy.ndimage import gaussian_filter, map_coordinates

from vol3d.geometry import Grid
from vol3d.types import Array, Zyx
from vol3d.volume import Volume

COARSE_MM, FINE_MM = 8.0, 5.0
"""Steps of the two lattices."""
BACKGROUND = 1.5
"""Standard deviation, in steps, of what is taken away as background."""
WINDOW_HU = (-150.0, 200.0)
"""Outside of it there is bone, air and lung, whose steps all torsos share."""
FLOOR = 40.0
"""HU of local contrast under which detail counts as noise."""
OVERLAP = 0.5
"""Least share of the detail of the smaller volume that has to overlap."""
BLOCK = 16


@dataclass(frozen=True, eq=False)
class Detail:
    """Detail of one volume on the common lattice, float32 [Z, Y, X]."""

    array_ZYX: Array


@dataclass(frozen=True, eq=False)
class _Spectra:
    detail: Array
    energy: Array
    support: Array
    total: float


def detail_of(volume: Volume, step_mm: float = COARSE_MM) -> Detail:
    """The detail of a CT (HU) or PET (SUVbw) on an axis-aligned grid, as the cache holds it."""
    grid = volume.grid
    image: Array = volume.array_ZYX.astype(np.float32)
    # uptake spans decades; its root, scaled to the size of HU, lets the same constants serve both
    image = np.clip(image, *WINDOW_HU) if volume.modality == "ct" else 100.0 * np.sqrt(np.clip(image, 0.0, 16.0))
    image = gaussian_filter(image, [0.5 * step_mm / s for s in grid.spacing_mm])
    corners = grid.corners_mm()
    low, high = np.ceil(corners.min(axis=0) / step_mm), np.floor(corners.max(axis=0) / step_mm)
    x, y, z = (max(1, int(n)) for n in high - low + 1)
    lattice = Grid.from_spacing((z, y, x), (step_mm,) * 3, tuple((low * step_mm).tolist()))
    coarse = Volume(image, grid, volume.modality).resample_to(lattice).array_ZYX.astype(np.float32)
    detail = coarse - gaussian_filter(coarse, BACKGROUND)
    contrast = np.sqrt(np.maximum(gaussian_filter(detail * detail, BACKGROUND), 0))
    return Detail(detail / (contrast + FLOOR))


def similarity(a: Detail, b: Detail) -> float:
    """-1 to 1 for two details on one lattice; near 1 for the same scan, whatever its crop and shift."""
    return next(similarities([a], [b]))[2]


def similarities(first: Sequence[Detail], second: Sequence[Detail]) -> Iterator[tuple[int, int, float]]:
    """(i, j, similarity) of every pair; memory grows with the block, not with the number of volumes."""
    if not first or not second:
        return
    size = _common_size([*first, *second])
    for i, j in itertools.product(range(0, len(first), BLOCK), range(0, len(second), BLOCK)):
        left = [_spectra(d.array_ZYX, size) for d in first[i : i + BLOCK]]
        right = [_spectra(d.array_ZYX, size) for d in second[j : j + BLOCK]]
        for (a, p), (b, q) in itertools.product(enumerate(left), enumerate(right)):
            yield i + a, j + b, _correlate(p, q, size)


def _common_size(details: Sequence[Detail]) -> Zyx:
    """Half as large again as the largest, so that shifts up to a half do not wrap round."""
    largest = np.max([d.array_ZYX.shape for d in details], axis=0)
    z, y, x = (int(fft.next_fast_len(int(1.5 * n) + 1, real=True)) for n in largest)
    return z, y, x


def _spectra(detail: Array, size: Zyx) -> _Spectra:
    energy = detail * detail
    return _Spectra(
        fft.rfftn(detail, size), fft.rfftn(energy, size), fft.rfftn(np.ones_like(detail), size), float(energy.sum())
    )


def _correlate(p: _Spectra, q: _Spectra, size: Zyx) -> float:
    product = fft.irfftn(p.detail * np.conj(q.detail), size)
    of_p = fft.irfftn(p.energy * np.conj(q.support), size)  # energy of p where q lies, for every shift
    of_q = fft.irfftn(p.support * np.conj(q.energy), size)
    least = OVERLAP * min(p.total, q.total)
    enough = (of_p > least) & (of_q > least)
    if least <= 0 or not enough.any():
        return 0.0
    found = np.where(enough, product / np.sqrt(np.maximum(of_p * of_q, least**2)), 0.0)
    peak = np.unravel_index(int(found.argmax()), found.shape)
    near = np.ix_(*[(np.arange(-3, 4) + k) % n for k, n in zip(peak, found.shape, strict=True)])
    best = float(found[peak])
    if enough[near].all():  # a shift of a fraction of the lattice: the peak lies between its points
        between = np.stack(np.meshgrid(*[np.linspace(2, 4, 9)] * 3, indexing="ij"))
        best = max(best, float(map_coordinates(found[near], between, order=3).max()))
    return min(1.0, best)

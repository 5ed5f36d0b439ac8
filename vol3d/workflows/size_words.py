"""What "small" and "large" mean to a checkpoint: the diameters at which its training data changed words.

No standard gives these words a number, but who wrote the training data used them in some way; that way is measured on
the masks they stand for, and only kept if it is consistent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

import numpy as np

from vol3d.cache import Entry
from vol3d.measure import components, diameters
from vol3d.text.looks import size_of
from vol3d.text.meaning import is_of_many, meaning_of
from vol3d.types import Array

WORDS = ("small", "medium", "large")
LEAST_EACH, MOST_ERRORS = 5, 0.05
"""Things of each word, and the share on the wrong side of a boundary, from which on words mean nothing."""
DOUBT = 0.08
"""Of a boundary: nearer than that a mask's diameter tells nothing."""

SizeWords = Mapping[str, tuple[float, float]]
"""Word to longest axial diameters, from and to, in mm; empty where the words were not used, or not consistently."""


def fit_size_words(entries: Iterable[Entry]) -> dict[str, tuple[float, float]]:
    """Boundaries between the words, from masks of one part whose phrases hold such a word."""
    found: dict[str, list[float]] = {word: [] for word in WORDS}
    for entry in entries:
        for mask in entry.masks:
            phrases = [p for p in mask.phrases if size_of(p) and not is_of_many(p) and meaning_of(p) is not None]
            words = {size_of(p) for p in phrases}
            if len(words) != 1:
                continue
            mask_ZYX = entry.read_mask(mask.name, (0, 0, 0), entry.grid.shape)
            size = diameters(mask_ZYX, entry.grid)
            if size is not None and len(components(mask_ZYX, entry.grid)) == 1:
                found[str(words.pop())].append(size.axial_long_mm)
    return boundaries(found)


def boundaries(found: Mapping[str, list[float]]) -> dict[str, tuple[float, float]]:
    """From diameters (mm) by word to ranges by word; empty if any pair of neighbours is not told apart."""
    used = [word for word in WORDS if len(found.get(word, ())) >= LEAST_EACH]
    if len(used) < 2:
        return {}
    cuts = []
    for low, high in pairwise(used):
        cut, errors = _cut(np.array(found[low]), np.array(found[high]))
        if errors > MOST_ERRORS:
            return {}
        cuts.append(cut)
    edges = [0.0, *cuts, float("inf")]
    return {word: (edges[i], min(edges[i + 1], 1e6)) for i, word in enumerate(used)}


def judge_size(diameter_mm: float, words: SizeWords) -> dict[str, bool]:
    """Whether each word holds; those are left out that cannot be told."""
    out = {}
    for word, (low, high) in words.items():
        if low * (1 + DOUBT) <= diameter_mm <= high * (1 - DOUBT):
            out[word] = True
        elif diameter_mm < low * (1 - DOUBT) or diameter_mm > high * (1 + DOUBT):
            out[word] = False
    return out


def _cut(low_N: Array, high_N: Array) -> tuple[float, float]:
    """The diameter with the fewest of both on its wrong side, in the middle of its gap, and their share."""
    edges = np.unique(np.concatenate([low_N, high_N]))
    middles = (edges[:-1] + edges[1:]) / 2
    if not middles.size:
        return 0.0, 1.0
    errors = [(low_N > m).mean() / 2 + (high_N < m).mean() / 2 for m in middles]
    best = int(np.argmin(errors))
    return round(float(middles[best]), 1), float(errors[best])

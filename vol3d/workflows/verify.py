"""`vol3d verify`: every byte of a cache, and whether a patient or a scan stands in two splits."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from pathlib import Path

from preprocessing.verify_cache import verify as verify_bytes
from vol3d.cache import Cache
from vol3d.workflows.leakage import find_leaks

log = logging.getLogger("vol3d")

MOST_PAIRS = 20_000
"""Pairs of volumes that are compared unasked: about six minutes."""
PAIR_SECONDS = 0.018


def verify(root: Path, *, near_duplicates: bool | None = None, show_progress: bool = True) -> dict[str, list[str]]:
    """Faults by study id (``""`` for the cache itself); empty if all is well.

    Args:
        root: a cache.
        near_duplicates: also compare the volumes of different splits; None does so up to `MOST_PAIRS` pairs.
        show_progress: show a progress bar.

    Raises:
        CacheError: there is no cache at all.
    """
    faults = verify_bytes(root, show_progress)
    cache = Cache(root)
    if faults:
        return faults  # what cannot be read cannot be compared
    sizes = Counter(split for split in cache.table.column("split") if split is not None)
    if len(sizes) < 2:
        return faults
    pairs = sum(a * b for a, b in itertools.combinations(sizes.values(), 2))
    compare = pairs <= MOST_PAIRS if near_duplicates is None else near_duplicates
    if near_duplicates is None and not compare:
        log.info(
            "volumes of different splits were not compared: %d pairs take about %.0f minutes; --near-duplicates "
            "compares them", pairs, pairs * PAIR_SECONDS / 60,
        )  # fmt: skip
    for leak in find_leaks([root], near_duplicates=compare).leaks:
        faults.setdefault("", []).append(f"{leak}; give all studies of a patient one split")
    return faults

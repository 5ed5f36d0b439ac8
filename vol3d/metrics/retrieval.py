"""Does an image find its report among all reports, and a report its image?

Many reports are the same text ("no focal lesion"), and an image whose text equals the one that was found has been
answered rightly: candidates of one group are all right. Ties are counted against the model, so that one that gives
every pair the same similarity scores nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vol3d.errors import Vol3dError
from vol3d.metrics.bootstrap import Interval, bootstrap_interval
from vol3d.types import Array

RANKS = (1, 5, 10)


@dataclass(frozen=True)
class Retrieval:
    """How well queries find their own among the candidates."""

    recall: dict[int, Interval]
    """Share of queries with a right candidate among the first k; NaN where k is no choice (k >= candidates)."""
    chance: dict[int, float]
    """The same for a random order, with as many right candidates for each query."""
    median_rank: float
    """1 is best; of the first right candidate."""
    queries: int
    candidates: int


def retrieval(
    similarity_QC: Array,
    query_groups: Sequence[int] | None = None,
    candidate_groups: Sequence[int] | None = None,
    patients_Q: Sequence[str] | None = None,
    *,
    ranks: Sequence[int] = RANKS,
    samples: int = 1000,
) -> Retrieval:
    """Queries (rows) against candidates (columns), higher similarity first.

    Args:
        similarity_QC: finite.
        query_groups: group of each query; without groups query i belongs to candidate i alone.
        candidate_groups: group of each candidate; those of the query's group are right.
        patients_Q: patient of each query, for the intervals; each query its own by default.
        ranks: the k of recall at k.
        samples: bootstrap draws; queries are drawn, the candidates stay.

    Raises:
        Vol3dError: shapes do not fit, a similarity is not finite, or a query has no right candidate.
    """
    similarity = np.asarray(similarity_QC, np.float64)
    right = _right(similarity, query_groups, candidate_groups)
    rank = ranks_of(similarity, right)
    queries, candidates = similarity.shape
    who = [str(i) for i in range(queries)] if patients_Q is None else patients_Q
    recall, chance = {}, {}
    for k in ranks:
        hits = (rank <= k).astype(float) if k < candidates else np.full(queries, np.nan)
        recall[k] = bootstrap_interval(hits, who, samples=samples)
        chance[k] = float(np.mean(_chance(right.sum(axis=1), candidates, k))) if k < candidates else float("nan")
    return Retrieval(recall, chance, float(np.median(rank)), queries, candidates)


def both_ways(
    similarity_IT: Array,
    text_groups: Sequence[int] | None = None,
    patients: Sequence[str] | None = None,
    *,
    ranks: Sequence[int] = RANKS,
    samples: int = 1000,
) -> dict[str, Retrieval]:
    """``image_to_text`` and ``text_to_image`` of N studies; image i and text i belong together.

    Args:
        similarity_IT: [N, N], images in rows.
        text_groups: from `groups_of` the texts; an image is right for every text equal to its own.
        patients: of the studies.
        ranks: the k of recall at k.
        samples: bootstrap draws.
    """
    similarity = np.asarray(similarity_IT)
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise Vol3dError(f"expected as many images as texts, found similarities of shape {similarity.shape}")
    return {
        "image_to_text": retrieval(similarity, text_groups, text_groups, patients, ranks=ranks, samples=samples),
        "text_to_image": retrieval(similarity.T, text_groups, text_groups, patients, ranks=ranks, samples=samples),
    }


def groups_of(texts: Sequence[str]) -> list[int]:
    """The same number for texts that are the same up to capitals and white space."""
    numbers: dict[str, int] = {}
    return [numbers.setdefault(" ".join(text.lower().split()), len(numbers)) for text in texts]


def ranks_of(similarity_QC: Array, right_QC: Array) -> Array:
    """Rank of each query's best right candidate: wrong ones that are at least as similar stand before it."""
    best = np.where(right_QC, similarity_QC, -np.inf).max(axis=1, keepdims=True)
    return 1 + (~right_QC & (similarity_QC >= best)).sum(axis=1)


def _right(similarity: Array, query_groups: Sequence[int] | None, candidate_groups: Sequence[int] | None) -> Array:
    if similarity.ndim != 2 or not similarity.size:
        raise Vol3dError(f"expected similarities [queries, candidates], found shape {similarity.shape}")
    if not np.isfinite(similarity).all():
        raise Vol3dError(f"expected finite similarities, found {int((~np.isfinite(similarity)).sum())} that are not")
    if query_groups is None and candidate_groups is None and similarity.shape[0] == similarity.shape[1]:
        return np.eye(len(similarity), dtype=bool)
    found = tuple(len(g) if g is not None else None for g in (query_groups, candidate_groups))
    if query_groups is None or candidate_groups is None or found != similarity.shape:
        raise Vol3dError(f"expected a group for each row and column of {similarity.shape}, found {found}")
    right = np.asarray(query_groups)[:, None] == np.asarray(candidate_groups)[None]
    if not right.any(axis=1).all():
        raise Vol3dError(
            f"expected a right candidate for every query, found none for query {int(right.any(1).argmin())}"
        )
    return right


def _chance(right_Q: Array, candidates: int, k: int) -> Array:
    """1 - C(n - r, k) / C(n, k): the chance that k drawn candidates hold one of the r right ones."""
    missed = np.ones(len(right_Q))
    for i in range(k):
        missed *= np.maximum(candidates - right_Q - i, 0) / (candidates - i)
    return 1 - missed

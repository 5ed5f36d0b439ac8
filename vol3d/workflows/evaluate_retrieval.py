"""Images and reports find each other by their embeddings: recall at 1, 5 and 10 both ways, over all and by organ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vol3d.errors import Vol3dError
from vol3d.metrics.retrieval import RANKS, Retrieval, both_ways, groups_of, ranks_of
from vol3d.text.slots import SLOT, take_numbers
from vol3d.types import Array
from vol3d.workflows.subgroup_tables import groups_of_meta, subgroup_table
from vol3d.workflows.tables import null

SAMPLES = 1000


@dataclass(frozen=True, eq=False)
class Embedded:
    """N studies; image i and text i belong together."""

    images_NE: Array
    texts_NE: Array
    texts: Sequence[str]
    """As they were embedded: equal ones are right for each other."""
    patients: Sequence[str]

    def __post_init__(self) -> None:
        shapes = np.shape(self.images_NE), np.shape(self.texts_NE)
        if len(shapes[0]) != 2 or shapes[0] != shapes[1] or not len(self.texts) == len(self.patients) == shapes[0][0]:
            raise Vol3dError(
                f"expected images and texts of one shape [N, E] with N texts and patients, found {shapes[0]}, "
                f"{shapes[1]}, {len(self.texts)} and {len(self.patients)}"
            )


def evaluate_retrieval(
    whole: Embedded,
    by_organ: Mapping[str, Embedded] | None = None,
    meta: Sequence[Mapping[str, Any]] | None = None,
    *,
    parts_NN: Array | None = None,
    ranks: Sequence[int] = RANKS,
    samples: int = SAMPLES,
) -> dict[str, Any]:
    """Recall both ways by cosine similarity, with intervals by patient, the chance level and the median rank.

    Args:
        whole: images and whole reports.
        by_organ: the same for the parts about an organ; studies without such a part are left out of it.
        meta: of the studies of `whole`, for subgroups.
        parts_NN: similarity of image i and report j by its parts, see `by_parts`.
        ranks: the k of recall at k.
        samples: bootstrap draws.

    Raises:
        Vol3dError: an embedding that is zero or not finite, or fewer than two studies.
    """
    out: dict[str, Any] = {"all": _both(whole, ranks, samples)}
    if parts_NN is not None:
        out["by_parts"] = _table(np.asarray(parts_NN, np.float64), whole, ranks, samples)
    organs = {name: own for name, own in (by_organ or {}).items() if len(own.texts) > 1}
    if organs:
        out["by_organ"] = {name: _both(own, ranks, samples) for name, own in sorted(organs.items())}
    if meta:
        out["subgroups"] = _subgroups(whole, meta, ranks, samples)
    return out


def similarity_of(embedded: Embedded) -> Array:
    """Cosine similarities [N, N], images in rows.

    Raises:
        Vol3dError: an embedding that is zero or not finite, or fewer than two studies.
    """
    if len(embedded.texts) < 2:
        raise Vol3dError(f"expected at least two studies to choose from, found {len(embedded.texts)}")
    return _unit(embedded.images_NE, "image") @ _unit(embedded.texts_NE, "text").T


def text_groups(texts: Sequence[str]) -> list[int]:
    """Groups of texts that say the same up to their numbers: no embedding of an image tells 31 mm from 32 mm."""
    plain = [text if SLOT.search(text) else take_numbers(text).template for text in texts]
    return groups_of([SLOT.sub("#", text) for text in plain])


def _unit(embeddings_NE: Array, what: str) -> Array:
    values = np.asarray(embeddings_NE, np.float64)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    if not np.isfinite(values).all() or not length.all():
        bad = int((~np.isfinite(values).all(axis=1) | (length[:, 0] == 0)).argmax())
        raise Vol3dError(f"expected finite {what} embeddings that are not zero, found another for study {bad}")
    return np.asarray(values / length)


def by_parts(images_NQE: Array, organs: Sequence[Sequence[int]], texts: Sequence[Array]) -> Array:
    """[N, N]: for image i and report j, the mean similarity of the report's parts with the image's vectors of their
    organs. A whole report is one vector of many things; its parts say which organ shows which of them.

    Args:
        images_NQE: vectors of unit length of each image as each of Q organs sees it.
        organs: of each report the organs (positions in Q) of its parts.
        texts: of each report the vectors of unit length of its parts, [parts, E].
    """
    columns = [
        np.einsum("nse,se->n", images_NQE[:, list(own)], text_SE) / len(own)
        for own, text_SE in zip(organs, texts, strict=True)
    ]
    return np.stack(columns, axis=1)


def _both(own: Embedded, ranks: Sequence[int], samples: int) -> dict[str, Any]:
    return _table(similarity_of(own), own, ranks, samples)


def _table(similarity_NN: Array, own: Embedded, ranks: Sequence[int], samples: int) -> dict[str, Any]:
    groups = text_groups(own.texts)
    found = both_ways(similarity_NN, groups, list(own.patients), ranks=ranks, samples=samples)
    return {"different_texts": len(set(groups)), **{way: _record(table) for way, table in found.items()}}


def _record(table: Retrieval) -> dict[str, Any]:
    return {
        "recall": {str(k): {n: null(v) for n, v in asdict(i).items()} for k, i in table.recall.items()},
        "chance": {str(k): null(v) for k, v in table.chance.items()},
        "median_rank": table.median_rank, "queries": table.queries, "candidates": table.candidates,
    }  # fmt: skip


def _subgroups(own: Embedded, meta: Sequence[Mapping[str, Any]], ranks: Sequence[int], samples: int) -> dict[str, Any]:
    """Recall of images at the largest k that is a choice, among all candidates."""
    k = max((r for r in ranks if r < len(own.texts)), default=None)
    groups = groups_of_meta(meta)
    if k is None or not groups:
        return {}
    same = np.array(text_groups(own.texts))
    hits = (ranks_of(similarity_of(own), same[:, None] == same[None]) <= k).astype(float)
    table = subgroup_table(hits, list(own.patients), groups, samples=samples)
    return {"figure": f"image_to_text recall at {k}", **table}

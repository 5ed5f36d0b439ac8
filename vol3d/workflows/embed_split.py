"""Images and report texts of a split as vectors, for retrieval both ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vol3d.cache import Entry
from vol3d.data.statements import read_knowledge
from vol3d.errors import Vol3dError
from vol3d.text.knowledge import ORGAN_NAMES
from vol3d.types import Array
from vol3d.workflows.asking import Asker
from vol3d.workflows.evaluate_retrieval import Embedded, by_parts, evaluate_retrieval


def score_retrieval(asker: Asker, entries: Sequence[Entry], *, samples: int) -> dict[str, Any]:
    """Recall of whole reports, by one vector and by their parts, and of organ sections; one pass over every study.

    Raises:
        ConfigError: the model has no alignment head.
    """
    sections = [read_knowledge(e, e.masks, statements=False, contrast=True).sections for e in entries]
    organs = sorted({s.organ for own in sections for s in own if s.organ is not None})
    image_NQE = np.stack([asker.embed(entry, [ORGAN_NAMES[organ] for organ in organs]) for entry in entries])
    column: dict[str | None, int] = {None: 0, **{organ: 1 + n for n, organ in enumerate(organs)}}
    rows: dict[str | None, list[tuple[Array, str, str]]] = {}
    for entry, own, image_QE in zip(entries, sections, image_NQE, strict=True):
        for section in own:
            row = (image_QE[column[section.organ]], section.text, entry.patient_key)
            rows.setdefault(section.organ, []).append(row)
    by_organ = {organ: _embedded(asker, own) for organ, own in rows.items()}
    if None not in by_organ:
        raise Vol3dError("expected reports with findings to retrieve, found none")
    whole = by_organ.pop(None)
    named = {str(organ): own for organ, own in by_organ.items()}
    complete = len(whole.texts) == len(entries)
    meta = [entry.attributes.get("meta") or {} for entry in entries] if complete else None
    parts = [[s for s in own if s.organ is not None] for own in sections]
    parts_NN = None
    if complete and all(parts):
        texts = [asker.embed_texts([s.text for s in own]) for own in parts]
        parts_NN = by_parts(image_NQE, [[column[s.organ] for s in own] for own in parts], texts)
    return evaluate_retrieval(whole, named, meta, parts_NN=parts_NN, samples=samples)


def _embedded(asker: Asker, rows: Sequence[tuple[Array, str, str]]) -> Embedded:
    texts = [text for _, text, _ in rows]
    return Embedded(np.stack([image for image, _, _ in rows]), asker.embed_texts(texts), texts, [p for _, _, p in rows])

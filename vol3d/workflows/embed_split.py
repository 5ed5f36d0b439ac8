"""Images and report texts of a split as vectors, for retrieval both ways."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vol3d.cache import Entry
from vol3d.data.statements import read_knowledge
from vol3d.text.knowledge import ORGAN_NAMES
from vol3d.types import Array
from vol3d.workflows.asking import Asker
from vol3d.workflows.evaluate_retrieval import Embedded, evaluate_retrieval


def score_retrieval(asker: Asker, entries: Sequence[Entry], *, samples: int) -> dict[str, Any]:
    """Recall of whole reports and of their organ sections, from one pass over every study.

    Raises:
        ConfigError: the model has no alignment head.
    """
    rows: dict[str | None, list[tuple[Array, str, str]]] = {}
    for entry in entries:
        sections = read_knowledge(entry, entry.masks, statements=False, contrast=True).sections
        organs = [s.organ for s in sections if s.organ is not None]
        image_QE = asker.embed(entry, [ORGAN_NAMES[organ] for organ in organs])
        for section in sections:
            image_E = image_QE[0 if section.organ is None else 1 + organs.index(section.organ)]
            rows.setdefault(section.organ, []).append((image_E, section.text, entry.patient_key))
    by_organ = {organ: _embedded(asker, own) for organ, own in rows.items()}
    whole = by_organ.pop(None)
    meta = [entry.attributes.get("meta") or {} for entry in entries]
    named = {str(organ): own for organ, own in by_organ.items()}
    return evaluate_retrieval(whole, named, meta if len(meta) == len(whole.texts) else None, samples=samples)


def _embedded(asker: Asker, rows: Sequence[tuple[Array, str, str]]) -> Embedded:
    texts = [text for _, text, _ in rows]
    return Embedded(np.stack([image for image, _, _ in rows]), asker.embed_texts(texts), texts, [p for _, _, p in rows])

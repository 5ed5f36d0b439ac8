"""Do equivalent inputs get the same report? Reports of a cache's studies against those of their variants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vol3d.cache import Cache
from vol3d.errors import CacheError, Vol3dError
from vol3d.files import write_json
from vol3d.metrics.consistency import Consistency, consistency
from vol3d.metrics.report_claims import LESION, claims_of
from vol3d.metrics.report_findings import micro_f1, score_claims, truths_of
from vol3d.workflows.printed import printed_text
from vol3d.workflows.records import load_record
from vol3d.workflows.subgroup_tables import groups_of_meta, subgroup_table
from vol3d.workflows.tables import null, record

SAMPLES = 1000


def stated(text: str) -> dict[str, int]:
    """What a report states is there: lesions by place, uptake and density, and other findings by name."""
    out = {}
    for claim in claims_of(text):
        if claim.present:
            words = (claim.side, claim.organ, claim.density, claim.uptake) if claim.kind == LESION else (claim.side,)
            out[" ".join((claim.kind, *(w for w in words if w)))] = 1
    return out


def evaluate_consistency(
    reports: Path,
    changed: Mapping[str, Path],
    cache_root: Path,
    out: Path,
    *,
    split: str = "test",
    studies: Sequence[str] | None = None,
    samples: int = SAMPLES,
) -> dict[str, Any]:
    """Agreement of the findings stated, before and after each kind of change; writes ``consistency.json``.

    Args:
        reports: output of `vol3d report` for the studies as they are.
        changed: by kind, its output for their variants (`vol3d.workflows.variants`).
        cache_root: the cache with the same studies: their patients and their truth.
        out: folder, made if missing.
        split: of the cache.
        studies: only these of it.
        samples: bootstrap draws.

    Raises:
        CacheError: no study in the split. Vol3dError: a report is missing.
    """
    cache = Cache(cache_root)
    studies = cache.select(split) if studies is None else list(studies)
    if not studies:
        raise CacheError(f"expected studies of split {split!r} in {cache_root}, found none")
    entries = [cache.entry(s) for s in studies]
    patients = [e.patient_key for e in entries]
    truths = [truths_of(e.attributes.get("findings") or ()) for e in entries]
    texts = {kind: [_text(folder / s) for s in studies] for kind, folder in {"": reports, **changed}.items()}
    base = [stated(text) for text in texts[""]]
    groups = groups_of_meta([e.attributes.get("meta") or {} for e in entries])
    table: dict[str, Any] = {}
    for kind, own in texts.items():
        scores = [score_claims(claims_of(text), truth) for text, truth in zip(own, truths, strict=True) if truth]
        row: dict[str, Any] = {"lesion_f1": null(_f1([s.total("lesion") for s in scores]))}
        if kind:
            after = [stated(text) for text in own]
            row |= _record(consistency(base, after, patients, samples=samples))
            same = np.array([float(a == b) for a, b in zip(base, after, strict=True)])
            if groups:
                row["identical_by_group"] = subgroup_table(same, patients, groups, samples=samples)
        table[kind or "unchanged"] = row
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "consistency.json", table)
    return table


def _text(folder: Path) -> str:
    if not folder.is_dir():
        raise Vol3dError(f"expected a report in {folder}, found no folder; report on all studies first")
    return printed_text(load_record(folder))


def _f1(totals: list[tuple[int, int, int]]) -> float:
    return micro_f1(np.array(totals, float)) if totals else float("nan")


def _record(table: Consistency) -> dict[str, Any]:
    return {
        "identical": record(table.identical), "overlap": record(table.overlap),
        "between_studies": null(table.between_studies), "beyond_chance": null(table.beyond_chance),
        "appeared": table.appeared, "vanished": table.vanished,
    }  # fmt: skip

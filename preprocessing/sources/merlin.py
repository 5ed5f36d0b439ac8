"""Merlin's abdominal CT set (Blankemeier et al., Stanford AIMI): CT, findings, 30 labels. `docs/datasets/merlin.md`.

``merlin_data/STUDY.nii.gz``, ``reports_final.xlsx`` (study id, Findings, Split), ``zero_shot_findings_disease_cls.csv``
(1 said to be there, 0 said not to be there, -1 not mentioned: unknown here, never a negative).
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from preprocessing.sources import splits
from preprocessing.sources.common import known, refused, safe_id
from preprocessing.sources.tables import Cells, contradictions, find_tables, indexed, read_table, stem, walk
from vol3d.errors import ManifestError
from vol3d.text.label_names import finding_name, finding_phrases

ID, FINDINGS, SPLIT = "study id", "Findings", "Split"
SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

_IMPRESSION = re.compile(r"\bIMPRESSION\s*:", re.I)

log = logging.getLogger("vol3d")


def rows(folder: Path) -> list[dict[str, Any]]:
    """Manifest rows with the published splits. The set names no patients, so a study is its own.

    Raises:
        ManifestError: no table of reports, none of its volumes here, or a column is missing.
    """
    tables = find_tables(folder, "reports_final.*")
    if not tables:
        raise ManifestError(f"expected reports_final.xlsx (or as CSV) below {folder}, found none")
    cells, labelled = read_table(tables[0], [ID, FINDINGS, SPLIT]), _labels(folder)
    reports, labels = indexed(cells, ID), indexed(labelled, ID)
    unlike = contradictions(labelled, ID) | contradictions(cells, ID)
    volumes = {stem(p.name): p for p in walk(folder) if p.name.endswith((".nii.gz", ".nii"))}
    here = [study for study in reports if study in volumes]
    if not here:
        raise ManifestError(
            f"expected volumes named by study id, like {next(iter(reports), 'AC421363e')}.nii.gz, below {folder}, "
            f"found {len(volumes)} volumes and none of the {len(reports)} studies of {tables[0].name}"
        )
    if len(here) < len(reports):
        log.warning("merlin: %d of %d studies have no volume here", len(reports) - len(here), len(reports))
    return splits.complete(
        (
            refused(safe_id(s), unlike[s]) if s in unlike else _row(s, reports[s], volumes[s], labels.get(s, {}))
            for s in here
        ),
        "merlin",
    )


def _row(study: str, report: Cells, volume: Path, labels: Cells) -> dict[str, Any]:
    stated = report.get(SPLIT, "").lower()
    if stated and stated not in SPLITS:
        return refused(safe_id(study), f"expected the split train, val or test, found {report[SPLIT]!r}")
    values = {finding_name(k): v for k, v in labels.items() if k != ID}
    known_labels = {name: _label(value) for name, value in values.items()}
    return {
        "study_id": safe_id(study), "patient_id": study, "ct": str(volume.resolve()),
        "report": _sections(report.get(FINDINGS, "")), "labels": known_labels,
        "absent": [phrase for name, value in known_labels.items() if value == 0 for phrase in finding_phrases(name)],
    } | known(split=SPLITS.get(stated))  # fmt: skip


def _label(text: str) -> int | None:
    """1, 0, or None for -1 and whatever else is no answer."""
    return {"1": 1, "0": 0, "1.0": 1, "0.0": 0}.get(text)


def _sections(text: str) -> dict[str, str]:
    """The sheet's one cell holds findings, and in some rows the impression after its heading."""
    findings, *impression = _IMPRESSION.split(text, maxsplit=1)
    return known(findings=findings.strip(), impression=impression[0].strip() if impression else "")


def _labels(folder: Path) -> list[Cells]:
    tables = find_tables(folder, "zero_shot_findings_disease_cls.*")
    if not tables:
        log.warning("merlin: no zero_shot_findings_disease_cls.csv below the folder: no labels")
        return []
    return read_table(tables[0], [ID])

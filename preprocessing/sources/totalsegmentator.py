"""TotalSegmentator's CT set: ``s0000/ct.nii.gz``, ``s0000/segmentations/CLASS.nii.gz``, ``meta.csv``.

`docs/datasets/totalsegmentator.md`. One binary file a class; a class whose file is empty is not said to be absent,
since it may be out of view.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from preprocessing.sources import splits
from preprocessing.sources.common import age_band, known, refused
from preprocessing.sources.tables import Cells, contradictions, image_beside, indexed, read_table, stem
from vol3d.errors import ManifestError
from vol3d.text.organs import class_phrases

log = logging.getLogger("vol3d")


def rows(folder: Path) -> list[dict[str, Any]]:
    """Manifest rows; splits of ``meta.csv``.

    Raises:
        ManifestError: no subject, or the MR set.
    """
    subjects = sorted(p for p in folder.glob("s[0-9]*") if p.is_dir())
    if not subjects:
        raise ManifestError(f"expected folders s0000, s0001, ... in {folder}, found none")
    if not any(image_beside(s, "ct") for s in subjects) and any(image_beside(s, "mri") for s in subjects):
        raise ManifestError(f"expected CT (s0000/ct.nii.gz) in {folder}, found mri.nii.gz: MR images are not read")
    table = folder / "meta.csv"
    cells = read_table(table, ["image_id"]) if table.is_file() else []
    facts, unlike = indexed(cells, "image_id"), contradictions(cells, "image_id")
    if cells and not any("split" in row for row in cells):
        log.warning("totalsegmentator: %s has no column 'split': splits are drawn by patient", table)
    number = {row["image_id"]: n for n, row in reversed([*enumerate(cells, 2)]) if "image_id" in row}
    return splits.complete(
        (
            refused(s.name, f"{table.name}: {unlike[s.name]}")
            if s.name in unlike
            else _row(s, facts.get(s.name, {}), f"{table.name}, row {number.get(s.name)}")
            for s in subjects
        ),
        "totalsegmentator",
    )


def _row(subject: Path, facts: Cells, where: str) -> dict[str, Any]:
    if wrong := splits.fault(facts.get("split", "").lower()):
        return refused(subject.name, f"{where}: {wrong}")
    ct = image_beside(subject, "ct")
    files = sorted((subject / "segmentations").glob("*.nii*"))
    if ct is None or not files:
        what = "ct.nii.gz" if ct is None else "segmentations/*.nii.gz"
        return refused(subject.name, f"expected {what} of subject {subject.name}, found nothing there")
    meta = known(
        sex={"m": "M", "f": "F"}.get(facts.get("gender", "").lower()), age_band=age_band(facts.get("age")),
        centre=facts.get("institute"), scanner=facts.get("scanner_model"), study_type=facts.get("study_type"),
        pathology=facts.get("pathology"),
    )  # fmt: skip
    masks = [
        {"path": str(path.resolve()), "label": name, "phrases": list(class_phrases(name)), "if_empty": "unknown"}
        for path in files
        if (name := stem(path.name))
    ]
    row = {"study_id": subject.name, "patient_id": subject.name, "ct": str(ct.resolve()), "masks": masks, "meta": meta}
    return row | known(split=facts.get("split", "").lower())

"""Dataset layouts by name: `vol3d preprocess FOLDER --source NAME`, `vol3d sources`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from vol3d.errors import ConfigError, ManifestError


@dataclass(frozen=True)
class Source:
    """A layout: a module with ``rows(folder)`` that gives rows of a manifest with absolute paths."""

    module: str
    summary: str
    page: str
    """Its description, below `docs`."""
    private: bool = False
    """Its rows may name people or dates: the manifest stays outside of the cache."""


SOURCES: dict[str, Source] = {
    "nnunet": Source("nnunet", "nnU-Net raw: imagesTr, labelsTr, dataset.json", "datasets/nnunet.md"),
    "ct_rate": Source("ct_rate", "CT-RATE: chest CT, reports, 18 labels", "datasets/ct_rate.md"),
    "merlin": Source("merlin", "Merlin's abdominal CT: reports, 30 labels", "datasets/merlin.md"),
    "autopet": Source("autopet", "autoPET: FDG and PSMA PET/CT, lesions", "datasets/autopet.md", private=True),
    "rexgroundingct": Source("rexgroundingct", "ReXGroundingCT: sentences with masks", "datasets/rexgroundingct.md"),
    "totalsegmentator": Source("totalsegmentator", "TotalSegmentator's CT: organs", "datasets/totalsegmentator.md"),
    "decathlon": Source("decathlon", "Medical Segmentation Decathlon: the CT tasks", "datasets/decathlon.md"),
    "table": Source(
        "table", "A table (CSV, TSV, XLSX, parquet) whose columns are a manifest's", "datasets/table.md", private=True
    ),
    "sts": Source("sts", "Soft-tissue sarcoma PET/CT as NIfTI", "datasets/sts.md"),
    "dicom_tree": Source("dicom_tree", "Any tree of DICOM, as vol3d intake reads it", "how-to/intake.md"),
}


def source_of(name: str) -> Source:
    """The layout of that name.

    Raises:
        ConfigError: there is none; the message lists them all.
    """
    if name not in SOURCES:
        near = difflib.get_close_matches(name.lower().replace("-", "_"), SOURCES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else "; vol3d sources describes them"
        raise ConfigError(f"expected --source to be one of {', '.join(SOURCES)}, found {name!r}{hint}")
    return SOURCES[name]


def rows_of(name: str, folder: Path) -> Iterable[dict[str, Any]]:
    """Manifest rows of a folder in that layout.

    Raises:
        ConfigError: no such layout; ManifestError: the folder is not of it, with what is missing.
    """
    if name == "dicom_tree":
        raise ConfigError(
            "expected a layout with rows of its own; for a tree of DICOM run vol3d intake FOLDER --out DIR"
        )
    if not Path(folder).exists():
        raise ManifestError(f"expected data at {folder}, found nothing")
    return import_module(f"preprocessing.sources.{source_of(name).module}").rows(Path(folder))

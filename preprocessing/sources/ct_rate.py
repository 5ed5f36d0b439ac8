"""CT-RATE (Hamamci et al. 2024, arXiv 2403.17834): chest CT with reports and 18 labels. `docs/datasets/ct_rate.md`.

Volumes ``{train,valid}_PATIENT_SCAN_RECONSTRUCTION.nii.gz`` at any depth, and tables beside them. Of a scan's
reconstructions one is taken. Whether a file holds HU is settled when it is read, from its numbers
(`preprocessing.hu_rescale`), so that neither release is rescaled wrongly.
"""

from __future__ import annotations

import logging
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib

from preprocessing.sources import splits
from preprocessing.sources.common import age_band, known, refused
from preprocessing.sources.series_rules import kernel_rank
from preprocessing.sources.tables import Cells, contradictions, find_tables, indexed, read_table, walk
from vol3d.errors import ManifestError
from vol3d.text.label_names import finding_name, finding_phrases

VOLUME = re.compile(r"(train|valid)_(\d+)_([a-z]+)_(\d+)\.nii\.gz")
REPORT = {
    "Findings_EN": "findings", "Impressions_EN": "impression", "ClinicalInformation_EN": "indication",
    "Technique_EN": "technique",
}  # fmt: skip
FINDINGS = "Findings_EN"
"""Without it a table holds no reports."""
NOT_GIVEN = "not given"
LABEL = {"1": 1, "0": 0, "1.0": 1, "0.0": 0}
LABEL_MAPS = ("ts_seg", "segmentations")
"""Beginnings of folders whose files have the volumes' names but hold label maps: the publication's own by
TotalSegmentator (``ts_seg/ts_total/train_fixed/...``), and ReXGroundingCT's."""
VAL_SHARE = 0.05
"""Of the training patients: the published `valid` is what papers report on, so it is the test set here."""
SPACING_TOLERANCE = 0.01
"""Relative: a header that differs by more from the metadata is not that series'."""
FEWEST_SLICES = 20
"""A reconstruction under this is a scout, or one slice of a biopsy."""

_ERRORS = (OSError, EOFError, ValueError, zlib.error, nib.filebasedimages.ImageFileError,
           nib.spatialimages.HeaderDataError, nib.wrapstruct.WrapStructError)  # fmt: skip

log = logging.getLogger("vol3d")


def rows(folder: Path) -> list[dict[str, Any]]:
    """Manifest rows, one a scan.

    Raises:
        ManifestError: no volume, or neither reports nor labels; a table without its columns.
    """
    volumes = index_volumes(folder)
    reports, unlike = _joined(
        folder, "*reports*.csv", "radiology_text_reports/{train,validation}_reports.csv", FINDINGS, tuple(REPORT)
    )
    labels, unlike_too = _joined(folder, "*labels*.csv", "multi_abnormality_labels/{train,valid}_predicted_labels.csv")
    unlike |= unlike_too
    if not reports and not labels:
        raise ManifestError(
            f"expected reports (*_reports.csv) or labels (*_predicted_labels.csv) in {folder}, found none"
        )
    facts = metadata(folder)
    no_chest = _no_chest(folder)
    scans: dict[str, list[str]] = defaultdict(list)
    for name in volumes:
        if name not in no_chest:
            scans[name.rsplit("_", 1)[0]].append(name)
    out = []
    for scan, names in sorted(scans.items()):
        name = choose(names, facts)
        out.append(refused(scan, unlike[name]) if name in unlike else _row(scan, name, volumes, reports, labels, facts))
    _tell_missing(set(volumes), set(reports) | set(labels), no_chest)
    return splits.complete(out, "ct_rate", val=VAL_SHARE)


def index_volumes(folder: Path) -> dict[str, Path]:
    """As `volumes_below`.

    Raises:
        ManifestError: there is none.
    """
    out = volumes_below(folder)
    if not out:
        raise ManifestError(f"expected volumes like train_1_a_1.nii.gz below {folder}, found none")
    return out


def volumes_below(folder: Path) -> dict[str, Path]:
    """Volumes by file name. Of two files of one name, that in a folder named ``*_fixed`` (the second release) is taken;
    label maps (`LABEL_MAPS`) are none."""
    out: dict[str, Path] = {}
    for path in walk(folder):
        inside = path.relative_to(folder).parts[:-1]
        if not VOLUME.fullmatch(path.name) or any(part.startswith(LABEL_MAPS) for part in inside):
            continue
        if path.name not in out or any(part.endswith("_fixed") for part in inside):
            out[path.name] = path
    return out


def metadata(folder: Path) -> dict[str, Cells]:
    """Rows of ``*metadata*.csv`` by volume; empty where there is none."""
    return _joined(folder, "*metadata*.csv", "metadata/{train,validation}_metadata.csv")[0]


def choose(names: Iterable[str], facts: dict[str, Cells]) -> str:
    """The reconstruction of a scan to take: enough slices; then the softest kernel; then the thinnest slices; then the
    lowest number. What the metadata do not tell decides nothing."""

    def rank(name: str) -> tuple[bool, int, float, int]:
        row = facts.get(name, {})
        slices, spacing = _number(row.get("NumberofSlices")), _number(row.get("ZSpacing"))
        return (
            slices is not None and slices < FEWEST_SLICES,
            kernel_rank(row.get("ConvolutionKernel", "")),
            99.0 if spacing is None else abs(spacing),
            int(name.removesuffix(".nii.gz").rsplit("_", 1)[1]),
        )

    return min(names, key=rank)


def reading_of(row: Cells) -> dict[str, Any] | None:
    """`ReadOptions` with slope and intercept, where the metadata have them."""
    slope, intercept = _number(row.get("RescaleSlope")), _number(row.get("RescaleIntercept"))
    if slope is None or intercept is None or slope <= 0:
        return None
    return {"rescale": {"slope": slope, "intercept": intercept}}


def header_fault(path: Path, row: Cells) -> str | None:
    """Why the header of a file cannot be that of the series in the metadata; the first release's often is not."""
    in_plane = [float(n) for n in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?", row.get("XYSpacing", ""))]
    along = _number(row.get("ZSpacing"))
    if not in_plane or along is None:
        return None
    try:
        found = [float(s) for s in nib.Nifti1Image.from_filename(path).header.get_zooms()[:3]]
    except _ERRORS as error:
        return f"expected a NIfTI file, found one that cannot be read ({error}); download it again"
    wanted = [in_plane[0], in_plane[-1], abs(along)]
    if all(abs(a - b) <= SPACING_TOLERANCE * b for a, b in zip(found, wanted, strict=True)):
        return None
    shown = [round(s, 4) for s in found]
    return (
        f"expected voxels (x, y, z) of {wanted} mm, as the metadata say, found {shown} in the header: a file of the "
        f"first release? Take it from train_fixed or valid_fixed"
    )


def age_and_scanner(row: Cells) -> dict[str, Any]:
    """`meta` of a study; no date."""
    return known(
        sex=row.get("PatientSex"), age_band=age_band(row.get("PatientAge")), scanner=row.get("ManufacturerModelName"),
        kernel=row.get("ConvolutionKernel"),
    )  # fmt: skip


def _row(
    scan: str, name: str, volumes: dict[str, Path], reports: dict[str, Cells], labels: dict[str, Cells],
    facts: dict[str, Cells],
) -> dict[str, Any]:  # fmt: skip
    part, patient, _, _ = VOLUME.fullmatch(name).groups()  # type: ignore[union-attr]
    about = facts.get(name, {})
    if fault := header_fault(volumes[name], about):
        return refused(scan, f"{name}: {fault}")
    cells = {finding_name(k): v for k, v in labels.get(name, {}).items() if k != "VolumeName"}
    if odd := {k: v for k, v in cells.items() if v not in LABEL}:
        return refused(scan, f"{name}: expected labels of 0 or 1, found {odd}; probabilities need a threshold first")
    stated = {k: LABEL[v] for k, v in cells.items()}
    return {
        "study_id": scan,
        "patient_id": f"{part}_{patient}",
        "ct": str(volumes[name].resolve()),
        "report": report_of(reports.get(name, {})),
        "labels": stated,
        "absent": [phrase for label, value in stated.items() if value == 0 for phrase in finding_phrases(label)],
        "meta": age_and_scanner(about) | {"volume": name},
        "split": "test" if part == "valid" else "train",
    } | known(reading=reading_of(about))


def report_of(row: Cells) -> dict[str, str]:
    """Sections of a report; "Not given." is none."""
    sections = {ours: row.get(theirs, "") for theirs, ours in REPORT.items()}
    return {k: v for k, v in sections.items() if v.strip(" .").lower() not in ("", NOT_GIVEN)}


def _joined(
    folder: Path, pattern: str, expected: str, needed: str | None = None, known: tuple[str, ...] = ()
) -> tuple[dict[str, Cells], dict[str, str]]:
    """Rows of all such tables by volume, and why those of a volume cannot be used; `known` columns that no row has are
    told."""
    out: dict[str, Cells] = {}
    unlike: dict[str, str] = {}
    for path in find_tables(folder, pattern):
        cells = read_table(path, ["VolumeName", *([needed] if needed else [])])
        if missing := [column for column in known if not any(column in row for row in cells)]:
            log.warning(
                "ct_rate: nothing under %s in %s: these sections of the reports are empty", ", ".join(missing), path
            )
        unlike |= {name: f"{path.name}: {why}" for name, why in contradictions(cells, "VolumeName").items()}
        out |= indexed(cells, "VolumeName")
    if not out:
        log.warning("ct_rate: no %s found", expected)
    return out, unlike


def _no_chest(folder: Path) -> set[str]:
    """Volumes that the publication lists as other parts of the body (``no_chest_*.txt``)."""
    names: set[str] = set()
    for path in (p for p in folder.rglob("no_chest*.txt") if p.is_file()):
        try:
            names |= {line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()}
        except UnicodeDecodeError as error:
            raise ManifestError(f"expected names of volumes in UTF-8, one a line, found {error} in {path}") from error
    return {n.rsplit("/", 1)[-1].removesuffix(".nii.gz") + ".nii.gz" for n in names}


def _tell_missing(volumes: set[str], stated: set[str], no_chest: set[str]) -> None:
    counts = {
        "volumes of the tables that are not here": len(stated - volumes),
        "volumes without a report or labels": len(volumes - stated - no_chest),
        "volumes left out as no chest": len(volumes & no_chest),
    }
    for what, count in counts.items():
        if count:
            log.warning("ct_rate: %d %s", count, what)


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None

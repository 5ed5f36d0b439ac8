"""A folder or a whole archive of mixed files -> studies: manifest rows, and what became of every series.

Every header is read once. CT and PET are chosen by `preprocessing.sources.series_rules`, paired by Frame of Reference
UID; RTSTRUCT and SEG that were drawn on them become masks; NIfTI with sidecar JSON (`preprocessing.sources.sidecar`)
comes along. Two kinds of output are kept apart: `report` names nobody, while the manifest and the list files hold
paths, and paths of an archive often hold names.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from preprocessing.manifest import write_manifest
from preprocessing.options import FILE_NAME
from preprocessing.read_dicom_masks import Segment, read_segments
from preprocessing.read_nifti import SUFFIXES
from preprocessing.rtstruct import CLOSED, read_structures
from preprocessing.sources.grouping import homes_of, own_options, studies
from preprocessing.sources.headers import DAMAGED, Header, read_headers
from preprocessing.sources.series_rules import Choice, IntakeConfig, SeriesFacts, choose
from preprocessing.sources.sidecar import sidecar_path, sidecar_rows
from preprocessing.study import KEYED, patient_key
from vol3d.dicom.listing import SUFFIX, write_listing
from vol3d.errors import ManifestError, ReadError
from vol3d.files import write_whole
from vol3d.geometry import Grid
from vol3d.progress import progress

_BATCH = 64
_WORDS_LEFT_OUT = {
    "Secondary Capture Image Storage": "a secondary capture",
    "X-Ray Radiation Dose SR Storage": "a dose report",
    "Encapsulated PDF Storage": "a PDF",
}


@dataclass
class Intake:
    """What a folder holds."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """Manifest rows."""
    report: list[dict[str, Any]] = field(default_factory=list)
    """A record a series, and one for each reason for which files belong to none; no path, name, id or date."""


def take_in(folder: Path, out: Path, config: IntakeConfig | None = None, *, workers: int = 1) -> Path:
    """Sorts out a folder and writes ``out/manifest.jsonl``, ``out/report.jsonl`` and a list file an image.

    Args:
        folder: any tree of files.
        out: made for the owner alone, since list files hold source paths; its manifest and report are replaced.
        config: which reconstruction, which phrases.
        workers: processes that read headers.

    Raises:
        ManifestError: no such folder, or no study in it; the report is written even so.
    """
    if not folder.is_dir():
        raise ManifestError(f"expected a folder of studies at {folder}, found nothing")
    out.mkdir(parents=True, exist_ok=True)
    out.chmod(0o700)
    found = sort_out(folder.resolve(), out.resolve() / "series", config or IntakeConfig(), workers=workers)
    write_whole(out / "report.jsonl", "".join(json.dumps(record) + "\n" for record in found.report))
    if not found.rows:
        reasons = Counter(record["reason"] for record in found.report)
        most = "; ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))
        raise ManifestError(f"expected a CT or PET series in {folder}, found none: {most or 'no file'}")
    return write_manifest(found.rows, out / "manifest.jsonl")


def sort_out(folder: Path, lists: Path, config: IntakeConfig, *, workers: int = 1) -> Intake:
    """See `take_in`; list files go below `lists`."""
    found = Intake()
    files = list(_files(folder))
    nifti = [path for path in files if path.name.endswith(SUFFIXES)]
    apart = {*nifti, *map(sidecar_path, nifti)}
    headers: list[Header] = []
    left_out: Counter[str] = Counter()
    damaged: list[Path] = []
    read = [path for path in files if path not in apart]
    dicom = [path for path in read if path.name != FILE_NAME]
    for path, header in zip(dicom, _read_all(dicom, workers), strict=True):
        if isinstance(header, str):
            left_out[header] += 1
            damaged += [path] * header.startswith(DAMAGED)
        else:
            headers.append(header)
    all_studies = dict(studies(headers, folder, left_out))
    lost = _lost(damaged, all_studies)
    for study_id, series in all_studies.items():
        _one_study(study_id, series, lists / study_id, folder, config, found, lost.get(study_id, []))
    options = own_options([path for path in read if path.name == FILE_NAME], all_studies, left_out)
    found.rows = [
        row | {"reading": str(options[i])} if (i := row["study_id"]) in options else row for row in found.rows
    ]
    taken, records = sidecar_rows(nifti, folder, left_out)
    found.rows += taken
    found.report += records
    found.report += [{"files": count, "used_as": None, "reason": reason} for reason, count in sorted(left_out.items())]
    return found


# -- files -> headers ----------------------------------------------------------------------------------


def _files(folder: Path) -> Iterator[Path]:
    """Every file below, in the order of names; links to folders are not followed."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _read_all(files: Sequence[Path], workers: int) -> Iterator[Header | str]:
    batches = [files[i : i + _BATCH] for i in range(0, len(files), _BATCH)]
    with progress("headers", len(files), "files") as advance:
        for batch in _mapped(batches, workers):
            for header in batch:
                advance()
                yield header


def _mapped(batches: Sequence[Sequence[Path]], workers: int) -> Iterator[list[Header | str]]:
    if workers <= 1 or len(batches) <= 1:
        yield from map(read_headers, batches)
        return
    context = get_context("forkserver")
    context.set_forkserver_preload(["preprocessing.sources.headers"])
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(read_headers, batches)


# -- one study ---------------------------------------------------------------------------------------------------


def _one_study(
    study_id: str,
    series: list[SeriesFacts],
    lists: Path,
    folder: Path,
    config: IntakeConfig,
    found: Intake,
    lost: Sequence[Path],
) -> None:
    images = [s for s in series if s.first.kind in ("CT", "PT")]
    truths = [s for s in series if s.first.kind in ("RTSTRUCT", "SEG")]
    drawn_on = frozenset(chain.from_iterable(h.drawn_on for s in truths for h in s.headers))
    choice = choose(images, drawn_on, config)
    row: dict[str, Any] = {"study_id": study_id, "masks": []}
    for name, chosen in (("ct", choice.ct), ("pet", choice.pet)):
        if chosen is not None:
            lists.mkdir(parents=True, exist_ok=True)
            path = lists / f"{name}{SUFFIX}"
            write_listing(path, folder, sorted([*(h.path for h in chosen.headers), *_beside(chosen, lost)]))
            row[name] = str(path)
            row["patient_id"] = KEYED + patient_key(chosen.first.patient_id or f"study {study_id}")
    for truth in truths:
        masks, reason = _masks(truth, choice, config)
        row["masks"] += masks
        found.report.append(_record(study_id, truth, "masks" if masks else None, reason))
    if choice.ct or choice.pet:
        found.rows.append(row)
    for one in series:
        if one not in truths:
            used = "ct" if one is choice.ct else "pet" if one is choice.pet else None
            reason = "" if used else choice.reasons.get(one.name) or _what(one.first.kind)
            record = _record(study_id, one, used, reason)
            if used and (beside := _beside(one, lost)):
                record["fault"] = f"{len(beside)} damaged files in its folder, perhaps of its slices"
            found.report.append(record)


def _lost(damaged: Sequence[Path], found: dict[str, list[SeriesFacts]]) -> dict[str, list[Path]]:
    """Damaged files by study, where all else in their folder is of one study: a slice at the end leaves no gap."""
    homes, out = homes_of(found), dict[str, list[Path]]()
    for path in damaged:
        if len(home := homes.get(path.parent, set())) == 1:
            out.setdefault(next(iter(home)), []).append(path)
    return out


def _beside(series: SeriesFacts, lost: Sequence[Path]) -> list[Path]:
    folders = {h.path.parent for h in series.headers}
    return [path for path in lost if path.parent in folders]


def _record(study_id: str, series: SeriesFacts, used_as: str | None, reason: str) -> dict[str, Any]:
    """A line of the report: opaque ids, and what is common to many patients."""
    first = series.first
    record = {
        "study": study_id,
        "series": series.name,
        "kind": first.kind,
        "files": len(series.headers),
        "used_as": used_as,
        "reason": reason,
    }
    if series.note:
        record["note"] = series.note
    if first.kind in ("CT", "PT"):
        record["slices"] = sum(len(h.frames) for h in series.headers)
        if isinstance(series.grid, str) and used_as:
            record["fault"] = series.grid
        elif isinstance(series.grid, Grid):
            record["spacing_mm"] = [round(s, 4) for s in series.grid.spacing_mm]
        if first.kernel and re.fullmatch(r"[A-Z0-9 _.+/\\-]{1,24}", first.kernel):
            record["kernel"] = first.kernel
    return record


def _what(kind: str) -> str:
    if kind.endswith("localizer"):
        return "a localizer"
    return _WORDS_LEFT_OUT.get(kind, f"neither CT nor PET: {kind}")


def _masks(truth: SeriesFacts, choice: Choice, config: IntakeConfig) -> tuple[list[dict[str, Any]], str]:
    """Mask rows of an RTSTRUCT or SEG series, and what was left out of it."""
    masks: list[dict[str, Any]] = []
    notes: list[str] = []
    for header in truth.headers:
        reason = header.fault or _not_drawn_here(header, choice)
        if reason:
            notes.append(reason)
            continue
        try:
            regions = _regions(header)
        except ReadError as error:
            notes.append(str(error))
            continue
        for number, names, fault in regions:
            name = names[0]
            if any(re.fullmatch(p, name, re.IGNORECASE) for p in config.skip_regions):
                fault = "by its name no finding and no organ"
            if fault:
                notes.append(f"region {number}: {fault}")
                continue
            phrases = next((p for pattern, p in config.phrases.items() if re.fullmatch(pattern, name, re.I)), names)
            words = [plain_words(p) if phrases is names else p for p in phrases]
            masks.append({
                "path": str(header.path.resolve()), "value": number, "label": plain_words(name),
                "finding_id": re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_"),
                "phrases": list(dict.fromkeys(w for w in words if w)),
            })  # fmt: skip
    return masks, "; ".join(dict.fromkeys(notes))


def _not_drawn_here(header: Header, choice: Choice) -> str:
    chosen = [s for s in (choice.ct, choice.pet) if s is not None]
    if header.drawn_on & {s.first.series_uid for s in chosen if s.first.series_uid}:
        return ""
    if not header.drawn_on and header.frame_uid and header.frame_uid in {s.first.frame_uid for s in chosen}:
        return ""
    return "drawn on a series that is not used"


def _regions(header: Header) -> list[tuple[int, list[str], str]]:
    """Number, names (most telling first) and fault of every region or segment."""
    if header.kind == "SEG":
        return [(s.number, _segment_names(s), "") for s in read_segments(header.path)]
    outside = ("EXTERNAL", "SUPPORT", "FIXATION", "MARKER", "ISOCENTER", "REGISTRATION", "CONTROL")
    return [
        (
            r.number,
            [r.name or f"region {r.number}"],
            f"RT ROI Interpreted Type {r.kind}"
            if r.kind in outside
            else ("" if r.closed else f"no contour of type {' or '.join(CLOSED)}"),
        )
        for r in read_structures(header.path).regions
    ]


def _segment_names(segment: Segment) -> list[str]:
    """Description before label, which has room for 64 characters only; the coded type where there is neither."""
    names = [segment.description, segment.label]
    if segment.description.startswith(segment.label):
        names = names[:1]
    return [n for n in names if n] or [segment.meaning or f"segment {segment.number}"]


def plain_words(name: str) -> str:
    """A region's name as a phrase: ``GTV_Mass`` -> ``gtv mass``."""
    return re.sub(r"[\s_.-]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)).strip().lower()

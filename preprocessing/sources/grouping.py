"""Headers -> series -> studies, by UIDs; and the three cases in which a Study Instance UID is not the whole truth.

Some archives give several patients one Study Instance UID (a half-done de-identification): they are taken apart by
Patient ID. Some file the CT of a PET/CT as a study of its own (two orders, two accession numbers): it joins the PET's
study if patient and Frame of Reference are the same, and no CT of that frame lies in the PET's own study. Planning and
annotation tools file contours as studies of their own: they join the study of the series they name.
"""

from __future__ import annotations

import filecmp
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from preprocessing.sources.headers import Header
from preprocessing.sources.series_rules import SeriesFacts
from preprocessing.study import patient_key

SEVERAL_PATIENTS = "its Study Instance UID names several patients, taken apart by Patient ID"
DRAWN_ELSEWHERE = "from another study, joined by the series it was drawn on"
JOINED = "from another study of the same patient, joined by its Frame of Reference"

Members = dict[tuple[str, str], list[Header]]
"""Files by kind and Series Instance UID."""


def studies(headers: Iterable[Header], folder: Path, left_out: Counter[str]) -> Iterator[tuple[str, list[SeriesFacts]]]:
    """Opaque study id and series; files without UIDs belong together if they lie in one folder.

    Args:
        headers: of all files.
        folder: what was searched; only places relative to it count.
        left_out: counts byte for byte copies.
    """
    found: dict[str, list[SeriesFacts]] = {}
    for study, members in _by_study_uid(headers, folder, left_out).items():
        patients = {h.patient_id for (kind, _), files in members.items() if kind in ("CT", "PT") for h in files}
        for patient, part in _by_patient(members) if len(patients - {""}) > 1 else [("", members)]:
            key = f"{study} patient {patient}" if part is not members else study
            note = SEVERAL_PATIENTS if part is not members else ""
            found["s" + patient_key(f"study {key}")] = [
                SeriesFacts("e" + patient_key(f"series {kind} {name}")[:11], tuple(files), note)
                for (kind, name), files in part.items()
            ]
    _join(found)
    _bring_home(found)
    yield from ((study_id, series) for study_id, series in found.items() if series)


def homes_of(found: dict[str, list[SeriesFacts]]) -> dict[Path, set[str]]:
    """Which studies have files directly in a folder."""
    homes: dict[Path, set[str]] = {}
    for study_id, series in found.items():
        for header in (h for s in series for h in s.headers):
            homes.setdefault(header.path.parent, set()).add(study_id)
    return homes


def own_options(files: Iterable[Path], found: dict[str, list[SeriesFacts]], left_out: Counter[str]) -> dict[str, Path]:
    """A study's file of options (`preprocessing.options`): one whose folder holds nothing of another study."""
    homes, out = homes_of(found), dict[str, Path]()
    for path in sorted(files, key=lambda p: len(p.parts)):
        below = {study for place, those in homes.items() if place.is_relative_to(path.parent) for study in those}
        if len(below) == 1:
            out[below.pop()] = path
        else:
            left_out[f"{path.name} over {len(below)} studies: put one into the folder of each"] += 1
    return out


def _by_study_uid(headers: Iterable[Header], folder: Path, left_out: Counter[str]) -> dict[str, Members]:
    found: dict[str, Members] = {}
    seen: dict[str, Path] = {}
    for header in headers:
        first = seen.setdefault(header.instance_uid, header.path) if header.instance_uid else header.path
        if first != header.path and filecmp.cmp(first, header.path, shallow=False):
            left_out["a copy of another file"] += 1
            continue
        if "LOCALIZER" in header.image_type and header.kind in ("CT", "PT"):
            kind = f"{header.kind} localizer"  # of a series with images, too
        else:
            kind = header.kind
        place = f"folder {header.path.parent.relative_to(folder)}"
        study = found.setdefault(header.study_uid or place, {})
        study.setdefault((kind, header.series_uid or place), []).append(header)
    return found


def _by_patient(members: Members) -> Iterator[tuple[str, Members]]:
    parts: dict[str, Members] = {}
    for key, files in members.items():
        for header in files:
            parts.setdefault(header.patient_id, {}).setdefault(key, []).append(header)
    yield from parts.items()


def _join(found: dict[str, list[SeriesFacts]]) -> None:
    """Moves the CT series of a PET's frame of reference, and what was drawn on them, into the PET's study."""
    wanted: dict[tuple[str, str], list[str]] = {}
    for study_id, series in found.items():
        for place in _places(series, "PT") - _places(series, "CT"):
            wanted.setdefault(place, []).append(study_id)
    for place, takers in wanted.items():
        givers = [s for s, series in found.items() if place in _places(series, "CT") and not _places(series, "PT")]
        if len(takers) != 1 or len(givers) != 1:
            continue  # several studies share patient and frame: which belongs to which, nothing says
        moved = [s for s in found[givers[0]] if _place(s) == place and s.first.kind in ("CT", "RTSTRUCT", "SEG")]
        uids = {s.first.series_uid for s in moved}
        moved += [s for s in found[givers[0]] if s not in moved and any(h.drawn_on & uids for h in s.headers)]
        found[givers[0]] = [s for s in found[givers[0]] if s not in moved]
        found[takers[0]] += [replace(s, note=JOINED) for s in moved]


def _bring_home(found: dict[str, list[SeriesFacts]]) -> None:
    """Moves contours and segments of a study without images to the one study that they were drawn on."""
    home = {
        s.first.series_uid: study for study, series in found.items() for s in series if s.first.kind in ("CT", "PT")
    }
    for series in found.values():
        if any(s.first.kind in ("CT", "PT") for s in series):
            continue
        for truth in [s for s in series if s.first.kind in ("RTSTRUCT", "SEG")]:
            homes = {home[uid] for h in truth.headers for uid in h.drawn_on if uid in home}
            if len(homes) == 1:
                series.remove(truth)
                found[homes.pop()].append(replace(truth, note=DRAWN_ELSEWHERE))


def _places(series: Iterable[SeriesFacts], kind: str) -> set[tuple[str, str]]:
    return {_place(s) for s in series if s.first.kind == kind and all(_place(s))}


def _place(series: SeriesFacts) -> tuple[str, str]:
    """Whose body, and in which coordinate system."""
    return series.first.patient_id, series.first.frame_uid

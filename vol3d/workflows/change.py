"""What has changed since an earlier study: lesions of both, matched after rigid registration, compared by measurement.

A lesion is larger from +20% of its longest diameter on and at least 5 mm, smaller from -30% and at least 5 mm, else
unchanged: RECIST 1.1 (Eisenhauer et al. 2009, Eur J Cancer 45:228) for one lesion, whose 5 mm for growth are asked of
shrinking as well, because a voxel or two are no change. New and resolved are said only of places that both show and of
phrases that were asked of both.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment

from vol3d.boxes import bounding_box
from vol3d.cache import Entry
from vol3d.errors import Vol3dError
from vol3d.export.nifti import read_array, read_grid, write_nifti
from vol3d.geometry import Grid
from vol3d.types import Array, Modality
from vol3d.volume import Volume
from vol3d.workflows.lesions import MASKS, Lesion
from vol3d.workflows.registration import Registered, register

LARGER, SMALLER, LEAST_MM = 0.20, 0.30, 5.0
"""Relative and absolute change of the longest diameter."""

NEAR_MM = 15.0
"""Lesions that do not overlap after registration are one if their centres are this near: organs move in the body."""

OVERLAP = 0.1
"""Share of the voxels of one in the other from which on two lesions are one, whatever their distance."""

REFERENCE_MM = 5.0
"""Spacing of the image that is kept for the registration with a later study."""

Change = Literal["new", "larger", "smaller", "unchanged", "resolved", "not comparable"]


class ChangeError(Vol3dError):
    """Two studies cannot be compared; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Patient:
    """Whose a study is, as far as anybody said: keyed hashes, which name nobody."""

    site: str
    """Of the key under which the others were hashed; hashes under two keys cannot be compared."""
    stated: str | None = None
    """Of the patient id that the manifest states."""
    header: str | None = None
    """Of the Patient ID in the DICOM files."""

    def same_as(self, other: Patient | None) -> bool | None:
        """None where neither is known of both: a folder of NIfTI files says nothing of its patient."""
        if other is None or other.site != self.site:
            return None
        if {self.stated, self.header} & {other.stated, other.header} - {None}:
            return True
        pairs = ((self.stated, other.stated), (self.header, other.header))
        return False if any(None not in pair for pair in pairs) else None


@dataclass(frozen=True, eq=False)
class StudyLesions:
    """One study as the comparison needs it."""

    study_id: str
    folder: Path
    lesions: list[Lesion]
    references: dict[str, Volume]
    """By modality."""
    looked_for: frozenset[str] = frozenset()
    """Phrases that were asked of it; what nobody looked for cannot have been absent."""
    masks: dict[int, Volume] = field(default_factory=dict)
    """By a lesion's id, those held in memory; the others are read from `folder`."""

    def mask(self, lesion: Lesion) -> Volume:
        """Its members, cropped to them.

        Raises:
            ChangeError: its file is gone.
        """
        if lesion.id in self.masks:
            return self.masks[lesion.id]
        path = self.folder / str(lesion.file)
        if lesion.file is None or not path.is_file():
            raise ChangeError(
                f"expected the mask of {lesion.phrase!r} at {path}, found nothing; report that study again"
            )
        whole = Volume(read_array(path), read_grid(path), "mask")
        box = bounding_box(whole.array_ZYX)
        return whole.crop(*box) if box else whole

    def held(self) -> StudyLesions:
        """The same with every mask in memory, so that its folder may change.

        Raises:
            ChangeError: a file is gone.
        """
        return replace(self, masks={lesion.id: self.mask(lesion) for lesion in self.lesions})


class Prior(Protocol):
    """An earlier study."""

    def admit(self, folder: Path, patient: Patient) -> bool | None:
        """Whether it is of `patient`; None where nobody said. Asked before anything is written to `folder`.

        Raises:
            ChangeError: it is another patient's, or lies where the current study's report is about to be written.
        """
        ...

    def of(self, folder: Path) -> StudyLesions:
        """Its lesions, found as those of the current study are, all in memory; masks that have to be made go below
        `folder`, the current study's.

        Raises:
            ChangeError: its files are not all there.
        """
        ...


def write_reference(entry: Entry, folder: Path) -> None:
    """Keeps each image on a coarse grid, ``report/reference-ct.nii.gz``, to register a later study with."""
    for image in entry.images:
        whole = Volume(entry.read(image, (0, 0, 0), entry.grid.shape), entry.grid, _modality(image))
        coarse = whole.resample_to(entry.grid.resample((REFERENCE_MM,) * 3))
        kind = np.int16 if image == "ct" else np.float32
        write_nifti(folder / MASKS / f"reference-{image}.nii.gz", coarse.array_ZYX.astype(kind), coarse.grid)


def read_references(folder: Path) -> dict[str, Volume]:
    """What `write_reference` left, by modality.

    Raises:
        ChangeError: nothing.
    """
    found = {}
    for image in ("ct", "pet"):
        path = folder / MASKS / f"reference-{image}.nii.gz"
        if path.is_file():
            found[image] = Volume(read_array(path), read_grid(path), _modality(image))
    if not found:
        raise ChangeError(f"expected {MASKS}/reference-ct.nii.gz or reference-pet.nii.gz in {folder}, found neither; "
                          f"report the prior study again")  # fmt: skip
    return found


def compare(current: StudyLesions, prior: StudyLesions) -> dict[str, Any]:
    """Every lesion of either study with its change, both measurements and a sentence, ready for JSON.

    Raises:
        ChangeError: the studies share no modality, or their registration fails its check.
    """
    image = next((m for m in ("ct", "pet") if m in current.references and m in prior.references), None)
    if image is None:
        raise ChangeError(
            f"expected a CT or a PET in both studies, found {'+'.join(current.references)} now and "
            f"{'+'.join(prior.references)} before"
        )
    found = register(current.references[image], prior.references[image])
    if fault := found.fault():
        raise ChangeError(f"the registration of both {image.upper()}s fails its check: {fault}")
    pairs, new, gone = match(current, prior, found)
    rows = [_row(classify(now, before), now, before) for now, before in pairs]
    for now in new:
        fault = _why_not(now.phrase, "prior", prior, _seen(now, found, prior.references[image]))
        rows.append(_row("not comparable" if fault else "new", now, None, fault))
    for old in gone:
        fault = _why_not(old.phrase, "current", current, _seen_back(old, found, current.references[image]))
        rows.append(_row("not comparable" if fault else "resolved", None, old, fault))
    return {
        "prior_study": prior.study_id,
        "statement": (
            f"Compared with the prior study, registered rigidly on {image.upper()} (correlation "
            f"{found.correlation:.2f}, rotation {found.rotation_deg:.1f} degrees, shift {found.shift_mm:.0f} mm)."
        ),
        "registration": {
            "image": image, "correlation": round(found.correlation, 4), "rotation_deg": round(found.rotation_deg, 2),
            "shift_mm": round(found.shift_mm, 1), "overlap": round(found.overlap, 3), "affine": found.affine.tolist(),
        },
        "rule": f"larger: +{LARGER:.0%} and {LEAST_MM:g} mm of the longest diameter; smaller: -{SMALLER:.0%} and "
                f"{LEAST_MM:g} mm (RECIST 1.1)",
        "lesions": rows,
    }  # fmt: skip


def classify(now: Lesion, before: Lesion) -> Change:
    """By the longest diameters; not comparable where they were measured on different kinds of images."""
    a, b = now.measurement, before.measurement
    if a.series != b.series:
        return "not comparable"
    delta = a.longest_diameter_mm - b.longest_diameter_mm
    if delta >= max(LARGER * b.longest_diameter_mm, LEAST_MM):
        return "larger"
    if -delta >= max(SMALLER * b.longest_diameter_mm, LEAST_MM):
        return "smaller"
    return "unchanged"


def match(
    current: StudyLesions, prior: StudyLesions, found: Registered
) -> tuple[list[tuple[Lesion, Lesion]], list[Lesion], list[Lesion]]:
    """(pairs, only now, only before). Each lesion has one partner at most; the pairs are nearest in sum."""
    now, old = current.lesions, prior.lesions
    far = 1e4
    cost = np.full((len(now), len(old)), far)
    points = [_points(current, lesion) for lesion in now]
    masks = [prior.mask(lesion) for lesion in old]
    for i, lesion in enumerate(now):
        moved = found.to_prior(points[i])
        for j, before in enumerate(old):
            if lesion.organ and before.organ and lesion.organ != before.organ:
                continue
            distance = float(np.linalg.norm(moved.mean(axis=0) - np.array(before.centroid_mm)))
            hits = _inside(moved, masks[j])
            share = max(hits, min(1.0, hits * lesion.measurement.volume_ml / before.measurement.volume_ml))
            if share >= OVERLAP or distance <= NEAR_MM:
                cost[i, j] = distance * (1 - 0.5 * share)
    rows, columns = linear_sum_assignment(cost) if cost.size else (np.zeros(0, int), np.zeros(0, int))
    taken = [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if cost[i, j] < far]
    return (
        [(now[i], old[j]) for i, j in taken],
        [lesion for i, lesion in enumerate(now) if i not in {a for a, _ in taken}],
        [lesion for j, lesion in enumerate(old) if j not in {b for _, b in taken}],
    )


def _why_not(phrase: str, name: str, other: StudyLesions, in_view: bool) -> str:
    """Why a lesion without a partner is neither new nor resolved; empty if it is."""
    if not in_view:
        return f"outside the field of view of the {name} study"
    return "" if phrase in other.looked_for else f"not looked for in the {name} study"


def _row(change: Change, now: Lesion | None, before: Lesion | None, fault: str = "") -> dict[str, Any]:
    return {
        "change": change,
        "text": _text(change, now, before, fault),
        "organ": (now or before).organ if (now or before) else None,  # type: ignore[union-attr]
        "current": asdict(now) if now else None,
        "prior": asdict(before) if before else None,
    }


def _text(change: Change, now: Lesion | None, before: Lesion | None, fault: str) -> str:
    lesion = now or before
    assert lesion is not None
    name = lesion.phrase
    if now is None or before is None:
        size = f"longest diameter {lesion.measurement.longest_diameter_mm:.1f} mm"
        if change == "not comparable":
            return f"Not comparable, {fault}: {name}, {size}."
        return f"New: {name}, {size}." if now else f"No longer seen: {name}, before {size}."
    a, b = now.measurement, before.measurement
    if change == "not comparable":
        return f"Not comparable, measured on {a.series} now and on {b.series} before: {name}."
    relative = (a.longest_diameter_mm / b.longest_diameter_mm - 1) * 100
    uptake = (
        f"; SUVmax {a.suv_max:.1f}, before {b.suv_max:.1f}" if a.suv_max is not None and b.suv_max is not None else ""
    )
    return (
        f"{change.capitalize()}: {name}, longest diameter {a.longest_diameter_mm:.1f} mm, before "
        f"{b.longest_diameter_mm:.1f} mm ({relative:+.0f}%){uptake}."
    )


def _points(study: StudyLesions, lesion: Lesion, most: int = 2000) -> Array:
    """World positions of members, evenly thinned."""
    mask = study.mask(lesion)
    index_N3 = np.argwhere(mask.array_ZYX)
    return mask.grid.index_to_mm(index_N3[:: max(1, len(index_N3) // most)])


def _inside(mm_N3: Array, mask: Volume) -> float:
    """Share of the points that lie in the mask."""
    index = np.rint(mask.grid.mm_to_index(mm_N3)).astype(int)
    inside = ((index >= 0) & (index < mask.grid.shape)).all(axis=1)
    z, y, x = index[inside].T
    return float(np.count_nonzero(mask.array_ZYX[z, y, x]) / len(mm_N3))


def _seen(now: Lesion, found: Registered, prior: Volume) -> bool:
    return _holds(prior.grid, found.to_prior(np.array([now.centroid_mm]))[0])


def _seen_back(before: Lesion, found: Registered, current: Volume) -> bool:
    return _holds(current.grid, found.to_current(np.array([before.centroid_mm]))[0])


def _holds(grid: Grid, mm: Array) -> bool:
    index = grid.mm_to_index(mm)
    return bool(((index >= 0) & (index <= np.array(grid.shape) - 1)).all())


def _modality(image: str) -> Modality:
    return "ct" if image == "ct" else "pet"

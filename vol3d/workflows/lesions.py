"""The things found in a study, each once: exported as masks and measured, whatever words led to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vol3d.export.nifti import write_nifti
from vol3d.text.reports import organs_in
from vol3d.types import Array
from vol3d.volume import Volume
from vol3d.workflows.evidence import SAME_THING, Evidence, Measurement, Part, measure_masks, on_grid, part_dice
from vol3d.workflows.studies import slug

MASKS = "report"
"""Folder of a report's masks within a study's folder."""


@dataclass(frozen=True, kw_only=True)
class Lesion:
    """One thing, exported and measured."""

    id: int
    phrase: str
    organ: str | None
    side: str
    """Of the body's midline."""
    probability: float
    file: str | None
    """Mask on the source grid, relative to the study's folder; None if nothing is written."""
    pet_file: str | None
    """The same thing on the PET's own grid, where uptake is measured."""
    measurement: Measurement
    centroid_mm: tuple[float, float, float]

    def record(self) -> dict[str, Any]:
        """For report.json."""
        return asdict(self)


class Lesions:
    """Parts of answers, brought together where different words found the same thing.

    Args:
        evidence: of the study.
        folder: of the study's output; None measures without writing.
        templates: by series, the source NIfTI whose header masks take over.
        name: of the folder of masks.
    """

    def __init__(
        self, evidence: Evidence, folder: Path | None, templates: Mapping[str, Path | None], name: str = MASKS
    ) -> None:
        self.evidence, self.folder, self._templates, self._name = evidence, folder, templates, name
        entry = evidence.entry
        self.series = "ct" if "ct" in entry.images else "pet"
        self._pet: Volume | None = entry.pet_native() if "pet" in entry.images else None
        self._parts: list[Part] = []
        self._done: dict[int, Lesion | None] = {}
        if folder is not None:
            (folder / name).mkdir(parents=True, exist_ok=True)
            for old in (folder / name).glob("*.nii.gz"):
                old.unlink()

    def number_of(self, part: Part, same: float = SAME_THING) -> int:
        """The number of the thing that a part shows; a new one if nothing known has that Dice with it."""
        overlaps = [part_dice(part, known) for known in self._parts]
        if overlaps and max(overlaps) >= same:
            return overlaps.index(max(overlaps))
        self._parts.append(part)
        return len(self._parts) - 1

    def part(self, number: int) -> Part:
        """The part that stands for it."""
        return self._parts[number]

    def part_of(self, lesion: Lesion) -> Part:
        """The part that an exported thing was made from."""
        return next(self._parts[number] for number, done in self._done.items() if done is lesion)

    def lesion(self, number: int) -> Lesion | None:
        """Exported and measured on first use; None if it vanishes on the source grid, being smaller than a voxel."""
        if number not in self._done:
            self._done[number] = self._export(number)
        return self._done[number]

    def exported(self) -> list[Lesion]:
        """All that were used, in the order of their files."""
        return sorted((lesion for lesion in self._done.values() if lesion is not None), key=lambda f: f.id)

    def _export(self, number: int) -> Lesion | None:
        part, evidence = self._parts[number], self.evidence
        entry = evidence.entry
        grid = entry.source_grids[self.series]
        mask_ZYX = on_grid(part, entry, grid, evidence.calibration)
        pet_mask_ZYX = mask_ZYX if self.series == "pet" else None
        if self._pet is not None and pet_mask_ZYX is None:
            pet_mask_ZYX = on_grid(part, entry, self._pet.grid, evidence.calibration)
        measured = measure_masks(mask_ZYX, grid, self.series, entry.slice_numbers, pet_mask_ZYX, self._pet)
        if measured is None:
            return None
        place = 1 + sum(lesion is not None for lesion in self._done.values())
        name = f"{place:02d}-{slug(part.phrase)}"
        organs = organs_in(part.phrase)
        with_pet = self.series == "ct" and pet_mask_ZYX is not None
        return Lesion(
            id=place,
            phrase=part.phrase,
            organ=organs[0][2] if organs else None,
            side=evidence.side_of(part),
            probability=round(evidence.probability(part.phrase), 6),
            file=self._write(name, mask_ZYX, self.series),
            pet_file=self._write(f"{name}-pet", pet_mask_ZYX, "pet") if with_pet and pet_mask_ZYX is not None else None,
            measurement=measured,
            centroid_mm=part.centroid_mm,
        )

    def _write(self, name: str, mask_ZYX: Array, series: str) -> str | None:
        if self.folder is None:
            return None
        grid = self.evidence.entry.source_grids[series]
        write_nifti(self.folder / self._name / f"{name}.nii.gz", mask_ZYX, grid, self._templates.get(series))
        return f"{self._name}/{name}.nii.gz"

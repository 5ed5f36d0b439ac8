"""The prior study of a patient: a report already written, or a raw study that is looked at now."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocessing.manifest import BadRow, Row
from preprocessing.transforms import PreprocessConfig
from vol3d.checkpoint import Checkpoint
from vol3d.config import from_tree
from vol3d.errors import ConfigError, ManifestError
from vol3d.workflows.change import Prior, StudyLesions, read_references, write_reference
from vol3d.workflows.evidence import Evidences, Measurement
from vol3d.workflows.found import things_found
from vol3d.workflows.inputs import scratch_entry, studies_in
from vol3d.workflows.known import Known
from vol3d.workflows.lesions import Lesion, Lesions
from vol3d.workflows.records import RECORD, load_record


def open_prior(path: Path, evidences: Evidences, checkpoint: Checkpoint, *, assume_hu: bool = False) -> Prior:
    """A ``report.json``, the folder of one, or a study folder.

    Raises:
        Vol3dError: it is none of them.
    """
    if path.is_file() or (path / RECORD).is_file():
        record = load_record(path)
        return ReportedPrior(path if path.is_dir() else path.parent, record)
    rows = studies_in(path)
    if len(rows) != 1:
        raise ConfigError(f"expected one prior study, found {len(rows)} in {path}")
    if isinstance(rows[0], BadRow):
        raise ManifestError(rows[0].reason)
    return RawPrior(rows[0], evidences, checkpoint, assume_hu)


@dataclass(frozen=True)
class ReportedPrior:
    """What `vol3d report` wrote about the prior study."""

    folder: Path
    record: dict[str, Any]

    def of(self, current: Lesions) -> StudyLesions:
        """What was found there with the trained phrases, told or not."""
        found = [lesion_of(r) for r in self.record["lesions"] if r["comparable"]]
        return StudyLesions(self.record["study_id"], self.folder, found, read_references(self.folder))


@dataclass(frozen=True)
class RawPrior:
    """A study to be segmented like the current one."""

    row: Row
    evidences: Evidences
    checkpoint: Checkpoint
    assume_hu: bool

    def of(self, current: Lesions) -> StudyLesions:
        """Its masks go to ``<study>/prior/report`` beside those of the current study."""
        assert current.folder is not None, "a comparison needs exported masks"
        folder = current.folder / "prior"
        recipe = from_tree(PreprocessConfig, self.checkpoint.recipe, "the checkpoint's recipe")
        known = Known.of(self.checkpoint)
        with scratch_entry(self.row, recipe, assume_hu=self.assume_hu) as entry:
            evidence = self.evidences.of(entry)
            templates = {n: p if p is not None and p.is_file() else None for n, p in
                         (("ct", self.row.ct), ("pet", self.row.pet))}  # fmt: skip
            lesions = Lesions(evidence, folder, templates)
            for found in things_found(known, evidence):
                lesions.lesion(lesions.number_of(found.part, 1.0))
            write_reference(entry, folder)
            return StudyLesions(entry.study_id, folder, lesions.exported(), read_references(folder))


def lesion_of(record: dict[str, Any]) -> Lesion:
    """Inverse of `Lesion.record`."""
    fields = {k: v for k, v in record.items() if k in Lesion.__dataclass_fields__}
    x, y, z = fields["centroid_mm"]
    return Lesion(**{**fields, "measurement": Measurement(**fields["measurement"]), "centroid_mm": (x, y, z)})

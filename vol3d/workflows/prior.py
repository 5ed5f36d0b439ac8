"""The prior study of a patient: a report already written, or a raw study that is looked at now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preprocessing.manifest import BadRow, Row
from preprocessing.site_key import keyed
from preprocessing.sources.headers import Header, read_headers
from preprocessing.study import patient_key
from preprocessing.transforms import PreprocessConfig
from vol3d.checkpoint import Checkpoint
from vol3d.config import from_tree
from vol3d.dicom.listing import files_of
from vol3d.errors import ConfigError, ManifestError
from vol3d.workflows.change import ChangeError, Patient, Prior, StudyLesions, read_references, write_reference
from vol3d.workflows.evidence import Evidences, Measurement
from vol3d.workflows.found import phrases_of, things_found
from vol3d.workflows.inputs import scratch_entry, studies_in
from vol3d.workflows.known import Known
from vol3d.workflows.lesions import MASKS, Lesion, Lesions
from vol3d.workflows.records import RECORD, load_record
from vol3d.workflows.studies import templates_of


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


def patient_of(row: Row, key: str | None = None) -> Patient:
    """Whose a study is. A `patient_id` made from the study's own id, as where there is none, says nothing.

    Args:
        row: of the study.
        key: the patient key of its cache entry; by default that of the row's `patient_id`.
    """
    key = key or patient_key(row.patient_id)
    known = _patient_in_header(row)
    return Patient(
        site=keyed("vol3d site"),
        stated=None if key in (patient_key(row.study_id), patient_key(f"study {row.study_id}")) else key,
        header=patient_key(known) if known else None,
    )


@dataclass(frozen=True)
class ReportedPrior:
    """What `vol3d report` wrote about the prior study."""

    folder: Path
    record: dict[str, Any]

    def admit(self, folder: Path, patient: Patient) -> bool | None:
        """See `Prior`."""
        for own, other in ((self.folder, folder), (self.folder / MASKS, folder / MASKS)):
            if own.resolve() == other.resolve() or (other.exists() and own.exists() and own.samefile(other)):
                raise ChangeError(
                    f"expected the prior's report in another folder than the one to be written, found {own} as both; "
                    f"nothing was written: give --out another folder, or copy the prior's first"
                )
        return _same_patient(patient, recorded_patient(self.record))

    def of(self, folder: Path) -> StudyLesions:
        """What was found there with the trained phrases, told or not."""
        found = [lesion_of(r) for r in self.record["lesions"] if r["comparable"]]
        looked_for = frozenset(self.record.get("looked_for", ()))
        return StudyLesions(
            self.record["study_id"], self.folder, found, read_references(self.folder), looked_for
        ).held()


@dataclass(frozen=True)
class RawPrior:
    """A study to be segmented like the current one."""

    row: Row
    evidences: Evidences
    checkpoint: Checkpoint
    assume_hu: bool

    def admit(self, folder: Path, patient: Patient) -> bool | None:
        """See `Prior`."""
        for image in (self.row.ct, self.row.pet):
            for masks in (folder / MASKS, folder / "prior" / MASKS):
                if image is not None and image.resolve().is_relative_to(masks.resolve()):
                    raise ChangeError(
                        f"expected the prior's images outside of the folders to be written, found them in {masks}; "
                        f"nothing was written: give --out another folder"
                    )
        return _same_patient(patient, patient_of(self.row))

    def of(self, folder: Path) -> StudyLesions:
        """Its masks go to ``<study>/prior/report`` beside those of the current study."""
        (folder / RECORD).unlink(missing_ok=True)  # the masks that it names are about to be replaced
        folder = folder / "prior"
        recipe = from_tree(PreprocessConfig, self.checkpoint.recipe, "the checkpoint's recipe")
        known = Known.of(self.checkpoint)
        with scratch_entry(self.row, recipe, assume_hu=self.assume_hu) as entry:
            evidence = self.evidences.of(entry)
            lesions = Lesions(evidence, folder, templates_of(self.row))
            for found in things_found(known, evidence):
                lesions.lesion(lesions.number_of(found.part, 1.0))
            write_reference(entry, folder)
            looked_for = phrases_of(known, entry.images)
            return StudyLesions(entry.study_id, folder, lesions.exported(), read_references(folder), looked_for).held()


def lesion_of(record: dict[str, Any]) -> Lesion:
    """Inverse of `Lesion.record`."""
    fields = {k: v for k, v in record.items() if k in Lesion.__dataclass_fields__}
    x, y, z = fields["centroid_mm"]
    return Lesion(**{**fields, "measurement": Measurement(**fields["measurement"]), "centroid_mm": (x, y, z)})


def recorded_patient(record: Mapping[str, Any]) -> Patient | None:
    """Whose a report is; None in a record of before patients were recorded."""
    told = record.get("patient")
    if not isinstance(told, dict) or "site" not in told:
        return None
    return Patient(site=told["site"], stated=told.get("stated"), header=told.get("header"))


def _same_patient(patient: Patient, other: Patient | None) -> bool | None:
    same = patient.same_as(other)
    if same is False:
        raise ChangeError(
            "expected a prior study of the same patient, found another patient's by the patient ids of both; nothing "
            "was written: give --prior a study of this patient, or correct patient_id in the manifest"
        )
    return same


def _patient_in_header(row: Row) -> str:
    """Patient ID of the first DICOM image of a study; empty if there is none."""
    for path in (row.ct, row.pet):
        for file in files_of(path) if path is not None else []:
            (header,) = read_headers([file])
            if isinstance(header, Header) and header.kind in ("CT", "PT"):
                if header.patient_id.strip():
                    return header.patient_id.strip()
                break
    return ""

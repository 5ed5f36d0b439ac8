"""What all DICOM exports share: who made them, their UIDs and dates, and how they are written.

UIDs follow from the content: the same masks, exported twice from the same answers, give the same file to the bit and
the same SOP Instance UID, so that sending it again is no second copy. The time of creation is part of the content, so
a new run of the model gives new objects.
"""

from __future__ import annotations

import datetime
import hashlib
import io
import logging
import uuid
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import highdicom as hd
import pydicom
from highdicom.base import SOPClass
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian

from vol3d.export.coding import PRIVATE_SCHEME
from vol3d.files import write_whole

MANUFACTURER = "vol3d"
UNICODE = "ISO_IR 192"
"""Prompts may hold any character, so every object is written in UTF-8, whatever the source's character set."""

SERIES_NUMBERS = {"SEG": 9101, "SR": 9102, "TEXT": 9103, "PDF": 9104, "RTSTRUCT": 9105}
"""Far from the scanner's own numbers, so that exports stand last in a viewer's list."""


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """The model that gave the answers."""

    version: str
    """Of vol3d."""
    weights_sha256: str
    name: str = "vol3d"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Recorded beside the probability: thresholds, digest of the recipe."""

    def identification(self, **more: Any) -> hd.AlgorithmIdentificationSequence:
        """Algorithm Identification (PS3.3 table 10-19); `more` is what belongs to one answer, e.g. its probability."""
        values = {"weights_sha256": self.weights_sha256, **self.parameters, **more}
        return hd.AlgorithmIdentificationSequence(
            name=self.name[:64],
            family=codes.DCM.ArtificialIntelligence,
            version=f"{self.version} weights {self.weights_sha256[:12]}"[:64],
            source=MANUFACTURER,
            parameters={key: str(value) for key, value in values.items()},
        )


def stable_uid(*parts: str) -> str:
    """A UID under 2.25 (PS3.5 B.2) that depends on `parts` alone."""
    digest = hashlib.sha256("\0".join(parts).encode()).digest()
    return f"2.25.{uuid.UUID(bytes=digest[:16], version=5).int}"


def equipment(algorithm: Algorithm) -> dict[str, Any]:
    """Attributes of the General Equipment module, as highdicom's classes take them."""
    return {
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": algorithm.name[:64],
        "software_versions": algorithm.version[:64],
        "device_serial_number": algorithm.weights_sha256[:16] or "unknown",
    }


def coding_schemes() -> list[CodingSchemeIdentificationItem]:
    """Says whose the private codes are (PS3.3 C.12.1.1.3)."""
    return [CodingSchemeIdentificationItem(PRIVATE_SCHEME, "phrases asked of vol3d", responsible_organization="vol3d")]


def document(
    source: Dataset,
    kind: str,
    sop_class_uid: str,
    modality: str,
    uid: str,
    algorithm: Algorithm,
    syntax: str | None = None,
) -> SOPClass:
    """An object with the source's patient and study, a series of its own and no content yet."""
    made = SOPClass(
        study_instance_uid=source.StudyInstanceUID,
        series_instance_uid=stable_uid("series", uid),
        series_number=SERIES_NUMBERS[kind],
        sop_instance_uid=uid,
        sop_class_uid=sop_class_uid,
        instance_number=1,
        modality=modality,
        transfer_syntax_uid=syntax or ExplicitVRLittleEndian,
        patient_id=source.PatientID,
        patient_name=source.PatientName,
        patient_birth_date=source.PatientBirthDate,
        patient_sex=source.PatientSex,
        study_id=source.StudyID,
        accession_number=source.AccessionNumber,
        study_date=source.StudyDate or None,
        study_time=source.StudyTime or None,
        referring_physician_name=source.ReferringPhysicianName,
        specific_character_set=UNICODE,
        **equipment(algorithm),
    )
    made.copy_patient_and_study_information(source)
    return made


def set_dates(dataset: Dataset, created: datetime.datetime) -> None:
    """Puts one time of creation in every place that highdicom fills with the clock."""
    day, time = created.strftime("%Y%m%d"), created.strftime("%H%M%S")
    for keyword in ("InstanceCreationDate", "ContentDate", "SeriesDate", "StructureSetDate"):
        if keyword in dataset or keyword == "SeriesDate":
            setattr(dataset, keyword, day)
    for keyword in ("InstanceCreationTime", "ContentTime", "SeriesTime", "StructureSetTime"):
        if keyword in dataset or keyword == "SeriesTime":
            setattr(dataset, keyword, time)
    for item in dataset.get("ContributingEquipmentSequence", []):
        if item.get("ManufacturerModelName") == "highdicom":
            item.ContributionDateTime = f"{day}{time}"


@contextmanager
def quiet() -> Iterator[None]:
    """pydicom and highdicom quote invalid values, names of patients among them; fontTools lists letters drawn."""
    loggers = [logging.getLogger(name) for name in ("highdicom", "pydicom", "fontTools")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def encode(dataset: Dataset) -> bytes:
    """The whole file as bytes (PS3.10)."""
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue()


def save(dataset: Dataset, path: Path) -> None:
    """Writes a file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, encode(dataset))

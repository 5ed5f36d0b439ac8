"""`vol3d deidentify`: copies of DICOM files without identity, whose references to each other still hold."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom import uid as uids
from pydicom.errors import InvalidDicomError

from preprocessing.site_key import keyed
from vol3d.dicom.identity import OPTIONS, Cleaning, Option, clean
from vol3d.dicom.listing import opaque
from vol3d.dicom.series import PARSE_ERRORS
from vol3d.errors import ConfigError, ReadError
from vol3d.files import write_whole
from vol3d.progress import progress


@dataclass
class Copies:
    """What a run did."""

    written: int = 0
    left_out: int = 0
    """Files that are no DICOM, and DICOMDIRs: neither is copied."""
    refused: dict[str, str] = field(default_factory=dict)
    """Place of the file in the order of names, since its name may be the patient's, to reason."""


def deidentify(source: Path, out: Path, *, keep: Sequence[str] = (), show_progress: bool = True) -> Copies:
    """Writes ``out/<new series UID>/<new instance UID>.dcm`` for every DICOM file below `source`.

    UIDs, dates and pseudonyms follow from the old ones by the site key: run again, or on another part of the same
    study, they are the same.

    Raises:
        ConfigError: an unknown option, or `out` within `source`.
        ReadError: no DICOM file there. Refusals of single files are in the result.
    """
    for option in keep:
        if option not in OPTIONS:
            raise ConfigError(f"expected --keep {' or '.join(OPTIONS)}, found {option!r}")
    kept: frozenset[Option] = frozenset(o for o in OPTIONS if o in keep)
    source, out = Path(source), Path(out)
    if out.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"expected OUT outside of IN, found {out} within {source}")
    files = sorted(p for p in source.rglob("*") if p.is_file())
    done = Copies()
    with progress("deidentify", len(files), "files", enabled=show_progress) as advance:
        for number, path in enumerate(files):
            _one(path, number, out, kept, done)
            advance()
    if not done.written and not done.refused:
        raise ReadError(f"expected DICOM files in {source}, found none ({done.left_out} other files)")
    return done


def _one(path: Path, number: int, out: Path, keep: frozenset[Option], done: Copies) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom quotes invalid values in its warnings
            dataset = pydicom.dcmread(path)
            if dataset.file_meta.get("MediaStorageSOPClassUID") == uids.MediaStorageDirectoryStorage:
                done.left_out += 1
                return
            patient = str(dataset.get("PatientID") or "") or f"study {dataset.get('StudyInstanceUID')}"
            clean(dataset, Cleaning(keyed, patient, keep))
            with io.BytesIO() as buffer:
                pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
                content = buffer.getvalue()
            folder = out / str(dataset.SeriesInstanceUID)
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / f"{dataset.SOPInstanceUID}.dcm", content)
    except InvalidDicomError:
        done.left_out += 1
        return
    except ReadError as error:
        done.refused[opaque(number)] = str(error)
        return
    except PARSE_ERRORS as error:
        if isinstance(error, OSError):
            raise
        done.refused[opaque(number)] = f"expected a readable DICOM file, found {type(error).__name__}"
        return
    done.written += 1

"""`vol3d send`: every DICOM file of a folder to a PACS, each once, however often the command is run."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path

import pydicom
from pydicom import uid as uids
from pydicom.dataelem import RawDataElement
from pydicom.errors import InvalidDicomError

from vol3d.dicom.ledger import NAME, Ledger
from vol3d.dicom.network import Instance, Link, connect, parse_peer, secrets
from vol3d.dicom.series import PARSE_ERRORS
from vol3d.errors import ReadError, RejectedError
from vol3d.files import sha256_of
from vol3d.progress import progress
from vol3d.workflows.retrying import retried

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData", "PixelDataProviderURL")
_UNDEFINED = 0xFFFFFFFF
_TAGS = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]


@dataclass
class Sending:
    """What a run of `send` did."""

    sent: list[str] = field(default_factory=list)
    """SOP Instance UIDs."""
    there: list[str] = field(default_factory=list)
    """Sent before, or found at the peer after an interruption."""
    failed: dict[str, str] = field(default_factory=dict)
    """File, relative to the folder, to reason."""
    left_out: int = 0
    """Files that are no DICOM."""


def send(folder: Path, to: str, *, attempts: int = 5, pause_s: float = 1.0, show_progress: bool = True) -> Sending:
    """Sends what ``folder/sent.jsonl`` does not record as sent to this peer.

    Args:
        folder: searched at any depth.
        to: URL of the peer (`vol3d.dicom.network.parse_peer`).
        attempts: for each object, while the peer is out of reach or busy.
        pause_s: before the second attempt; doubles.
        show_progress: a bar, or lines.

    Raises:
        ConfigError, NetworkError: nothing (more) can be sent at all; single refusals are in the result.
        ReadError: no DICOM file there.
    """
    peer = parse_peer(to)
    access = secrets()
    done = Sending()
    instances = _instances(Path(folder), done)
    if not instances and not done.failed:
        raise ReadError(f"expected DICOM files in {folder}, found none ({done.left_out} other files)")
    with Ledger(Path(folder) / NAME, str(peer)) as ledger:
        link = connect(peer, access, instances=instances)
        try:
            with progress("send", len(instances), "objects", enabled=show_progress) as advance:
                for instance in instances:
                    _send_one(instance, Path(folder), ledger, link, done, attempts, pause_s)
                    advance()
        finally:
            link.close()
    return done


def _send_one(
    instance: Instance, folder: Path, ledger: Ledger, link: Link, done: Sending, attempts: int, pause_s: float
) -> None:
    path = instance.path or folder
    digest = sha256_of(path)
    before = ledger.state(instance.uid)
    if before and before[1] != digest:
        done.failed[str(path.relative_to(folder))] = (
            "expected the file that was sent under this SOP Instance UID, found other content; write it anew with a "
            "UID of its own"
        )
        return
    if before and before[0] == "sent":
        done.there.append(instance.uid)
        return

    def attempt(number: int) -> str | None:
        """The peer's remark; None if it had the object already."""
        if (before or number > 1) and link.holds(instance):
            return None
        ledger.note(instance.uid, "sending", digest)
        return link.store(instance)

    try:
        remark = retried(attempt, attempts, pause_s)
    except RejectedError as error:
        done.failed[str(path.relative_to(folder))] = str(error)
        return
    ledger.note(instance.uid, "sent", digest, "found there" if remark is None else remark)
    (done.there if remark is None else done.sent).append(instance.uid)


def _instances(folder: Path, done: Sending) -> list[Instance]:
    """Every DICOM file below, in the order of names; one object in several equal files counts once."""
    found: dict[str, Instance] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != NAME):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=_TAGS)
            kind, uid, study_uid, series_uid = (str(header.get(tag) or "") for tag in _TAGS)
            syntax = str(header.file_meta.get("TransferSyntaxUID") or "")
        except InvalidDicomError:
            done.left_out += 1
            continue
        except PARSE_ERRORS as error:
            done.failed[str(path.relative_to(folder))] = f"its header cannot be parsed ({type(error).__name__})"
            continue
        if header.file_meta.get("MediaStorageSOPClassUID") == uids.MediaStorageDirectoryStorage:
            done.left_out += 1
            continue
        if not (kind and uid and study_uid and series_uid and syntax):
            done.failed[str(path.relative_to(folder))] = "expected class, syntax and three UIDs, found some missing"
            continue
        if _is_cut_off(path, syntax):
            done.failed[str(path.relative_to(folder))] = "expected a whole file, found its end missing; write it anew"
            continue
        instance = Instance(study_uid, series_uid, uid, kind, syntax, path)
        other = found.setdefault(uid, instance)
        if other.path and other.path != path and sha256_of(other.path) != sha256_of(path):
            done.failed[str(path.relative_to(folder))] = (
                f"expected one file an object, found {other.path.name} of other content with the same UID"
            )
    return list(found.values())


def _is_cut_off(path: Path, syntax: str) -> bool:
    """Whether the file ends within an element, or an image before its pixels: pydicom reads on over either, and some
    PACS keep what is left. Large values are skipped, not read."""
    size, deflated = path.stat().st_size, syntax == uids.DeflatedExplicitVRLittleEndian
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, defer_size=None if deflated else 65536)
    except (EOFError, *PARSE_ERRORS):
        return True
    tags = list(dataset.keys())
    for tag in tags:
        raw = dataset.get_item(tag, keep_deferred=True)
        if not isinstance(raw, RawDataElement) or raw.length == _UNDEFINED:
            continue
        if len(raw.value) < raw.length if raw.value is not None else raw.value_tell + raw.length > size:
            return True
    return "Rows" in dataset and "Columns" in dataset and not any(keyword in dataset for keyword in _PIXELS)

"""DICOM files -> series: what lies in a folder, and which files belong together.

Only headers are read here. `scan` looks at every file below a folder and gives a reason for each one it leaves out;
`select_series` picks the one series that is wanted or refuses. What a slice says about itself is read by
`vol3d.dicom.frames`.
"""

from __future__ import annotations

import filecmp
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

import pydicom
from pydicom import uid as uids
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException, InvalidDicomError

from vol3d.dicom.listing import files_of
from vol3d.errors import ReadError

MODALITY_OF: dict[Literal["ct", "pet"], str] = {"ct": "CT", "pet": "PT"}
"""Our name of a modality to the value of DICOM's Modality (0008,0060)."""

PARSE_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    NotImplementedError,
    ArithmeticError,
    RuntimeError,
    EOFError,
    OSError,
    struct.error,
    zlib.error,
    BytesLengthException,
)
"""What pydicom and its decoders raise on damaged files."""

DEFLATED_FRAMES = uids.UID("1.2.840.10008.1.2.8.1")
"""Deflated Image Frame Compression (PS3.5 A.4.13), younger than pydicom's table."""

IMAGE_CLASSES: dict[str, str] = {
    uids.CTImageStorage: "CT",
    uids.EnhancedCTImageStorage: "CT",
    uids.LegacyConvertedEnhancedCTImageStorage: "CT",
    uids.PositronEmissionTomographyImageStorage: "PT",
    uids.EnhancedPETImageStorage: "PT",
    uids.LegacyConvertedEnhancedPETImageStorage: "PT",
}
"""SOP classes of CT and PET images, and their Modality."""
_USED = (
    "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality", "InstanceNumber", "NumberOfFrames",
    "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope",
    "RescaleIntercept", "RescaleType", "PixelPaddingValue", "PixelPaddingRangeLimit", "LossyImageCompression",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "Units", "SUVType", "DecayCorrection",
    "PatientWeight", "SeriesDate", "SeriesTime", "CorrectedImage", "AcquisitionDate", "AcquisitionTime",
    "AcquisitionDateTime", "FrameReferenceTime", "ActualFrameDuration", "TimezoneOffsetFromUTC",
    "RadiopharmaceuticalInformationSequence", "PatientSize", "PatientSex", "RealWorldValueMappingSequence",
    "DecayCorrected", "DecayCorrectionDateTime", "AttenuationCorrected",
)  # fmt: skip
DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_PIXEL_TAGS = ((0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x7FE0, 0x0010))
_INTEGER_PIXELS = (b"\xe0\x7f\x10\x00", b"\x7f\xe0\x00\x10")
"""Pixel Data (7FE0,0010) in either byte order."""

_UNDEFINED_LENGTH = 0xFFFFFFFF


@dataclass(frozen=True)
class Instance:
    """One DICOM file: its header, without pixels, and what is wrong with it, if anything."""

    path: Path
    header: Dataset
    modality: str
    """``"CT"`` or ``"PT"`` for the image classes we read, else the SOP class or Modality in words."""
    fault: str | None = None

    @property
    def series_uid(self) -> str:
        """Series Instance UID; empty where a de-identification removed it."""
        return str(self.header.get("SeriesInstanceUID") or "")


@dataclass(frozen=True)
class Series:
    """Files that share a Series Instance UID and a modality."""

    uid: str
    modality: str
    instances: tuple[Instance, ...]

    def __str__(self) -> str:
        count, first = len(self.instances), self.instances[0].path.name
        return f"{self.modality} series of {first} ({count} file{'s' if count > 1 else ''})"


@dataclass(frozen=True)
class Scan:
    """What lies in a folder: series, and every file that belongs to none with the reason."""

    root: Path
    series: tuple[Series, ...]
    left_out: tuple[tuple[Path, str], ...]


def scan(path: Path) -> Scan:
    """Reads the header of every file below a folder (or of one file, or of those of a list file).

    Raises:
        ReadError: nothing there; a dataset without preamble and file meta; a file named as DICOM that is none.
    """
    files = files_of(path)
    if not files:
        raise ReadError("expected DICOM files, found no file")
    left_out: list[tuple[Path, str]] = []
    kept: list[Instance] = []
    for file in files:
        try:
            found = _read_instance(file)
        except OSError as error:  # no permission, or a link to a file that was never fetched
            raise ReadError(f"expected readable files, found {file.name}: {error.strerror}") from error
        if isinstance(found, str):
            left_out.append((file, found))
        else:
            kept.append(found)
    kept, copies = _without_copies(kept)
    groups: dict[tuple[str, str], list[Instance]] = {}
    for instance in kept:
        groups.setdefault((instance.modality, instance.series_uid), []).append(instance)
    series = tuple(Series(uid, modality, tuple(group)) for (modality, uid), group in groups.items())
    return Scan(path, series, tuple(left_out + copies))


def select_series(found: Scan, modality: Literal["ct", "pet"]) -> Series:
    """The one series of a modality.

    Raises:
        ReadError: there is none, there are several, or a file of it (or one too damaged to tell) is damaged.
    """
    wanted = [s for s in found.series if s.modality == MODALITY_OF[modality]]
    damaged = [i for s in found.series for i in s.instances if i.fault and (s in wanted or not s.modality)]
    if damaged:
        raise ReadError(
            f"expected whole DICOM files, found {len(damaged)} damaged: {damaged[0].path.name}: "
            f"{damaged[0].fault}; copy the study again"
        )
    if not wanted:
        others = ", ".join(str(s) for s in found.series) or "no DICOM image"
        faults = "".join(f"; {i.path.name}: {i.fault}" for s in found.series for i in s.instances if i.fault)
        reasons = "".join(f"; {path.name}: {reason}" for path, reason in found.left_out[:3])
        raise ReadError(f"expected a {MODALITY_OF[modality]} series, found {others}{faults}{reasons}")
    if len(wanted) > 1:
        raise ReadError(
            f"expected one {MODALITY_OF[modality]} series, found {len(wanted)}: "
            f"{', '.join(str(s) for s in wanted)}; give each series a folder of its own"
        )
    return wanted[0]


# -- one file ----------------------------------------------------------------------------------------------------


def _read_instance(path: Path) -> Instance | str:
    """The instance, or why the file is left out."""
    with path.open("rb") as file:
        head = file.read(132)
        if head[128:] != b"DICM":
            return _not_dicom(path, head)
        file.seek(0)
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
            if not len(header):
                return Instance(path, header, "", "the file ends within its header")
            kind = str(header.file_meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID") or "")
            modality = IMAGE_CLASSES.get(kind) or (uids.UID(kind).name if kind else str(header.get("Modality") or ""))
            image_type = [str(v).upper() for v in header.get("ImageType") or []]
            if kind == uids.MediaStorageDirectoryStorage:
                return "a DICOMDIR, no image"
            _probe(header)
            fault = _fault(header, file, path.stat().st_size) if _is_image(header, modality) else None
        except (*PARSE_ERRORS, InvalidDicomError) as error:
            return Instance(path, Dataset(), "", f"its header cannot be parsed ({type(error).__name__})")
    if "LOCALIZER" in image_type and not fault:
        return "a localizer"
    return Instance(path, header, modality, fault)


def _probe(header: Dataset) -> None:
    """Converts every value that is used later, so that a damaged one fails here, where the file is known."""
    for keyword in _USED:
        value = header.get(keyword)
        if isinstance(value, pydicom.Sequence):
            for item in value:
                for _ in item.iterall():
                    pass


def _is_image(header: Dataset, modality: str) -> bool:
    return modality in ("CT", "PT", "") or "Rows" in header


def _not_dicom(path: Path, head: bytes) -> str:
    if _starts_like_a_dataset(head):
        raise ReadError(
            f"expected DICOM files with preamble and file meta (PS3.10 7.1), found a bare dataset in {path.name}: its "
            f"transfer syntax is unknown; rewrite it with its file meta, or take it out of the folder"
        )
    if path.suffix.lower() in DICOM_SUFFIXES:
        raise ReadError(f"expected a DICOM file by its name, found none in {path.name} ({path.stat().st_size} bytes)")
    return "not DICOM"


def _starts_like_a_dataset(head: bytes) -> bool:
    """True if the bytes begin with an element of group 0002 or 0008, as a dataset without Part 10 header does."""
    if len(head) < 8:
        return False
    for order in "<>":
        group, element, length = struct.unpack(f"{order}HHL", head[:8])
        explicit = head[4:6].isalpha() and head[4:6].isupper()
        if group in (0x0002, 0x0008) and element < 0x0100 and (explicit or length < 4096):
            return True
    return False


def _fault(header: Dataset, file: BinaryIO, size: int) -> str | None:
    """Why the pixel data after the header is incomplete; `file` stands where the header ended."""
    syntax = uids.UID(header.file_meta.get("TransferSyntaxUID") or "")
    if not syntax:
        return "its file meta names no transfer syntax, or the file ends within it"
    if not syntax.is_transfer_syntax and syntax != DEFLATED_FRAMES:
        return f"its transfer syntax {syntax.name} is none that can be read; have it sent uncompressed"
    if syntax == uids.DeflatedExplicitVRLittleEndian:
        return None  # compressed as a whole: pydicom has inflated it all, or failed
    order = ">" if syntax == uids.ExplicitVRBigEndian else "<"
    head = file.read(12)
    if len(head) < 8 or struct.unpack(f"{order}HH", head[:4]) not in _PIXEL_TAGS:
        return f"no pixel data: the file ends after {size} bytes, within its header"
    if syntax == uids.ImplicitVRLittleEndian:
        length = struct.unpack(f"{order}L", head[4:8])[0]
        file.seek(-4, 1)
    else:
        length = struct.unpack(f"{order}L", head[8:12])[0] if len(head) == 12 else 0
    if length == _UNDEFINED_LENGTH:
        return _fragments_fault(file, size)
    held = size - file.tell()
    if held < length:
        return f"truncated: {held} of {length} bytes of pixel data"
    return None if syntax.is_encapsulated or head[:4] not in _INTEGER_PIXELS else _size_fault(header, length)


def _size_fault(header: Dataset, length: int) -> str | None:
    """Why so many bytes are no image of these Rows, Columns and Bits Allocated.

    Less than a row too much may be padding; a little too few is told where pixels are decoded.
    """
    sizes = [header.get(k) for k in ("Rows", "Columns", "BitsAllocated")]
    if not all(isinstance(size, int) and size > 0 for size in sizes) or header.get("SamplesPerPixel") != 1:
        return None  # that is refused where frames are read
    rows, columns, bits = sizes
    frames = int(header.get("NumberOfFrames") or 1)
    wanted = frames * rows * columns * bits // 8
    if wanted // 2 <= length < wanted + max(columns * bits // 8, 2):
        return None
    shape = f"{rows} rows, {columns} columns, {bits} bits, {frames} frame{'s' if frames > 1 else ''}"
    return f"{length} bytes of pixel data where its header ({shape}) means {wanted}"


def _fragments_fault(file: BinaryIO, size: int) -> str | None:
    """Walks the items of encapsulated pixel data (PS3.5 A.4); always little endian."""
    while len(item := file.read(8)) == 8:
        group, element, length = struct.unpack("<HHL", item)
        if (group, element) == (0xFFFE, 0xE0DD):
            return None
        if (group, element) != (0xFFFE, 0xE000) or file.tell() + length > size:
            return f"truncated: the compressed pixel data breaks off before byte {size}"
        file.seek(length, 1)
    return None if not item else f"truncated: the compressed pixel data breaks off at byte {size}"


def _without_copies(instances: list[Instance]) -> tuple[list[Instance], list[tuple[Path, str]]]:
    """Drops a file that is byte for byte another one with the same SOP Instance UID: the same image, copied."""
    first: dict[str, Instance] = {}
    kept: list[Instance] = []
    copies: list[tuple[Path, str]] = []
    for instance in instances:
        uid = str(instance.header.get("SOPInstanceUID") or "")
        other = first.setdefault(uid, instance) if uid else instance
        if other is not instance and filecmp.cmp(other.path, instance.path, shallow=False):
            copies.append((instance.path, f"a copy of {other.path.name}"))
        else:
            kept.append(instance)
    return kept, copies

"""One DICOM dataset without its patient: PS3.15 Annex E, Basic Application Level Confidentiality Profile.

Which attribute is removed, emptied or replaced is the standard's Table E.1-1 as kept by dicom-anonymizer. That library
applies it to the top level of a dataset and with random UIDs; here it goes into every item of every sequence, and new
UIDs follow from the old ones by a key, so that a SEG or SR and the images it refers to still fit together, whenever
they are exported. Structured content is cleaned (option 113104): codes, numbers, references and coordinates stay, free
text and names go.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from dicomanonymizer import simpledicomanonymizer as table
from pydicom import uid as uids
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

from vol3d.errors import ReadError

Keyed = Callable[[str], str]
"""At least 16 hex digits that follow from a text and a key nobody else has."""

Option = Literal["dates", "characteristics"]

OPTIONS: dict[Option, tuple[str, str]] = {
    "dates": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "characteristics": ("113108", "Retain Patient Characteristics Option"),
}
"""What may be kept beyond the basic profile (PS3.16 CID 7050): dates moved by a secret number of days, the same for all
of a patient, and sex, age, size and weight. SUV needs both."""

_SR = (
    uids.BasicTextSRStorage, uids.EnhancedSRStorage, uids.ComprehensiveSRStorage, uids.Comprehensive3DSRStorage,
    uids.XRayRadiationDoseSRStorage, uids.ExtensibleSRStorage,
)  # fmt: skip
_SAFE_CLASSES = (
    uids.CTImageStorage, uids.EnhancedCTImageStorage, uids.LegacyConvertedEnhancedCTImageStorage,
    uids.PositronEmissionTomographyImageStorage, uids.EnhancedPETImageStorage,
    uids.LegacyConvertedEnhancedPETImageStorage, uids.MRImageStorage, uids.EnhancedMRImageStorage,
    uids.SegmentationStorage, "1.2.840.10008.5.1.4.1.1.66.7", uids.SurfaceSegmentationStorage,
    uids.RTStructureSetStorage, *_SR,
)  # fmt: skip
"""Objects that hold no text in their pixels and no document. Any other is refused, not passed through."""

_CHARACTERISTICS = ("PatientSex", "PatientAge", "PatientSize", "PatientWeight")
_BIRTH = ("PatientBirthDate", "PatientBirthTime")
_CONTENT = BaseTag(0x0040A730)
_CLEANED_BY_ITEM = ("ContentSequence", "VerifyingObserverSequence")
"""D in the table, but their items are cleaned one by one."""
_ALGORITHM = ("111001", "111002", "111003")
"""Algorithm name, parameters and version: the texts of an SR that stay."""
_TRACKING_IDENTIFIER = "112039"
_TEXT_VRS = ("LO", "SH", "ST", "LT", "UT", "UC", "PN")


@dataclass(frozen=True)
class Cleaning:
    """How to clean the objects of one patient."""

    keyed: Keyed
    patient: str
    """The old Patient ID; never written."""
    keep: frozenset[Option] = frozenset()

    @property
    def pseudonym(self) -> str:
        """The new Patient ID and name."""
        return self.keyed(self.patient)

    def uid(self, old: str) -> str:
        """The new UID, always the same; those that the standard defines stay (PS3.5 B.2: 2.25 and a 128-bit number)."""
        if not old or old.startswith("1.2.840.10008."):
            return old
        return f"2.25.{int(self.keyed(f'uid a {old}')[:16] + self.keyed(f'uid b {old}')[:16], 16)}"

    def date(self, text: str) -> str:
        """A date, or a date with a time, moved back by up to ten years; empty if it is no whole date."""
        days = 1 + int(self.keyed(f"days {self.patient}")[:8], 16) % 3650
        try:
            day = datetime.datetime.strptime(text[:8], "%Y%m%d").date()
            return (day - datetime.timedelta(days)).strftime("%Y%m%d") + text[8:]
        except (ValueError, OverflowError):
            return ""


def clean(dataset: Dataset, how: Cleaning) -> None:
    """Takes the identity out of a dataset, in place; its file meta, too.

    Raises:
        ReadError: an object that may hold names in its pixels or as a document, or a name that is still there.
    """
    _refuse_unsafe(dataset)
    marks = _marks(dataset)
    _clean_level(dataset, how)
    dataset.PatientName = dataset.PatientID = how.pseudonym
    dataset.PatientIdentityRemoved = "YES"
    dataset.LongitudinalTemporalInformationModified = "MODIFIED" if "dates" in how.keep else "REMOVED"
    codes = [("113100", "Basic Application Confidentiality Profile")]
    codes += [("113104", "Clean Structured Content Option")] if "ContentSequence" in dataset else []
    codes += [OPTIONS[option] for option in sorted(how.keep)]
    dataset.DeidentificationMethod = "PS3.15 Annex E, Table E.1-1"
    dataset.DeidentificationMethodCodeSequence = Sequence([_code(*code) for code in codes])
    meta = dataset.file_meta
    for element in list(meta):
        if element.keyword not in ("FileMetaInformationVersion", "MediaStorageSOPClassUID", "TransferSyntaxUID"):
            del meta[element.tag]
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.preamble = b"\0" * 128
    _refuse_leftovers(dataset, marks)


def _refuse_unsafe(dataset: Dataset) -> None:
    kind = str(dataset.get("SOPClassUID") or "")
    if kind not in _SAFE_CLASSES:
        raise ReadError(
            f"expected an object without text in pixels or documents, found {uids.UID(kind).name or 'no SOP class'}: "
            f"it may show the patient's name; leave it out"
        )
    if str(dataset.get("BurnedInAnnotation") or "").upper() == "YES":
        raise ReadError("expected pixels without text, found Burned In Annotation YES; leave it out")


def _clean_level(dataset: Dataset, how: Cleaning) -> None:
    rules, ranges = _rules()
    for tag in list(dataset.keys()):
        if tag.is_private:
            del dataset[tag]
            continue
        element = dataset[tag]
        action = rules.get((tag.group, tag.element)) or next(
            (a for (g, e, gm, em), a in ranges if tag.group & gm == g & gm and tag.element & em == e & em), ""
        )
        if action:
            _apply(dataset, element, action, how)
        if tag in dataset and element.VR == "SQ":
            for item in element.value:
                if tag == _CONTENT:
                    _clean_content(item, how)
                _clean_level(item, how)


def _apply(dataset: Dataset, element: DataElement, action: str, how: Cleaning) -> None:
    if "characteristics" in how.keep and element.keyword in _CHARACTERISTICS:
        return
    if "dates" in how.keep and element.VR in ("DA", "DT", "TM") and element.keyword not in _BIRTH:
        if element.VR != "TM":
            _each(element, how.date)
        return
    if action == "U" or element.VR == "UI":
        if element.VR == "UI":
            _each(element, how.uid)
        return
    if action == "X" or (action == "XD" and element.VR == "SQ"):
        del dataset[element.tag]  # codes of persons and institutions: a meaning is a name
    elif action == "Z":
        element.value = Sequence() if element.VR == "SQ" else None
    elif element.keyword not in _CLEANED_BY_ITEM:
        table.replace_element(element)


def _clean_content(item: Dataset, how: Cleaning) -> None:
    """Free text of a content item; names, dates and UIDs are the table's matter."""
    if item.get("ValueType") != "TEXT" or "TextValue" not in item:
        return
    concept = (item.get("ConceptNameCodeSequence") or [Dataset()])[0].get("CodeValue")
    if concept == _TRACKING_IDENTIFIER:
        item.TextValue = f"finding {how.keyed(f'tracking {item.TextValue}')[:8]}"
    elif concept not in _ALGORITHM:
        item.TextValue = "removed"


def _each(element: DataElement, change: Callable[[str], str]) -> None:
    if isinstance(element.value, MultiValue):
        element.value = [change(str(v)) for v in element.value]
    elif element.value:
        element.value = change(str(element.value))


@cache
def _rules() -> tuple[dict[tuple[int, int], str], tuple[tuple[tuple[int, int, int, int], str], ...]]:
    """Table E.1-1 of 2024b: single attributes, and groups by value and mask. A choice goes to what keeps objects valid.

    X remove, Z empty, D dummy, U new UID. X/Z becomes Z, Z/D becomes D, X/Z/U* becomes U; X/D and X/Z/D become XD: a
    dummy, but no sequence of dummies.
    """
    letters = {
        table.delete: "X", table.empty: "Z", table.delete_or_empty: "Z", table.replace: "D",
        table.empty_or_replace: "D", table.delete_or_replace: "XD", table.delete_or_empty_or_replace: "XD",
        table.replace_UID: "U", table.delete_or_empty_or_replace_UID: "U",
    }  # fmt: skip
    actions = {tag: letters[function] for tag, function in table.initialize_actions_2024b().items()}
    single = {(t[0], t[1]): action for t, action in actions.items() if len(t) == 2}
    return single, tuple((t, action) for t, action in actions.items() if len(t) == 4)


def _marks(dataset: Dataset) -> set[str]:
    """Words that name this patient, in lower case; short ones would be found everywhere."""
    texts = [str(dataset.get(k) or "") for k in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber")]
    texts += [str(v) for k in ("OtherPatientIDs", "OtherPatientNames") for v in (dataset.get(k) or [])]
    return {word for text in texts for word in re.split(r"[\^=\s,\\]+", text.lower()) if len(word) >= 4}


def _refuse_leftovers(dataset: Dataset, marks: set[str]) -> None:
    for element in _texts(dataset):
        found = str(element.value).lower()
        if element.keyword not in ("PatientName", "PatientID") and any(mark in found for mark in marks):
            raise ReadError(
                f"expected no name, id or birth date left, found one in {element.name} {element.tag}, an attribute the "
                f"basic profile keeps; clear it, then export again"
            )


def _texts(dataset: Dataset) -> Iterator[DataElement]:
    return (element for element in dataset.iterall() if element.VR in _TEXT_VRS and element.value)


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item

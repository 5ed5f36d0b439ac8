"""Multi-frame objects: what each frame says about itself, in the words of single-frame objects.

Enhanced CT and PET (PS3.3 A.38, A.56) keep it in functional groups (C.7.6.16), shared or per frame. Legacy Converted
Enhanced objects (A.70, A.72) also keep what their single-frame originals said, in Unassigned Converted Attributes.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.dataset import Dataset
from pydicom.tag import Tag

PLACE = ("PlanePositionSequence", "PlaneOrientationSequence", "PixelMeasuresSequence")
"""Macros that place a frame."""

_PER_FRAME = Tag("PerFrameFunctionalGroupsSequence")
_SHARED = Tag("SharedFunctionalGroupsSequence")
_CONVERTED = ("UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence")
_UNITS = {
    "BQ/ML": ("BQML", ""),
    "G/ML{SUVBW}": ("GML", "BW"),
    "{SUVBW}G/ML": ("GML", "BW"),
    "{COUNTS}": ("CNTS", ""),
    "{PROPCOUNTS}": ("PROPCNTS", ""),
}
"""UCUM codes of CID 84 to Units (0054,1001) and SUV Type, in the order in which we like them."""


def groups_of(header: Dataset, index: int) -> tuple[Dataset, ...]:
    """Functional groups of a frame, its own before the shared ones."""
    return (header.PerFrameFunctionalGroupsSequence[index], *(header.get("SharedFunctionalGroupsSequence") or []))


def macro(groups: tuple[Dataset, ...], keyword: str) -> Dataset:
    """The first item of a functional group macro; empty where there is none."""
    return next((group[keyword][0] for group in groups if group.get(keyword)), Dataset())


def value_mapping(header: Dataset, groups: tuple[Dataset, ...]) -> Dataset:
    """Rescale Slope, Intercept and Type of a PET frame; also Units and SUV Type where a mapping states them.

    A PET frame without Units is described by its Real World Value Mappings, each with a unit (C.7.6.16-12, CID 84);
    the activity concentration is taken before the SUV, since it does not depend on someone's weight and dose.
    """
    plain = macro(groups, "PixelValueTransformationSequence")
    if "Units" in flattened(header, groups):
        return plain
    mapped: dict[str, Dataset] = {}
    for group in (*groups, header):
        for item in group.get("RealWorldValueMappingSequence") or []:
            codes = item.get("MeasurementUnitsCodeSequence") or [Dataset()]
            code = str(codes[0].get("CodeValue") or "").replace(" ", "").upper()
            if code in _UNITS and "RealWorldValueSlope" in item:
                mapped.setdefault(code, item)
    for code, (units, kind) in _UNITS.items():
        if code in mapped:
            out = Dataset()
            out.RescaleSlope = float(mapped[code].RealWorldValueSlope)
            out.RescaleIntercept = float(mapped[code].get("RealWorldValueIntercept") or 0.0)
            out.Units, out.SUVType = units, kind
            return out
    return plain


def flattened(header: Dataset, groups: tuple[Dataset, ...]) -> Dataset:
    """A frame's own view of the header: the file's attributes, overlaid by those that its groups converted."""
    out = Dataset()
    for source in (header, *_converted(groups)):
        for element in source:
            if element.tag not in (_PER_FRAME, _SHARED):
                out.add(element)
    return out


def pet_header(header: Dataset, index: int) -> Dataset:
    """A PET frame's header in single-frame terms, for the rules of SUV.

    Frame Content (C.7.6.16-5) gives time and duration; Enhanced PET Corrections (C.8.22.5) say what was corrected, and
    to which moment decay was.
    """
    groups = groups_of(header, index)
    out = flattened(header, groups)
    content = macro(groups, "FrameContentSequence")
    if content.get("FrameAcquisitionDateTime"):
        out.AcquisitionDateTime = content.FrameAcquisitionDateTime
        for keyword in ("AcquisitionDate", "AcquisitionTime"):
            if keyword in out:
                delattr(out, keyword)
    if content.get("FrameAcquisitionDuration") is not None and "ActualFrameDuration" not in out:
        out.ActualFrameDuration = str(round(float(content.FrameAcquisitionDuration)))
    mapping = value_mapping(header, groups)
    if "Units" in mapping:
        out.Units, out.SUVType = mapping.Units, mapping.SUVType
    corrected = str(out.get("DecayCorrected") or "").upper()
    if "DecayCorrection" not in out and (
        corrected == "NO" or (corrected == "YES" and out.get("DecayCorrectionDateTime"))
    ):
        out.DecayCorrection = "NONE" if corrected == "NO" else "START"  # START of what, DecayCorrectionDateTime says
    if "CorrectedImage" not in out and out.get("AttenuationCorrected"):
        attenuation = str(out.AttenuationCorrected).upper() == "YES"
        out.CorrectedImage = ["ATTN"] * attenuation + ["DECY"] * (corrected == "YES") or ["NONE"]
    return out


def _converted(groups: tuple[Dataset, ...]) -> Iterator[Dataset]:
    """Converted attributes, shared before per frame, so that the latter win."""
    for keyword in _CONVERTED:
        for group in groups:
            yield from group.get(keyword) or []

"""Whether a study's CT and PET are of one patient and lie in one coordinate system, as far as their files say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from preprocessing.read_dicom_masks import source_tags
from vol3d.errors import GeometryError, ReadError


def require_one_study(
    ct: Sequence[Path], pet: Sequence[Path], frames: Literal["refuse", "registered"] = "refuse"
) -> tuple[str, ...]:
    """Refuses two DICOM series whose headers contradict each other; an attribute that one of them lacks says nothing.

    Args:
        ct: files of the CT; NIfTI says nothing.
        pet: files of the PET.
        frames: ``registered`` takes two frames of reference as one, as for images that were registered elsewhere.

    Returns:
        A note where two frames of reference were taken as one.

    Raises:
        ReadError: two patients. Messages never hold their ids.
        GeometryError: two frames of reference.
    """
    patient, frame = source_tags(ct, "PatientID", "FrameOfReferenceUID")
    other_patient, other_frame = source_tags(pet, "PatientID", "FrameOfReferenceUID")
    if patient and other_patient and patient != other_patient:
        raise ReadError(
            "expected CT and PET of one patient, found two Patient IDs (0010,0020); give each its own images, or "
            "correct the header if they are one patient's"
        )
    if not frame or not other_frame or frame == other_frame:
        return ()
    if frames == "refuse":
        raise GeometryError(
            "expected CT and PET in one Frame of Reference (0020,0052), found two: nothing says how they lie to each "
            "other; name the CT of the PET's own study, or, if they were registered, say so in reading.yaml "
            "(frames: registered)"
        )
    return ("two frames of reference, taken as one: registered",)

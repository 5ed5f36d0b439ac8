"""Measurements in the SR are those of the masks, tied to their segments; the report's words arrive as they are."""

import datetime
import io

import highdicom as hd
import numpy as np
import pydicom
import pytest
from pydicom.sr.codedict import codes

from vol3d.errors import Vol3dError
from vol3d.export.dicom_seg import write_dicom_seg
from vol3d.export.dicom_sr import Measurements, measured, write_dicom_sr
from vol3d.export.dicom_text import report_sections, write_report_pdf, write_text_sr
from vol3d.export.segments import Segment
from vol3d.export.source_series import read_source
from vol3d.geometry import Grid

CREATED = datetime.datetime(2026, 3, 4, 5, 6, 7)
REPORT = """Clinical question: none of these headings.

FINDINGS:
The liver costs $5 and $6. Läsion in segment 4.

No effusion.
Impression: one lesion,
unverified.
"""


@pytest.fixture
def source(tmp_path, make_series):
    grid = Grid.from_lps((6, 8, 10), [[0, 0, 0.5, 0], [0, 0.5, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])
    return read_source(make_series(tmp_path / "ct", grid, patient={"PatientName": "Doe^Jane", "PatientID": "id-5"}))


@pytest.fixture
def seg(tmp_path, source, algorithm):
    block, none = np.zeros(source.grid.shape, bool), np.zeros(source.grid.shape, bool)
    block[1:4, 2:6, 3:9] = True
    segments = [
        Segment(prompt="nodule in the right lung", load=lambda: block, probability=0.875),
        Segment(prompt="liver", load=lambda: none, state="absent", probability=0.125),
    ]
    made = write_dicom_seg(tmp_path / "seg.dcm", source, segments, algorithm, CREATED)
    suv = {"suv_max": 7.910674, "suv_mean": 2.55515, "suv_peak": 6.25, "tlg_g": 120.5}
    values = [measured(block, source.grid, suv), measured(none, source.grid, dict.fromkeys(suv))]
    return made, values


def by_name(group):
    out = {}
    for item in group.get_measurements():
        derivation = item.derivation.meaning if item.derivation else ""
        out[item.name.meaning, derivation] = (item.value, item.unit.value)
    return out


def test_sizes_are_those_of_the_block(seg):
    block, none = seg[1]
    assert block.volume_ml == pytest.approx(3 * 4 * 6 * 0.5 / 1000)  # voxels of 2 x 0.5 x 0.5 mm
    assert 3.0 <= block.axial_long_mm <= np.hypot(3, 2)  # 6 by 4 pixels of half a millimetre
    assert 2.0 <= block.axial_short_mm <= block.axial_long_mm
    assert 6.0 <= block.longest_3d_mm <= np.linalg.norm((6, 3, 2))
    assert none == Measurements(volume_ml=0.0)


def test_measurements_are_tied_to_their_segments(tmp_path, source, seg, algorithm, errors_of):
    made, values = seg
    uid = write_dicom_sr(tmp_path / "sr.dcm", source, made, values, algorithm, CREATED)
    assert errors_of(tmp_path / "sr.dcm") == []
    stored = hd.sr.srread(tmp_path / "sr.dcm")
    assert stored.SOPInstanceUID == uid
    assert (stored.VerificationFlag, stored.CompletionFlag) == ("UNVERIFIED", "COMPLETE")
    assert stored.StudyInstanceUID == source.header.StudyInstanceUID
    assert str(stored.PatientName) == "Doe^Jane"
    (group,) = stored.content.get_volumetric_roi_measurement_groups()
    segment = group.referenced_segment
    assert segment.referenced_sop_instance_uid == made.sop_instance_uid
    assert segment.referenced_segment_numbers == 1 or list(segment.referenced_segment_numbers) == [1]
    assert group.tracking_identifier == "nodule in the right lung"
    assert group.tracking_uid == pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence[0].TrackingUID
    assert group.finding_type == codes.SCT.Nodule
    assert group.finding_sites[0].value.meaning == "Lung"
    numbers = by_name(group)
    assert numbers["Volume", ""] == (pytest.approx(values[0].volume_ml, rel=1e-6), "ml")
    assert numbers["Long axis", ""] == (pytest.approx(values[0].axial_long_mm, rel=1e-6), "mm")
    assert numbers["Short axis", ""] == (pytest.approx(values[0].axial_short_mm, rel=1e-6), "mm")
    assert numbers["SUVbw", "Maximum"] == (7.910674, "{SUVbw}g/ml")
    assert numbers["SUVbw", "Mean"] == (2.55515, "{SUVbw}g/ml")
    assert numbers["SUVbw", "Peak Value Within ROI"] == (6.25, "{SUVbw}g/ml")
    assert numbers["Total Lesion Glycolysis", ""] == (120.5, "g")
    assert numbers["Probability that what the phrase says is present", ""] == (0.875, "1")
    evidence = {found[2] for found in stored.get_evidence()}
    assert evidence == {made.sop_instance_uid, *(str(image.SOPInstanceUID) for image in source.images)}


def test_an_absent_finding_is_stated_without_sizes(tmp_path, source, seg, algorithm):
    write_dicom_sr(tmp_path / "sr.dcm", source, *seg, algorithm, CREATED)
    stored = hd.sr.srread(tmp_path / "sr.dcm")
    (group,) = stored.content.get_image_measurement_groups()
    assert group.tracking_identifier == "liver"
    assert [e.value.meaning for e in group.get_qualitative_evaluations()][-1] == "Absent"
    assert list(by_name(group).values()) == [(0.125, "1")]


def test_the_pet_is_named_as_evidence(tmp_path, source, seg, algorithm, make_series):
    def rename(index, dataset):
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.4.{index}"

    pet = read_source(make_series(tmp_path / "pet", source.grid, rename, patient={"SeriesInstanceUID": "1.2.3.4"}))
    write_dicom_sr(tmp_path / "sr.dcm", source, *seg, algorithm, CREATED, pet=pet)
    assert "1.2.3.4" in {found[1] for found in hd.sr.srread(tmp_path / "sr.dcm").get_evidence()}
    other = read_source(make_series(tmp_path / "other", source.grid, patient={"StudyInstanceUID": "1.2.3.5"}))
    with pytest.raises(Vol3dError, match="same study"):
        write_dicom_sr(tmp_path / "sr.dcm", source, *seg, algorithm, CREATED, pet=other)
    with pytest.raises(Vol3dError, match="measurements of 2 segments"):
        write_dicom_sr(tmp_path / "sr.dcm", source, seg[0], seg[1][:1], algorithm, CREATED)


def test_the_same_measurements_are_the_same_file(tmp_path, source, seg, algorithm):
    for name in ("a", "b"):
        write_dicom_sr(tmp_path / name, source, *seg, algorithm, CREATED)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_sections_of_a_report():
    assert report_sections(REPORT) == {
        "findings": (
            "Clinical question: none of these headings.\n\n\n"
            "The liver costs $5 and $6. Läsion in segment 4.\n\nNo effusion."
        ),
        "impression": "one lesion,\nunverified.",
    }
    assert report_sections("INDICATION\ncough\nfindings: none") == {"indication": "cough", "findings": "none"}
    with pytest.raises(Vol3dError, match="with text in it"):
        report_sections(" \n Findings:\n")


def test_a_report_as_text(tmp_path, source, algorithm, errors_of):
    uid = write_text_sr(tmp_path / "t.dcm", source, REPORT, algorithm, CREATED)
    assert errors_of(tmp_path / "t.dcm") == []
    stored = pydicom.dcmread(tmp_path / "t.dcm")
    assert stored.file_meta.MediaStorageSOPInstanceUID == stored.SOPInstanceUID == uid
    assert (stored.VerificationFlag, stored.Modality) == ("UNVERIFIED", "SR")
    sections = [item for item in stored.ContentSequence if item.ValueType == "CONTAINER"]
    assert [s.ConceptNameCodeSequence[0].CodeMeaning for s in sections] == ["Findings", "Impressions"]
    texts = [[item.TextValue for item in s.ContentSequence] for s in sections]
    assert texts == [
        [
            "Clinical question: none of these headings.",
            "The liver costs $5 and $6. Läsion in segment 4.",
            "No effusion.",
        ],
        ["one lesion, unverified."],
    ]
    write_text_sr(tmp_path / "u.dcm", source, REPORT, algorithm, CREATED)
    assert (tmp_path / "t.dcm").read_bytes() == (tmp_path / "u.dcm").read_bytes()


def test_a_report_as_pdf(tmp_path, source, algorithm, errors_of):
    long = REPORT + "\n" + "\n".join(f"Line {i} of a long report." for i in range(150))
    for name in ("a", "b"):
        write_report_pdf(tmp_path / name, source, long, algorithm, CREATED)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert errors_of(tmp_path / "a") == []
    stored = pydicom.dcmread(tmp_path / "a")
    assert stored.MIMETypeOfEncapsulatedDocument == "application/pdf"
    document = stored.EncapsulatedDocument[: stored.EncapsulatedDocumentLength]
    assert document.startswith(b"%PDF-")
    assert document.rstrip().endswith(b"%%EOF")
    assert io.BytesIO(document).getvalue().count(b"/Type /Page ") == 3
    assert stored.VerificationFlag == "UNVERIFIED"
    assert stored.BurnedInAnnotation == "YES"

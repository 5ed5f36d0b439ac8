"""No name, id or date of a patient gets into a cache, a log, a report or a de-identified copy."""

import shutil
import subprocess
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from preprocessing.phantom import PhantomOptions, write_phantoms
from preprocessing.reading import read_image

SMALL = PhantomOptions(ct_spacing_mm=(8.0, 8.0), pet_spacing_mm=((10.0, 10.0, 10.0),))
NAME, NUMBER, BORN, ACCESSION, DAY = "Mustermann^Erika", "MRN-0815-77", "19610203", "ACC-4711-X", "20231117"
PLANTED = ("mustermann", "erika", NUMBER.lower(), BORN, ACCESSION.lower(), DAY, "wolkenkuckuck", "1961-02-03")


def planted(folder):
    """A phantom PET/CT whose headers, file names and folder names name a patient."""
    write_phantoms(folder, 1, 5, "dicom", options=SMALL)
    source = next(p for p in folder.iterdir() if p.is_dir())
    target = folder / "Mustermann_Erika_19610203"
    for number, path in enumerate(sorted(source.rglob("*.dcm"))):
        ds = pydicom.dcmread(path)
        ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.AccessionNumber = NAME, NUMBER, BORN, ACCESSION
        ds.InstitutionName, ds.OperatorsName = "Klinik Wolkenkuckuck", "Wolkenkuckuck^Otto"
        ds.StudyDescription = ds.SeriesDescription = "PET AC Mustermann, Erika"
        for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
            setattr(ds, keyword, DAY)
        if ds.Modality == "PT":
            item = ds.RadiopharmaceuticalInformationSequence[0]
            item.RadiopharmaceuticalStartDateTime = DAY + item.RadiopharmaceuticalStartDateTime[8:]
        place, person = pydicom.Dataset(), pydicom.Dataset()
        place.CodeValue, place.CodingSchemeDesignator, place.CodeMeaning = "1", "99X", "Klinik Wolkenkuckuck"
        person.CodeValue, person.CodingSchemeDesignator, person.CodeMeaning = "2", "99X", "Otto Wolkenkuckuck"
        ds.InstitutionCodeSequence, operator = pydicom.Sequence([place]), pydicom.Dataset()
        operator.PersonIdentificationCodeSequence = pydicom.Sequence([person])
        ds.OperatorIdentificationSequence = pydicom.Sequence([operator])
        block = ds.private_block(0x0011, "MAKER", create=True)
        block.add_new(0x01, "LO", NAME)
        (target / ds.Modality).mkdir(parents=True, exist_ok=True)
        ds.save_as(target / ds.Modality / f"MUSTERMANN.{NUMBER}.{number:04d}.dcm")
    shutil.rmtree(source)
    (folder / "manifest.jsonl").unlink()
    return target


@pytest.fixture(scope="module")
def planted_once(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("planted"))


@pytest.fixture
def study(planted_once, tmp_path):
    return Path(shutil.copytree(planted_once, tmp_path / "archive" / planted_once.name))


def leaks(*roots):
    """Planted words in any file or its name, in bytes as written and in what DICOM and JSON say."""
    found = []
    for path in (p for root in roots for p in root.rglob("*")):
        content = str(path.relative_to(roots[0].parent)).lower().encode()
        content += path.read_bytes().lower() if path.is_file() else b""
        found += [(path.name, word) for word in PLANTED if word.encode() in content]
    return found


def test_the_search_would_find_something(study):
    assert {word for _, word in leaks(study)} >= {"mustermann", "wolkenkuckuck", BORN, DAY, ACCESSION.lower()}


def test_preprocessing_keeps_no_identity(study, tmp_path, vol3d, capfd, caplog):
    out, recipe = tmp_path / "made" / "cache", "configs/preprocess/demo.yaml"
    assert vol3d("preprocess", study.parent, "--source", "dicom_tree", "--config", recipe, "--out", out) == 0
    (entry,) = (out / "studies").iterdir()
    assert entry.name.startswith("s")
    broken = sorted((study / "CT").iterdir())
    broken[len(broken) // 2].unlink()  # a refusal, whose message must not name files either
    broken[3].write_bytes(broken[3].read_bytes()[:-900])
    again = tmp_path / "made" / "again"
    assert vol3d("preprocess", study.parent, "--source", "dicom_tree", "--config", recipe, "--out", again) == 1
    assert "file-0000" in (again / "quarantine.jsonl").read_text()
    assert leaks(out, again) == []
    told = capfd.readouterr()
    words = (told.out + told.err + caplog.text).lower()
    assert [word for word in PLANTED if word in words] == []
    private = tmp_path / "made" / "cache.intake"  # says where the files lie, for its owner alone
    assert private.stat().st_mode & 0o077 == 0
    assert "MRN" not in (private / "manifest.jsonl").read_text()


def add_results(study):
    """A SEG, and an SR with a name in it, of the planted CT."""
    images = [pydicom.dcmread(p) for p in sorted((study / "CT").iterdir())]
    mask = np.zeros((len(images), images[0].Rows, images[0].Columns), np.uint8)
    mask[5:9, 20:30, 20:30] = 1
    maker = {"manufacturer": "vol3d", "manufacturer_model_name": "test", "software_versions": "1",
             "device_serial_number": "1"}  # fmt: skip
    described = highdicom.seg.SegmentDescription(
        1, "liver lesion", codes.SCT.Tissue, codes.SCT.Tissue, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
    )
    seg = highdicom.seg.Segmentation(
        images, mask[..., None], highdicom.seg.SegmentationTypeValues.BINARY, [described], generate_uid(), 9,
        generate_uid(), 1, **maker,
    )  # fmt: skip
    seg.save_as(study / "seg.dcm")
    sr = highdicom.sr
    observer = sr.ObserverContext(codes.DCM.Person, sr.PersonObserverIdentifyingAttributes(name="Wolkenkuckuck^Otto"))
    group = sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=generate_uid(), identifier="Erika 1"),
        referenced_segment=sr.ReferencedSegment(
            seg.SOPClassUID,
            seg.SOPInstanceUID,
            1,
            source_series=sr.SourceSeriesForSegmentation(images[0].SeriesInstanceUID),
        ),
        measurements=[sr.Measurement(name=codes.SCT.Volume, value=12.5, unit=codes.UCUM.CubicMillimeter)],
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_person_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion, imaging_measurements=[group],
    )  # fmt: skip
    document = sr.Comprehensive3DSR(
        evidence=[seg], content=report, series_instance_uid=generate_uid(), series_number=10,
        sop_instance_uid=generate_uid(), instance_number=1, manufacturer="vol3d",
    )  # fmt: skip
    document.save_as(study / "sr.dcm")


def test_copies_without_identity(study, tmp_path, vol3d):
    add_results(study)
    shutil.copy(get_testdata_file("examples_palette.dcm"), study / "us.dcm")  # ultrasound: text in its pixels
    before = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, sorted(study.rglob("*.dcm")))}
    out = tmp_path / "made" / "shared"
    assert vol3d("deidentify", study, out) == 1
    assert leaks(out) == []
    after = [pydicom.dcmread(p) for p in sorted(out.rglob("*.dcm"))]
    assert len(after) == len(before) - 1
    assert not {d.SOPInstanceUID for d in after} & set(before)
    for key in ("StudyInstanceUID", "PatientID"):
        assert len({d.get(key) for d in after}) == 1
    by_class = {d.Modality: [a for a in after if a.Modality == d.Modality] for d in after}
    assert {k: len(v) for k, v in by_class.items() if k in ("SEG", "SR")} == {"SEG": 1, "SR": 1}
    (seg,), (sr,) = by_class["SEG"], by_class["SR"]
    cts = {d.SOPInstanceUID for d in by_class["CT"]}
    named = {str(e.value) for e in seg.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
    assert named
    assert named <= cts
    assert seg.FrameOfReferenceUID == by_class["CT"][0].FrameOfReferenceUID
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == by_class["CT"][0].SeriesInstanceUID
    assert seg.SOPInstanceUID in {str(e.value) for e in sr.iterall() if e.keyword == "ReferencedSOPInstanceUID"}
    assert [float(e.value) for e in sr.iterall() if e.keyword == "NumericValue"] == [12.5]
    assert seg.PixelData == next(d for d in before.values() if d.Modality == "SEG").PixelData
    assert [c.CodeValue for c in sr.DeidentificationMethodCodeSequence] == ["113100", "113104"]
    assert all(d.PatientIdentityRemoved == "YES" and not d.get("StudyDate") for d in after)

    again = tmp_path / "made" / "again"
    vol3d("deidentify", study / "CT", again)  # a part, at another time: the same new UIDs
    assert {pydicom.dcmread(p).SOPInstanceUID for p in again.rglob("*.dcm")} == cts


def test_shifted_dates_keep_the_suv(study, tmp_path, vol3d):
    out = tmp_path / "made" / "shared"
    assert vol3d("deidentify", study, out, "--keep", "dates", "--keep", "characteristics") == 0
    assert leaks(out) == []
    ours, theirs = read_image(study / "PT", "pet").volume, read_image(out, "pet").volume
    np.testing.assert_allclose(theirs.array_ZYX, ours.array_ZYX, rtol=1e-6)
    moved = {pydicom.dcmread(p).StudyDate for p in out.rglob("*.dcm")}
    assert len(moved) == 1
    assert moved != {DAY}
    assert "PatientWeight" in pydicom.dcmread(next(out.rglob("*.dcm")))


def test_a_name_where_the_profile_keeps_text_is_refused(study, tmp_path, vol3d, capfd):
    path = sorted((study / "CT").iterdir())[0]
    ds = pydicom.dcmread(path)
    ds.ContrastBolusIngredientCodeSequence = pydicom.Sequence([pydicom.Dataset()])
    ds.ContrastBolusIngredientCodeSequence[0].CodeMeaning = "for Erika"
    ds.save_as(path)
    assert vol3d("deidentify", study, tmp_path / "made") == 1
    told = capfd.readouterr().err
    assert "file-00000" in told
    assert "Code Meaning" in told
    assert "Erika" not in told.replace(str(study), "")
    assert leaks(tmp_path / "made") == []


def test_copies_are_valid_dicom(study, tmp_path, vol3d, program):
    validator = program("dciodvfy")
    assert vol3d("deidentify", study, tmp_path / "made", "--keep", "dates", "--keep", "characteristics") == 0
    for modality in ("CT", "PT"):
        before = next(p for p in sorted((study / modality).iterdir()))
        uid_of = {pydicom.dcmread(p).Modality: p for p in (tmp_path / "made").rglob("*.dcm")}
        assert _errors(validator, uid_of[modality]) <= _errors(validator, before)


def _errors(validator, path):
    told = subprocess.run([validator, path], capture_output=True, text=True, check=False).stderr
    return {line for line in told.splitlines() if line.startswith("Error")}


def test_an_id_that_looks_like_a_key_is_hashed_too(study, tmp_path, vol3d):
    for path in (study / "CT").iterdir():
        ds = pydicom.dcmread(path)
        ds.PatientID = "key:Mustermann"
        ds.save_as(path)
    out = tmp_path / "made" / "shared"
    assert vol3d("deidentify", study / "CT", out) == 0
    assert leaks(out) == []

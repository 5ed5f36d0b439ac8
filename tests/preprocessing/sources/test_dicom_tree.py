"""Mixed trees of small synthetic DICOM: what is chosen, what is left out, and that each reason is told."""

import itertools
import json
import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    PositronEmissionTomographyImageStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    XRayRadiationDoseSRStorage,
    generate_uid,
)

from preprocessing.manifest import read_manifest
from preprocessing.reading import read_image
from preprocessing.sources.dicom_tree import plain_words, take_in
from preprocessing.sources.series_rules import IntakeConfig, kernel_rank
from preprocessing.study import build_entry
from preprocessing.transforms import PreprocessConfig
from vol3d.config import SHIPPED, load_yaml
from vol3d.dicom.listing import files_of
from vol3d.errors import ConfigError, ManifestError, ReadError
from vol3d.measure import suv_statistics
from vol3d.workflows.prepare import prepare

STUDY, FRAME = generate_uid(), generate_uid()
COUNT = itertools.count()


def series(folder, kind="CT", slices=8, step=3.0, study=STUDY, frame=FRAME, number=1, first=0.0, missing=(), **more):
    """Writes a series of 8x8 slices; returns its Series Instance UID. `more` sets attributes."""
    uid, names = generate_uid(), next(COUNT)
    folder.mkdir(parents=True, exist_ok=True)
    for z in (z for z in range(slices) if z not in missing):
        ds = Dataset()
        ds.SOPClassUID = CTImageStorage if kind == "CT" else PositronEmissionTomographyImageStorage
        ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), study, uid
        ds.FrameOfReferenceUID, ds.Modality, ds.SeriesNumber, ds.InstanceNumber = frame, kind, number, z + 1
        ds.PatientID, ds.PatientName, ds.PatientBirthDate = "MRN-7741", "Doe^Jane", "19610203"
        ds.ImageType, ds.SeriesDescription = ["ORIGINAL", "PRIMARY", "AXIAL"], ""
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", 8, 8
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
        ds.PixelSpacing, ds.ImageOrientationPatient = [4, 4], [1, 0, 0, 0, 1, 0]
        ds.ImagePositionPatient = [-14, -14, first + z * step]
        ds.RescaleSlope, ds.RescaleIntercept = 1, 0
        pixels = (np.arange(64).reshape(8, 8) * 9 + z - 300).astype(np.int16)
        if kind == "PT":
            ds.CorrectedImage, ds.Units, ds.DecayCorrection = ["DECY", "ATTN"], "BQML", "START"
            ds.PatientWeight, ds.SeriesDate, ds.SeriesTime = 70, "20240101", "120000"
            ds.AcquisitionDate, ds.AcquisitionTime = "20240101", "120000"
            item = Dataset()
            item.RadionuclideTotalDose, item.RadionuclideHalfLife = "3.7e8", "6586.2"
            item.RadiopharmaceuticalStartTime = "110000"
            ds.RadiopharmaceuticalInformationSequence = Sequence([item])
            pixels = np.abs(pixels) * 20
        else:
            ds.RescaleType = "HU"
        for keyword, value in more.items():
            setattr(ds, keyword, value)
        ds.PixelData = pixels.astype(np.int16).tobytes()
        save(ds, folder / f"{names:03d}-{z:03d}.dcm")
    return uid


def save(ds, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pydicom.dcmwrite(path, ds, enforce_file_format=True)


def lone(path, sop_class, modality, study=STUDY):
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = sop_class, generate_uid(), modality
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID = study, generate_uid(), "MRN-7741"
    save(ds, path)


def intake(tree, out, **config):
    """The rows, the Series Instance UIDs they chose by image, and the report."""
    rows = list(read_manifest(take_in(tree, out, IntakeConfig(**config))))
    images = [{name: getattr(r, name) for name in ("ct", "pet") if getattr(r, name)} for r in rows]
    chosen = [{n: pydicom.dcmread(files_of(p)[0]).SeriesInstanceUID for n, p in i.items()} for i in images]
    return rows, chosen, [json.loads(line) for line in (out / "report.jsonl").read_text().splitlines()]


def reasons(report):
    return sorted(r["reason"] for r in report if not r["used_as"])


def test_a_mixed_study_in_one_folder(tmp_path):
    """Everything a scanner sends, in one flat folder: one CT and one PET are taken, the rest is told why not."""
    tree = tmp_path / "tree"
    soft = series(tree, ConvolutionKernel="B30f", number=4)
    series(tree, ConvolutionKernel="B70f", step=1.0, slices=24, number=3)
    series(tree, ConvolutionKernel="B30f", step=3.0, frame=generate_uid(), number=2)
    series(tree, slices=5, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    series(tree, ImageType=["DERIVED", "SECONDARY", "MIP"], number=9)
    ac = series(tree, "PT", SeriesDescription="WB AC")
    series(tree, "PT", CorrectedImage=["DECY"], SeriesDescription="WB NAC")
    series(tree, "PT", SeriesType=["WHOLE BODY", "REPROJECTION"])
    series(tree, slices=2, SeriesDescription="monitoring")
    lone(tree / "sr.dcm", XRayRadiationDoseSRStorage, "SR")
    lone(tree / "sc.dcm", SecondaryCaptureImageStorage, "OT")
    (tree / "readme.txt").write_text("words")
    rows, chosen, report = intake(tree, tmp_path / "out")
    assert chosen == [{"ct": soft, "pet": ac}]
    ct = read_image(rows[0].ct, "ct").volume
    assert (ct.grid.shape, ct.array_ZYX.max()) == ((8, 8, 8), 63 * 9 + 7 - 300)
    told = reasons(report)
    winner = next(r["series"] for r in report if r["used_as"] == "ct")
    assert told == sorted([
        "a localizer", "a maximum intensity projection (Image or Series Type MIP)", "not attenuation-corrected",
        "a projection (Image or Series Type REPROJECTION)", "2 slices are no volume", "a dose report",
        "a secondary capture", "not DICOM (no preamble)",
        f"not chosen beside {winner}: the other has a softer kernel",
        "another Frame of Reference than the PET's: nothing says how they lie to each other",
    ])  # fmt: skip


def test_the_thinnest_where_the_rules_say_so(tmp_path):
    tree = tmp_path / "tree"
    series(tree, ConvolutionKernel="STANDARD", step=3.0, slices=8)
    thin = series(tree, ConvolutionKernel="LUNG", step=1.0, slices=24)
    _, chosen, report = intake(tree, tmp_path / "out", ct="thin")
    assert chosen == [{"ct": thin}]
    assert "thinner slices" in reasons(report)[0]


def test_length_and_soundness_before_kernel(tmp_path):
    tree = tmp_path / "tree"
    long = series(tree / "a", ConvolutionKernel="LUNG", slices=20)
    series(tree / "b", ConvolutionKernel="SOFT", slices=8)
    series(tree / "c", ConvolutionKernel="SOFT", slices=20, missing=(7,))
    _, chosen, report = intake(tree, tmp_path / "out")
    assert chosen == [{"ct": long}]
    assert any("1 missing slice" in r and "no regular grid" in r for r in reasons(report))
    assert any("the other is longer" in r for r in reasons(report))


def test_a_faulty_series_alone_is_left_to_the_reader(tmp_path):
    """No sound one to prefer: the study stays in the manifest, and reading it names the fault."""
    series(tmp_path / "tree", slices=8, missing=(3,))
    rows, _, report = intake(tmp_path / "tree", tmp_path / "out")
    assert "missing slice" in report[0]["fault"]
    with pytest.raises(Exception, match=r"missing slice.*file-0000"):
        read_image(rows[0].ct, "ct")


def test_the_ct_that_covers_the_pet(tmp_path):
    tree = tmp_path / "tree"
    series(tree, "PT", slices=20)
    series(tree, ConvolutionKernel="SOFT", slices=30, first=40.0)
    whole = series(tree, ConvolutionKernel="LUNG", slices=20)
    _, chosen, _ = intake(tree, tmp_path / "out")
    assert chosen[0]["ct"] == whole


def test_studies_copies_and_patients(tmp_path):
    tree, other = tmp_path / "tree", generate_uid()
    series(tree / "one")
    shutil.copytree(tree / "one", tree / "copy of one")
    series(tree / "two", study=other)
    series(tree / "three", study=generate_uid(), PatientID="MRN-9")
    rows, _, report = intake(tree, tmp_path / "out")
    assert len({r.study_id for r in rows}) == 3
    keys = [r.patient_id for r in rows]
    assert len(set(keys)) == 2
    assert all(k.startswith("key:") for k in keys)
    assert {"files": 8, "used_as": None, "reason": "a copy of another file"} in report
    again, _, _ = intake(tree, tmp_path / "again")
    assert [r.study_id for r in again] == [r.study_id for r in rows]


def test_no_uids_at_all(tmp_path):
    """A crude de-identification emptied them: a folder is a study."""
    tree = tmp_path / "tree"
    for name in ("a", "b"):
        series(tree / name, StudyInstanceUID="", SeriesInstanceUID="", SOPInstanceUID="1.2.3")
    # the file meta of such files still needs a UID, which is then the same for all: no copies, since contents differ
    rows, _, _ = intake(tree, tmp_path / "out")
    assert len(rows) == 2


def test_nothing_there(tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "a.txt").write_text("x")
    with pytest.raises(ManifestError, match=r"expected a CT or PET series.*not DICOM"):
        take_in(tmp_path / "tree", tmp_path / "out")
    with pytest.raises(ManifestError, match="expected a folder of studies"):
        take_in(tmp_path / "none", tmp_path / "out")
    with pytest.raises(ConfigError, match="regular expression"):
        IntakeConfig(skip_regions=["("])


def test_a_file_that_went_away_is_missed(tmp_path):
    series(tmp_path / "tree")
    rows, _, _ = intake(tmp_path / "tree", tmp_path / "out")
    sorted((tmp_path / "tree").iterdir())[-1].unlink()
    with pytest.raises(Exception, match="1 gone since the intake"):
        read_image(rows[0].ct, "ct")


def test_workers_find_the_same(tmp_path):
    for n in range(3):
        series(tmp_path / "tree" / str(n), study=generate_uid(), slices=30)
    one = take_in(tmp_path / "tree", tmp_path / "one").read_text()
    two = take_in(tmp_path / "tree", tmp_path / "two", workers=2).read_text()
    assert one.replace("/one/", "/two/") == two


@pytest.mark.parametrize(
    ("kernel", "rank"),
    [("B30f", 0), ("B70f", 2), ("Br40d 3", 0), ("I26f", 0), ("H60s", 2), ("STANDARD", 0), ("BONEPLUS", 2), ("LUNG", 2),
     ("FC08", 0), ("FC52", 2), ("B", 0), ("YB", 2), ("UB", 0), ("STD+", 0), ("unheard of", 1), ("", 1)],
)  # fmt: skip
def test_kernels(kernel, rank):
    assert kernel_rank(kernel) == rank


def test_shipped_rules_load():
    rules = load_yaml(SHIPPED / "intake" / "soft.yaml", IntakeConfig)
    assert rules.ct == "soft"
    assert rules.skip_regions == IntakeConfig().skip_regions


def test_regions_in_plain_words():
    assert [plain_words(n) for n in ("GTV_Mass", "LeftLung", "node 4R", "Lesion-1")] == [
        "gtv mass", "left lung", "node 4r", "lesion 1",
    ]  # fmt: skip


def test_the_sarcoma_pet_with_its_contours(data_dir, tmp_path):
    """Raw DICOM to the tumour's uptake: the figures of the data's README."""
    rows, _, report = intake(data_dir / "sts_raw_pet", tmp_path / "out", phrases={"GTV_Mass": ["primary tumour"]})
    assert [m.phrases for m in rows[0].masks] == [("primary tumour",), ("gtv edema",)]
    assert {r["kind"]: r["used_as"] for r in report if "kind" in r} == {"PT": "pet", "RTSTRUCT": "masks"}
    recipe = PreprocessConfig(
        spacing_mm=(8.0, 8.0, 8.0), extent="union", body_crop=False, body_margin_mm=0.0, levels=1, chunk=32
    )
    entry = build_entry(rows[0], recipe)
    found = suv_statistics(entry.native_masks["gtv_mass"], entry.pet_native)
    assert found.voxels == 5095
    assert found.suv_max == pytest.approx(7.910674, abs=1e-6)
    assert found.suv_mean == pytest.approx(2.55515, abs=5e-5)


def test_nifti_with_sidecars(data_dir, tmp_path):
    source, tree = data_dir / "sts" / "STS_001", tmp_path / "tree" / "s1"
    if not source.is_dir():
        source = next(p for p in (data_dir / "sts").iterdir() if p.is_dir())
    tree.mkdir(parents=True)
    for name, words in {
        "CT_image": {"Modality": "CT", "PatientID": "MRN-7741", "split": "train"},
        "PET_image": {"Modality": "PT", "Units": "SUVbw"},
        "CT_mask": {"image": "mask", "phrases": ["tumour"], "finding_id": "t"},
        "PET_mask": {"image": "mask", "phrases": ["tumour"], "finding_id": "t"},
    }.items():
        (tree / f"{name}.nii.gz").symlink_to(source / f"{name}.nii.gz")
        (tree / f"{name}.json").write_text(json.dumps(words))
    (tree / "other.nii.gz").symlink_to(source / "CT_image.nii.gz")
    (tree / "bqml.nii.gz").symlink_to(source / "PET_image.nii.gz")
    (tree / "bqml.json").write_text(json.dumps({"Modality": "PT", "Units": "Bq/mL", "study_id": "b"}))
    rows = list(read_manifest(take_in(tmp_path / "tree", tmp_path / "out")))
    assert [(r.ct is not None, r.pet is not None, len(r.masks), r.split) for r in rows] == [(True, True, 2, "train")]
    report = (tmp_path / "out" / "report.jsonl").read_text()
    assert "a PET in Bq/mL" in report
    assert "without a JSON" in report
    assert "MRN-7741" not in report + (tmp_path / "out" / "manifest.jsonl").read_text()


# -- where a Study Instance UID is not the whole truth ---------------------------------------------------------------


def notes(report):
    return sorted(r["note"] for r in report if "note" in r)


def test_a_ct_that_was_filed_as_a_study_of_its_own(tmp_path):
    tree = tmp_path / "tree"
    pet, ct = series(tree / "a", "PT"), series(tree / "b", study=generate_uid())
    other = series(tree / "b", study=pydicom.dcmread(next((tree / "b").iterdir())).StudyInstanceUID, frame="1.2.99")
    _, chosen, report = intake(tree, tmp_path / "out")
    assert sorted(chosen, key=len) == [{"ct": other}, {"ct": ct, "pet": pet}]
    assert notes(report) == ["from another study of the same patient, joined by its Frame of Reference"]


@pytest.mark.parametrize("why", ["another patient", "no patient", "two to choose from"])
def test_studies_that_are_not_joined(tmp_path, why):
    tree = tmp_path / "tree"
    patient = {"another patient": "MRN-1", "no patient": "", "two to choose from": "MRN-7741"}[why]
    series(tree / "a", "PT", **({"PatientID": ""} if why == "no patient" else {}))
    series(tree / "b", study=generate_uid(), PatientID=patient)
    if why == "two to choose from":
        series(tree / "c", study=generate_uid())
    _, chosen, report = intake(tree, tmp_path / "out")
    assert [len(row) for row in chosen] == [1] * len(chosen)
    assert notes(report) == []


def test_patients_under_one_study_uid_are_taken_apart(tmp_path):
    tree = tmp_path / "tree"
    pet, ct = series(tree, "PT"), series(tree, PatientID="MRN-2")
    rows, chosen, report = intake(tree, tmp_path / "out")
    assert sorted(chosen, key=str) == [{"ct": ct}, {"pet": pet}]
    assert rows[0].patient_id != rows[1].patient_id
    assert set(notes(report)) == {"its Study Instance UID names several patients, taken apart by Patient ID"}


def test_contours_that_were_filed_as_a_study_of_their_own(tmp_path):
    tree = tmp_path / "tree"
    uid = series(tree / "ct")
    ds, frame, study, drawn_on = Dataset(), Dataset(), Dataset(), Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = RTStructureSetStorage, generate_uid(), "RTSTRUCT"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.PatientID = generate_uid(), generate_uid(), "MRN-7741"
    drawn_on.SeriesInstanceUID, frame.FrameOfReferenceUID = uid, FRAME
    study.RTReferencedSeriesSequence = Sequence([drawn_on])
    frame.RTReferencedStudySequence = Sequence([study])
    ds.ReferencedFrameOfReferenceSequence = Sequence([frame])
    roi, item, contour = Dataset(), Dataset(), Dataset()
    roi.ROINumber, roi.ROIName, item.ReferencedROINumber = 1, "GTV", 1
    contour.ContourGeometricType, contour.ContourData = "CLOSED_PLANAR", [-10, -10, 3, 8, -10, 3, 8, 8, 3]
    item.ContourSequence = Sequence([contour])
    ds.StructureSetROISequence, ds.ROIContourSequence = Sequence([roi]), Sequence([item])
    save(ds, tree / "rt" / "rt.dcm")
    rows, _, report = intake(tree, tmp_path / "out")
    assert [m.phrases for r in rows for m in r.masks] == [("gtv",)]
    assert notes(report) == ["from another study, joined by the series it was drawn on"]


def test_kernels_in_one_series_are_a_fault(tmp_path):
    tree = tmp_path / "tree"
    mixed = series(tree / "a", slices=12, step=1.5, ConvolutionKernel="B30f")
    for path in sorted((tree / "a").iterdir())[::2]:
        ds = pydicom.dcmread(path)
        ds.ConvolutionKernel = "B70f"
        ds.save_as(path)
    sound = series(tree / "b", ConvolutionKernel="B70f")
    _, chosen, report = intake(tree, tmp_path / "out")
    assert (chosen, mixed != sound) == ([{"ct": sound}], True)
    assert "several reconstructions under one Series Instance UID" in reasons(report)[0]


def test_bids_spreads_a_study_over_folders(tmp_path):
    tree = tmp_path / "tree"
    first, second, other = "sub-01/ses-1/{}/sub-01_ses-1_", "sub-01/ses-2/{}/sub-01_ses-2_", "other/sub-01/{}/sub-01_"
    files = [(first, "CT", "anat"), (first, "PT", "pet"), (second, "CT", "anat"), (other, "CT", "anat")]
    for name, modality, place in files:
        name = name.format(place) + modality.lower()
        path = tree / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), np.eye(4)), path)
        (tree / f"{name}.json").write_text(json.dumps({"Modality": modality, "Units": "SUVbw"}))
    rows = list(read_manifest(take_in(tree, tmp_path / "out")))
    assert sorted((r.ct is not None, r.pet is not None) for r in rows) == [(True, False)] * 2 + [(True, True)]
    patients = sorted(r.patient_id for r in rows)
    assert len(set(patients)) == 2  # two sessions of one subject, and another data set's sub-01
    report = [json.loads(line) for line in (tmp_path / "out" / "report.jsonl").read_text().splitlines()]
    assert {r["reason"] for r in report} == {""}  # the JSON files are no strange files


def test_shards_of_a_tree_share_one_intake(tmp_path):
    recipe = SHIPPED / "preprocess" / "demo.yaml"
    with pytest.raises(ConfigError, match=r"one intake for all 4 shards.*run 'vol3d intake"):
        prepare(tmp_path, recipe, tmp_path / "out", source="dicom_tree", shard=(1, 4))


@pytest.mark.parametrize("left", [0, 140, 200])
def test_a_damaged_last_slice_is_missed(tmp_path, left):
    """It leaves no gap, and cannot say any more of which series it was."""
    tree = tmp_path / "tree"
    series(tree / "ct", slices=9)
    last = sorted((tree / "ct").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:left])
    rows, _, report = intake(tree, tmp_path / "out")
    assert "1 damaged files in its folder" in next(r["fault"] for r in report if r["used_as"] == "ct")
    with pytest.raises(ReadError, match=r"file-00008"):
        read_image(rows[0].ct, "ct")
    with pytest.raises(ReadError, match=last.name):
        read_image(tree / "ct", "ct")


def test_a_damaged_file_among_several_studies_is_reported_only(tmp_path):
    tree = tmp_path / "tree"
    series(tree)
    series(tree, study=generate_uid())
    (tree / "zero.dcm").write_bytes(b"")
    rows, _, report = intake(tree, tmp_path / "out")
    assert [read_image(r.ct, "ct").volume.grid.shape for r in rows] == [(8, 8, 8)] * 2
    assert reasons(report) == ["damaged: DICOM by its name only"]


def test_a_study_brings_its_own_options(tmp_path):
    tree = tmp_path / "tree"
    series(tree / "a" / "ct")
    series(tree / "b" / "ct", study=generate_uid())
    (tree / "a" / "reading.yaml").write_text("tilt: correct")
    (tree / "reading.yaml").write_text("pet: {weight_kg: 70}")  # whose weight?
    rows, _, report = intake(tree, tmp_path / "out")
    assert sorted(r.reading.tilt if r.reading else "" for r in rows) == ["", "correct"]
    assert reasons(report) == ["reading.yaml over 2 studies: put one into the folder of each"]

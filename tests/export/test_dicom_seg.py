"""A SEG holds the very voxels that were drawn, where they were drawn, and says what they are."""

import datetime
import itertools
import logging
import shutil
from types import SimpleNamespace

import highdicom as hd
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from pydicom.uid import generate_uid
from scipy.spatial.transform import Rotation

from preprocessing.phantom_scan import is_left_handed
from vol3d.errors import GeometryError, ReadError, Vol3dError
from vol3d.export import dicom_frames
from vol3d.export.dicom_seg import write_dicom_seg
from vol3d.export.regrid import to_source_grid
from vol3d.export.segments import Segment
from vol3d.export.source_series import on_source, read_source
from vol3d.geometry import Grid
from vol3d.workflows.send import send

PATIENT = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Zoë", "PatientID": "geheim-77"}
CREATED = datetime.datetime(2026, 3, 4, 5, 6, 7)
SHAPE = (6, 7, 9)  # 63 pixels a frame: frames do not end at whole bytes
SPACING = (3.0, 1.25, 0.75)


def lps_grid(direction, shape=SHAPE):
    """Columns of `direction`: where (slice, row, column) grow to, in LPS."""
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(direction, float) * SPACING
    affine[:3, 3] = (-31.5, 12.25, 100.125)
    return Grid.from_lps(shape, affine)


def orientations():
    signed = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            direction = np.zeros((3, 3))
            for axis, (world, sign) in enumerate(zip(order, signs, strict=True)):
                direction[world, axis] = sign
            if not is_left_handed(lps_grid(direction)):
                signed.append(direction)
    turns = Rotation.from_euler("xyz", [(11, -23, 31), (44, 3, -8), (-5, 37, 80), (170, 20, 9)], degrees=True)
    return signed + [turn.as_matrix() @ signed[0] for turn in turns] + [turns[1].as_matrix() @ signed[9]]


ALL = orientations()


def landmark(shape):
    """Not symmetric under any flip or permutation of axes."""
    mask = np.zeros(shape, bool)
    mask[1:3, 1:5, 2:4] = mask[3, 4, 3:6] = mask[5, 5, 4] = True
    return mask


def segment(mask, prompt="liver", **more):
    return Segment(prompt=prompt, load=lambda: mask, **more)


def read_back(path, grid):
    """[Z, Y, X, segments] on `grid`, and each segment's centroid in LPS mm, by highdicom alone."""
    stored = hd.seg.segread(path)
    numbers = stored.segment_numbers
    volume = stored.get_volume(combine_segments=False, segment_numbers=numbers, allow_missing_positions=True)
    to_grid = np.linalg.inv(grid.affine_lps) @ volume.affine
    out, centres = np.zeros((*grid.shape, len(numbers)), bool), []
    for i in range(len(numbers)):
        index = np.argwhere(volume.array[..., i])
        if not len(index):
            centres.append(None)
            continue
        exact = index @ to_grid[:3, :3].T + to_grid[:3, 3]
        assert np.abs(exact - np.rint(exact)).max() < 1e-3
        out[(*np.rint(exact).astype(int).T, i)] = True
        centres.append(index.mean(axis=0) @ volume.affine[:3, :3].T + volume.affine[:3, 3])
    return out, centres


@pytest.fixture
def axial(tmp_path, make_series):
    return read_source(make_series(tmp_path / "ct", lps_grid(ALL[0])))


@pytest.fixture(scope="module")
def landmark_seg(tmp_path_factory, make_series, algorithm):
    """By orientation, made once: the SEG of a mask that came from a model's grid, its source and that mask, and where
    the centre was on the model's grid, with how far resampling may move it."""
    made = {}

    def make(number):
        folder = tmp_path_factory.mktemp("landmark")
        drawn_on = lps_grid(ALL[number], (6, 7, 8))  # GDCM, which SimpleITK reads with, loses bits of 63-pixel frames

        def apart(index, dataset):
            for keyword, *of in (("StudyInstanceUID",), ("SeriesInstanceUID",), ("SOPInstanceUID", str(index))):
                setattr(dataset, keyword, generate_uid(entropy_srcs=[keyword, str(number), *of]))
            dataset.PatientID = f"orientation {number}"
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID

        source = read_source(make_series(folder / "ct", drawn_on, apart))
        assert source.grid.same_as(drawn_on, 1e-4)
        if drawn_on.is_axis_aligned:
            model = drawn_on.to_orientation("SAR")[0]
            drawn = landmark(model.shape)
            tolerance_mm = 0.01
        else:  # a ball, finer than the source
            model = Grid.from_spacing((80, 80, 80), (0.5, 0.5, 0.5), tuple(drawn_on.index_to_mm((2.5, 3, 4)) - 19.75))
            drawn = np.linalg.norm(np.indices(model.shape) - np.array([39, 41, 38])[:, None, None, None], axis=0) < 7.2
            tolerance_mm = 0.8  # a quarter of a slice
        mask = to_source_grid(drawn, model, source.grid, 0.5).astype(bool)
        write_dicom_seg(folder / "seg.dcm", source, [segment(mask)], algorithm, CREATED)
        before = model.index_to_mm(np.argwhere(drawn).mean(axis=0)) * (-1, -1, 1)
        return SimpleNamespace(path=folder / "seg.dcm", source=source, mask=mask, before=before, within=tolerance_mm)

    def once(number):
        if number not in made:
            made[number] = make(number)
        return made[number]

    return once


def holds_landmark(path, case):
    """The file gives the very voxels, and their centre within 0.01 mm of the mask's."""
    found, (centre,) = read_back(path, case.source.grid)
    assert np.array_equal(found[..., 0], case.mask)
    expected = case.source.grid.index_to_mm(np.argwhere(case.mask).mean(axis=0)) * (-1, -1, 1)
    assert np.abs(centre - expected).max() < 0.01
    assert np.abs(centre - case.before).max() < case.within


@pytest.mark.parametrize("number", range(len(ALL)))
def test_a_landmark_survives_every_orientation(landmark_seg, number):
    assert len(ALL) >= 29
    case = landmark_seg(number)
    holds_landmark(case.path, case)
    itk = sitk.GetArrayFromImage(sitk.ReadImage(str(case.path))) > 0  # frames, in their order
    frames = pydicom.dcmread(case.path).PerFrameFunctionalGroupsSequence
    assert len(itk) == len(frames)
    for pixels, frame in zip(itk, frames, strict=True):
        position = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        plane = round(float(case.source.grid.mm_to_index(position * (-1, -1, 1))[0]))
        assert np.array_equal(pixels, case.mask[plane])


def test_orthanc_gives_every_orientation_back(landmark_seg, orthanc, tmp_path):
    """Stored over DICOMweb, downloaded as a file by Orthanc's own interface and unpacked frame by frame by Orthanc."""
    cases = {str(pydicom.dcmread(landmark_seg(n).path).SOPInstanceUID): landmark_seg(n) for n in range(len(ALL))}
    assert len(cases) == len(ALL)
    for uid, case in cases.items():
        shutil.copy(case.path, tmp_path / f"{uid}.dcm")
    assert send(tmp_path, orthanc.web, show_progress=False).failed == {}
    seen = set()
    for name in orthanc.stored():
        downloaded = tmp_path / "downloaded.dcm"
        downloaded.write_bytes(orthanc.rest(f"/instances/{name}/file"))
        uid = str(pydicom.dcmread(downloaded).SOPInstanceUID)
        holds_landmark(downloaded, cases[uid])
        seen.add(uid)
    assert seen == set(cases)


def three(shape=SHAPE):
    a, b, none = landmark(shape), np.zeros(shape, bool), np.zeros(shape, bool)
    b[2:, 1:3, 1:8] = True
    return a, b, none


def test_segments_overlap_are_described_and_empty_ones_stated(tmp_path, axial, algorithm, errors_of):
    a, b, none = three()
    prompts = ["left kidney", "FDG-avid nodule in the right lung", "liver"]
    made = write_dicom_seg(
        tmp_path / "seg.dcm", axial,
        [segment(a, prompts[0], probability=0.75), segment(b, prompts[1]),
         segment(none, prompts[2], state="not in field of view", probability=0.01)],
        algorithm, CREATED,
    )  # fmt: skip
    assert errors_of(tmp_path / "seg.dcm") == []
    found, _ = read_back(tmp_path / "seg.dcm", axial.grid)
    assert np.array_equal(found, np.stack([a, b, none], axis=-1))
    stored = pydicom.dcmread(tmp_path / "seg.dcm")
    assert stored.SegmentsOverlap == "YES"
    assert made.overlap
    assert made.kind == stored.SegmentationType == "BINARY"
    assert [s.voxels for s in made.segments] == [a.sum(), b.sum(), 0]
    assert [s.frames for s in made.segments] == [a.any(axis=(1, 2)).sum(), 4, 0]
    assert made.messages == ("1 of 3 segments are empty: liver (not in field of view)",)
    kidney, nodule, liver = stored.SegmentSequence
    assert [s.SegmentLabel for s in stored.SegmentSequence] == [*prompts[:2], "liver (not in field of view)"]
    assert [s.SegmentDescription for s in stored.SegmentSequence] == prompts
    assert kidney.SegmentedPropertyTypeCodeSequence[0].CodeValue == "64033007"
    side = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert (side.CodeValue, side.CodeMeaning) == ("7771000", "Left")
    assert nodule.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Nodule"
    assert nodule.AnatomicRegionSequence[0].CodeMeaning == "Lung"
    assert nodule.AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0].CodeMeaning == "Right"
    model = kidney.SegmentationAlgorithmIdentificationSequence[0]
    assert model.AlgorithmName == "vol3d"
    assert model.AlgorithmVersion == "0.1.0 weights c0ffee000000"
    said = "weights_sha256=c0ffee" + "0" * 58 + ",mask_threshold=0.5,state=present,probability=0.75"
    assert model.AlgorithmParameters == said
    assert "state=not in field of view" in liver.SegmentationAlgorithmIdentificationSequence[0].AlgorithmParameters
    assert [s.TrackingUID for s in stored.SegmentSequence] == [s.tracking_uid for s in made.segments]


def test_frames_refer_to_the_images_they_lie_on(tmp_path, make_series, algorithm):
    def uneven(index, dataset):  # a seam between bed positions: within what counts as regular
        z = float(dataset.ImagePositionPatient[2])
        dataset.ImagePositionPatient[2] = f"{z + 0.05 * (index == 3):.6f}"

    source = read_source(make_series(tmp_path / "ct", lps_grid(ALL[0]), uneven))
    a, b, _ = three()
    write_dicom_seg(tmp_path / "seg.dcm", source, [segment(a), segment(b, "x")], algorithm, CREATED)
    stored = pydicom.dcmread(tmp_path / "seg.dcm")
    images = {plane.image.SOPInstanceUID: plane.image for plane in source.planes}
    order = []
    for frame in stored.PerFrameFunctionalGroupsSequence:
        refers_to = frame.DerivationImageSequence[0].SourceImageSequence[0]
        image = images[refers_to.ReferencedSOPInstanceUID]
        assert refers_to.ReferencedSOPClassUID == image.SOPClassUID
        assert frame.PlanePositionSequence[0].ImagePositionPatient == image.ImagePositionPatient
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        index = list(frame.FrameContentSequence[0].DimensionIndexValues)
        assert index[0] == number
        order.append(index)
    assert order == sorted(order)
    assert len({tuple(i) for i in order}) == stored.NumberOfFrames == len(order)
    assert sorted({i[1] for i in order}) == list(range(1, 6))  # planes 1 to 5 of the source, without gaps
    measures = stored.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(measures.SpacingBetweenSlices) == pytest.approx(source.grid.spacing_mm[0])
    assert stored.FrameOfReferenceUID == source.header.FrameOfReferenceUID
    assert stored.ReferencedSeriesSequence[0].SeriesInstanceUID == source.series_uid
    assert stored.StudyInstanceUID == source.header.StudyInstanceUID


def test_labelmaps_are_smaller_and_only_for_disjoint_masks(tmp_path, axial, algorithm):
    a, b, none = three()
    apart = b & ~a
    wanted = [segment(a), segment(none, "spleen", state="absent"), segment(apart, "x")]
    made = write_dicom_seg(tmp_path / "l.dcm", axial, wanted, algorithm, CREATED, labelmap=True)
    assert made.kind == "LABELMAP"
    stored = hd.seg.segread(tmp_path / "l.dcm")
    assert stored.segment_numbers == [1, 2, 3]
    assert stored.NumberOfFrames == 5
    found, _ = read_back(tmp_path / "l.dcm", axial.grid)
    assert np.array_equal(found, np.stack([a, none, apart], axis=-1))
    made = write_dicom_seg(tmp_path / "b.dcm", axial, [segment(a), segment(b, "x")], algorithm, CREATED, labelmap=True)
    assert made.kind == "BINARY"
    assert made.messages == ("segments overlap, which a LABELMAP cannot hold: written as BINARY",)
    assert np.array_equal(read_back(tmp_path / "b.dcm", axial.grid)[0], np.stack([a, b], axis=-1))


def test_more_than_255_segments_in_a_labelmap(tmp_path, axial, algorithm):
    masks = np.arange(np.prod(SHAPE)).reshape(SHAPE)
    segments = [segment(masks == i, f"part {i}") for i in range(300)]
    write_dicom_seg(tmp_path / "l.dcm", axial, segments, algorithm, CREATED, labelmap=True)
    stored = hd.seg.segread(tmp_path / "l.dcm")
    assert stored.BitsAllocated == 16
    volume = stored.get_volume(combine_segments=True)  # one by one, highdicom 0.28 wraps numbers at 256
    expected = np.where(masks < 300, masks + 1, 0)
    assert np.array_equal(volume.array, expected[4::-1])  # highdicom's slices run against the normal
    assert np.allclose(volume.affine[:3, 3], axial.planes[4].position_lps_mm)


@pytest.mark.parametrize("labelmap", [False, True])
def test_nothing_found_is_a_valid_answer(tmp_path, axial, algorithm, errors_of, labelmap):
    none = np.zeros(SHAPE, np.uint8)
    segments = [segment(none, "liver", state="absent"), segment(none, "spleen")]
    made = write_dicom_seg(tmp_path / "s.dcm", axial, segments, algorithm, CREATED, labelmap=labelmap)
    stored = hd.seg.segread(tmp_path / "s.dcm")
    assert not stored.pixel_array.any()
    assert [s.label for s in made.segments] == ["liver (absent)", "spleen (empty)"]
    assert [stored.get_segment_description(n).SegmentLabel for n in (1, 2)] == [s.label for s in made.segments]
    if not labelmap:
        assert stored.NumberOfFrames == 1
        assert errors_of(tmp_path / "s.dcm") == []


def test_the_same_answers_are_the_same_object(tmp_path, axial, algorithm):
    a, b, _ = three()
    uids = []
    for name, mask, created in (
        ("1", a, CREATED),
        ("2", a, CREATED),
        ("3", b, CREATED),
        ("4", a, CREATED.replace(hour=9)),
    ):
        for labelmap in (False, True):
            path = tmp_path / f"{name}{labelmap}.dcm"
            made = write_dicom_seg(path, axial, [segment(mask)], algorithm, created, labelmap=labelmap)
            uids.append(made.sop_instance_uid)
            assert str(pydicom.dcmread(path).ContentDate) == "20260304"
    for labelmap in (False, True):
        assert (tmp_path / f"1{labelmap}.dcm").read_bytes() == (tmp_path / f"2{labelmap}.dcm").read_bytes()
    assert uids[:2] == uids[2:4]
    assert len(set(uids)) == 6
    assert all(len(uid) <= 64 for uid in uids)


def test_identity_is_carried_and_never_logged(tmp_path, make_series, algorithm, caplog, capfd, errors_of, monkeypatch):
    caplog.set_level(logging.DEBUG)
    validation = pydicom.config.settings
    monkeypatch.setattr(validation, "_writing_validation_mode", pydicom.config.IGNORE)
    folder = make_series(
        tmp_path / "ct", lps_grid(ALL[0]), patient=PATIENT | {"PatientSex": "GEHEIM", "PatientBirthDate": "geheim"}
    )
    monkeypatch.undo()
    caplog.clear()
    source = read_source(folder)
    made = write_dicom_seg(tmp_path / "s.dcm", source, [segment(landmark(SHAPE), "Läsion 肝臓")], algorithm, CREATED)
    stored = pydicom.dcmread(tmp_path / "s.dcm")
    assert str(stored.PatientName) == "Müller^Zoë"
    assert stored.PatientID == "geheim-77"
    assert stored.SpecificCharacterSet == "ISO_IR 192"
    assert stored.SegmentSequence[0].SegmentLabel == "Läsion 肝臓"
    assert stored.PatientSex in (None, "")
    assert made.messages == ("left empty, because the source's value is not a valid one: PatientBirthDate, PatientSex",)
    assert errors_of(tmp_path / "s.dcm") == []
    shown = caplog.text + "".join(capfd.readouterr())
    assert "geheim" not in shown.lower()
    assert "ller" not in shown


def test_labels_are_short_plain_and_different(tmp_path, axial, algorithm, errors_of):
    long = "a very long description of a lesion that somebody saw in the caudal part of the left lower lobe \\ 2nd line"
    a = landmark(SHAPE)
    prompts = [long, long, "é" * 64, long + "x" * 900]
    made = write_dicom_seg(tmp_path / "s.dcm", axial, [segment(a, p) for p in prompts], algorithm, CREATED)
    assert errors_of(tmp_path / "s.dcm") == []
    stored = pydicom.dcmread(tmp_path / "s.dcm")
    labels = [s.SegmentLabel for s in stored.SegmentSequence]
    assert labels == [s.label for s in made.segments]
    assert len(set(labels)) == 4
    assert all(len(label.encode()) <= 64 and "\\" not in label for label in labels)
    assert labels[1].endswith("... #2")
    assert [s.SegmentDescription for s in stored.SegmentSequence] == prompts
    with pytest.raises(Vol3dError, match="at most 1024 characters"):
        write_dicom_seg(tmp_path / "t.dcm", axial, [segment(a, "y" * 1025)], algorithm, CREATED)
    assert not (tmp_path / "t.dcm").exists()


def test_multi_frame_sources(tmp_path, make_series, algorithm):
    grid = lps_grid(ALL[0])
    folder = make_series(tmp_path / "ct", grid)
    slices = [pydicom.dcmread(path) for path in sorted(folder.iterdir())]
    shuffled = [slices[i] for i in (2, 0, 5, 1, 4, 3)]
    enhanced = hd.legacy.LegacyConvertedEnhancedCTImage(shuffled, hd.UID(), 7, hd.UID(), 1)
    enhanced.save_as(tmp_path / "enhanced.dcm")
    source = read_source(tmp_path / "enhanced.dcm")
    assert source.grid.same_as(grid, 1e-4)
    a, b, _ = three()
    write_dicom_seg(tmp_path / "s.dcm", source, [segment(a), segment(b, "x")], algorithm, CREATED)
    assert np.array_equal(read_back(tmp_path / "s.dcm", source.grid)[0], np.stack([a, b], axis=-1))
    for frame in pydicom.dcmread(tmp_path / "s.dcm").PerFrameFunctionalGroupsSequence:
        number = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        there = enhanced.PerFrameFunctionalGroupsSequence[number - 1].PlanePositionSequence[0]
        assert frame.PlanePositionSequence[0].ImagePositionPatient == there.ImagePositionPatient


def test_masks_in_any_order_of_axes_are_turned_not_resampled():
    source = lps_grid(ALL[-1])
    mask = landmark(SHAPE)
    for order in itertools.permutations(range(3)):
        for flips in itertools.chain.from_iterable(itertools.combinations(range(3), n) for n in range(4)):
            turned = np.flip(mask.transpose(order), flips)
            assert np.array_equal(on_source(turned, source.permute(order).flip(flips), source), mask)
    with pytest.raises(GeometryError, match="grid of the source series"):
        on_source(mask, source.resample((3.0, 1.25, 0.76)), source)
    with pytest.raises(GeometryError, match="its grid's shape"):
        on_source(mask[1:], source, source)


def test_what_cannot_be_exported_is_refused(tmp_path, make_series, axial, algorithm, monkeypatch):
    with pytest.raises(GeometryError, match="source's shape"):
        write_dicom_seg(tmp_path / "s.dcm", axial, [segment(landmark((6, 7, 10)))], algorithm, CREATED)
    with pytest.raises(Vol3dError, match="at least one mask"):
        write_dicom_seg(tmp_path / "s.dcm", axial, [], algorithm, CREATED)
    monkeypatch.setattr(dicom_frames, "MAX_BYTES", 10)
    with pytest.raises(Vol3dError, match="ask for a LABELMAP"):
        write_dicom_seg(tmp_path / "s.dcm", axial, [segment(np.ones(SHAPE, bool))], algorithm, CREATED)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ct"]  # no half file, no spool
    with pytest.raises(ReadError, match="found nothing"):
        read_source(tmp_path / "nowhere")

    def homeless(_, dataset):
        del dataset.FrameOfReferenceUID

    with pytest.raises(ReadError, match="FrameOfReferenceUID"):
        read_source(make_series(tmp_path / "lost", lps_grid(ALL[0]), homeless))


@pytest.fixture(scope="module")
def real(data_dir):
    folder = data_dir / "totalsegmentator"
    labels = nibabel.load(folder / "example_seg_dicom.nii.gz")
    x, y, z = labels.shape
    source = read_source(folder / "example_ct_dicom")
    array = on_source(
        np.asarray(labels.dataobj).transpose(2, 1, 0), Grid.from_xyz((x, y, z), labels.affine), source.grid
    )
    return SimpleNamespace(source=source, labels=array, values=[int(v) for v in np.unique(array) if v])


@pytest.mark.parametrize("labelmap", [False, True])
def test_real_organs_come_back_voxel_for_voxel(tmp_path, real, algorithm, errors_of, labelmap):
    segments = [segment(real.labels == value, f"class {value}") for value in real.values]
    made = write_dicom_seg(tmp_path / "s.dcm", real.source, segments, algorithm, CREATED, labelmap=labelmap)
    assert "the source has no StudyInstanceUID and no SeriesInstanceUID: made up from its images" in made.messages
    found, _ = read_back(tmp_path / "s.dcm", real.source.grid)
    for i, value in enumerate(real.values):
        assert np.array_equal(found[..., i], real.labels == value)
    if not labelmap:
        assert errors_of(tmp_path / "s.dcm") == []
    spacing = pydicom.dcmread(tmp_path / "s.dcm").SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert float(spacing.SliceThickness) == pytest.approx(2.0)  # the tag of the source says 3

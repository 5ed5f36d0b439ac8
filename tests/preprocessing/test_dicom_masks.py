"""Contours and segments -> voxels, against masks drawn by hand."""

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from preprocessing.phantom import PhantomOptions, write_phantoms
from preprocessing.read_dicom_masks import DrawnOn, read_dicom_mask, read_segments
from preprocessing.reading import read_image
from preprocessing.rtstruct import rasterise, read_contours, read_structures
from vol3d.errors import GeometryError, ReadError
from vol3d.geometry import Grid

GRID = Grid.from_lps((5, 12, 10), np.array([[0, 0, 2.0, -9], [0, 2.0, 0, -11], [3.0, 0, 0, 30], [0, 0, 0, 1]]))
"""An axial series: column x lies at -9 + 2x mm, row y at -11 + 2y mm, slice z at 30 + 3z mm (LPS)."""


def contour(points, z=2):
    """Index points (x, y) of slice `z` in LPS mm."""
    return np.array([(-9 + 2 * x, -11 + 2 * y, 30 + 3 * z) for x, y in points], float)


def box(x0, y0, x1, y1, **where):
    return contour([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], **where)


def drawn(*contours):
    mask = rasterise(contours, GRID)
    assert mask.dtype == np.uint8
    return mask


def test_centres_inside_are_members():
    mask = drawn(box(1.5, 2.5, 4.5, 6.5))
    wanted = np.zeros(GRID.shape)
    wanted[2, 3:7, 2:5] = 1
    np.testing.assert_array_equal(mask, wanted)


def test_any_direction_and_any_start():
    points = box(1.5, 2.5, 4.5, 6.5)
    for other in (points[::-1], np.roll(points, 1, axis=0), np.concatenate([points, points[:1]])):
        np.testing.assert_array_equal(drawn(other), drawn(points))


def test_a_triangle_by_hand():
    mask = drawn(contour([(0.5, 0.5), (6.5, 0.5), (0.5, 6.5)]))[2]  # centres with x + y < 7, x and y from 1
    y, x = np.mgrid[:12, :10]
    np.testing.assert_array_equal(mask, (x >= 1) & (y >= 1) & (x + y < 7))


def test_edges_through_centres_are_shared_out_once():
    """Half-open: of two boxes that share an edge through centres, one has them."""
    left, right = drawn(box(1, 1, 4, 8)), drawn(box(4, 1, 8, 8))
    assert not (left & right).any()
    np.testing.assert_array_equal(left | right, drawn(box(1, 1, 8, 8)))
    assert drawn(box(1, 1, 8, 8)).sum() == 7 * 7


@pytest.mark.parametrize(
    "hole",
    [
        [box(0.5, 0.5, 8.5, 8.5), box(3.5, 3.5, 5.5, 5.5)],
        [contour([(0.5, 0.5), (8.5, 0.5), (8.5, 8.5), (4.3, 8.5), (4.3, 5.5), (5.5, 5.5), (5.5, 3.5), (3.5, 3.5),
                  (3.5, 5.5), (4.3, 5.5), (4.3, 8.5), (0.5, 8.5)])],
    ],
    ids=["a contour in another", "keyhole"],
)  # fmt: skip
def test_holes(hole):
    wanted = np.zeros(GRID.shape[1:])
    wanted[1:9, 1:9] = 1
    wanted[4:6, 4:6] = 0
    np.testing.assert_array_equal(drawn(*hole)[2], wanted)


def test_beyond_the_picture_is_cut():
    assert drawn(box(-5.5, -5.5, 20.5, 20.5)).sum() == 120
    assert drawn(box(7.5, 1.5, 30.5, 3.5)).sum() == 2 * 2


def test_a_random_polygon_against_matplotlib():
    from matplotlib.path import Path

    grid = Grid.from_lps((3, 40, 50), np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]])
    rng = np.random.default_rng(4)
    angle = np.sort(rng.uniform(0, 2 * np.pi, 60))
    radius = rng.uniform(5, 18, 60)
    points = np.stack([25 + radius * np.cos(angle), 20 + radius * np.sin(angle), np.ones(60)], axis=1)
    y, x = np.mgrid[:40, :50]
    wanted = Path(points[:, :2]).contains_points(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(40, 50)
    np.testing.assert_array_equal(rasterise([points], grid)[1], wanted)


def test_off_the_slices_is_refused():
    with pytest.raises(GeometryError, match=r"1\.50 mm off.*drawn on another series"):
        drawn(box(1, 1, 4, 4, z=1.5))
    with pytest.raises(GeometryError, match="5 slices, found one at index 7"):
        drawn(box(1, 1, 4, 4, z=7))


def test_contours_that_leave_out_slices():
    with pytest.raises(GeometryError, match=r"on every 2\. slice or fewer: .* interpolated"):
        drawn(*(box(1, 1, 4, 4, z=z) for z in (0, 2, 4)))
    assert drawn(*(box(1, 1, 4, 4, z=z) for z in (0, 1, 4))).any(axis=(1, 2)).tolist() == [
        True,
        True,
        False,
        False,
        True,
    ]


def test_a_contour_beside_the_picture_is_refused():
    with pytest.raises(
        GeometryError, match="within the series' 12 rows and 10 columns, found one at rows 2 to 4, colum"
    ):
        drawn(box(40, 2, 44, 4))


def test_a_region_between_centres_keeps_its_nearest_voxel():
    """An empty mask would say that the lesion is absent."""
    mask = drawn(box(3.1, 5.1, 3.4, 5.3))
    assert np.argwhere(mask).tolist() == [[2, 5, 3]]


# -- files ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    options = PhantomOptions(ct_spacing_mm=(8.0, 8.0), pet_spacing_mm=((14.0, 14.0, 14.0),))
    write_phantoms(folder, 1, 5, "dicom", options=options)
    return read_image(next(folder.glob("phantom*/ct")), "ct")


def structure_set(path, source, contours, series_uid=None, kind="CLOSED_PLANAR"):
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = RTStructureSetStorage, generate_uid()
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = series_uid or source.SeriesInstanceUID
    study.RTReferencedSeriesSequence = Sequence([series])
    frame.FrameOfReferenceUID, frame.RTReferencedStudySequence = source.FrameOfReferenceUID, Sequence([study])
    ds.ReferencedFrameOfReferenceSequence = Sequence([frame])
    roi, item = Dataset(), Dataset()
    roi.ROINumber, roi.ROIName = 7, "GTV"
    item.ReferencedROINumber, item.ContourSequence = 7, Sequence()
    for points in contours:
        one = Dataset()
        one.ContourGeometricType, one.NumberOfContourPoints = kind, len(points)
        one.ContourData = [f"{v:.4f}" for v in np.ravel(points)]
        item.ContourSequence.append(one)
    ds.StructureSetROISequence, ds.ROIContourSequence = Sequence([roi]), Sequence([item])
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    pydicom.dcmwrite(path, ds, enforce_file_format=True)


def square(grid, z):
    corners = grid.index_to_mm([(z, 1.5, 2.5), (z, 1.5, 6.5), (z, 8.5, 6.5), (z, 8.5, 2.5)])
    return corners * [-1, -1, 1]


def test_structures_on_the_image_they_name(ct, tmp_path):
    source = pydicom.dcmread(ct.files[0])
    image = {"ct": DrawnOn(ct.volume.grid, ct.files)}
    points = square(ct.volume.grid, 4)
    structure_set(tmp_path / "rt.dcm", source, [points, points])  # exported twice: still one square
    assert [(r.number, r.name, r.closed) for r in read_structures(tmp_path / "rt.dcm").regions] == [(7, "GTV", 2)]
    mask = read_dicom_mask(tmp_path / "rt.dcm", None, image)
    assert (mask.array_ZYX.sum(), mask.array_ZYX[4, 2:9, 3:7].sum()) == (28, 28)
    structure_set(tmp_path / "elsewhere.dcm", source, [points], series_uid=generate_uid())
    assert read_dicom_mask(tmp_path / "elsewhere.dcm", 7, image).array_ZYX.sum() == 28  # by its frame of reference
    source.FrameOfReferenceUID = generate_uid()
    structure_set(tmp_path / "foreign.dcm", source, [points], series_uid=generate_uid())
    with pytest.raises(GeometryError, match="another series and coordinate system"):
        read_dicom_mask(tmp_path / "foreign.dcm", 7, image)
    with pytest.raises(ReadError, match="expected region 2, found 7"):
        read_dicom_mask(tmp_path / "rt.dcm", 2, image)
    structure_set(tmp_path / "points.dcm", source, [points], kind="POINT")
    with pytest.raises(ReadError, match="points and lines enclose no volume"):
        read_contours(tmp_path / "points.dcm", 7)


def segmentation(path, source_files, mask_ZYX):
    images = [pydicom.dcmread(f) for f in source_files]
    described = highdicom.seg.SegmentDescription(
        1, "tumour", codes.SCT.Tissue, codes.SCT.Tissue, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL
    )
    seg = highdicom.seg.Segmentation(
        images, mask_ZYX[..., None], highdicom.seg.SegmentationTypeValues.BINARY, [described], generate_uid(), 9,
        generate_uid(), 1, "maker", "model", "1", "serial", omit_empty_frames=True,
    )  # fmt: skip
    seg.save_as(path)


def test_a_segment_of_a_part_of_the_slices(ct, tmp_path):
    """Empty frames are left out of the file: the mask still comes back on the whole grid of its image."""
    wanted = np.zeros(ct.volume.grid.shape, np.uint8)
    wanted[5:9, 10:14, 3:9] = 1
    wanted[7, 11, 5] = 0
    segmentation(tmp_path / "seg.dcm", ct.files, wanted)
    assert [(s.number, s.label) for s in read_segments(tmp_path / "seg.dcm")] == [(1, "tumour")]
    image = {"ct": DrawnOn(ct.volume.grid, ct.files)}
    found = read_dicom_mask(tmp_path / "seg.dcm", 1, image)
    assert found.grid.same_as(ct.volume.grid)
    np.testing.assert_array_equal(found.array_ZYX, wanted)
    moved = Grid.from_lps(ct.volume.grid.shape, ct.volume.grid.affine_lps + np.array([[0, 0, 0, 2.0]] + [[0] * 4] * 3))
    with pytest.raises(GeometryError, match=r"found them 2\.00 mm apart"):
        read_dicom_mask(tmp_path / "seg.dcm", 1, {"ct": DrawnOn(moved, ct.files)})


@pytest.mark.parametrize("again", [lambda p: p, lambda p: p[::-1], lambda p: np.roll(p, 2, axis=0),
                                   lambda p: np.concatenate([p, p[:1]])],
                         ids=["same", "other sense", "other start", "closed"])  # fmt: skip
def test_a_contour_that_is_there_twice_does_not_cancel_out(ct, tmp_path, again):
    source = pydicom.dcmread(ct.files[0])
    x, y, z = (float(v) for v in source.ImagePositionPatient)
    points = np.array([(x + 20, y + 20, z), (x + 90, y + 20, z), (x + 90, y + 80, z), (x + 40, y + 80, z)])
    structure_set(tmp_path / "once.dcm", source, [points])
    structure_set(tmp_path / "twice.dcm", source, [points, again(points)])
    images = {"ct": DrawnOn(ct.volume.grid, ct.files)}
    once, twice = (read_dicom_mask(tmp_path / f"{n}.dcm", 7, images).array_ZYX for n in ("once", "twice"))
    assert once.any()
    np.testing.assert_array_equal(once, twice)

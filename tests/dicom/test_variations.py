"""Random variations of small CT and PET series, each with its known volume and grid or its known fault.

A sound series must come back voxel for voxel on its exact grid; a faulty one must be refused with a message that names
the fault. `python tests/dicom/test_variations.py 2000 7` prints the table of 2000 variations from seed 7.
"""

import re
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmwrite
from pydicom import uid as uids
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.valuerep import format_number_as_ds
from scipy.spatial.transform import Rotation

from preprocessing.options import PetSupplement, ReadOptions
from preprocessing.reading import read_image
from vol3d.errors import Vol3dError

COUNT = 720
NATIVE = (uids.ImplicitVRLittleEndian, uids.ExplicitVRLittleEndian, uids.ExplicitVRBigEndian,
          uids.DeflatedExplicitVRLittleEndian)  # fmt: skip
PACKED = (uids.RLELossless, uids.JPEG2000Lossless, uids.JPEGLSLossless, uids.JPEGLosslessSV1)
OPTIONAL = ("SliceThickness", "SliceLocation", "SpacingBetweenSlices", "InstanceNumber", "ImageType", "RescaleType",
            "PatientPosition", "FrameOfReferenceUID", "SeriesInstanceUID", "GantryDetectorTilt", "HighBit")  # fmt: skip
F18_S, WEIGHT_KG, DOSE_BQ = 6586.2, 70.0, 3.5e8


@dataclass
class Series:
    """What a scanner would know: values, places, and how they are stored."""

    rng: np.random.Generator
    modality: str
    stored: list[np.ndarray]
    slopes: np.ndarray
    intercepts: np.ndarray
    row: np.ndarray
    column: np.ndarray
    spacing: tuple[float, float, float]
    along: np.ndarray
    origin: np.ndarray
    bits: int
    signed: bool
    syntax: uids.UID
    decimals: int = 8
    shear: np.ndarray = field(default_factory=lambda: np.zeros(3))
    enhanced: bool = False
    tags: dict = field(default_factory=dict)
    """Attributes of every slice; None removes."""
    slice_tags: dict = field(default_factory=dict)
    """The same for single slices, by index."""
    options: ReadOptions = field(default_factory=ReadOptions)
    after: list = field(default_factory=list)
    """Done to the folder once written."""

    @property
    def normal(self):
        return np.cross(self.row, self.column)

    def positions(self):
        return self.origin + np.outer(self.along, self.normal + self.shear)

    def truth(self):
        """Values [Z, Y, X] from first to last along the normal, and the affine (z, y, x) to LPS."""
        scale = WEIGHT_KG * 1000 / (DOSE_BQ * 2 ** (-3600 / F18_S)) if self.modality == "PT" else 1.0
        values = [(s * k + b) * scale for s, k, b in zip(self.stored, self.slopes, self.intercepts, strict=True)]
        step = (self.along[-1] - self.along[0]) / (len(self.along) - 1)
        affine = np.eye(4)
        axes = (self.normal * step, self.column * self.spacing[1], self.row * self.spacing[2])
        affine[:3, :3] = np.stack(axes, axis=1)
        affine[:3, 3] = self.origin + self.normal * self.along[0]
        return np.array(values), affine


def draw(rng):
    """A sound series; every property but its faults is drawn."""
    modality = str(rng.choice(["CT", "PT"]))
    bits, signed = int(rng.choice([12, 16, 32])), bool(rng.integers(2))
    syntax = NATIVE[rng.integers(4)] if bits != 16 or rng.integers(2) else PACKED[rng.integers(4)]
    depth, rows, columns = int(rng.integers(4, 9)), int(rng.integers(9, 15)), int(rng.integers(9, 14))
    if syntax == uids.JPEG2000Lossless:
        rows, columns = rows + 24, columns + 24  # OpenJPEG's five levels need 32 pixels
    axes = np.eye(3)[rng.permutation(3)] * rng.choice([-1, 1], 3)[:, None]
    if rng.integers(3) == 0:
        axes = Rotation.random(random_state=int(rng.integers(1 << 30))).as_matrix()
    if modality == "CT":
        intercept = 0 if signed else -1024
        hu = rng.integers(-120, 900, (depth, rows, columns))
        hu[:, : rows // 3] = rng.integers(-1015, -985, (depth, rows // 3, columns))
        stored, slopes, intercepts = hu - intercept, np.ones(depth), np.full(depth, float(intercept))
    else:
        stored = rng.integers(0, 2000, (depth, rows, columns))
        slopes, intercepts = np.round(rng.uniform(0.5, 5, depth), 6), np.zeros(depth)
    dtype = np.dtype(f"{'i' if signed else 'u'}{4 if bits == 32 else 2}")
    return Series(
        rng=rng, modality=modality, stored=[s.astype(dtype) for s in stored], slopes=slopes, intercepts=intercepts,
        row=axes[0], column=axes[1], spacing=tuple(np.round(rng.uniform(0.6, 4, 3), 3)),
        along=np.zeros(0), origin=np.round(rng.uniform(-300, 300, 3), 2), bits=bits, signed=signed,
        syntax=syntax,
    )  # fmt: skip


def at_regular_places(s):
    return replace(s, along=np.arange(len(s.stored)) * s.spacing[0])


# -- writing ---------------------------------------------------------------------------------------------------------


def ds(values):
    return [format_number_as_ds(float(v)) for v in np.atleast_1d(values)]


def place(s, i):
    return {
        "ImagePositionPatient": ds(np.round(s.positions()[i], s.decimals)),
        "ImageOrientationPatient": ds(np.round([*s.row, *s.column], 12)),
        "PixelSpacing": ds(s.spacing[1:]),
    }


def header(s, number):
    d = Dataset()
    kind = {("CT", 0): uids.CTImageStorage, ("PT", 0): uids.PositronEmissionTomographyImageStorage,
            ("CT", 1): uids.EnhancedCTImageStorage, ("PT", 1): uids.EnhancedPETImageStorage}  # fmt: skip
    d.SOPClassUID, d.SOPInstanceUID = kind[s.modality, int(s.enhanced)], f"1.2.3.4.{number}"
    d.Modality, d.SeriesInstanceUID, d.FrameOfReferenceUID = s.modality, "1.2.3.4", "1.2.3.5"
    d.ImageType, d.InstanceNumber, d.PatientPosition = ["ORIGINAL", "PRIMARY"], number, "HFS"
    d.SliceThickness, d.SliceLocation, d.SpacingBetweenSlices = "9.9", "-1", "7"
    d.Rows, d.Columns = s.stored[0].shape
    d.SamplesPerPixel, d.PhotometricInterpretation = 1, "MONOCHROME2"
    d.BitsAllocated, d.BitsStored, d.HighBit = 8 * s.stored[0].itemsize, s.bits, s.bits - 1
    d.PixelRepresentation = int(s.signed)
    if s.modality == "PT":
        isotope = Dataset()
        isotope.RadiopharmaceuticalStartTime, isotope.RadionuclideTotalDose = "233000", DOSE_BQ
        isotope.RadionuclideHalfLife = F18_S
        d.RadiopharmaceuticalInformationSequence = Sequence([isotope])
        d.PatientWeight, d.Units, d.DecayCorrection, d.CorrectedImage = WEIGHT_KG, "BQML", "START", ["ATTN", "DECY"]
        d.SeriesDate = d.AcquisitionDate = "20240102"
        d.SeriesTime = d.AcquisitionTime = "003000"  # injected the evening before
    return d


def amend(d, tags):
    for keyword, value in tags.items():
        target = d
        if keyword not in d and "RadiopharmaceuticalInformationSequence" in d:
            inside = d.RadiopharmaceuticalInformationSequence[0]
            target = inside if keyword in inside else d
        if value is None:
            if keyword in target:
                delattr(target, keyword)
        else:
            setattr(target, keyword, value)


def pixels(s, i):
    mask = (1 << s.bits) - 1
    return (s.stored[i].astype(np.int64) & mask).astype(f"u{s.stored[i].itemsize}")


def save(s, d, path, words, tags):
    """One Part 10 file; `words` are unsigned, [frames,] rows, columns; `tags` amend what an encoder had to know."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = d.SOPClassUID, d.SOPInstanceUID
    meta.TransferSyntaxUID = s.syntax
    d.file_meta = meta
    order = ">" if s.syntax == uids.ExplicitVRBigEndian else "<"
    d.PixelData = words.astype(f"{order}u{words.itemsize}").tobytes()
    d["PixelData"].VR = "OW"
    if s.syntax == uids.JPEGLosslessSV1:
        d.PixelData, d["PixelData"].is_undefined_length = jpeg_lossless(s, words), True
        d["PixelData"].VR = "OB"
    elif s.syntax in PACKED:
        d.file_meta.TransferSyntaxUID = uids.ExplicitVRLittleEndian
        d.compress(s.syntax, generate_instance_uid=False)
    amend(d, tags)
    dcmwrite(path, d, enforce_file_format=True)


def jpeg_lossless(s, words):
    """GDCM's encoder, through SimpleITK: the fragments of one frame."""
    import pydicom
    import SimpleITK as sitk  # noqa: N813

    with tempfile.NamedTemporaryFile(suffix=".dcm") as file:
        writer = sitk.ImageFileWriter()
        writer.SetImageIO("GDCMImageIO")
        writer.UseCompressionOn()
        writer.SetCompressor("JPEG")
        writer.SetFileName(file.name)
        writer.Execute(sitk.GetImageFromArray(words.astype("i2" if s.signed else "u2")[None]))
        return pydicom.dcmread(file.name).PixelData


def write(s, folder):
    if s.enhanced:
        write_enhanced(s, folder)
    else:
        names = s.rng.permutation(len(s.stored))
        for i in range(len(s.stored)):
            d = header(s, i + 1)
            d.RescaleSlope, d.RescaleIntercept = ds(s.slopes[i]), ds(s.intercepts[i])
            amend(d, place(s, i))
            save(s, d, folder / f"{names[i]:03}.dcm", pixels(s, i), s.tags | s.slice_tags.get(i, {}))
    for change in s.after:
        change(folder)


def item(**values):
    out = Dataset()
    for keyword, value in values.items():
        setattr(out, keyword, value)
    return Sequence([out])


def write_enhanced(s, folder):
    """Enhanced CT, and Enhanced PET with Real World Values in Bq/ml and its decay correction as a moment."""
    d = header(s, 1)
    frames = []
    for i in s.rng.permutation(len(s.stored)):
        at, g = place(s, i) | s.tags | s.slice_tags.get(int(i), {}), Dataset()
        slope, intercept = float(s.slopes[i]), float(s.intercepts[i])
        if at["ImagePositionPatient"] is not None:
            g.PlanePositionSequence = item(ImagePositionPatient=at["ImagePositionPatient"])
        g.PlaneOrientationSequence = item(ImageOrientationPatient=at["ImageOrientationPatient"])
        g.PixelMeasuresSequence = item(PixelSpacing=at["PixelSpacing"])
        if s.modality == "PT":
            unit = item(CodeValue="Bq/ml", CodingSchemeDesignator="UCUM", CodeMeaning="Becquerels/milliliter")
            g.RealWorldValueMappingSequence = item(
                RealWorldValueSlope=slope, RealWorldValueIntercept=intercept, MeasurementUnitsCodeSequence=unit
            )
            g.FrameContentSequence = item(FrameAcquisitionDateTime="20240102003500", FrameAcquisitionDuration=1e5)
            slope, intercept = 1.0, 0.0
        rescale = {"RescaleSlope": ds(slope), "RescaleIntercept": ds(intercept), "RescaleType": "HU"}
        g.PixelValueTransformationSequence = item(**rescale)
        frames.append((g, pixels(s, i)))
    if s.modality == "PT":
        amend(d, dict.fromkeys(("Units", "DecayCorrection", "CorrectedImage", "SeriesTime", "AcquisitionTime")))
        d.DecayCorrected = d.AttenuationCorrected = "YES"
        d.DecayCorrectionDateTime = "20240102003000"
    d.NumberOfFrames = len(frames)
    d.PerFrameFunctionalGroupsSequence = Sequence([g for g, _ in frames])
    d.SharedFunctionalGroupsSequence = Sequence([])
    tags = {k: v for k, v in s.tags.items() if k not in place(s, 0)}
    save(s, d, folder / "volume.dcm", np.array([words for _, words in frames]), tags)


# -- kinds: name -> (what it does to a regular series, what a refusal must say or None) --------------------------------


def native(s):
    return replace(s, syntax=NATIVE[s.rng.integers(4)])


def of(modality):
    """A regular series of one modality."""

    def make(s):
        while s.modality != modality:
            s = draw(s.rng)
        return at_regular_places(s)

    return make


def inner(s):
    """Index of a slice that is neither the first nor the last."""
    return int(s.rng.integers(1, len(s.stored) - 1))


def keep(s, kept):
    return replace(s, stored=[s.stored[i] for i in kept], along=s.along[kept], slopes=s.slopes[kept],
                   intercepts=s.intercepts[kept])  # fmt: skip


def absent_tags(s):
    gone = s.rng.choice(OPTIONAL, int(s.rng.integers(1, len(OPTIONAL) + 1)), replace=False)
    return replace(s, tags=dict.fromkeys(gone))


def per_slice_rescale(s):
    if s.modality == "CT":
        slopes = s.rng.choice([0.5, 1.0, 2.0, 0.25], len(s.stored))
        values = [(a * 1.0 + b) for a, b in zip(s.stored, s.intercepts, strict=True)]
        low = -1024.0 if not s.signed else 0.0
        stored = [np.rint((v - low) / k).astype(s.stored[0].dtype) for v, k in zip(values, slopes, strict=True)]
        wide = 16 if s.bits == 12 else s.bits  # a slope of a quarter needs two more bits
        return replace(
            s, stored=stored, slopes=slopes, intercepts=np.full(len(slopes), low), bits=wide, syntax=NATIVE[1]
        )
    return replace(s, slopes=np.round(s.rng.uniform(0.01, 900, len(s.stored)), 5))


def rounded(s):
    return replace(s, decimals=2, origin=np.round(s.origin, 2), along=np.round(s.along, 2))


def junk(s):
    def add(folder):
        (folder / "README.txt").write_text("not an image")
        first = next(folder.glob("*.dcm"))
        (folder / "copy.dcm").write_bytes(first.read_bytes())

    return replace(s, after=[add])


def other_series(s):
    other = at_regular_places(draw(s.rng))
    while other.modality == s.modality:
        other = at_regular_places(draw(s.rng))

    def add(folder):
        (folder / "other").mkdir()
        write(replace(native(other), tags={"SeriesInstanceUID": "1.9"}), folder / "other")

    return replace(s, after=[add])


def enhanced(s):
    return replace(native(s), enhanced=True)


def padding(s):
    """Corners hold the code that the header declares; they come back as air."""
    s = of("CT")(s)
    s = replace(s, signed=True, bits=16, intercepts=np.zeros(len(s.stored)), syntax=NATIVE[1],
                stored=[(a + b).astype("i2") for a, b in zip(s.stored, s.intercepts, strict=True)],
                tags={"PixelPaddingValue": -2000})  # fmt: skip
    for stored in s.stored:
        stored[:2, :2] = stored[:2, -2:] = stored[-2:, :2] = stored[-2:, -2:] = -2000
    return s


def ramp(s):
    """Values linear in space, which linear interpolation gives back exactly; stored so that they are whole numbers."""
    s = of("CT")(s)
    z, y, x = (np.arange(n) for n in (len(s.stored), *s.stored[0].shape))
    values = -600 + 40 * y[:, None] + 24 * x + 0 * z[:, None, None]
    return replace(s, signed=True, bits=16, syntax=NATIVE[1], intercepts=np.zeros(len(z)),
                   stored=list(values.astype("i2")))  # fmt: skip


def tilted(s):
    degrees = s.rng.uniform(2, 25) * s.rng.choice([-1, 1])
    direction = s.column if s.rng.integers(2) else s.row
    return replace(s, shear=direction * np.tan(np.radians(degrees)))


def tilt_corrected(s):
    return replace(tilted(ramp(s)), options=ReadOptions(tilt="correct"))


def uneven(s):
    steps = s.spacing[0] * np.where(np.arange(len(s.stored) - 1) < len(s.stored) // 2, 1.0, 1.43)
    return replace(s, along=np.concatenate([[0], np.cumsum(steps)]))


def spacing_resampled(s):
    s = uneven(ramp(s))
    stored = [(a + np.rint(30 * z)).astype("i2") for a, z in zip(s.stored, s.along, strict=True)]
    return replace(s, along=np.rint(30 * s.along) / 30, stored=stored, options=ReadOptions(spacing="resample"))


def supplied(s):
    lack = {"PatientWeight": None, "RadionuclideTotalDose": None, "RadiopharmaceuticalStartTime": None}
    pet = PetSupplement(weight_kg=WEIGHT_KG, dose_bq=DOSE_BQ, injected="2024-01-01 23:30:00")
    return replace(of("PT")(s), tags=lack, options=ReadOptions(pet=pet))


def missing(s):
    gone = inner(s)
    return keep(s, [i for i in range(len(s.stored)) if i != gone])


def duplicate(s):
    again, along = inner(s), s.along.copy()
    along[again] = along[again - 1]
    return replace(s, along=along)


def one_slice(**change):
    return lambda s: replace(s, slice_tags={inner(s): change})


def one_of(*changes):
    """One attribute, of a random choice, removed from a slice (None) or set on it."""

    def make(s):
        change = changes[s.rng.integers(len(changes))]
        return replace(s, slice_tags={inner(s): change})

    return make


def everywhere(**change):
    return lambda s: replace(s, tags=change)


def turned(s):
    return replace(s, slice_tags={inner(s): {"ImageOrientationPatient": ds([*s.column, *-s.row])}})


def displaced(s):
    i = inner(s)
    return replace(s, slice_tags={i: {"ImagePositionPatient": ds(s.positions()[i] + 2.5 * s.row)}})


def size_of_one(s):
    s, i = native(s), inner(s)
    s.stored[i] = s.stored[i][:, :-1].copy()
    return replace(s, slice_tags={i: {"Columns": s.stored[i].shape[1]}})


def truncated(s):
    def cut(folder):
        file = sorted(folder.glob("*.dcm"))[int(s.rng.integers(len(s.stored)))]
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * s.rng.uniform(0.15, 0.97))])

    return replace(s, after=[cut], syntax=NATIVE[s.rng.integers(2)])


def bare(s):
    def strip(folder):
        file = sorted(folder.glob("*.dcm"))[0]
        data = file.read_bytes()
        file.write_bytes(data[data.index(b"\x08\x00\x08\x00CS") :])

    return replace(s, after=[strip], syntax=uids.ExplicitVRLittleEndian)


def windowed(s):
    s = of("CT")(s)
    stored = [np.clip(a + b + 160, 0, 400).astype("i2") for a, b in zip(s.stored, s.intercepts, strict=True)]
    lift = -160.0 * s.rng.integers(2)
    return replace(s, stored=stored, intercepts=np.full(len(stored), lift), signed=True, bits=16, syntax=NATIVE[1])


def unscaled(s):
    s = of("CT")(s)
    stored = [(a + b + 1024).astype("u2") for a, b in zip(s.stored, s.intercepts, strict=True)]
    return replace(s, stored=stored, intercepts=np.zeros(len(stored)), signed=False, bits=16, syntax=NATIVE[1])


def pet(**change):
    return lambda s: replace(of("PT")(s), tags=change)


def pet_of(*changes):
    return lambda s: replace(of("PT")(s), tags=changes[s.rng.integers(len(changes))])


REQUIRED = (
    "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept", "Rows",
    "Columns", "BitsStored", "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation",
)  # fmt: skip
NAMES = "|".join(REQUIRED)

SOUND = {
    "any order, orientation, bits, syntax": lambda s: s,
    "optional attributes absent": absent_tags,
    "rescale of each slice": per_slice_rescale,
    "positions rounded to 0.01 mm": rounded,
    "other files, copies": junk,
    "beside another modality": other_series,
    "padding code": padding,
    "enhanced multi-frame": enhanced,
    "gantry tilt, corrected on request": tilt_corrected,
    "uneven steps, resampled on request": spacing_resampled,
    "PET values supplied": supplied,
}
FAULTY = {
    "missing slice": (missing, "missing slice"),
    "two slices at one position": (duplicate, "position of another one"),
    "gantry tilt": (tilted, "gantry tilt of"),
    "variable spacing": (uneven, "variable spacing"),
    "mixed orientation": (turned, "one ImageOrientationPatient"),
    "mixed pixel spacing": (one_slice(PixelSpacing=["5", "5"]), "one PixelSpacing"),
    "mixed size": (size_of_one, "one columns"),
    "displaced slice": (displaced, "shifted in its plane|gantry tilt"),
    "one or two slices": (lambda s: keep(s, [0, 1][: int(s.rng.integers(1, 3))]), "at least 3 slices"),
    "two frames of reference": (one_slice(FrameOfReferenceUID="1.77"), "one FrameOfReferenceUID"),
    "truncated file": (truncated, r"damaged|bare dataset|found none in"),
    "no file meta": (bare, "bare dataset"),
    "required attribute absent": (one_of(*({k: None} for k in REQUIRED)), NAMES),
    "unreadable attribute": (
        one_of({"PixelSpacing": ["0.5"]}, {"ImageOrientationPatient": ds([1, 0, 0, 0, 0, 0])}, {"RescaleSlope": 0}),
        "PixelSpacing|two orthogonal unit vectors|one ImageOrientationPatient|RescaleSlope",
    ),
    "high bit elsewhere": (lambda s: replace(s, slice_tags={inner(s): {"HighBit": s.bits}}), "HighBit"),
    "colour": (one_of({"PhotometricInterpretation": "PALETTE COLOR"}, {"SamplesPerPixel": 3}), "Photometric|sample"),
    "enhanced with missing frame": (lambda s: missing(enhanced(s)), "missing slice"),
    "enhanced with tilt": (lambda s: tilted(enhanced(s)), "gantry tilt of"),
    "enhanced without a position": (
        lambda s: one_slice(ImagePositionPatient=None)(enhanced(s)),
        "ImagePositionPatient",
    ),
    "CT: windowed export": (windowed, "windowed export"),
    "CT: without its intercept": (unscaled, "without its intercept"),
    "CT: other rescale type": (lambda s: replace(of("CT")(s), tags={"RescaleType": "MGML"}), "RescaleType HU"),
    "PET: other units": (pet_of({"Units": "PROPCPS"}, {"Units": None}, {"Units": "CNTS"}), "Units"),
    "PET: no weight": (pet_of({"PatientWeight": 0}, {"PatientWeight": None}), r"PatientWeight .*weight_kg"),
    "PET: no dose, or in MBq": (
        pet_of({"RadionuclideTotalDose": 0}, {"RadionuclideTotalDose": None}, {"RadionuclideTotalDose": 350}),
        r"RadionuclideTotalDose .*dose_bq",
    ),
    "PET: no injection time": (pet(RadiopharmaceuticalStartTime=None), "supply the injection time"),
    "PET: half-life of no tracer": (pet_of({"RadionuclideHalfLife": 109.8}, {"RadionuclideHalfLife": 0}), "HalfLife"),
    "PET: not attenuation-corrected": (pet(CorrectedImage=["DECY", "NORM"]), "attenuation-corrected"),
    "PET: decay correction unknown": (pet_of({"DecayCorrection": None}, {"DecayCorrection": "X"}), "DecayCorrection"),
}  # fmt: skip
KINDS = [*SOUND, *FAULTY]


def check(kind, s, folder):
    """What became of a series: "right", "refused", or a description of what must not happen."""
    modality = "ct" if s.modality == "CT" else "pet"
    try:
        reading = read_image(folder, modality, options=s.options)
    except Vol3dError as error:
        if kind in SOUND:
            return f"refused though sound: {error}"
        wanted = FAULTY[kind][1]
        return "refused" if re.search(wanted, str(error)) else f"refused for another reason than {wanted!r}: {error}"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error}"
    if kind in FAULTY:
        return "accepted though faulty"
    return wrong(s, reading) or "right"


def wrong(s, reading):
    """How a volume differs from the truth, or None."""
    values, affine = s.truth()
    grid, array = reading.volume.grid, reading.volume.array_ZYX.astype(np.float64)
    if s.options.tilt == "correct" or s.options.spacing == "resample":
        return wrong_repair(s, grid, array)
    found = grid.affine_lps @ np.array([0, 0, 0, 1.0]), grid.affine_lps @ np.array([*grid.shape, 1.0])
    truth = affine @ np.array([0, 0, 0, 1.0]), affine @ np.array([*values.shape, 1.0])
    off = max(np.abs(a - b).max() for a, b in zip(found, truth, strict=True))
    if array.shape != values.shape or off > (0.02 if s.decimals == 2 else 1e-3):
        return f"another grid: {array.shape} instead of {values.shape}, {off:.4f} mm off"
    values = np.where(values == -2000, -1024, values) if s.modality == "CT" else values
    gap = np.abs(array - values).max() / (np.abs(values).max() if s.modality == "PT" else 1)
    return None if gap <= (1e-6 if s.modality == "PT" else 0) else f"other values, by {gap:g}"


def wrong_repair(s, grid, array):
    """A ramp of the patient's space is the same ramp on the repaired grid, wherever a slice covered it."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    lps = index @ grid.affine_lps[:3, :3].T + grid.affine_lps[:3, 3] - s.origin
    along = lps @ s.normal
    inside = lps - along[..., None] * (s.normal + s.shear)
    y, x = inside @ s.column / s.spacing[1], inside @ s.row / s.spacing[2]
    rows, columns = s.stored[0].shape
    covered = (y >= 0) & (y <= rows - 1) & (x >= 0) & (x <= columns - 1)
    rise = 30 * along if s.options.spacing == "resample" else 0
    gap = np.abs(array - (-600 + 40 * y + 24 * x + rise))[covered]
    if covered.sum() < 0.5 * len(s.stored) * rows * columns or not (array[~covered] >= -1024).all():
        return f"only {covered.sum()} voxels are covered"
    return None if gap.max() < 0.02 else f"a ramp came back bent, by {gap.max():g}"


def run(count, seed):
    """Outcome of `count` variations: {(kind, modality, outcome): number}, and the descriptions of what went wrong."""
    outcomes, faults = Counter(), []
    for i in range(count):
        kind = KINDS[i % len(KINDS)]
        rng = np.random.default_rng([seed, i])
        s = at_regular_places(draw(rng))
        s = SOUND[kind](s) if kind in SOUND else FAULTY[kind][0](s)
        with tempfile.TemporaryDirectory() as folder:
            write(s, Path(folder))
            outcome = check(kind, s, Path(folder))
        if outcome not in ("right", "refused"):
            faults.append(f"seed {seed}, variation {i}, {kind} ({s.modality}): {outcome}")
            outcome = "wrong"
        outcomes[kind, s.modality, outcome] += 1
    return outcomes, faults


def table(outcomes):
    lines = ["| variation | CT | PET | outcome |", "|---|---|---|---|"]
    for kind in KINDS:
        for outcome in ("right", "refused", "wrong"):
            ct, pt = outcomes[kind, "CT", outcome], outcomes[kind, "PT", outcome]
            if ct or pt:
                words = {"right": "exact", "refused": "refused, fault named", "wrong": "WRONG"}[outcome]
                lines.append(f"| {kind} | {ct} | {pt} | {words} |")
    return "\n".join(lines)


@pytest.mark.parametrize("part", range(6))
def test_variations(part):
    outcomes, faults = run(COUNT // 6, 1000 + part)
    assert not faults, "\n".join(faults)
    assert sum(outcomes.values()) == COUNT // 6


if __name__ == "__main__":
    outcomes, faults = run(int(sys.argv[1]), int(sys.argv[2]))
    print(table(outcomes))
    print("\n".join(faults) or f"{sum(outcomes.values())} variations, none wrong")

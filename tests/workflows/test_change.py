"""Change since a prior study: phantoms in which lesions grow, shrink, go and come while the body moves and turns."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from preprocessing.manifest import Row
from preprocessing.phantom_body import build_anatomy
from preprocessing.phantom_lesions import Lesion as Painted
from preprocessing.phantom_lesions import Traits
from preprocessing.phantom_scan import scan_ct
from preprocessing.phantom_shapes import Blob
from vol3d.export.nifti import write_nifti
from vol3d.geometry import Grid
from vol3d.volume import Volume
from vol3d.workflows.change import ChangeError, Patient, StudyLesions, classify, compare
from vol3d.workflows.evidence import Measurement, measure_masks
from vol3d.workflows.lesions import Lesion
from vol3d.workflows.prior import RawPrior, patient_of
from vol3d.workflows.registration import _judged, register

ANATOMY = build_anatomy(np.random.default_rng(5), 0.0, 0.0)
PLACES = {"liver": "liver lesion", "spleen": "spleen lesion", "left lung": "left lung lesion",
          "right lung": "right lung lesion"}  # fmt: skip


def rotation_about_z(degrees):
    angle = np.radians(degrees)
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])


def point_in(place, depth=0):
    """An anatomical point well inside a place, `depth` picks different ones."""
    grid = np.stack(np.meshgrid(*[np.arange(-180, 181, 12.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    from preprocessing.phantom_anatomy import label_of

    inside = grid[ANATOMY.tissue_at(grid) == label_of(place)]
    centre = inside.mean(axis=0)
    order = np.argsort(np.linalg.norm(inside - centre, axis=1))
    return inside[order[0]] if depth == 0 else inside[order[len(order) // 2]]


def painted(name, place, radius, depth=0):
    x, y, z = point_in(place, depth)
    traits = Traits(place, "medium", "calcified", None)
    return Painted(name, traits, Blob((x, y, z), (radius,) * 3), 250.0, None)


def scanned(folder, lesions, moved=(0.0, 0.0, 0.0), turned=0.0, z_range=(-170.0, 200.0), seed=0):
    """A CT of the phantom after the body was turned and moved on the table, with its lesions' true masks."""
    folder.mkdir()
    low, high = z_range
    grid = Grid.from_spacing((int((high - low) / 5), 70, 84), (5.0, 5.0, 5.0), (-207.0, -172.0, low))
    body_to_world = np.eye(4)
    body_to_world[:3, :3], body_to_world[:3, 3] = rotation_about_z(turned), moved
    seen_from_body = Grid(grid.shape, np.linalg.inv(body_to_world) @ grid.affine)
    hu, _, masks = scan_ct(np.random.default_rng(seed), ANATOMY, lesions, seen_from_body, 10.0)
    found = []
    for number, lesion in enumerate(lesions, 1):
        mask = masks[lesion.id].astype(np.uint8)
        measured = measure_masks(mask, grid, "ct", {})
        write_nifti(folder / f"{number}.nii.gz", mask, grid)
        centre = grid.index_to_mm(np.argwhere(mask).mean(axis=0))
        found.append(
            Lesion(
                id=number, phrase=PLACES[lesion.traits.place], organ=lesion.traits.place.split()[-1], side="left",
                probability=0.9, file=f"{number}.nii.gz", pet_file=None, measurement=measured,
                centroid_mm=tuple(float(v) for v in centre),
            )
        )  # fmt: skip
    looked_for = frozenset(PLACES.values())
    return StudyLesions("study", folder, found, {"ct": Volume(hu, grid, "ct")}, looked_for)


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    lesions = [painted("a", "liver", 14), painted("b", "spleen", 15), painted("c", "left lung", 15),
               painted("d", "right lung", 14)]  # fmt: skip
    return scanned(tmp_path_factory.mktemp("prior") / "p", lesions)


def changes(result):
    return {row["change"]: row for row in result["lesions"]}


@pytest.mark.parametrize(("moved", "turned"), [((0.0, 0.0, 0.0), 0.0), ((14.0, -9.0, 22.0), 8.0)])
def test_each_change_is_told_by_measurement(prior, tmp_path, moved, turned):
    now = [
        painted("a", "liver", 22),
        painted("b", "spleen", 9),
        painted("c", "left lung", 15),
        painted("new", "right lung", 12, depth=1),
    ]  # the right lung's old one is gone, another one is there
    current = scanned(tmp_path / "now", now, moved, turned, seed=1)
    result = compare(current, prior)
    rows = {(row["current"] or row["prior"])["phrase"] + " " + row["change"]: row for row in result["lesions"]}
    assert set(rows) == {
        "liver lesion larger", "spleen lesion smaller", "left lung lesion unchanged", "right lung lesion new",
        "right lung lesion resolved",
    }  # fmt: skip
    larger = rows["liver lesion larger"]
    a, b = (larger[k]["measurement"]["longest_diameter_mm"] for k in ("current", "prior"))
    assert (
        larger["text"]
        == f"Larger: liver lesion, longest diameter {a:.1f} mm, before {b:.1f} mm ({(a / b - 1) * 100:+.0f}%)."
    )
    assert rows["right lung lesion resolved"]["current"] is None
    assert result["registration"]["rotation_deg"] == pytest.approx(turned, abs=1.5)


def test_registration_recovers_the_motion(prior, tmp_path):
    moved, turned = (14.0, -9.0, 22.0), 8.0
    current = scanned(tmp_path / "now", [], moved, turned, seed=2)
    found = register(current.references["ct"], prior.references["ct"])
    assert found.fault() is None
    truth = np.array([[0.0, 0, 0], [80, 30, -100], [-60, 20, 90]])
    there = truth @ rotation_about_z(turned).T + moved
    assert np.abs(found.to_prior(there) - truth).max() < 4
    assert np.abs(found.to_current(found.to_prior(there)) - there).max() < 1e-6


def test_what_one_study_does_not_show_is_neither_new_nor_resolved(prior, tmp_path):
    chest = scanned(tmp_path / "chest", [painted("c", "left lung", 15)], z_range=(40.0, 200.0), seed=3)
    rows = {
        row["current" if row["current"] else "prior"]["phrase"]: row["change"]
        for row in compare(chest, prior)["lesions"]
    }
    assert rows["left lung lesion"] == "unchanged"
    assert rows["right lung lesion"] == "resolved"
    assert rows["spleen lesion"] == "not comparable"
    back = {(row["current"] or row["prior"])["phrase"]: row for row in compare(prior, chest)["lesions"]}
    assert back["spleen lesion"]["change"] == "not comparable"
    assert "outside the field of view of the prior study" in back["spleen lesion"]["text"]


def box(start, stop):
    """Tissue in a box of a field of view of air, 10 mm voxels."""
    hu = np.full((20, 20, 30), -1000, np.int16)
    body = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    hu[body] = np.random.default_rng(0).integers(20, 60, hu[body].shape)
    return Volume(hu, Grid.from_spacing(hu.shape, (10.0, 10.0, 10.0)), "ct")


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [
        (box((5, 5, 5), (15, 15, 25)), box((5, 5, 5), (15, 15, 25)), 1.0),
        (box((2, 2, 2), (18, 18, 28)), box((5, 5, 5), (15, 15, 25)), 1.0),  # a child within an adult
        (box((5, 5, 5), (15, 15, 15)), box((5, 5, 10), (15, 15, 20)), 0.5),  # half of either
        (box((5, 5, 2), (15, 15, 28)), box((5, 5, 26), (15, 15, 30)), 0.5),  # half of the smaller
        (box((5, 5, 2), (15, 15, 10)), box((5, 5, 20), (15, 15, 28)), 0.0),  # side by side in one field of view
    ],
)
def test_the_overlap_is_a_share_of_the_smaller_body_whichever_comes_first(one, other, share):
    for current, prior in ((one, other), (other, one)):
        assert _judged(np.eye(4), current, prior).overlap == pytest.approx(share, abs=1e-6)


def test_a_prior_held_in_memory_outlives_its_files(prior, tmp_path):
    now = scanned(tmp_path / "now", [painted("a", "liver", 22)], seed=1)
    before = compare(now, prior)
    copy = replace(prior, folder=Path(shutil.copytree(prior.folder, tmp_path / "copy")))
    held = copy.held()
    shutil.rmtree(copy.folder)
    assert compare(now, held)["lesions"] == before["lesions"]
    with pytest.raises(ChangeError, match="report that study again"):
        compare(now, copy)


def patient(stated=None, header=None, site="here"):
    return Patient(site=site, stated=stated, header=header)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (patient("a"), patient("a"), True),
        (patient("a"), patient("b"), False),
        (patient(header="a"), patient(header="b"), False),
        (patient("a", "x"), patient(header="a"), True),  # an intake's manifest states the key of the header's id
        (patient("a"), patient(header="b"), None),  # a pseudonym and a hospital's number
        (patient("a"), patient(), None),
        (patient("a"), patient("a", site="there"), None),  # hashes under two keys
        (patient("a"), None, None),  # a report of before patients were recorded
    ],
)
def test_one_patient_another_or_nobody_knows(one, other, same):
    assert one.same_as(other) is same
    if other is not None:
        assert other.same_as(one) is same


def test_a_study_without_a_patient_id_names_no_patient(tmp_path):
    def told(**row):
        return patient_of(Row(**{"study_id": "s", "patient_id": "s", **row}))

    assert (told().stated, told().header) == (None, None)
    assert told(patient_id="p").stated == told(study_id="t", patient_id="p").stated is not None
    assert told(patient_id="p").stated != told(patient_id="q").stated
    assert "p" not in (told(patient_id="p").stated, told(patient_id="p").site)
    (tmp_path / "ct.nii.gz").write_bytes(b"no DICOM")
    assert told(ct=tmp_path / "ct.nii.gz").header is None


def test_a_raw_prior_among_the_masks_to_be_written_is_refused(tmp_path):
    (tmp_path / "s" / "report").mkdir(parents=True)
    image = tmp_path / "s" / "report" / "ct.nii.gz"
    image.write_bytes(b"")
    row = Row(study_id="before", patient_id="before", ct=image)
    with pytest.raises(ChangeError, match="outside of the folders to be written"):
        RawPrior(row, None, None, assume_hu=False).admit(tmp_path / "s", patient())
    assert RawPrior(row, None, None, assume_hu=False).admit(tmp_path / "t", patient()) is None


def test_what_cannot_be_aligned_is_refused(prior, tmp_path):
    current = scanned(tmp_path / "now", [], seed=4)
    noise = np.random.default_rng(0).normal(0, 200, prior.references["ct"].grid.shape)
    other = replace(prior, references={"ct": Volume(noise.astype(np.int16), prior.references["ct"].grid, "ct")})
    with pytest.raises(ChangeError, match=r"correlation of at least 0\.75, found"):
        compare(current, other)
    with pytest.raises(ChangeError, match="a CT or a PET in both"):
        compare(current, replace(prior, references={"pet": prior.references["ct"]}))


@pytest.mark.parametrize(
    ("now", "before", "change"),
    [
        (24.0, 20.0, "unchanged"),  # +20% but less than 5 mm
        (25.0, 20.0, "larger"),
        (46.0, 40.0, "unchanged"),  # 6 mm but less than 20%
        (48.0, 40.0, "larger"),
        (15.0, 20.0, "unchanged"),  # 5 mm but less than 30%
        (14.0, 20.0, "smaller"),
        (6.0, 10.0, "unchanged"),  # -40% but less than 5 mm
    ],
)
def test_thresholds(now, before, change):
    def lesion(diameter, series="ct"):
        return SimpleNamespace(
            measurement=Measurement(
                series=series, volume_ml=1.0, longest_diameter_mm=diameter, short_diameter_mm=1.0, slice=1, z_mm=0.0,
                first_slice=1, last_slice=1,
            )
        )  # fmt: skip

    assert classify(lesion(now), lesion(before)) == change
    assert classify(lesion(now), lesion(before, "pet")) == "not comparable"


def test_what_nobody_looked_for_is_neither_new_nor_resolved(tmp_path, prior):
    """Another checkpoint, or a prior without the PET that the phrase needs: nobody can say that it was not there."""
    now = scanned(tmp_path / "now", [painted("new", "right lung", 12, depth=1)], seed=1)
    blind = replace(prior, looked_for=prior.looked_for - {PLACES["right lung"]})
    for current, before, told in ((now, prior, "new"), (now, blind, "not comparable"), (blind, now, "not comparable")):
        side, other = ("prior", "current") if current is blind else ("current", "prior")
        rows = [r for r in compare(current, before)["lesions"] if r[side] and r["organ"] == "lung"]
        assert told in {r["change"] for r in rows}
        lost = {r[side]["phrase"]: r["text"] for r in rows if r["change"] == "not comparable"}
        assert all(f"not looked for in the {other} study" in text for text in lost.values())
    assert PLACES["right lung"] in lost

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from preprocessing.phantom import generate_study
from preprocessing.phantom_scan import PhantomOptions
from vol3d.cache_write import EntryData, create_cache, write_entry
from vol3d.errors import CacheError
from vol3d.geometry import Grid
from vol3d.volume import Volume
from vol3d.workflows.duplicates import FINE_MM, detail_of, similarities, similarity
from vol3d.workflows.leakage import (
    SAME_SCAN,
    SUSPECT,
    LeakageError,
    combinations,
    find_leaks,
    holding,
    require_no_leakage,
)


def body(seed: int, shape=(36, 40, 44), spacing=5.0, modality="ct") -> Volume:
    """Smooth blobs of soft tissue, another one for every seed."""
    blobs = gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2.0)
    blobs = blobs / blobs.std()
    image = (40 + 60 * blobs).astype(np.int16) if modality == "ct" else (2 + blobs).clip(0).astype(np.float32)
    return Volume(image, Grid.from_spacing(shape, (spacing,) * 3, (-90.0, -100.0, -80.0)), modality)


def store(root, study, volume, split, patient):
    create_cache(root, {}, "x")
    extra = {"split": split, "patient_key": patient, "recipe_digest": "x", "findings": [], "fingerprint": study}
    name = volume.modality
    native = volume if name == "pet" else None
    data = EntryData(
        study_id=study, images={name: volume}, masks=[], source_grids={name: volume.grid}, pet_native=native,
        attributes=extra, levels=2,
    )  # fmt: skip
    write_entry(root, data)


def moved(volume, mm):
    image = shift(volume.array_ZYX.astype(np.float32), np.array(mm) / volume.grid.spacing_mm, order=1, mode="nearest")
    return Volume(image.astype(volume.array_ZYX.dtype), volume.grid, volume.modality)


def noisy(volume, hu=12.0):
    noise = np.random.default_rng(9).normal(0, hu, volume.array_ZYX.shape)
    return Volume((volume.array_ZYX + noise).astype(np.int16), volume.grid, volume.modality)


def test_clean_splits_pass_with_their_numbers(tmp_path):
    for i, split in enumerate(["train", "train", "val", "test", None]):
        store(tmp_path / "cache", f"s{i}", body(i), split, f"key{i}")
    report = require_no_leakage([tmp_path / "cache"])
    assert report.entries == {"test": 1, "train": 2, "val": 1}
    assert report.pairs == 2 + 2 + 1
    assert report.leaks == ()
    assert require_no_leakage([tmp_path / "cache"], near_duplicates=False).pairs == 0


def test_one_patient_in_two_splits_is_refused_across_caches(tmp_path):
    store(tmp_path / "a", "first", body(0), "train", "secret-key-of-patient")
    store(tmp_path / "b", "second", body(1), "test", "secret-key-of-patient")
    store(tmp_path / "b", "third", body(2), "train", "secret-key-of-patient")
    with pytest.raises(
        LeakageError, match=r"found 2 pairs.*a/first \(train\) and b/second \(test\): same patient"
    ) as e:
        require_no_leakage([tmp_path / "a", tmp_path / "b"])
    assert "secret" not in str(e.value)
    assert "Give all studies of a patient one `split`" in str(e.value)


@pytest.mark.parametrize("change", ["noise", "shift", "crop", "all", "pet"])
def test_the_same_scan_under_another_name_is_found(tmp_path, change):
    scan = body(0, modality="pet" if change == "pet" else "ct")
    copy = {
        "noise": lambda v: noisy(v),
        "shift": lambda v: moved(v, (3.3, -4.1, 6.0)),
        "crop": lambda v: v.crop((6, 2, 0), (36, 36, 38)),
        "all": lambda v: noisy(moved(v, (2.0, 2.0, -3.0)).crop((4, 4, 4), (36, 40, 44))),
        "pet": lambda v: v.crop((3, 3, 3), (34, 38, 40)),
    }[change](scan)
    store(tmp_path / "cache", "original", scan, "train", "a")
    store(tmp_path / "cache", "other", body(1, modality=scan.modality), "train", "b")
    store(tmp_path / "cache", "copy", copy, "test", "c")
    with pytest.raises(LeakageError, match="found 1 pairs") as error:
        require_no_leakage([tmp_path / "cache"])
    assert "cache/copy (test) and cache/original (train): near-duplicate volume, similarity 0." in str(error.value)


def test_a_copy_within_a_split_is_no_leak(tmp_path):
    for name in ("one", "two"):
        store(tmp_path / "cache", name, body(0), "train", name)
    store(tmp_path / "cache", "three", body(1), "test", "three")
    assert find_leaks([tmp_path / "cache"]).leaks == ()


def test_similarity_is_symmetric_and_knows_only_large_overlaps():
    a, b = detail_of(body(0)), detail_of(body(0).crop((0, 0, 0), (20, 40, 44)))
    assert similarity(a, a) == pytest.approx(1, abs=1e-3)
    assert similarity(a, b) == pytest.approx(similarity(b, a), abs=0.02)
    assert similarity(a, b) > SAME_SCAN
    assert abs(similarity(a, detail_of(body(1)))) < 0.5
    blank = Volume(np.full((20, 20, 20), -1000, np.int16), Grid.from_spacing((20, 20, 20), (5.0,) * 3), "ct")
    assert similarity(detail_of(blank), detail_of(blank)) == 0  # nothing to recognise


def test_phantoms_are_told_apart_and_recognised():
    options = PhantomOptions(ct_spacing_mm=(5, 5), views=("torso",), orientation="plain")
    scans = [generate_study(i, 21, kind="ct", options=options).ct for i in range(3)]
    copy = noisy(moved(scans[0], (4.0, -3.0, 2.0)).crop((6, 3, 4), tuple(n - 4 for n in scans[0].grid.shape)))
    details = [detail_of(v, FINE_MM) for v in scans]
    apart = [s for i, j, s in similarities(details, details) if i < j]
    assert max(apart) < SAME_SCAN - 0.02
    assert similarity(details[0], detail_of(copy, FINE_MM)) > SAME_SCAN + 0.02
    assert similarity(detail_of(scans[0]), detail_of(copy)) > SUSPECT


def test_a_cache_without_splits_is_refused(tmp_path):
    store(tmp_path / "cache", "s", body(0), None, "a")
    with pytest.raises(CacheError, match="studies with a split"):
        find_leaks([tmp_path / "cache"])


def found(organ, density, uptake="avid", present=True):
    return {"organ": organ, "name": "x", "density": density, "uptake": uptake, "present": present}


def test_combinations_never_shown_in_training_are_listed():
    rows = [
        {"study_id": "a", "split": "train", "findings": [found("liver", "calcified"), found("lung", "solid")]},
        {
            "study_id": "b",
            "split": "train",
            "findings": [found("lung", "solid"), found("liver", "solid", present=False)],
        },
        {"study_id": "c", "split": "test", "findings": [found("liver", "solid"), found("lung", "solid")]},
        {"study_id": "d", "split": "test", "findings": [found("spleen", "solid")]},
    ]
    table = combinations(rows)
    assert table.by_split["train"]["lung", "solid"] == 2
    assert table.unseen() == {("liver", "solid"): 1}  # the spleen is new itself, and so no new combination
    assert holding(rows, [("lung", "solid")]) == ["a", "b", "c"]


def test_combinations_from_reports_and_real_phantom_rows():
    report = {"findings": "A nodule in the right lung. No lesion in the liver."}
    table = combinations([{"study_id": "a", "split": "train", "report": report}])
    assert ("lung", "lung_nodule") in table.by_split["train"]
    assert not any(organ == "liver" for organ, _ in table.by_split["train"])
    options = PhantomOptions(ct_spacing_mm=(9, 9), pet_spacing_mm=((9, 9, 9),), lesions=(3, 4))
    row = json.loads(json.dumps(generate_study(0, 3, options=options).row))
    present = [f for f in row["findings"] if f["present"]]
    assert {o for o, _ in combinations([row]).by_split["train"]} == {f["organ"] for f in present}

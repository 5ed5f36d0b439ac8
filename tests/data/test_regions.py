"""Rows of facts against values worked out by hand on boxes."""

import numpy as np
import pytest

from vol3d.data.regions import FACTS, Found, rows_of

SHAPE = (40, 44, 48)  # of the conftest's studies, at (4, 3, 2) mm
BOX = ((10, 20, 8), (16, 28, 18))  # 6 x 8 x 10 voxels: 24 x 24 x 20 mm
OTHER = ((30, 4, 30), (32, 6, 33))


def boxes(*ends):
    mask = np.zeros(SHAPE, bool)
    for start, stop in ends:
        mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


@pytest.fixture
def entry(make_cache, make_study):
    ct, pet = np.full(SHAPE, -100, np.int16), np.full(SHAPE, 0.8, np.float32)
    ct[boxes(BOX)], pet[boxes(BOX)] = 60, 5.0
    centre_mm = (-2.0, 1.0, 10.0)
    return make_cache(make_study("a", arrays={"ct": ct, "pet": pet}, body_center_mm=centre_mm)).entry("a")


def facts(row):
    return dict(zip(FACTS, row[: len(FACTS)].tolist(), strict=True))


def test_place_size_density_and_uptake_of_a_box(entry):
    (row,) = rows_of(entry, Found(boxes(BOX), 6.0), [], most=4, least_ml=0.1)
    f = facts(row)
    # centre index (12.5, 23.5, 12.5) lies at x = -50 + 25, y = -60 + 70.5, z = -70 + 50 mm
    expected = {"x": (-25 + 2) / 100, "y": (10.5 - 1) / 100, "z": (-20 - 10) / 100}
    assert {name: f[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert f["volume"] == pytest.approx(np.log10(11.52), abs=1e-3)
    assert f["diameter"] == pytest.approx(np.hypot(24, 20) / 50, rel=0.12)  # ends lie on face centres
    assert (f["hu_mean"], f["hu_low"], f["hu_high"]) == pytest.approx((0.3, 0.3, 0.3))
    assert f["hu_contrast"] == pytest.approx(1.6)
    # SUV on the common grid is float16
    assert f["suv_max"] == pytest.approx(np.log1p(5.0), abs=1.3e-4)
    assert f["suv_contrast"] == pytest.approx(np.log(5.2 / 1.0), abs=2.6e-4)
    assert (f["present"], f["absent"], f["logit"], f["parts"]) == (1, 0, 1.5, 0.25)


def test_parts_come_largest_first_and_say_what_they_overlap(entry):
    whole, half = Found(boxes(BOX, OTHER), 1.0), Found(boxes((BOX[0], (13, 28, 18))), 1.0)
    rows = rows_of(entry, whole, [half, whole], most=4, least_ml=0.01)
    assert [facts(r)["part"] for r in rows] == [0, 0.25]
    assert rows[0, len(FACTS) :].tolist() == [0.5, 1.0]
    assert rows[1, len(FACTS) :].tolist() == [0.0, 1.0]
    assert len(rows_of(entry, whole, [half], most=1, least_ml=0.01)) == 1


def test_small_parts_are_left_out_unless_there_is_nothing_else(entry):
    small = Found(boxes(OTHER), 1.0)  # 12 voxels of 0.024 ml
    assert len(rows_of(entry, Found(boxes(BOX, OTHER), 1.0), [], most=4, least_ml=0.3)) == 1
    assert facts(rows_of(entry, small, [], most=4, least_ml=0.3)[0])["volume"] == pytest.approx(
        np.log10(0.289), abs=1e-3
    )


def test_what_is_absent_has_one_row_that_says_so(entry):
    (row,) = rows_of(entry, Found(np.zeros(SHAPE, bool), -20.0), [], most=4, least_ml=0.1)
    f = facts(row)
    assert (f["present"], f["absent"], f["logit"], f["ct"], f["pet"]) == (0, 1, -3, 1, 1)
    assert not any(f[name] for name in ("volume", "diameter", "hu_mean", "suv_max", "x", "y", "z"))


def test_without_pet_there_is_no_uptake(make_cache, make_study):
    entry = make_cache(make_study("a", images=("ct",))).entry("a")
    f = facts(rows_of(entry, Found(boxes(BOX), 1.0), [], most=4, least_ml=0.1)[0])
    assert (f["ct"], f["pet"], f["suv_max"], f["suv_contrast"]) == (1, 0, 0, 0)

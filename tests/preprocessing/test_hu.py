"""Which numbers pass as Hounsfield units, and what happens to padding."""

import numpy as np
import pytest

from preprocessing.hu import pack, to_hu
from vol3d.errors import UnitError
from vol3d.types import AIR_HU

RNG = np.random.default_rng(0)


def body(air=-1000):
    """Half air with noise, half soft tissue."""
    out = RNG.normal(40, 15, (8, 32, 32))
    out[:, :16] = RNG.normal(air, 12, (8, 16, 32))
    return np.rint(out).astype(np.int16)


def window():
    """-100 to 155 HU mapped to 0..255, with bone and air at its ends."""
    out = np.clip(body() + 100, 0, 255)
    out[0, 20, 20] = 255
    return out


def test_a_ct_passes_untouched():
    hu = body()
    out, notes = to_hu(hu.copy(), bits=16, signed=True)
    np.testing.assert_array_equal(out, hu)
    assert notes == ()


def test_a_knee_without_air_passes_if_stored_signed():
    out, _ = to_hu(body()[:, 16:], bits=16, signed=True)
    assert out.min() > -200
    with pytest.raises(UnitError, match=r"unsigned values with none under -200 \(-?\d+ to \d+\)"):
        to_hu(body()[:, 16:], bits=16, signed=False)


def test_fractional_hu_passes():
    out, _ = to_hu(body().astype(np.float32) + 0.25, bits=32, signed=True)
    assert out.dtype == np.float32


@pytest.mark.parametrize("code", [-2000, -2048, -3024])
def test_padding_codes_become_air(code):
    hu = body()
    hu[:, :3, :5] = code
    out, notes = to_hu(hu.copy(), bits=16, signed=True)
    assert (out[:, :3, :5] == AIR_HU).all()
    assert notes == (f"padding {code} -> air: 120 voxels",)
    np.testing.assert_array_equal(out[:, 3:], hu[:, 3:])


@pytest.mark.parametrize(
    ("array", "bits", "signed", "message"),
    [
        (window(), 8, False, r"8 bits \(0 to 255\): a windowed export"),
        (np.clip(body() + 100, 0, 240), 8, True, "8 bits"),
        (window(), 16, True, "exactly 0 to exactly 255"),
        (np.clip(body() + 1024, 0, 4095), 16, False, "unsigned values with none under -200"),
        ((np.clip(body(), -160, 240) / 400).astype(np.float32), 32, True, "normalised"),
        (((body() - body().mean()) / body().std()).astype(np.float32), 32, True, "normalised"),
        ((np.clip(body(), 0, 240) / 2.5).astype(np.float32), 32, True, "fractions from 0 to"),
        (np.clip(body() + 1024, 0, 4095), 16, True, "tissue at 1024: a CT without its intercept"),
        (body() - 1024, 16, True, "rescaled twice"),
        (body() - 1000, 16, True, r"air at -\d+5 instead of about -1000"),
        (np.full((3, 4, 5), -2000, np.int16), 16, True, "nothing but padding"),
        (np.clip(body(), -160, 240), 16, True, r"none under -200 \(-160 to \d+\) and 50\.\d% of them at one end"),
        (np.clip(body(), -160, 240).astype(np.float32) + 0.5, 32, True, "at one end: a windowed export"),
        (np.clip(body() + 160, 0, 400), 16, True, r"no negative value \(0 to \d+\): a windowed export"),
    ],
    ids=[
        "8 bit",
        "8 bit signed",
        "0..255",
        "no intercept",
        "unit",
        "z-score",
        "floats",
        "signed",
        "twice",
        "twice 1000",
        "padding",
        "clipped",
        "clipped floats",
        "window from 0",
    ],
)
def test_numbers_that_are_no_hu(array, bits, signed, message):
    with pytest.raises(UnitError, match=message):
        to_hu(array.copy(), bits=bits, signed=signed)
    out, notes = to_hu(array.copy(), bits=bits, signed=signed, assume_hu=True)
    assert out.shape == array.shape
    assert notes[0].startswith("assume-hu: ")


def test_air_is_judged_outside_padding():
    hu = body()
    hu[:, :10] = -2048  # a round field of view: more padding than air
    to_hu(hu, bits=16, signed=True)
    hu = body(air=-2024)
    hu[:, :10] = -3024
    with pytest.raises(UnitError, match="rescaled twice"):
        to_hu(hu, bits=16, signed=True)


def test_padding_does_not_vouch_for_a_window():
    """Air that only the padding rule makes is no evidence of HU."""
    window = np.clip(body() + 100, 0, 254)
    padding = window == 0
    with pytest.raises(UnitError, match="windowed export"):
        to_hu(window, bits=16, signed=False, padding_ZYX=padding)


def test_padding_of_the_header_among_tissue():
    hu = body()
    hu[2, 20, 20] = 0
    out, notes = to_hu(hu.copy(), bits=16, signed=True, padding_ZYX=hu == 0)
    assert out[2, 20, 20] == 0
    assert "padding of the header kept" in notes[0]
    hu[:, :2] = 0  # the corners of every slice: a real field of view
    hu[:, -2:] = 0
    out, notes = to_hu(hu.copy(), bits=16, signed=True, padding_ZYX=hu == 0)
    assert (out[:, :2] == AIR_HU).all()


def test_assume_hu_is_noted_even_if_nothing_was_wrong():
    assert to_hu(body(), bits=16, signed=True, assume_hu=True)[1] == ("assume-hu",)


def test_pack_keeps_integers_and_falls_back_to_float32():
    whole = [np.full((2, 2), v, np.float64) for v in (-1024, 3071, 7)]
    assert pack(whole, (3, 2, 2)).dtype == np.int16
    for odd in (0.5, 40_000.0, np.nan):
        out = pack([*whole, np.full((2, 2), odd)], (4, 2, 2))
        assert out.dtype == np.float32
        np.testing.assert_array_equal(out[:, 0, 0], np.float32([-1024, 3071, 7, odd]))
    assert pack(whole, (3, 2, 2), np.float32).dtype == np.float32


def cropped_body():
    """A view that the body nearly fills: one voxel in sixteen is air."""
    out = np.rint(RNG.normal(40, 15, (8, 32, 32))).astype(np.int16)
    out[:, :2] = np.rint(RNG.normal(-1000, 12, (8, 2, 32)))
    return out


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (-body(), r"\d\d% of the values at \+1000 and hardly any air at -1000: the sign is turned round"),
        (cropped_body() - 1024, "6% under -1500 instead of about -1000 .*: rescaled twice"),
        (
            np.where(body() < -900, body().astype(np.float32) + 65536, body()),
            "up to 64.*beyond any scale of HU: signed",
        ),
    ],
    ids=["turned round", "twice, in a body that fills the view", "negative numbers read as unsigned"],
)
def test_numbers_that_only_look_like_hu(array, message):
    with pytest.raises(UnitError, match=message):
        to_hu(array.copy(), bits=16, signed=True)
    to_hu(array.copy(), bits=16, signed=True, assume_hu=True)


def test_a_view_within_dense_bone_passes():
    bone = np.rint(RNG.normal(1100, 250, (8, 32, 32))).astype(np.int16)
    bone[:, :4] = RNG.integers(-60, 120, (8, 4, 32))
    to_hu(bone, bits=16, signed=True)

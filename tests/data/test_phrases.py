import pytest

from vol3d.data.phrases import names_direction, names_side, swap_sides, wordings


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("left kidney", "right kidney"),
        ("Right-sided pleural effusion", "Left-sided pleural effusion"),
        ("RIGHT ADRENAL", "LEFT ADRENAL"),
        ("nodule, leftmost, in the right upper lobe", "nodule, rightmost, in the left upper lobe"),
        ("Lt. renal cyst", "Rt. renal cyst"),
        ("l. kidney", "r. kidney"),
        ("L kidney", "R kidney"),
        ("RUL nodule", "LUL nodule"),
        ("left and right lung", "right and left lung"),
        ("aorta", "aorta"),
        ("L5 vertebra", "L5 vertebra"),
        ("vertebra L 5", "vertebra L 5"),
        ("bright lesion", "bright lesion"),
        ("cleft palate", "cleft palate"),
        ("upright, leftover contrast", "upright, leftover contrast"),
        ("leftsided hernia, rll nodule", "rightsided hernia, lll nodule"),
        ("(R) kidney, LLQ pain", "(L) kidney, RLQ pain"),
        ("rt thigh mass", "lt thigh mass"),
    ],
)
def test_swap_is_right_and_its_own_inverse(text, mirrored):
    assert swap_sides(text) == mirrored
    assert swap_sides(mirrored) == text


@pytest.mark.parametrize(
    "text",
    [
        "dextrocardia",
        "midleft thigh",
        "situs inversus",
        "left atrium",
        "right lobe of the liver",
        "right middle lobe",
        "lingula",
        "RML nodule",
        "right coronary artery",
        "linke Niere",
        "rechtsseitiger Erguss",
        "rein gauche",
        "riñón derecho",
    ],
)
def test_what_has_no_certain_mirror_image_is_refused(text):
    assert swap_sides(text) is None


def test_sides_are_recognised():
    assert names_side("left kidney")
    assert names_side("Rt. kidney")
    assert names_side("linke Niere")
    assert not names_side("L5 vertebra")
    assert not names_side("bilateral kidneys")
    assert names_direction("upper lobe", 0)
    assert not names_direction("upper lobe", 1)
    assert names_direction("posterior wall", 1)


def test_wordings_start_with_the_phrase_and_are_at_most_three():
    assert wordings("Left kidney") == ("Left kidney", "the left kidney", "segment the left kidney")
    assert wordings("a cyst in the liver") == ("a cyst in the liver", "segment a cyst in the liver")
    assert wordings("No focal lesion.") == ("No focal lesion.", "no focal lesion.")
    assert wordings("where is the tumour?") == ("where is the tumour?",)
    long = "There is an avid mass in the left thigh measuring several centimetres with necrosis in its centre"
    assert wordings(long) == (long, long.lower())


@pytest.mark.parametrize("text", ["left kidney", "Rt. kidney", "Right-sided effusion", "RUL nodule"])
def test_no_wording_of_a_swapped_phrase_keeps_the_old_side(text):
    for plain, swapped in zip(wordings(text), wordings(swap_sides(text)), strict=True):
        assert swap_sides(plain) == swapped

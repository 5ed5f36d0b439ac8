import pytest

from vol3d.text.organs import class_phrases, side_of, structure_in, structures


@pytest.mark.parametrize(
    ("phrase", "name"),
    [
        ("FDG-avid nodule in the right lung", "lung_right"),
        ("left renal cyst", "kidney_left"),
        ("hepatic metastasis", "liver"),
        ("spinal cord", "spinal_cord"),  # not the spine: the longer word wins
        ("nodule of the right lower lobe", "lung_lower_lobe_right"),
        ("urinary bladder", "bladder"),
        ("gallbladder", "gallbladder"),  # not the bladder
        ("kidney lesion", None),  # which one?
        ("lesions in the left and right lung", None),
        ("soft tissue mass", None),
    ],
)
def test_the_structure_a_phrase_speaks_of(phrase, name):
    found = structure_in(phrase)
    assert (found.name if found else None) == name


@pytest.mark.parametrize(
    ("phrase", "side"),
    [("LEFT kidney", "left"), ("right-sided effusion", "right"), ("upright", None), ("left or right", None)],
)
def test_sides(phrase, side):
    assert side_of(phrase) == side


def test_every_wording_of_a_structure_speaks_of_it_or_of_nothing_else():
    for structure in structures().values():
        for phrase in structure.phrases:
            found = structure_in(phrase)
            assert found is None or found.name == structure.name, phrase
            assert side_of(phrase) == structure.side or structure.side is None


def test_every_class_has_words_and_no_two_share_them():
    from preprocessing.sources.multilabel import TOTALSEGMENTATOR_V2

    assert len(TOTALSEGMENTATOR_V2) == 117
    seen = {}
    for name in TOTALSEGMENTATOR_V2:
        for phrase in class_phrases(name):
            assert phrase.strip()
            assert seen.setdefault(phrase, name) == name
            side = "left" if "left" in name.split("_") else "right" if "right" in name.split("_") else None
            assert side_of(phrase) == side
    assert class_phrases("vertebrae_L2")[0] == "L2 vertebra"
    assert class_phrases("rib_left_7")[0] == "left rib 7"

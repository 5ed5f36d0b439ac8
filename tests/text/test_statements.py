"""What sentences state: things there, things denied, places out of view, and what no mask can show."""

import pytest

from vol3d.text.statements import loose_numbers, statements_of


def kinds(sentence, section=""):
    return [s.kind for s in statements_of(sentence, section)]


@pytest.mark.parametrize(
    ("sentence", "section", "kind", "phrase", "organs", "side"),
    [
        ("There is a <size_1> solid nodule in the right lung with increased FDG uptake, SUVmax <suv_max_1> "
         "(ct slice <slice_1>, z = <z_1>).", "lungs", "present",
         "solid nodule in the right lung with increased FDG uptake", ("lung",), "right"),
        ("1. <size_1> FDG-avid solid nodule in the right lung, SUVmax <suv_max_1>.", "impression", "present",
         "FDG-avid solid nodule in the right lung", ("lung",), "right"),
        ("Hypodense lesion.", "liver", "present", "hypodense lesion in the liver", ("liver",), None),
        ("A hypodense lesion in the liver of <size_1> shows no increased uptake.", "", "present",
         "hypodense lesion in the liver shows no increased uptake", ("liver",), None),
        ("No pulmonary nodule or mass.", "lungs", "absent", "", ("lung",), None),
        ("No focal lesion.", "liver", "absent", "", ("liver",), None),
        ("Homogeneous liver without focal lesion.", "", "absent", "", ("liver",), None),
        ("Both lungs are clear.", "", "absent", "", ("lung",), "bilateral"),
        ("Unremarkable paraspinal soft tissues.", "", "absent", "", ("soft_tissue",), None),
        ("No FDG-avid lesion in the liver.", "", "absent", "FDG-avid lesion in the liver", ("liver",), None),
        ("Spleen without calcified lesion.", "", "absent", "calcified lesion in the spleen", ("spleen",), None),
        ("No focal lesion of the left kidney.", "", "absent", "", ("kidney",), "left"),
        ("A nodule was not seen in the liver.", "", "absent", "", ("liver",), None),
        ("Lungs not included in the field of view.", "", "outside", "", ("lung",), None),
        ("The nodule in the left lung has increased in size.", "", "change", "", (), None),
        ("New nodule in the left lung.", "", "change", "", (), None),
        ("The spleen has been resected.", "", "other", "", ("spleen",), None),
        ("Physiological uptake in the myocardium.", "", "other", "", ("heart",), None),
        ("Arms at the sides of the body.", "", "other", "", (), None),
    ],
)  # fmt: skip
def test_one_statement(sentence, section, kind, phrase, organs, side):
    (found,) = statements_of(sentence, section)
    assert (found.kind, found.phrase, found.organs, found.side) == (kind, phrase, organs, side)


def test_a_sentence_may_state_two_things():
    there, gone = statements_of("Pleural effusion on the left, no pneumothorax.")
    assert (there.kind, there.phrase) == ("present", "pleural effusion on the left")
    assert (gone.kind, gone.organs) == ("absent", ("pleura",))
    partly, rest = statements_of("Liver only partly included, no focal lesion in the part shown.")
    assert (partly.kind, rest.kind, rest.organs, rest.imaged) == ("partly", "absent", ("liver",), True)


@pytest.mark.parametrize(
    ("sentence", "imaged"),
    [
        ("No suspicious bone lesion in the imaged spine.", True),
        ("No focal lesion in the field of view.", True),
        ("No visible lesion in the liver.", False),  # says nothing of how much of the liver is shown
        ("No enlarged mediastinal lymph node.", False),
    ],
)
def test_denials_of_the_imaged_part(sentence, imaged):
    (found,) = statements_of(sentence)
    assert (found.kind, found.imaged) == ("absent", imaged)


@pytest.mark.parametrize(
    ("sentence", "several", "count"),
    [
        ("Two nodules in the left lung.", True, 2),
        ("Multiple lesions in both lungs.", True, None),
        ("Lesions in the liver.", True, None),
        ("Solitary nodule in the left lung.", False, 1),
        ("Mass in the left lung.", False, None),
        ("Nodule on one side of the lung.", False, None),
    ],
)
def test_numbers_in_words(sentence, several, count):
    (found,) = statements_of(sentence)
    assert (found.several, found.count) == (several, count)


@pytest.mark.parametrize(
    ("sentence", "numbers"),
    [
        ("A 14 mm nodule.", ["14"]),
        ("<size_1> lesion in segment 4 and at T12, 18F-FDG-avid.", []),
        ("2. Nodule of <size_1>.", []),
        ("Nodes of station 4R, 3 in all.", ["3"]),
        ("SUVmax 4.2", ["4.2"]),
    ],
)
def test_numbers_that_no_slot_stands_for(sentence, numbers):
    assert loose_numbers(sentence) == numbers

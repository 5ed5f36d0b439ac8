"""Other words for the same thing become plain ones, and nothing else does."""

import pytest

from vol3d.text.asked import asked_about
from vol3d.text.asked_words import asks_for_change
from vol3d.text.meaning import meaning_of
from vol3d.text.plainly import plainly
from vol3d.text.questions import question_kind
from vol3d.workflows.known import Known


@pytest.mark.parametrize(
    ("said", "plain"),
    [
        ("lesion in the musculature flanking the spine", "paraspinal lesion"),
        ("lesion in the muscle to the right of the spine", "right paraspinal lesion"),
        ("lymph node in the space between the lungs", "mediastinal lymph node"),
        ("nodule in any lobe of the lungs", "nodule in the lungs"),
        ("calcific lesion in either lobe of the liver", "calcified lesion in the liver"),
        ("lesion in one or both kidneys", "lesion in the kidneys"),
        ("hot right paraspinal lesion", "FDG-avid right paraspinal lesion"),
        ("liver lesion lighting up on PET", "FDG-avid liver lesion"),
        ("liver lesion not lighting up on PET", "non-avid liver lesion"),
        ("spinal lesion with only background-level metabolic activity", "non-avid spinal lesion"),
        ("spinal lesion demonstrating increased radiotracer accumulation", "FDG-avid spinal lesion"),
        ("hazy nodule in the left lung", "ground-glass nodule in the left lung"),
        ("small-volume splenic lesion", "small splenic lesion"),
        ("large lesion in the imaged volume", "large lesion"),
        ("large lesion on the current study", "large lesion"),
    ],
)
def test_the_same_is_meant(said, plain):
    assert meaning_of(said) == meaning_of(plain) is not None


@pytest.mark.parametrize(
    "text",
    [
        "What is the volume of the liver?",
        "lesion in the left lobe of the liver",
        "nodule in the upper lobe of the right lung",
        "mass between the kidneys",
        "lesion next to the spine",
        "hottest lesion in the liver",
        "Has the nodule increased since the previous study?",
        "increased density of the left lung",
        "Is one of the kidneys missing?",
        "hazy mesenteric fat",
        "cyst with fluid",
        "nodule (in lung)",
        "dilated cardiac chambers",
    ],
)
def test_what_says_more_stays_as_it_is(text):
    assert plainly(text) == text


@pytest.mark.parametrize(
    ("question", "kind", "about"),
    [
        ("Whereabouts is the isodense lesion in the imaged volume?", "location", "isodense lesion"),
        ("Name the organ harbouring the large lesion in the scanned volume.", "organ", "large lesion"),
        ("Please specify the side affected by the avid intrarenal lesion.", "side", "avid renal lesion"),
        ("Please check whether the patient has a voluminous liver lesion.", "yes_no", "large liver lesion"),
        ("What is the SUV of the hottest voxel in the liver lesion?", "size", "liver lesion"),
        ("How intense is the uptake in the liver lesion (SUVmax)?", "size", "liver lesion"),
        ("How many separate liver lesions can be made out?", "count", "liver lesions"),
        ("Does the paravertebral lesion involve the left or the right?", "side", "paraspinal lesion"),
    ],
)
def test_questions_of_the_same_thing(question, kind, about):
    plain = plainly(question)
    assert question_kind(plain) == kind
    assert meaning_of(asked_about(plain) or "") == meaning_of(about) is not None
    assert not asks_for_change(plain)


def test_whether_there_is_a_pet_asks_for_the_modality():
    assert question_kind("Does this examination include a PET component, or is it CT only?") == "modality"


KNOWN = Known(
    ("liver", "left lung", "right lung", "both lungs", "lungs", "kidneys", "left kidney", "right kidney", "heart",
     "stomach", "aorta", "spine", "urinary bladder", "gallbladder", "spleen")
)  # fmt: skip


@pytest.mark.parametrize(
    ("said", "own"),
    [
        ("both lobes of the liver", "liver"),
        ("lung tissue bilaterally", "lungs"),
        ("both lung fields", "both lungs"),
        ("the pair of kidneys", "kidneys"),
        ("full extent of the left lung", "left lung"),
        ("the right kidney alone", "right kidney"),
        ("myocardium together with atria and ventricles", "heart"),
        ("stomach including any food or fluid in it", "stomach"),
        ("gallbladder wall and lumen", "gallbladder"),
        ("aorta from the root to the bifurcation", "aorta"),
        ("all visible vertebrae", "spine"),
        ("urine-filled bladder", "urinary bladder"),
        ("spleen in its entirety", "spleen"),
    ],
)
def test_whole_structures_are_asked_in_words_of_training(said, own):
    assert KNOWN.in_own_words(said) == own


@pytest.mark.parametrize(
    "said",
    ["left lobe of the liver", "wall of the gallbladder", "aortic root", "left ventricle", "lower lobes of both lungs",
     "pole of the left kidney", "kidney", "left or right kidney", "fluid in the stomach", "liver and spleen"],
)  # fmt: skip
def test_parts_and_others_are_not_taken_for_the_whole(said):
    assert KNOWN.in_own_words(said) == said

"""What a question is about: every template of the phantoms, seen and unseen, and questions as people put them."""

import numpy as np
import pytest

import preprocessing.phantom_questions as phantom_questions
from preprocessing.phantom import PhantomOptions, generate_study
from vol3d.text.asked import asked_about, asks_for_absence
from vol3d.text.asked_numbers import numbers_asked
from vol3d.text.asked_words import asks_beyond, asks_for_change, unknown_words
from vol3d.text.meaning import meaning_of

COARSE = PhantomOptions(ct_spacing_mm=(8.0, 8.0), pet_spacing_mm=((9.0, 9.0, 9.0),))


@pytest.fixture(scope="module")
def studies():
    return [phantom_questions.Study(generate_study(i, 21, options=COARSE).row) for i in range(2)]


@pytest.mark.parametrize("unseen", [0, 1])
def test_every_template_gives_back_what_it_asks_about(studies, unseen):
    rng = np.random.default_rng(0)
    asked = set()
    for study in studies:
        for item in study.items():
            what = item.words(unseen, rng)
            article = "an" if what[:1].lower() in "aeiou" or what.startswith("FDG") else "a"
            for template in phantom_questions._ASK[item.ask][unseen]:
                question = template.format(p=what, s=what, w=what, a=f"{article} {what}")
                given, expected = asked_about(question), f"lesion {what}" if item.kind == "open" else what
                if item.kind == "modality":
                    assert given is None, question
                else:
                    assert meaning_of(given or "") == meaning_of(expected) is not None, question
                asked.add(item.kind)
    assert asked == set(phantom_questions._ASK) - {"diameter", "suv", "volume"} | {"size"}


@pytest.mark.parametrize(
    ("question", "phrase"),
    [
        ("Do you see a nodule in the left lung?", "nodule in the left lung"),
        ("Does the right lung contain a nodule?", "nodule in the right lung"),
        ("How many metastases does the liver contain?", "metastases in the liver"),
        ("how many lesions are in the liver", "lesions in the liver"),
        ("What is the size of the largest lesion in the liver?", "lesion in the liver"),
        ("Are there any enlarged lymph nodes in the mediastinum?", "enlarged lymph nodes in the mediastinum"),
        ("Is there evidence of pleural effusion on the left?", "pleural effusion on the left"),
        ("Is there a lesion in the right lung without FDG uptake?", "lesion in the right lung without FDG uptake"),
        ("Where can the tumour be found?", "tumour"),
        ("What is the location of the lesion in this scan with FDG uptake?", "lesion with FDG uptake"),
        ("Is the mass FDG-avid?", "FDG-avid mass"),
        ("Which kidney has a cyst?", "cyst in the kidney"),
        ("Describe the liver.", "lesion in the liver"),
        ("What is in the right lung?", "lesion in the right lung"),
        ("Is the spleen visible in this scan?", "spleen"),
        ("Is the left kidney in the field of view?", "left kidney"),
        ("How hot is the tumour?", "tumour"),
        ("nodule in the left lung?", "nodule in the left lung"),
        ("Which modality was used?", None),
        ("How old is the patient?", None),
        ("What is the diagnosis?", None),
        ("?", None),
    ],
)
def test_free_wordings(question, phrase):
    assert asked_about(question) == phrase


@pytest.mark.parametrize(
    ("question", "phrase", "absence"),
    [
        ("Is the liver free of lesions?", "lesions in the liver", True),
        ("Is there no lesion in the spleen?", "lesion in the spleen", True),
        ("Are the lungs clear?", "lesion in the lungs", True),
        ("Is the gallbladder missing?", "gallbladder", True),
        ("Is there a lesion in the liver without FDG uptake?", "lesion in the liver without FDG uptake", False),
        ("Is there a lesion in the spleen?", "lesion in the spleen", False),
    ],
)
def test_questions_whose_yes_means_nothing_there(question, phrase, absence):
    assert asked_about(question) == phrase
    assert asks_for_absence(question) is absence


@pytest.mark.parametrize(
    "question",
    ["Why is the liver lesion hot?", "Should the liver lesion be biopsied?", "How certain are you of the liver lesion?",
     "Who reported the lesion in the liver?", "What is the cause of the lesion in the liver?"],
)  # fmt: skip
def test_what_no_measurement_says_is_beyond(question):
    assert asks_beyond(question)
    assert not asks_beyond("Could the liver lesion be seen, and how large is it?")


@pytest.mark.parametrize(
    "question",
    ["Did the SUVmax of the lesion go up?", "Has the lesion come back?", "How long has the lesion been there?"],
)
def test_more_words_for_change(question):
    assert asks_for_change(question)


@pytest.mark.parametrize(
    "question",
    ["Are all lesions in the lung calcified?", "Are most of the lung nodules calcified?", "How much of it is solid?"],
)
def test_shares_are_not_measured(question):
    assert numbers_asked(question).trouble


def test_beside_a_structure_is_not_in_it():
    assert unknown_words("lesion beside the spine") == ("beside",)
    assert unknown_words("lesion in the muscles beside the spine") == ()

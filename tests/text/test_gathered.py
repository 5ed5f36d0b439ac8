"""Questions in many ways of asking: each is about the same lesion, and nothing that matters is lost on the way."""

import pytest

from vol3d.text.asked import asked_about
from vol3d.text.asked_numbers import numbers_asked
from vol3d.text.gathered import gathered
from vol3d.text.meaning import meaning_of
from vol3d.text.questions import question_kind

PHRASES = (
    "non-avid lesion of the right kidney",
    "calcified nodule in the lungs",
    "lesion in the liver with FDG uptake",
)
FRAMES = {
    "yes_no": (
        "Can a {} be identified?", "Any {}?", "Is a {} demonstrable?", "Has the scan revealed a {}?",
        "Do you note a {}?", "Would you say there is a {}?", "Does the imaging show a {}?", "Is there a {} on imaging?",
        "Could there be a {}?", "Do you appreciate a {}?",
    ),
    "location": (
        "Can you tell me where the {} is?", "Whereabouts is the {}?", "In which anatomical region is the {} found?",
        "Point out where the {} lies.", "Where exactly is the {}?", "Where do you see the {}?",
    ),
    "organ": (
        "State the organ containing the {}.", "Identify the organ with the {}.", "To which organ does the {} belong?",
        "What is the organ of the {}?", "The {} is in which organ?",
    ),
    "side": (
        "State the side of the {}.", "Left or right: where is the {}?", "Which side is affected by the {}?",
        "Is it the left or the right side that has the {}?", "Specify the side of the {}.",
    ),
    "count": (
        "What number of {} does the study show?", "Tell me how many {} there are.", "How many separate {} are there?",
        "How many {} have you found?", "How many distinct {} are present on the scan?",
    ),
    "size": (
        "What is the maximal in-plane diameter of the {}?", "How many mm across is the {}?", "Measure the {}.",
        "What is the long-axis diameter of the {}?", "Give the SUVmax for the {}.",
        "What is the highest SUV in the {}?",
        "What is the volumetric size of the {}?", "How many cubic centimetres is the {}?", "Compute the {} volume.",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "frame"), [(kind, frame) for kind, frames in FRAMES.items() for frame in frames])
def test_every_way_of_asking_keeps_what_is_asked_about(kind, frame):
    for phrase in PHRASES:
        said = phrase.replace("lesion", "lesions").replace("nodule", "nodules") if kind == "count" else phrase
        question = frame.format(said)
        assert question_kind(question) == kind
        assert meaning_of(asked_about(question) or "") == meaning_of(phrase), asked_about(question)


@pytest.mark.parametrize(
    "question",
    ["Report on what is seen in the liver.", "What findings do you see in the liver?",
     "Outline the findings in the liver.", "Comment on any findings in the liver.",
     "What does the scan show in the liver?",
     "Give an account of the findings in the liver.", "Is anything wrong in the liver?"],
)  # fmt: skip
def test_a_place_stands_for_a_lesion_in_it(question):
    assert meaning_of(asked_about(question) or "") == meaning_of("liver lesion")


@pytest.mark.parametrize(
    ("question", "figure"),
    [("How many cubic centimetres is the liver lesion?", "volume"), ("How many cc does the lesion measure?", "volume"),
     ("What is the highest SUV in the liver lesion?", "suv_max"), ("How many mm across is the lesion?", "size")],
)  # fmt: skip
def test_the_figure_is_understood(question, figure):
    assert numbers_asked(question).figure == figure


@pytest.mark.parametrize(
    "question",
    ["Is the lesion in the liver malignant?", "Did the lesion in the liver shrink?", "Is the liver enlarged?",
     "Is the lesion in the liver nearer to the spleen?", "Is the rim of the lesion in the liver avid?",
     "What is the distance between the lesion in the liver and the skin?", "Does the lesion in the liver enhance?"],
)  # fmt: skip
def test_no_word_that_matters_is_dropped(question):
    assert gathered(question.strip("?"), place_alone=False) is None

import pytest

from vol3d.text.questions import NONE, NOT_IN_VIEW, QuestionError, normalise, question_kind, score_answer


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Is there a nodule in the right lung?", "yes_no"),
        ("Any pleural effusion?", "yes_no"),
        ("Does the scan show a lesion of the liver?", "yes_no"),
        ("Is the size of the heart normal?", "yes_no"),
        ("How many lesions are there in the liver?", "count"),
        ("What is the number of nodules?", "count"),
        ("How large is the lesion in the spleen?", "size"),
        ("What is the SUVmax of the nodule?", "size"),
        ("What does the lesion measure?", "size"),
        ("On which side is the effusion?", "side"),
        ("Is the nodule on the left or on the right?", "side"),
        ("Is this a CT or PET/CT study?", "modality"),
        ("Which imaging modality is this?", "modality"),
        ("What kind of scan is shown?", "modality"),
        ("Which organ holds the FDG-avid lesion?", "organ"),
        ("What organ is affected?", "organ"),
        ("Where is the large lesion?", "location"),
        ("In which part of the body is it located?", "location"),
        ("What is wrong with the liver?", "open"),
        ("Describe the lungs.", "open"),
    ],
)
def test_kinds(question, kind):
    assert question_kind(question) == kind


@pytest.mark.parametrize(
    ("kind", "answer", "normal"),
    [
        ("yes_no", "Yes.", "yes"),
        ("yes_no", "There is a nodule in the right lung.", "yes"),
        ("yes_no", "A nodule is seen in the right lung.", "yes"),
        ("yes_no", "No", "no"),
        ("yes_no", "There is no nodule.", "no"),
        ("yes_no", "A nodule was not detected.", "no"),
        ("yes_no", "Absent.", "no"),
        ("yes_no", "It is absent.", "no"),
        ("yes_no", "It is.", "yes"),
        ("yes_no", "There is a nodule, but no effusion.", None),
        ("yes_no", "No, the liver is outside the field of view.", NOT_IN_VIEW),
        ("yes_no", "The bladder is not included.", NOT_IN_VIEW),
        ("yes_no", "Possibly.", None),
        ("yes_no", "", None),
        ("side", "On the left side", "left"),
        ("side", "R", "right"),
        ("side", "Both sides.", "bilateral"),
        ("side", "Left and right", "bilateral"),
        ("side", "Neither; there is none.", NONE),
        ("organ", "the hepatic parenchyma", "liver"),
        ("organ", "Left kidney", "kidney"),
        ("organ", "liver or spleen", None),
        ("organ", "the liver and the spleen", "liver; spleen"),
        ("organ", "There is no such lesion.", NONE),
        ("location", "in the right lung", "lung right"),
        ("location", "left and right lung", "lung left; lung right"),
        ("location", "both kidneys and the liver", "kidney left; kidney right; liver"),
        ("location", "the spine", "bone"),
        ("location", "somewhere", None),
        ("count", "3", "3"),
        ("count", "Three lesions.", "3"),
        ("count", "There are two nodules of 5 mm.", "2"),
        ("count", "a nodule", "1"),
        ("count", "None.", "0"),
        ("count", "no lesion", "0"),
        ("count", "two or three", None),
        ("count", "several", None),
        ("size", "1.2 cm", "12 mm"),
        ("size", "12 x 8 mm", "12 x 8 mm"),
        ("size", "SUVmax 5.3", "suv_max 5.3"),
        ("size", "3.4 ml", "3.4 ml"),
        ("size", "between 3 and 5 mm", None),
        ("size", "large", None),
        ("size", "There is no lesion.", NONE),
        ("modality", "FDG PET/CT", "ct+pet"),
        ("modality", "computed tomography", "ct"),
        ("modality", "CT or MRI", None),
        ("open", "A nodule in the right lung.", "lung_nodule; lung_lesion"),
        ("open", "Unremarkable.", NONE),
    ],
)
def test_normal_forms(kind, answer, normal):
    assert normalise(answer, kind) == normal


@pytest.mark.parametrize(
    ("given", "expected", "tolerance", "right"),
    [
        ("12.4 mm", "12 mm", 0.5, True),
        ("1.24 cm", "12 mm", 0.5, True),
        ("12.6 mm", "12 mm", 0.5, False),
        ("13 mm", "12 mm", None, True),
        ("13.3 mm", "12 mm", None, False),
        ("12", "12 mm", 1.0, False),
        ("12 ml", "12 mm", 1.0, False),
        ("8 x 12 mm", "12 mm", 0.5, True),
        ("5.35", "SUVmax 5.3", 0.1, True),
        ("SUV 5.5", "SUVmax 5.3", 0.1, False),
        ("10-14 mm", "12 mm", 2.0, False),
        ("none", "12 mm", 2.0, False),
    ],
)
def test_numbers_need_unit_and_tolerance(given, expected, tolerance, right):
    assert score_answer(given, expected, "size", tolerance).right is right


def test_open_answers_get_partial_credit():
    truth = "FDG-avid nodule in the right lung."  # lung_nodule, lung_lesion, fdg_avid_lesion, fdg_avid_lung_lesion
    half = score_answer("A nodule in the right lung.", truth, "open")
    assert not half.right
    assert half.score == pytest.approx(2 * 2 / (2 + 4))
    assert score_answer("Right lung nodule with increased FDG uptake.", truth, "open").right
    assert score_answer("No focal lesion.", truth, "open").score == 0
    assert score_answer("Unremarkable liver.", "No focal lesion.", "open").right


@pytest.mark.parametrize(
    ("kind", "given", "expected", "right", "made_up"),
    [
        ("yes_no", "yes", "no", False, True),
        ("yes_no", "no", "no", True, False),
        ("yes_no", "no", "yes", False, False),
        ("yes_no", "no", NOT_IN_VIEW, False, False),
        ("yes_no", "yes", NOT_IN_VIEW, False, True),
        ("side", "left", "none", False, True),
        ("side", "there is none", "none", True, False),
        ("count", "2", "0", False, True),
        ("size", "12 mm", "There is no such lesion.", False, True),
        ("location", "hmm", "none", False, False),
        ("open", "A nodule in the lung.", "none", False, True),
    ],
)
def test_made_up_things_are_told_from_other_faults(kind, given, expected, right, made_up):
    verdict = score_answer(given, expected, kind)
    assert (verdict.right, verdict.made_up) == (right, made_up)


def test_unusable_questions_and_truths_are_refused():
    with pytest.raises(QuestionError, match="a question in words"):
        question_kind(" ?! ")
    with pytest.raises(QuestionError, match="can be read as count, found 'several'"):
        score_answer("3", "several", "count")

import pytest

from vol3d.text.assertion import status_of


def ask(sentence: str, words: str) -> str:
    start = sentence.lower().index(words)
    return status_of(sentence, start, start + len(words))


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("No pleural effusion, consolidation or nodule is seen.", "pleural effusion"),
        ("No pleural effusion, consolidation or nodule is seen.", "consolidation"),
        ("No pleural effusion, consolidation or nodule is seen.", "nodule"),
        ("Nodules, infiltration and effusion were not detected in either lung.", "nodules"),
        ("Nodules, infiltration and effusion were not detected in either lung.", "infiltration"),
        ("Thickening-effusion was not observed in the pericardium.", "effusion"),
        ("The liver is normal without cyst.", "cyst"),
        ("Absence of emphysema.", "emphysema"),
        ("Neither effusion nor consolidation is present.", "consolidation"),
        ("There is no mass, and no effusion is seen.", "effusion"),
        ("There is no mass, nodule or effusion in the lungs and the heart is normal.", "nodule"),
        ("There are nodules in both lungs, and effusion was not observed.", "effusion"),
        ("The ground glass areas of the earlier scan have disappeared.", "ground glass"),
        ("Consolidation seen in the previous examination was not observed in this one.", "consolidation"),
        ("Pleural effusion: none.", "effusion"),
        ("Emphysema is no longer seen.", "emphysema"),
        ("Pericardial effusion is absent.", "effusion"),
        ("The lungs are free of infiltration.", "infiltration"),
        ("As far as can be seen in this study, no nodule was detected.", "nodule"),
        ("There isn't any effusion.", "effusion"),
        ("Evaluation could not be made, lymph nodes could not be evaluated.", "lymph nodes"),
        ("No nodule (metastasis?) was detected.", "nodule"),
    ],
)
def test_denied(sentence, words):
    assert ask(sentence, words) == "absent"


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("No mass was detected, but emphysema is present.", "emphysema"),
        ("No effusion; however, nodules are seen.", "nodules"),
        ("No infiltration was detected in both lungs, and nodules are observed in the left one.", "nodules"),
        ("No effusion was found and there are nodules.", "nodules"),
        ("There is no mass, emphysema is observed.", "emphysema"),
        ("There is no change in the nodule of the left lung.", "nodule"),
        ("No significant difference was found in the size of the nodules.", "nodules"),
        ("Effusion that did not change since the last study is observed.", "effusion"),
        ("Lymph nodes that did not reach pathological dimensions were observed.", "lymph nodes"),
        ("A nodule which was not seen in the previous examination is observed.", "nodule"),
        ("The nodule was not present in the previous examination.", "nodule"),
        ("Nodules without calcification are observed.", "nodules"),
        ("The lungs could not be evaluated because of effusion.", "effusion"),
        ("The lesion could not be characterised without contrast.", "lesion"),
        ("Not without effusion.", "effusion"),
        ("No abnormality other than emphysema was detected.", "emphysema"),
        ("Nodules were seen in both lungs, mass was not detected.", "nodules"),
        ("Cyst in the left kidney.", "cyst"),
    ],
)
def test_stated(sentence, words):
    assert ask(sentence, words) in ("present", "uncertain")


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("Metastasis cannot be excluded.", "metastasis"),
        ("Possible consolidation in the left lower lobe.", "consolidation"),
        ("A lesion (cyst?) is seen.", "cyst"),
        ("The finding may be pneumonia.", "pneumonia"),
        ("Suspicious for emphysema.", "emphysema"),
    ],
)
def test_in_doubt(sentence, words):
    assert ask(sentence, words) == "uncertain"


def test_without_reaches_to_the_comma_only():
    sentence = "Without cavitation, consolidation is observed in the right lung."
    assert ask(sentence, "cavitation") == "absent"
    assert ask(sentence, "consolidation") == "present"


def test_without_reaches_over_a_list_with_or():
    sentence = "A mass without fat, calcification or cavitation."
    assert [ask(sentence, w) for w in ("mass", "fat", "calcification", "cavitation")] == ["present"] + ["absent"] * 3

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
        ("Lungs: no infiltration, mass or nodule was detected.", "nodule"),
        ("Heart: no effusion, thickening was observed.", "thickening"),
        ("Bones: no lytic, sclerotic lesion is seen.", "lesion"),
        ("Pleural effusion: no pleural effusion is seen.", "effusion"),
        ("Nodules: not detected.", "nodules"),
        ("Nodules unchanged, effusion resolved, atelectasis persists.", "effusion"),
        ("Emphysema: none seen, nodule: absent.", "emphysema"),
        ("Emphysema: none seen, nodule: absent.", "nodule"),
        ("Pleural effusion: has completely resolved.", "effusion"),
        ("The nodule has disappeared and the effusion has increased.", "nodule"),
        ("The effusion persists, nodules were not observed.", "nodules"),
        ("Complete resolution of the consolidation.", "consolidation"),
        ("Disappearance of the effusion on the right.", "effusion"),
        ("The consolidation shows complete regression.", "consolidation"),
        ("Nodules described previously could not be distinguished.", "nodules"),
        ("The lesion of the earlier scan is not distinguished now.", "lesion"),
        ("Effusion not observed, nodules present.", "effusion"),
        ("Lesions other than the calcified nodule were not detected.", "lesions"),
        ("Apart from the nodule of the left lung, cysts were not detected.", "cysts"),
        ("No effusion other than a nodule in one lobe.", "effusion"),
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
        ("Nodules: no significant change.", "nodules"),
        ("Nodules: not seen in the previous examination.", "nodules"),
        ("A nodule is seen in the left lung: no calcification.", "nodule"),
        ("Effusion: no, nodule: yes.", "nodule"),
        ("The nodule has disappeared and the effusion has increased.", "effusion"),
        ("Atelectasis is not seen now, nodules persist.", "nodules"),
        ("Consolidation was not observed and emphysema continues.", "emphysema"),
        ("Nodules were not seen, the amount of effusion decreased.", "effusion"),
        ("The effusion has not completely resolved.", "effusion"),
        ("The effusion has partially resolved.", "effusion"),
        ("Nodules unchanged, effusion resolved, atelectasis persists.", "nodules"),
        ("Nodules unchanged, effusion resolved, atelectasis persists.", "atelectasis"),
        ("The nodules have not increased in size.", "nodules"),
        ("Partial resolution of the consolidation.", "consolidation"),
        ("No resolution of the effusion is seen.", "effusion"),
        ("The nodule could not be clearly distinguished from the vessel.", "nodule"),
        ("Consolidation-atelectasis distinction could not be made.", "atelectasis"),
        ("A nodule not seen before is observed.", "nodule"),
        ("Consolidation not observed, emphysema seen.", "emphysema"),
        ("No nodule apart from the one in the left lobe.", "nodule"),
        ("No nodule was found except those in the right lung.", "nodule"),
        ("No calcification except in the coronary arteries.", "calcification"),
        ("Lesions other than the nodule of the left lobe were not detected.", "nodule"),
        ("Except for a 3,5 mm nodule, infiltrations were not detected.", "nodule"),
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

import re

import pytest

from vol3d.text.grounding import grounding_phrase
from vol3d.text.slots import take_numbers

PHRASES = {
    # the forms of the phantoms' reports
    "There is a 14 mm solid nodule in the right lung with increased FDG uptake, SUVmax 4.2 (ct slice 31, z = 12.0 mm).":
        "solid nodule in the right lung with increased FDG uptake",
    "Small hypermetabolic solid nodule in the right lung, 14 mm, SUVmax 4.2 (ct slice 31, z = 12.0 mm).":
        "small hypermetabolic solid nodule in the right lung",
    "FDG-avid nodule in the right lung, solid on CT, measuring 14 mm with SUVmax 4.2 (ct slice 31, z = -12.0 mm).":
        "FDG-avid nodule in the right lung, solid on CT",
    "There is a 1.4 cm ground-glass nodule of the left lung without FDG uptake, SUVmax 0.9 (ct slice 31, z = 12.0 mm).":
        "ground-glass nodule of the left lung without FDG uptake",
    "A solid nodule in the right lung of 14 mm shows no increased uptake, SUVmax 1.2 (ct slice 3, z = 1.0 mm).":
        "solid nodule in the right lung shows no increased uptake",
    "Solid nodule in the right lung (14 mm, SUVmax 4.2).": "solid nodule in the right lung",
    # the number right after its lesion, earlier numbers, image of how many
    "Liver lesion SUVmax: 7.9 (previously 12.3), axial slice 88.": "liver lesion",
    "Right lung nodule SUVmax 5.4, slice 104.": "right lung nodule",
    "Right axillary node with maximum SUV 6.2 on image 4/137.": "right axillary node",
    "Right axillary node on image 4/137 with SUVmax 6.2, enlarged.": "right axillary node, enlarged",
    "The previously seen node now measures SUVmax 3.3 (image 66), previously 8.0.": "previously seen node",
    # translated, clumsy English
    "In the right lung upper lobe, a nodule with a diameter of 5 mm was observed.":
        "nodule in the right lung upper lobe",
    "Multiple nodules, the largest of which is 12 mm in diameter, are observed in both lungs.":
        "multiple nodules in both lungs",
    "Multiple lymph nodes with a short axis of up to 12 mm are observed in the mediastinum.":
        "multiple lymph nodes in the mediastinum",
    "Calcified nodules measuring up to 4 mm in size are seen in both lungs (series 4, image 123).":
        "calcified nodules in both lungs",
    "Nodule (5 mm, right upper lobe, 4:123) is stable.": "nodule (right upper lobe) is stable",
    "Pericardial effusion reaching 8 mm in its thickest part is observed.": "pericardial effusion",
    "Bilateral pleural effusion reaching 3 cm on the right and 2 cm on the left is observed.":
        "bilateral pleural effusion on the right and on the left",
    "Intense uptake is noted in the T5 vertebra (SUV max 9,3).": "intense uptake in the T5 vertebra",
    "Mass lesion, 5.5 cm in its largest diameter, extending to the hilum.": "mass lesion, extending to the hilum",
    "A 3.5 mm nodule, approx. 4 cm from the hilum.": "nodule",
    "Right adrenal nodule, 18 mm, mean density -5 HU, adenoma.": "right adrenal nodule, adenoma",
    "The ascending aorta measures 42 mm in diameter.": "ascending aorta",
    "Cardiothoracic ratio is 0.55, increased.": "cardiothoracic ratio, increased",
    "L1 vertebra shows a 20% height loss.": "L1 vertebra shows a height loss",
    "Thorax CT was compared with the examination dated 12.03.2020; the nodule is stable.":
        "thorax CT was compared with the examination; the nodule is stable",
    "Lungs: There is a 5 mm nodule in the right upper lobe.": "nodule in the right upper lobe",
    "Liver: Multiple 12 mm cysts are seen.": "liver: multiple cysts",
    "Other: Arms at the sides of the body.": "arms at the sides of the body",
    # numbers that name or count stay
    "Nodes at levels 2 and 4 with SUVmax values of 5.1 and 6.2.": "nodes at levels 2 and 4",
    "2 nodules in segment 4 of the liver, the largest 7 mm.": "2 nodules in segment 4 of the liver",
    "There is a 6 mm lesion in the 6th rib, CO-RADS 5.": "lesion in the 6th rib, CO-RADS 5",
    # denials stay denials
    "There is no pleural effusion.": "no pleural effusion",
    "Pleural effusion was not observed.": "pleural effusion was not observed",
    "No pleural or pericardial effusion was detected.": "no pleural or pericardial effusion",
    "The nodule, which was seen in the previous study, is not observed now.":
        "nodule, which was seen in the previous study, is not observed now",
    "Heart size is normal.": "heart size is normal",
    # nothing is left
    "SUVmax 4.2.": "",
    "It measures 8 mm.": "",
}  # fmt: skip


@pytest.mark.parametrize(("sentence", "phrase"), PHRASES.items())
def test_phrase_of_a_sentence(sentence, phrase):
    assert grounding_phrase(sentence) == phrase


@pytest.mark.parametrize("sentence", PHRASES)
def test_a_phrase_is_its_own_phrase_and_slots_change_nothing(sentence):
    phrase = grounding_phrase(sentence)
    assert grounding_phrase(phrase) == phrase
    assert grounding_phrase(take_numbers(sentence).template) == phrase


THINGS = ("solid nodule in the left lung", "hypodense lesion in the right kidney", "enlarged node, necrotic,")
NUMBERS = ("7 mm", "12 x 8 mm", "3,5 cm", "10-14 mm", "SUVmax 4.2", "SUV max: 11", "34 HU", "12 ml", "image 37", "8x9",
           "1.5", "20%", "03.02.2019")  # fmt: skip
FORMS = ("There is a {t}, {n}.", "A {t} measuring {n} was observed.", "{t} ({n}).", "{n} {t}", "{t} with {n} and more.",
         "The {t} is {n} in size.", "{t}, the largest {n}, is seen.", "{t} of about {n} ({n}; {n})")  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_no_measured_digit_is_left_and_what_is_named_stays(form):
    for thing in THINGS:
        for number in NUMBERS:
            phrase = grounding_phrase(form.format(t=thing, n=number))
            assert not re.search(r"\d|<|>|%", phrase), phrase
            assert all(word.strip(",") in phrase for word in thing.split()), phrase
            assert "()" not in phrase
            assert not phrase.endswith((",", " of", " with", " and"))

"""What makes what untrue: never more than was said."""

import numpy as np
import pytest

from vol3d.text.claims import WIDTH, Claim, claims_of, denied, encode, is_normal, refutes, untrue
from vol3d.text.knowledge import ORGAN_NAMES, finding_texts, prompts
from vol3d.text.labeler import finding_names, label_findings


def known(*true, absent=()):
    return [c for t in true for c in claims_of(t)] + [c for a in absent for c in denied(claims_of(a))]


UNTRUE = [
    ("solid nodule in the right lung", known("No pulmonary nodule or mass.")),
    ("solid nodule in the right lung", known("Both lungs are clear.")),
    ("FDG-avid nodule in the left lung", known(absent=["FDG-avid lesion in the left lung"])),
    ("small solid nodule in the left lung", known(absent=["solid nodule in the left lung"])),
    ("no pulmonary nodule", known("There is a solid nodule in the left lung.")),
    ("both lungs are clear", known("There is a solid nodule in the left lung.")),
    ("pleural effusion on the left", known("No pleural effusion.")),
    ("enlarged mediastinal lymph node", known("No mediastinal lymphadenopathy.")),
]
UNKNOWN = [
    ("solid nodule in the right lung", known("There is a solid nodule in the left lung.")),
    ("solid nodule in the right lung", known(absent=["solid nodule in the left lung"])),
    ("ground-glass nodule in the left lung", known(absent=["solid nodule in the left lung"])),
    ("nodule in the left lung", known(absent=["solid nodule in the left lung"])),
    ("mass in the lung", known("No pulmonary nodule.")),
    ("nodule in the lung", known("No suspicious pulmonary nodule.")),
    ("nodule in the lung", known("No spiculated or otherwise peculiar pulmonary nodule.")),
    ("no solid pulmonary nodule", known("Ground-glass nodule in the left lung.")),
    ("no nodule in the right lung", known("Nodule in the left lung.")),
    ("lesion in the liver", known("Both lungs are clear.")),
    ("FDG-avid lesion in the left lung", known("There is a nodule in the left lung without increased FDG uptake.")),
    ("pleural effusion", known("Pleural effusion has decreased.", "Possible pleural effusion.")),
    ("cardiomegaly", known("Heart contour is normal.")),
    ("lesion in the spleen", known("The spleen is only partly included, no focal lesion in the part shown.")),
    ("lesion with FDG uptake in the left lung", known(absent=["lesion in the left lung with peculiar uptake"])),
]


@pytest.mark.parametrize(("text", "facts"), UNTRUE, ids=[t for t, _ in UNTRUE])
def test_made_untrue(text, facts):
    assert untrue(text, facts)


@pytest.mark.parametrize(("text", "facts"), UNKNOWN, ids=[t for t, _ in UNKNOWN])
def test_not_stated_is_not_untrue(text, facts):
    assert not untrue(text, facts)


@pytest.mark.parametrize(
    "text", ["Liver: No mass, cyst or lesion is seen.", "Lungs: no nodule, mass was detected.", "Spleen: No lesion."]
)
def test_a_list_denied_after_a_heading_claims_nothing(text):
    assert claims_of(text)
    assert not any(claim.present for claim in claims_of(text))


def test_normal_texts():
    assert is_normal("Both lungs are clear. No pleural effusion.")
    assert is_normal("Homogeneous liver without focal lesion.")
    assert not is_normal("No pleural effusion. Nodule in the left lung.")
    assert not is_normal("Lungs not included in the field of view.")
    assert not is_normal("")


def test_a_mirrored_body_exchanges_sides_where_that_is_certain():
    claim = claims_of("nodule in the left lung")[0]
    other = claim.mirrored(True)
    assert (other.side, other.findings, claim.mirrored(False)) == ("right", claim.findings, claim)
    assert claims_of("nodule in the left upper lobe")[0].mirrored(True) is None
    assert claims_of("pericardial effusion on the left")[0].mirrored(True) is None
    assert claims_of("pericardial effusion")[0].mirrored(True) is not None


def test_encoded_claims_keep_what_decides():
    organs = tuple(ORGAN_NAMES)
    one, two = claims_of("solid nodule in the left lung")[0], denied(claims_of("nodule in the lung"))[0]
    vague = Claim(frozenset({"lung_nodule"}), None, None, 0, False, False)
    rows = encode([vague, one, two], 3, organs)
    assert rows.shape == (3, WIDTH)
    assert rows[:, 5].tolist() == [1, 0, -1]  # what is not understood has no row
    assert rows[0, 3] == rows[1, 3] == 1 + organs.index("lung")
    assert rows[:, 4].tolist() == [1, 0, 0]
    assert refutes(two, one)
    assert not (rows[1, :2] & ~rows[0, :2]).any()
    assert np.array_equal(encode([one, two], 1, organs), rows[:1])


@pytest.mark.parametrize("name", finding_names())
def test_every_finding_has_texts_and_the_labeler_knows_its_name(name):
    texts = finding_texts(name)
    assert len(set(texts)) >= 3
    assert label_findings(texts[0])[name] == 1
    assert not any(c.isdigit() for t in texts for c in t)


def test_unknown_names_are_spelt_out_and_prompts_come_in_pairs():
    assert finding_texts("left_adrenal_nodule") == ("left adrenal nodule",)
    positive, negative = prompts("pleural_effusion")
    assert len(positive) == len(negative)
    assert negative[0] == "no pleural effusion"

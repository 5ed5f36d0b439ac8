import pytest

from preprocessing.sources.merlin import finding_name as merlin_name
from vol3d.text.label_names import finding_name, finding_phrases, is_lesion, label_phrases
from vol3d.text.labeler import finding_names


@pytest.mark.parametrize(
    "name", ["kidney_left", "Left_Kidney", "LK", "lKidney", "l kidney", "lt. kidney", "kidney (left)"]
)
def test_one_structure_by_many_names(name):
    expected = ("left kidney", "kidney on the left", "left renal parenchyma")
    assert label_phrases(name.replace("(", "").replace(")", "")) == expected


def test_sides_are_never_mixed_up():
    assert label_phrases("RLL")[0] == "right lower lobe"
    assert label_phrases("lung_lower_lobe_left")[0] == "left lower lobe"
    assert label_phrases("adrenal gland right")[0] == "right adrenal gland"
    assert label_phrases("rib_left_3") == ("left rib 3", "rib 3 on the left")
    assert label_phrases("kidney") == ("kidney",)  # no side is named, and none is made up


def test_lesions_of_organs():
    assert label_phrases("LiverTumor")[:2] == ("liver tumour", "liver tumor")
    assert "hepatic tumour" in label_phrases("liver_tumour")
    assert label_phrases("kidney_cyst_left") == ("left kidney cyst", "cyst of the left kidney")
    assert label_phrases("cancer") == ("cancer", "malignant tumour")
    assert [is_lesion(n) for n in ("liver", "liver_tumor", "GGO", "hepatic vessel", "mets")] == [
        False,
        True,
        True,
        False,
        True,
    ]


def test_a_name_that_nobody_knows_is_spelt_out():
    assert label_phrases("Foo_bar-baz") == ("foo bar baz",)


CT_RATE = """Medical material, Arterial wall calcification, Cardiomegaly, Pericardial effusion, Coronary artery wall
calcification, Hiatal hernia, Lymphadenopathy, Emphysema, Atelectasis, Lung nodule, Lung opacity, Pulmonary fibrotic
sequela, Pleural effusion, Mosaic attenuation pattern, Peribronchial thickening, Consolidation, Bronchiectasis,
Interlobular septal thickening"""


def test_ct_rates_labels_are_the_labelers():
    names = [finding_name(" ".join(n.split())) for n in CT_RATE.split(",")]
    assert len(names) == 18
    assert set(names) <= set(finding_names())
    assert all(finding_phrases(n)[0] for n in names)


def test_names_of_merlin_meet_the_vocabulary():
    assert merlin_name("gallstones") == "gallstone"
    assert merlin_name("coronary_calcification") == "coronary_artery_wall_calcification"
    assert finding_phrases("renal_cyst") == finding_phrases("kidney_cyst")
    assert finding_phrases("something new") == ("something new",)

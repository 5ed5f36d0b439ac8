import time

import pytest

from preprocessing.phantom import generate_study
from vol3d.text import find_mentions, finding_names, label_findings

CHEST = (
    "medical_material", "arterial_wall_calcification", "cardiomegaly", "pericardial_effusion",
    "coronary_artery_wall_calcification", "hiatal_hernia", "lymphadenopathy", "emphysema", "atelectasis", "lung_nodule",
    "lung_opacity", "pulmonary_fibrotic_sequela", "pleural_effusion", "mosaic_attenuation_pattern",
    "peribronchial_thickening", "consolidation", "bronchiectasis", "interlobular_septal_thickening",
)  # fmt: skip


def chest(text: str) -> set[str]:
    labels = label_findings(text)
    return {name for name in CHEST if labels[name]}


def test_every_finding_is_answered_with_0_or_1():
    labels = label_findings("")
    assert set(CHEST) <= set(labels)
    assert tuple(labels) == finding_names()
    assert set(labels.values()) == {0}


NORMAL = (
    "The trachea and the main bronchi are patent. As far as can be seen without contrast, mediastinal vessels, "
    "heart contour and heart size are normal. Pericardial effusion-thickening was not seen. No enlarged lymph "
    "nodes in the prevascular, paratracheal, subcarinal or hilar-axillary regions were detected. Aeration of both "
    "lungs is normal and no nodular or infiltrative lesion is detected in the lung parenchyma. Pleural effusion- "
    "thickening was not detected. Active infiltration in the right lung and mass in both lungs were not detected. "
    "Neither consolidation nor atelectasis. Lymph nodes of pathological size and appearance were not observed in "
    "either axilla. No free fluid-collection in the abdomen. Evaluation of mediastinal lymph nodes is suboptimal. "
    "No lytic-destructive lesion was observed in the bones."
)


def test_a_normal_report_has_no_finding():
    assert chest(NORMAL) == set()
    assert not any(label_findings(NORMAL).values())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A port catheter ends in the vena cava.", {"medical_material"}),
        ("Sternotomy wires and a cardiac pacemaker are observed.", {"medical_material"}),
        ("Metallic suture materials secondary to surgery are seen.", {"medical_material"}),
        ("A nasogastric tube is present.", {"medical_material"}),
        ("Prosthetic aortic valve is observed.", {"medical_material"}),
        ("Degenerative changes in the end plates, tubular structures.", set()),
        ("Calcific atheroma plaques are observed in the aortic arch.", {"arterial_wall_calcification"}),
        ("Atheroma plaques are seen in the aorta and the coronary arteries.",
         {"arterial_wall_calcification", "coronary_artery_wall_calcification"}),
        ("Calcified plaques in the LAD.", {"coronary_artery_wall_calcification"}),
        ("Calcification of the aortic valve.", set()),
        ("Calcific plaques are observed in the abdominal aorta.", set()),
        ("Calcified pleural plaques, the thoracic aorta is normal.", set()),
        ("The heart is larger than normal.", {"cardiomegaly"}),
        ("Cardiothoracic index increased in favour of the heart.", {"cardiomegaly"}),
        ("Heart size is not increased.", set()),
        ("Cardiothoracic ratio is within normal limits.", set()),
        ("An effusion of 7 mm is seen in the pericardial space.", {"pericardial_effusion"}),
        ("Pericardial and bilateral pleural effusion.", {"pericardial_effusion", "pleural_effusion"}),
        ("Pericardial effusion is seen. Pleural effusion was not detected.", {"pericardial_effusion"}),
        ("Minimal effusion in the right hemithorax.", {"pleural_effusion"}),
        ("No pleural effusion on the left. Pleural effusion on the right.", {"pleural_effusion"}),
        ("Sliding type hernia at the lower end of the esophagus.", {"hiatal_hernia"}),
        ("Left inguinal hernia.", set()),
        ("Conglomerate lymphadenopathies in the mediastinum.", {"lymphadenopathy"}),
        ("Mediastinal lymph nodes of normal size.", set()),
        ("Subpleural lymph node of 4 mm on the fissure.", {"lung_nodule"}),
        ("Amphoesematous changes in both lungs.", {"emphysema"}),
        ("Linear atelectasis in the lingula.", {"atelectasis"}),
        ("Linear fibroatelectasis in the lingula.", {"pulmonary_fibrotic_sequela"}),
        ("Several calcified nodules in both lungs.", {"lung_nodule"}),
        ("A nodule in the left lobe of the thyroid gland.", set()),
        ("Nodular thickening of the left adrenal gland.", set()),
        ("Nodules are seen in both lungs, mass was not detected.", {"lung_nodule"}),
        ("Dependent density increases in both lungs.", {"lung_opacity"}),
        ("Areas of increased density in the lower lobes.", {"lung_opacity"}),
        ("Increased density of the fatty planes of the breast.", set()),
        ("Pleuroparenchymal sequela density increases at the apex.", {"pulmonary_fibrotic_sequela"}),
        ("Sequela changes in the left kidney.", set()),
        ("Patchy ground-glass densities and focal consolidation.", {"lung_opacity", "consolidation"}),
        ("The appearance was evaluated as pneumonic infiltration in the right lung.", {"lung_opacity"}),
        ("Mosaic perfusion (small airway disease?).", {"mosaic_attenuation_pattern"}),
        ("Increase in thickness is seen in the peribronchial sheath.", {"peribronchial_thickening"}),
        ("There was no increase in peribronchial wall thickness.", set()),
        ("Tubular bronchiectasis with peribronchial thickening.", {"bronchiectasis", "peribronchial_thickening"}),
        ("Smooth thickening of the interlobular septa.", {"interlobular_septal_thickening"}),
        ("A ground-glass nodule of the earlier scan was not observed in the current examination.", set()),
        ("IMPRESSION: Emphysema.", {"emphysema"}),
        ("INDICATION: emphysema?\nFINDINGS: Clear lungs.", set()),
    ],
)  # fmt: skip
def test_chest_idioms(text, expected):
    assert chest(text) == expected


@pytest.mark.parametrize(
    ("text", "present", "absent"),
    [
        ("Hypodense lesion in the liver (cyst?).", {"liver_lesion", "liver_cyst"}, {"spleen_lesion"}),
        ("Bilateral renal simple cysts, stone in the left kidney.", {"kidney_cyst", "kidney_stone"}, {"gallstone"}),
        ("Grade 2 hydronephrosis. No gallstone.", {"hydronephrosis"}, {"gallstone"}),
        ("Millimetric calculi in the gallbladder.", {"gallstone"}, {"kidney_stone"}),
        ("Free fluid is seen in the abdomen.", {"ascites"}, {"pleural_effusion"}),
        ("Liver density decreased in line with hepatosteatosis.", {"hepatic_steatosis"}, {"liver_lesion"}),
        ("FDG-avid nodule in the right lung.", {"fdg_avid_lesion", "fdg_avid_lung_lesion"}, {"fdg_avid_liver_lesion"}),
        ("Hypermetabolic mediastinal lymph nodes, SUVmax 7.", {"fdg_avid_lymph_node"}, {"fdg_avid_lung_lesion"}),
        ("Physiological uptake in the myocardium.", {"physiological_uptake"}, {"fdg_avid_lesion"}),
        ("Non-avid nodule in the left lung.", {"lung_nodule"}, {"fdg_avid_lesion"}),
        ("A lesion in the liver shows no increased uptake.", {"liver_lesion"}, {"fdg_avid_lesion"}),
        ("No FDG-avid lesion.", set(), {"fdg_avid_lesion"}),
        ("Thickening of the bronchial walls.", {"bronchial_wall_thickening"}, {"peribronchial_thickening"}),
        ("Air under the skin, subcutaneous emphysema.", {"subcutaneous_emphysema"}, {"pneumothorax"}),
        ("Lymph nodes with a short axis of 5 mm.", {"lymphadenopathy"}, {"enlarged_lymph_nodes"}),
        ("Lymph nodes with a short axis of 18 mm.", {"lymphadenopathy", "enlarged_lymph_nodes"}, set()),
    ],
)
def test_other_vocabularies(text, present, absent):
    labels = label_findings(text)
    assert {n for n in present if not labels[n]} == set()
    assert {n for n in absent if labels[n]} == set()


def test_mentions_carry_status_organ_and_side():
    found = find_mentions("No effusion. A nodule is seen in the left lower lobe. Possible consolidation.")
    assert [(m.finding, m.status, m.organ, m.side) for m in found if m.finding in CHEST] == [
        ("pleural_effusion", "absent", None, None),
        ("lung_nodule", "present", "lung", "left"),
        ("consolidation", "uncertain", "lung", None),
    ]


@pytest.mark.parametrize("index", range(6))
def test_phantom_reports_agree_with_their_truth(index):
    row = generate_study(index, 31, kind="mixed").row
    text = "\n".join(f"{name.upper()}: {part}" for name, part in row["report"].items())
    labels = label_findings(text)
    assert {n: labels[n] for n, v in row["labels"].items() if v is not None} == {
        n: v for n, v in row["labels"].items() if v is not None
    }
    avid = any(f.get("uptake") == "avid" for f in row["findings"])
    assert labels["fdg_avid_lesion"] == avid


def test_reads_500_reports_a_second():
    """Reports of 20 sentences, half of them never read before."""
    reports = [
        NORMAL + f" A nodule of {i} mm is seen in the left lung. Plaques in the aorta, {i} mm." * 5 for i in range(300)
    ]
    label_findings(reports[0])
    start = time.process_time()
    for report in reports:
        label_findings(report)
    assert len(reports) / (time.process_time() - start) > 500

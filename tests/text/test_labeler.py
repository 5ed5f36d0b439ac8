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
    ("text", "expected"),
    [
        # a list after a heading
        ("Lungs: No infiltration, mass, or nodule was detected.", set()),
        ("Mediastinum: no lymphadenopathy, effusion was detected.", set()),
        ("Pleura: no effusion, thickening was detected.", set()),
        ("Lungs: no active infiltration, consolidation or mass was seen; emphysema is present.", {"emphysema"}),
        ("When evaluated in the lung window: no mass, nodule or effusion is seen.", set()),
        ("Pleural effusion: No pleural effusion was detected.", set()),
        ("Effusion: none detected. Atelectasis: present.", {"atelectasis"}),
        ("Effusion: no, nodule: yes.", {"lung_nodule"}),
        ("Pleural effusion: resolved. Emphysema: mild.", {"emphysema"}),
        ("Lung nodules: no significant change.", {"lung_nodule"}),
        ("Lung parenchyma: no mass. Millimetric nodules are present.", {"lung_nodule"}),
        # two spaces that share a word
        ("Pleural and pericardial effusion.", {"pleural_effusion", "pericardial_effusion"}),
        ("Bilateral pleural and pericardial effusion is observed.", {"pleural_effusion", "pericardial_effusion"}),
        ("Minimal pericardial and right pleural effusion.", {"pleural_effusion", "pericardial_effusion"}),
        ("Bilateral pleural effusion and minimal pericardial effusion.", {"pleural_effusion", "pericardial_effusion"}),
        ("Pleural and pericardial effusion was not detected.", set()),
        ("Pleural effusion is observed, pericardial thickening.", {"pleural_effusion"}),
        ("A small amount of pericardial fluid, no pleural fluid.", {"pericardial_effusion"}),
        # effusion of the abdomen
        ("Minimal effusion in the perihepatic area.", set()),
        ("Perihepatic and perisplenic effusion.", set()),
        ("Effusion around the liver.", set()),
        ("Effusion in the pelvic region.", set()),
        ("Bilateral pleural effusion reaching the perihepatic area.", {"pleural_effusion"}),
        ("Effusion in the left hemithorax; perihepatic effusion.", {"pleural_effusion"}),
        # material
        ("Stent and bypass graft materials in the coronary arteries.", {"medical_material"}),
        ("Stents in the LAD and bypass grafts are present.", {"medical_material"}),
        ("Bypass grafts and sternal wires are seen.", {"medical_material"}),
        ("Coronary stent and bypass grafts with calcified walls of the ascending aorta.",
         {"medical_material", "arterial_wall_calcification"}),
        ("Coronary artery stent is seen, there are calcified plaques in the LAD.",
         {"medical_material", "coronary_artery_wall_calcification"}),
        ("Calcified plaques and stents in the coronary arteries.",
         {"medical_material", "coronary_artery_wall_calcification"}),
        ("Vertebroplasty material at T12.", {"medical_material"}),
        ("Kyphoplasty material in L1.", {"medical_material"}),
        ("Cement material is observed in T12.", {"medical_material"}),
        ("Contrast material was given intravenously.", set()),
        # change and exceptions
        ("Atelectasis seen in the previous CT is not seen now, nodules persist.", {"lung_nodule"}),
        ("The nodule has disappeared and the pleural effusion has increased.", {"pleural_effusion"}),
        ("Consolidation is not observed, ground glass nodules persist.", {"lung_nodule", "lung_opacity"}),
        ("The left effusion has resolved; atelectasis remains unchanged.", {"atelectasis"}),
        ("Lymph nodes increased in size, effusion and nodules were not detected.", set()),
        ("No suspicious nodule was found apart from the 4 mm nodule in the right upper lobe.", {"lung_nodule"}),
        ("No nodule other than the one in the right upper lobe was detected.", {"lung_nodule"}),
        ("No mass or consolidation, except for linear atelectasis in the lingula, was detected.", {"atelectasis"}),
        ("No lymphadenopathy other than those described above was seen.", set()),
        ("Complete resolution of the consolidation.", set()),
        ("Previously described nodules are not distinguished in the current study.", set()),
        ("The nodule could not be distinguished from the vessel.", {"lung_nodule"}),
        ("The thoracic aorta is normal, calcific plaques in the coronary arteries.",
         {"coronary_artery_wall_calcification"}),
    ],
)  # fmt: skip
def test_clumsy_prose(text, expected):
    assert chest(text) == expected


@pytest.mark.parametrize(
    ("text", "described", "enlarged"),
    [
        ("Lymph node is not pathological in size and appearance.", 1, 0),
        ("Lymph nodes, none of which are pathologically enlarged, are observed in the mediastinum.", 1, 0),
        ("Lymph nodes of nonpathological size are seen in the mediastinum.", 1, 0),
        ("Mediastinal lymph nodes, short diameters less than 1 cm, not pathological.", 1, 0),
        ("Several lymph nodes are seen in the mediastinum, but none of them reaches pathological size.", 1, 0),
        ("Lymph nodes are seen in the mediastinum; they are not enlarged.", 1, 0),
        ("Millimetric mediastinal lymph nodes that do not reach pathological dimensions were observed.", 1, 0),
        ("Hilar lymph nodes are within normal limits.", 1, 0),
        ("Short axes of the lymph nodes are below 10 mm.", 1, 0),
        ("Lymph nodes with a short axis of 6 mm are observed in the mediastinum.", 1, 0),
        ("Mediastinal lymph nodes of up to 14 mm, and axillary lymph nodes are not pathological.", 1, 1),
        ("Enlarged mediastinal lymph nodes; axillary nodes are not enlarged.", 1, 1),
        ("Enlarged mediastinal lymph nodes without pathological wall thickening of the esophagus.", 1, 1),
    ],
)
def test_described_nodes_are_labelled_and_only_enlarged_ones_are_enlarged(text, described, enlarged):
    """Published label sets count described nodes as lymphadenopathy, also those called not pathological."""
    labels = label_findings(text)
    assert (labels["lymphadenopathy"], labels["enlarged_lymph_nodes"]) == (described, enlarged)


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
        ("Perihepatic and perisplenic effusion.", {"ascites"}, {"pleural_effusion"}),
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

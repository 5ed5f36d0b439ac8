import pytest

from vol3d.metrics.report_claims import (
    LESION,
    OUTSIDE,
    claims_of,
    is_lesion,
    report_text,
)


def told(text: str) -> list[tuple]:
    return [(c.organ, c.side, c.present) for c in claims_of(text) if c.kind == LESION]


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("Nodule in the right lung.", [("lung", "right", True)]),
        ("No focal lesion in the liver, spleen or left kidney.",
         [("liver", None, False), ("spleen", None, False), ("kidney", "left", False)]),
        ("Left lung nodule and right kidney cyst of 12 mm.", [("lung", "left", True), ("kidney", "right", True)]),
        ("No lesion in the liver, but a mass in the spleen.", [("liver", None, False), ("spleen", None, True)]),
        ("Two nodules in the left lung.", [("lung", "left", True)] * 2),
        ("Nodules in both lungs.", [("lung", "left", True), ("lung", "right", True)]),
        ("Lungs: 8 mm nodule on the left.", [("lung", "left", True)]),
        ("The spleen is unremarkable. Both lungs are clear.", [("spleen", None, False), ("lung", "bilateral", False)]),
        ("The liver is normal in size.", []),
        ("Lymph nodes of normal size in the mediastinum.", []),
        ("No other lesion in the liver.", []),
        ("No nodule in the left lung, no nodule in the right lung.",
         [("lung", "left", False), ("lung", "right", False)]),
        ("Nodule in the left upper lobe of the lung.", [("lung", "left", True)]),
        ("Lungs: Nodule in the right lung.", [("lung", "right", True)]),
        ("None of the findings that are looked for is seen in the imaged region.", [(None, None, False)]),
        ("Right lung not seen: out of the field of view or removed.", []),
        ("The left kidney has been resected.", [("kidney", "left", False)]),
        ("INDICATION: nodule in the right lung.\nFINDINGS: No pulmonary nodule or mass.", [("lung", None, False)]),
    ],
)  # fmt: skip
def test_places_and_sides_are_those_of_the_words(text: str, places: list[tuple]):
    assert told(text) == places


def test_each_lesion_keeps_its_own_words():
    liver, lung = claims_of(
        "Hypodense lesions in the liver, the largest 23 mm, and a small FDG-avid solid nodule in the right lung, "
        "SUVmax 4.2."
    )
    assert (liver.density, liver.diameter_mm, liver.uptake, liver.many) == ("hypodense", 23.0, None, True)
    assert (lung.density, lung.size, lung.uptake, lung.suv_max) == ("solid", "small", "avid", 4.2)
    first, second = claims_of("Two nodules in the left lung, 8 mm and 0.5 cm.")
    assert (first.diameter_mm, second.diameter_mm) == (8.0, 5.0)
    assert claims_of("Mass in the liver of 5.5 x 4.2 cm (ct slice 31, z = 12.0 mm).")[0].diameter_mm == 55.0


def test_a_denial_of_one_sort_denies_no_other():
    (claim,) = claims_of("No FDG-avid lesion in the liver.")
    assert (claim.present, claim.uptake) == (False, "avid")


def test_out_of_view_is_neither_there_nor_free():
    (claim,) = claims_of("Kidneys: Kidneys not included in the field of view.")
    assert (claim.kind, claim.organ, claim.present) == (OUTSIDE, "kidney", False)


def test_other_findings_come_by_the_vocabulary():
    claims = claims_of("Right pleural effusion. No pericardial effusion.")
    assert {(c.kind, c.side, c.present) for c in claims} >= {
        ("pleural_effusion", "right", True), ("pericardial_effusion", None, False),
    }  # fmt: skip
    assert is_lesion("metastasis")
    assert not is_lesion("pleural effusion")


def test_sections_are_told_apart():
    text = report_text({"indication": "Mass?", "findings": "Nodule in the left lung.", "impression": "Lung nodule."})
    assert [c.section for c in claims_of(text) if c.kind == LESION] == ["findings", "impression"]

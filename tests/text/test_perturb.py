import pytest

from preprocessing.phantom import generate_study
from preprocessing.phantom_scan import PhantomOptions
from vol3d.text import find_mentions, label_findings
from vol3d.text.perturb import KINDS, hard_negatives, perturb, perturbations
from vol3d.text.reports import sections, sentences
from vol3d.text.slots import take_numbers


def present(text: str) -> set[str]:
    return {name for name, value in label_findings(text).items() if value}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A nodule in the right lung.", "A nodule in the left lung."),
        ("Right-sided pleural effusion", "Left-sided pleural effusion"),
        ("RIGHT pneumothorax", "LEFT pneumothorax"),
        ("left kidney", "right kidney"),
        ("No nodule in the left lung.", "No nodule in the right lung."),
        ("Left atrium is enlarged.", "Right atrium is enlarged."),
        ("Bilateral pleural effusion, more on the left.", None),
        ("Nodules in the left and right lung.", None),
        ("Right middle lobe atelectasis.", None),
        ("Lesion in the spleen on the left.", None),
        ("Plaques in the left anterior descending artery.", None),
        ("Sutures left in place.", None),
        ("Nodule in the LUL.", None),
        ("Pleural effusion.", None),
    ],
)
def test_side(text, expected):
    found = perturb(text, "side")
    assert (found.text if found else None) == expected
    if found:
        assert present(found.text) == present(text)
        assert not found.contradicts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("There is a nodule in the right lung.", "There is no nodule in the right lung."),
        ("There are multiple nodules in both lungs.", "There are no nodules in both lungs."),
        ("A nodule is seen in the left lung.", "No nodule is seen in the left lung."),
        ("Pericardial effusion is observed.", "Pericardial effusion is not observed."),
        ("Large hypodense lesion in the liver.", "No large hypodense lesion in the liver."),
        ("lesion in the liver", "no lesion in the liver"),
        ("There is no pleural effusion.", "There is a pleural effusion."),
        ("Pleural effusion was not detected.", "Pleural effusion was detected."),
        ("No focal hepatic lesion.", "Focal hepatic lesion."),
        ("No pulmonary nodule or mass.", "Pulmonary nodule or mass."),
        ("Spleen without focal lesion.", "Spleen with focal lesion."),
        ("There is mild cardiomegaly.", "There is no mild cardiomegaly."),
        ("There is no evidence of pulmonary embolism.", "There is evidence of pulmonary embolism."),
        (
            "Ground glass densities are observed in both lungs.",
            "Ground glass densities are not observed in both lungs.",
        ),
        ("No significant change in the nodule in the left lung.", None),
        ("Right hilar lymphadenopathy and left pleural effusion.", None),
        ("The nodule in the left lung has disappeared.", None),
        ("No nodule, but an effusion is seen.", None),
        ("Possible nodule in the left lung.", None),
        ("Both lungs are clear.", None),
        ("left kidney", None),
        ("Is there a nodule?", None),
        ("A nodule. An effusion.", None),
    ],
)
def test_presence(text, expected):
    found = perturb(text, "presence")
    assert (found.text if found else None) == expected
    if found:
        assert found.contradicts
        assert bool(present(text)) != bool(present(found.text))
        assert [m.finding for m in find_mentions(text)] == [m.finding for m in find_mentions(found.text)]


@pytest.mark.parametrize(
    ("text", "expected", "gone", "come"),
    [
        ("Lesion in the liver.", "Lesion in the spleen.", {"liver_lesion"}, {"spleen_lesion"}),
        ("Pleural effusion.", "Pericardial effusion.", {"pleural_effusion"}, {"pericardial_effusion"}),
        ("Nodule in the left lung.", "Nodule in the left kidney.", {"lung_nodule", "lung_lesion"}, {"kidney_lesion"}),
        ("No focal hepatic lesion.", "No focal splenic lesion.", set(), set()),
        ("liver", "spleen", set(), set()),
        ("Left pleural effusion.", None, None, None),
        ("Increased FDG uptake in the right adrenal gland.", None, None, None),
        ("Renal stones.", None, None, None),
        ("Hepatic steatosis.", None, None, None),
        ("Lesion between liver and spleen.", None, None, None),
        ("Nodule in the upper lobe of the left lung.", None, None, None),
        ("Nodule adjacent to the pleura.", None, None, None),
    ],
)
def test_organ(text, expected, gone, come):
    found = perturb(text, "organ")
    assert (found.text if found else None) == expected
    if found:
        assert present(text) - present(found.text) == gone
        assert present(found.text) - present(text) == come


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("Small left pleural effusion.", "size", "Large left pleural effusion."),
        ("Minimal pericardial effusion.", "size", "Massive pericardial effusion."),
        ("Mild emphysema.", "size", "Severe emphysema."),
        ("Medium-sized lesion in the liver (<slice_1>).", "size", "Large lesion in the liver (<slice_1>)."),
        ("Small nodule in the left lung of 6 mm.", "size", None),
        ("Small nodule in the left lung of <size_1>.", "size", None),
        ("Lesion of the small bowel.", "size", None),
        ("Mild to moderate emphysema.", "size", None),
        ("Small nodule next to a large mass in the lung.", "size", None),
        ("No small nodule in the lung.", "size", None),
        ("A hypodense lesion in the liver.", "density", "A hyperdense lesion in the liver."),
        ("Lytic lesion in the spine.", "density", "Sclerotic lesion in the spine."),
        ("A hypermetabolic nodule in the lung.", "uptake", "A non-avid nodule in the lung."),
        ("A non-avid nodule in the lung.", "uptake", "An FDG-avid nodule in the lung."),
        ("Nodule in the lung without FDG uptake.", "uptake", "Nodule in the lung with increased FDG uptake."),
        ("A solid nodule in the right lung shows no increased uptake.", "uptake",
         "A solid nodule in the right lung shows increased uptake."),
        ("Hypermetabolic nodule in the lung, SUVmax 7.", "uptake", None),
        ("No FDG-avid lesion in the liver.", "uptake", None),
        ("Physiological uptake in the heart.", "uptake", None),
    ],
)  # fmt: skip
def test_size_density_and_uptake(text, kind, expected):
    found = perturb(text, kind)
    assert (found.text if found else None) == expected
    if found and kind == "uptake":
        changed = present(text) ^ present(found.text)
        assert "fdg_avid_lesion" in changed
        assert all(name.startswith("fdg_avid") for name in changed)
    elif found:
        assert present(text) == present(found.text)


def test_what_changed_is_named():
    found = perturb("The small nodule in the left lung.", "size")
    assert (found.kind, found.was, found.now, found.contradicts) == ("size", "small", "large", True)
    assert not perturb("A small nodule in the left lung.", "size").contradicts  # there may be two
    assert [c.kind for c in perturbations("FDG-avid nodule in the right lung")] == [
        "side",
        "presence",
        "organ",
        "uptake",
    ]


def test_negatives_that_the_report_makes_true_are_left_out():
    text = "Small nodule in the left lung."
    assert {c.kind for c in hard_negatives(text, text)} == {"side", "presence", "organ", "size"}
    both = text + " Nodule in the right lung."
    assert {c.kind for c in hard_negatives(text, both)} == {"presence", "organ", "size"}
    two_sizes = text + " Large nodule in the left lung."
    assert {c.kind for c in hard_negatives(text, two_sizes)} == {"side", "presence", "organ"}
    hot = "FDG-avid nodule in the left lung."
    assert {c.kind for c in hard_negatives(hot, hot)} == {"side", "presence", "organ", "uptake"}
    assert "uptake" not in {c.kind for c in hard_negatives(hot, hot + " Non-avid nodule in the left lung.")}


def test_phantom_sentences_and_phrases_have_counterparts_that_differ_as_intended():
    options = PhantomOptions(ct_spacing_mm=(9, 9), pet_spacing_mm=((9, 9, 9),), lesions=(3, 6))
    counts = dict.fromkeys(KINDS, 0)
    for index in range(3):
        row = generate_study(index, 11, options=options).row
        said = sentences(sections(row["report"]["findings"])["findings"])
        texts = [take_numbers(s).template for s in said] + row["absent"][:20]
        texts += [p for m in row["masks"] for p in m["phrases"][:4]]
        for text in texts:
            for found in perturbations(text):
                counts[found.kind] += 1
                assert found.text != text
                before, after = present(text), present(found.text)
                if found.kind == "presence":
                    assert not (before and after), text
                elif found.kind in ("side", "size", "density"):
                    assert before == after, text
                elif found.kind == "uptake":
                    assert all(n.startswith("fdg_avid") for n in before ^ after), text
    assert min(counts.values()) >= 5, counts

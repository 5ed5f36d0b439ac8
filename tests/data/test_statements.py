"""What a study's words may be used for: each rule with an entry made by hand."""

from types import SimpleNamespace
from typing import Any

from vol3d.cache import MaskRecord
from vol3d.data.statements import NOTHING, Knowledge, read_knowledge
from vol3d.text.claims import untrue


def entry(text: str = "", **more: Any) -> SimpleNamespace:
    report = {"findings": text} if text else {}
    return SimpleNamespace(report=report, **{"labels": {}, "findings": [], "absent": [], **more})


def read(study: SimpleNamespace, *phrases: str, statements: bool = True, contrast: bool = True) -> Knowledge:
    masks = [MaskRecord(name="m", image="ct", phrases=phrases, finding_id="f1", voxels=1)] if phrases else []
    return read_knowledge(study, masks, statements=statements, contrast=contrast)  # type: ignore[arg-type]


REPORT = (
    "There is a 14 mm solid nodule in the right lung (image 31). No pleural effusion. Possible atelectasis. "
    "The nodule in the left lung has increased since 2019. The spleen is only partly included, no focal lesion."
)


def test_sentences_that_are_certain_become_statements_without_numbers() -> None:
    known = read(entry(REPORT))
    assert known.present == ("solid nodule in the right lung",)
    assert known.absent == ("pleural effusion",)  # a denial is asked as what it denies
    assert not any(c.isdigit() for t in known.texts() for c in t)


def test_nothing_is_read_unless_asked_for() -> None:
    assert read(entry(REPORT), statements=False, contrast=False) is NOTHING
    assert not list(read(entry(REPORT), statements=False).texts())
    assert not list(read(entry(REPORT), contrast=False).contrast_texts())


def test_a_phrase_that_has_a_mask_is_no_statement() -> None:
    known = read(entry(REPORT), "Solid nodule in the right lung")
    assert known.present == ()
    assert read(entry(REPORT, absent=["pleural effusion"])).absent == ()


def test_labels_become_texts_and_null_becomes_nothing() -> None:
    known = read(entry(labels={"pleural_effusion": 1, "lung_nodule": 0, "emphysema": None}))
    assert "fluid in the pleural space" in known.present
    assert "nodule in the lung" in known.absent
    assert not any("emphysema" in t for t in known.texts())
    assert {s.organ for s in known.sections} == {None, "pleura", "lung"}  # the words of a study without a report
    assert next(s for s in known.sections if s.organ == "lung").text == "No pulmonary nodule."


def test_sources_that_disagree_leave_it_unknown() -> None:
    known = read(entry(REPORT, labels={"lung_nodule": 0, "pleural_effusion": 1}))
    assert not any("nodule" in t for t in known.absent)
    assert not any("pleural" in t for t in known.texts())
    known = read(entry("Both lungs are clear.", labels={"lung_nodule": 1}))
    assert not known.present


def test_structured_findings_are_statements() -> None:
    stated = [
        {"name": "FDG-avid lesion in the liver", "present": True},
        {"name": "focal lesion in the left kidney", "organ": "kidney", "side": "left", "present": False},
        {"name": "lesion in the spleen", "present": None},
    ]
    known = read(entry(findings=stated))
    assert known.present == ("FDG-avid lesion in the liver",)
    assert known.absent == ("focal lesion in the left kidney",)


def test_hard_negatives_only_where_structured_truth_makes_them_untrue() -> None:
    sentence = "There is a solid nodule in the right lung."
    assert read(entry(sentence)).hard == ()  # nobody said that the left lung has none
    denial = [{"name": "focal lesion in the left lung", "side": "left", "organ": "lung", "present": False}]
    assert "solid nodule in the left lung" in read(entry(sentence, findings=denial)).hard
    assert "solid nodule in the left lung" in read(entry(sentence, absent=["nodule in the left lung"])).hard
    both = read(entry(sentence + " A nodule in the left lung.", absent=[]))
    assert both.hard == ()
    label = read(entry("There is a lesion in the liver.", labels={"spleen_lesion": 0}))
    assert "lesion in the spleen" in label.hard
    # the report's own denial is not structured truth: too much is said in prose for that
    assert read(entry(sentence + " No lesion in the left lung.")).hard == ()


def test_sections_by_organ_and_decoys_that_are_untrue() -> None:
    known = read(entry("Lungs: 5 mm nodule in the right lung.\nLiver: No focal hepatic lesion.\nOther: Arms raised."))
    by_organ = {s.organ: s for s in known.sections}
    assert by_organ["lung"].text == "Nodule in the right lung."
    assert not by_organ["lung"].normal
    assert by_organ["liver"].normal
    assert by_organ[None].text.startswith("Nodule in the right lung. No focal hepatic lesion.")
    assert known.decoys
    assert all(untrue(d.text, known.facts) for d in known.decoys)
    assert not any(untrue(s.text, known.facts) for s in known.sections)
    assert "No nodule in the right lung." in {d.text for d in known.decoys}


def test_a_long_report_is_cut_after_a_sentence() -> None:
    lines = " ".join(f"Nodule in the left lung, kind {'x' * n}." for n in range(1, 60))
    whole = next(s for s in read(entry(lines)).sections if s.organ is None)
    assert 80 < len(whole.text.split()) <= 107
    assert whole.text.endswith(".")

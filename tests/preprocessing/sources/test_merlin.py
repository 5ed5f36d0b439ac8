import pytest
from openpyxl import Workbook

from preprocessing.sources import merlin
from vol3d.errors import ManifestError


@pytest.fixture
def folder(tmp_path, make):
    root = tmp_path / "merlinabdominalctdataset"
    for study in ("AC1", "AC2", "AC3"):
        make.ct(root / "merlin_data" / f"{study}.nii.gz")
    book = Workbook()
    book.active.append(["study id", "Findings", "Split", "Few Shot"])
    book.active.append(["AC1", "LIVER: Fatty liver. No stones. IMPRESSION: Steatosis.", "train", 0])
    book.active.append(["AC2", "Normal.", "val", 0])
    book.active.append(["AC3", None, "test", 0])
    book.active.append(["AC4", "Normal.", "test", 0])
    book.save(root / "reports_final.xlsx")
    make.csv(
        root / "zero_shot_findings_disease_cls.csv", "study id,hepatic_steatosis,gallstones,appendicitis", "AC1,1,0,-1",
    )  # fmt: skip
    return root


def test_rows_and_cache(folder, tmp_path, make):
    rows = {row["study_id"]: row for row in merlin.rows(folder)}
    assert {k: row["split"] for k, row in rows.items()} == {"AC1": "train", "AC2": "val", "AC3": "test"}
    first = rows["AC1"]
    assert first["labels"] == {"hepatic_steatosis": 1, "gallstone": 0, "appendicitis": None}
    assert first["absent"] == ["gallstones", "cholelithiasis"]  # not mentioned is not absent
    assert first["report"] == {"findings": "LIVER: Fatty liver. No stones.", "impression": "Steatosis."}
    assert rows["AC3"]["report"] == {}
    cache, summary = make.cached(rows.values(), tmp_path)
    assert not summary.quarantined
    assert cache.entry("AC1").attributes["labels"]["appendicitis"] is None


def test_missing_pieces_are_named(folder, tmp_path, make):
    with pytest.raises(ManifestError, match=r"reports_final\.xlsx"):
        merlin.rows(tmp_path / "merlinabdominalctdataset" / "merlin_data")
    (folder / "reports_final.xlsx").unlink()
    make.csv(folder / "reports_final.csv", "study id,Finding,Split", "AC1,Normal.,train")
    with pytest.raises(ManifestError, match="column 'Findings', found study id, Finding, Split"):
        merlin.rows(folder)
    make.csv(folder / "reports_final.csv", "study id,Findings,Split", "AC9,Normal.,train")
    with pytest.raises(ManifestError, match=r"AC9\.nii\.gz"):
        merlin.rows(folder)
    make.csv(folder / "reports_final.csv", "study id,Findings,Split", "AC1,Normal.,tune")
    assert "tune" in merlin.rows(folder)[0]["refused"]


def test_rows_that_contradict_each_other_go_to_quarantine(folder, make):
    make.csv(
        folder / "reports_final.csv", "study id,Findings,Split", "AC1,Normal.,train", "AC2,Normal.,val",
        "AC1,Another text.,test", "AC2,Normal.,", "AC3,Normal.,test",
    )  # fmt: skip
    (folder / "reports_final.xlsx").unlink()
    make.csv(folder / "zero_shot_findings_disease_cls.csv", "study id,gallstones", "AC3,1", "AC3,0")
    rows = {row["study_id"]: row for row in merlin.rows(folder)}
    assert "'AC1', found 2 that differ in Findings, Split" in rows["AC1"]["refused"]
    assert rows["AC2"]["split"] == "val"  # a second row that says nothing else is none
    assert "differ in gallstones" in rows["AC3"]["refused"]

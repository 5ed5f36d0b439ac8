import pyarrow
import pytest
from pyarrow import parquet

from preprocessing.sources import table
from vol3d.config import dump_yaml
from vol3d.errors import ManifestError
from vol3d.workflows.prepare import prepare

HEADER = "study_id,patient_id,ct,absent,report.findings,labels.nodule,meta.sex,mask,mask.phrases,mask.value,split"


@pytest.fixture
def folder(tmp_path, make):
    make.ct(tmp_path / "a" / "ct.nii.gz")
    make.mask(tmp_path / "a" / "seg.nii.gz", make.box((4, 4, 4), (6, 6, 6)) + 2 * make.box((8, 8, 8), (10, 10, 10)))
    return tmp_path


def test_rows_of_a_study_are_its_masks(folder, make):
    make.csv(
        folder / "studies.csv", HEADER,
        's1,p1,a/ct.nii.gz,cyst; stone,"Nodule, left.",1,F,a/seg.nii.gz,nodule;left nodule,1,train',
        "s1,,,,,,,a/seg.nii.gz,mass,2,",
    )  # fmt: skip
    (row,) = table.rows(folder)
    assert row["absent"] == ["cyst", "stone"]
    assert row["report"] == {"findings": "Nodule, left."}
    assert row["labels"] == {"nodule": 1}
    assert row["split"] in ("train", "val")
    cache, summary = make.cached([row], folder)
    assert not summary.quarantined
    assert [(m.phrases, m.voxels) for m in cache.entry("s1").masks] == [(("nodule", "left nodule"), 8), (("mass",), 8)]


def test_patients_ids_stay_out_of_the_cache(folder, make, tmp_path):
    make.csv(folder / "studies.csv", "study_id,patient_id,ct,absent", "s1,Jane Doe,a/ct.nii.gz,cyst")
    (tmp_path / "recipe.yaml").write_text(dump_yaml(make.recipe))
    summary = prepare(folder, tmp_path / "recipe.yaml", tmp_path / "cache", source="table", show_progress=False)
    assert summary.built == ["s1"]
    text = "".join(p.read_text(errors="replace") for p in (tmp_path / "cache").rglob("*") if p.is_file())
    assert "Jane" not in text
    assert (tmp_path / "cache.intake").stat().st_mode & 0o77 == 0
    assert "Jane Doe" in (tmp_path / "cache.intake" / "manifest.jsonl").read_text()


def test_parquet_gives_the_same_rows(folder, make):
    make.csv(folder / "studies.csv", "study_id,ct,labels.nodule,meta.age", "s1,a/ct.nii.gz,-1,50", "s2,a/ct.nii.gz,0,")
    from_csv = table.rows(folder / "studies.csv")
    columns = {"study_id": ["s1", "s2"], "ct": ["a/ct.nii.gz"] * 2, "labels.nodule": [-1, 0], "meta.age": [50.0, None]}
    (folder / "sub").mkdir()
    parquet.write_table(pyarrow.table(columns), folder / "studies.parquet")
    assert [{**r, "split": ""} for r in table.rows(folder / "studies.parquet")] == [
        {**r, "split": ""} for r in from_csv
    ]
    assert from_csv[0]["labels"] == {"nodule": None}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (("study_id,ct,phrases", "s1,a/ct.nii.gz,x"), "unknown column 'phrases'; did you mean 'mask.phrases'"),
        (("ct", "a/ct.nii.gz"), "expected the column 'study_id', found ct"),
        (("study_id,ct", ",a/ct.nii.gz"), "row 2: expected a study_id"),
        (("study_id,ct,labels.x", "s1,a/ct.nii.gz,yes"), "row 2: expected a label of 1, 0 or -1"),
        (("study_id,ct,split", "s1,a/ct.nii.gz,train", "s1,,val"), "row 3: expected split 'train'"),
        (("study_id,ct,mask,mask.value", "s1,a,m,two"), "whole number, found 'two'"),
        (
            ("study_id,ct,split", "s1,a,train", "s2,a,validation"),
            "row 3: .* train, val or test, found 'validation'; write val",
        ),
        (("study_id,ct,mask.phrases", "s1,a,tumour"), "column 'mask' .* beside mask.phrases, found none"),
        (
            ("study_id,ct,mask,mask.phrases", "s1,a,m,x", "s2,a,,tumour"),
            "row 3: .* phrases 'tumour', found an empty cell",
        ),
        (("study_id",), "at least one study"),
    ],
)
def test_faults_are_named_with_their_row(tmp_path, make, lines, words):
    make.csv(tmp_path / "t.csv", *lines)
    with pytest.raises(ManifestError, match=words):
        table.rows(tmp_path)


def test_which_table_has_to_be_clear(tmp_path, make):
    with pytest.raises(ManifestError, match="found none"):
        table.rows(tmp_path)
    make.csv(tmp_path / "a.csv", "study_id")
    make.csv(tmp_path / "b.tsv", "study_id")
    with pytest.raises(ManifestError, match=r"a\.csv.*b\.tsv.*name the file"):
        table.rows(tmp_path)
    (tmp_path / "c.parquet").write_bytes(b"no")
    with pytest.raises(ManifestError, match="parquet file, found one that cannot be read"):
        table.rows(tmp_path / "c.parquet")


def test_text_with_the_separator_in_it_is_not_cut(tmp_path, make):
    with pytest.raises(ManifestError, match=r"row 3: expected 3 cells, found 4; .* quotation marks"):
        table.rows(make.csv(
            tmp_path / "t.csv", "study_id,ct,report.findings", 'a,a.nii.gz,"Liver, spleen normal."',
            "b,b.nii.gz,Liver normal, nodule in the lung.",
        ))  # fmt: skip


def test_a_column_twice_is_told(tmp_path, make):
    with pytest.raises(ManifestError, match="each column once, found ct several times"):
        table.rows(make.csv(tmp_path / "t.csv", "study_id,ct,ct", "a,a.nii.gz,b.nii.gz"))


@pytest.mark.parametrize("value", ["1.5", "inf", "nan"])
def test_a_label_number_that_is_no_whole_one_is_told(tmp_path, make, value):
    with pytest.raises(ManifestError, match=f"whole number, found '{value}'"):
        table.rows(make.csv(tmp_path / "t.csv", "study_id,mask,mask.value", f"a,m.nii.gz,{value}"))


def test_a_label_of_0_makes_the_finding_absent(folder, make):
    make.csv(
        folder / "studies.csv",
        "study_id,ct,absent,labels.nodule,labels.cardiomegaly,labels.gallstones,labels.odd thing",
        "s1,a/ct.nii.gz,pulmonary nodule;cyst,0,1,-1,0", "s2,a/ct.nii.gz,,1,,,",
    )  # fmt: skip
    first, second = table.rows(folder)
    assert first["absent"] == ["pulmonary nodule", "cyst", "lung nodule", "odd thing"]
    assert "absent" not in second


def test_a_label_of_0_and_a_mask_of_the_same_finding_contradict_each_other(folder, make):
    make.csv(
        folder / "studies.csv", "study_id,ct,labels.nodule,mask,mask.phrases,mask.value",
        "s1,a/ct.nii.gz,0,a/seg.nii.gz,lung nodule,1",
    )  # fmt: skip
    _, summary = make.cached(table.rows(folder), folder)
    assert "'lung nodule' as both" in summary.quarantined["s1"]

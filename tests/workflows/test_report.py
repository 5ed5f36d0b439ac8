"""The commands report, answer and infer on a tiny model: what they write, resume and refuse."""

import json
import re
import shutil
from pathlib import Path

import nibabel
import pytest

from vol3d.cache import Cache
from vol3d.checkpoint import load_checkpoint
from vol3d.geometry import Grid
from vol3d.workflows.drafts import Context, Draft
from vol3d.workflows.inputs import scratch_entry, studies_in
from vol3d.workflows.prepare import load_recipe
from vol3d.workflows.report import Reporter


def rows(manifest):
    return [json.loads(line) for line in Path(manifest).read_text().splitlines()]


@pytest.fixture(scope="module")
def reported(vol3d, tiny, tmp_path_factory):
    """One study reported on, with --all."""
    out = tmp_path_factory.mktemp("reported")
    study = rows(tiny.manifest)[0]["study_id"]
    assert (
        vol3d("report", tiny.run, tiny.manifest.parent / study, "--indication", "Staging.", "--all", "--out", out) == 0
    )
    return out / study


def test_a_report_has_its_parts_and_every_sentence_its_evidence(reported, tiny):
    record = json.loads((reported / "report.json").read_text())
    text = (reported / "report.txt").read_text()
    parts = re.findall(r"^[A-Z ]+$", text, re.M)
    assert parts == ["INDICATION", "TECHNIQUE", "FINDINGS", "IMPRESSION", "NOT ASSESSED"]
    assert re.search(r"PET/CT\. CT: [\d.]+ mm slices.*PET: [\d.]+ mm slices, .*\d+ MBq, \d+ minutes", text, re.S)
    assert record["sentences"]
    assert record["context"] == {"indication": "Staging."}
    ct = Cache(tiny.cache).entry(record["study_id"]).source_grids["ct"]
    for sentence in record["sentences"]:
        assert sentence["status"] in ("supported", "not supported", "contradicted", "cannot be checked")
        if sentence["status"] != "supported":
            assert sentence["file"] is None
            assert sentence["reason"]
            continue
        assert sentence["phrases"]
        assert 0 <= sentence["probability"] <= 1
        assert sentence["text"] in " ".join(text.split()).replace("- ", "-")
        for measured in sentence["measurements"]:
            image = nibabel.load(reported / measured["file"])
            assert Grid.from_xyz(image.shape, image.affine).same_as(ct, 1e-3)
            assert (reported / measured["pet_file"]).exists()
    for lesion in record["lesions"]:
        assert (reported / lesion["file"]).exists()
    assert {p.name for p in (reported / "report").glob("reference-*")} == {
        "reference-ct.nii.gz", "reference-pet.nii.gz",
    }  # fmt: skip


def test_a_writer_of_lies_gets_nothing_printed(tiny, tmp_path):
    class Liar:
        def write_report(self, entry, context):
            return [
                Draft("pleura", "Large pleural effusion on the left."),
                Draft("liver", "There is a 30 mm mass in the liver."),
                Draft("liver", "The liver lesion has grown since the previous study."),
                Draft("technique", "Contrast was given."),
            ]

        def write_answers(self, entry, questions, context):
            return ["12 mm"] * len(questions)

    checkpoint = load_checkpoint(tiny.run)
    row = studies_in(tiny.manifest)[0]
    with scratch_entry(row, load_recipe(tiny.config)) as entry:
        record = Reporter(checkpoint, "cpu", Liar()).write(entry, row, tmp_path, Context())
    assert {s["status"] for s in record["sentences"]} <= {"not supported", "cannot be checked"}
    findings = (tmp_path / "report.txt").read_text().partition("TECHNIQUE")[2].partition("NOT ASSESSED")[0]
    assert "IMPRESSION\nNo finding was confirmed." in findings
    assert not re.search(r"effusion|30|grown|Contrast", findings)


def files_in(folder):
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_another_patient_is_no_prior(vol3d, reported, tiny, tmp_path, capsys):
    """Told by the Patient ID of the DICOM files, whether the prior is a report or a raw study."""
    other = tiny.manifest.parent / rows(tiny.manifest)[1]["study_id"]
    assert vol3d("report", tiny.run, other, "--prior", reported, "--out", tmp_path) == 1
    assert "expected a prior study of the same patient, found another patient's" in capsys.readouterr().err
    assert vol3d("report", tiny.run, other, "--prior", tiny.manifest.parent / reported.name, "--out", tmp_path) == 1
    assert "found another patient's" in capsys.readouterr().err
    assert files_in(tmp_path) == {}


def test_a_prior_where_the_report_is_to_be_written_is_refused_untouched(vol3d, reported, tiny, tmp_path, capsys):
    study = tiny.manifest.parent / reported.name
    shutil.copytree(reported, tmp_path / "out" / reported.name)
    (tmp_path / "link").symlink_to(tmp_path / "out" / reported.name)
    before = files_in(tmp_path / "out")
    for prior in (tmp_path / "out" / reported.name / "report.json", tmp_path / "link"):
        assert vol3d("report", tiny.run, study, "--prior", prior, "--out", tmp_path / "out") == 1
        assert "expected the prior's report in another folder than the one to be written" in capsys.readouterr().err
    assert files_in(tmp_path / "out") == before


def test_where_nobody_says_whose_the_prior_is_the_report_says_so(vol3d, reported, tiny, tmp_path):
    shutil.copytree(reported, tmp_path / "old")
    record = json.loads((tmp_path / "old" / "report.json").read_text())
    assert record["patient"]["header"] == Cache(tiny.cache).entry(record["study_id"]).patient_key
    del record["patient"]
    (tmp_path / "old" / "report.json").write_text(json.dumps(record))
    study = tiny.manifest.parent / reported.name
    assert vol3d("report", tiny.run, study, "--prior", tmp_path / "old", "--out", tmp_path / "new") == 0
    change = json.loads((tmp_path / "new" / reported.name / "report.json").read_text())["change"]
    assert change["same_patient"] is None
    text = " ".join((tmp_path / "new" / reported.name / "report.txt").read_text().split())
    assert "Whether both studies are of one patient was not checked" in text


def test_a_study_is_unchanged_against_itself_and_a_broken_prior_costs_the_comparison(
    vol3d, reported, tiny, tmp_path, capsys
):
    study = tiny.manifest.parent / reported.name
    assert vol3d("report", tiny.run, study, "--prior", reported / "report.json", "--out", tmp_path) == 0
    change = json.loads((tmp_path / reported.name / "report.json").read_text())["change"]
    assert change["registration"]["shift_mm"] < 2
    assert change["same_patient"] is True
    assert {row["change"] for row in change["lesions"]} <= {"unchanged"}
    assert "COMPARISON\nCompared with the prior study" in (tmp_path / reported.name / "report.txt").read_text()
    assert vol3d("report", tiny.run, tiny.manifest, "--prior", reported, "--out", tmp_path) == 1
    assert "expected one study with --prior, found 6" in capsys.readouterr().err
    assert vol3d("report", tiny.run, study, "--prior", tmp_path / "nothing", "--out", tmp_path) == 1
    shutil.copytree(reported, tmp_path / "broken")
    for file in (tmp_path / "broken" / "report").glob("reference-*"):
        file.unlink()
    assert vol3d("report", tiny.run, study, "--prior", tmp_path / "broken", "--out", tmp_path) == 1
    assert "report the prior study again" in capsys.readouterr().err
    assert (tmp_path / reported.name / "report.txt").exists()  # all but the comparison
    shutil.copytree(reported, tmp_path / "torn")
    for file in (tmp_path / "torn" / "report").glob("reference-*"):
        file.write_bytes(file.read_bytes()[:400])
    shutil.rmtree(tmp_path / reported.name)
    assert vol3d("report", tiny.run, study, "--prior", tmp_path / "torn", "--out", tmp_path) == 1
    record = json.loads((tmp_path / reported.name / "report.json").read_text())
    assert record["change"]["statement"].startswith("No comparison with the prior study: expected a whole NIfTI file")


def test_answers_as_text_and_as_json(vol3d, tiny, tmp_path, capsys):
    study = rows(tiny.manifest)[0]["study_id"]
    source = tiny.manifest.parent / study
    asked = ["--question", "Which modality is this?", "--question", "How large is the liver?"]
    assert vol3d("answer", tiny.run, source, *asked, "--out", tmp_path) == 0
    assert f"{study}: Which modality is this? PET/CT" in capsys.readouterr().out
    record = json.loads((tmp_path / study / "answers.json").read_text())
    modality, size = record["answers"]
    assert (modality["text"], modality["source"]) == ("PET/CT", "header")
    assert size["phrase"] == "liver"
    assert re.search(r"^[\d.]+ mm$|no such|not in the field", size["text"])
    assert all((tmp_path / study / lesion["file"]).exists() for lesion in size["lesions"])
    assert vol3d("answer", tiny.run, source, *asked[:2], "--json") == 0
    assert json.loads(capsys.readouterr().out)["answers"][study][0]["text"] == "PET/CT"
    assert vol3d("answer", tiny.run, source, "--question", "?") == 1
    assert "questions in words" in capsys.readouterr().err


def test_a_batch_goes_on_resumes_and_keeps_what_is_done(vol3d, tiny, tmp_path, capsys):
    good = rows(tiny.manifest)[:2]
    lines = [{"study_id": r["study_id"], **{k: str(tiny.manifest.parent / r[k]) for k in ("ct", "pet")}} for r in good]
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    manifest = tmp_path / "three.jsonl"
    manifest.write_text("\n".join(map(json.dumps, [*lines, {"study_id": "bad", "ct": "broken.nii.gz"}])))
    (tmp_path / "prompts.txt").write_text("liver\n")
    command = ["infer", tiny.run, manifest, "--prompts", tmp_path / "prompts.txt", "--out", tmp_path / "out"]
    assert vol3d(*command, "--shard", "1/3") == 0
    first = tmp_path / "out" / good[0]["study_id"]
    assert {p.name for p in first.iterdir()} >= {
        "done.json",
        "report.json",
        "report.txt",
        "segmentation.json",
        "report",
    }
    made = (first / "report.json").stat().st_mtime_ns
    assert json.loads((tmp_path / "out/studies-1-of-3.jsonl").read_text())["state"] == "done"
    assert vol3d(*command) == 1
    told = [json.loads(line) for line in (tmp_path / "out/studies.jsonl").read_text().splitlines()]
    assert [line["state"] for line in told] == ["kept", "done", "failed"]
    assert told[2]["reason"].startswith("ReadError")
    out = capsys.readouterr()
    assert "1 done, 1 kept, 1 failed" in out.out
    assert "bad: ReadError" in out.err
    assert (first / "report.json").stat().st_mtime_ns == made
    second = tmp_path / "out" / good[1]["study_id"]
    (second / "done.json").write_text('{"key"')  # as a killed writer would have left it, had it not been renamed whole
    assert vol3d(*command, "--shard", "2/3") == 0
    assert "1 done, 0 kept" in capsys.readouterr().out
    (tmp_path / "prompts.txt").write_text("spleen\n")  # another question: done again
    assert vol3d(*command, "--shard", "1/3") == 0
    assert "1 done, 0 kept" in capsys.readouterr().out
    assert vol3d(*command, "--shard", "4/3") == 1
    assert "1 <= I <= N" in capsys.readouterr().err

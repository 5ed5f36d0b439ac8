"""`vol3d view` on what the commands write of DICOM studies, and the how-to pages about looking at results."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from vol3d.errors import ConfigError, GeometryError, ManifestError
from vol3d.workflows.view import load, write_static

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def inferred(vol3d, tiny, tmp_path_factory):
    """One study through everything; the folder, and the study's."""
    out = tmp_path_factory.mktemp("inferred")
    study = tiny.manifest.parent / json.loads(tiny.manifest.read_text().splitlines()[0])["study_id"]
    (out / "prompts.txt").write_text("liver\nleft kidney\nliver lesion\n")
    assert vol3d("infer", tiny.run, study, "--prompts", out / "prompts.txt", "--out", out / "infer") == 0
    return out / "infer", study


@pytest.fixture(scope="module")
def rendered(inferred):
    return load(inferred[0], source=inferred[1])


def test_every_mask_points_at_the_hottest_voxel_of_its_pet_mask(rendered, inferred):
    record = json.loads(next(inferred[0].glob("*/report.json")).read_text())
    pet = nib.Nifti1Image.from_bytes(rendered.volumes["pet.nii"])
    suv = np.asarray(pet.dataobj)
    by_key = {mask["key"]: mask for mask in rendered.record["masks"]}
    with_pet = [lesion for lesion in record["lesions"] if lesion["pet_file"] and lesion["measurement"]["suv_max"]]
    assert with_pet
    for lesion in with_pet:
        image = nib.load(next(inferred[0].iterdir()) / lesion["pet_file"])
        inside = np.asarray(image.dataobj) > 0
        hottest = np.unravel_index(np.where(inside, suv, -1).argmax(), suv.shape)
        wanted = (image.affine @ [*hottest, 1])[:3]
        point = by_key[lesion["file"]]["point"]
        assert np.linalg.norm(point["mm"] - wanted) < 1e-2 or point["suv"] == suv[hottest]
        assert point["suv"] == pytest.approx(lesion["measurement"]["suv_max"], rel=1e-6)


def test_sentences_findings_and_answers_are_all_there(rendered, inferred):
    folder = next(inferred[0].iterdir())
    report = json.loads((folder / "report.json").read_text())
    shown = rendered.record["report"]["sentences"]
    assert [(s["text"], s["status"]) for s in shown] == [(s["text"], s["status"]) for s in report["sentences"]]
    for sentence, said in zip(shown, report["sentences"], strict=True):
        assert len(sentence["masks"]) == len(said["lesions"])
    answers = json.loads((folder / "segmentation.json").read_text())["answers"]
    assert [a["prompt"] for a in rendered.record["answers"]] == [a["prompt"] for a in answers]
    assert {m["origin"] for m in rendered.record["masks"]} >= {"report"}


def test_nothing_of_the_patient_is_in_the_page(rendered, inferred, tmp_path):
    """Names, ids, dates and UIDs of the DICOM source, in the page and in every volume."""
    write_static(rendered, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    source = pydicom.dcmread(
        next(p for p in sorted(inferred[1].rglob("*")) if p.is_file() and p.suffix in (".dcm", ""))
    )
    names = ("PatientName", "PatientID", "PatientBirthDate", "StudyDate", "AccessionNumber", "StudyInstanceUID",
             "SeriesInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID", "InstitutionName")  # fmt: skip
    study_id = rendered.record["study_id"]
    values = [str(value) for name in names if (value := source.get(name))]
    assert len(values) >= 6
    for value in values:
        outside = text.replace(study_id, "")
        assert value not in outside or value in study_id, value
        for data in rendered.volumes.values():
            assert value.encode() not in data[:352]  # the header
    assert str(ROOT) not in text
    assert str(inferred[1]) not in text


def test_the_cache_shows_the_same_pet_and_the_same_places(vol3d, rendered, inferred, tiny):
    cached = load(next(inferred[0].iterdir()), cache=tiny.cache)
    assert cached.volumes["pet.nii"] == rendered.volumes["pet.nii"]
    assert [m["point"] for m in cached.record["masks"]] == [m["point"] for m in rendered.record["masks"]]
    assert cached.volumes["ct.nii"] != rendered.volumes["ct.nii"]
    assert "as preprocessed" in cached.record["notes"][0]


def test_what_does_not_fit_is_refused(inferred, tiny, tmp_path):
    folder = next(inferred[0].iterdir())
    with pytest.raises(ConfigError, match="pass --source with the study folder or manifest, or --cache"):
        load(folder)
    with pytest.raises(ConfigError, match="either --source or --cache, found both"):
        load(folder, source=inferred[1], cache=tiny.cache)
    with pytest.raises(ConfigError, match=r"expected a study's folder with report\.json.* found none"):
        load(tmp_path, source=inferred[1])
    others = [p for p in sorted(tiny.manifest.parent.iterdir()) if p.is_dir() and p.name != folder.name]
    with pytest.raises(ManifestError, match=f"expected study {folder.name} in .*, found {others[0].name}"):
        load(folder, source=others[0])
    (tmp_path / folder.name).symlink_to(others[0])  # another study under this one's name
    with pytest.raises(GeometryError, match=r"another study's\?"):
        load(folder, source=tmp_path / folder.name)
    for name in ("one", "two"):
        (tmp_path / "several" / name).mkdir(parents=True)
        (tmp_path / "several" / name / "report.json").write_text((folder / "report.json").read_text())
    with pytest.raises(ConfigError, match=r"found 2 studies \(one, two\): name one of them"):
        load(tmp_path / "several", source=inferred[1])


def test_the_command_serves_until_it_is_interrupted(inferred):
    command = [sys.executable, "-m", "vol3d.cli", "view", inferred[0], "--source", inferred[1]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        address = re.match(r"http://127\.0\.0\.1:\d+/\S+/", process.stdout.readline())[0]
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert b"Content-Security-Policy" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


def test_the_pages_commands_run(vol3d, tiny, inferred, tmp_path, monkeypatch):
    """The programs and the commands of the three how-to pages, but for installing, napari itself and the server."""
    out, study = inferred
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out/masks").mkdir(parents=True)
    for name, there in {
        "STUDY": study, "out/cache": tiny.cache, "out/run": tiny.run, "out/reports/STUDY": out / study.name,
        "out/infer/STUDY": out / study.name, "out/masks/STUDY": tmp_path / "out/masks" / study.name,
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(there)
    entry = tiny.cache / "studies" / f"{study.name}.zarr"
    ran = 0
    for page in ("view", "napari", "slicer"):
        text = (ROOT / "docs/how-to" / f"{page}.md").read_text()
        for language, block in re.findall(r"^```(bash|python)\n(.*?)^```", text, re.M | re.S):
            if language == "python":
                named = block.replace("out/cache/studies/STUDY.zarr", str(entry))
                exec(compile(named.replace('entry("STUDY")', f'entry("{study.name}")'), page, "exec"), {})
                ran += 1
                continue
            for line in block.splitlines():
                if not line.startswith("vol3d ") or ("view" in line and "--static" not in line):
                    continue
                words = re.findall(r'"[^"]*"|\S+', line)[1:]
                assert vol3d(*[w.strip('"') for w in words]) == 0, line
                ran += 1
    assert ran >= 8
    assert (tmp_path / "out/study.html").stat().st_size > 5_000_000
    assert (tmp_path / "out/masks/STUDY/labels.ctbl").read_text().splitlines()[1].startswith("1 liver ")
    assert (tmp_path / "ct-of-the-cache.nii.gz").is_file()

"""`vol3d view` on what the commands write of DICOM studies, and the how-to pages about looking at results."""

import importlib.util
import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

from preprocessing.manifest import read_manifest
from vol3d.cache import Cache
from vol3d.checkpoint import load_checkpoint
from vol3d.errors import ConfigError, GeometryError, ManifestError
from vol3d.workflows.drafts import Context
from vol3d.workflows.report import Reporter
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
    return load(inferred[0] / inferred[1].name, source=inferred[1])


@pytest.fixture(scope="module")
def told(tiny, tmp_path_factory):
    """The folder of a report on a PET/CT with lesions, by a model that is always right."""
    spec = importlib.util.spec_from_file_location("oracle", Path(__file__).with_name("oracle.py"))
    right = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(right)
    cache = Cache(tiny.cache)
    entries = [cache.entry(study) for study in cache.study_ids]
    entry = max((e for e in entries if len(e.images) == 2), key=lambda e: sum(f["present"] for f in e.findings))
    row = next(r for r in read_manifest(tiny.manifest) if r.study_id == entry.study_id)
    folder = tmp_path_factory.mktemp("told") / entry.study_id
    Reporter(load_checkpoint(tiny.run, "cpu"), "cpu", ask=right.oracle).write(entry, row, folder, Context())
    return folder


def test_every_mask_points_at_the_hottest_voxel_of_its_pet_mask(told, tiny):
    rendered = load(told, source=tiny.manifest)
    record = json.loads((told / "report.json").read_text())
    suv = np.asarray(nib.Nifti1Image.from_bytes(rendered.volumes["pet.nii"]).dataobj)
    by_key = {mask["key"]: mask for mask in rendered.record["masks"]}
    hot = [lesion for lesion in record["lesions"] if lesion["measurement"]["suv_max"] is not None]
    assert hot
    for lesion in hot:
        image = nib.load(told / lesion["pet_file"])
        hottest = np.unravel_index(np.where(np.asarray(image.dataobj) > 0, suv, -1).argmax(), suv.shape)
        point = by_key[lesion["file"]]["point"]
        np.testing.assert_allclose(point["mm"], (image.affine @ [*hottest, 1])[:3], atol=1e-3)
        assert point["kind"] == "hottest"
        assert point["suv"] == pytest.approx(lesion["measurement"]["suv_max"], rel=1e-6)
    for shown, said in zip(rendered.record["report"]["sentences"], record["sentences"], strict=True):
        assert (shown["text"], shown["status"]) == (said["text"], said["status"])
        files = [rendered.record["masks"][i]["key"] for i in shown["masks"]]
        assert files == [m["file"] for m in said["measurements"]]


def test_the_cache_shows_the_same_pet_and_the_same_places(told, tiny):
    raw, cached = load(told, source=tiny.manifest), load(told, cache=tiny.cache)
    assert cached.volumes["pet.nii"] == raw.volumes["pet.nii"]
    assert [m["point"] for m in cached.record["masks"]] == [m["point"] for m in raw.record["masks"]]
    assert cached.volumes["ct.nii"] != raw.volumes["ct.nii"]
    assert "as preprocessed" in cached.record["notes"][0]


def test_answers_are_all_there(rendered, inferred):
    answers = json.loads((inferred[0] / inferred[1].name / "segmentation.json").read_text())["answers"]
    assert [a["prompt"] for a in rendered.record["answers"]] == [a["prompt"] for a in answers]
    keys = [mask["key"] for mask in rendered.record["masks"]]
    for shown, answer in zip(rendered.record["answers"], answers, strict=True):
        assert (shown["mask"] is None) == (answer["state"] != "present")
        assert shown["mask"] is None or keys[shown["mask"]] == answer["file"]


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


def test_what_does_not_fit_is_refused(inferred, tiny, tmp_path):
    folder = inferred[0] / inferred[1].name
    with pytest.raises(ConfigError, match="pass --source with the study folder or manifest, or --cache"):
        load(folder)
    with pytest.raises(ConfigError, match="either --source or --cache, found both"):
        load(folder, source=inferred[1], cache=tiny.cache)
    with pytest.raises(ConfigError, match=r"expected a study's folder with report\.json.* found none"):
        load(tmp_path, source=inferred[1])
    others = [p for p in sorted(tiny.manifest.parent.iterdir()) if p.is_dir() and p.name != folder.name]
    with pytest.raises(ManifestError, match=f"expected study {folder.name} in .*, found {others[0].name}"):
        load(folder, source=others[0])
    shutil.copytree(others[0], tmp_path / folder.name)  # another study under this one's name
    with pytest.raises(GeometryError, match=r"another study's\?"):
        load(folder, source=tmp_path / folder.name)
    for name in ("one", "two"):
        (tmp_path / "several" / name).mkdir(parents=True)
        (tmp_path / "several" / name / "report.json").write_text((folder / "report.json").read_text())
    with pytest.raises(ConfigError, match=r"found 2 studies \(one, two\): name one of them"):
        load(tmp_path / "several", source=inferred[1])


def test_masks_cut_short_and_folders_for_files_are_told(told, tiny, vol3d, tmp_path, capsys):
    """The command line takes an EOFError for Ctrl-C: it said "Aborted!" and no more."""
    copy = tmp_path / told.name
    shutil.copytree(told, copy)
    lesion = next(x for x in json.loads((copy / "report.json").read_text())["lesions"] if x["file"])
    path, command = copy / lesion["file"], ("view", copy, "--source", tiny.manifest, "--static")
    whole = path.read_bytes()
    for kept in (len(whole) - 20, 100, 0):
        path.write_bytes(whole[:kept])
        assert vol3d(*command, tmp_path / "page.html") == 1
        shown = capsys.readouterr().err
        assert f"expected a whole NIfTI file at {path}, found {kept} bytes that cannot be read" in shown
        assert "Traceback" not in shown
    path.write_bytes(whole)
    assert vol3d(*command, tmp_path) == 1
    assert f"expected a file for the page, found a folder at {tmp_path}; try" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert vol3d(*command, tmp_path / "file" / "page.html") == 1
    assert f"expected a folder for the page at {tmp_path / 'file'}, found a file" in capsys.readouterr().err


def test_records_with_nan_of_older_versions_are_shown(told, tiny, tmp_path):
    copy = tmp_path / told.name
    shutil.copytree(told, copy)
    record = json.loads((copy / "report.json").read_text())
    next(x for x in record["lesions"] if x["file"])["probability"] = float("nan")
    (copy / "report.json").write_text(json.dumps(record))
    write_static(load(copy, source=tiny.manifest), tmp_path / "page.html")
    assert '"probability": null' in (tmp_path / "page.html").read_text()


def test_the_command_serves_until_it_is_interrupted(inferred):
    command = [sys.executable, "-m", "vol3d.cli", "view", inferred[0], "--source", inferred[1]]
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs inherit deaf ears
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    ) as process:
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

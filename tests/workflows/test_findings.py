"""`vol3d findings`: states, evidence and numbers of answers that are known, and the real command on a tiny model."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest

from preprocessing.manifest import Row
from vol3d.cache import Cache
from vol3d.cache_write import EntryData, create_cache, write_entry
from vol3d.checkpoint import Calibration, FindingCalibration, Findings, load_checkpoint, save_checkpoint
from vol3d.errors import ConfigError
from vol3d.export.nifti import read_array
from vol3d.geometry import Grid
from vol3d.metrics.operating import OperatingPoint
from vol3d.text.prompts import FindingPrompts, prompts_for
from vol3d.volume import Volume
from vol3d.workflows.findings import Question, asked_of, write_findings

GRID = Grid.from_spacing((6, 8, 10), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0))
BOX = (slice(1, 3), slice(2, 4), slice(3, 6))  # 12 voxels, 0.096 ml
LIVER = FindingPrompts(name="liver_lesion", positive=("liver lesion", "hepatic lesion"), sites=("liver",))


def fitted(threshold, prompts=LIVER, **points):
    chosen = {n: points.get(n, threshold) for n in ("youden", "f1", "sensitivity", "specificity")}
    made = {n: OperatingPoint(threshold=t, criterion="youden") for n, t in chosen.items()}
    return FindingCalibration(scale=1.0, bias=0.0, points=made, prompts=prompts)


def checkpoint(findings=None):
    return SimpleNamespace(
        findings=findings, calibration=Calibration(), recipe_digest="r",
        provenance={"trained_phrases": ["liver", "spleen"], "vol3d": "0"},
    )  # fmt: skip


@pytest.fixture
def entry(tmp_path):
    return make(tmp_path / "cache", pet=True)


def make(root, pet):
    ct = Volume(np.zeros(GRID.shape, np.float32), GRID, "ct")
    uptake = np.ones(GRID.shape, np.float32)
    uptake[1, 2, 3] = 7.5
    native = Volume(uptake, GRID, "pet") if pet else None
    data = EntryData(
        study_id="s", images={"ct": ct, **({"pet": native} if pet else {})}, masks=[],
        source_grids={"ct": GRID, **({"pet": GRID} if pet else {})}, pet_native=native,
        attributes={"recipe_digest": "r", "fingerprint": "f", "patient_key": "p", "slice_numbers": {}, "notes": {}},
    )  # fmt: skip
    create_cache(root, {}, "r")
    write_entry(root, data)
    return Cache(root).entry("s")


def asker(answers):
    """phrase -> (logit, probability 0..255 within BOX); anything else is absent."""

    def ask(entry, phrases):
        ask.asked.append(list(phrases))
        maps = np.zeros((len(phrases), *GRID.shape), np.uint8)
        for i, phrase in enumerate(phrases):
            maps[i][BOX] = answers.get(phrase, (-9.0, 0))[1]
        return maps, np.array([answers.get(p, (-9.0, 0))[0] for p in phrases], np.float32)

    ask.asked = []
    return ask


def found(entry, folder, answers, prompts=(LIVER,), findings=None, **question):
    ask = asker(answers)
    row = Row(study_id="s", patient_id="p")
    out = write_findings(entry, row, Question(tuple(prompts), **question), ask, checkpoint(findings), folder)
    record = json.loads((folder / "findings.json").read_text())
    assert record["findings"] == json.loads(json.dumps(out))
    assert len(ask.asked) == 1  # one pass for all wordings and sites
    return record, ask.asked[0]


SEEN = {"liver lesion": (1.0, 200), "hepatic lesion": (3.0, 140), "liver": (5.0, 255)}


def test_a_present_finding_has_a_mask_and_its_measurements(entry, tmp_path):
    record, asked = found(entry, tmp_path, SEEN, findings=Findings(by_name={"liver_lesion": fitted(0.8)}))
    assert asked == ["liver lesion", "hepatic lesion", "liver"]
    (one,) = record["findings"]
    assert (one["name"], one["state"], one["threshold"], one["threshold_of"]) == ("liver_lesion", "present", 0.8, "own")
    assert one["probability"] == pytest.approx(0.880797)  # sigmoid(2), the mean of 1 and 3
    low, high = 0.731059, 0.952574  # sigmoid(1), sigmoid(3)
    assert one["spread"] == {
        "sd": pytest.approx((high - low) / 2, abs=2e-6), "low": low, "high": high, "wordings_present": 1, "wordings": 2,
    }  # fmt: skip
    assert one["prompts"] == {"positive": ["liver lesion", "hepatic lesion"], "negative": []}
    evidence = one["evidence"]
    assert evidence["mask"] == "findings/01-liver-lesion.nii.gz"
    mask = read_array(tmp_path / evidence["mask"])  # (200 + 140) / 2 = 170 of 255
    assert mask[BOX].all()
    assert mask.sum() == 12
    assert evidence["volume_ml"] == pytest.approx(0.096)
    assert evidence["suv_max"] == pytest.approx(7.5)
    assert evidence["slices"]["series"] == "ct"
    assert (evidence["slices"]["first"], evidence["slices"]["last"]) == (2, 3)
    assert evidence["heat_map"] is None


def test_absent_and_out_of_view_are_told_apart(entry, tmp_path):
    liver_seen = {"liver": (5.0, 255)}
    record, _ = found(entry, tmp_path / "a", liver_seen)
    assert record["findings"][0]["state"] == "absent"
    assert record["findings"][0]["evidence"]["mask"] is None
    record, _ = found(entry, tmp_path / "b", {})
    assert record["findings"][0]["state"] == "not in field of view"
    assert record["findings"][0]["reason"] == "found none of: liver"
    assert record["findings"][0]["threshold_of"] == "phrases"
    kidney = prompts_for("kidney_lesion")  # the model was trained on no kidney: nothing is known of the view
    record, asked = found(entry, tmp_path / "c", {}, [kidney])
    assert record["findings"][0]["state"] == "absent"
    assert asked == list(kidney.positive)


def test_uptake_cannot_be_denied_without_a_pet(tmp_path):
    avid = prompts_for("fdg_avid_liver_lesion")
    answers = {"liver": (5.0, 255)}
    ct_only = make(tmp_path / "ct", pet=False)
    record, _ = found(ct_only, tmp_path / "o", answers, [avid])
    assert record["findings"][0]["state"] == "not in field of view"
    assert record["findings"][0]["reason"] == "the study has no PET"
    record, _ = found(make(tmp_path / "both", pet=True), tmp_path / "p", answers, [avid])
    assert record["findings"][0]["state"] == "absent"


def test_without_a_mask_the_heat_map_is_the_evidence(entry, tmp_path):
    faint = {"liver lesion": (2.0, 51), "hepatic lesion": (2.0, 51), "liver": (5.0, 255)}
    record, _ = found(entry, tmp_path, faint)
    evidence = record["findings"][0]["evidence"]
    assert record["findings"][0]["state"] == "present"
    assert evidence["mask"] is None
    assert evidence["volume_ml"] == 0
    assert evidence["slices"] is None
    image = nibabel.load(tmp_path / evidence["heat_map"])
    assert image.get_fdata().max() == pytest.approx(0.2, abs=1e-6)  # 51 / 255
    assert image.dataobj.slope == pytest.approx(1 / 255)
    assert image.get_data_dtype() == np.uint8


def test_heat_maps_of_all_on_request_and_none_is_left_from_before(entry, tmp_path):
    spleen = prompts_for("spleen_lesion")
    record, _ = found(entry, tmp_path, SEEN, [spleen, LIVER], heat_maps=True)
    names = sorted(p.name for p in (tmp_path / "findings").iterdir())
    assert names == ["01-spleen-lesion-heat.nii.gz", "02-liver-lesion-heat.nii.gz", "02-liver-lesion.nii.gz"]
    assert [f["evidence"]["heat_map"] is None for f in record["findings"]] == [False, False]
    found(entry, tmp_path, SEEN)
    assert [p.name for p in (tmp_path / "findings").iterdir()] == ["01-liver-lesion.nii.gz"]


def test_the_operating_point_decides(entry, tmp_path):
    findings = Findings(by_name={"liver_lesion": fitted(0.8, specificity=0.95)})
    for point, state in (("youden", "present"), ("specificity", "absent")):
        record, _ = found(entry, tmp_path / point, SEEN, findings=findings, point=point)
        assert (record["point"], record["findings"][0]["state"]) == (point, state)


def test_negative_wordings_are_asked_only_if_they_count(entry, tmp_path):
    prompts = prompts_for("liver_lesion")
    deaf = Findings(by_name={"liver_lesion": fitted(0.5, prompts)})
    _, asked = found(entry, tmp_path / "a", SEEN, [prompts], deaf)
    assert not set(prompts.negative) & set(asked)
    record, asked = found(entry, tmp_path / "b", SEEN, [prompts], replace(deaf, negative_weight=1.0))
    assert set(prompts.wordings) <= set(asked)
    assert record["findings"][0]["prompts"]["negative"] == list(prompts.negative)


def test_the_checkpoint_names_what_is_asked_by_default():
    stored = replace(prompts_for("liver_lesion"), positive=("liver lesion",))  # an older vocabulary
    known = checkpoint(Findings(by_name={"liver_lesion": fitted(0.5, stored)}))
    assert asked_of(known, []) == [stored]
    assert asked_of(known, [prompts_for("liver lesion")]) == [stored]
    own = FindingPrompts(name="liver_lesion", positive=("something else",))
    assert asked_of(known, [own, prompts_for("spleen_lesion")]) == [own, prompts_for("spleen_lesion")]
    with pytest.raises(ConfigError, match="--prompt TEXT or --prompts FILE"):
        asked_of(checkpoint(), [])
    with pytest.raises(ConfigError, match="'liver_lesion' 2 times"):
        asked_of(known, [own, prompts_for("liver_lesion")])


# -- the real command ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def calibrated(tiny, tmp_path_factory):
    """The tiny model with operating points: a liver lesion is always called present, a spleen lesion never."""
    folder = tmp_path_factory.mktemp("calibrated") / "model"
    by_name = {
        "liver_lesion": fitted(0.0, prompts_for("liver_lesion")),
        "spleen_lesion": fitted(2.0, prompts_for("spleen_lesion")),
    }
    findings = Findings(by_name=by_name, general=fitted(0.0, None))
    calibration = Calibration(mask_threshold=1 / 255, presence_threshold=0.0)
    save_checkpoint(folder, replace(load_checkpoint(tiny.run), findings=findings, calibration=calibration))
    return folder


def rows(manifest):
    return [json.loads(line) for line in Path(manifest).read_text().splitlines()]


def test_the_command_answers_what_the_checkpoint_knows(vol3d, tiny, calibrated, tmp_path):
    study = rows(tiny.manifest)[0]["study_id"]
    assert vol3d("findings", calibrated, tiny.manifest.parent / study, "--out", tmp_path) == 0
    record = json.loads((tmp_path / study / "findings.json").read_text())
    liver, spleen = record["findings"]
    assert (liver["name"], liver["state"], liver["threshold_of"]) == ("liver_lesion", "present", "own")
    assert (spleen["name"], spleen["state"]) == ("spleen_lesion", "absent")
    image = nibabel.load(tmp_path / study / liver["evidence"]["mask"])
    ct = Cache(tiny.cache).entry(study).source_grids["ct"]
    assert Grid.from_xyz(image.shape, image.affine).same_as(ct, 1e-3)
    voxels = np.count_nonzero(np.asarray(image.dataobj))
    assert liver["evidence"]["volume_ml"] == pytest.approx(voxels * ct.voxel_ml, rel=1e-6)


def test_a_batch_goes_on_after_a_bad_study(vol3d, tiny, calibrated, tmp_path, capsys):
    good = rows(tiny.manifest)[0]
    paths = {key: str(tiny.manifest.parent / good[key]) for key in ("ct", "pet")}
    (tmp_path / "broken.nii.gz").write_bytes(b"nothing")
    lines = [{"study_id": "bad", "ct": "broken.nii.gz"}, {"study_id": "good", **paths}]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "p.yaml").write_text("tumour thrombus: [clot in the cava]\nleft lung lesion:\n")
    options = ["--prompts", tmp_path / "p.yaml", "--prompt", "bladder stone", "--grid", "pet", "--out", tmp_path / "o"]
    assert vol3d("findings", calibrated, tmp_path / "m.jsonl", *options) == 1
    assert "failed: bad: ReadError" in capsys.readouterr().err
    record = json.loads((tmp_path / "o" / "good" / "findings.json").read_text())
    assert [f["name"] for f in record["findings"]] == ["tumour thrombus", "left lung lesion", "bladder stone"]
    assert {f["threshold_of"] for f in record["findings"]} == {"all findings"}
    assert record["grid"] == "pet"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "{study}"], "expected operating points of findings"),
        (["{run}", "{study}", "--prompt", "no effusion"], "found a denial"),
        (["{run}", "{study}", "--prompts", "{out}/none.yaml"], "found nothing at"),
        (["{run}", "/nowhere", "--prompt", "liver lesion"], "found nothing"),
        (["/nowhere", "{study}", "--prompt", "liver lesion"], "checkpoint"),
    ],
)
def test_mistakes_are_messages(vol3d, tiny, tmp_path, capsys, arguments, message):
    places = {"run": tiny.run, "study": tiny.manifest.parent / rows(tiny.manifest)[0]["study_id"], "out": tmp_path}
    assert vol3d("findings", *[a.format(**places) for a in arguments], "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error

"""Model folders: what is stored comes back exactly, and nothing broken is loaded."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from vol3d import checkpoint as module
from vol3d.checkpoint import (
    Calibration,
    Checkpoint,
    FindingCalibration,
    Findings,
    PredictConfig,
    load_checkpoint,
    save_checkpoint,
)
from vol3d.data.channels import ChannelConfig
from vol3d.errors import CheckpointError
from vol3d.metrics.operating import OperatingPoint
from vol3d.model.encoder import EncoderConfig
from vol3d.model.text import TextConfig
from vol3d.model.vlm import ModelConfig, VisionLanguageModel
from vol3d.text.prompts import FindingPrompts

CHANNELS = ChannelConfig(ct_windows=((-160.0, 240.0),), pet_clips=(5.0, 20.0), coordinates=True)


def model_of(width=8, seed=0):
    encoder = EncoderConfig(
        features=(4, 8, 8), blocks=(1, 1, 1), strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)), kernel_sizes=((3, 3, 3),) * 3
    )
    text = TextConfig(revision="0" * 16, width=12)
    torch.manual_seed(seed)
    return VisionLanguageModel(
        ModelConfig(width=width, heads=2, in_channels=CHANNELS.count, encoder=encoder, text=text)
    )


@pytest.fixture
def made():
    return Checkpoint(
        model_of(),
        CHANNELS,
        (16, 16, 32),
        {"spacing_mm": [4.0, 4.0, 4.0]},
        "abc",
        Calibration(scale=2.0, bias=-0.5, presence_threshold=0.3, mask_threshold=0.4),
        PredictConfig(overlap=0.25, mirror_axes=("z",)),
        {"seed": 3, "step": 10},
    )


def same(one, other):
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_round_trip(made, tmp_path):
    save_checkpoint(tmp_path / "m", made)
    back = load_checkpoint(tmp_path / "m")
    assert same(back.model, made.model)
    assert not back.model.training
    assert back.model.config == made.model.config
    assert (back.channels, back.patch_size, back.calibration) == (CHANNELS, (16, 16, 32), made.calibration)
    assert back.predict == made.predict
    assert (back.recipe, back.recipe_digest) == (made.recipe, "abc")
    assert back.provenance["seed"] == 3
    assert len(back.provenance["weights_sha256"]) == 64
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]
    assert same(VisionLanguageModel.from_pretrained(tmp_path / "m"), made.model)


def test_a_metric_without_a_case_is_null_in_the_record_and_not_measured_in_the_card(made, tmp_path):
    metrics = {"dice": 0.5, "lesion_dice": float("nan")}
    point = OperatingPoint(threshold=0.3, criterion="youden", sensitivity=float("nan"), specificity=0.75, negatives=4)
    findings = Findings(by_name={"cyst": FindingCalibration(scale=1.0, bias=0.0, points={"youden": point})})
    chosen = {"probes": 4, "split": "val", "dice_at_0.5": float("nan")}
    provenance = {**made.provenance, "metrics": metrics, "calibrated_on": chosen}
    save_checkpoint(tmp_path / "m", replace(made, provenance=provenance, findings=findings))
    text = (tmp_path / "m/checkpoint.json").read_text()
    assert "NaN" not in text
    back = load_checkpoint(tmp_path / "m")
    assert back.provenance["metrics"] == {"dice": 0.5, "lesion_dice": None}
    assert back.findings.by_name["cyst"].points["youden"].sensitivity is None
    save_checkpoint(tmp_path / "again", replace(back, card=""))
    for folder in ("m", "again"):
        card = (tmp_path / folder / "README.md").read_text()
        assert "| lesion_dice | not measured |" in card
        assert "| cyst | 0 | 4 | 0.3 | not measured | 0.75 |" in card


def test_calibration_by_hand():
    calibration = Calibration(scale=2.0, bias=-0.5, mask_threshold=0.4)
    assert calibration.probability(0.25) == 0.5
    assert calibration.probability(-1e9) == pytest.approx(0.0)
    assert calibration.probability(1.0) == pytest.approx(0.8175744762)  # 1 / (1 + exp(-1.5))
    assert calibration.mask_level == 102  # 0.4 * 255
    assert Calibration().mask_level == 128


def test_findings_come_back_and_older_checkpoints_have_none(made, tmp_path):
    point = OperatingPoint(threshold=0.3, criterion="sensitivity", target=0.9, sensitivity=1.0, specificity=0.75)
    prompts = FindingPrompts(name="liver_lesion", positive=("liver lesion",), negative=("no lesion",), sites=("liver",))
    own = FindingCalibration(scale=2.0, bias=-0.5, points={"sensitivity": point}, prompts=prompts)
    assert own.probability(0.25) == 0.5
    findings = Findings(by_name={"liver_lesion": own}, general=replace(own, prompts=None), negative_weight=1.0)
    save_checkpoint(tmp_path / "m", replace(made, findings=findings))
    assert load_checkpoint(tmp_path / "m").findings == findings
    record = json.loads((tmp_path / "m/checkpoint.json").read_text())
    assert record["findings"]["by_name"]["liver_lesion"]["points"]["sensitivity"]["threshold"] == 0.3
    del record["findings"]
    (tmp_path / "m/checkpoint.json").write_text(json.dumps(record))
    assert load_checkpoint(tmp_path / "m").findings is None
    record["findings"] = {"by_name": {}, "negativ_weight": 1.0}
    (tmp_path / "m/checkpoint.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="did you mean 'negative_weight'"):
        load_checkpoint(tmp_path / "m")


def test_a_run_folder_gives_its_best_else_its_last(made, tmp_path):
    save_checkpoint(tmp_path / "run/last", made)
    assert load_checkpoint(tmp_path / "run").provenance["step"] == 10
    save_checkpoint(tmp_path / "run/best", replace(made, provenance={"step": 5}))
    assert load_checkpoint(tmp_path / "run").provenance["step"] == 5
    assert load_checkpoint(tmp_path / "run/last").provenance["step"] == 10


def test_a_failed_save_keeps_the_old_one(made, tmp_path):
    save_checkpoint(tmp_path / "m", made)
    broken = replace(made, model=model_of(seed=1), provenance={"not": object()})
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path / "m", broken)
    assert same(load_checkpoint(tmp_path / "m").model, made.model)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def test_a_save_cut_off_between_its_renames_still_loads(made, tmp_path):
    save_checkpoint(tmp_path / "run/best", made)
    (tmp_path / "run/best").rename(module._aside(tmp_path / "run/best"))
    assert same(load_checkpoint(tmp_path / "run").model, made.model)
    save_checkpoint(tmp_path / "run/best", replace(made, model=model_of(seed=1)))
    save_checkpoint(tmp_path / "run/best", replace(made, model=model_of(seed=2)))
    assert same(load_checkpoint(tmp_path / "run").model, model_of(seed=2))
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["best"]


def test_broken_ones_are_refused(made, tmp_path):
    with pytest.raises(CheckpointError, match="found none at"):
        load_checkpoint(tmp_path)
    save_checkpoint(tmp_path / "m", made)

    def copy(name):
        return shutil.copytree(tmp_path / "m", tmp_path / name)

    for file in module.FILES:
        (copy(f"no-{file}") / file).unlink()
        with pytest.raises(CheckpointError, match=f"found no {file}; the checkpoint is incomplete"):
            load_checkpoint(tmp_path / f"no-{file}")
    weights = copy("cut") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(CheckpointError, match="damaged or do not"):
        load_checkpoint(tmp_path / "cut")
    save_checkpoint(tmp_path / "other", replace(made, model=model_of(seed=1)))
    shutil.copy(tmp_path / "other/model.safetensors", copy("mixed") / "model.safetensors")
    with pytest.raises(CheckpointError, match="expected weights with SHA-256"):
        load_checkpoint(tmp_path / "mixed")
    record = copy("newer") / "checkpoint.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "schema": 2}))
    with pytest.raises(CheckpointError, match=r"schema 1 in .* found 2"):
        load_checkpoint(tmp_path / "newer")
    (copy("garbled") / "checkpoint.json").write_text("{")
    with pytest.raises(CheckpointError, match="not a complete record"):
        load_checkpoint(tmp_path / "garbled")

"""A model as a folder of its own: its card, vol3d's folder, and a MONAI bundle that answers as `vol3d segment` does."""

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version

import jsonschema
import nibabel
import numpy as np
import pytest
import torch

from preprocessing.manifest import Row
from preprocessing.phantom import PhantomOptions, write_phantoms
from preprocessing.transforms import PreprocessConfig
from vol3d.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from vol3d.config import SHIPPED, digest, dump_yaml, from_tree, load_yaml, to_tree
from vol3d.data.channels import ChannelConfig
from vol3d.errors import ConfigError
from vol3d.model.encoder import EncoderConfig
from vol3d.model.text import TextConfig, resolve_text
from vol3d.model.vlm import ModelConfig, VisionLanguageModel
from vol3d.train.run_config import RunConfig
from vol3d.workflows.asking import Asker
from vol3d.workflows.export_model import export_model
from vol3d.workflows.inputs import scratch_entry
from vol3d.workflows.model_card import card_of, write_cards

SMALL = PhantomOptions(ct_spacing_mm=(6.0, 6.0), pet_spacing_mm=((7.0, 7.0, 7.0),))
PROMPTS = ["liver", "left kidney", "FDG-avid lesion, any"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model folder; nothing here depends on what its weights have learnt."""
    recipe = load_yaml(SHIPPED / "preprocess/demo.yaml", PreprocessConfig)
    channels = ChannelConfig(ct_windows=((-160.0, 240.0),), pet_clips=(5.0,), coordinates=True)
    steps = ((1, 1, 1), (2, 2, 2), (2, 2, 2))
    encoder = EncoderConfig(features=(4, 8, 16), blocks=(1, 1, 1), strides=steps, kernel_sizes=((3, 3, 3),) * 3)
    torch.manual_seed(0)
    network = VisionLanguageModel(
        ModelConfig(width=8, heads=2, in_channels=channels.count, encoder=encoder, text=resolve_text(TextConfig()))
    )
    phrases = [f"{p}, {i}" for p in PROMPTS for i in range(6)]
    provenance = {"seed": 0, "step": 0, "data_fingerprint": "abc", "trained_phrases": phrases}
    folder = tmp_path_factory.mktemp("model") / "m"
    save_checkpoint(
        folder, Checkpoint(network, channels, (48, 48, 64), to_tree(recipe), digest(recipe), provenance=provenance)
    )
    return folder


@pytest.fixture(scope="module")
def oblique(tmp_path_factory):
    """A phantom whose CT and PET lie askew in the scanner, by the same turn."""
    folder = tmp_path_factory.mktemp("oblique")
    write_phantoms(folder, 1, 5, "nifti", options=SMALL)
    study = next(p for p in folder.iterdir() if (p / "ct.nii.gz").is_file())
    a, b = np.deg2rad(14.0), np.deg2rad(-9.0)
    turn = np.eye(4)
    turn[:3, :3] = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    )
    for name in ("ct", "pet"):
        image = nibabel.load(study / f"{name}.nii.gz")
        turned = nibabel.Nifti1Image(np.asarray(image.dataobj), turn @ image.affine, image.header)
        turned.set_sform(turn @ image.affine, 1)
        turned.set_qform(turn @ image.affine, 1)
        nibabel.save(turned, study / f"{name}.nii.gz")
    return study


@pytest.fixture(scope="module")
def answering(model, oblique, tmp_path_factory):
    """The same model with thresholds that give masks which are neither empty nor full."""
    checkpoint = load_checkpoint(model)
    recipe = from_tree(PreprocessConfig, checkpoint.recipe, "recipe")
    row = Row(study_id="s", patient_id="s", ct=oblique / "ct.nii.gz", pet=oblique / "pet.nii.gz")
    with scratch_entry(row, recipe) as entry:
        probability_PZYX, _ = Asker(checkpoint, "cpu")(entry, PROMPTS)
    folder = tmp_path_factory.mktemp("answering") / "m"
    shutil.copytree(model, folder)
    record = json.loads((folder / "checkpoint.json").read_text())
    level = float(np.quantile(probability_PZYX[probability_PZYX > 0], 0.8)) / 255
    record["calibration"] |= {"presence_threshold": 0.0, "mask_threshold": level}
    (folder / "checkpoint.json").write_text(json.dumps(record))
    return folder


def monai(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "monai.bundle", *map(str, arguments)], cwd=cwd, capture_output=True, text=True,
        check=False, env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )  # fmt: skip


def test_the_bundle_answers_as_segment_does(vol3d, answering, oblique, tmp_path):
    asked = [part for p in PROMPTS for part in ("--prompt", p)]
    assert vol3d("segment", answering, oblique, *asked, "--out", tmp_path / "masks") == 0
    assert vol3d("export-model", answering, "--to", "monai", "--out", tmp_path / "bundle", "--prompt", "spleen") == 0
    done = monai(
        "run", "--config_file", "configs/inference.json", "--dataset_dir", oblique, "--output_dir", tmp_path / "monai",
        "--prompts", repr(PROMPTS), cwd=tmp_path / "bundle",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "required properties" not in done.stderr
    one, other = tmp_path / "masks" / oblique.name, tmp_path / "monai" / oblique.name
    names = sorted(p.relative_to(one) for p in one.rglob("*.nii.gz"))
    assert names == sorted(p.relative_to(other) for p in other.rglob("*.nii.gz"))
    assert len(names) == len(PROMPTS) + 1  # and labels.nii.gz
    filled = []
    for name in names:
        a, b = nibabel.load(one / name), nibabel.load(other / name)
        np.testing.assert_array_equal(np.asarray(a.dataobj), np.asarray(b.dataobj), err_msg=str(name))
        np.testing.assert_array_equal(a.affine, b.affine)
        filled.append(float((np.asarray(a.dataobj) > 0).mean()))
    assert max(filled) > 0.01
    assert min(filled) < 0.9
    source = nibabel.load(oblique / "ct.nii.gz")
    assert np.abs(source.affine[:3, :3] - np.diag(np.diag(source.affine[:3, :3]))).max() > 0.5  # oblique it is
    assert nibabel.load(one / names[-1]).shape == source.shape
    records = [json.loads((f / "segmentation.json").read_text()) for f in (one, other)]
    assert records[0]["answers"] == records[1]["answers"]


@pytest.mark.slow
def test_the_bundle_satisfies_monai(vol3d, answering, tmp_path):
    bundle = tmp_path / "bundle"
    assert vol3d("export-model", answering, "--to", "monai", "--out", bundle, "--prompt", "spleen") == 0
    # the runner downloads the schema unless the file is there: ours says what MONAI's of 2024-07-25 requires
    (tmp_path / "schema.json").write_text(json.dumps(METADATA))
    done = monai(
        "verify_metadata", "--meta_file", bundle / "configs/metadata.json", "--filepath", tmp_path / "schema.json"
    )
    assert done.returncode == 0, done.stderr[-2000:]
    done = monai(
        "verify_net_in_out", "network_def", "--meta_file", bundle / "configs/metadata.json", "--config_file",
        bundle / "configs/inference.json", "--bundle_root", bundle, "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    done = monai(
        "run", "--config_file", bundle / "configs/inference.json", "--bundle_root", bundle, "--dataset_dir",
        tmp_path / "nothing",
    )  # fmt: skip
    assert done.returncode != 0
    assert "expected a study folder or a manifest" in done.stderr


def test_what_a_bundle_holds(answering, tmp_path):
    done = export_model(answering, tmp_path / "bundle", "monai", prompts=["spleen", "liver"], authors="A. Body")
    bundle = done.folder
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    jsonschema.validate(metadata, METADATA)
    assert metadata["monai_version"] == version("monai")
    assert metadata["copyright"] == "Copyright (c) A. Body"
    image, answer = (metadata["network_data_format"][k][n] for k, n in (("inputs", "image"), ("outputs", "pred")))
    loaded = load_checkpoint(bundle / "models")
    assert image["num_channels"] == loaded.channels.count == len(image["channel_def"])
    assert image["spatial_shape"] == list(loaded.patch_size)
    assert answer["channel_def"] == {"0": "probability of: spleen", "1": "probability of: liver"}
    weights = torch.load(bundle / "models/model.pt", weights_only=True)
    assert all(torch.equal(weights[f"model.{name}"], value) for name, value in loaded.model.state_dict().items())
    assert (bundle / "docs/README.md").read_text().startswith("---\nlibrary_name: vol3d")
    config = json.loads((bundle / "configs/inference.json").read_text())
    assert config["prompts"] == ["spleen", "liver"]
    assert str(tmp_path) not in json.dumps(config)  # it may be moved
    export_model(answering, bundle, "monai")  # again, over the first; the model's own phrases now
    assert len(json.loads((bundle / "configs/inference.json").read_text())["prompts"]) == 16
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle"]


def test_a_metric_without_a_case_is_null_in_the_metadata(model, tmp_path):
    checkpoint = load_checkpoint(model)
    checkpoint.provenance["metrics"] = {"dice": 0.5, "lesion_dice": float("nan")}
    save_checkpoint(tmp_path / "m", checkpoint)
    bundle = export_model(tmp_path / "m", tmp_path / "bundle", "monai", prompts=["liver"]).folder
    metadata = json.loads((bundle / "configs/metadata.json").read_text(), parse_constant=pytest.fail)
    jsonschema.validate(metadata, METADATA)
    assert metadata["eval_metrics"] == {"dice": 0.5, "lesion_dice": None}


def test_a_folder_of_its_own_and_back(model, tmp_path):
    export_model(model, tmp_path / "a", data_sets="six phantoms")
    first = Checkpoint.from_pretrained(tmp_path / "a")
    assert "| data sets | six phantoms |" in first.card
    first.save_pretrained(tmp_path / "b")
    second = Checkpoint.from_pretrained(tmp_path / "b")
    assert second.card == first.card
    assert second.calibration == first.calibration
    names = first.model.state_dict()
    assert all(torch.equal(names[k], v) for k, v in second.model.state_dict().items())
    assert (tmp_path / "a/model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_the_card_of_a_run_says_what_the_run_was(tiny):
    card = (tiny.run / "last" / "README.md").read_text()
    record = json.loads((tiny.run / "last" / "checkpoint.json").read_text())
    assert "| train studies | 3 of 3 patients; 3 with CT, 0 with PET alone;" in card
    assert "| steps, seed | 4, " in card
    assert "| batch | 2 patches, 3 phrases each |" in card
    assert record["provenance"]["weights_sha256"] in card
    assert f"| torch | {version('torch')} |" in card
    assert "all-MiniLM-L6-v2" in card
    assert "not a medical device" in card
    assert "None is recorded here" in card
    assert str(tiny.folder) not in card
    count = len(record["provenance"]["trained_phrases"])
    assert f"seen masks for {count} phrases" in card


def test_an_evaluation_enters_the_card_of_its_weights_only(model, tmp_path):
    weights = json.loads((model / "checkpoint.json").read_text())["provenance"]["weights_sha256"]
    measured = {
        "split": "test", "studies": 2, "data_fingerprint": "fff", "provenance": {"weights_sha256": weights},
        "headline": {"organ_dice": 0.5123, "suv_match": None},
        "intervals": {"organ_dice": {"value": 0.51234, "low": 0.41, "high": 0.62}},
    }  # fmt: skip
    (tmp_path / "metrics.json").write_text(json.dumps(measured))
    before = (model / "README.md").read_text()
    card = card_of(model, tmp_path)
    assert "2 studies of the test split" in card
    assert "| organ_dice | 0.5123 | 0.41 to 0.62 |" in card
    assert "| suv_match | not measured |  |" in card
    assert "No test on unseen patients" not in card
    head, tail = before.split("## Evaluation")[0], before.split("## Versions")[1]
    assert card.startswith(head)
    assert card.endswith(tail)
    measured["provenance"]["weights_sha256"] = "0" * 64
    (tmp_path / "metrics.json").write_text(json.dumps(measured))
    with pytest.raises(ConfigError, match="evaluate this model"):
        card_of(model, tmp_path)
    with pytest.raises(ConfigError, match=r"expected metrics.json of `vol3d evaluate`"):
        card_of(model, tmp_path / "nowhere")


def test_the_card_names_the_weights_it_started_from(model, tmp_path):
    shutil.copytree(model, tmp_path / "best")
    (tmp_path / "config.yaml").write_text(dump_yaml(load_yaml(SHIPPED / "train/demo.yaml", RunConfig)))
    run = {"ranks": 2, "device": "cuda", "precision": "bf16", "zero_stage": 1, "starts": []}
    (tmp_path / "run.json").write_text(
        json.dumps({**run, "data": {"cache": str(tmp_path / "gone"), "fingerprint": "f"}})
    )
    (tmp_path / "init.json").write_text(
        json.dumps({"from": "x", "matched": ["a", "b"], "notes": ["weights of VoxTell"]})
    )
    write_cards(tmp_path)
    card = (tmp_path / "best/README.md").read_text()
    assert "| started from | weights of VoxTell, 2 tensors of them |" in card
    assert "| weights of VoxTell | their own; these weights derive from them |" in card
    assert "| machine | 2 ranks on cuda, bf16, ZeRO 1 |" in card
    assert "| studies | not recorded |" in card  # the cache is gone


def test_other_folders_are_left_alone(vol3d, model, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years")
    assert vol3d("export-model", model, "--out", tmp_path / "mine") == 1
    assert "found other files; name another" in capsys.readouterr().err
    assert vol3d("export-model", model, "--out", model) == 1
    bare = load_checkpoint(model)
    bare.provenance.pop("trained_phrases")
    save_checkpoint(tmp_path / "bare", bare)
    assert vol3d("export-model", tmp_path / "bare", "--to", "monai", "--out", tmp_path / "b") == 1
    assert "expected --prompt" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bare", "mine"]


TENSOR = {
    "type": "object",
    "properties": {
        "type": {"type": "string"}, "format": {"type": "string"}, "num_channels": {"type": "integer"},
        "spatial_shape": {"type": "array", "items": {"type": ["string", "integer"]}}, "dtype": {"type": "string"},
        "value_range": {"type": "array", "items": {"type": "number"}}, "is_patch_data": {"type": "boolean"},
        "channel_def": {"type": "object"},
    },
    "required": ["type", "format", "num_channels", "spatial_shape", "dtype", "value_range"],
}  # fmt: skip
TEXTS = (
    "schema", "version", "monai_version", "pytorch_version", "numpy_version", "task", "description", "authors",
    "copyright",
)  # fmt: skip
OPTIONAL_TEXTS = ("data_source", "data_type", "image_classes", "label_classes", "pred_classes", "intended_use")
METADATA = {
    "$schema": "https://json-schema.org/draft/2019-09/schema",
    "type": "object",
    "properties": {
        **{name: {"type": "string"} for name in (*TEXTS, *OPTIONAL_TEXTS)},
        **{name: {"type": "object"} for name in ("changelog", "required_packages_version", "eval_metrics")},
        "references": {"type": "array", "items": {"type": "string"}},
        "network_data_format": {
            "type": "object",
            "properties": {side: {"additionalProperties": TENSOR} for side in ("inputs", "outputs")},
            "required": ["inputs", "outputs"],
        },
    },
    "required": [*TEXTS, "required_packages_version", "network_data_format"],
}
"""What MONAI's schema of bundles (version 2024-07-25) asks for."""

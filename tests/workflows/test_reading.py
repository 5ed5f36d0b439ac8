"""The second phase of a run through the real commands: looks, a reader beside its model, and what it writes."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import yaml

from vol3d.checkpoint import READER_FILES, load_checkpoint, load_reader
from vol3d.config import load_yaml
from vol3d.data.looks import load_look
from vol3d.errors import CheckpointError
from vol3d.model.generate import WritingConfig
from vol3d.model.reader import ReaderConfig, StudyReader
from vol3d.train.run_config import RunConfig
from vol3d.workflows import reading

READ = {
    "structures": ["liver", "left lung"], "findings": ["lesion in the liver", "lesion in the left lung"],
    "width": 16, "heads": 2, "layers": 1, "cells": [2, 1, 1],
    "language": {"width": 16, "layers": 1, "heads": 2, "visual_heads": 2, "vocabulary": 420, "max_tokens": 160},
}  # fmt: skip


@pytest.fixture(scope="module")
def config(tiny, tmp_path_factory):
    tree = yaml.safe_load(tiny.config.read_text())
    tree["preprocess"] = str(tiny.config.parent / tree["preprocess"])
    train = {"steps": 6, "batch_size": 4, "precision": "fp32", "checkpoint_every": 3, "optim": {"learning_rate": 1e-3}}
    tree["read"] = {"model": READ, "train": train}
    path = tmp_path_factory.mktemp("config") / "all.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def run(tiny, config, vol3d, tmp_path_factory):
    out = tmp_path_factory.mktemp("reading") / "run"
    assert vol3d("train", config, "--cache", tiny.cache, "--out", out, *tiny.settings) == 0
    return out


def test_a_run_ends_with_a_reader_beside_its_model(run, tiny):
    checkpoint, reader = load_checkpoint(run), load_reader(run)
    assert reader is not None
    assert reader.config.sections[-1] == "impression"
    assert reader.config.probes == (*READ["structures"], *READ["findings"])
    weights = checkpoint.provenance["weights_sha256"]
    looks = sorted((run / "looks" / weights[:16]).glob("*.safetensors"))
    assert len(looks) == 3  # of the training studies
    look = load_look(looks[0].parent, looks[0].stem)
    assert look.asked
    assert set(look.probe_N.tolist()) == {0, 1, 2, 3}
    assert load_reader(tiny.run) is None


def test_the_reader_drafts_the_report_and_every_sentence_is_checked(run, tiny, vol3d, tmp_path):
    study = next(p for p in tiny.manifest.parent.iterdir() if p.is_dir())
    assert vol3d("report", run, study, "--out", tmp_path / "out", "--indication", "Staging.") == 0
    record = json.loads((tmp_path / "out" / study.name / "report.json").read_text())
    assert record["writer"] == "ReaderWriter"
    assert all(s["status"] for s in record["sentences"])
    assert (tmp_path / "out" / study.name / "report.txt").read_text().strip()


def test_the_prior_report_reaches_the_decoder_without_numbers_and_as_far_as_there_is_room(
    run, tiny, vol3d, tmp_path, monkeypatch
):
    study = next(p for p in tiny.manifest.parent.iterdir() if p.is_dir())
    assert vol3d("report", run, study, "--out", tmp_path / "before") == 0
    text = tmp_path / "before" / study.name / "report.txt"
    told = "IMPRESSION\nWarthin nodule of 14 mm, SUVmax 7.3. " + "It is much the same as it was. " * 40
    text.write_text(told)
    prompts, write = [], StudyReader.write

    def listen(self, asked, seen, config):
        prompts.extend(asked)
        longest = max(len(self.language.tokenizer.prompt(p)) for p in asked)
        assert longest + config.max_new_tokens <= self.config.language.max_tokens
        return write(self, asked, seen, config)

    monkeypatch.setattr(StudyReader, "write", listen)
    command = ["report", run, study, "--prior", tmp_path / "before" / study.name, "--out", tmp_path / "after"]
    assert vol3d(*command, "--indication", "Known 9 mm cyst.") == 0
    assert prompts
    for prompt in prompts:
        assert prompt.startswith("indication: Known measured cyst. prior report: Warthin")
        assert not any(number in prompt for number in ("14", "7.3", "9 mm"))


def test_a_reader_writes_as_it_was_configured(run, monkeypatch):
    checkpoint, reader = load_checkpoint(run), load_reader(run)
    writing = WritingConfig(beams=3, max_new_tokens=50, no_repeat_ngram=5, repetition_penalty=1.3)
    reader.config = dataclasses.replace(reader.config, writing=writing)
    monkeypatch.setattr(reading, "load_reader", lambda *_: reader)
    found = reading.writer_of(run, checkpoint, "cpu").generation
    assert (found.strategy, found.beams, found.max_new_tokens) == ("beam", 3, 50)
    assert (found.no_repeat_ngram, found.repetition_penalty) == (5, 1.3)
    assert reading.writer_of(run, checkpoint, "cpu", beams=6).generation == dataclasses.replace(found, beams=6)


def test_answers_and_their_evaluation(run, tiny, vol3d, tmp_path, capsys):
    study = next(p for p in tiny.manifest.parent.iterdir() if p.is_dir())
    assert vol3d("answer", run, study, "--question", "Is there a lesion in the liver?") == 0
    out = tmp_path / "evaluation"
    assert vol3d("evaluate", run, tiny.cache, "--out", out, "--language", "--samples", "20") == 0
    table = json.loads((out / "language.json").read_text())
    assert {"reports", "reports_drafts", "reports_blank", "questions_answers", "questions_drafted",
            "questions_blank"} <= table.keys()  # fmt: skip
    assert table["reports"]["evidence"]
    assert "questions_blank" in capsys.readouterr().out
    assert table["headline"]["questions_majority"] > 0


def test_a_finished_run_is_not_trained_again(run, tiny, config, vol3d):
    before = (run / "reader" / "log.csv").read_text()
    assert vol3d("train", config, "--cache", tiny.cache, "--out", run, "--resume", "auto", *tiny.settings) == 0
    assert (run / "reader" / "log.csv").read_text() == before


def test_a_damaged_reader_is_refused(run, tmp_path):
    copy = tmp_path / "model"
    shutil.copytree(run / "last", copy)
    (copy / READER_FILES[0]).write_bytes(b"\0" * 64)
    with pytest.raises(CheckpointError, match="reader weights with SHA-256"):
        load_reader(copy)
    (copy / READER_FILES[2]).unlink()
    with pytest.raises(CheckpointError, match=READER_FILES[2]):
        load_reader(copy)
    load_checkpoint(copy)  # masks need no reader


@pytest.mark.parametrize("name", ["phantom_all", "ct_rate_chest", "petct_all"])
def test_shipped_files_state_every_key_of_a_reader(name):
    path = Path(__file__).parents[2] / "configs" / "train" / f"{name}.yaml"
    tree = yaml.safe_load(path.read_text())["read"]["model"]
    assert set(tree) == {f.name for f in dataclasses.fields(ReaderConfig)}
    assert set(tree["writing"]) == {f.name for f in dataclasses.fields(WritingConfig)}


def test_the_shipped_configuration_names_what_phantoms_have():
    config = load_yaml(Path(__file__).parents[2] / "configs" / "train" / "phantom_all.yaml", RunConfig)
    assert config.read is not None
    assert len(config.read.model.findings) == 10

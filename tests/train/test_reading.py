"""Training of a reader through the real engine: what it sees decides what it writes; a stopped run goes on alike."""

import csv
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from vol3d.cache import Cache
from vol3d.config import from_tree
from vol3d.data.looks import Look, load_look
from vol3d.data.readings import parts_of, rows_about, stacked
from vol3d.data.regions import DIAMETER_SCALE_MM, FACTS
from vol3d.data.report_texts import Probes, part_prompt, question_prompt, section_prompt
from vol3d.errors import CacheError, ConfigError
from vol3d.model.generate import GenerationConfig
from vol3d.model.reader import StudyReader
from vol3d.train.reading import readable, train_reader
from vol3d.train.run_config import ReadConfig

_spec = importlib.util.spec_from_file_location("loop_job", Path(__file__).with_name("loop_job.py"))
job = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(job)

QUESTION = "Is there a lesion in the liver?"
CONFIG = {
    "model": {
        "structures": ["liver"], "findings": ["lesion in the liver"], "width": 32, "heads": 2, "layers": 1,
        "dropout": 0.0, "blind_cells": 0.2,
        "language": {"width": 32, "layers": 2, "heads": 2, "visual_heads": 2, "vocabulary": 320, "dropout": 0.0,
                     "max_tokens": 64},
    },
    "train": {
        "steps": 60, "batch_size": 8, "precision": "fp32", "checkpoint_every": 40, "ema_decay": 0.9,
        "optim": {"learning_rate": 5e-3, "warmup_steps": 5},
    },
}  # fmt: skip


def config(**train):
    return from_tree(ReadConfig, {**CONFIG, "train": {**CONFIG["train"], **train}}, "test")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Every second study has a lesion of the liver, and its report and answer say so."""
    cache = job.make_cache(tmp_path_factory.mktemp("cache") / "cache", studies=6)
    for i, study in enumerate(cache.study_ids):
        path = cache.entry(study).path / "zarr.json"
        tree = json.loads(path.read_text())
        found = "There is a 12 mm lesion in the liver." if i % 2 else "No focal hepatic lesion."
        tree["attributes"]["vol3d"] |= {
            "report": {"findings": f"Liver: {found}"},
            "qa": [{"q": QUESTION, "a": "yes" if i % 2 else "no", "type": "yes_no"}],
        }
        path.write_text(json.dumps(tree))
    return Cache(cache.root)


@pytest.fixture(scope="module")
def looks(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("looks")
    for i, study in enumerate(cache.study_ids):
        make_look(study, i % 2).save(folder)
    return folder


def make_look(study, present):
    facts = np.zeros((2, len(FACTS) + 2), np.float32)
    facts[0, FACTS.index("present")] = 1
    facts[1, FACTS.index("present" if present else "absent")] = 1
    facts[1, FACTS.index("diameter")] = present * 12 / DIAMETER_SCALE_MM
    cells = np.random.default_rng(len(study)).normal(size=(2, 4)).astype(np.float32)
    asked = {"lesion in the liver": facts[1:]}
    return Look(study, cells, np.zeros((2, 3), np.float32), np.array([0, 1]), facts, asked)


def about(question):
    return "lesion in the liver" if question == QUESTION else None


PROBES = Probes(("liver",), ("lesion in the liver",))


def write(reader, look, prompt, text, phrase=None, row=None):
    rows = rows_about(look, text, phrase, PROBES, row)
    seen = reader.visual(*stacked([look.cell_VC], [look.place_V3], [rows]))
    return reader.write([prompt], seen, GenerationConfig(max_new_tokens=24))[0][0]


def test_the_reader_writes_what_the_rows_say(cache, looks, tmp_path):
    result = train_reader(config(steps=150), cache, "train", looks, tmp_path / "run", about, seed=1)
    reader = StudyReader.from_pretrained(tmp_path / "run" / "last")
    assert result.step == 150
    assert reader.config.sections == ("liver",)
    for present, rest, answer in ((0, "No focal hepatic lesion.", "no"), (1, "", "yes")):
        look = make_look("new", present)
        assert write(reader, look, section_prompt("liver"), "liver") == rest
        assert write(reader, look, question_prompt(QUESTION), QUESTION, "lesion in the liver") == answer
    (row,) = parts_of(look, "liver", PROBES)
    expected = "There is a <size_1> lesion in the liver."
    assert write(reader, look, part_prompt("liver"), "liver", row=row) == expected


def test_a_stopped_run_goes_on_to_the_same_weights(cache, looks, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train_reader(config(steps=6, checkpoint_every=3), cache, "train", looks, whole, about, seed=1)
    stopped = config(steps=6, checkpoint_every=3)
    train_reader(stopped, cache, "train", looks, parts, about, seed=1)
    newest = parts / "checkpoints" / "step-000006"
    for file in sorted(newest.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    newest.rmdir()
    train_reader(stopped, cache, "train", looks, parts, about, seed=1, resume="auto")
    losses = [[row["loss"] for row in csv.DictReader((run / "log.csv").open())] for run in (whole, parts)]
    assert losses[0] == losses[1]
    one, two = (StudyReader.from_pretrained(run / "last").state_dict() for run in (whole, parts))
    assert all(np.allclose(one[name], two[name], atol=1e-6) for name in one)


def test_a_missing_look_and_a_cache_without_text_are_refused(cache, looks, tmp_path):
    with pytest.raises(CacheError, match="what the model saw of study-0"):
        train_reader(config(), cache, "train", tmp_path, tmp_path / "run", about, seed=1)
    with pytest.raises(CacheError, match="report or questions"):
        train_reader(config(), cache, "val", looks, tmp_path / "run", about, seed=1)
    assert readable(cache, "val") == []


def test_another_configuration_does_not_resume(cache, looks, tmp_path):
    train_reader(config(steps=2), cache, "train", looks, tmp_path / "run", about, seed=1)
    with pytest.raises(ConfigError, match="already holds a run"):
        train_reader(config(steps=2), cache, "train", looks, tmp_path / "run", about, seed=1)
    with pytest.raises(ConfigError, match=r"train\.steps"):
        train_reader(config(steps=3), cache, "train", looks, tmp_path / "run", about, seed=1, resume="auto")
    assert load_look(looks, "study-0").study_id == "study-0"

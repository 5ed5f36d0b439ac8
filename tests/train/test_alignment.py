"""Reports in training: the contrast is learned, resumes to the bit, and does not depend on the number of ranks."""

import csv
import importlib.util
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vol3d.checkpoint import load_checkpoint
from vol3d.config import from_tree, to_tree
from vol3d.errors import ConfigError
from vol3d.train.loop import train
from vol3d.train.run_config import RunConfig
from vol3d.workflows.asking import Asker

JOB = Path(__file__).with_name("alignment_job.py")
_spec = importlib.util.spec_from_file_location("alignment_job", JOB)
job = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(job)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _bank(home, monkeypatch):
    monkeypatch.setenv("VOL3D_CACHE_HOME", str(home))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return job.make_cache(tmp_path_factory.mktemp("data") / "cache")


@pytest.fixture(scope="module")
def trained(cache, tmp_path_factory, home):
    os.environ["VOL3D_CACHE_HOME"] = str(home)
    out = tmp_path_factory.mktemp("runs") / "run"
    train(job.config(), cache.root, out)
    return out


def rows(out):
    with (out / "log.csv").open() as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def test_the_contrast_falls_and_retrieval_rises_above_chance(trained):
    found = rows(trained)
    first, last = (np.array([r["contrast_loss"] for r in part]).mean() for part in (found[:20], found[-20:]))
    assert last < 0.8 * first
    hits, chance = (np.nanmean([r[n] for r in found[-20:]]) for n in ("retrieval", "retrieval_chance"))
    assert hits > chance + 0.2
    assert np.isfinite([r["presence_loss"] for r in found]).all()


def test_a_study_is_nearer_to_its_own_report(trained, cache):
    ask = Asker(load_checkpoint(trained), "cpu")
    image = np.stack([ask.embed(cache.entry(f"study-{i}"), ["lungs", "liver"]) for i in range(4)])
    assert image.shape == (4, 3, 16)
    np.testing.assert_allclose(np.linalg.norm(image, axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(ask.embed(cache.entry("study-0")), image[0, :1], atol=1e-6)
    text = ask.embed_texts(["No focal hepatic lesion.", "Lesion in the liver."])
    margin = image[:, 2] @ (text[1] - text[0])
    assert margin.argmax() == 2  # the only one of the four with a lesion in its liver
    margins = ask.margins(cache.entry("study-2"), ["liver_lesion", "lung_nodule"])
    assert set(margins) == {"liver_lesion", "lung_nodule"}
    assert all(-2 <= m <= 2 for m in margins.values())


def test_what_belongs_together_is_asked_for_together():
    tree = to_tree(job.config())
    for section, name, value in (
        ("task", "alignment", None),
        ("model", "alignment_width", 0),
        ("data", "contrast_texts", 0),
    ):
        with pytest.raises(ConfigError, match=rf"all together or none, found .* without {section}\.{name}"):
            from_tree(RunConfig, {**tree, section: {**tree[section], name: value}}, "test")


def test_a_dry_run_shows_the_texts_and_writes_nothing(cache, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="vol3d")
    train(job.config(), cache.root, tmp_path / "run", dry_run=True)
    assert not (tmp_path / "run").exists()
    assert "contrast_loss" in caplog.text
    assert "tokens_BSTE      (4, 6," in caplog.text


def run_job(cache, out, *settings, **environ):
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    command = [sys.executable, str(JOB), str(cache.root), str(out), *settings]
    return subprocess.Popen(command, env={**environment, **environ}, stderr=subprocess.PIPE, text=True)


def finish(*running):
    for process in running:
        _, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors


@pytest.mark.slow
def test_a_stopped_run_resumes_bitwise(cache, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    finish(run_job(cache, whole))
    stopped = run_job(cache, halves, "stop=5")
    stopped.communicate(timeout=500)
    assert stopped.returncode != 0
    finish(run_job(cache, halves))
    names = ("step", "loss", "contrast_loss", "grad_norm")
    assert [[r[n] for n in names] for r in rows(halves)] == [[r[n] for n in names] for r in rows(whole)]
    one, other = (load_checkpoint(o).model.state_dict() for o in (whole, halves))
    assert all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 2, 3])
def test_two_ranks_have_the_curve_of_one(cache, tmp_path, stage):
    finish(run_job(cache, tmp_path / "one"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    shared = {"MASTER_PORT": port, "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_ID": "1",
              "OMP_NUM_THREADS": "1"}  # fmt: skip
    out = tmp_path / "two"
    finish(
        *(run_job(cache, out, f"stage={stage}", **shared, SLURM_PROCID=str(r), SLURM_LOCALID=str(r)) for r in (0, 1))
    )
    one, two = rows(tmp_path / "one"), rows(out)
    assert [r["contrast_loss"] for r in two] == pytest.approx([r["contrast_loss"] for r in one], abs=1e-5)
    assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in one], abs=1e-4)

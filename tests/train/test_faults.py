"""What breaks under a run: each ends in a clear error, or in the curve that it would have had."""

import csv
import importlib.util
import json
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vol3d.cache import Cache
from vol3d.errors import CacheError, CheckpointError, ConfigError
from vol3d.train import ranks
from vol3d.train.loop import train
from vol3d.train.run_folder import RunFolder

JOB = Path(__file__).with_name("loop_job.py")
_spec = importlib.util.spec_from_file_location("loop_job", JOB)
job = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(job)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return job.make_cache(tmp_path_factory.mktemp("data") / "cache")


@pytest.fixture(scope="module")
def text_bank(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def home(text_bank, monkeypatch):
    monkeypatch.setenv("VOL3D_CACHE_HOME", str(text_bank))


@pytest.fixture(scope="module")
def straight(cache, tmp_path_factory, text_bank):
    """Six steps without a fault; checkpoints after 4 and 6."""
    os.environ["VOL3D_CACHE_HOME"] = str(text_bank)
    out = tmp_path_factory.mktemp("runs") / "straight"
    train(job.config(), cache.root, out)
    return out


def losses(out):
    with (out / "log.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


@pytest.fixture
def run(straight, tmp_path):
    return Path(shutil.copytree(straight, tmp_path / "run"))


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "name"),
    [(cut, "optimizer.safetensors"), (flip, "weights.safetensors"), (Path.unlink, "loop.json"), (cut, "loop.json")],
)
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(damage, name, run, straight, cache, caplog):
    damage(run / "checkpoints/step-000006" / name)
    assert train(job.config(), cache.root, run, resume="auto").step == 6
    assert "going back to the one before" in caplog.text
    assert losses(run) == pytest.approx(losses(straight), abs=1e-6)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        "damaged-step-000006", "step-000004", "step-000006",
    ]  # fmt: skip
    assert [s["step"] for s in json.loads((run / "run.json").read_text())["starts"]] == [0, 4]


def test_all_that_are_damaged_are_set_aside(straight, tmp_path):
    """One that stayed would count as the newest when the oldest is dropped, and push out a whole one."""
    run, whole = RunFolder(tmp_path / "run"), straight / "checkpoints/step-000004"
    for step in (2, 4, 6):
        shutil.copytree(whole, run.checkpoints / f"step-{step:06d}")
    for step in (4, 6):
        cut(run.checkpoints / f"step-{step:06d}/weights.safetensors")
    ranks.join()
    path, _ = run.newest()
    assert path.name == "step-000002"
    assert sorted(p.name for p in run.checkpoints.iterdir()) == [
        "damaged-step-000004", "damaged-step-000006", "step-000002",
    ]  # fmt: skip


def test_no_whole_checkpoint_is_an_error_and_no_fresh_start(run, cache):
    for folder in (run / "checkpoints").iterdir():
        cut(folder / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"weights.safetensors is damaged: .* no whole checkpoint"):
        train(job.config(), cache.root, run, resume="auto")
    left = sorted(p.name for p in (run / "checkpoints").iterdir())
    assert left == ["step-000004", "step-000006"]  # to look into
    assert len(losses(run)) == 6


def test_what_a_hand_has_spoilt_in_the_run_folder_is_named(run, cache, caplog):
    (run / "run.json").write_text("{")
    train(job.config(), cache.root, run, resume="auto")
    assert "run.json does not say how the run was started before" in caplog.text
    assert [s["step"] for s in json.loads((run / "run.json").read_text())["starts"]] == [6]
    for spoilt in ("", "a: [b"):
        (run / "config.yaml").write_text(spoilt)
        with pytest.raises(ConfigError, match=r"expected the configuration of a run in .*config.yaml"):
            train(job.config(), cache.root, run, resume="auto")


def test_a_checkpoint_between_its_two_renames_is_found(run, cache):
    newest = run / "checkpoints/step-000006"
    newest.rename(newest.with_name(".step-000006.previous"))
    train(job.config(), cache.root, run, resume="auto")
    assert [s["step"] for s in json.loads((run / "run.json").read_text())["starts"]] == [0, 6]


def test_a_clock_that_jumps(run, straight, cache, tmp_path, monkeypatch):
    """Steps are numbers; neither file times nor the time of day decide anything."""
    os.utime(run / "checkpoints/step-000004", (2**32, 2**32))
    shutil.rmtree(run / "checkpoints/step-000006")
    true, dice = time.time, random.Random(0)
    monkeypatch.setattr(time, "time", lambda: true() + dice.uniform(-1e8, 1e8))
    train(job.config(), cache.root, run, resume="auto")
    assert losses(run) == pytest.approx(losses(straight), abs=1e-6)
    with (run / "log.csv").open() as file:
        assert all(0 < float(row["seconds"]) < 600 for row in csv.DictReader(file))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own: 24 MB of main memory."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_leaves_the_last_checkpoint_and_the_run_goes_on_with_room(small_disk, straight, cache):
    out, ballast = small_disk / "run", small_disk / "ballast"

    def fill(model):
        free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize
        ballast.write_bytes(bytes(free - 100_000))
        return {"dice": float("nan")}  # no better than before: no model is written here

    settings = {"validate_every": 3}
    with pytest.raises(CheckpointError, match=r"step 4 could not be written: .*space.*the one before it is whole"):
        train(job.config(**settings), cache.root, out, validate=fill)
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["step-000002"]
    assert "could not be written" in json.loads((out / "heartbeat.json").read_text() or "{}").get("reason", "")
    ballast.unlink()
    train(job.config(**settings), cache.root, out, resume="auto", validate=lambda model: {"dice": 0.0})
    assert losses(out) == pytest.approx(losses(straight), abs=1e-6)


def test_a_read_only_cache_is_enough_to_train(small_disk, cache, tmp_path):
    shutil.copytree(cache.root, small_disk / "cache")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(OSError, match="Read-only"):
        (small_disk / "cache/new").touch()
    assert train(job.config(steps=1), small_disk / "cache", tmp_path / "run").step == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_chunk_names_the_study(cache, tmp_path, workers):
    broken = Path(shutil.copytree(cache.root, tmp_path / "cache"))
    for study in Cache(broken).study_ids:
        largest = max((broken / "studies" / f"{study}.zarr/ct/0").rglob("*"), key=lambda p: p.stat().st_size)
        flip(largest)
    with pytest.raises(CacheError, match=r"study-\d") as caught:
        train(job.config(data={"workers": workers}), broken, tmp_path / "run")
    assert "Traceback" not in str(caught.value)


def start(cache, out, killed, *settings, environ=None):
    command = [sys.executable, str(JOB), str(cache.root), str(out), str(killed), *settings]
    return subprocess.Popen(
        command, env={**os.environ, **(environ or {})}, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_a_rank_that_dies_is_named_by_the_other(cache, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    shared = {"MASTER_PORT": port, "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_ID": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        os.environ.pop(name, None)
    one, other = (
        start(cache, tmp_path / "run", 3, "rank=1", environ={**shared, "SLURM_PROCID": str(r), "SLURM_LOCALID": str(r)})
        for r in range(2)
    )
    _, errors = one.communicate(timeout=200)
    assert other.wait(10) == -signal.SIGKILL
    assert one.returncode == 1
    assert "error: expected 2 ranks, found one gone" in errors
    assert "Traceback" not in errors
    assert (tmp_path / "run/checkpoints/step-000002/loop.json").is_file()


@pytest.mark.slow
def test_random_kills_do_not_move_the_curve(cache, tmp_path, caplog):
    """SIGKILL anywhere, most often in the second in which two checkpoints are written."""
    caplog.set_level(logging.INFO)
    out, whole, dice = tmp_path / "run", tmp_path / "whole", random.Random(1)
    settings = ("steps=40", "pause=0.1", "workers=1")
    assert start(cache, whole, 0, *settings).wait(300) == 0
    for _ in range(12):
        begun = len(losses(out)) if (out / "log.csv").exists() else 0
        process = start(cache, out, 0, *settings)
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:
            if (out / "log.csv").exists() and len(losses(out)) > begun:
                break
            time.sleep(0.02)
        time.sleep(dice.uniform(0, 1))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert start(cache, out, 0, *settings).wait(300) == 0
    assert losses(out) == losses(whole)

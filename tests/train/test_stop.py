"""Signals: a checkpoint within the grace time, the same curve afterwards, and an end on the spot at the second one."""

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vol3d.errors import StoppedError
from vol3d.train import stop
from vol3d.train.engine import Engine
from vol3d.train.loop import train
from vol3d.train.run import Run

JOB = Path(__file__).with_name("loop_job.py")
_spec = importlib.util.spec_from_file_location("loop_job", JOB)
job = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(job)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return job.make_cache(tmp_path_factory.mktemp("data") / "cache")


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    before = os.environ.get("VOL3D_CACHE_HOME")
    os.environ["VOL3D_CACHE_HOME"] = str(tmp_path_factory.mktemp("home"))
    yield
    os.environ.pop("VOL3D_CACHE_HOME")
    if before is not None:
        os.environ["VOL3D_CACHE_HOME"] = before


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Writes down how it was called; the real one is in tests/jobs."""
    program = tmp_path / "bin/scontrol"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ -z "$FAIL" ] || {{ echo no >&2; exit 1; }}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    return lambda: (tmp_path / "calls").read_text().splitlines() if (tmp_path / "calls").exists() else []


def losses(out):
    with (out / "log.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def validations(out):
    return [json.loads(line) for line in (out / "validation.jsonl").read_text().splitlines()]


def signal_at(monkeypatch, step, number):
    """This process signals itself in the middle of an update."""
    whole = Engine._update

    def signalled(self, rate):
        if self._engine.global_steps == step:
            os.kill(os.getpid(), number)
        return whole(self, rate)

    monkeypatch.setattr(Engine, "_update", signalled)


def test_stopped_twice_and_resumed_is_the_same_run(cache, tmp_path, monkeypatch, scontrol):
    """SIGUSR1 after the third update, which is requeued, and SIGTERM after the fifth, which is not."""
    out, whole = tmp_path / "run", tmp_path / "whole"

    def size_of(model):
        return {"dice": float(sum(p.abs().sum() for p in model.parameters()))}

    def go(folder, **more):
        return train(job.config(validate_every=3), cache.root, folder, validate=size_of, **more)

    go(whole)
    with monkeypatch.context() as patch:
        signal_at(patch, 2, signal.SIGUSR1)
        with pytest.raises(StoppedError, match="SIGUSR1; 3 of 6 steps are done and saved"):
            go(out)
    assert scontrol() == ["requeue 77"]
    assert json.loads((out / "heartbeat.json").read_text())["doing"] == "stopped"
    assert (out / "checkpoints/step-000003/loop.json").is_file()
    assert json.loads((out / "checkpoints/step-000003/loop.json").read_text())["owed"]  # it would have been judged
    with monkeypatch.context() as patch:
        signal_at(patch, 1, signal.SIGTERM)
        with pytest.raises(StoppedError, match="SIGTERM; 5 of 6"):
            go(out, resume="auto")
    assert scontrol() == ["requeue 77"]
    assert go(out, resume="auto").step == 6
    assert losses(out) == pytest.approx(losses(whole), abs=1e-6)
    assert [v["step"] for v in validations(out)] == [3, 6]
    assert [v["dice"] for v in validations(out)] == pytest.approx([v["dice"] for v in validations(whole)], rel=1e-6)
    assert json.loads((out / "heartbeat.json").read_text())["doing"] == "finished"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # as it was


def test_a_validation_is_broken_off_and_made_up_for(cache, tmp_path):
    out = tmp_path / "run"
    judged = []

    def slow(model):
        os.kill(os.getpid(), signal.SIGTERM)
        judged.append("whole")  # never reached: the signal breaks it off
        return {"dice": 1.0}

    config = job.config(steps=3, validate_every=2, checkpoint_every=100)
    with pytest.raises(StoppedError, match="2 of 3 steps"):
        train(config, cache.root, out, validate=slow)
    assert judged == []
    result = train(config, cache.root, out, resume="auto", validate=lambda model: {"dice": 0.5})
    assert result.best == {"step": 2, "dice": 0.5}
    assert [v["step"] for v in validations(out)] == [2, 3]


def test_a_signal_while_the_ranks_talk_is_not_lost(monkeypatch):
    whole = stop.ranks.gather_numbers

    def interrupted(values):
        found = whole(values)
        os.kill(os.getpid(), signal.SIGTERM)
        return found

    def talk():
        with stop.listening(), stop.held():
            with monkeypatch.context() as patch:
                patch.setattr(stop.ranks, "gather_numbers", interrupted)
                assert stop.agree() == 0
            assert stop.agree() == signal.SIGTERM

    stop.ranks.join()
    with pytest.raises(StoppedError, match="SIGTERM"):
        talk()


def listen_and_be_signalled():
    with stop.listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(10)
        pytest.fail("the signal was not heard")


def test_outside_of_a_run_a_signal_ends_at_once(scontrol, caplog, monkeypatch):
    with pytest.raises(StoppedError, match="stopped by SIGUSR1"):
        listen_and_be_signalled()
    assert scontrol() == ["requeue 77"]
    monkeypatch.setenv("FAIL", "1")
    with pytest.raises(StoppedError):
        listen_and_be_signalled()
    assert "job 77 was not requeued (no); submit the same job again" in caplog.text


def test_a_signal_that_came_while_the_command_was_starting_is_heard(scontrol):
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])  # as vol3d.cli does before it imports anything
    try:
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        with pytest.raises(StoppedError, match="SIGUSR1"), stop.listening():
            pytest.fail("the signal was not heard")
        assert signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    assert scontrol() == ["requeue 77"]


def test_the_same_signal_twice_in_a_row_is_one(scontrol):
    def hear():
        with stop.listening(), stop.held():
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGUSR1)
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.asked() == signal.SIGTERM  # it says more: this job is not wanted back

    with pytest.raises(StoppedError):
        hear()
    assert scontrol() == []


def test_a_signal_during_the_last_checkpoint_is_not_lost(cache, tmp_path, monkeypatch, scontrol):
    """What follows, calibration on hundreds of studies, may outlast the time limit."""
    whole = Run._save

    def signalled(self, run_log):
        if self.state.step == 6:
            os.kill(os.getpid(), signal.SIGUSR1)
        whole(self, run_log)

    monkeypatch.setattr(Run, "_save", signalled)
    with pytest.raises(StoppedError, match="SIGUSR1"):
        train(job.config(), cache.root, tmp_path / "run")
    assert scontrol() == ["requeue 77"]
    assert (tmp_path / "run/checkpoints/step-000006/loop.json").is_file()


def test_only_this_task_of_an_array_goes_back(scontrol, monkeypatch):
    """Its last task has the array's own number, by which SLURM would start all tasks again."""
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    with pytest.raises(StoppedError):
        listen_and_be_signalled()
    assert scontrol() == ["requeue 77_3"]


def test_the_end_of_a_requeued_turn_is_no_second_signal(scontrol):
    """SLURM sends SIGTERM as soon as the job is requeued, long after the signal if the checkpoint took its time."""
    code = """
import os, signal, time
from vol3d.train import stop
stop.REPEAT_S = 0.2
with stop.listening(), stop.held():
    os.kill(os.getpid(), signal.SIGUSR1)
    time.sleep(0.5)  # the checkpoint
    error = stop.stopped("saved")
    stop.requeue()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    print("told", error, flush=True)
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "told stopped by SIGUSR1; saved\n", done.stderr
    assert done.returncode == 128 + signal.SIGTERM
    assert scontrol() == ["requeue 77"]


def start(cache, out, *settings):
    command = [sys.executable, str(JOB), str(cache.root), str(out), "0", *settings]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(process, found, seconds=120):
    end = time.monotonic() + seconds
    while not found():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.05)


def test_all_processes_of_a_run_signalled_as_slurm_does(cache, tmp_path):
    """Those that read data go on reading; the second signal ends a run that is writing a checkpoint."""
    out, whole = tmp_path / "run", tmp_path / "whole"
    uninterrupted = start(cache, whole, "steps=8", "workers=2")
    process = start(cache, out, "steps=8", "workers=2", "pause=0.3")
    wait_for(process, lambda: (out / "checkpoints/step-000002").exists())
    os.killpg(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == StoppedError.exit_code, errors
    assert "stopped by SIGTERM" in errors
    done = len(losses(out))
    assert 2 <= done < 8

    process = start(cache, out, "steps=8", "workers=2", "slow_checkpoint=8")
    begun = out / "checkpoints/.step-000008.partial/begun"
    wait_for(process, begun.exists)
    os.killpg(process.pid, signal.SIGTERM)
    time.sleep(stop.REPEAT_S + 0.5)
    assert process.poll() is None  # the first one waits for the checkpoint
    os.killpg(process.pid, signal.SIGTERM)
    assert process.wait(timeout=10) == 128 + signal.SIGTERM
    assert "second signal: ended at once" in process.stderr.read()
    assert begun.exists()

    # All in processes of their own: one that has trained before may differ in the last bit, which AdamW makes a step.
    for last in (uninterrupted, start(cache, out, "steps=8", "workers=2")):
        _, errors = last.communicate(timeout=120)
        assert last.returncode == 0, errors
    assert losses(out) == losses(whole)

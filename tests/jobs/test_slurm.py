"""The job files on a real SLURM: preprocessing in an array, two ranks that are preempted, answers, scores."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest

from vol3d.cache import Cache
from vol3d.config import load_yaml
from vol3d.train.run_config import RunConfig

ROOT = Path(__file__).parents[2]
JOBS = ROOT / "jobs"
HERE = ["--gpus-per-node=0", "--cpus-per-task=1", "--mem-per-cpu=2G", "--ntasks-per-node=2"]
"""What this machine has instead of what the files ask for."""

TINY = [
    "train.checkpoint_every=1000", "train.precision=fp32", "train.batch_size=2", "train.log_every=1",
    "train.ema_decay=null", "data.workers=1", "data.patch_size=[32,32,32]", "data.phrases_per_patch=3",
    "model.encoder.features=[4,8,16]", "model.encoder.blocks=[1,1,1]", "model.width=8", "model.heads=2",
    "predict.overlap=0.0",
]  # fmt: skip


def options(steps):
    return " ".join(f"--set {value}" for value in [f"train.steps={steps}", *TINY])


def rows(run):
    path = Path(run) / "log.csv"
    if not path.is_file():
        return []
    with path.open() as file:
        return [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]


def submit(slurm, logs, site, name, *more):
    return slurm.run("sbatch", "--parsable", f"--chdir={logs}", *HERE, *more, JOBS / f"{name}.slurm", **site)


def starts(site):
    return [start["step"] for start in json.loads((Path(site["RUN"]) / "run.json").read_text())["starts"]]


def stop_at(slurm, until, site, step, *command):
    """Waits until a step is done, then has SLURM stop the job."""
    until(lambda: len(rows(site["RUN"])) >= step, 600)
    slurm.run(*command)
    until(lambda: (Path(site["RUN"]) / "heartbeat.json").is_file() and stopped(site), 120)


def stopped(site):
    return json.loads((Path(site["RUN"]) / "heartbeat.json").read_text())["doing"] == "stopped"


@pytest.fixture(scope="session")
def cache(slurm, site, tmp_path_factory):
    """Built by an array of two tasks."""
    logs = tmp_path_factory.mktemp("preprocess")
    job = submit(slurm, logs, site, "preprocess", "--array=1-2")
    assert slurm.wait(job, 1200) == ["COMPLETED"] * 2, [p.read_text() for p in logs.glob("*.log")]
    assert len(Cache(site["CACHE"]).study_ids) == 6
    return site["CACHE"]


def test_a_warned_job_goes_back_to_the_queue_and_on(slurm, cache, site, logs, until):
    """SIGUSR1 is what SLURM sends before the time limit."""
    site = {**site, "RUN": str(logs / "run"), "TRAIN_OPTIONS": options(24)}
    job = submit(slurm, logs, site, "train")
    stop_at(slurm, until, site, 3, "scancel", "--signal=USR1", job)
    assert slurm.wait(job, 300) == ["COMPLETED"]
    assert [step for step, _ in rows(site["RUN"])] == list(range(1, 25))
    assert len(starts(site)) == 2
    assert 3 <= starts(site)[1] < 24
    assert (logs / "run/best/checkpoint.json").is_file()
    text = next(logs.glob("vol3d-train-*.log")).read_text()
    assert f"job {job} goes back to the queue" in text


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_three_preemptions_do_not_move_the_loss(slurm, cache, site, logs, until):
    """Twice `scontrol requeue`, as for a job of higher priority, and once the time limit.

    So many steps that an idle machine is not done before it is stopped for the third time.
    """
    steps = 400
    whole = {**site, "RUN": str(logs / "whole"), "TRAIN_OPTIONS": options(steps)}
    assert slurm.wait(submit(slurm, logs, whole, "train"), 1800) == ["COMPLETED"]
    site = {**site, "RUN": str(logs / "run"), "TRAIN_OPTIONS": options(steps)}
    job = submit(slurm, logs, site, "train", "--time=60", "--signal=USR1@120")
    for step in (5, 30):
        stop_at(slurm, until, site, step, "scontrol", "requeue", job)
        until(lambda: slurm.states(job) == ["RUNNING"] and not stopped(site), 900)
    until(lambda: len(rows(site["RUN"])) >= 60, 600)
    let_time_run_out(slurm, job)
    until(lambda: stopped(site), 120)
    slurm.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    assert slurm.wait(job, 1800) == ["COMPLETED"]
    assert len(starts(site)) >= 4  # SLURM may notice the limit once more before it is raised
    found, expected = rows(site["RUN"]), rows(whole["RUN"])
    assert [step for step, _ in found] == list(range(1, steps + 1))
    worst = max(abs(a - b) for (_, a), (_, b) in zip(found, expected, strict=True))
    print(f"started after steps {starts(site)}, largest difference of a loss {worst:.1e}")
    assert worst < 1e-6


def let_time_run_out(slurm, job):
    """Leaves the job less time than it wants to be warned, and holds its ranks until SLURM has noticed."""
    slurm.run("scancel", "--signal=STOP", job)
    *_, minutes, _ = slurm.run("squeue", "--noheader", "--format=%M", f"--jobs={job}").replace("-", ":").split(":")
    slurm.run("scontrol", "update", f"JobId={job}", f"TimeLimit={int(minutes) + 2}")
    time.sleep(45)  # it looks every 30 s
    slurm.run("scancel", "--signal=CONT", job)


def kill_running(answers):
    """SIGKILL to the command of one task, in the middle of a study; `scancel` would let it end in order."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # gone meanwhile
            words = path.read_bytes().decode().split("\0")
            if "vol3d.cli" in words and str(answers) in words and "srun" not in words[0]:
                os.kill(int(path.parent.name), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_chain_from_studies_to_scores(slurm, site, logs, until):
    site = {**site, "CACHE": str(logs / "cache"), "RUN": str(logs / "run"), "ANSWERS": str(logs / "answers"),
            "TRAIN_OPTIONS": options(4)}  # fmt: skip
    file = logs / "site.env"
    file.write_text("".join(f"export {name}='{value}'\n" for name, value in site.items()))
    said = slurm.run(JOBS / "chain.sh", file, f"--chdir={logs}", *HERE)
    for job in [word.strip(",") for word in said.split()[1::2]]:
        assert set(slurm.wait(job, 600)) == {"COMPLETED"}
    assert len(list((logs / "answers").glob("*/done.json"))) == 6
    assert len(list((logs / "answers").glob("*/segmentation.json"))) == 6
    assert len((logs / "run/evaluation/metrics.csv").read_text().splitlines()) > 1

    shutil.rmtree(logs / "answers")  # again, killed in the middle of a study
    killed = submit(slurm, logs, site, "infer", "--array=1-2")
    until(lambda: list((logs / "answers").glob("*/done.json")), 300)
    kill_running(logs / "answers")
    assert "FAILED" in slurm.wait(killed, 600)
    left = len(list((logs / "answers").glob("*/done.json")))
    print(f"{left} of 6 studies done when one task was killed")
    assert left < 6
    assert slurm.wait(submit(slurm, logs, site, "infer", "--array=1-2"), 600) == ["COMPLETED"] * 2
    assert len(list((logs / "answers").glob("*/done.json"))) == 6


def test_the_chain_stops_at_a_bad_study(slurm, site, logs):
    """Training must not begin on what is left without anybody having looked."""
    bad = logs / "manifest.jsonl"
    bad.write_text('{"study_id": "a", "ct": "nowhere.nii.gz"}\n')
    site = {**site, "MANIFEST": str(bad), "CACHE": str(logs / "cache"), "SHARDS": "1"}
    file = logs / "site.env"
    file.write_text("".join(f"export {name}='{value}'\n" for name, value in site.items()))
    said = slurm.run(JOBS / "chain.sh", file, f"--chdir={logs}", *HERE)
    preprocess, train = said.replace(",", "").split()[1:4:2]
    assert slurm.wait(preprocess, 120) == ["FAILED"]
    assert slurm.wait(train, 60) == ["CANCELLED"]
    assert "nowhere.nii.gz" in (logs / "cache/quarantine.jsonl").read_text()


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.slurm")), ids=lambda p: p.name)
def test_job_files_are_resources_and_one_command(path):
    subprocess.run(["bash", "-n", path], check=True)
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    assert sum(line.startswith("exec srun ") for line in lines) == 1
    assert not any(line.startswith(("if ", "for ", "while ")) for line in lines)


def test_every_variable_of_the_jobs_is_in_the_site_file():
    known = set(re.findall(r"^(?:# )?export (\w+)=", (JOBS / "site.env").read_text(), re.M))
    for path in (*JOBS.glob("*.slurm"), JOBS / "chain.sh"):
        used = set(re.findall(r"\$\{?([A-Z][A-Z0-9_]+)", path.read_text()))
        own = {"SRUN_CPUS_PER_TASK"}
        assert {n for n in used - own if not n.startswith("SLURM_")} <= known


def test_the_configuration_of_the_site_file_fits_the_training_job():
    """Else training would fail, after hours of preprocessing, for ranks that cannot share a batch."""
    name = re.search(r"^export CONFIG=\S*/vol3d/(\S+)", (JOBS / "site.env").read_text(), re.M)
    asked = {
        key: int(n) for key, n in re.findall(r"--(nodes|ntasks-per-node)=(\d+)", (JOBS / "train.slurm").read_text())
    }
    config = load_yaml(ROOT / name[1], RunConfig)
    assert config.train.micro_batch(asked["nodes"] * asked["ntasks-per-node"]) >= 1


@pytest.mark.parametrize("name", ["preprocess", "train", "infer", "evaluate"])
def test_a_job_without_the_site_file_says_so(name):
    environ = {k: v for k, v in os.environ.items() if k != "VOL3D"} | {"SLURM_CPUS_PER_TASK": "1"}
    done = subprocess.run(["bash", JOBS / f"{name}.slurm"], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "source your copy of jobs/site.env before sbatch" in done.stderr


def test_the_chain_misses_a_file_before_it_submits_anything(tmp_path):
    (tmp_path / "here").touch()
    file = tmp_path / "site.env"
    names = {"MANIFEST": "here", "CONFIG": "here", "PROMPTS": "nowhere", "SHARDS": "1"}
    file.write_text("".join(f"export {name}={tmp_path}/{value}\n" for name, value in names.items()))
    done = subprocess.run(
        [JOBS / "chain.sh", file], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"expected the file {tmp_path}/nowhere that {file} names, found none" in done.stderr

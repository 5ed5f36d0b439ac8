"""A real SLURM of one node on loopback: munged, slurmctld and slurmd of our own, gone with the test session."""

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATH = f"{os.environ['PATH']}:/usr/sbin"  # where Debian keeps daemons

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
MpiDefault=none
ReturnToService=2
KillWait=60
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=16000
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE
"""
# cred_expire is also how long a requeued job waits; KillWait is the grace time of a preempted one


@dataclass(frozen=True)
class Slurm:
    """Commands of the test cluster."""

    environ: dict[str, str]

    def run(self, *command, **more):
        """Output of a SLURM command."""
        done = subprocess.run(
            [str(c) for c in command], env={**os.environ, **self.environ, **more}, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def states(self, job):
        """States of a job and of its array tasks."""
        return self.run("squeue", "--noheader", "--states=all", "--format=%T", f"--jobs={job}").split()

    def wait(self, job, seconds):
        """Until all tasks of a job have ended; returns their states."""
        _until(lambda: not {*self.states(job)} - {"COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL"}, seconds)
        return self.states(job)


def _until(true, seconds):
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)


@pytest.fixture(scope="session")
def until():
    """Waits for a condition, so many seconds at most."""
    return _until


@pytest.fixture(scope="session")
def slurm(tmp_path_factory, program):
    """Started once a session."""
    os.environ["PATH"], before = PATH, os.environ["PATH"]
    for name in ("munged", "slurmctld", "slurmd", "sbatch"):
        program(name)
    folder = tmp_path_factory.mktemp("slurm")
    (folder / "munge").mkdir(mode=0o700)
    (folder / "munge/key").write_bytes(secrets.token_bytes(1024))
    (folder / "munge/key").chmod(0o400)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    host = socket.gethostname().split(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(CONFIGURATION.format(host=host, ports=ports, user=getpass.getuser(), folder=folder))
    munge = [f"--{what}-file={folder}/munge/{what}" for what in ("key", "pid", "log", "seed")]
    daemons = [
        ["munged", "--foreground", "--force", f"--socket={folder}/munge/socket", *munge],
        ["slurmctld", "-D", "-c", "-f", conf],
        ["slurmd", "-D", "-c", "-f", conf],
    ]
    running = []
    cluster = Slurm({"SLURM_CONF": str(conf)})
    try:
        for command in daemons:
            log = (folder / f"{command[0]}.out").open("w")
            running.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
            if command[0] == "munged":
                _until((folder / "munge/socket").exists, 20)
        _until(lambda: _idle(cluster, running, folder), 60)
        yield cluster
        for how in ("--signal=KILL", "--full"):  # a step outlives the daemon that started it
            cluster.run("scancel", how, "--user", getpass.getuser())
        _until(lambda: not cluster.run("squeue", "--noheader"), 90)
    finally:
        for process in reversed(running):
            process.send_signal(signal.SIGTERM)
        for process in running:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        os.environ["PATH"] = before


def _idle(cluster, running, folder):
    if any(process.poll() is not None for process in running):
        pytest.fail("\n".join(p.read_text()[-1000:] for p in (*folder.glob("*.out"), *folder.glob("*.log"))))
    done = subprocess.run(["sinfo", "-h", "-o", "%T"], env={**os.environ, **cluster.environ}, capture_output=True)
    return done.stdout.strip() == b"idle"


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Variables of jobs/site.env for six small phantoms and a tiny model."""
    from preprocessing.phantom import PhantomOptions, write_phantoms

    folder = tmp_path_factory.mktemp("site")
    small = PhantomOptions(ct_spacing_mm=(6.0, 6.0), pet_spacing_mm=((7.0, 7.0, 7.0),))
    manifest = write_phantoms(folder / "studies", 6, 3, "nifti", splits=(0.5, 0.25, 0.25), options=small)
    prompts = folder / "prompts.txt"
    prompts.write_text("liver\nleft kidney\n")
    return {
        "VOL3D": f"{sys.executable} -m vol3d.cli",
        "MANIFEST": str(manifest),
        "CACHE": str(folder / "cache"),
        "RUN": str(folder / "run"),
        "ANSWERS": str(folder / "answers"),
        "CONFIG": str(ROOT / "configs/train/demo.yaml"),
        "PROMPTS": str(prompts),
        "SHARDS": "2",
        "VOL3D_CACHE_HOME": str(folder / "home"),
        "VOL3D_SITE_KEY": "test",
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "HF_HUB_OFFLINE": "1",
    }


@pytest.fixture
def logs(tmp_path):
    """Where the jobs of a test write; shown if it fails."""
    yield tmp_path
    for path in sorted(tmp_path.glob("*.log")):
        print(f"--- {path.name}\n{path.read_text()[-4000:]}")
    shutil.rmtree(tmp_path, ignore_errors=True)

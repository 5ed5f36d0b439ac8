"""Launchers by their environment variables."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from vol3d.errors import ConfigError
from vol3d.train import ranks
from vol3d.train.ranks import Place, find_place

SRUN = {"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "4", "SLURM_JOB_ID": "100",
        "SLURM_STEP_ID": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NODELIST": "node7"}  # fmt: skip


def test_alone():
    assert find_place({}) == Place(0, 1, 0, None)


def test_torchrun_and_the_deepspeed_launcher():
    environ = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1234"}
    assert find_place(environ) == Place(1, 2, 1, "10.0.0.1:1234")


def test_srun_finds_the_first_host_and_a_port_of_the_job():
    assert find_place(SRUN) == Place(3, 4, 1, "node7:20702")
    assert find_place({**SRUN, "SLURM_STEP_NUM_NODES": "1"}).master == "127.0.0.1:20702"
    assert find_place({**SRUN, "MASTER_ADDR": "head", "MASTER_PORT": "5"}).master == "head:5"
    assert find_place({**SRUN, "SLURM_JOB_ID": "101"}).master != find_place(SRUN).master


def test_srun_without_scontrol(monkeypatch):
    monkeypatch.setenv("PATH", "")
    many = {**SRUN, "SLURM_STEP_NODELIST": "node[7-8]"}
    assert find_place({**many, "SLURM_LAUNCH_NODE_IPADDR": "10.1.1.1"}).master == "10.1.1.1:20702"
    with pytest.raises(ConfigError, match="export MASTER_ADDR"):
        find_place(many)


def test_an_sbatch_script_without_srun_is_alone():
    assert find_place({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_JOB_ID": "1"}).world == 1


def test_ranks_that_cannot_know_of_each_other_are_refused():
    """Each would take itself for the only one, and all of them write to one run folder."""
    with pytest.raises(ConfigError, match="found WORLD_SIZE=2 without MASTER_ADDR"):
        find_place({"RANK": "1", "WORLD_SIZE": "2"})
    assert find_place({"RANK": "3", "WORLD_SIZE": "4", **SRUN}).rank == 3  # as `join` leaves them under srun
    assert find_place({"RANK": "0", "WORLD_SIZE": "1"}).world == 1


def test_what_is_no_number_is_named():
    with pytest.raises(ConfigError, match="expected a number in MASTER_PORT, found 'any'"):
        find_place({**SRUN, "MASTER_PORT": "any"})


def test_a_port_that_is_taken_is_told_without_a_traceback():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code = """
from vol3d.errors import RankError
from vol3d.train import ranks
try:
    ranks.join()
except RankError as error:
    print(error)
"""
        environ = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "DS_ACCELERATOR": "cpu"}
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **environ, "MASTER_PORT": str(taken.getsockname()[1])},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert "expected 2 ranks to meet at 127.0.0.1:" in done.stdout, done.stderr
    assert "export another MASTER_PORT if that port is taken" in done.stdout


def test_tiny_numbers_are_zero_only_where_it_is_said() -> None:
    def product() -> float:
        return (torch.full((1,), 1e-38) * 0.1).item()

    with ranks.tiny_numbers(are_zero=True):
        assert product() == 0.0
        with ranks.tiny_numbers(are_zero=False):
            assert product() > 0.0
        assert product() == 0.0
    assert product() > 0.0

"""Checkpoints go on with another number of ranks and another ZeRO stage."""

import csv
import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vol3d.train import ranks

HERE = Path(__file__).parent


def module(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


engine_job, loop_job = module("engine_job"), module("loop_job")


@pytest.fixture(scope="module")
def place():
    return ranks.join()


def start_ranks(world, script, *arguments):
    """As srun starts them, without SLURM."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": port, "SLURM_STEP_NUM_TASKS": str(world),
               "SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_ID": "1"}  # fmt: skip
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        environ.pop(name, None)
    running = [
        subprocess.Popen(
            [sys.executable, str(HERE / script), *map(str, arguments)],
            env={**environ, "SLURM_PROCID": str(r), "SLURM_LOCALID": str(r)},
        )
        for r in range(world)
    ]
    return [process.wait(timeout=1500) for process in running]


def test_one_rank_to_two_and_back(place, tmp_path):
    """A toy with layers that two ranks cannot share evenly."""
    straight = engine_job.curve(0, place, steps=4)["loss"][2:]
    engine = engine_job.build(0, place)
    for step in range(2):
        engine.step(engine_job.batches_of(step, place, 1), 1e-2)
    engine.save(tmp_path / "saved-1-0")
    engine.close()
    assert start_ranks(2, "engine_job.py", "save,load", tmp_path, "0,1,2,3") == [0, 0]
    found = json.loads((tmp_path / "rank1.json").read_text())
    for stage in range(4):
        assert set(found[f"load{stage}"]) == {"saved-1-0", "saved-2-0", "saved-2-1", "saved-2-2", "saved-2-3"}
        for name, losses in found[f"load{stage}"].items():
            assert losses == pytest.approx(straight, abs=1e-5), f"{name} -> 2 ranks, ZeRO {stage}"
    for saved, stage in ((0, 2), (1, 0), (2, 1), (3, 3)):
        assert engine_job.losses_after(tmp_path / f"saved-2-{saved}", stage, place) == pytest.approx(straight, abs=1e-5)


CELLS = [(world, stage) for world in (1, 2) for stage in range(4)]


@pytest.mark.slow
def test_every_cell_of_the_matrix(tmp_path, monkeypatch):
    """{1, 2 ranks} x {ZeRO 0 to 3}, each resumed halfway as each of them: AdamW, the real model, the real loop."""
    cache = loop_job.make_cache(tmp_path / "cache")
    monkeypatch.setenv("VOL3D_CACHE_HOME", str(tmp_path / "home"))
    for what in ("whole", "resumed"):
        for world in (1, 2):
            assert start_ranks(world, "elastic_job.py", what, world, cache.root, tmp_path) == [0] * world
    expected = losses(tmp_path / "1-0")
    table, worst = [["saved \\ resumed", *(f"{w} x ZeRO {s}" for w, s in CELLS)]], 0.0
    for source in CELLS:
        row = ["{} x ZeRO {}".format(*source)]
        for target in CELLS:
            found = losses(tmp_path / "{}-{}-to-{}-{}".format(*source, *target))
            assert len(found) == len(expected)
            difference = max(abs(a - b) for a, b in zip(found, expected, strict=True))
            row.append(f"{difference:.1e}")
            worst = max(worst, difference)
        table.append(row)
    print("\n" + "\n".join("| " + " | ".join(row) + " |" for row in table))
    assert worst < 1e-4


def losses(out):
    with (out / "log.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]

"""What a run writes down of itself."""

import csv
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vol3d.errors import ConfigError
from vol3d.train.run_log import RunLog


def test_a_row_is_the_mean_since_the_last_and_leaves_out_what_no_step_had(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0) as log:
        log.add({"loss": 1.0, "dice": math.nan})
        log.add({"loss": 2.0, "dice": 0.5})
        log.row(2)
        log.add({"loss": 0.1, "dice": math.nan})
        log.row(3)
    with (tmp_path / "log.csv").open() as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
    assert rows[0] == {"step": 2, "loss": 1.5, "dice": 0.5}
    assert rows[1]["loss"] == 0.1
    assert math.isnan(rows[1]["dice"])


def test_a_newer_version_adds_a_column(tmp_path: Path) -> None:
    with RunLog(tmp_path, 0) as log:
        log.add({"loss": 1.0})
        log.row(1)
    with RunLog(tmp_path, 1) as log:
        log.add({"memory_mb": 5.0, "loss": 2.0})
        log.row(2)
        log.add({"loss": 3.0})
        log.row(3)
    assert (tmp_path / "log.csv").read_text() == "step,loss,memory_mb\n1,1.0,nan\n2,2.0,5.0\n3,3.0,nan\n"


def beat(root: Path) -> dict[str, Any]:
    return dict(json.loads((root / "heartbeat.json").read_text()))


def test_the_heartbeat_says_how_far_it_is_and_why_it_ended(tmp_path: Path) -> None:
    def run() -> None:
        with RunLog(tmp_path, 10) as log:
            log.add({"loss": 1.0, "dice": math.nan})
            log.beat("training", 12, 20)
            assert beat(tmp_path)["figures"] == {"loss": 1.0}
            log.beat("training", 13, 20)  # too soon to be written
            assert beat(tmp_path)["step"] == 12
            log.saved(13, 0.25)
            log.beat("validating", 13, 20, always=True)
            assert beat(tmp_path)["checkpoint"] == {"step": 13, "seconds": 0.25}
            assert 0 <= beat(tmp_path)["seconds_left"] < 60
            raise ConfigError("the reason")

    with pytest.raises(ConfigError):
        run()
    assert (beat(tmp_path)["doing"], beat(tmp_path)["reason"], beat(tmp_path)["step"]) == ("failed", "the reason", 13)


def test_weights_and_biases_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="the optional extra 'tracking' is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for step in (1, 2):  # stopped and resumed: one curve
        with RunLog(tmp_path, step - 1, "vol3d-test") as log:
            log.add({"loss": 1.0 / step})
            log.row(step)
    identity = (tmp_path / "wandb-run").read_text()
    written = list((tmp_path / "wandb").glob(f"offline-run-*/run-{identity}.wandb"))
    assert len(written) == 2
    end = time.monotonic() + 30  # its own process writes
    while not all(b"train/loss" in path.read_bytes() for path in written):
        assert time.monotonic() < end
        time.sleep(0.1)


def test_without_a_key_it_says_what_to_do(tmp_path: Path) -> None:
    """In a process of its own: wandb keeps the mode that the first run of a process had."""
    pytest.importorskip("wandb", reason="the optional extra 'tracking' is not installed")
    code = """
import sys
from pathlib import Path
from vol3d.errors import ConfigError
from vol3d.train.run_log import RunLog
try:
    RunLog(Path(sys.argv[1]), 0, "project")
except ConfigError as error:
    print(error)
"""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env={**environ, "HOME": str(tmp_path)}, capture_output=True,
        text=True, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "export WANDB_MODE=offline, or set train.wandb=null" in done.stdout, done.stderr


def test_without_the_package_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install 'vol3d\[tracking\]'"):
        RunLog(tmp_path, 0, "project")

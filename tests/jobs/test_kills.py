"""Preprocessing killed at random points: what is there afterwards is whole, and the same as without a kill."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from preprocessing.build_cache import preprocess
from preprocessing.phantom import PhantomOptions, write_phantoms
from preprocessing.verify_cache import verify
from vol3d.workflows.prepare import load_recipe

CONFIG = Path(__file__).parents[2] / "configs/train/demo.yaml"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    small = PhantomOptions(ct_spacing_mm=(6.0, 6.0), pet_spacing_mm=((7.0, 7.0, 7.0),))
    return write_phantoms(tmp_path_factory.mktemp("raw"), 4, 5, "nifti", options=small)


@pytest.fixture(scope="module")
def whole(manifest, tmp_path_factory):
    cache = tmp_path_factory.mktemp("whole") / "cache"
    preprocess(manifest, load_recipe(CONFIG), cache, show_progress=False)
    return cache


def content(cache):
    files = (p for p in cache.rglob("*") if p.is_file() and "quarantine" not in p.name and "index" not in p.name)
    return {str(p.relative_to(cache)): p.read_bytes() for p in files}


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_at_random_points(manifest, whole, tmp_path, kills):
    job = Path(__file__).with_name("kill_job.py")
    command = [sys.executable, str(job), str(manifest), str(CONFIG), str(tmp_path / "cache"), str(kills)]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[-1] == str(kills)
    summary = preprocess(manifest, load_recipe(CONFIG), tmp_path / "cache", show_progress=False)
    assert not summary.quarantined
    assert verify(tmp_path / "cache", show_progress=False) == {}
    assert content(tmp_path / "cache") == content(whole)


def members(session):
    """Processes of a session that live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # gone meanwhile
            state, _, _, own = path.read_text().rpartition(")")[2].split()[:4]
            if int(own) == session and state != "Z":
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_command_with_workers(manifest, whole, tmp_path):
    """As the system kills it when memory runs out: the command, or all its processes. No worker stays behind."""
    command = [sys.executable, "-m", "vol3d.cli", "preprocess", str(manifest), "--config", str(CONFIG), "--out",
               str(tmp_path / "cache"), "--workers", "2"]  # fmt: skip
    for kill in (os.kill, os.killpg):
        process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
        while process.poll() is None and not list((tmp_path / "cache/studies").glob(".*~*")):
            time.sleep(0.01)
        kill(process.pid, signal.SIGKILL)
        process.wait()
        end = time.monotonic() + 60
        while members(process.pid):
            assert time.monotonic() < end, f"processes {members(process.pid)} outlive their command"
            time.sleep(0.2)
    subprocess.run(command, check=True, capture_output=True)
    assert verify(tmp_path / "cache", show_progress=False) == {}
    assert content(tmp_path / "cache") == content(whole)


def test_a_full_disk_and_then_room(manifest, whole, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
    try:
        command = [sys.executable, "-m", "vol3d.cli", "preprocess", str(manifest), "--config", str(CONFIG), "--out",
                   str(disk / "cache")]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr
        subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
        preprocess(manifest, load_recipe(CONFIG), disk / "cache", show_progress=False)
        assert verify(disk / "cache", show_progress=False) == {}
        assert content(disk / "cache") == content(whole)
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "error: [Errno 30] Read-only file system" in done.stderr
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)

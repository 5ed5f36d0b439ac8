"""The README's commands are run, smaller; the tree in it is the tree there is."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SMALLER = {"--studies 20": "--studies 6"}
QUICK = ["--set", "train.steps=2", "--set", "train.validate_every=0", "--set", "data.workers=0"]


def commands():
    block = README.split("The same by hand:")[1].split("```bash")[1].split("```")[0]
    return [line for line in block.splitlines() if line.strip()]


@pytest.mark.slow
def test_the_quick_start_works_as_written(tmp_path):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    lines = commands()
    assert [re.search(r"vol3d (\w+)", line).group(1) for line in lines] == [
        "phantom", "preprocess", "verify", "train", "segment", "evaluate",
    ]  # fmt: skip
    for line in lines:
        for large, small in SMALLER.items():
            line = line.replace(large, small)
        program, *arguments = shlex.split(line)
        assert program == ".venv/bin/vol3d"
        more = QUICK if arguments[0] == "train" else []
        done = subprocess.run(
            [sys.executable, "-m", "vol3d.cli", *arguments, *more],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert len(list((tmp_path / "out/masks/phantom-0001-000000/masks").glob("*.nii.gz"))) == 2
    assert (tmp_path / "out/evaluation/metrics.json").exists()


def test_the_tree_names_what_exists():
    tree = README.split("## Tree")[1].split("```")[1]
    for line in tree.strip().splitlines():
        inside = line.startswith("  ")
        for name in re.findall(r"[a-z0-9_]+(?:\.py|/)", line.split("   ")[0] if not inside else line.split("     ")[0]):
            assert (ROOT / ("vol3d" if inside else ".") / name).exists(), name


def test_every_package_of_vol3d_is_in_the_tree():
    named = README.split("## Tree")[1]
    for package in (ROOT / "vol3d").iterdir():
        if package.is_dir() and (package / "__init__.py").exists():
            assert f"{package.name}/" in named

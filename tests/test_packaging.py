"""What is handed out: sdist and wheel that work outside the checkout, container recipes, the citation file."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SHIPPED = ("vol3d", "preprocessing", "configs")


def run(*command, cwd, **environment):
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """sdist, and the wheel that is built from it, of the tracked files as they stand."""
    folder = tmp_path_factory.mktemp("build")
    tracked = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    for name in filter(None, tracked):
        if (ROOT / name).is_file():  # one deleted and not committed yet
            (folder / "src" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "src" / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", folder / "src", cwd=folder)
    return folder / "dist"


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The wheel alone in a folder; the packages it needs come from this environment."""
    folder = tmp_path_factory.mktemp("installed")
    wheel = next(built.glob("*.whl"))
    run(
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, wheel,
        cwd=folder,
    )  # fmt: skip
    return folder


def test_wheel_and_sdist_hold_every_file_that_the_program_reads(built):
    tracked = [n for n in run("git", "ls-files", *SHIPPED, cwd=ROOT).splitlines() if (ROOT / n).is_file()]
    names = set(zipfile.ZipFile(next(built.glob("*.whl"))).namelist())
    assert [n for n in tracked if n not in names] == []
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        inside = {n.partition("/")[2] for n in archive.getnames()}
    assert [n for n in tracked if n not in inside] == []
    strange = {n.split("/")[0] for n in names} - {*SHIPPED, f"vol3d-{PROJECT['version']}.dist-info"}
    assert strange == set()


def test_the_wheel_runs_elsewhere(installed, tmp_path):
    code = (
        "import vol3d, preprocessing; from vol3d.config import SHIPPED; "
        "print(vol3d.__file__, preprocessing.__file__, SHIPPED, sep='\\n')"
    )
    where = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed)).split()
    assert [Path(p).is_relative_to(installed) for p in where] == [True, True, True]
    shipped = installed / "configs"
    script = installed / "bin" / "vol3d"
    assert "weak-label" in run(sys.executable, script, "--help", cwd=tmp_path, PYTHONPATH=str(installed))
    checked = run(
        sys.executable, script, "config", "check", shipped / "train/demo.yaml", cwd=tmp_path, PYTHONPATH=str(installed)
    )
    assert "no fault found" in checked


@pytest.mark.slow
def test_the_demo_of_the_wheel(installed, tmp_path):
    """All of it but its length: fewer phantoms, fewer steps."""
    quick = ("train.steps=10", "train.checkpoint_every=10", "data.workers=0", "data.phrases_per_patch=4")
    code = f"from vol3d.workflows.demo import run_demo; run_demo(Path('out'), overrides={quick}, studies=12)"
    code = f"from pathlib import Path; {code}"
    run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed), VOL3D_SITE_KEY="test")
    assert (tmp_path / "out/index.html").is_file()
    assert (tmp_path / "out/metrics.json").is_file()
    assert (tmp_path / "out/run/last/README.md").is_file()


@pytest.mark.parametrize("path", ["Dockerfile", "jobs/vol3d.def"])
def test_container_recipes_install_what_there_is(path):
    text = (ROOT / path).read_text()
    image = re.search(r"python:(\d+)\.(\d+)-slim", text)
    assert (3, 11) <= (int(image[1]), int(image[2])) < (3, 14)
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    extras = re.search(r"(?:EXTRAS=|\[)([a-z,]+)", text)[1].split(",")
    assert set(extras) <= PROJECT["optional-dependencies"].keys()
    for name in ("pyproject.toml", "README.md", "LICENSE", *SHIPPED):
        assert re.search(rf"^\s*(COPY )?.*\b{re.escape(name)}\b", text, re.M), name
        assert (ROOT / name).exists()
    assert re.search(r'ENTRYPOINT \["vol3d"\]|exec vol3d "\$@"', text)
    if path == "Dockerfile":
        kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
        copied = {word for line in re.findall(r"^COPY (.+)$", text, re.M) for word in line.split()[:-1]}
        assert copied == kept


def test_the_citation_is_valid_and_of_this_version():
    """What the schema of the Citation File Format 1.2.0 requires; its validator needs a jsonschema of 2019."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0"
    assert cited["type"] in ("software", "dataset")
    assert all(isinstance(cited[name], str) and cited[name] for name in ("message", "title"))
    for work in (cited, *cited["references"]):
        assert work["type"]
        assert work["title"]
        assert work["authors"]
        assert all(a.keys() <= {"name"} or a.keys() <= {"family-names", "given-names"} for a in work["authors"])
    assert cited["version"] == PROJECT["version"]
    assert cited["license"] == PROJECT["license"]
    assert cited["repository-code"] in PROJECT["urls"]["Documentation"]

"""The documentation: it builds, its pictures are those of the script, and its snippets run.

`vol3d` commands of every page are parsed by the program itself. Those that need data are run in a folder that has the
names which the pages use (`out/run`, `CACHE`, `STUDY`, ...), with a tiny run behind them; the tutorial is run on a
clone, word for word.
"""

import doctest
import importlib.util
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
import yaml

from vol3d import script_output
from vol3d.cli import app
from vol3d.config import from_tree, load_yaml, read_tree
from vol3d.workflows.config_tools import kind_of, kinds

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]

pytest.importorskip("mkdocs", reason="the extra docs is not installed")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks(path):
    found, start, language, lines = [], None, "", []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip().startswith("```"):
            lines.append(line)
        elif start is None:
            start, language, lines = number, line.strip().strip("`"), []
        else:
            found.append(Block(path.relative_to(ROOT).as_posix(), start, language, "\n".join(lines)))
            start = None
    assert start is None, f"{path}: a block is not closed"
    return found


BLOCKS = [block for page in PAGES for block in blocks(page)]


def commands(block):
    """The commands of a block that are ours, as words; continued lines and open quotes joined, comments gone."""
    found, pending = [], ""
    for line in re.sub(r"\\\n", " ", block.text).splitlines():
        pending += line
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quote is still open
            pending += "\n"
            continue
        pending = ""
        if words and words[0].removeprefix(".venv/bin/") in ("vol3d", "python") and words[1:2] != ["-m"]:
            found.append(words)
    assert not pending, f"{block}: a quote is not closed"
    return found


def tool(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / "_site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


# -- the site ----------------------------------------------------------------------------------------------------


def test_the_site_builds_without_a_warning(tmp_path):
    pages = [p.relative_to(DOCS).with_suffix("").as_posix() for p in DOCS.rglob("*.md")]
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path], cwd=ROOT, capture_output=True,
        text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    built = [f"{p}/index.html" for p in pages if not p.endswith("index")]
    for page in ("index.html", "datasets/index.html", "reference/cli/index.html", "pictures/axes.svg", *built):
        assert (tmp_path / page).is_file(), page
    text = (tmp_path / "reference/cli/index.html").read_text()
    assert "vol3d preprocess" in text
    assert "Folder to write." in text
    loaded = re.findall(r'(?:src|href)="(https?://[^"]+\.(?:js|css|woff2?))"', (tmp_path / "index.html").read_text())
    assert loaded == []  # a page fetches nothing from elsewhere


def test_pictures_are_those_that_the_script_draws():
    script = tool("pictures")
    for name, draw in script.PICTURES.items():
        assert (DOCS / "pictures" / f"{name}.svg").read_text() == draw(), f"run python docs/_site/pictures.py ({name})"
        assert any(f"pictures/{name}.svg" in page.read_text() for page in PAGES), name


def test_the_reference_names_every_command_and_key():
    reference = tool("reference").pages()
    cli = reference["reference/cli.md"]
    for command in ("train", "segment", "config check", "export-model", "weak-label"):
        assert f"## vol3d {command}\n" in cli
    assert "| `--resume VALUE` | auto: go on where RUN stopped. One of `auto`, `no`. | `no` |" in cli
    assert "| `CACHE` | Cache folder. | needed |" in cli
    for kind in kinds():
        page = reference[f"reference/config-{kind}.md"]
        rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", page, re.M)
        assert rows
        assert [name for name, words in rows if not words.strip()] == []  # every key is explained
    train = reference["reference/config-train.md"]
    assert "## data.augmentation" in train
    assert "| `learning_rate` | number |" in train


def test_every_dataset_has_its_page_and_every_guide_its_place():
    from preprocessing.sources.registry import SOURCES

    navigation = str(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    for name, source in SOURCES.items():
        assert (DOCS / source.page).is_file(), name
        assert source.page in navigation
    for folder in ("how-to", "datasets"):
        for page in (DOCS / folder).glob("*.md"):
            assert page.relative_to(DOCS).as_posix() in navigation, f"name {page} under nav in mkdocs.yml"


# -- snippets that need nothing ----------------------------------------------------------------------------------


def named(found):
    return pytest.mark.parametrize("block", found, ids=str)


@named([b for b in BLOCKS if b.language == "bash" and any("vol3d" in c[0] for c in commands(b))])
def test_commands_are_such_as_the_program_takes(block):
    group = typer.main.get_command(app)
    for words in commands(block):
        if not words[0].endswith("vol3d") or words[1].startswith("--"):
            continue
        end = min((words.index(w) for w in ("|", ">", "&&") if w in words), default=len(words))
        rest, _ = script_output.taken_out(words[1:end])
        context = group.make_context("vol3d", rest)
        command = group
        while hasattr(command, "resolve_command"):
            arguments = context._protected_args + context.args if hasattr(context, "_protected_args") else context.args
            name, command, arguments = command.resolve_command(context, arguments)
            context = command.make_context(name, list(arguments), parent=context)
        for config in re.findall(r"configs/[\w/]+\.yaml", " ".join(rest)):
            assert (ROOT / config).is_file(), config


@named([b for b in BLOCKS if b.language == "python"])
def test_python_is_python_and_imports_what_there_is(block):
    if ">>>" in block.text:
        failures, tried = doctest.testfile(str(ROOT / block.page), module_relative=False)
        assert tried
        assert not failures
        return
    compile(block.text, str(block), "exec")
    for line in re.findall(
        r"^(?:from (?:vol3d|preprocessing)\S* import .+|import (?:vol3d|preprocessing)\S*)", block.text, re.M
    ):
        exec(line, {})


@named([b for b in BLOCKS if b.language in ("yaml", "json")])
def test_data_is_data_of_its_kind(block, tmp_path):
    if block.language == "json":
        json.loads(block.text)
        return
    path = tmp_path / "snippet.yaml"
    path.write_text(block.text)
    tree = read_tree(path)
    if block.page.endswith(("suv.md", "dicom-geometry.md")):
        assert kind_of(path) == "reading"
        load_yaml(path, kinds()["reading"])
    elif block.page.endswith("language-model.md"):
        from vol3d.model.language_config import LanguageConfig

        from_tree(LanguageConfig, tree, str(block))
    elif block.page.endswith("config.md"):
        assert set(tree) <= {"preprocess"}
    else:
        assert tree  # read by the commands of its page


INLINE = [b for b in BLOCKS if ".venv/bin/python -c '" in b.text]


@named(INLINE)
def test_inline_programs_run_and_print_what_the_page_says(block, capsys):
    (words,) = commands(block)
    assert words[1] == "-c"
    exec(compile(words[2], str(block), "exec"), {})
    printed = capsys.readouterr().out
    assert printed.strip()
    following = [b for b in BLOCKS if b.page == block.page and b.line > block.line and b.line < block.line + 30]
    if following and following[0].language == "" and following[0].page.endswith("evaluate-reports.md"):
        assert printed.split() == following[0].text.split()


# -- snippets that need a run ------------------------------------------------------------------------------------

LIVE = ("config", "dicom-geometry", "evaluate-findings", "language-model", "model-formats", "production", "train")
"""How-to pages whose commands run here, in order."""

ELSEWHERE = {
    "README.md": "tests/test_readme.py runs the quick start; the rest stands on the pages that it links",
    "docs/tutorial.md": "is run on a clone below",
    "docs/how-to/doctor.md": "tests/workflows/test_doctor.py",
    "docs/how-to/evaluate-reports.md": "tests/workflows/test_evaluate_reports.py, tests/preprocessing/test_holdout.py",
    "docs/how-to/findings.md": "tests/workflows/test_findings.py, on a checkpoint that knows findings",
    "docs/how-to/install.md": "tests/test_packaging.py builds and installs the wheel; containers need their own tools",
    "docs/how-to/intake.md": "tests/preprocessing/sources/test_dicom_tree.py",
    "docs/how-to/napari.md": "tests/view",
    "docs/how-to/pacs-delivery.md": "tests/workflows/test_send.py, tests/workflows/test_identity.py: Orthanc",
    "docs/how-to/pacs-export.md": "tests/workflows/test_export.py",
    "docs/how-to/report.md": "tests/workflows/test_report.py, tests/workflows/test_change.py",
    "docs/how-to/report-text.md": "its programs run above; tests/text",
    "docs/how-to/segment.md": "tests/workflows/test_pipeline.py",
    "docs/how-to/slicer.md": "needs 3D Slicer",
    "docs/how-to/slurm.md": "tests/jobs runs the job files under SLURM",
    "docs/scaling.md": "tests/test_scaling.py, tests/data/test_index.py; measuring takes ten minutes",
    "docs/how-to/suv.md": "tests/preprocessing/test_suv.py, on instances of its own",
    "docs/how-to/view.md": "tests/view, in Chromium",
    "docs/how-to/weak-labels.md": "tests/workflows/test_weak_label.py",
}
"""Pages whose commands run in other tests, and where."""


@pytest.fixture(scope="module")
def world(tiny, tmp_path_factory):
    """A folder in which the names that the pages use are there."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(tiny.run, folder / "out/run")
    shutil.copytree(tiny.cache, folder / "out/cache")
    shutil.copytree(tiny.manifest.parent, folder / "out/phantoms")
    study = sorted(p for p in (folder / "out/phantoms").iterdir() if p.is_dir())[0]
    (folder / "out/phantoms/phantom-0001-000000").symlink_to(study)
    (folder / "STUDY").symlink_to(study)
    shutil.copyfile(tiny.manifest, folder / "out/phantoms/MANIFEST")
    (folder / "MANIFEST").symlink_to(folder / "out/phantoms/MANIFEST")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", LIVE)
def test_a_pages_commands_run_in_order(name, world, vol3d, tiny, monkeypatch, capsys):
    monkeypatch.chdir(world)
    names, entry = {}, f'Cache("out/cache").entry("{_a_study(world)}")'
    for block in blocks(DOCS / "how-to" / f"{name}.md"):
        if block.language == "python":
            exec(compile(block.text.replace('Cache("CACHE").entry("STUDY")', entry), str(block), "exec"), names)
        elif block.language == "bash":
            for words in commands(block):
                _run_words(words, vol3d, tiny, world, capsys, block)
            _run_bundle(block, world)


def _a_study(world):
    from vol3d.cache import Cache

    return Cache(world / "out/cache").study_ids[0]


def _run_words(words, vol3d, tiny, world, capsys, block):
    if words[0].endswith("python"):
        exec(compile(words[2], str(block), "exec"), {})
        return
    arguments = [found for word in words[1:] for found in _expanded(word, world)]
    out = f"out/{block.line}"
    if arguments[0] == "preprocess":
        arguments[arguments.index("CACHE")] = f"{out}-cache"
        arguments[arguments.index("MANIFEST")] = str(tiny.manifest)
        arguments[arguments.index("--workers") + 1] = "1"
    if arguments[0] == "train" and "--dry-run" not in arguments:
        arguments[arguments.index("--out") + 1] = f"{out}-run"
        arguments[arguments.index("--cache") + 1] = _cache_for(arguments[1], world, vol3d, tiny)
        arguments += tiny.settings
    code = vol3d(*arguments)
    assert code == 0, f"{block}: {' '.join(words)}\n{capsys.readouterr().err[-2000:]}"
    if arguments[0] == "train" and "--dry-run" not in arguments:  # what the page goes on with
        (world / "RUN").unlink(missing_ok=True)
        (world / "RUN").symlink_to(world / f"{out}-run")


def _expanded(word, world):
    if "*" not in word or "=" in word:
        return [word]
    return [str(p.relative_to(world)) for p in sorted(world.glob(word))]


def _cache_for(config, world, vol3d, tiny):
    """A cache of the recipe that the configuration names."""
    if config.endswith("demo.yaml"):
        return "out/cache"
    cache = f"out/cache-{Path(config).stem}"
    if not (world / cache).is_dir():
        assert vol3d("preprocess", tiny.manifest, "--config", config, "--out", cache) == 0
    return cache


def _run_bundle(block, world):
    """The one program of a page that is not ours."""
    if "monai.bundle" not in block.text:
        return
    line = re.search(r"python -m monai\.bundle run.*", re.sub(r"\\\n", " ", block.text))[0]
    done = subprocess.run(
        [sys.executable, *shlex.split(line)[1:]], cwd=world / "out/bundle", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert list((world / "out/bundle-masks").rglob("*.nii.gz"))


def test_every_page_is_run_somewhere():
    for page in [ROOT / "README.md", DOCS / "tutorial.md", *(DOCS / "how-to").glob("*.md")]:
        name = page.relative_to(ROOT).as_posix()
        if any(b.language in ("bash", "python") for b in blocks(page)) and page.stem not in LIVE:
            assert name in ELSEWHERE, f"run the commands of {name} here, or say which test does"
    for name, why in ELSEWHERE.items():
        for path in re.findall(r"tests/[\w/]+(?:\.py)?", why):
            assert (ROOT / path).exists(), (name, path)


# -- the tutorial ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_tutorial_runs_as_written_on_a_clone(tmp_path):
    """`make setup` finds its work done: an environment that runs the clone's code with the packages of this one."""
    clone = tmp_path / "vol3d"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    programs = clone / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "activate").write_text(f'export PATH="{programs}:$PATH" VIRTUAL_ENV="{clone}/.venv"\n')
    script = programs / "vol3d"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(clone)!r})\nfrom vol3d.cli import main\n"
        'if __name__ == "__main__":\n    main()\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (clone / ".venv/.installed").touch()
    page = blocks(ROOT / "docs/tutorial.md")
    program = "set -euo pipefail\nshopt -u failglob\n" + "\n".join(b.text for b in page if b.language == "bash")
    done = subprocess.run(
        ["bash", "-c", program], cwd=clone, capture_output=True, text=True, check=False,
        env={**os.environ, "HOME": str(tmp_path), "VOL3D_CACHE_HOME": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    masks = clone / "out/masks/phantom-0001-000000"
    assert len(list((masks / "masks").glob("*.nii.gz"))) == 2
    assert (clone / "out/answers/phantom-0001-000000/report.json").is_file()
    assert "| data sets | 16 phantoms |" in (clone / "out/model/README.md").read_text()
    assert "studies of the test split" in (clone / "out/model/README.md").read_text()

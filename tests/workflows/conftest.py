"""One tiny run for all tests of the command line: six phantoms, four training steps."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from preprocessing.build_cache import preprocess
from preprocessing.phantom import PhantomOptions, write_phantoms
from vol3d.cache import Cache
from vol3d.cli import main
from vol3d.workflows.prepare import load_recipe

ROOT = Path(__file__).parents[2]
SMALL = PhantomOptions(ct_spacing_mm=(6.0, 6.0), pet_spacing_mm=((7.0, 7.0, 7.0),))
TINY = [
    "train.steps=4", "train.checkpoint_every=2", "train.precision=fp32", "train.batch_size=2", "train.log_every=1",
    "data.workers=0", "data.patch_size=[32, 32, 32]", "data.phrases_per_patch=3", "data.foreground_fraction=1.0",
    "model.encoder.features=[4, 8, 16]", "model.encoder.blocks=[1, 1, 1]", "model.width=8", "model.heads=2",
    "train.validate_every=0", "predict.overlap=0.25",
]  # fmt: skip


def run_command(*arguments):
    """Runs the command line in this process; returns its exit status."""
    try:
        main([str(a) for a in arguments])
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture(scope="session", name="vol3d")
def command():
    return run_command


def settings(*more):
    return [part for value in (*TINY, *more) for part in ("--set", value)]


@pytest.fixture(scope="session")
def oracle_cache(tmp_path_factory):
    """Two PET/CT phantoms and one CT, for a model that is always right (`oracle`)."""
    folder = tmp_path_factory.mktemp("oracle")
    recipe = load_recipe(ROOT / "configs" / "preprocess" / "phantom.yaml")
    options = PhantomOptions(ct_spacing_mm=(4.0, 4.0), pet_spacing_mm=((4.0, 4.07, 4.07),))
    for seed, count, kind in ((31, 2, "petct"), (32, 1, "ct")):
        manifest = write_phantoms(folder / kind, count, seed, kind=kind, options=options)
        preprocess(manifest, recipe, folder / "cache", show_progress=False)
    return Cache(folder / "cache")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Phantoms as DICOM, their cache and a run trained for four steps."""
    folder = tmp_path_factory.mktemp("tiny")
    manifest = write_phantoms(folder / "studies", 6, 3, "dicom", splits=(0.5, 0.25, 0.25), options=SMALL)
    config = ROOT / "configs" / "train" / "demo.yaml"
    assert run_command("preprocess", manifest, "--config", config, "--out", folder / "cache") == 0
    assert run_command("train", config, "--cache", folder / "cache", "--out", folder / "run", *settings()) == 0
    return SimpleNamespace(
        folder=folder, manifest=manifest, config=config, cache=folder / "cache", run=folder / "run",
        settings=settings(),
    )  # fmt: skip

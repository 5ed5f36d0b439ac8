"""`vol3d preprocess`: the manifest or dataset folder, the recipe, and the cache they make."""

from __future__ import annotations

from pathlib import Path

import yaml

from preprocessing.build_cache import Summary, preprocess
from preprocessing.manifest import write_manifest
from preprocessing.sources.registry import rows_of, source_of
from preprocessing.transforms import PreprocessConfig
from vol3d.config import load_yaml
from vol3d.errors import ConfigError
from vol3d.files import write_whole
from vol3d.train import stop


def load_recipe(path: Path) -> PreprocessConfig:
    """The recipe in `path`, or the one that a training config there names under ``preprocess``.

    Raises:
        ConfigError: no such file, or neither kind of configuration.
    """
    return load_yaml(recipe_path(path), PreprocessConfig)


def recipe_path(path: Path) -> Path:
    """Where the recipe is: `path` itself, or what its ``preprocess`` key points to, relative to it."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"expected a configuration file, found nothing at {path}")
    try:
        tree = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    named = tree.get("preprocess") if isinstance(tree, dict) else None
    return path if named is None else path.parent / str(named)


def intake(folder: Path, out: Path, *, rules: Path | None = None, workers: int = 1) -> Path:
    """Sorts out a tree of DICOM (and NIfTI with JSON): ``out/manifest.jsonl``, ``out/report.jsonl``; see
    `preprocessing.sources.dicom_tree`.

    Raises:
        ConfigError, ManifestError: the rules are no rules, or there is no study in the folder.
    """
    from preprocessing.sources.dicom_tree import take_in
    from preprocessing.sources.series_rules import IntakeConfig

    config = load_yaml(rules, IntakeConfig) if rules is not None else IntakeConfig()
    return take_in(Path(folder), Path(out), config, workers=workers)


@stop.listening()
def prepare(
    manifest: Path,
    config: Path,
    out: Path,
    *,
    source: str | None = None,
    rules: Path | None = None,
    workers: int = 1,
    shard: tuple[int, int] = (1, 1),
    assume_hu: bool = False,
    show_progress: bool = True,
) -> Summary:
    """Builds or resumes a cache. With `source`, `manifest` is a dataset folder and its rows are kept as
    ``CACHE/manifest.jsonl``, or as ``CACHE.intake/manifest.jsonl`` where they may name people or dates. For a DICOM
    tree `rules` are those of `intake`, and its report becomes ``CACHE/intake.jsonl``.

    Raises:
        ConfigError, ManifestError, FingerprintError: nothing can be done at all.
        StoppedError: SIGTERM or SIGUSR1 came; the same call goes on.
    """
    recipe = load_recipe(config)
    if rules is not None and source != "dicom_tree":
        raise ConfigError(f"expected --rules with --source dicom_tree, found it with source {source!r}")
    if source == "dicom_tree" and shard[1] > 1:
        raise ConfigError(
            f"expected one intake for all {shard[1]} shards, found --source dicom_tree with --shard: each would read "
            f"the whole archive; run 'vol3d intake FOLDER --out DIR' once, then preprocess DIR/manifest.jsonl"
        )
    if source == "dicom_tree":
        private = intake_folder(Path(out))
        manifest = intake(manifest, private, rules=rules, workers=workers)
        Path(out).mkdir(parents=True, exist_ok=True)
        write_whole(Path(out) / "intake.jsonl", (private / "report.jsonl").read_bytes())
    elif source is not None:
        rows = list(rows_of(source, manifest))
        manifest = write_manifest(rows, _manifest_folder(Path(out), source_of(source).private) / "manifest.jsonl")
    return preprocess(
        manifest, recipe, out, workers=workers, shard=shard, assume_hu=assume_hu, show_progress=show_progress
    )


def intake_folder(out: Path) -> Path:
    """Beside a cache: rows of a source that may name people or dates."""
    return out.with_name(f"{out.name}.intake")


def _manifest_folder(out: Path, private: bool) -> Path:
    """The cache; or, for rows that may name people, a folder beside it for the owner alone."""
    if not private:
        return out
    beside = intake_folder(out)
    beside.mkdir(parents=True, exist_ok=True)
    beside.chmod(0o700)
    return beside

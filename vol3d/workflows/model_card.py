"""The cards of a run's models: gathers what is known where it lies and has `vol3d.model_card` write it down."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from vol3d.cache import Cache
from vol3d.checkpoint import RECORD, RUN_CHOICES
from vol3d.errors import CacheError, ConfigError, ModelUnavailableError
from vol3d.files import write_whole
from vol3d.model.reader import CONFIG as READER_CONFIG
from vol3d.model.text import MINILM, find_model
from vol3d.model.vlm import CONFIG
from vol3d.model_card import FILE, CardFacts, model_card
from vol3d.train.start import FILE as START

RUN_FILES = ("config.yaml", "run.json")


def write_cards(run: Path) -> None:
    """`README.md` of every model of a finished run, from all that the run and its cache know."""
    for name in RUN_CHOICES:
        if (run / name).is_dir():
            write_whole(run / name / FILE, card_of(run / name))


def card_of(folder: Path, evaluation: Path | None = None, data_sets: str | None = None) -> str:
    """The card of a model folder, with what the run above it says.

    A folder that has left its run keeps the card that was written there; only the evaluation is put into it.

    Args:
        folder: with `checkpoint.json`.
        evaluation: `metrics.json` of `vol3d evaluate`, or its folder.
        data_sets: their names, which no run knows.

    Raises:
        ConfigError: no such evaluation, or of other weights.
    """
    record = json.loads((folder / RECORD).read_text())
    measured = None if evaluation is None else read_evaluation(evaluation, record)
    inside = all((folder.parent / name).is_file() for name in RUN_FILES)
    if not inside and (folder / FILE).is_file() and not data_sets:
        return _with_section((folder / FILE).read_text(encoding="utf-8"), record, measured)
    model = json.loads((folder / CONFIG).read_text())
    run = json.loads((folder.parent / "run.json").read_text()) if inside else None
    config = yaml.safe_load((folder.parent / "config.yaml").read_text()) if inside else None
    facts = CardFacts(
        model=model,
        config=config,
        run=run,
        data=_counts(config, run),
        evaluation=measured,
        data_sets=data_sets,
        start=_started(folder.parent) if inside else None,
        text_licence=_licence_of(model["text"]["name"]),
        language_model=_language_model(folder),
    )
    return model_card(record, facts)


def read_evaluation(path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """What `vol3d evaluate` measured of these very weights.

    Raises:
        ConfigError: nothing there, something else, or of other weights.
    """
    file = path / "metrics.json" if path.is_dir() else path
    try:
        measured = json.loads(file.read_text())
        weights = measured["provenance"]["weights_sha256"]
        measured["headline"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"expected metrics.json of `vol3d evaluate` at {path}, found none ({error})") from None
    if weights != record["provenance"]["weights_sha256"]:
        raise ConfigError(
            f"expected an evaluation of the weights {record['provenance']['weights_sha256'][:12]}, found one of "
            f"{weights[:12]} in {file}; evaluate this model"
        )
    return dict(measured)


def _with_section(card: str, record: dict[str, Any], measured: dict[str, Any] | None) -> str:
    if measured is None:
        return card
    fresh = model_card(record, CardFacts(evaluation=measured))
    section = re.search(r"^## Evaluation\n.*?(?=^## )", fresh, re.S | re.M)
    assert section is not None
    out, replaced = re.subn(r"^## Evaluation\n.*?(?=^## |\Z)", lambda _: section[0], card, count=1, flags=re.S | re.M)
    out = out if replaced else f"{card.rstrip()}\n\n{section[0]}"
    return out.replace("- No test on unseen patients is recorded in this card.\n", "")


def _started(run: Path) -> dict[str, Any] | None:
    path = run / START
    return dict(json.loads(path.read_text())) if path.is_file() else None


def _counts(config: dict[str, Any] | None, run: dict[str, Any] | None) -> dict[str, str] | None:
    """Studies, patients and images by split, if the cache is still there and the same."""
    if config is None or run is None:
        return None
    try:
        cache = Cache(run["data"]["cache"])
    except CacheError:
        return None
    if cache.fingerprint() != run["data"]["fingerprint"]:
        return None
    out = {}
    for split in (config["data"]["train_split"], config["data"]["val_split"]):
        rows = cache.table.of_split(split)
        patients = len(set(rows.column("patient_key")))
        main = Counter(rows.column("image"))
        images = f"{main['ct']} with CT, {main['pet']} with PET alone"
        masks, reports = sum(rows.concepts().values()), sum(rows.column("read"))
        out[split] = f"{len(rows)} of {patients} patients; {images}; {masks} masks; {reports} with report or questions"
    return out


def _licence_of(text_model: str) -> str | None:
    """What the text encoder's own card says; None for the packaged one, and where nothing is said."""
    if text_model == MINILM:
        return None
    try:
        card = find_model(text_model) / FILE
    except (ModelUnavailableError, ConfigError):
        return None
    said = re.search(r"^license:\s*(\S+)\s*$", card.read_text(encoding="utf-8"), re.M) if card.is_file() else None
    return said[1] if said else None


def _language_model(folder: Path) -> str | None:
    """Name of the pretrained language model under the reader, without the folders of this machine."""
    path = folder / READER_CONFIG
    base = (json.loads(path.read_text()).get("language") or {}).get("base") if path.is_file() else None
    name = base["name"] if base else None
    return None if name is None else Path(name).name if Path(name).is_absolute() else str(name)

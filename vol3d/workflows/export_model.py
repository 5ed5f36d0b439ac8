"""`vol3d export-model`: a trained model as a folder of its own, for vol3d or as a MONAI bundle."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vol3d.checkpoint import FILES, READER_FILES, Checkpoint, find_model_folder, load_checkpoint, replace_folder
from vol3d.errors import CheckpointError, ConfigError
from vol3d.files import sync
from vol3d.model_card import FILE as CARD
from vol3d.workflows.model_card import card_of, read_evaluation

Kind = Literal["vol3d", "monai"]


@dataclass(frozen=True)
class Exported:
    """What was written."""

    folder: Path
    files: list[Path]


def export_model(
    checkpoint: Path,
    out: Path,
    kind: Kind = "vol3d",
    *,
    prompts: Sequence[str] = (),
    evaluation: Path | None = None,
    data_sets: str | None = None,
    authors: str | None = None,
) -> Exported:
    """Writes the folder under a temporary name and puts it in place.

    Args:
        checkpoint: a run folder, or a model folder.
        out: folder; one that holds something else is left alone.
        kind: ``vol3d``: the model folder with its card; ``monai``: a bundle, see docs/how-to/model-formats.md.
        prompts: of the bundle, where its user names none; by default short phrases that had masks in training.
        evaluation: what `vol3d evaluate` wrote about this model, for the card.
        data_sets: their names, for the card.
        authors: whose model it is, for the bundle.

    Raises:
        CheckpointError: no model there, or a damaged one.
        ConfigError: `out` holds something else, the evaluation is of another model, or there are no prompts.
    """
    source, out = find_model_folder(Path(checkpoint)), Path(out)
    marker = "configs/metadata.json" if kind == "monai" else FILES[-1]
    if out.exists() and not (out / marker).is_file() and any(out.iterdir()):
        raise ConfigError(f"expected an empty folder or an earlier export at {out}, found other files; name another")
    if out.resolve() == source.resolve():
        raise ConfigError(f"expected another folder than that of the model itself, found {out}")
    loaded = load_checkpoint(source)
    card = card_of(source, evaluation, data_sets)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        if kind == "monai":
            from vol3d.workflows.monai_bundle import write_bundle

            record = json.loads((source / FILES[-1]).read_text())
            measured = None if evaluation is None else read_evaluation(evaluation, record)["headline"]
            _copy_model(source, temporary / "models", loaded, None)
            write_bundle(temporary, loaded, card, prompts=prompts, measured=measured, authors=authors, name=out.name)
        else:
            _copy_model(source, temporary, loaded, card)
        replace_folder(temporary, out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Exported(out, sorted(p for p in out.rglob("*") if p.is_file()))


def _copy_model(source: Path, target: Path, loaded: Checkpoint, card: str | None) -> None:
    """Every file of the model, byte for byte; what the record names is there, or nothing is written."""
    target.mkdir(parents=True)
    record = json.loads((source / FILES[-1]).read_text())
    names = [*FILES, *(READER_FILES if record.get("reader") else ())]
    for name in names:
        if not (source / name).is_file():
            raise CheckpointError(f"expected {name} in {source}, found none; copy the folder again")
        shutil.copyfile(source / name, target / name)
    if card is not None:
        (target / CARD).write_text(card, encoding="utf-8")
    for path in target.iterdir():
        sync(path)

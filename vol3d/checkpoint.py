"""A trained model as a folder: `model.safetensors`, `model.json`, `checkpoint.json`, and its card `README.md`.

The first two are what `VisionLanguageModel.save_pretrained` writes. `checkpoint.json` carries what else is needed to
use the model: channels, patch size, preprocessing recipe with its digest, calibration, and the provenance with the
SHA-256 of the weights, by which the files are known to belong together.
"""

from __future__ import annotations

import json
import math
import shutil
import uuid
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from vol3d.config import from_tree, to_tree
from vol3d.data.channels import ChannelConfig
from vol3d.errors import CheckpointError, ConfigError
from vol3d.files import sha256_of, sync, write_json
from vol3d.metrics.operating import OperatingPoint
from vol3d.model.reader import CONFIG as READER_CONFIG
from vol3d.model.reader import WEIGHTS as READER_WEIGHTS
from vol3d.model.reader import StudyReader
from vol3d.model.tokenizer import FILE as TOKENIZER
from vol3d.model.vlm import CONFIG, WEIGHTS, VisionLanguageModel
from vol3d.model_card import FILE as CARD
from vol3d.model_card import CardFacts, model_card
from vol3d.text.prompts import FindingPrompts
from vol3d.types import Zyx

SCHEMA = 1
RECORD = "checkpoint.json"
FILES = (WEIGHTS, CONFIG, RECORD)
READER_FILES = (READER_WEIGHTS, READER_CONFIG, TOKENIZER)
RUN_CHOICES = ("best", "last")
"""Model folders of a run, the preferred first."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How logits become answers, fitted on the validation split only."""

    scale: float = 1.0
    """The presence logit is multiplied by this (Platt)."""
    bias: float = 0.0
    """And then this is added."""
    presence_threshold: float = 0.5
    """From this probability on a phrase is called present."""
    mask_threshold: float = 0.5
    """From this probability on a voxel belongs to the mask."""

    def probability(self, logit: float) -> float:
        """That a phrase is present, in 0..1."""
        return _probability(self.scale * logit + self.bias)

    def logit(self, probability: float) -> float:
        """Of a phrase that is present with this probability, above 0 and below 1."""
        return (math.log(probability / (1 - probability)) - self.bias) / self.scale

    @property
    def mask_level(self) -> int:
        """The lowest uint8 probability (255 is 1) that belongs to a mask."""
        return max(1, math.ceil(self.mask_threshold * 255))


@dataclass(frozen=True, kw_only=True)
class FindingCalibration:
    """How the answers to a finding's wordings become one probability and a decision, fitted on validation only."""

    scale: float
    """The score, the mean presence logit of the wordings, is multiplied by this (Platt)."""
    bias: float
    """And then this is added."""
    points: dict[str, OperatingPoint]
    """By criterion: ``youden``, ``f1``, ``sensitivity`` and ``specificity`` (each of at least 0.9)."""
    prompts: FindingPrompts | None = None
    """The wordings it holds for; None: of all findings together."""

    def probability(self, score: float) -> float:
        """That the finding is present, in 0..1."""
        return _probability(self.scale * score + self.bias)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the validation studies' labels taught about findings."""

    by_name: dict[str, FindingCalibration] = field(default_factory=dict)
    """Those with enough labelled studies of both kinds."""
    general: FindingCalibration | None = None
    """Of all labelled findings together, for those that are not in `by_name`."""
    negative_weight: float = 0.0
    """How much the mean logit of the negative wordings is subtracted; 0 where the model does not hear a "no"."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """How a whole study is covered by patches; `vol3d.infer` does it."""

    overlap: float = 0.5
    """Share by which neighbouring tiles overlap at least."""
    batch_tiles: int = 1
    """Tiles per forward pass; more than 1 only helps a GPU."""
    phrase_chunk: int = 16
    """Phrases asked of a tile at a time."""
    mirror_axes: tuple[Literal["z", "y", "x"], ...] = ()
    """Averaged over mirrored views, 2 to the power of the number of axes; x is refused if a phrase names a side."""
    bf16: bool = False
    """Forward passes in bfloat16 where autocast allows."""
    skip_air: bool = True
    """Tiles without body are answered with empty masks and not computed."""

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= 0.9:
            raise ConfigError(f"expected an overlap of tiles in 0..0.9, found {self.overlap}")
        if self.batch_tiles < 1 or self.phrase_chunk < 1:
            raise ConfigError("expected batch_tiles and phrase_chunk of at least 1")


@dataclass
class Checkpoint:
    """A model and what it was trained with."""

    model: VisionLanguageModel
    channels: ChannelConfig
    patch_size: Zyx
    recipe: dict[str, Any]
    """The preprocessing recipe, as in the cache."""
    recipe_digest: str
    calibration: Calibration = field(default_factory=Calibration)
    predict: PredictConfig = field(default_factory=PredictConfig)
    provenance: dict[str, Any] = field(default_factory=dict)
    """Seed, step, config digest, data fingerprint, metrics; `save_checkpoint` adds version and weights_sha256."""
    findings: Findings | None = None
    """None: validated before there were findings, or on studies without labels."""
    card: str = ""
    """`README.md` of the folder; empty: written from all of this when it is saved."""

    def save_pretrained(self, folder: str | Path) -> None:
        """`save_checkpoint`, by the name that such a method has elsewhere."""
        save_checkpoint(Path(folder), self)

    @classmethod
    def from_pretrained(cls, path: str | Path, device: str | torch.device = "cpu") -> Checkpoint:
        """`load_checkpoint`, by the name that such a method has elsewhere; the card comes along."""
        return load_checkpoint(Path(path), device)


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Writes the folder under a temporary name and puts it in place; an older one stays until then."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        checkpoint.model.save_pretrained(temporary)
        own = {"vol3d": version("vol3d"), "weights_sha256": sha256_of(temporary / WEIGHTS)}
        record = {
            "schema": SCHEMA,
            "channels": to_tree(checkpoint.channels),
            "patch_size": list(checkpoint.patch_size),
            "recipe": checkpoint.recipe,
            "recipe_digest": checkpoint.recipe_digest,
            "calibration": asdict(checkpoint.calibration),
            "findings": to_tree(checkpoint.findings) if checkpoint.findings else None,
            "predict": asdict(checkpoint.predict),
            "provenance": {**checkpoint.provenance, **own},
        }
        write_json(temporary / RECORD, record)
        written = checkpoint.card or model_card(record, CardFacts(model=to_tree(checkpoint.model.config)))
        (temporary / CARD).write_text(written, encoding="utf-8")
        for name in (*FILES, CARD):
            sync(temporary / name)
        replace_folder(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Reads a model folder, or the best (else the last) model of a run folder; the model is in evaluation mode.

    Raises:
        CheckpointError: nothing there, a file missing, of another schema, damaged, or weights that do not fit.
    """
    folder = find_model_folder(Path(path))
    try:
        record = json.loads((folder / RECORD).read_text())
        schema, provenance = record["schema"], record["provenance"]
        expected = provenance["weights_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / RECORD} is not a complete record ({error}); copy the folder again") from None
    if schema != SCHEMA:
        raise CheckpointError(f"expected a checkpoint of schema {SCHEMA} in {folder}, found {schema}")
    found = sha256_of(folder / WEIGHTS)
    if expected != found:
        raise CheckpointError(
            f"{folder}: expected weights with SHA-256 {expected}, found {found}; the files are damaged or do not "
            f"belong together, copy the folder again"
        )
    try:
        channels = from_tree(ChannelConfig, record["channels"], f"{folder / RECORD}: channels")
        calibration = from_tree(Calibration, record["calibration"], f"{folder / RECORD}: calibration")
        predict = from_tree(PredictConfig, record["predict"], f"{folder / RECORD}: predict")
        stored = record.get("findings")
        findings = from_tree(Findings, stored, f"{folder / RECORD}: findings") if stored else None
        z, y, x = record["patch_size"]
        recipe, digest = record["recipe"], record["recipe_digest"]
    except (ConfigError, KeyError) as error:
        raise CheckpointError(
            f"{folder / RECORD}: {error}; it was written by vol3d {provenance.get('vol3d')}"
        ) from None
    model = VisionLanguageModel.from_pretrained(folder).to(device).eval()
    card = (folder / CARD).read_text(encoding="utf-8") if (folder / CARD).is_file() else ""
    return Checkpoint(model, channels, (z, y, x), recipe, digest, calibration, predict, provenance, findings, card)


def attach_reader(folder: Path, reader: Path) -> None:
    """Puts a trained reader beside the model it belongs to; the folder is replaced as a whole."""
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        shutil.copytree(folder, temporary)
        for name in READER_FILES:
            shutil.copyfile(reader / name, temporary / name)
            sync(temporary / name)
        record = json.loads((temporary / RECORD).read_text())
        record["reader"] = {"weights_sha256": sha256_of(temporary / READER_WEIGHTS)}
        write_json(temporary / RECORD, record)
        replace_folder(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load_reader(path: Path, device: str | torch.device = "cpu") -> StudyReader | None:
    """The reader beside the model that `load_checkpoint` finds, in evaluation mode; None where there is none.

    Raises:
        CheckpointError: a file is missing or damaged.
        ModelUnavailableError: the pretrained language model below it is not on this machine.
    """
    folder = find_model_folder(Path(path))
    record = json.loads((folder / RECORD).read_text()).get("reader")
    if record is None:
        return None
    if missing := [name for name in READER_FILES if not (folder / name).is_file()]:
        raise CheckpointError(f"expected {', '.join(READER_FILES)} in {folder}, found no {missing[0]}; copy it again")
    found = sha256_of(folder / READER_WEIGHTS)
    if found != record["weights_sha256"]:
        raise CheckpointError(
            f"{folder}: expected reader weights with SHA-256 {record['weights_sha256']}, found {found}; the files are "
            f"damaged or do not belong together, copy the folder again"
        )
    return StudyReader.from_pretrained(folder).to(device).eval()


def find_model_folder(path: Path) -> Path:
    """The folder that holds the files: `path` itself, or the best or last model of a run.

    Raises:
        CheckpointError: there is none, or one of its files is missing.
    """
    folders = [path, *(path / name for name in RUN_CHOICES)]
    folders += [_aside(folder) for folder in folders]  # left if a save was cut off between its two renames
    for folder in folders:
        missing = [name for name in FILES if not (folder / name).is_file()]
        if not missing:
            return folder
        if len(missing) < len(FILES):
            raise CheckpointError(
                f"expected {', '.join(FILES)} in {folder}, found no {' and no '.join(missing)}; "
                f"the checkpoint is incomplete, copy it again"
            )
    raise CheckpointError(
        f"expected a run folder with best or last, or a folder with {', '.join(FILES)}, found none at {path}"
    )


def replace_folder(temporary: Path, final: Path) -> None:
    """Renames a finished folder into place; what was there is removed last and is never the only copy that goes."""
    aside = _aside(final)
    if final.exists():
        if aside.exists():
            shutil.rmtree(aside)
        final.rename(aside)
    temporary.rename(final)
    sync(final.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _probability(logit: float) -> float:
    return 1 / (1 + math.exp(-min(max(logit, -700.0), 700.0)))


def _aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.previous")

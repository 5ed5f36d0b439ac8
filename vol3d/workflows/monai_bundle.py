"""A MONAI bundle of a model: what `python -m monai.bundle run` reads, and the objects that its configuration names.

The runner goes the way of `vol3d segment`, stage by stage: the same preprocessing, sliding window, thresholds and
export. So the masks are the same, voxel for voxel, and vol3d has to be installed where a bundle runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from preprocessing.manifest import BadRow, Row
from preprocessing.transforms import PreprocessConfig
from vol3d.cache import Entry
from vol3d.checkpoint import Checkpoint
from vol3d.config import from_tree
from vol3d.data.channels import COORDINATE_SCALE_MM, ChannelConfig
from vol3d.errors import ConfigError, Vol3dError
from vol3d.files import write_json
from vol3d.model.bank import EmbeddingBank, bank_root
from vol3d.workflows.asking import Asker
from vol3d.workflows.inputs import scratch_entry
from vol3d.workflows.segment import clean_prompts, write_answers
from vol3d.workflows.studies import BatchSummary

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
DEFAULT_PROMPTS = 16
"""Trained phrases that a bundle asks where nobody names others: the shortest, which are names of organs."""


class PhraseNetwork(nn.Module):
    """The model with its phrases fixed: channels of an image to one probability map a phrase, as other tools expect.

    Args:
        checkpoint: the model.
        prompts: the phrases, in the order of the output's channels.
    """

    def __init__(self, checkpoint: Checkpoint, prompts: Sequence[str]) -> None:
        super().__init__()
        self.checkpoint, self.prompts = checkpoint, clean_prompts(prompts)
        self.model = checkpoint.model

    def forward(self, image_BCZYX: Tensor) -> Tensor:
        """Probabilities [B, P, Z, Y, X] of one patch; whole studies are the runner's business."""
        bank = EmbeddingBank(bank_root(), self.model.config.text, str(image_BCZYX.device))
        bank.ensure(self.prompts)
        tokens_BPTE, mask_BPT = (t.to(image_BCZYX.device) for t in bank.batch([self.prompts] * image_BCZYX.shape[0]))
        return self.model(image_BCZYX, tokens_BPTE.to(image_BCZYX.dtype), mask_BPT).logits[0].sigmoid()


class Preprocess:
    """A study of the input as a cache entry in a scratch folder, which exists as long as the context is open."""

    def __init__(self, checkpoint: Checkpoint, assume_hu: bool = False) -> None:
        self.recipe = from_tree(PreprocessConfig, checkpoint.recipe, "the checkpoint's recipe")
        self.assume_hu = assume_hu

    @contextmanager
    def __call__(self, row: Row) -> Iterator[Entry]:
        """The entry.

        Raises:
            Vol3dError: why this study cannot be used.
        """
        with scratch_entry(row, self.recipe, assume_hu=self.assume_hu) as entry:
            yield entry


class Studies(torch.utils.data.Dataset):
    """Rows of the input, each with its preprocessing still to be done."""

    def __init__(self, data: Sequence[Row | BadRow], transform: Preprocess) -> None:
        self.data, self.transform = data, transform

    def __len__(self) -> int:
        """How many studies the input has."""
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Row | BadRow, Any]:
        """The row and a context that gives its entry; None where the row is bad."""
        row = self.data[index]
        return row, None if isinstance(row, BadRow) else self.transform(row)


class SaveAnswers:
    """Thresholds, the way back to the source grid, and the files that `vol3d segment` writes."""

    def __init__(
        self, checkpoint: Checkpoint, prompts: Sequence[str], output_dir: str, grid: str | None = None
    ) -> None:
        self.checkpoint, self.prompts = checkpoint, clean_prompts(prompts)
        self.out, self.grid = Path(output_dir), grid

    def __call__(self, entry: Entry, row: Row, ask: Asker) -> None:
        """Writes one study."""
        write_answers(entry, row, self.prompts, ask, self.checkpoint, self.out / row.study_id, self.grid)


class Evaluator:
    """Runs every study; a bad one is named and the rest goes on, as in `vol3d segment`."""

    def __init__(self, dataset: Studies, inferer: Asker, postprocessing: SaveAnswers) -> None:
        self.dataset, self.inferer, self.postprocessing = dataset, inferer, postprocessing

    def run(self) -> BatchSummary:
        """Answers all studies.

        Raises:
            Vol3dError: after all, if some study could not be used.
        """
        summary = BatchSummary()
        for index in range(len(self.dataset)):
            row, opened = self.dataset[index]
            if isinstance(row, BadRow):
                summary.failed[row.study_id] = row.reason
                continue
            try:
                with opened as entry:
                    self.postprocessing(entry, row, self.inferer)
                summary.done.append(row.study_id)
            except (Vol3dError, OSError) as error:
                summary.failed[row.study_id] = f"{type(error).__name__}: {error}"
        if summary.failed:
            raise Vol3dError("; ".join(f"{study}: {reason}" for study, reason in summary.failed.items()))
        return summary


def write_bundle(
    folder: Path,
    checkpoint: Checkpoint,
    card: str,
    *,
    name: str,
    prompts: Sequence[str] = (),
    measured: dict[str, Any] | None = None,
    authors: str | None = None,
) -> None:
    """Fills a bundle's folder, whose `models` holds the checkpoint already.

    Raises:
        ConfigError: there are no prompts and none to take from the training.
    """
    trained = checkpoint.provenance.get("trained_phrases", [])
    chosen = list(prompts) or sorted(sorted(trained, key=len)[:DEFAULT_PROMPTS])
    if not chosen:
        raise ConfigError("expected --prompt, or a model that knows which phrases it was trained on; found neither")
    phrases = clean_prompts(chosen)
    for part in ("configs", "docs"):
        (folder / part).mkdir(parents=True)
    metadata = bundle_metadata(checkpoint, phrases, name=name, measured=measured, authors=authors)
    write_json(folder / "configs/metadata.json", metadata, indent=2)
    write_json(folder / "configs/inference.json", inference_config(phrases), indent=2)
    (folder / "configs/logging.conf").write_text(LOGGING)
    (folder / "docs/README.md").write_text(card, encoding="utf-8")
    # the specification asks for this file; vol3d itself reads the safetensors beside it
    torch.save(PhraseNetwork(checkpoint, phrases).state_dict(), folder / "models/model.pt")


def inference_config(prompts: Sequence[str]) -> dict[str, Any]:
    """`configs/inference.json`; every value can be overridden on the runner's command line."""
    here = "vol3d.workflows.monai_bundle."
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/input'",
        "output_dir": "$@bundle_root + '/output'",
        "prompts": list(prompts),
        "grid": None,
        "assume_hu": False,
        "device": "$'cuda' if torch.cuda.is_available() else 'cpu'",
        "checkpoint": {
            "_target_": "vol3d.checkpoint.load_checkpoint",
            "path": "$@bundle_root + '/models'",
            "device": "@device",
        },
        "network_def": {"_target_": f"{here}PhraseNetwork", "checkpoint": "@checkpoint", "prompts": "@prompts"},
        "preprocessing": {"_target_": f"{here}Preprocess", "checkpoint": "@checkpoint", "assume_hu": "@assume_hu"},
        "dataset": {
            "_target_": f"{here}Studies",
            "data": {"_target_": "vol3d.workflows.inputs.studies_in", "path": "@dataset_dir"},
            "transform": "@preprocessing",
        },
        "inferer": {
            "_target_": "vol3d.workflows.asking.Asker",
            "checkpoint": "$@network_def.checkpoint",
            "device": "@device",
        },
        "postprocessing": {
            "_target_": f"{here}SaveAnswers",
            "checkpoint": "@checkpoint",
            "prompts": "@prompts",
            "output_dir": "@output_dir",
            "grid": "@grid",
        },
        "evaluator": {
            "_target_": f"{here}Evaluator",
            "dataset": "@dataset",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


def bundle_metadata(
    checkpoint: Checkpoint,
    prompts: Sequence[str],
    *,
    name: str,
    measured: dict[str, Any] | None = None,
    authors: str | None = None,
) -> dict[str, Any]:
    """`configs/metadata.json` of MONAI's schema."""
    patch = list(checkpoint.patch_size)
    provenance = checkpoint.provenance
    names = channel_names(checkpoint.channels)
    image = {
        "type": "image", "format": "magnitude", "modality": "CT, PET", "num_channels": len(names),
        "spatial_shape": patch, "dtype": "float32", "value_range": [-1, 1], "is_patch_data": True,
        "channel_def": {str(i): text for i, text in enumerate(names)},
    }  # fmt: skip
    answer = {
        "type": "image", "format": "classes", "num_channels": len(prompts), "spatial_shape": patch,
        "dtype": "float32", "value_range": [0, 1], "is_patch_data": True,
        "channel_def": {str(i): f"probability of: {text}" for i, text in enumerate(prompts)},
    }  # fmt: skip
    return {
        "schema": SCHEMA,
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported from weights {provenance.get('weights_sha256', '')[:16]}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": {"vol3d": version("vol3d"), "fire": "0.7.0"},
        "name": name,
        "task": "Masks of CT and PET/CT for any phrase",
        "description": "A 3D vision-language model: for each phrase a mask on the scanner's own grid and a calibrated "
        "probability that it is there. docs/README.md is its card.",
        "authors": authors or "not stated",
        "copyright": f"Copyright (c) {authors}" if authors else "not stated",
        "data_type": "dicom, nibabel",
        "image_classes": "; ".join(names),
        "pred_classes": "one channel a phrase, independent of each other: masks may overlap",
        "eval_metrics": measured or provenance.get("metrics") or {},
        "intended_use": "Research. Not a medical device; not for diagnosis or treatment.",
        "references": [],
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": answer}},
    }


def channel_names(channels: ChannelConfig) -> list[str]:
    """What each channel of an image holds, in order."""
    out = [f"CT, {low:g} to {high:g} HU as -1 to 1" for low, high in channels.ct_windows]
    out += [f"PET, 0 to {clip:g} SUV as -1 to 1" for clip in channels.pet_clips]
    if channels.coordinates:
        out += [f"{axis} from the body's centre, mm / {COORDINATE_SCALE_MM:g}" for axis in "zyx"]
    return [*out, "1 where the CT covers the voxel", "1 where the PET covers the voxel"]


LOGGING = """[loggers]
keys=root

[handlers]
keys=console

[formatters]
keys=plain

[logger_root]
level=INFO
handlers=console

[handler_console]
class=StreamHandler
level=INFO
formatter=plain
args=(sys.stderr,)

[formatter_plain]
format=%(levelname)s %(name)s %(message)s
"""

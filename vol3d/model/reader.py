"""The reader: from a look at a study to words. Rows of facts and coarse image cells become visual tokens; a causal
decoder attends to them and writes report sections and answers, numbers as slots.

The grounding model stays as it is: the reader is trained on what that model sees, mistakes included, so that what it
reads in use is what it has learnt to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from vol3d.errors import ConfigError
from vol3d.model.files import load_weights, read_config, save_module
from vol3d.model.generate import GenerationConfig, WritingConfig
from vol3d.model.grounding import SharedGrounding
from vol3d.model.language import LanguageModel, ReportTokenizer, load_tokenizer, resolve_language
from vol3d.model.language_config import LanguageConfig
from vol3d.model.vlm import VisionLanguageModel
from vol3d.types import Zyx

WEIGHTS, CONFIG = "reader.safetensors", "reader.json"
PLACE_SCALE_MM = 200.0
_QUIET = 0.3
"""Start of what says whose a row is: the facts, which tell studies apart, are to be heard from the first step."""


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """What is looked at, and who writes. What is left at 0 or empty is filled in from the training studies."""

    structures: tuple[str, ...]
    """Structures that every study is asked for before a word is written: what is in view, and where a part lies."""
    findings: tuple[str, ...]
    """Findings that every study is asked for, in the grounding model's own words. The parts found are what the decoder
    reads."""
    cells: Zyx = (4, 3, 4)
    """Grid of coarse image features over the study."""
    parts: int = 6
    """Parts of one answer at most, largest first."""
    least_ml: float = 0.3
    """Smaller parts are left out."""
    width: int = 128
    """Of the visual tokens."""
    layers: int = 2
    """Transformer layers in which the visual tokens see each other."""
    heads: int = 4
    """Of these layers."""
    dropout: float = 0.1
    """In these layers."""
    facts_noise: float = 0.03
    """Standard deviation of noise on the facts in training."""
    blind_cells: float = 0.3
    """Share of training texts that see no image cells, so that the decoder does not lean on them alone."""
    context_share: float = 0.5
    """Share of training texts that are given the indication and the like, where the study has them."""
    writing: WritingConfig = field(default_factory=WritingConfig)
    """How it writes when it is used."""
    language: LanguageConfig = field(default_factory=LanguageConfig)
    """The decoder."""
    sections: tuple[str, ...] = ()
    """Report sections in the order in which they are written; empty: those that most training reports have."""
    cell_channels: int = 0
    """Channels of a cell; resolved."""
    facts: int = 0
    """Facts of a row; resolved."""

    def __post_init__(self) -> None:
        if len(set(self.probes)) != len(self.probes) or not self.probes or not all(p.strip() for p in self.probes):
            raise ConfigError("reader structures and findings: expected phrases with words in them, none twice")
        if self.width % self.heads or min(self.parts, self.width, self.layers + 1, *self.cells) < 1:
            raise ConfigError("reader: expected a width that heads divide, and at least one part and one cell per axis")
        for name in ("blind_cells", "context_share", "dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"reader {name}: expected 0 to 1, found {getattr(self, name)}")
        self.writing.search(self.language.max_tokens)

    @property
    def probes(self) -> tuple[str, ...]:
        """Structures, then findings: the order of the rows."""
        return (*self.structures, *self.findings)


def resolve_reader(
    config: ReaderConfig, *, cell_channels: int, facts: int, sections: Sequence[str], texts: Iterable[str]
) -> tuple[ReaderConfig, ReportTokenizer]:
    """`config` with everything filled in, and its tokenizer; see `resolve_language` for errors."""
    language, tokenizer = resolve_language(config.language, visual_width=config.width, texts=texts)
    found = replace(
        config, language=language, cell_channels=cell_channels, facts=facts, sections=config.sections or tuple(sections)
    )
    return found, tokenizer


def visual_levels(model: VisionLanguageModel, features: list[Tensor]) -> list[Tensor]:
    """The feature maps [B, C, z, y, x] that a look keeps: two coarse ones of `shared`, the coarsest of `contextual`."""
    if isinstance(model.grounding, SharedGrounding):
        return features[:2]
    return [features[-1]]


class StudyReader(nn.Module):
    """Visual tokens and the decoder that reads them.

    Args:
        config: resolved.
        tokenizer: the one it was resolved with.
    """

    facts_mean: Tensor
    facts_scale: Tensor

    def __init__(self, config: ReaderConfig, tokenizer: ReportTokenizer) -> None:
        super().__init__()
        if min(config.cell_channels, config.facts) < 1:
            raise ConfigError("the reader configuration is not resolved: call resolve_reader first")
        self.config = config
        width = config.width
        self.register_buffer("facts_mean", torch.zeros(config.facts))
        self.register_buffer("facts_scale", torch.ones(config.facts))
        self.facts = nn.Sequential(nn.Linear(config.facts, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.probe = nn.Embedding(len(config.probes) + 1, width)
        nn.init.normal_(self.probe.weight, std=_QUIET)
        """Whose answer a row is; the last one is that of the question asked."""
        self.about = nn.Parameter(torch.randn(width) * _QUIET)
        """Marks the rows that a section or a question is about."""
        self.cell = nn.Linear(config.cell_channels, width)
        self.cell_norm = nn.LayerNorm(config.cell_channels)
        self.place = nn.Sequential(nn.Linear(3, width), nn.GELU(), nn.Linear(width, width))
        self.mix = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, config.heads, 2 * width, config.dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(config.layers)
        )
        self.language = LanguageModel(config.language, tokenizer)

    def scale_facts(self, mean_F: Tensor, scale_F: Tensor) -> None:
        """Mean and standard deviation of the facts of training, so that a few HU are heard beside a few cm."""
        self.facts_mean.copy_(mean_F)
        self.facts_scale.copy_(scale_F)

    def visual(
        self, cell_BVC: Tensor, cell_mask_BV: Tensor, place_BV3: Tensor, probe_BN: Tensor, facts_BNF: Tensor,
        about_BN: Tensor, row_mask_BN: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Visual tokens [B, N + V, D] and, for each, 0 for padding, 1 for what is there, 2 for what is marked."""
        row_BND = self.facts((facts_BNF - self.facts_mean) / self.facts_scale)
        row_BND = row_BND + self.probe(probe_BN) + about_BN[..., None] * self.about
        cell_BVD = self.cell(self.cell_norm(cell_BVC)) + self.place(place_BV3 / PLACE_SCALE_MM)
        x_BVD = torch.cat([row_BND, cell_BVD], dim=1)
        mask_BV = torch.cat([row_mask_BN, cell_mask_BV], dim=1)
        # a study in which nothing is to be seen still needs one key, or attention has nothing to weigh
        padding_BV = ~mask_BV & mask_BV.any(1, keepdim=True)
        for layer in self.mix:
            x_BVD = layer(x_BVD, src_key_padding_mask=padding_BV)
        marked_BV = torch.cat([about_BN & row_mask_BN, torch.zeros_like(cell_mask_BV)], dim=1)
        return x_BVD, mask_BV.to(torch.uint8) + marked_BV

    @torch.no_grad()
    def write(
        self, prompts: Sequence[str], seen: tuple[Tensor, Tensor], config: GenerationConfig
    ) -> list[tuple[str, float]]:
        """Text and log-probability for each prompt; `seen` as `visual` returns it, a row a prompt."""
        language = self.language
        found = language.generate([language.tokenizer.prompt(p) for p in prompts], *seen, config)
        return [(language.tokenizer.decode(g.ids).strip(), g.log_probability) for g in found]

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes reader.safetensors (nothing frozen), reader.json and tokenizer.json, each by atomic rename."""
        save_module(self, self.config, folder, WEIGHTS, CONFIG)
        self.language.tokenizer.save(Path(folder))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> StudyReader:
        """The saved reader, in evaluation mode on the CPU.

        Raises:
            CheckpointError: a file, a tensor or a configuration key is missing, unknown or of the wrong shape.
            ModelUnavailableError: the pretrained language model below it is not here, or has other weights.
        """
        config = read_config(ReaderConfig, folder, WEIGHTS, CONFIG)
        reader = cls(config, load_tokenizer(Path(folder), config.language))
        load_weights(reader, Path(folder) / WEIGHTS)
        return reader.eval()

"""Readings as samples and batches: a text to write, the rows of the look it is written from, and the image's cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vol3d.data.looks import Look, load_look
from vol3d.data.regions import FACTS
from vol3d.data.report_texts import IMPRESSION, Probes, Reading, with_context
from vol3d.errors import CacheError
from vol3d.text.reports import organs_in
from vol3d.types import Array

_PRESENT, _VOLUME = FACTS.index("present"), FACTS.index("volume")


@dataclass(frozen=True)
class ReadingSample:
    """One text and the look it is written from."""

    study_id: str
    index: int
    prompt: str
    answer: str
    cell_VC: Array
    place_V3: Array
    rows: Rows


class ReadingDataset(Dataset[ReadingSample]):
    """Sample i is a pure function of (seed, i): a study, one of its texts, its look with noise.

    Args:
        looks: folder of looks.
        readings: of the training studies.
        asked_about: the phrase that a question asks about, None where there is none; its rows are shown with it.
        probes: what the looks were taken with.
        scale: standard deviation of every fact, by which the noise is scaled.
        facts_noise, blind_cells, context_share: see `ReaderConfig`.
        seed: of everything drawn.

    Raises:
        CacheError: there is nothing to learn from.
    """

    def __init__(
        self,
        looks: Path,
        readings: Iterable[Reading],
        asked_about: Callable[[str], str | None],
        probes: Probes,
        scale: Array,
        *,
        facts_noise: float,
        blind_cells: float,
        context_share: float,
        seed: int,
    ) -> None:
        by_study: dict[str, tuple[list[Reading], list[Reading], list[Reading]]] = {}
        for reading in readings:
            kind = 2 if reading.question is not None else 1 if reading.row is not None else 0
            by_study.setdefault(reading.study_id, ([], [], []))[kind].append(reading)
        if not by_study:
            raise CacheError("expected training studies with a report or questions, found none; check the manifest")
        self.studies = [tuple(kind for kind in kinds if kind) for _, kinds in sorted(by_study.items())]
        self.looks, self.asked_about, self.seed = looks, asked_about, seed
        self.probes, self.scale = probes, scale
        self.facts_noise, self.blind_cells, self.context_share = facts_noise, blind_cells, context_share

    def __len__(self) -> int:
        return len(self.studies)

    def __getitem__(self, index: int) -> ReadingSample:
        if index < 0:
            raise IndexError(f"expected a sample number of 0 or more, found {index}")
        epoch, place = divmod(index, len(self.studies))
        order = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(epoch,))).permutation(len(self))
        rng = np.random.default_rng([self.seed, index])
        kinds = self.studies[int(order[place])]
        kind = kinds[int(rng.integers(len(kinds)))]
        reading = kind[int(rng.integers(len(kind)))]
        prompt = reading.prompt
        if rng.random() < self.context_share:
            prompt = f"{with_context(reading.context)}{prompt}"
        look = load_look(self.looks, reading.study_id)
        phrase = self.asked_about(reading.question) if reading.question is not None else None
        rows = rows_about(look, reading.about, phrase, self.probes, reading.row)
        noise = self.facts_noise * self.scale * rng.standard_normal(rows.facts_NF.shape)
        rows = replace(rows, facts_NF=(rows.facts_NF + noise).astype(np.float32))
        cells, places = look.cell_VC, look.place_V3
        if rng.random() < self.blind_cells:
            cells, places = cells[:0], places[:0]
        return ReadingSample(reading.study_id, index, prompt, reading.answer, cells, places, rows)


@dataclass(frozen=True, eq=False)
class Rows:
    """What a text is written from: N rows of facts, whose answer each is, and which the text is about."""

    probe_N: Array
    """int64; the number of probes for rows about a question's own phrase."""
    facts_NF: Array
    about_N: Array
    """bool."""


def rows_about(look: Look, about: str, phrase: str | None, probes: Probes, row: int | None = None) -> Rows:
    """The rows of a look, and behind them those about the phrase that a question asks about.

    Marked are, for one part, its row alone. Else the rows of that phrase and of every probe that speaks of an organ
    named in `about`, which is a section or a question; for the impression, those of all findings.
    """
    probe_N, facts_NF = look.probe_N, look.facts_NF
    if row is not None:
        return Rows(probe_N, facts_NF, np.arange(len(probe_N)) == row)
    about_N = np.array(_probes_about(about, probes.all), dtype=bool)[probe_N]
    if about == IMPRESSION:
        about_N = probe_N >= len(probes.structures)
    asked_NF = look.asked.get(phrase) if phrase is not None else None
    if asked_NF is not None:
        probe_N = np.append(probe_N, np.full(len(asked_NF), len(probes.all)))
        facts_NF = np.concatenate([facts_NF, asked_NF])
        about_N = np.append(about_N, np.ones(len(asked_NF), dtype=bool))
    return Rows(probe_N, facts_NF, about_N)


def parts_of(look: Look, section: str, probes: Probes) -> list[int]:
    """Rows of the findings that a section tells one by one, largest first."""
    marked = rows_about(look, section, None, probes).about_N & (look.probe_N >= len(probes.structures))
    return sorted(np.flatnonzero(marked & (look.facts_NF[:, _PRESENT] > 0)), key=lambda n: -look.facts_NF[n, _VOLUME])


@lru_cache(maxsize=65536)
def _probes_about(text: str, probes: tuple[str, ...]) -> list[bool]:
    organs = {organ for _, _, organ in organs_in(text)}
    return [bool(organs & {organ for _, _, organ in organs_in(p)}) for p in probes]


class Seen(NamedTuple):
    """What `StudyReader.visual` takes: cells and rows of several texts; masks are True at what is there."""

    cell_BVC: Tensor
    cell_mask_BV: Tensor
    place_BV3: Tensor
    probe_BN: Tensor
    facts_BNF: Tensor
    about_BN: Tensor
    row_mask_BN: Tensor


@dataclass
class ReadingBatch:
    """B texts, ready for a reader."""

    ids_BT: Tensor
    mask_BT: Tensor
    target_BT: Tensor
    seen: Seen
    study_ids: tuple[str, ...]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ReadingBatch:
        """A batch whose tensors lie on `device`."""
        tensors = (self.ids_BT, self.mask_BT, self.target_BT, *self.seen)
        ids, mask, target, *seen = (t.to(device, non_blocking=non_blocking) for t in tensors)
        return ReadingBatch(ids, mask, target, Seen(*seen), self.study_ids)


@dataclass(frozen=True)
class CollateReadings:
    """Stacks samples; `pack` turns prompts and answers into ids, mask and targets (`ReportTokenizer.pack`)."""

    pack: Callable[[Sequence[str], Sequence[str], int], Any]
    max_tokens: int

    def __call__(self, samples: Sequence[ReadingSample]) -> ReadingBatch:
        """One batch."""
        text = self.pack([s.prompt for s in samples], [f" {s.answer}" for s in samples], self.max_tokens)
        seen = stacked([s.cell_VC for s in samples], [s.place_V3 for s in samples], [s.rows for s in samples])
        return ReadingBatch(text.ids_BT, text.mask_BT, text.target_BT, seen, tuple(s.study_id for s in samples))


def stacked(cells: Sequence[Array], places: Sequence[Array], rows: Sequence[Rows]) -> Seen:
    """Cells, their places and rows of several texts, padded."""
    cell_BVC, cell_mask_BV = padded(cells)
    facts_BNF, row_mask_BN = padded([r.facts_NF for r in rows])
    probe_BN, about_BN = padded([r.probe_N for r in rows])[0], padded([r.about_N for r in rows])[0]
    return Seen(cell_BVC, cell_mask_BV, padded(places)[0], probe_BN, facts_BNF, about_BN, row_mask_BN)


def padded(arrays: Sequence[Array]) -> tuple[Tensor, Tensor]:
    """[B, longest, ...] with zeros behind, and a mask that is True at what is there."""
    longest = max(len(a) for a in arrays)
    out = torch.zeros(len(arrays), longest, *arrays[0].shape[1:], dtype=torch.as_tensor(arrays[0]).dtype)
    mask = torch.zeros(len(arrays), longest, dtype=torch.bool)
    for row, (target, array) in enumerate(zip(out, arrays, strict=True)):
        target[: len(array)] = torch.as_tensor(array)
        mask[row, : len(array)] = True
    return out, mask

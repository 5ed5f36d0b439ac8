"""What a reader learns to write: sections of a study's report and answers to its questions, numbers as slots.

Sentences that compare with an earlier study are left out, because change is stated from measurement, and every number
that the image must answer is a slot before a decoder sees the text.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vol3d.cache import Entry
from vol3d.data.looks import Look, load_look
from vol3d.errors import CacheError
from vol3d.text.mentions import without_prior
from vol3d.text.questions import question_kind
from vol3d.text.reports import organs_in, sentences
from vol3d.text.slots import take_numbers
from vol3d.types import Array

_TITLE = re.compile(r"^\s*([A-Z][A-Za-z ,/&-]{2,40}):\s*")
CONTEXT_FIELDS = ("indication", "comparison")
USUAL_SHARE = 0.5
"""A section is written for every study if this share of the training reports has it."""


@dataclass(frozen=True)
class Reading:
    """One text to write."""

    study_id: str
    prompt: str
    answer: str
    about: str
    """The section, or the question: which rows it is about."""
    question: str | None = None
    """The question, where the text answers one."""
    context: tuple[tuple[str, str], ...] = ()
    """What else may be known: ("indication", "Staging.")."""


def section_prompt(section: str, context: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> str:
    """What a decoder continues with the text of a section."""
    return f"{_told(context)}{section}:"


def question_prompt(question: str, context: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> str:
    """What a decoder continues with an answer; says the kind of the question, which rules know in any wording."""
    return f"{_told(context)}{question_kind(question)} question: {' '.join(question.split())} answer:"


def _told(context: Mapping[str, str] | Iterable[tuple[str, str]]) -> str:
    pairs = context.items() if isinstance(context, Mapping) else context
    return "".join(f"{name}: {' '.join(text.split())} " for name, text in pairs)


def report_sections(report: Mapping[str, Any]) -> dict[str, list[str]]:
    """Sentences with slots by section: by the report's own sub-headings, else by the organ a sentence speaks of.

    The impression is a section of its own.
    """
    out: dict[str, list[str]] = {}
    for line in str(report.get("findings") or "").splitlines():
        title = _TITLE.match(line)
        organ = None
        for sentence in without_prior(sentences(line[title.end() :] if title else line)):
            named = organs_in(sentence)
            organ = named[0][2] if named else organ
            section = title[1].strip().lower() if title else (organ or "other").replace("_", " ")
            out.setdefault(section, []).append(take_numbers(sentence).template)
    impression = [take_numbers(s).template for s in without_prior(sentences(str(report.get("impression") or "")))]
    if impression:
        out["impression"] = impression
    return out


def usual_sections(reports: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Sections that most reports have, in the order in which they usually come; the impression last."""
    counts: Counter[str] = Counter()
    places: dict[str, list[float]] = {}
    total = 0
    for report in reports:
        found = list(report_sections(report))
        total += bool(found)
        counts.update(found)
        for place, section in enumerate(found):
            places.setdefault(section, []).append(place)
    usual = [s for s in counts if counts[s] >= USUAL_SHARE * total and s != "impression"]
    usual.sort(key=lambda s: (float(np.mean(places[s])), s))
    return (*usual, *(["impression"] if "impression" in counts else []))


def readings_of(entry: Entry, sections: Sequence[str]) -> list[Reading]:
    """Everything that the study's report and questions teach; nothing where it has neither."""
    report = getattr(entry, "report", None) or {}
    context = tuple((name, str(report[name])) for name in CONTEXT_FIELDS if report.get(name))
    texts = report_sections(report)
    out = [
        Reading(entry.study_id, section_prompt(s), " ".join(texts[s]), s, context=context)
        for s in sections
        if s in texts
    ]
    for row in getattr(entry, "qa", None) or ():
        if row.get("wording") != "unseen":
            question, answer = str(row["q"]), take_numbers(str(row["a"])).template
            out.append(Reading(entry.study_id, question_prompt(question), answer, question, question, context))
    return out


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
        structures, findings: the probes, in the order of the rows.
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
        structures: Sequence[str],
        findings: Sequence[str],
        *,
        facts_noise: float,
        blind_cells: float,
        context_share: float,
        seed: int,
    ) -> None:
        by_study: dict[str, tuple[list[Reading], list[Reading]]] = {}
        for reading in readings:
            by_study.setdefault(reading.study_id, ([], []))[reading.question is not None].append(reading)
        if not by_study:
            raise CacheError("expected training studies with a report or questions, found none; check the manifest")
        self.studies = [tuple(kind for kind in kinds if kind) for _, kinds in sorted(by_study.items())]
        self.looks, self.asked_about, self.seed = looks, asked_about, seed
        self.structures, self.findings = tuple(structures), tuple(findings)
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
            prompt = f"{_told(reading.context)}{prompt}"
        look = load_look(self.looks, reading.study_id)
        phrase = self.asked_about(reading.question) if reading.question is not None else None
        rows = rows_about(look, reading.about, phrase, self.structures, self.findings)
        noise = np.float32(self.facts_noise) * rng.standard_normal(rows.facts_NF.shape).astype(np.float32)
        rows = replace(rows, facts_NF=rows.facts_NF + noise)
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


def rows_about(look: Look, about: str, phrase: str | None, structures: Sequence[str], findings: Sequence[str]) -> Rows:
    """The rows of a look, and behind them those about the phrase that a question asks about.

    Marked are the rows of that phrase and of every probe that speaks of an organ named in `about`, which is a section
    or a question; for the impression, those of all findings.
    """
    probes = (*structures, *findings)
    near = _probes_about(about, probes)
    if about == "impression":
        near = [False] * len(structures) + [True] * len(findings)
    probe_N, facts_NF = look.probe_N, look.facts_NF
    about_N = np.array(near, dtype=bool)[probe_N]
    asked_NF = look.asked.get(phrase) if phrase is not None else None
    if asked_NF is not None:
        probe_N = np.append(probe_N, np.full(len(asked_NF), len(probes)))
        facts_NF = np.concatenate([facts_NF, asked_NF])
        about_N = np.append(about_N, np.ones(len(asked_NF), dtype=bool))
    return Rows(probe_N, facts_NF, about_N)


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

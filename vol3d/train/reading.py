"""Training of a reader: report sections and answers, from looks that a trained grounding model has taken.

The grounding model is not part of it: its looks lie in a folder, so an update costs no image, and nothing that was
learnt about masks can be lost.
"""

from __future__ import annotations

import copy
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import DataLoader

from vol3d.cache import Cache, Entries
from vol3d.checkpoint import replace_folder
from vol3d.config import digest
from vol3d.data.collate import StepSampler
from vol3d.data.looks import Look, load_look
from vol3d.data.readings import CollateReadings, ReadingBatch, ReadingDataset
from vol3d.data.regions import FACTS
from vol3d.data.report_texts import Probes, Reading, readings_of, usual_sections
from vol3d.errors import CacheError
from vol3d.files import write_json
from vol3d.model.reader import StudyReader, resolve_reader
from vol3d.tasks.report import ReportTask
from vol3d.train import ranks
from vol3d.train.engine import Engine, read_deepspeed_file
from vol3d.train.loop import choose_precision
from vol3d.train.optim import build_optimizer
from vol3d.train.run import Job, Run, TrainResult
from vol3d.train.run_config import ReadConfig
from vol3d.train.run_folder import RunFolder
from vol3d.types import Array


def readable(cache: Cache, split: str) -> list[str]:
    """Studies of a split with a report or questions to learn from."""
    table = cache.table.of_split(split)
    return [study for study, read in zip(table.study_ids, table.column("read"), strict=True) if read]


@ranks.tiny_numbers(are_zero=True)
def train_reader(
    config: ReadConfig,
    cache: Cache,
    split: str,
    looks: Path,
    out: Path,
    asked_about: Callable[[str], str | None],
    *,
    seed: int,
    resume: Literal["auto", "no"] = "no",
) -> TrainResult:
    """Trains to `config.train.steps` updates; called by every rank with the same arguments. The model is `out`/last.

    Args:
        config: reader and loop.
        cache: where reports and questions are.
        split: to train on; its studies have looks.
        looks: folder of looks.
        out: run folder of the reader.
        asked_about: the phrase that a question asks about.
        seed: of weights, samples and everything drawn.
        resume: ``auto`` goes on from the newest checkpoint.

    Raises:
        CacheError: no study has a report or questions, or a look is missing.
        ConfigError, CheckpointError, NonFiniteError: as in `vol3d.train.loop.train`.
    """
    place = ranks.join()
    folder, settings = RunFolder(Path(out)), config.train
    folder.check(config, resume == "auto")
    probes = Probes(config.model.structures, config.model.findings)
    readings, sections, first, facts_SNF = _readings(cache, split, looks, probes)
    texts = sorted(
        {text for r in readings for text in (r.prompt, f" {r.answer}", *(f"{k}: {v} " for k, v in r.context))}
    )
    resolved, tokenizer = resolve_reader(
        config.model, cell_channels=first.cell_VC.shape[1], facts=first.facts_NF.shape[1], sections=sections,
        texts=texts,
    )  # fmt: skip
    torch.manual_seed(seed)
    reader = StudyReader(resolved, tokenizer)
    mean_F, scale_F = facts_scale(facts_SNF)
    reader.scale_facts(torch.from_numpy(mean_F), torch.from_numpy(scale_F))
    newest = folder.newest() if resume == "auto" else None
    precision = newest[1].precision if newest is not None else choose_precision(settings.precision, place.rank)
    deepspeed_file = read_deepspeed_file(settings.deepspeed)
    plain = None
    if place.rank == 0:
        plain = _copy(reader, share_frozen=deepspeed_file.get("zero_optimization", {}).get("stage") != 3)
    engine = Engine(
        reader,
        ReportTask().training_forward,
        build_optimizer(reader, settings.optim),
        deepspeed_file=deepspeed_file,
        micro_batch=settings.micro_batch(place.world),
        accumulation=settings.accumulation,
        clip=settings.clip,
        precision=precision,
    )
    try:
        dataset = ReadingDataset(
            looks, readings, asked_about, probes, scale_F,
            facts_noise=resolved.facts_noise, blind_cells=resolved.blind_cells, context_share=resolved.context_share,
            seed=seed,
        )  # fmt: skip
        collate = CollateReadings(tokenizer.pack, resolved.language.max_tokens)
        facts = {"config_digest": digest(config), "data": {"cache": str(cache.root), "looks": str(looks)}}
        job = Job(settings, seed, cache.fingerprint(), facts, partial(_batches, dataset, collate), _save_model)
        run = Run(job, folder, place, engine, plain)
        if newest is not None:
            run.resume(*newest)
        if place.rank == 0:
            folder.begin(config, run.facts(), run.state)
        return run.go(None)
    finally:
        engine.close()


def _readings(
    cache: Cache, split: str, looks: Path, probes: Probes
) -> tuple[list[Reading], tuple[str, ...], Look, list[Array]]:
    """Readings, sections, the first look, and the facts of all: looks are too large to be held by the thousand."""
    entries = Entries(cache, readable(cache, split))
    sections = usual_sections(getattr(e, "report", None) or {} for e in entries)
    readings: list[Reading] = []
    facts_SNF: list[Array] = []
    first = None
    for entry in entries:
        look = load_look(looks, entry.study_id)
        first = first or look
        readings += readings_of(entry, look, sections, probes)
        facts_SNF.append(look.facts_NF)
    if not readings or first is None:
        raise CacheError(
            f"expected studies of split {split!r} with a report or questions to learn from, found none in "
            f"{cache.root}; add them to the manifest, or remove the section read from the configuration"
        )
    return readings, sections, first, facts_SNF


def facts_scale(facts_SNF: Sequence[Array]) -> tuple[Array, Array]:
    """Mean and standard deviation [F] of the facts over the rows of what was found; 1 for a fact that never varies."""
    rows_NF = np.concatenate(facts_SNF)
    present = FACTS.index("present")
    found_NF = rows_NF[rows_NF[:, present] > 0] if (rows_NF[:, present] > 0).any() else rows_NF
    mean_F, scale_F = found_NF.mean(0), found_NF.std(0)
    flags = [present, FACTS.index("absent"), FACTS.index("ct"), FACTS.index("pet")]
    mean_F[flags], scale_F[flags] = 0, 1
    return mean_F, np.where(scale_F > 1e-3, scale_F, 1).astype(np.float32)


def _copy(reader: StudyReader, *, share_frozen: bool) -> StudyReader:
    """A plain copy that DeepSpeed never touches; frozen weights of a large language model need not be there twice."""
    frozen = [*(p for p in reader.parameters() if not p.requires_grad), *reader.buffers()]
    twin = copy.deepcopy(reader, {id(p): p for p in frozen} if share_frozen else {})
    return twin.to(ranks.device()).requires_grad_(False).eval()


def _batches(dataset: ReadingDataset, collate: CollateReadings, sampler: StepSampler) -> Iterator[ReadingBatch]:
    # texts and rows are small: reading them in the training process costs less than sending them between processes
    return iter(DataLoader(dataset, batch_sampler=sampler, collate_fn=collate))


def _save_model(folder: Path, model: Any, provenance: dict[str, Any]) -> None:
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        model.save_pretrained(temporary)
        write_json(temporary / "provenance.json", provenance)
        replace_folder(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise

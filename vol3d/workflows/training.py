"""`vol3d train`: the run, its validation on whole studies, and the calibrated checkpoint."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from vol3d.cache import Cache, Entry
from vol3d.checkpoint import RUN_CHOICES, Checkpoint, load_checkpoint, save_checkpoint
from vol3d.config import digest, load_yaml
from vol3d.metrics.findings import auroc
from vol3d.metrics.segmentation import dice
from vol3d.model.language_base import find_base
from vol3d.model.vlm import VisionLanguageModel
from vol3d.train import ranks, stop
from vol3d.train.loop import TrainResult, train
from vol3d.train.plan import Plan, plan_run
from vol3d.train.run_config import RunConfig
from vol3d.workflows.asking import Asker
from vol3d.workflows.calibrate import ABSENT_PER_STUDY, Calibrated, calibrate_as_asked
from vol3d.workflows.finding_scores import labelled, labels_of, macro_auroc, phrases_of, refuse_test
from vol3d.workflows.known import Known
from vol3d.workflows.model_card import write_cards
from vol3d.workflows.prepare import load_recipe
from vol3d.workflows.reader_phase import train_reading
from vol3d.workflows.scoring import Ask, study_answers, truth_of
from vol3d.workflows.size_words import fit_size_words
from vol3d.workflows.split_guard import require_apart_on_all_ranks
from vol3d.workflows.trained_on import inherited, note, seen_by

log = logging.getLogger("vol3d")

SIZED_STUDIES = 64
"""Training studies whose lesions say what words for size mean."""
VALIDATION_STUDIES = 16
"""Studies asked at each validation during training."""
CALIBRATION_STUDIES = 512
"""Studies asked for the calibration at the end, for which all ranks wait: all up to here, of more an even sample."""


@stop.listening()
def run_training(
    config_path: Path,
    cache_root: Path,
    out: Path,
    *,
    init: Path | None = None,
    resume: Literal["auto", "no"] = "no",
    overrides: Sequence[str] = (),
    dry_run: bool = False,
) -> TrainResult:
    """Trains, then fits thresholds on the validation split and writes them into the run's models.

    Raises:
        ModelUnavailableError: the language model that the reader starts from is not on this machine.
        LeakageError: a patient or a scan stands in two splits of the cache.
        Vol3dError: what is asked does not fit together; the message says what to do.
        StoppedError: SIGTERM or SIGUSR1 came; a checkpoint is written, and the same call with resume goes on.
    """
    config = load_yaml(config_path, RunConfig, overrides)
    if config.read is not None and config.read.model.language.base is not None:
        find_base(config.read.model.language.base)  # to miss it now, not after days of the first phase
    recipe = load_recipe(config_path)
    cache = Cache(cache_root)
    require_apart_on_all_ranks(cache_root, volumes=not dry_run)
    entries = cache.entries(config.data.val_split)
    refuse_test(entries[:1])  # they are all of one split
    _report(cache, config)
    result = train(
        config, cache_root, out, recipe_digest=digest(recipe), init=init, resume=resume, dry_run=dry_run,
        validate=_validator(config, cache, entries[:VALIDATION_STUDIES]) if entries else None,
    )  # fmt: skip
    if not dry_run and ranks.join().rank == 0:
        _finish(out, cache, config, entries[:: max(1, -(-len(entries) // CALIBRATION_STUDIES))])
    if not dry_run and config.read is not None:
        ranks.barrier()  # the calibrated models are there
        train_reading(out, cache, config, config.read, resume)
    if not dry_run and ranks.join().rank == 0:
        write_cards(out)
    return result


def _report(cache: Cache, config: RunConfig) -> None:
    if ranks.join().rank:
        return
    counts = Counter(cache.table.column("split"))
    log.info(
        "%s: %d studies to train on, %d to validate with, %d others",
        cache.root, counts[config.data.train_split], counts[config.data.val_split],
        len(cache.table) - counts[config.data.train_split] - counts[config.data.val_split],
    )  # fmt: skip
    if left_out := cache.quarantine():
        log.warning("%d studies are left out, quarantined by preprocessing (quarantine.jsonl says why)", len(left_out))


def plan_training(config_path: Path, *, ranks: int = 1, overrides: Sequence[str] = ()) -> Plan:
    """What a run would need on GPUs, by its configuration and recipe alone: no cache, no GPU, nothing written.

    Raises:
        Vol3dError: see `plan_run`.
    """
    return plan_run(load_yaml(config_path, RunConfig, overrides), load_recipe(config_path).spacing_mm, ranks)


def _validator(
    config: RunConfig, cache: Cache, entries: Sequence[Entry]
) -> Callable[[VisionLanguageModel], dict[str, float]]:
    def validate(model: VisionLanguageModel) -> dict[str, float]:
        checkpoint = Checkpoint(
            model, config.data.channels, config.data.patch_size, cache.recipe, cache.recipe_digest,
            predict=config.predict,
        )  # fmt: skip
        return judge(Asker(checkpoint, str(next(model.parameters()).device)).unmeasured, entries)

    return validate


def judge(ask: Ask, entries: Sequence[Entry]) -> dict[str, float]:
    """Mean Dice at 0.5 over present phrases, for organs and lesions apart too, presence and macro finding AUROC."""
    found: dict[str, list[float]] = {"organ": [], "lesion": []}
    truths, logits = [], []
    prompts = labelled(entries)
    wordings = phrases_of(prompts, negative=False)
    labels, said = [], []
    for study in study_answers(ask, entries, lambda entry: wordings, absent_limit=ABSENT_PER_STUDY):
        labels.append(labels_of(study.entry))
        said.append({phrase: answer.logit for phrase, answer in study.said.items()})
        for answer in study.answers:
            truths.append(answer.probe.mask is not None)
            logits.append(answer.logit)
            if answer.probe.mask is not None:
                truth = truth_of(answer.probe, answer.entry)
                found[answer.probe.kind].append(dice(answer.probability_ZYX >= 128, truth))
    every = [*found["organ"], *found["lesion"]]
    metrics = {"dice": float(np.mean(every)) if every else float("nan")}
    metrics |= {f"{kind}_dice": float(np.mean(values)) for kind, values in found.items() if values}
    metrics["presence_auroc"] = auroc(np.array(truths), np.array(logits))
    return metrics | ({"finding_auroc": macro_auroc(prompts, labels, said)} if prompts else {})


def _finish(out: Path, cache: Cache, config: RunConfig, entries: Sequence[Entry]) -> None:
    """Calibrates every model of the run and records which phrases, patients and scans it was trained on."""
    trained = cache.table.of_split(config.data.train_split).masks()
    phrases = sorted({p for _, _, label, own in trained if label for p in own})
    known: dict[str, Calibrated] = {}  # best and last are often the same weights
    sizes = fit_size_words(cache.entry(study) for study in cache.select(config.data.train_split)[:SIZED_STUDIES])
    seen = [*seen_by(cache, training=config.data.train_split, validation=config.data.val_split), *inherited(out)]
    for name in RUN_CHOICES:
        folder = out / name
        if not folder.is_dir():
            continue
        checkpoint = load_checkpoint(folder)
        if "calibrated_on" in checkpoint.provenance:  # a finished run that was resumed
            note(folder, seen)
            continue
        weights = checkpoint.provenance["weights_sha256"]
        if weights not in known:
            ask = Asker(checkpoint, "cpu").unmeasured
            hears = not checkpoint.model.config.text_ablation
            known[weights] = calibrate_as_asked(ask, entries, Known(phrases, hears=hears, sizes=sizes))
        learnt = known[weights]
        chosen_by = {"split": config.data.val_split, **learnt.chosen_by}
        learned = {"calibrated_on": chosen_by, "trained_phrases": phrases, "size_words_mm": sizes}
        provenance = {**checkpoint.provenance, **learned}
        save_checkpoint(
            folder,
            replace(checkpoint, calibration=learnt.calibration, findings=learnt.findings, provenance=provenance),
        )
        note(folder, seen)
        log.info("%s: %s, chosen on %d validation phrases", folder, learnt.calibration, learnt.chosen_by["probes"])
        if learnt.findings is not None:
            log.info(
                "%s: operating points of %s", folder, ", ".join(learnt.findings.by_name) or "all findings together"
            )
    if not entries:
        log.warning("no study of split %r: probabilities are not calibrated, thresholds are 0.5", config.data.val_split)

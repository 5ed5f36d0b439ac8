"""`vol3d evaluate`: rows of phrases and findings, a summary with bootstrap intervals, plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from vol3d.cache import Cache
from vol3d.checkpoint import load_checkpoint
from vol3d.errors import CacheError, FingerprintError
from vol3d.files import write_json
from vol3d.metrics.bootstrap import bootstrap_interval
from vol3d.metrics.findings import auroc, average_precision, brier, calibration_error
from vol3d.metrics.segmentation import LesionCounts, lesion_f1
from vol3d.progress import progress
from vol3d.workflows.asking import Asker
from vol3d.workflows.evaluate_findings import FindingCase, FindingsPlan, headline
from vol3d.workflows.held_out import held_out_masks, held_out_table
from vol3d.workflows.plots import plot_findings, plot_presence
from vol3d.workflows.scoring import Case, score_probe, study_answers
from vol3d.workflows.split_guard import require_apart
from vol3d.workflows.tables import null, record, write_rows
from vol3d.workflows.trained_on import require_unseen

BOOTSTRAP_SAMPLES = 1000


def evaluate(
    checkpoint_path: Path,
    cache_root: Path,
    out: Path,
    *,
    split: str = "test",
    device: str = "cpu",
    absent_limit: int | None = None,
    samples: int = BOOTSTRAP_SAMPLES,
    show_progress: bool = True,
) -> dict[str, Any]:
    """Asks every listed phrase and every labelled finding of every study of the split, once, and writes
    ``metrics.csv`` (a row a phrase), ``findings.csv`` (a row a finding of a study), ``metrics.json`` and plots.

    Intervals are by `samples` bootstrap draws of patients. `seen_in_training` says in plain words whether the
    checkpoint knows any of the studies: those of its own training or validation split may be asked for, no others.

    Raises:
        LeakageError: a patient or a scan stands in two splits of the cache, or in another split of the training's.
        CacheError: no study in the split. FingerprintError: the cache is of another recipe than the checkpoint.
    """
    checkpoint = load_checkpoint(checkpoint_path, device)
    cache = Cache(cache_root)
    if cache.recipe_digest != checkpoint.recipe_digest:
        raise FingerprintError(
            f"expected a cache of the checkpoint's recipe {checkpoint.recipe_digest}, found {cache.recipe_digest} at "
            f"{cache_root}; preprocess the studies with the training config"
        )
    studies = cache.select(split)
    if not studies:
        raise CacheError(f"expected studies of split {split!r} in {cache_root}, found none")
    require_apart(cache_root)
    seen = require_unseen(checkpoint_path, cache, split)
    entries = [cache.entry(study) for study in studies]
    plan = FindingsPlan(checkpoint, entries)
    ask = Asker(checkpoint, device)
    cases: list[Case] = []
    with progress("evaluate", len(studies), "studies", enabled=show_progress) as advance:
        for study in study_answers(ask, entries, plan.phrases, absent_limit=absent_limit, unseen=True):
            cases += [
                score_probe(a.probe, a.entry, a.probability_ZYX, a.logit, checkpoint.calibration) for a in study.answers
            ]
            plan.add(study.entry, study.said)
            advance()
    findings = plan.table(samples)
    summary = {
        "split": split,
        "studies": len(studies),
        "seen_in_training": seen,
        "data_fingerprint": cache.fingerprint(),
        "calibration": asdict(checkpoint.calibration),
        "provenance": checkpoint.provenance,
        "bootstrap_samples": samples,
        **summarise(cases, samples),
        "findings": findings,
    }
    if unseen := held_out_table(cases, held_out_masks(entries), samples):
        summary["unseen_combinations"] = unseen
        summary["headline"] |= {name: null(round(own["value"], 4)) for name, own in unseen.items() if own["cases"]}
    summary["headline"] |= headline(findings)
    out.mkdir(parents=True, exist_ok=True)
    write_rows(cases, Case, out / "metrics.csv")
    write_rows(plan.cases, FindingCase, out / "findings.csv")
    write_json(out / "metrics.json", summary)
    plot_presence(cases, out / "presence.png")
    if plan.cases:
        plot_findings(plan.cases, out)
    return summary


def summarise(cases: Sequence[Case], samples: int = BOOTSTRAP_SAMPLES) -> dict[str, Any]:
    """Headline numbers and their 95% patient-level bootstrap intervals.

    Dice and surfaces are over present phrases, in the seen wording; `unseen_gap` is the mean difference of Dice between
    seen and unseen wordings of the same masks.
    """
    seen = [c for c in cases if c.wording == "seen"]
    unseen = [c for c in cases if c.wording == "unseen"]
    organs, lesions = ([c for c in seen if c.kind == kind] for kind in ("organ", "lesion"))
    absent = [c for c in cases if c.kind == "absent"]
    asked = seen + absent
    intervals = {
        "organ_dice": _mean(samples, organs, lambda c: c.dice),
        "organ_nsd_2mm": _mean(samples, organs, lambda c: c.nsd_2mm),
        "organ_hd95_mm": _mean(samples, organs, lambda c: c.hd95_mm),
        "lesion_dice": _mean(samples, lesions, lambda c: c.dice),
        "lesion_nsd_2mm": _mean(samples, lesions, lambda c: c.nsd_2mm),
        "lesion_hd95_mm": _mean(samples, lesions, lambda c: c.hd95_mm),
        "lesion_f1": _interval(samples, lesions, lambda c: [c.lesion_tp, c.lesion_fp, c.lesion_fn], _f1),
        "lesion_dice_native_pet": _mean(samples, lesions, lambda c: c.dice_native_pet),
        "suv_match": _mean(samples, lesions, lambda c: c.suv_match),
        "wrong_side": _mean(samples, seen, lambda c: c.wrong_side),
        "absent_answered_empty": _mean(samples, absent, lambda c: float(not c.answered_present)),
        "present_answered": _mean(samples, seen, lambda c: float(c.answered_present)),
        "absent_false_ml": _mean(samples, absent, lambda c: c.answer_ml),
        "unseen_dice": _mean(samples, unseen, lambda c: c.dice),
        "unseen_gap": _wording_gap(samples, seen, unseen),
        "presence_auroc": _interval(samples, asked, _truth_and_probability, lambda r: auroc(r[:, 0], r[:, 1])),
    }
    truth = np.array([c.kind != "absent" for c in asked])
    probability = np.array([c.probability for c in asked])
    more = {
        "presence_average_precision": average_precision(truth, probability),
        "presence_brier": brier(truth, probability),
        "presence_calibration_error": calibration_error(truth, probability),
    }
    by_label = {
        label: {"n": len(rows), "dice": float(np.mean([c.dice for c in rows]))}
        for label in sorted({c.label for c in seen})
        if (rows := [c for c in seen if c.label == label])
    }
    clean = {name: record(i) for name, i in intervals.items()}
    headline = {name: null(round(value["value"], 4)) for name, value in clean.items() if value["value"] is not None}
    return {
        "headline": {**headline, **{k: null(round(v, 4)) for k, v in more.items()}},
        "intervals": clean,
        "by_label": by_label,
        "probes": {"organ": len(organs), "lesion": len(lesions), "absent": len(absent), "unseen": len(unseen)},
    }


def _mean(samples: int, cases: Sequence[Case], value: Callable[[Case], float]) -> Any:
    return bootstrap_interval(
        np.array([value(c) for c in cases], float), [c.patient_key for c in cases], samples=samples
    )


def _interval(
    samples: int, cases: Sequence[Case], row: Callable[[Case], list[float]], statistic: Callable[[Any], float]
) -> Any:
    rows = np.array([row(c) for c in cases], float).reshape(len(cases), -1)
    return bootstrap_interval(rows, [c.patient_key for c in cases], statistic, samples=samples)


def _f1(rows: Any) -> float:
    return lesion_f1(LesionCounts(int(tp), int(fp), int(fn), 0.0, 0.0) for tp, fp, fn in rows)


def _truth_and_probability(case: Case) -> list[float]:
    return [float(case.kind != "absent"), case.probability]


def _wording_gap(samples: int, seen: Sequence[Case], unseen: Sequence[Case]) -> Any:
    dice_of = {(c.study_id, c.mask): c.dice for c in seen}
    pairs = [(c, dice_of[c.study_id, c.mask] - c.dice) for c in unseen if (c.study_id, c.mask) in dice_of]
    gaps = np.array([gap for _, gap in pairs], float)
    return bootstrap_interval(gaps, [c.patient_key for c, _ in pairs], samples=samples)

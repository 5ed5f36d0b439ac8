"""Asks a model every phrase of a cached study and compares the answers with the truth."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vol3d.cache import Entry, MaskRecord
from vol3d.checkpoint import Calibration
from vol3d.export.regrid import to_source_grid
from vol3d.metrics.segmentation import dice, lesion_counts, mirror_left_right, score, suv_match, wrong_side
from vol3d.text.organs import side_of
from vol3d.types import Array

Ask = Callable[[Entry, list[str]], "tuple[Array, Array]"]
"""(entry, phrases) -> probability_PZYX uint8 on the entry's grid, presence_P logits."""

Wording = Literal["seen", "unseen", "absent"]


@dataclass(frozen=True)
class Probe:
    """One phrase asked of one study, and what is true of it."""

    study_id: str
    phrase: str
    mask: MaskRecord | None
    """None: the phrase is listed as absent."""
    wording: Wording

    @property
    def kind(self) -> str:
        """``lesion`` for a finding, ``organ`` for any other structure, ``absent``."""
        if self.mask is None:
            return "absent"
        return "lesion" if self.mask.finding_id else "organ"


def probes_of(entry: Entry, wordings: Literal["one", "all"] = "one", absent_limit: int | None = None) -> list[Probe]:
    """Phrases to ask: of every mask one seen and one unseen wording (or all), and the listed absences.

    Which one is fixed by the study and the mask, so that two models are asked the same.
    """
    out: dict[str, Probe] = {}
    unseen = entry.attributes.get("meta", {}).get("unseen_phrases", {})
    for mask in entry.masks:
        by_wording: dict[Wording, Sequence[str]] = {"seen": mask.phrases, "unseen": unseen.get(mask.name, ())}
        for wording, phrases in by_wording.items():
            if phrases:
                first = _stable_choice(f"{entry.study_id}:{mask.name}", len(phrases))
                chosen = phrases if wordings == "all" else [phrases[first]]
                for phrase in chosen:
                    out.setdefault(phrase, Probe(entry.study_id, phrase, mask, wording))
    absent = list(entry.absent)
    if absent_limit is not None and len(absent) > absent_limit:
        order = np.random.default_rng(_stable_choice(entry.study_id, 2**31)).permutation(len(absent))
        absent = [absent[i] for i in sorted(order[:absent_limit])]
    return [*out.values(), *(Probe(entry.study_id, phrase, None, "absent") for phrase in absent)]


def ask_study(ask: Ask, entry: Entry, probes: Iterable[Probe]) -> tuple[Array, Array]:
    """Probabilities (uint8) and presence logits in the order of the probes; each distinct phrase is asked once."""
    phrases = [p.phrase for p in probes]
    distinct = list(dict.fromkeys(phrases))
    probability_PZYX, presence_P = ask(entry, distinct)
    order = [distinct.index(p) for p in phrases]
    return probability_PZYX[order] if order != list(range(len(order))) else probability_PZYX, presence_P[order]


@dataclass(frozen=True)
class Answer:
    """What a model said to a probe."""

    probe: Probe
    entry: Entry
    probability_ZYX: Array
    """uint8."""
    logit: float


@dataclass(frozen=True)
class Said:
    """What a model said to a phrase, without its mask."""

    logit: float
    peak: int
    """The highest voxel of its probability map, 0..255."""

    def present(self, calibration: Calibration) -> bool:
        """The answer that `vol3d segment` gives: the presence is high enough and the mask is not empty."""
        return (
            calibration.probability(self.logit) >= calibration.presence_threshold
            and self.peak >= calibration.mask_level
        )


@dataclass(frozen=True)
class StudyAnswers:
    """Everything that was asked of one study, in one pass."""

    entry: Entry
    answers: list[Answer]
    """To its probes."""
    said: dict[str, Said]
    """To the further phrases."""


def study_answers(
    ask: Ask,
    entries: Iterable[Entry],
    further: Callable[[Entry], Iterable[str]] = lambda entry: (),
    *,
    absent_limit: int | None = None,
    unseen: bool = False,
) -> Iterator[StudyAnswers]:
    """Asks study after study its probes, with the unseen wordings or without, and further phrases.

    One pass of the model a study; the masks of one study are held at a time, and of the further phrases none is kept.
    """
    for entry in entries:
        probes = [p for p in probes_of(entry, absent_limit=absent_limit) if unseen or p.wording != "unseen"]
        more = list(further(entry))
        distinct = list(dict.fromkeys([*(p.phrase for p in probes), *more]))
        if distinct:
            probability_PZYX, presence_P = ask(entry, distinct)
            at = {phrase: i for i, phrase in enumerate(distinct)}
            yield StudyAnswers(
                entry,
                [Answer(p, entry, probability_PZYX[i], float(presence_P[i])) for p in probes for i in [at[p.phrase]]],
                {p: Said(float(presence_P[at[p]]), int(probability_PZYX[at[p]].max())) for p in more},
            )


def answers(
    ask: Ask, entries: Iterable[Entry], *, absent_limit: int | None = None, unseen: bool = False
) -> Iterator[Answer]:
    """The answers to the probes alone."""
    for study in study_answers(ask, entries, absent_limit=absent_limit, unseen=unseen):
        yield from study.answers


def _stable_choice(text: str, count: int) -> int:
    """The same number in 0..count-1 for the same text, in every process."""
    return zlib.crc32(text.encode()) % count


@dataclass(frozen=True, kw_only=True)
class Case:
    """One phrase of one study, scored; a row of ``metrics.csv``."""

    study_id: str
    patient_key: str
    phrase: str
    mask: str
    label: str
    kind: str
    wording: str
    presence_logit: float
    probability: float
    answered_present: bool
    truth_ml: float
    answer_ml: float
    dice: float
    nsd_2mm: float
    hd95_mm: float
    lesion_tp: int
    lesion_fp: int
    lesion_fn: int
    dice_native_pet: float
    suv_match: float
    wrong_side: float
    """1 or 0; NaN where the phrase names no side."""


def score_probe(
    probe: Probe, entry: Entry, probability_ZYX: Array, presence_logit: float, calibration: Calibration
) -> Case:
    """Scores on the entry's grid; lesions of studies with PET on the native PET grid as well."""
    probability = calibration.probability(presence_logit)
    present = probability >= calibration.presence_threshold
    level = calibration.mask_level if present else 256  # above every uint8: an empty mask
    answer = probability_ZYX >= level
    truth = truth_of(probe, entry)
    scores = score(answer, truth, entry.grid)
    counts = lesion_counts(answer, truth, entry.grid)
    native_dice, match = float("nan"), float("nan")
    if probe.kind == "lesion" and "pet" in entry.images:
        pet = entry.pet_native()
        native = (
            to_source_grid(probability_ZYX, entry.grid, pet.grid, calibration.mask_threshold)
            if present
            else np.zeros(pet.grid.shape, np.uint8)
        )
        native_truth = truth_of(probe, entry, native=True)
        native_dice, match = dice(native, native_truth), suv_match(native, native_truth, pet)
    return Case(
        study_id=entry.study_id,
        patient_key=entry.patient_key,
        phrase=probe.phrase,
        mask=probe.mask.name if probe.mask else "",
        label=(probe.mask.label or "") if probe.mask else "",
        kind=probe.kind,
        wording=probe.wording,
        presence_logit=presence_logit,
        probability=probability,
        answered_present=bool(answer.any()),
        truth_ml=scores.truth_ml,
        answer_ml=scores.pred_ml,
        dice=scores.dice,
        nsd_2mm=scores.nsd,
        hd95_mm=scores.hd95_mm,
        lesion_tp=counts.tp,
        lesion_fp=counts.fp,
        lesion_fn=counts.fn,
        dice_native_pet=native_dice,
        suv_match=match,
        wrong_side=_side_fault(probe, entry, answer, truth),
    )


def truth_of(probe: Probe, entry: Entry, *, native: bool = False) -> Array:
    """What the phrase stands for: all masks of the study that list it, as in training; nothing for an absent one.

    On the entry's grid, or on the native PET grid.
    """
    shape = entry.source_grids["pet"].shape if native else entry.grid.shape
    truth = np.zeros(shape, np.uint8)
    for mask in entry.masks if probe.mask is not None else ():
        if mask == probe.mask or probe.phrase in mask.phrases:  # unseen wordings are in no record
            truth |= entry.native_mask(mask.name) if native else entry.read_mask(mask.name, (0, 0, 0), shape)
    return truth


def _side_fault(probe: Probe, entry: Entry, answer: Array, truth: Array) -> float:
    side = side_of(probe.phrase)
    if probe.mask is None or side is None:
        return float("nan")
    other = "left" if side == "right" else "right"
    twin = (probe.mask.label or "").replace(side, other)
    counterpart = next((m for m in entry.masks if m.label == twin and m.label != probe.mask.label), None)
    if counterpart is not None:
        mirrored = entry.read_mask(counterpart.name, (0, 0, 0), entry.grid.shape)
    else:
        mirrored = mirror_left_right(truth, entry.grid, entry.body_center_mm[0])
    return float(wrong_side(answer, truth, mirrored))

"""Patches straight from the cache. Sample i is a pure function of (seed, i): no state, no epoch, no worker in it.

A patch is drawn round a voxel of a mask that is asked for, or anywhere. Asked are masks of the study, those that reach
the patch more often than the rest, phrases that the study lists as absent, and on request what its report, labels and
findings say without a mask. What the study does not state is never asked. A dataset raises; it never returns another
sample instead.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from vol3d.cache import Cache, Entry
from vol3d.data.augment import OFF, AugmentConfig, Motion, draw_motion
from vol3d.data.channels import ChannelConfig
from vol3d.data.index import (
    Question,
    Studies,
    StudyRecord,
    all_texts,
    draw_mask,
    touches,
    word_questions,
)
from vol3d.data.patch import OpenStudy, PatchReader, place_patch
from vol3d.data.phrases import names_direction, swap_sides, wordings
from vol3d.data.sample import Sample
from vol3d.data.words import WordConfig, Words, contrast_texts
from vol3d.errors import CacheError, ConfigError
from vol3d.types import Array, Zyx

_OPEN_ENTRIES = 32  # entries a process keeps open, with the foreground voxels it has read


@dataclass(frozen=True, kw_only=True)
class DataConfig(WordConfig):
    """How patches are drawn from a cache and what is asked of them."""

    patch_size: Zyx
    """Voxels along (z, y, x); may be larger than a study."""
    phrases_per_patch: int
    """P: questions asked of each patch."""
    channels: ChannelConfig
    """What the model sees."""
    foreground_fraction: float = 0.7
    """Patches that contain a voxel of a mask asked for; the others lie anywhere in the study."""
    absent_fraction: float = 0.25
    """Questions that are phrases the study lists as absent, as far as it lists any."""
    in_patch_fraction: float = 0.6
    """Of the further questions about masks: those about a mask that reaches the patch, if there is one."""
    finding_fraction: float = 0.5
    """Of the questions about masks: those about findings, in studies that have masks of findings and of others."""
    findings_apart: bool = False
    """Each patch also brings a map of all findings, asked for or not. Only for data in which every finding has a mask:
    what has none counts as no finding."""
    presence_voxels: int = 32
    """A phrase counts as present in the patch from this many voxels on, or from `presence_share` of its mask on,
    whichever is less; with fewer, but some, it has no presence target."""
    presence_share: float = 0.1
    """See `presence_voxels`."""
    augmentation: AugmentConfig = field(default_factory=AugmentConfig)
    """Applied in training only."""
    workers: int = 2
    """Processes that read and augment; 0: the training process itself."""
    train_split: str = "train"
    """Split to train on."""
    val_split: str = "val"
    """Split for validation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.patch_size) < 8:
            raise ConfigError(f"expected a patch_size (z, y, x) of at least 8 voxels each, found {self.patch_size}")
        if self.phrases_per_patch < 1 or self.workers < 0 or self.presence_voxels < 1:
            raise ConfigError("expected phrases_per_patch and presence_voxels of at least 1 and workers of at least 0")
        for name in ("foreground_fraction", "absent_fraction", "in_patch_fraction", "finding_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"expected {name} between 0 and 1, found {getattr(self, name)}")
        if not 0 < self.presence_share <= 1:
            raise ConfigError(f"expected presence_share above 0 and at most 1, found {self.presence_share}")
        if self.train_split == self.val_split:
            raise ConfigError(
                f"expected different splits for training and validation, found {self.train_split!r} twice"
            )


class PatchDataset(Dataset[Sample]):
    """Samples of the given studies, each study once an epoch in an order of its own.

    Any index from 0 on is valid; `len` is one epoch.

    Args:
        cache: where the studies are.
        studies: their ids, such as `cache.select("train")`.
        config: how to draw.
        seed: with the index it determines a sample.
        augment: False for validation: nothing is varied but where patches lie and what is asked.

    Raises:
        CacheError: no studies, or one that states nothing to learn from.
    """

    def __init__(
        self, cache: Cache, studies: Sequence[str], config: DataConfig, seed: int, *, augment: bool = True
    ) -> None:
        if not studies:
            raise CacheError("expected studies to draw patches from, found none; check the split names in the manifest")
        self.cache, self.config, self.seed = cache, config, seed
        self.augmentation = config.augmentation if augment else OFF
        self.studies = Studies(
            cache, studies, statements=config.statements_per_patch > 0, contrast=config.contrast_texts > 0
        )
        wordy = config.statements_per_patch or config.contrast_texts
        self._words = Words(self.studies, config, config.patch_size, seed) if wordy else None
        self._opened: OrderedDict[tuple[int, str], OpenStudy] = OrderedDict()
        self._order: tuple[int, Array] | None = None

    def __len__(self) -> int:
        return len(self.studies)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": OrderedDict(), "_order": None}

    def texts(self) -> list[str]:
        """Every text that is asked of a patch; fill the embedding bank with them before training."""
        swapped = self.augmentation.mirror_lr == "swap_words"
        return all_texts(self.studies, wording=self.augmentation.wording, swapped=swapped)

    def contrast_texts(self) -> list[str]:
        """Every text that a patch is contrasted with, and the organs' names; the bank needs them, too."""
        return contrast_texts(self.studies, self.config, swapped=self.augmentation.mirror_lr == "swap_words")

    def __getitem__(self, index: int) -> Sample:
        if index < 0:
            raise IndexError(f"expected a sample number of 0 or more, found {index}")
        rng = np.random.default_rng([self.seed, index])
        study = self.studies[self._study_of(index)]
        opened = self._open(study.study_id)
        start, questions = self._choose(rng, study, opened)
        motion = self._draw_motion(rng, questions, opened.entry)
        names = dict.fromkeys(m.name for q in questions if q for m in q.masks)
        findings = _findings(study) if self.config.findings_apart else []
        names |= dict.fromkeys(findings)
        reader = PatchReader(opened, start, self.config.patch_size, motion, names)
        shown = self._shown(rng, opened.entry)
        image_CZYX = reader.image(rng, self.config.channels, self.augmentation, shown)
        mask_PZYX = self._answer(questions, reader)
        present, known = self._targets(questions, mask_PZYX, reader.covered())
        filler = next((q.phrase for q in questions if q), "")
        sample = Sample(
            study_id=study.study_id,
            index=index,
            image_CZYX=image_CZYX,
            phrases=tuple(self._text(rng, q.phrase if q else filler, motion) for q in questions),
            mask_PZYX=mask_PZYX,
            present_P=torch.tensor(present, dtype=torch.float32),
            known_P=torch.tensor(known, dtype=torch.bool),
            finding_ZYX=self._number(findings, reader) if self.config.findings_apart else None,
        )
        return self._words.add(sample, study, opened, start, motion) if self._words else sample

    # -- what to ask, and where --------------------------------------------------------------------------------------

    def _study_of(self, index: int) -> int:
        epoch, place = divmod(index, len(self.studies))
        if self._order is None or self._order[0] != epoch:
            # a spawn key keeps this stream apart from those of the samples
            source = np.random.SeedSequence(self.seed, spawn_key=(epoch,))
            self._order = (epoch, np.random.default_rng(source).permutation(len(self.studies)))
        return int(self._order[1][place])

    def _choose(
        self, rng: np.random.Generator, study: StudyRecord, opened: OpenStudy
    ) -> tuple[Zyx, list[Question | None]]:
        config, shape, patch = self.config, opened.entry.grid.shape, self.config.patch_size
        total, everything = config.phrases_per_patch, range(len(study.masks))
        n_absent = min(int(rng.binomial(total, config.absent_fraction)), len(study.absent))
        start = place_patch(rng, shape, patch)
        asked: list[int] = []
        if rng.random() < config.foreground_fraction and study.masks:
            anchor = draw_mask(rng, study, everything, config.finding_fraction)
            points = opened.foreground(study.masks[anchor].name)
            start = place_patch(rng, shape, patch, around=points[int(rng.integers(len(points)))])
            asked, n_absent = [anchor], min(n_absent, total - 1)
        stop = [a + p for a, p in zip(start, patch, strict=True)]
        near = {i for i in everything if touches(opened.foreground(study.masks[i].name), start, stop)}
        while len(asked) < min(total - n_absent, len(study.masks)):
            left = [i for i in everything if i not in asked]
            reaching = [i for i in left if i in near]
            pool = reaching if reaching and rng.random() < config.in_patch_fraction else left
            asked.append(draw_mask(rng, study, pool, config.finding_fraction))
        return start, word_questions(rng, study, asked, n_absent, total, config.absent_fraction)

    def _draw_motion(self, rng: np.random.Generator, questions: list[Question | None], entry: Entry) -> Motion:
        phrases = [q.phrase for q in questions if q]
        free_z, free_y = (not any(names_direction(p, axis) for p in phrases) for axis in (0, 1))
        free_x = all(swap_sides(p) is not None for p in phrases)
        return draw_motion(rng, self.augmentation, (free_z, free_y, free_x), len(entry.images) == 2)

    def _shown(self, rng: np.random.Generator, entry: Entry) -> tuple[str, ...]:
        value, config = rng.random(), self.augmentation
        if len(entry.images) < 2:
            return entry.images
        if value < config.drop_ct_probability:
            return ("pet",)
        return ("ct",) if value >= 1 - config.drop_pet_probability else entry.images

    # -- answers -----------------------------------------------------------------------------------------------------

    def _answer(self, questions: list[Question | None], reader: PatchReader) -> Tensor:
        mask_PZYX = torch.zeros((len(questions), *self.config.patch_size), dtype=torch.uint8)
        for target, question in zip(mask_PZYX, questions, strict=True):
            for record in question.masks if question else ():
                if (mask := reader.mask(record.name)) is not None:
                    target |= mask
        return mask_PZYX

    def _number(self, findings: list[str], reader: PatchReader) -> Tensor:
        number_ZYX = torch.zeros(self.config.patch_size, dtype=torch.uint8)
        for number, name in enumerate(findings, 1):
            if (mask := reader.mask(name)) is not None:
                number_ZYX[mask] = number
        return number_ZYX

    def _targets(
        self, questions: list[Question | None], mask_PZYX: Tensor, covered: dict[str, float]
    ) -> tuple[list[float], list[bool]]:
        """Presence and known, one a question.

        A mask says nothing where the image on which it was drawn does not reach: it is known where it has voxels, or
        where that image covers at least half as much of the patch as the one that covers most.
        """
        present, known = [], []
        for question, mask_ZYX in zip(questions, mask_PZYX, strict=True):
            voxels = int(mask_ZYX.count_nonzero())
            stated = question is not None and (
                voxels > 0
                or not question.masks
                or any(covered[m.source] >= 0.5 * max(covered.values()) for m in question.masks)
            )
            known.append(stated)
            present.append(self._presence(question, voxels) if question and stated else float("nan"))
        return present, known

    def _presence(self, question: Question, voxels: int) -> float:
        if voxels == 0:
            return 0.0
        enough = min(self.config.presence_voxels, self.config.presence_share * sum(m.voxels for m in question.masks))
        return 1.0 if voxels >= enough else float("nan")

    def _text(self, rng: np.random.Generator, phrase: str, motion: Motion) -> str:
        if motion.mirrored:
            swapped = swap_sides(phrase)
            assert swapped is not None, "mirrored only where every phrase can be swapped"
            phrase = swapped
        plain, which = rng.random(2)
        others = wordings(phrase)[1:]
        if not self.augmentation.wording or plain < 0.5 or not others:
            return phrase
        return others[int(which * len(others))]

    def _open(self, study_id: str) -> OpenStudy:
        key = (os.getpid(), study_id)
        if key not in self._opened:
            self._opened[key] = OpenStudy(self.cache.entry(study_id))
            while len(self._opened) > _OPEN_ENTRIES:
                self._opened.popitem(last=False)
        self._opened.move_to_end(key)
        return self._opened[key]


def _findings(study: StudyRecord) -> list[str]:
    """Masks of findings, larger ones first, so that each voxel is left to the smallest; at most 255, the smallest."""
    masks = sorted((m for m in study.masks if m.finding_id is not None), key=lambda m: -m.voxels)
    return [m.name for m in masks[-255:]]

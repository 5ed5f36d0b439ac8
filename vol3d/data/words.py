"""What a sample carries beside masks: statements that a patch can answer, and texts to contrast it with.

Both are drawn from random streams of their own, so that all else of a sample is the same with and without them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from vol3d.data.augment import Motion
from vol3d.data.contrast import TextPool, draw_contrast, mirrored_texts
from vol3d.data.cover import Cover, organ_masks
from vol3d.data.index import Studies, StudyRecord, draw_statements
from vol3d.data.patch import OpenStudy
from vol3d.data.phrases import names_direction, swap_sides
from vol3d.data.sample import Sample
from vol3d.data.statements import Knowledge
from vol3d.errors import ConfigError
from vol3d.text.claims import claims_of
from vol3d.text.knowledge import ORGAN_NAMES
from vol3d.types import Zyx

_RECENT = 4000
"""Studies of which a process remembers what masks an organ has."""


@dataclass(frozen=True, kw_only=True)
class WordConfig:
    """What words teach beside masks; a part of `DataConfig`, all off by default."""

    statements_per_patch: int = 0
    """Q: further questions about what report, labels or findings say without a mask. They give a presence loss, and a
    mask loss only where the statement is untrue. 0: only masks and listed absences are asked about."""
    statement_cover: float = 0.9
    """A finding without a mask is asked of a patch that shows this share of the organ, where it has masks, or body."""
    statement_absent_fraction: float = 0.5
    """Statements that are untrue of the study, as far as it has both."""
    hard_negative_fraction: float = 0.5
    """Of the untrue statements: those that differ in one detail from a true one, as far as the study denies any."""
    contrast_texts: int = 0
    """S: section texts a patch is contrasted with, half of its own study, half of others; 0: no contrast."""

    def __post_init__(self) -> None:
        if self.statements_per_patch < 0 or self.contrast_texts < 0 or self.contrast_texts == 1:
            raise ConfigError(
                f"expected statements_per_patch of at least 0 and contrast_texts of 0 or at least 2, found "
                f"{self.statements_per_patch} and {self.contrast_texts}"
            )
        for name in ("statement_absent_fraction", "hard_negative_fraction"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"expected {name} between 0 and 1, found {getattr(self, name)}")
        if not 0 < self.statement_cover <= 1:
            raise ConfigError(f"expected statement_cover above 0 and at most 1, found {self.statement_cover}")


class Words:
    """Adds words to the samples of some studies.

    Args:
        studies: all that are trained on; their texts are contrasted with one another's images.
        config: how many, and from which share of an organ on it counts as shown.
        patch_size: of every sample.
        seed: of the dataset.
    """

    def __init__(self, studies: Studies, config: WordConfig, patch_size: Zyx, seed: int) -> None:
        self.config, self.patch_size, self.seed = config, patch_size, seed
        self._pool = TextPool(studies.knowledge())
        self._organs: dict[str, dict[str, tuple[str, ...]]] = {}

    def add(self, sample: Sample, study: StudyRecord, opened: OpenStudy, start: Zyx, motion: Motion) -> Sample:
        """The sample with Q more questions and S texts to contrast it with."""
        config = self.config
        if study.study_id not in self._organs:
            if len(self._organs) >= _RECENT:
                self._organs.clear()
            self._organs[study.study_id] = organ_masks(study.masks)
        body = next((m.name for m in study.masks if m.label == "body"), None)
        cover = Cover(opened, self._organs[study.study_id], body, start, self.patch_size, motion)
        if config.statements_per_patch:
            rng = np.random.default_rng([self.seed, sample.index, 1])
            sample = self._ask(rng, sample, study.knowledge, cover, motion)
        if config.contrast_texts:
            rng = np.random.default_rng([self.seed, sample.index, 2])
            contrast = draw_contrast(
                rng, config.contrast_texts, study.knowledge, self._pool, cover, config.statement_cover, motion.flips
            )
            sample = replace(sample, contrast=contrast)
        return sample

    def _ask(self, rng: np.random.Generator, sample: Sample, known: Knowledge, cover: Cover, motion: Motion) -> Sample:
        """What is untrue has no voxel anywhere; what is true is somewhere, and the patch has to show enough."""

        def fits(text: str, present: bool) -> bool:
            if any(names_direction(text, axis) for axis in motion.flips if axis < 2):
                return False
            if motion.mirrored and swap_sides(text) is None:
                return False
            organs = {c.organ for c in claims_of(text)} if present else set()
            return not present or cover.of(organs.pop() if len(organs) == 1 else None) >= self.config.statement_cover

        config, count = self.config, self.config.statements_per_patch
        drawn = draw_statements(
            rng, known, count, config.statement_absent_fraction, config.hard_negative_fraction, fits
        )
        said = [(swap_sides(d[0]) if motion.mirrored else d[0]) or "" if d else "" for d in drawn]
        present = [float(d[1]) if d else float("nan") for d in drawn]
        return replace(
            sample,
            phrases=(*sample.phrases, *said),
            mask_PZYX=torch.cat([sample.mask_PZYX, sample.mask_PZYX.new_zeros((count, *self.patch_size))]),
            present_P=torch.cat([sample.present_P, torch.tensor(present)]),
            known_P=torch.cat([sample.known_P, torch.tensor([p == 0 for p in present])]),
        )


def contrast_texts(studies: Studies, config: WordConfig, *, swapped: bool) -> list[str]:
    """Every text that a patch can be contrasted with, and the organs' names, sorted; none if the run contrasts nothing.

    Args:
        studies: all that are trained on.
        config: of the data.
        swapped: patches may be mirrored, and their texts with them.
    """
    if not config.contrast_texts:
        return []
    sections = [s for known in studies.knowledge() for s in (*known.sections, *known.decoys)]
    texts = {s.text for s in sections} | (mirrored_texts(sections) if swapped else set())
    return sorted(texts | set(ORGAN_NAMES.values()))

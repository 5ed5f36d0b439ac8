"""Label maps of masks that may overlap: a number for every combination of classes that meets in a voxel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vol3d.boxes import bounding_box
from vol3d.errors import ConfigError
from vol3d.types import Array, Zyx

MOST_LABELS = 65_535

Combination = tuple[str, ...]
"""Classes that meet in a voxel, sorted."""


class LabelNumbers:
    """Numbers of combinations, in the order in which they are met: studies sorted, then voxels."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = tuple(classes)
        self.number: dict[Combination, int] = {(c,): n for n, c in enumerate(self.classes, 1)}

    def of(self, members: dict[str, Array], shape: Zyx) -> Array:
        """Label map of one study, uint16."""
        met: list[Combination] = [()]
        code = np.zeros(shape, np.int32)
        for name in self.classes:
            box = bounding_box(members[name]) if name in members else None
            if box is None:
                continue
            where = tuple(slice(a, b) for a, b in zip(*box, strict=True))
            inside, current = members[name][where] > 0, code[where]
            for old in np.unique(current[inside]):
                met.append((*met[old], name))
                current[inside & (current == old)] = len(met) - 1
        left = set(np.unique(code).tolist())  # a class that another covers whole leaves no voxels of its own
        numbers = [0] + [self._number(names) if n in left else 0 for n, names in enumerate(met[1:], 1)]
        return np.array(numbers, np.uint16)[code]

    def _number(self, names: Combination) -> int:
        number = self.number.setdefault(names, len(self.number) + 1)
        if number > MOST_LABELS:
            raise ConfigError(
                f"expected at most {MOST_LABELS} combinations of classes, found more; export fewer --label"
            )
        return number

    def table(self) -> dict[str, int | list[int]]:
        """nnU-Net's ``labels``."""
        overlapping = len(self.number) > len(self.classes)
        out: dict[str, int | list[int]] = {"background": 0}
        for name in self.classes:
            numbers = [n for names, n in self.number.items() if name in names]
            out[name] = numbers if overlapping else numbers[0]
        return out

    @property
    def overlapping(self) -> bool:
        """True if classes meet in a voxel of some study."""
        return len(self.number) > len(self.classes)

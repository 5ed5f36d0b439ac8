"""A look at a study: its probes asked, what they found put into rows, its coarse features averaged over cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vol3d.cache import Entry
from vol3d.checkpoint import Calibration, Checkpoint
from vol3d.data.channels import body_center_mm
from vol3d.data.looks import Look
from vol3d.data.regions import Found, rows_of
from vol3d.infer.predictor import Prediction, predict
from vol3d.model.reader import ReaderConfig, visual_levels
from vol3d.progress import within
from vol3d.types import Array, Zyx


def look_at(
    checkpoint: Checkpoint,
    entry: Entry,
    reader: ReaderConfig,
    phrases: Sequence[str],
    tokens_PTE: Array | Tensor,
    token_mask_PT: Array | Tensor,
    *,
    device: torch.device | str = "cpu",
) -> tuple[Look, Prediction]:
    """The look, and the answers to all phrases that it was made from.

    Args:
        checkpoint: with the grounding model.
        entry: the study.
        reader: names the probes and the cells.
        phrases: the probes, then whatever else is asked; no text twice.
        tokens_PTE: their token states.
        token_mask_PT: True at real tokens.
        device: where the model is.
    """
    assert tuple(phrases[: len(reader.probes)]) == reader.probes
    cells = Cells(entry.grid.shape, reader.cells, checkpoint.patch_size)
    model = checkpoint.model

    def watch(starts: Sequence[Zyx], features: list[Tensor]) -> None:
        cells.add(starts, visual_levels(model, features))

    # mirrored views would need their features mirrored back; a look is one view
    config = replace(checkpoint.predict, mirror_axes=())
    answer = predict(
        model, entry, tokens_PTE, token_mask_PT, checkpoint.channels, checkpoint.patch_size, config, device=device,
        phrases=phrases, progress=within("tiles"), watch=watch,
    )  # fmt: skip
    probes = [found_of(answer, i, checkpoint.calibration) for i in range(len(reader.probes))]
    rows = [rows_of(entry, f, probes, most=reader.parts, least_ml=reader.least_ml) for f in probes]
    further = range(len(probes), len(phrases))
    asked = {
        phrases[i]: rows_of(
            entry, found_of(answer, i, checkpoint.calibration), probes, most=reader.parts, least_ml=reader.least_ml
        )
        for i in further
    }
    feature_VC, filled_V = cells.mean()
    look = Look(
        study_id=entry.study_id,
        cell_VC=feature_VC[filled_V],
        place_V3=cell_places(entry, reader.cells)[filled_V],
        probe_N=np.repeat(np.arange(len(rows)), [len(r) for r in rows]),
        facts_NF=np.concatenate(rows),
        asked=asked,
    )
    return look, answer


def found_of(answer: Prediction, i: int, calibration: Calibration) -> Found:
    """The mask of phrase `i`, empty where the phrase is answered as absent."""
    logit = float(calibration.scale * answer.presence_P[i] + calibration.bias)
    present = calibration.probability(float(answer.presence_P[i])) >= calibration.presence_threshold
    mask_ZYX = answer.probability_PZYX[i] >= calibration.mask_level
    return Found(mask_ZYX if present else np.zeros_like(mask_ZYX), logit)


def cell_places(entry: Entry, cells: Zyx) -> Array:
    """float32 [V, 3]: centres (z, y, x) in mm from the body's centre, cells in array order."""
    grids = np.meshgrid(*(np.arange(n) for n in cells), indexing="ij")
    index_V3 = np.stack([g.ravel() for g in grids], axis=1)
    centre_V3 = (index_V3 + 0.5) / np.array(cells) * np.array(entry.grid.shape) - 0.5
    xyz_V3 = entry.grid.index_to_mm(centre_V3) - np.array(body_center_mm(entry))
    return xyz_V3[:, ::-1].astype(np.float32)


class Cells:
    """Mean of the features of every level over the cells of a grid laid over a study.

    Args:
        shape: of the study.
        cells: cells along (z, y, x).
        patch: voxels of a tile.
    """

    def __init__(self, shape: Zyx, cells: Zyx, patch: Zyx) -> None:
        self.shape, self.cells, self.patch = shape, cells, patch
        self._sums: list[Tensor] = []
        self._counts: list[Tensor] = []

    def add(self, starts: Sequence[Zyx], levels: Sequence[Tensor]) -> None:
        """Features [B, C, z, y, x] of B tiles; voxels beyond the study (padding) do not count."""
        if not self._sums:
            for level in levels:
                self._sums.append(torch.zeros(int(np.prod(self.cells)), level.shape[1]))
                self._counts.append(torch.zeros(int(np.prod(self.cells))))
        for level, total, count in zip(levels, self._sums, self._counts, strict=True):
            for start, feature_CZYX in zip(starts, level.float().cpu(), strict=True):
                cell_ZYX, inside_ZYX = self._cell(start, feature_CZYX.shape[1:])
                index_N = cell_ZYX[inside_ZYX]
                total.index_add_(0, index_N, feature_CZYX[:, inside_ZYX].T)
                count.index_add_(0, index_N, torch.ones(len(index_N)))

    def mean(self) -> tuple[Array, Array]:
        """float32 [V, C of all levels], and bool [V]: a cell that no tile reached (air) is False."""
        if not self._sums:
            return np.zeros((int(np.prod(self.cells)), 0), np.float32), np.zeros(int(np.prod(self.cells)), bool)
        means = [total / count.clamp(min=1)[:, None] for total, count in zip(self._sums, self._counts, strict=True)]
        filled_V = torch.stack([count > 0 for count in self._counts]).all(0)
        return torch.cat(means, dim=1).numpy(), filled_V.numpy()

    def _cell(self, start: Zyx, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        along, inside = [], []
        for first, patch, n, whole, cells in zip(start, self.patch, size, self.shape, self.cells, strict=True):
            middle = first + (torch.arange(n) + 0.5) * (patch / n)
            along.append((middle / whole * cells).floor().clamp(0, cells - 1).long())
            inside.append((middle >= 0) & (middle < whole))
        z, y, x = along
        cell_ZYX = (z[:, None, None] * self.cells[1] + y[None, :, None]) * self.cells[2] + x[None, None, :]
        return cell_ZYX, inside[0][:, None, None] & inside[1][None, :, None] & inside[2][None, None, :]

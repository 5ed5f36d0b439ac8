"""Segmentation, and images contrasted with the words of reports.

Two losses on the similarities of image and text vectors: pairwise (SigLIP, arXiv 2303.15343), and softmax in both
directions (InfoNCE). A text on an organ meets the vectors that the organ's query has pooled, and competes with other
texts on that organ only (fVLM). Targets are soft, and what is unknown takes no part (`vol3d.data.contrast`).

Vectors are gathered from all ranks with their gradients, and every rank computes the whole loss: N ranks learn what one
rank with their batches together would.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from vol3d.data.contrast import pair_targets
from vol3d.errors import ConfigError
from vol3d.tasks.segment import SegmentConfig, SegmentTask


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """The contrast of images and texts."""

    pair_weight: float = 0.1
    """Of the pairwise loss, a sum over the texts' images, mean over texts."""
    softmax_weight: float = 0.1
    """Of the softmax losses, mean of both directions."""
    normal_target: float = 1.0
    """Target of an image and another study's text that both find nothing in an organ, 0..1."""

    def __post_init__(self) -> None:
        if min(self.pair_weight, self.softmax_weight) < 0 or self.pair_weight + self.softmax_weight == 0:
            raise ConfigError("alignment: expected weights of at least 0, one of them above; or alignment: null")
        if not 0 <= self.normal_target <= 1:
            raise ConfigError(f"alignment: expected normal_target within 0..1, found {self.normal_target}")


@dataclass(frozen=True, kw_only=True)
class FindingsConfig(SegmentConfig):
    """Weights of the losses; with `alignment`, the contrast joins them."""

    alignment: AlignConfig | None = None
    """Images and texts; null: none. Needs `model.alignment_width` and `data.contrast_texts`."""


class FindingsTask(SegmentTask):
    """`SegmentTask`, and a `contrast_loss` if the configuration has an alignment."""

    def __init__(self, config: FindingsConfig) -> None:
        super().__init__(config)
        self.alignment = config.alignment

    def training_forward(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        """As `SegmentTask`; also `contrast_loss`, `retrieval` and `retrieval_chance` to watch.

        `retrieval` is the share of (image, organ) questions whose best text of the batch is a true one, and of texts
        whose best image is; `retrieval_chance` is what a draw among them would give.

        Args:
            model: a `VisionLanguageModel` with an alignment head.
            batch: with `contrast`, a `vol3d.data.contrast.ContrastBatch`.
        """
        if self.alignment is None:
            return super().training_forward(model, batch)
        asked = batch.contrast
        features = model.encode_image(batch.image_BCZYX)  # type: ignore[operator]
        output = model.ground(features, batch.tokens_BPTE, batch.token_mask_BPT)  # type: ignore[operator]
        found = model.contrast(  # type: ignore[operator]
            features,
            asked.organ_tokens_OTE,
            asked.organ_mask_OT,
            asked.tokens_BSTE.flatten(0, 1),
            asked.token_mask_BST.flatten(0, 1),
        )
        return {**self.losses(output, batch), **contrast(found, asked, self.alignment)}


def contrast(found: Any, asked: Any, config: AlignConfig) -> dict[str, Tensor]:
    """`contrast_loss` over the batches of all ranks, and figures to watch.

    Args:
        found: the `Embeddings` of this rank.
        asked: its `ContrastBatch`.
        config: weights.
    """
    image_BOE, text_NE = gather(found.image_BOE), gather(found.text_NE)
    study_BC, text_NC = gather(asked.study_BC), gather(asked.text_BSC.flatten(0, 1))
    target_BN = pair_targets(study_BC, text_NC, config.normal_target)
    organ_N = text_NC[:, 1].clamp(min=0)
    with torch.autocast(image_BOE.device.type, enabled=False):
        similarity_BN = (image_BOE.float()[:, organ_N] * text_NE.float()).sum(-1)
        pairs = pair_loss(similarity_BN * found.scale[0] + found.bias, target_BN)
        choices = softmax_loss(similarity_BN * found.scale[1], target_BN, organ_N)
    return {
        "contrast_loss": config.pair_weight * pairs + config.softmax_weight * choices,
        **watch_retrieval(similarity_BN.detach(), target_BN, organ_N),
    }


def pair_loss(logit_BN: Tensor, target_BN: Tensor) -> Tensor:
    """BCE of every pair that is known, summed over images, mean over the texts of which anything is known.

    With one text an image and all pairs known this is SigLIP's loss.
    """
    known_BN = ~torch.isnan(target_BN)
    loss_BN = functional.binary_cross_entropy_with_logits(logit_BN, torch.nan_to_num(target_BN), reduction="none")
    return (loss_BN * known_BN).sum() / known_BN.any(0).sum().clamp(min=1)


def softmax_loss(logit_BN: Tensor, target_BN: Tensor, organ_N: Tensor) -> Tensor:
    """InfoNCE in both directions, each the mean over questions that have a true and an untrue answer.

    An image asks, for each organ, for its texts among the known ones on that organ; a text asks for its images among
    the known ones. Several true answers share the target by their values.
    """
    asked = _questions(logit_BN, target_BN, organ_N)
    return (_mean_cross_entropy(asked[:-1]) + _mean_cross_entropy(asked[-1:])) / 2


def _questions(logit_BN: Tensor, target_BN: Tensor, organ_N: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Logits and targets [questions, answers]: of images to the texts on each organ; last, of texts to images."""
    chosen = [(organ_N == organ).nonzero()[:, 0] for organ in torch.unique(organ_N)]
    return [*((logit_BN[:, i], target_BN[:, i]) for i in chosen), (logit_BN.T, target_BN.T)]


def _mean_cross_entropy(asked: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    total, count = torch.zeros((), device=asked[0][0].device), torch.zeros((), device=asked[0][0].device)
    for logit_QA, target_QA in asked:
        known_QA, share_QA = ~torch.isnan(target_QA), torch.nan_to_num(target_QA)
        all_Q1 = share_QA.sum(1, keepdim=True)
        counts_Q = (all_Q1[:, 0] > 0) & (known_QA & (share_QA < 1)).any(1)
        # a question without any answer would be -inf throughout: it keeps its logits, and does not count
        open_QA = known_QA | ~counts_Q[:, None]
        log_QA = torch.log_softmax(logit_QA.masked_fill(~open_QA, float("-inf")), dim=1).masked_fill(~open_QA, 0)
        total = total - ((share_QA / all_Q1.clamp(min=1e-6) * log_QA).sum(1) * counts_Q).sum()
        count = count + counts_Q.sum()
    return total / count.clamp(min=1)


def watch_retrieval(similarity_BN: Tensor, target_BN: Tensor, organ_N: Tensor) -> dict[str, Tensor]:
    """`retrieval` and `retrieval_chance` over the questions of `softmax_loss`; nan where there is none."""
    hits, chances = [], []
    for logit_QA, target_QA in _questions(similarity_BN, target_BN, organ_N):
        true_QA, false_QA = target_QA > 0.5, target_QA <= 0.5
        asked_Q = true_QA.any(1) & false_QA.any(1)
        best_Q, other_Q = (logit_QA.masked_fill(~m, float("-inf")).amax(1) for m in (true_QA, false_QA))
        hits.append((best_Q > other_Q)[asked_Q].float())
        chances.append((true_QA.sum(1) / (true_QA | false_QA).sum(1).clamp(min=1))[asked_Q])
    return {"retrieval": torch.cat(hits).mean(), "retrieval_chance": torch.cat(chances).mean()}


# -- ranks ----------------------------------------------------------------------------------------------------------


def gather(x: Tensor) -> Tensor:
    """The tensors of all ranks, of equal shape, end to end in the order of ranks; gradients flow back to each."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return x
    gathered: Tensor = _Gather.apply(x)
    return gathered


class _Gather(torch.autograd.Function):
    """All ranks compute the same loss of the gathered tensor, and the engine averages gradients over ranks: summed here
    over all, that average is the gradient of the whole batch."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        out = x.new_empty((dist.get_world_size() * len(x), *x.shape[1:]))
        dist.all_gather_into_tensor(out, x.contiguous())
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous()
        dist.all_reduce(total)
        first = dist.get_rank() * ctx.rows
        return total[first : first + ctx.rows]

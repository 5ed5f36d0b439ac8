"""What both designs of fusion say at the end: presence of a phrase, places of any finding, the next finer logit."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from vol3d.model.upsample import upsample

EMPTY_LOGIT = -2.0
"""First bias of every mask logit: most voxels belong to no phrase."""


class PresenceHead(nn.Module):
    """Logit that a phrase is present: from how strong and how large its answer is, and of what kind.

    Evidence: at each level, finest first, the largest mask logit; at coarser levels also the mean of the 8 and 64
    largest and the logarithm of the soft volume. At first presence is the mean of the peaks: a mask that is not empty
    is present. Kind: the features where the answer is, those of the whole field of view, and the text; its share starts
    small.
    """

    _TOP = (1, 8, 64)

    def __init__(self, levels: int, channels: int, context: int, text: int, width: int) -> None:
        super().__init__()
        statistics = len(self._TOP) + 1
        self.evidence = nn.Linear(1 + (levels - 1) * statistics, 1)
        self.hidden, self.kind = nn.Linear(channels + context + text, width), nn.Linear(width, 1)
        with torch.no_grad():
            self.evidence.weight.zero_()
            self.evidence.weight[0, [0, *range(1, self.evidence.in_features, statistics)]] = 1 / levels
            self.evidence.bias.zero_()
            self.kind.weight.mul_(0.1)

    def forward(
        self, logits: Sequence[Tensor], pooled_BC: Tensor, context_BC: Tensor, text_BD: Tensor, phrases: int
    ) -> Tensor:
        """[B, P] from logits [B, P, Z', Y', X'], finest first, and features [B * P, .]."""
        finest_BPN = logits[0].flatten(2)  # max is slower than amax, its gradient much faster
        peak_BP1 = finest_BPN.max(2, keepdim=True).values if self.training else finest_BPN.amax(2, keepdim=True)
        evidence = [peak_BP1.float()]
        for logit in logits[1:]:
            logit_BPN = logit.flatten(2).float()
            top = logit_BPN.topk(min(self._TOP[-1], logit_BPN.shape[2]), dim=2).values
            evidence += [top[..., :k].mean(2, keepdim=True) for k in self._TOP]
            evidence.append(torch.log(torch.sigmoid(logit_BPN).sum(2, keepdim=True) + 1e-3))
        hidden = functional.gelu(self.hidden(torch.cat([pooled_BC, context_BC, text_BD], dim=1)))
        kind = self.kind(hidden).unflatten(0, (-1, phrases))
        return (self.evidence(torch.cat(evidence, dim=2)) + kind).squeeze(2)


class Proposals(nn.Module):
    """Where any finding is: from the features of each stage, each finer logit on top of the coarser one.

    Words alone teach slowly what a lesion looks like: each says it of a few voxels, and "what is hot" already answers
    many of them. This head is told about every finding of every patch.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.score = nn.ModuleList([nn.Conv3d(n, 1, 1) for n in channels])
        nn.init.constant_(self.score[-1].bias, EMPTY_LOGIT)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor], images: Sequence[Tensor]) -> list[Tensor]:
        """[B, 1, Z', Y', X'] each, finest first, of the stages' features and images, finest first."""
        batch = features[0].shape[0]
        logits = [self.score[-1](torch.cat([features[-1], images[-1]], dim=1))]
        for n in reversed(range(len(self.score) - 1)):
            score = self.score[n]
            assert isinstance(score, nn.Conv3d)
            assert score.bias is not None
            bias_BP1 = score.bias[None, :, None].expand(batch, -1, -1)
            weight_BPC = score.weight.flatten(1).expand(batch, -1, -1)
            logits.insert(0, refine(logits[0], (features[n], images[n]), bias_BP1, weight_BPC))
        return logits


def refine(logit_BPZYX: Tensor, fine: Sequence[Tensor], bias_BP1: Tensor, weight_BPC: Tensor) -> Tensor:
    """The next finer logit: the coarser one upsampled, plus each phrase's weighting of the channels of all `fine`.

    This is the only work a phrase does at full resolution. At inference the sum goes into the upsampled buffer; in
    training that would make autograd copy it.
    """
    kind = fine[0].dtype
    logit_BPN = upsample(logit_BPZYX + bias_BP1[..., None, None], fine[0]).to(kind).flatten(2)
    add = torch.baddbmm if torch.is_grad_enabled() else Tensor.baddbmm_
    for x_BCZYX, weight in zip(fine, weight_BPC.to(kind).split([x.shape[1] for x in fine], dim=2), strict=True):
        logit_BPN = add(logit_BPN, weight, x_BCZYX.flatten(2))
    return logit_BPN.unflatten(2, fine[0].shape[2:])


def attention_pool(logit_BN: Tensor, features_BNC: Tensor) -> Tensor:
    """Mean of the features, weighted by the softmax of the logits over voxels: [B, C]."""
    weight_BN = torch.softmax(logit_BN.float(), dim=1).to(features_BNC.dtype)
    return torch.einsum("bn,bnc->bc", weight_BN, features_BNC)

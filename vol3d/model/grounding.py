"""From features and tokens to logits: the two designs of fusion.

`shared`: one decode per image; phrases meet voxels at two coarse scales, and reach the finer ones through 1x1 weights
that each phrase makes for itself. At full resolution a phrase costs one logit map and nothing else.
`contextual`: words gate the features of every scale, so every phrase has its own decode.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vol3d.model.decoder import ImageDecoder
from vol3d.model.encoder import EncoderConfig
from vol3d.model.fusion import ContextualGate, GatedFusion, TextAdapter, to_volume, to_voxels
from vol3d.model.heads import EMPTY_LOGIT, PresenceHead, Proposals, attention_pool, refine
from vol3d.model.layers import Conv3d
from vol3d.model.upsample import upsample


class Output(NamedTuple):
    """What a model says about B images and P phrases."""

    logits: list[Tensor]
    """[B, P, Z', Y', X'] each, full resolution first, then coarser ones for deep supervision."""
    presence_BP: Tensor
    """Logit that the phrase is present in this field of view."""
    proposals: Sequence[Tensor] = ()
    """[B, 1, Z', Y', X'] each, full resolution first: logits that any finding is there, whatever the phrase."""


class SharedGrounding(nn.Module):
    """Phrases on shared features.

    Args:
        config: the encoder's stages.
        in_channels: of the image, which joins the features at every scale used here: normalisation has taken absolute
            HU, SUV, position and validity out of them.
        text: from token states to `width`.
        width: of text, queries and phrase features.
        heads: of the attention.
        levels: the two stages at which voxels attend to tokens, coarser first.
        proposals: also say where any finding is, and let phrases choose among these places at every scale used here.
    """

    def __init__(
        self,
        config: EncoderConfig,
        in_channels: int,
        text: TextAdapter,
        width: int,
        heads: int,
        levels: tuple[int, int],
        *,
        proposals: bool = False,
    ) -> None:
        super().__init__()
        self.levels = levels
        assert config.strides is not None
        self.strides = config.strides
        self.text = text
        inputs = [n + in_channels for n in config.features]
        joined = [n + proposals for n in inputs]
        self.lateral = nn.ModuleList([nn.Conv3d(joined[n], width, 1) for n in levels])
        self.fuse = nn.ModuleList([GatedFusion(width, width, width, heads) for _ in levels])
        self.mix = nn.ModuleList([Mix(width, width, 3), Mix(width, width // 2, 1)])
        self.score = nn.ModuleList([_score(width, EMPTY_LOGIT), _score(width, 0.0)])
        self.sizes = [n for level in reversed(range(levels[1])) for n in (1, joined[level])]
        self.weights = nn.Sequential(nn.Linear(3 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, sum(self.sizes)))
        self.presence = PresenceHead(levels[0] + 1, width, width, width, width)
        self.proposals = Proposals(inputs[: levels[0] + 1]) if proposals else None

    def prepare(self, features: Sequence[Tensor], image_BCZYX: Tensor) -> list[Tensor]:
        """What no phrase changes: laterals at `levels`; then, coarse to fine, features and givens of each finer level;
        then the logits of the proposals, finest first.

        Givens are the image and the proposals. They stay apart from the features at fine levels: joined, they would be
        copied, and be given gradients that nothing uses.
        """
        features, givens = features[: self.levels[0] + 1], self._images(image_BCZYX.to(features[0].dtype))
        proposed = self.proposals(features, givens) if self.proposals is not None else []
        if proposed:
            # detached: what the phrases make of a proposal does not change what it says
            givens = [torch.cat([i, torch.sigmoid(y.detach())], dim=1) for i, y in zip(givens, proposed, strict=True)]
        prepared = [
            lateral(torch.cat([features[n], givens[n]], dim=1))
            for lateral, n in zip(self.lateral, self.levels, strict=True)
        ]
        for n in reversed(range(self.levels[1])):
            prepared += [features[n], givens[n]]
        return prepared + proposed

    def forward(self, prepared: Sequence[Tensor], tokens_BPTE: Tensor, mask_BPT: Tensor) -> Output:
        """Logits, full resolution first."""
        phrases = tokens_BPTE.shape[1]
        mask_BT = mask_BPT.flatten(0, 1)
        tokens_BTD, text_BD = self.text(tokens_BPTE.flatten(0, 1), mask_BT)
        lateral_B1ND = [to_voxels(x).contiguous()[:, None] for x in prepared[:2]]
        voxels_BND = lateral_B1ND[0].expand(-1, phrases, -1, -1).flatten(0, 1)
        voxels_BND = self._meet(0, voxels_BND, prepared[0], tokens_BTD, mask_BT)
        context_BD = voxels_BND.mean(1)
        coarse = to_volume(self.score[0](voxels_BND), prepared[0])
        # Nearest for features, which the next block smooths anyway; trilinear for logits, which nothing smooths.
        x = functional.interpolate(to_volume(voxels_BND, prepared[0]), size=prepared[1].shape[2:], mode="nearest")
        voxels_BND = (to_voxels(x).unflatten(0, (-1, phrases)) + lateral_B1ND[1]).flatten(0, 1)
        voxels_BND = self._meet(1, voxels_BND, prepared[1], tokens_BTD, mask_BT)
        logit = to_volume(self.score[1](voxels_BND), prepared[1])
        logit = upsample(coarse, logit).add_(logit)
        pooled_BD = attention_pool(logit.flatten(1), voxels_BND)
        weights = (
            self.weights(torch.cat([pooled_BD, context_BD, text_BD], dim=1))
            .unflatten(0, (-1, phrases))
            .split(self.sizes, dim=-1)
        )
        logits = [y.unflatten(0, (-1, phrases)).squeeze(2) for y in (logit, coarse)]
        for n in range(self.levels[1]):
            fine = prepared[2 + 2 * n : 4 + 2 * n]
            logits.insert(0, refine(logits[0], fine, *weights[2 * n : 2 * n + 2]))
        presence_BP = self.presence(logits, pooled_BD, context_BD, text_BD, phrases)
        return Output(logits, presence_BP, self.proposed(prepared))

    def proposed(self, prepared: Sequence[Tensor]) -> Sequence[Tensor]:
        """The proposals among what `prepare` gave, finest first; empty without them."""
        return prepared[2 + 2 * self.levels[1] :]

    def _images(self, image_BCZYX: Tensor) -> list[Tensor]:
        """The image at the scale of every stage used here, finest first."""
        images = [image_BCZYX]
        for stride in self.strides[1 : self.levels[0] + 1]:
            images.append(functional.avg_pool3d(images[-1], stride))
        return images

    def _meet(self, level: int, voxels_BND: Tensor, like: Tensor, tokens_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        return self.mix[level](self.fuse[level](voxels_BND, tokens_BTD, mask_BT), like)


class ContextualGrounding(nn.Module):
    """One decode per phrase over skips that its words have gated."""

    def __init__(self, config: EncoderConfig, text: TextAdapter, width: int, *, checkpointing: bool = False) -> None:
        super().__init__()
        self.text = text
        self.gates = nn.ModuleList([ContextualGate(channels, width) for channels in config.features])
        self.decoder = ImageDecoder(config, checkpointing=checkpointing)
        self.score = nn.ModuleList([nn.Conv3d(channels, 1, 1) for channels in config.features[:-1]])
        for score in self.score:
            assert isinstance(score, nn.Conv3d)
            assert score.bias is not None
            nn.init.constant_(score.bias, EMPTY_LOGIT)
        self.presence = PresenceHead(len(config.features) - 1, config.features[-2], config.features[-1], width, width)

    def forward(self, skips: Sequence[Tensor], tokens_BPTE: Tensor, mask_BPT: Tensor) -> Output:
        """Logits, full resolution first."""
        phrases = tokens_BPTE.shape[1]
        mask_BT = mask_BPT.flatten(0, 1)
        tokens_BTD, text_BD = self.text(tokens_BPTE.flatten(0, 1), mask_BT)
        gated = []
        for gate, skip in zip(self.gates, skips, strict=True):
            voxels_BNC = to_voxels(skip)[:, None].expand(-1, phrases, -1, -1).flatten(0, 1)
            gated.append(to_volume(gate(voxels_BNC, tokens_BTD, mask_BT), skip))
        features = self.decoder(gated)
        logits = [
            score(x).unflatten(0, (-1, phrases)).squeeze(2) for score, x in zip(self.score, features[:-1], strict=True)
        ]
        pooled_BC = attention_pool(logits[-1].flatten(2).flatten(0, 1), to_voxels(features[-2]))
        context_BC = to_voxels(features[-1]).mean(1)
        return Output(logits, self.presence(logits, pooled_BC, context_BC, text_BD, phrases))


class Mix(nn.Module):
    """Residual block over the neighbourhood of each voxel, normalised per voxel.

    No instance normalisation here: it would subtract the very shift by which words mark a field of view.
    """

    def __init__(self, channels: int, hidden: int, second_kernel: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.first = Conv3d(channels, hidden, 3, padding=1)
        self.second = Conv3d(hidden, channels, second_kernel, padding=second_kernel // 2)

    def forward(self, voxels_BNC: Tensor, like: Tensor) -> Tensor:
        """Same shape; `like` is a volume of the voxels' arrangement."""
        hidden = functional.gelu(self.first(to_volume(self.norm(voxels_BNC), like)))
        return to_voxels(self.second(hidden)).add_(voxels_BNC)


def _score(channels: int, bias: float) -> nn.Linear:
    score = nn.Linear(channels, 1)
    nn.init.constant_(score.bias, bias)
    return score

"""From features and tokens to logits: the image decoder, and the two designs of fusion.

`shared`: one decode per image; phrases meet voxels at two coarse scales, and reach the finer ones through 1x1 weights
that each phrase makes for itself. At full resolution a phrase costs one logit map and nothing else.
`contextual`: words gate the features of every scale, so every phrase has its own decode.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from torch import Tensor, nn

from vol3d.model.encoder import BLOCK, EncoderConfig, drop_aliases, run
from vol3d.model.fusion import ContextualGate, GatedFusion, TextAdapter, to_volume, to_voxels

EMPTY_LOGIT = -2.0
"""First bias of every mask logit: most voxels belong to no phrase."""


class Output(NamedTuple):
    """What a model says about B images and P phrases."""

    logits: list[Tensor]
    """[B, P, Z', Y', X'] each, full resolution first, then coarser ones for deep supervision."""
    presence_BP: Tensor
    """Logit that the phrase is present in this field of view."""


class ImageDecoder(nn.Module):
    """U-Net decoder: features of every stage, finest first, the coarsest as it came."""

    def __init__(self, config: EncoderConfig, *, checkpointing: bool = False) -> None:
        super().__init__()
        assert config.strides is not None and config.kernel_sizes is not None
        self.checkpointing = checkpointing
        ups, stages = [], []
        for level in range(len(config.features) - 1):
            fine, coarse, stride = config.features[level], config.features[level + 1], config.strides[level + 1]
            ups.append(nn.ConvTranspose3d(coarse, fine, stride, stride, bias=False))
            stages.append(
                StackedConvBlocks(
                    num_convs=config.decoder_convs,
                    input_channels=2 * fine,
                    output_channels=fine,
                    kernel_size=list(config.kernel_sizes[level]),
                    initial_stride=1,
                    **BLOCK,
                )
            )
        self.ups, self.stages = nn.ModuleList(ups), nn.ModuleList(stages)
        drop_aliases(self)

    def forward(self, skips: Sequence[Tensor]) -> list[Tensor]:
        """One feature map per skip."""
        features = [skips[-1]]
        for level in reversed(range(len(self.stages))):
            x = torch.cat([self.ups[level](features[0]), skips[level]], dim=1)
            features.insert(0, run(self.stages[level], x, checkpointing=self.checkpointing))
        return features


class PresenceHead(nn.Module):
    """Logit that a phrase is present: from how strong, how large and of what kind the answer is.

    Evidence: the mean of the k largest coarse logits for several k and the logarithm of the soft volume; the features
    where the answer is, those of the whole field of view, and the text.
    """

    _TOP = (1, 8, 64)

    def __init__(self, channels: int, context: int, text: int, width: int) -> None:
        super().__init__()
        self.evidence = nn.Linear(len(self._TOP) + 1, 1)
        self.mlp = nn.Sequential(nn.Linear(channels + context + text, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, logit_BN: Tensor, features_BNC: Tensor, context_BC: Tensor, text_BD: Tensor) -> Tensor:
        """[B], B phrases of one image each."""
        logit_BN = logit_BN.float()
        top = logit_BN.topk(min(self._TOP[-1], logit_BN.shape[1]), dim=1).values
        size = torch.log(torch.sigmoid(logit_BN).sum(1) + 1e-3)
        evidence = torch.stack([*(top[:, :k].mean(1) for k in self._TOP), size], dim=1)
        pooled_BC = attention_pool(logit_BN, features_BNC)
        kind = self.mlp(torch.cat([pooled_BC, context_BC, text_BD], dim=1))
        return (self.evidence(evidence) + kind).squeeze(1)


class SharedGrounding(nn.Module):
    """Phrases on shared features.

    Args:
        config: the encoder's stages.
        in_channels: of the image, which joins the features at every scale used here: normalisation has taken absolute
            HU, SUV, position and validity out of them.
        text_width: of the token states.
        width: of text, queries and phrase features.
        heads: of the attention.
        levels: the two stages at which voxels attend to tokens, coarser first.
    """

    def __init__(
        self, config: EncoderConfig, in_channels: int, text_width: int, width: int, heads: int, levels: tuple[int, int]
    ) -> None:
        super().__init__()
        self.levels = levels
        self.total_strides = config.total_strides
        coarse, fine = levels
        self.text = TextAdapter(text_width, width)
        self.lateral = nn.ModuleList([nn.Conv3d(config.features[n] + in_channels, width, 1) for n in levels])
        self.fuse = nn.ModuleList([GatedFusion(width, width, width, heads) for _ in levels])
        self.mix = nn.ModuleList([Mix(width) for _ in levels])
        self.score = nn.ModuleList([nn.Linear(width, 1) for _ in levels])
        for score in self.score:
            nn.init.constant_(score.bias, EMPTY_LOGIT if score is self.score[0] else 0.0)
        self.sizes = [n for level in reversed(range(fine)) for n in (1, config.features[level], in_channels)]
        self.weights = nn.Sequential(nn.Linear(3 * width, 2 * width), nn.GELU(), nn.Linear(2 * width, sum(self.sizes)))
        self.presence = PresenceHead(width, width, width, width)

    def prepare(self, features: Sequence[Tensor], image_BCZYX: Tensor) -> list[Tensor]:
        """The phrase-independent part: laterals at `levels`; then per finer level, coarse to fine, features and image."""
        images = [
            F.avg_pool3d(image_BCZYX, stride) if level else image_BCZYX
            for level, stride in enumerate(self.total_strides[: self.levels[0] + 1])
        ]
        prepared = [
            lateral(torch.cat([features[n], images[n].to(features[n].dtype)], dim=1))
            for lateral, n in zip(self.lateral, self.levels, strict=True)
        ]
        for level in reversed(range(self.levels[1])):
            prepared += [features[level], images[level]]
        return prepared

    def forward(self, prepared: Sequence[Tensor], tokens_BPTE: Tensor, mask_BPT: Tensor) -> Output:
        """Logits, full resolution first."""
        phrases = tokens_BPTE.shape[1]
        mask_BT = mask_BPT.flatten(0, 1)
        tokens_BTD, text_BD = self.text(tokens_BPTE.flatten(0, 1), mask_BT)
        x, logits, context_BD = None, [], text_BD
        for level, (fuse, mix, score) in enumerate(zip(self.fuse, self.mix, self.score, strict=True)):
            lateral = prepared[level].repeat_interleave(phrases, dim=0)
            x = lateral if x is None else lateral + upsample(x, lateral)
            x = mix(fuse(x, tokens_BTD, mask_BT))
            voxels_BND = to_voxels(x)
            logit = to_volume(score(voxels_BND), x)
            logits.insert(0, logit + upsample(logits[0], logit) if logits else logit)
            if level == 0:
                context_BD = voxels_BND.mean(1)
        logit_BN = logits[0].flatten(1)
        pooled_BD = attention_pool(logit_BN, voxels_BND)
        presence = self.presence(logit_BN, voxels_BND, context_BD, text_BD)
        weights = self.weights(torch.cat([pooled_BD, context_BD, text_BD], dim=1)).unflatten(0, (-1, phrases))
        logits = [x.unflatten(0, (-1, phrases)).squeeze(2) for x in logits]
        parts = iter(weights.split(self.sizes, dim=-1))
        for fine, image in zip(prepared[len(self.levels) :: 2], prepared[len(self.levels) + 1 :: 2], strict=True):
            dot_BPN = torch.baddbmm(next(parts), next(parts), fine.flatten(2))
            dot_BPN = torch.baddbmm(dot_BPN, next(parts), image.flatten(2).to(fine.dtype))
            dot = dot_BPN.unflatten(2, fine.shape[2:])
            logits.insert(0, dot + upsample(logits[0], dot))
        return Output(logits, presence.unflatten(0, (-1, phrases)))


class ContextualGrounding(nn.Module):
    """One decode per phrase over skips that its words have gated."""

    def __init__(self, config: EncoderConfig, text_width: int, width: int, *, checkpointing: bool = False) -> None:
        super().__init__()
        self.text = TextAdapter(text_width, width)
        self.gates = nn.ModuleList([ContextualGate(channels, width) for channels in config.features])
        self.decoder = ImageDecoder(config, checkpointing=checkpointing)
        self.score = nn.ModuleList([nn.Conv3d(channels, 1, 1) for channels in config.features[:-1]])
        for score in self.score:
            nn.init.constant_(score.bias, EMPTY_LOGIT)
        self.presence = PresenceHead(config.features[-2], config.features[-1], width, width)

    def forward(self, skips: Sequence[Tensor], tokens_BPTE: Tensor, mask_BPT: Tensor) -> Output:
        """Logits, full resolution first."""
        phrases = tokens_BPTE.shape[1]
        mask_BT = mask_BPT.flatten(0, 1)
        tokens_BTD, text_BD = self.text(tokens_BPTE.flatten(0, 1), mask_BT)
        gated = [
            gate(skip.repeat_interleave(phrases, dim=0), tokens_BTD, mask_BT)
            for gate, skip in zip(self.gates, skips, strict=True)
        ]
        features = self.decoder(gated)
        logits = [score(x) for score, x in zip(self.score, features[:-1], strict=True)]
        presence = self.presence(
            logits[-1].flatten(1), to_voxels(features[-2]), to_voxels(features[-1]).mean(1), text_BD
        )
        return Output([x.unflatten(0, (-1, phrases)).squeeze(2) for x in logits], presence.unflatten(0, (-1, phrases)))


class Mix(nn.Module):
    """Residual block over the neighbourhood of each voxel, normalised per voxel.

    No instance normalisation here: it would subtract the very shift by which words mark a field of view.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.first = nn.Conv3d(channels, channels, 3, padding=1)
        self.second = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x_BCZYX: Tensor) -> Tensor:
        """Same shape."""
        normed = to_volume(self.norm(to_voxels(x_BCZYX)), x_BCZYX)
        return x_BCZYX + self.second(F.gelu(self.first(normed)))


def attention_pool(logit_BN: Tensor, features_BNC: Tensor) -> Tensor:
    """Mean of the features, weighted by the softmax of the logits over voxels: [B, C]."""
    weight_BN = torch.softmax(logit_BN.float(), dim=1).to(features_BNC.dtype)
    return torch.einsum("bn,bnc->bc", weight_BN, features_BNC)


def upsample(x: Tensor, like: Tensor) -> Tensor:
    """Trilinear, to the spatial size of `like`."""
    return F.interpolate(x, size=like.shape[2:], mode="trilinear", align_corners=False)

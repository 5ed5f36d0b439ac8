"""Image encoder: nnU-Net's residual encoder, sized by nnU-Net's own planner from patch size and voxel spacing.

Blocks are those of dynamic-network-architectures (Isensee et al., "nnU-Net Revisited", 2024).
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder
from dynamic_network_architectures.building_blocks.simple_conv_blocks import ConvDropoutNormReLU
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vol3d.errors import ConfigError
from vol3d.model.layers import Conv3d, InstanceNorm
from vol3d.types import Zyx, ZyxMm

_MIN_BOTTLENECK = 4
"""nnU-Net's smallest edge of the coarsest feature map, in voxels."""


@dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """A residual U-Net, stage by stage, finest first. nnU-Net's M is features 32..320, blocks 1, 3, 4, 6, 6, 6."""

    features: tuple[int, ...] = (16, 32, 64, 128)
    """Channels of every stage."""
    blocks: tuple[int, ...] = (1, 2, 2, 2)
    """Residual blocks (two convolutions each) of every encoder stage."""
    strides: tuple[Zyx, ...] | None = None
    """(z, y, x) step into every stage, the first (1, 1, 1); null: planned from patch size and spacing."""
    kernel_sizes: tuple[Zyx, ...] | None = None
    """(z, y, x) kernel of every stage; null: planned like the strides."""
    decoder_convs: int = 1
    """Convolutions of every decoder stage; nnU-Net's residual-encoder presets use 1."""

    def __post_init__(self) -> None:
        stages = len(self.features)
        if stages < 2 or min(self.features) < 1 or self.decoder_convs < 1:
            raise ConfigError(f"encoder: expected at least 2 stages and positive widths, found {self.features}")
        for name in ("blocks", "strides", "kernel_sizes"):
            value = getattr(self, name)
            if value is not None and len(value) != stages:
                raise ConfigError(f"encoder {name}: expected {stages} entries as features has, found {len(value)}")
        if (self.strides is None) != (self.kernel_sizes is None):
            raise ConfigError("encoder: expected both strides and kernel_sizes, or neither (then they are planned)")
        if min(self.blocks) < 1 or (self.strides is not None and tuple(self.strides[0]) != (1, 1, 1)):
            raise ConfigError("encoder: expected at least 1 block per stage and a first stride of [1, 1, 1]")

    @property
    def total_strides(self) -> tuple[Zyx, ...]:
        """(z, y, x) stride of every stage against the image.

        Raises:
            ConfigError: strides are still to be planned.
        """
        if self.strides is None:
            raise ConfigError("encoder strides are not planned yet: call plan_encoder, or state them in the file")
        totals: list[Zyx] = []
        z = y = x = 1
        for step in self.strides:
            z, y, x = z * step[0], y * step[1], x * step[2]
            totals.append((z, y, x))
        return tuple(totals)


def plan_encoder(config: EncoderConfig, patch_size: Zyx, spacing_mm: ZyxMm) -> EncoderConfig:
    """`config` with strides and kernels from nnU-Net's planner, which keeps anisotropic axes apart until they match.

    Strides that the file states are kept.

    Raises:
        ConfigError: the patch is too small for so many stages, or not divisible by the strides.
    """
    from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props

    stages = len(config.features)
    if config.strides is None:
        _, strides, kernels, _, _ = get_pool_and_conv_props(spacing_mm, patch_size, _MIN_BOTTLENECK, stages - 1)
        if len(strides) < stages:
            raise ConfigError(
                f"encoder features name {stages} stages, but a patch of {patch_size} at {spacing_mm} mm allows "
                f"{len(strides)}; enlarge data.patch_size or shorten model.encoder.features and blocks"
            )
        config = replace(
            config,
            strides=tuple((int(z), int(y), int(x)) for z, y, x in strides[:stages]),
            kernel_sizes=tuple((int(z), int(y), int(x)) for z, y, x in kernels[:stages]),
        )
    check_divisible(patch_size, config)
    return config


def check_divisible(size_ZYX: tuple[int, ...], config: EncoderConfig) -> None:
    """Refuses images that the strides do not divide; padding them here would move the voxels of the answer.

    Raises:
        ConfigError: names the sizes that fit.
    """
    total = config.total_strides[-1]
    if any(n < t or n % t for n, t in zip(size_ZYX, total, strict=True)):
        fit = tuple(max(1, -(-n // t)) * t for n, t in zip(size_ZYX, total, strict=True))
        raise ConfigError(
            f"expected an image whose size is a multiple of {total} voxels (z, y, x), found {tuple(size_ZYX)}; "
            f"use patches of {fit}"
        )


BLOCK: dict[str, Any] = {
    "conv_op": nn.Conv3d,
    "conv_bias": False,
    "norm_op": InstanceNorm,
    "norm_op_kwargs": {"eps": 1e-5},
    "nonlin": nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
}
"""Arguments that every block of dynamic-network-architectures takes here."""


class ImageEncoder(nn.Module):
    """image_BCZYX to features of every stage, finest first."""

    def __init__(self, config: EncoderConfig, in_channels: int, *, checkpointing: bool = False) -> None:
        super().__init__()
        if config.strides is None or config.kernel_sizes is None:
            raise ConfigError("encoder strides are not planned yet: call plan_encoder, or state them in the file")
        self.config, self.checkpointing = config, checkpointing
        self.net = ResidualEncoder(
            input_channels=in_channels,
            n_stages=len(config.features),
            features_per_stage=list(config.features),
            kernel_sizes=[list(k) for k in config.kernel_sizes],
            strides=[list(s) for s in config.strides],
            n_blocks_per_stage=list(config.blocks),
            return_skips=True,
            **BLOCK,
        )
        finish(self.net)

    def forward(self, image_BCZYX: Tensor) -> list[Tensor]:
        """Features at the strides of the configuration."""
        check_divisible(tuple(image_BCZYX.shape[2:]), self.config)
        if image_BCZYX.device.type == "cpu":  # twice as fast in oneDNN; left alone on CUDA
            image_BCZYX = image_BCZYX.contiguous(memory_format=torch.channels_last_3d)
        x = run(self.net.stem, image_BCZYX, checkpointing=self.checkpointing)
        features = []
        for stage in self.net.stages:
            x = run(stage, x, checkpointing=self.checkpointing)
            features.append(x)
        return features


def run(module: nn.Module, *inputs: Tensor, checkpointing: bool) -> Any:
    """Calls `module`; with checkpointing its activations are computed again in the backward pass."""
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(module, *inputs, use_reentrant=False)
    return module(*inputs)


def finish(module: nn.Module) -> None:
    """Makes blocks of dynamic-network-architectures ours.

    One name to every parameter: they register their layers twice, which safetensors refuses. And our convolutions:
    they only build `nn.Conv3d` itself.
    """
    for block in module.modules():
        if isinstance(block, ConvDropoutNormReLU):
            for name in ("conv", "norm", "nonlin"):
                block._modules.pop(name, None)
        if type(block) is nn.Conv3d:
            block.__class__ = Conv3d

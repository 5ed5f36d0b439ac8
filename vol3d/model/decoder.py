"""The image decoder: from the encoder's skips to features at every scale."""

from collections.abc import Sequence

import torch
from dynamic_network_architectures.building_blocks.simple_conv_blocks import StackedConvBlocks
from torch import Tensor, nn
from torch.nn import functional

from vol3d.model.encoder import BLOCK, EncoderConfig, finish, run


class ImageDecoder(nn.Module):
    """U-Net decoder: features of every stage, finest first, the coarsest as it came."""

    def __init__(self, config: EncoderConfig, *, checkpointing: bool = False) -> None:
        super().__init__()
        assert config.strides is not None
        assert config.kernel_sizes is not None
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
        finish(self)

    def forward(self, skips: Sequence[Tensor]) -> list[Tensor]:
        """One feature map per skip."""
        features = [skips[-1]]
        for level in reversed(range(len(self.stages))):
            up_BCZYX = self.ups[level](features[0])
            if _large(up_BCZYX):
                features.insert(0, _unjoined(self.stages[level], up_BCZYX, skips[level]))
            else:
                x = torch.cat([up_BCZYX, skips[level]], dim=1)
                features.insert(0, run(self.stages[level], x, checkpointing=self.checkpointing))
        return features


def _large(x_BCZYX: Tensor) -> bool:
    """In inference on a CPU, where what is joined is most of the memory and copying it takes a seventh of the time."""
    return not torch.is_grad_enabled() and x_BCZYX.device.type == "cpu" and x_BCZYX[0, 0].numel() >= 32**3


def _unjoined(stage: nn.Module, up_BCZYX: Tensor, skip_BCZYX: Tensor) -> Tensor:
    """The stage on both maps joined along channels, as the sum of the first convolution of either."""
    first, *others = stage.convs  # type: ignore[misc]
    conv, *after = first.all_modules
    channels = up_BCZYX.shape[1]
    x_BCZYX: Tensor = functional.conv3d(up_BCZYX, conv.weight[:, :channels], conv.bias, padding=conv.padding)
    x_BCZYX += functional.conv3d(skip_BCZYX, conv.weight[:, channels:], padding=conv.padding)
    for module in (*after, *others):
        x_BCZYX = module(x_BCZYX)
    return x_BCZYX

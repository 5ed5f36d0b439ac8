"""A whole study as one vector, and one for each organ asked for: the mean over its tiles, weighted by body."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from vol3d.cache import Entry
from vol3d.checkpoint import PredictConfig
from vol3d.data.channels import ChannelConfig, Crop, crop_to_channels, read_crop
from vol3d.infer.predictor import AIR_BELOW_HU, AIR_BELOW_SUV
from vol3d.infer.tiles import tile_rows
from vol3d.model.vlm import VisionLanguageModel
from vol3d.types import Array, Zyx


def embed_study(
    model: VisionLanguageModel,
    entry: Entry,
    organ_tokens_OTE: Tensor,
    organ_mask_OT: Tensor,
    channels: ChannelConfig,
    patch_size: Zyx,
    config: PredictConfig | None = None,
    *,
    device: torch.device | str = "cpu",
) -> Array:
    """float32 [1 + O, E] of unit length: the whole study, then each organ; one tile is in memory at a time.

    Tiles are as in `predict`, unmirrored. A tile counts by its voxels of body, so that padding and the air round the
    body say nothing; a study of nothing but air gives zeros.

    Args:
        model: with an alignment head, on `device`, in evaluation mode.
        entry: the study.
        organ_tokens_OTE: token states of organs' names; O may be 0.
        organ_mask_OT: True at real tokens.
        channels: as in training.
        patch_size: as in training.
        config: overlap and precision.
        device: where the model runs.

    Raises:
        ConfigError: the model has no alignment head.
    """
    config, device = config or PredictConfig(), torch.device(device)
    asked = (organ_tokens_OTE.to(device), organ_mask_OT.to(device)) if len(organ_tokens_OTE) else ()
    total: Tensor | None = None
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.bf16):
        for _, row in tile_rows(entry.grid.shape, patch_size, config.overlap):
            for start in row:
                stop = (start[0] + patch_size[0], start[1] + patch_size[1], start[2] + patch_size[2])
                crop = read_crop(entry, start, stop)
                voxels = body_voxels(crop)
                if voxels == 0:
                    continue
                image_CZYX = crop_to_channels(entry, crop, start, stop, channels, device)
                found_QE = model.embed_image(model.encode_image(image_CZYX[None]), *asked)[0].float()
                total = voxels * found_QE + (0 if total is None else total)
    if total is None:
        return np.zeros((1 + len(organ_tokens_OTE), model.config.alignment_width), np.float32)
    return functional.normalize(total, dim=-1).cpu().numpy()


def body_voxels(crop: Crop) -> int:
    """Voxels of which some image shows more than air."""
    parts = ((crop.ct_ZYX, AIR_BELOW_HU), (crop.pet_ZYX, AIR_BELOW_SUV))
    shown = [image_ZYX >= least for image_ZYX, least in parts if image_ZYX is not None]
    return int(np.logical_or.reduce(shown).sum())


def zero_shot_margin(image_E: Array, positive_NE: Array, negative_NE: Array) -> float:
    """How much nearer an image is to the positive prompts than to the negative ones, -2..2.

    The mean similarity of each side counts, as Merlin's authors advise: single prompts are noisy.
    """
    return float((positive_NE @ image_E).mean() - (negative_NE @ image_E).mean())

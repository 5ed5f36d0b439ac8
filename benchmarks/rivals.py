"""The rivals' own classes, set up on the same network, patch and spacing: nnU-Net v2 and VoxTell.

nnU-Net's plans are written by hand instead of by its planner, so that both sides have the same stages; every other key
holds what its planner writes. Nothing of their code is changed.
"""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vol3d.model.encoder import EncoderConfig
from vol3d.types import Zyx, ZyxMm

CONFIGURATION = "3d_fullres"
DATASET_JSON: dict[str, Any] = {
    "channel_names": {"0": "CT"}, "labels": {"background": 0, "structure": 1}, "numTraining": 1,
    "file_ending": ".nii.gz",
}  # fmt: skip
INTENSITIES = {"mean": -60.0, "std": 180.0, "percentile_00_5": -970.0, "percentile_99_5": 400.0, "median": 0.0,
               "min": -1024.0, "max": 3071.0}  # fmt: skip
"""nnU-Net's fingerprint of the foreground, by which its CTNormalization clips and scales."""


def nnunet_plans(encoder: EncoderConfig, patch: Zyx, spacing_mm: ZyxMm, *, batch: int = 2, order: int = 3,
                 channels: int = 1) -> dict[str, Any]:  # fmt: skip
    """Plans of nnU-Net v2 with a ResEnc network of these stages; `order` is that of its interpolation (its own: 3)."""
    assert encoder.strides is not None
    assert encoder.kernel_sizes is not None
    stages = len(encoder.features)
    resample = {"order": order, "order_z": 0, "force_separate_z": None}
    return {
        "dataset_name": "Dataset900_Bench",
        "plans_name": "nnUNetResEncUNetMPlans",
        "original_median_spacing_after_transp": list(spacing_mm),
        "original_median_shape_after_transp": [200, 200, 200],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "experiment_planner_used": "nnUNetPlannerResEncM",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(n): dict(INTENSITIES) for n in range(channels)},
        "configurations": {
            CONFIGURATION: {
                "data_identifier": f"nnUNetPlans_{CONFIGURATION}",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": batch,
                "patch_size": list(patch),
                "median_image_size_in_voxels": [200.0, 200.0, 200.0],
                "spacing": list(spacing_mm),
                "normalization_schemes": ["CTNormalization"] * channels,
                "use_mask_for_norm": [False] * channels,
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": {"is_seg": False, **resample},
                "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": {"is_seg": False, **resample, "order": 1},
                "batch_dice": False,
                "architecture": {
                    "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
                    "arch_kwargs": {
                        "n_stages": stages,
                        "features_per_stage": list(encoder.features),
                        "conv_op": "torch.nn.modules.conv.Conv3d",
                        "kernel_sizes": [list(k) for k in encoder.kernel_sizes],
                        "strides": [list(s) for s in encoder.strides],
                        "n_blocks_per_stage": list(encoder.blocks),
                        "n_conv_per_stage_decoder": [encoder.decoder_convs] * (stages - 1),
                        "conv_bias": True,
                        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                        "norm_op_kwargs": {"eps": 1e-05, "affine": True},
                        "dropout_op": None,
                        "dropout_op_kwargs": None,
                        "nonlin": "torch.nn.LeakyReLU",
                        "nonlin_kwargs": {"inplace": True},
                    },
                    "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                },
            }
        },
    }  # fmt: skip


def dataset_json(channels: int = 1) -> dict[str, Any]:
    """`DATASET_JSON` with that many channels."""
    return {**DATASET_JSON, "channel_names": {str(n): "CT" for n in range(channels)}}


def nnunet_network(plans: dict[str, Any], channels: int = 1) -> nn.Module:
    """The network of the plans as nnU-Net's trainer builds it for inference, one class and background."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(plans)
    made = nnUNetTrainer.build_network_architecture(
        manager, manager.get_configuration(CONFIGURATION), channels, 2, enable_deep_supervision=False
    )
    return made.eval()


def nnunet_predictor(plans: dict[str, Any], device: str = "cpu", *, channels: int = 1) -> Any:
    """nnU-Net's predictor at its own defaults but for mirroring, which vol3d does not do by default either."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    with quiet():
        predictor = nnUNetPredictor(use_mirroring=False, device=torch.device(device), allow_tqdm=False)
        manager = PlansManager(plans)
        network = nnunet_network(plans, channels)
        predictor.manual_initialization(
            network, manager, manager.get_configuration(CONFIGURATION), [network.state_dict()],
            dataset_json(channels), "nnUNetTrainer", None,
        )  # fmt: skip
    return predictor


def nnunet_trainer(plans: dict[str, Any], device: str = "cpu", *, channels: int = 1) -> Any:
    """nnU-Net's trainer, initialised: its network with deep supervision, its loss, its SGD."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    folder = tempfile.mkdtemp(prefix="vol3d-nnunet-")
    places = {f"nnUNet_{kind}": folder for kind in ("raw", "preprocessed", "results")}
    with quiet(), _environment(places):
        os.makedirs(f"{folder}/Dataset900_Bench/nnUNetPlans_{CONFIGURATION}", exist_ok=True)
        open(f"{folder}/Dataset900_Bench/nnUNetPlans_{CONFIGURATION}/case.b2nd", "w").close()  # names the data class
        trainer = nnUNetTrainer(
            {**plans, "continue_training": False}, CONFIGURATION, 0, dataset_json(channels), torch.device(device)
        )
        trainer.initialize()
        trainer.network.train()
    return trainer


def nnunet_targets(trainer: Any, mask_BZYX: Tensor) -> list[Tensor]:
    """Label maps at every scale of its deep supervision, as its dataloader makes them."""
    scales = trainer._get_deep_supervision_scales()
    full = mask_BZYX[:, None].float()
    return [full if s == [1, 1, 1] else nn.functional.interpolate(full, scale_factor=s, mode="nearest") for s in scales]


def voxtell_model(encoder: EncoderConfig, patch: Zyx) -> nn.Module:
    """VoxTell's model class with these stages; its text side has the sizes that its constructor defaults to.

    The class writes down the shapes of its own patch (192) and widths; here they are those of this patch and encoder.
    """
    from voxtell.model.voxtell_model import VoxTellModel

    shapes = {
        level: {"channels": width, "shape": tuple(n // s for n, s in zip(patch, total, strict=True))}
        for level, (width, total) in enumerate(zip(encoder.features, encoder.total_strides, strict=True))
    }
    made = type("VoxTellModel", (VoxTellModel,), {"DECODER_CONFIGS": shapes})
    stages = len(encoder.features)
    assert encoder.strides is not None
    assert encoder.kernel_sizes is not None
    return made(
        input_channels=1, n_stages=stages, features_per_stage=list(encoder.features), conv_op=nn.Conv3d,
        kernel_sizes=[list(k) for k in encoder.kernel_sizes], strides=[list(s) for s in encoder.strides],
        n_blocks_per_stage=list(encoder.blocks), n_conv_per_stage_decoder=[encoder.decoder_convs] * (stages - 1),
        conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True}, num_maskformer_stages=stages - 1,
        decoder_layer=stages - 1,
    ).eval()  # fmt: skip


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallows what the rivals print."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})

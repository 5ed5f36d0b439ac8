"""Runs that start from weights of vol3d, nnU-Net and VoxTell: what fits is taken, everything else is named."""

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn

from vol3d.checkpoint import Checkpoint, save_checkpoint
from vol3d.data.channels import ChannelConfig
from vol3d.errors import CheckpointError
from vol3d.model.decoder import ImageDecoder
from vol3d.model.encoder import EncoderConfig
from vol3d.model.foreign import STEM, read_foreign
from vol3d.model.text import TextConfig
from vol3d.model.vlm import ModelConfig, VisionLanguageModel
from vol3d.train.start import report_start, start_from, write_start

STRIDES = ((1, 1, 1), (1, 2, 2), (2, 2, 2))
KERNELS = ((1, 3, 3), (3, 3, 3), (3, 3, 3))


def model_of(in_channels=4, width=8, seed=1, strides=STRIDES, features=(4, 8, 8)):
    torch.manual_seed(seed)
    encoder = EncoderConfig(features=features, blocks=(1, 2, 1), strides=strides, kernel_sizes=KERNELS)
    text = TextConfig(revision="0" * 16, width=12)
    return VisionLanguageModel(
        ModelConfig(width=width, heads=2, in_channels=in_channels, encoder=encoder, text=text)
    ).eval()


def nnunet_of(channels=4):
    """The network that nnU-Net builds from plans of a ResEnc preset, with random norms and biases as after training."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    torch.manual_seed(0)
    network = get_network_from_plans(
        "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet", ARCHITECTURE,
        ("conv_op", "norm_op", "dropout_op", "nonlin"), channels, 3, deep_supervision=True,
    )  # fmt: skip
    for parameter in network.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=0.3)
    return network.eval()


ARCHITECTURE = {
    "n_stages": 3, "features_per_stage": [4, 8, 8], "conv_op": "torch.nn.modules.conv.Conv3d",
    "kernel_sizes": [list(k) for k in KERNELS], "strides": [list(s) for s in STRIDES], "n_blocks_per_stage": [1, 2, 1],
    "n_conv_per_stage_decoder": [1, 1], "conv_bias": True, "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
    "norm_op_kwargs": {"eps": 1e-05, "affine": True}, "dropout_op": None, "dropout_op_kwargs": None,
    "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
}  # fmt: skip


def save_as_nnunet(network, path):
    """nnU-Net's own function writes the file: momentum, curves as numpy numbers, plans and all."""
    from nnunetv2.training.logging.nnunet_logger import LocalLogger
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    curves = LocalLogger()
    for epoch, loss in enumerate((0.5, 0.4)):
        curves.log("train_losses", np.float32(loss), epoch)
        curves.log("mean_fg_dice", np.mean([0.5, loss]), epoch)
        curves.log("dice_per_class_or_region", [np.float32(0.1), np.float64(loss)], epoch)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99, nesterov=True)
    network.zero_grad()
    network(torch.randn(1, next(network.parameters()).shape[1], 4, 8, 8))[0].sum().backward()
    optimizer.step()
    plans = {
        "configurations": {
            "base": {"spacing": [3.0, 2.0, 2.0], "normalization_schemes": ["CTNormalization", "NoNormalization"],
                     "architecture": {"arch_kwargs": ARCHITECTURE}},
            "3d_fullres": {"inherits_from": "base", "batch_size": 2},
        }
    }  # fmt: skip
    arguments = {
        "plans": plans, "configuration": "3d_fullres", "fold": 0, "device": torch.device("cpu"),
        "dataset_json": {"channel_names": {"0": "CT", "1": "PET"}},
    }  # fmt: skip
    trainer = SimpleNamespace(
        local_rank=0, disable_checkpointing=False, is_ddp=False, network=network, optimizer=optimizer, grad_scaler=None,
        logger=SimpleNamespace(get_checkpoint=curves.get_checkpoint), _best_ema=np.float64(0.5), current_epoch=1,
        my_init_kwargs=arguments, inference_allowed_mirroring_axes=(0, 1, 2),
    )  # fmt: skip
    nnUNetTrainer.save_checkpoint(trainer, str(path))
    return path


def test_another_checkpoint_of_ours(tmp_path):
    made = model_of(seed=0)
    channels = ChannelConfig(ct_windows=((-160.0, 240.0),), pet_clips=(5.0,), coordinates=False)
    save_checkpoint(tmp_path / "m", Checkpoint(made, channels, (16, 16, 16), {}, "abc"))
    target = model_of(width=16)
    drawn = {k: v.clone() for k, v in target.state_dict().items()}
    matched, unmatched, unused, notes = start_from(target, tmp_path / "m")
    assert (unused, notes) == ({}, [])
    assert len(matched) + len(unmatched) == len(drawn)
    assert any(name.startswith("encoder.") for name in matched)
    assert any(name.startswith("grounding.") and "there" in why for name, why in unmatched.items())
    own = made.state_dict()
    assert all(torch.equal(target.state_dict()[name], own[name]) for name in matched)
    assert all(torch.equal(target.state_dict()[name], drawn[name]) for name in unmatched)
    with pytest.raises(CheckpointError, match="it is another model"):
        start_from(torch.nn.Linear(2, 2), tmp_path / "m")


def test_nnunet_gives_its_features(tmp_path, caplog):
    network = nnunet_of()
    path = save_as_nnunet(network, tmp_path / "fold_0.pth")
    model = model_of()
    image = torch.randn(2, 4, 8, 16, 16)
    with torch.inference_mode():
        before = model.encoder(image)
        found = start_from(model, path)
        theirs, ours = network.encoder(image), model.encoder(image)
    for a, b, c in zip(theirs, ours, before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)  # its biases are gone, and the norm took them away
        assert not torch.allclose(a, c, atol=0.1)
    encoder = [n for n in model.state_dict() if n.startswith("encoder.")]
    assert set(encoder) <= set(found.matched)
    assert {n.split(".")[0] for n in found.unmatched} == {"grounding"}
    assert set(found.unmatched.values()) == {"not in it"}
    assert found.unused["decoder.seg_layers.0.weight"] == "of its classes"
    assert "takes away" in found.unused["encoder.stem.convs.0.all_modules.0.bias"]
    assert not any(n.startswith("decoder.encoder.") or ".conv." in n for n in found.unused)
    notes = "\n".join(found.notes)
    assert "weights of nnU-Net" in notes
    assert "trained at 3 x 2 x 2 mm" in notes
    assert "its channels: CT, PET (CTNormalization, NoNormalization)" in notes
    assert "taken for its 4 input channels" in notes
    assert "strides" not in notes
    with caplog.at_level("INFO", "vol3d"):
        report_start(found, path)
    assert f"{len(found.matched)} tensors taken, {len(found.unmatched)} left as drawn" in caplog.text
    assert "not used: 4 of its tensors (of its classes)" in caplog.text
    write_start(found, path, tmp_path)
    kept = json.loads((tmp_path / "init.json").read_text())
    assert (kept["from"], kept["unmatched"], kept["notes"]) == (str(path), found.unmatched, found.notes)


def test_nnunets_decoder_finds_its_levels(tmp_path):
    network = nnunet_of()
    for layer in network.decoder.transpconvs:
        nn.init.zeros_(layer.bias)  # the one thing of its decoder that has no place here
    path = save_as_nnunet(network, tmp_path / "checkpoint_final.pth")
    with torch.no_grad():
        for layer in network.decoder.transpconvs:
            layer.bias.zero_()
    torch.save({"network_weights": network.state_dict()}, path)
    model = model_of()
    start_from(model, tmp_path)  # the folder of a fold
    assert isinstance(model.decoder, ImageDecoder)
    seen = []
    for stage in network.decoder.stages:
        stage.register_forward_hook(lambda module, inputs, output: seen.append(output))
    image = torch.randn(1, 4, 8, 16, 16)
    with torch.inference_mode():
        network(image)
        ours = model.decoder(model.encoder(image))
    for theirs, here in zip(reversed(seen), ours[:-1], strict=True):
        torch.testing.assert_close(theirs, here, rtol=1e-3, atol=1e-4)


def test_other_input_channels_and_strides_are_said(tmp_path):
    path = save_as_nnunet(nnunet_of(channels=1), tmp_path / "c.pth")
    model = model_of(strides=((1, 1, 1), (2, 2, 2), (2, 2, 2)))
    drawn = model.state_dict()[STEM].clone()
    found = start_from(model, path)
    assert torch.equal(model.state_dict()[STEM], drawn)
    assert found.unmatched[STEM] == "(4, 1, 1, 3, 3) there, (4, 4, 1, 3, 3) here"
    assert "stays as drawn: 1 input channels there, 4 here" in "\n".join(found.notes)
    assert "its strides are [[1, 1, 1], [1, 2, 2], [2, 2, 2]], those here [[1, 1, 1], [2, 2, 2]" in "\n".join(
        found.notes
    )


def test_voxtells_encoder_and_nothing_else(tmp_path):
    """Names as in voxtell 0.1.2's VoxTellModel; its decoder's first stages would fit by shape."""
    network = nnunet_of(channels=1)
    weights = dict(network.state_dict())
    weights |= {"project_text_embed.0.weight": torch.zeros(3, 3), "pos_embed": torch.zeros(5, 1, 4)}
    weights |= {"transformer_decoder.layers.0.linear1.weight": torch.zeros(2, 2)}
    (tmp_path / "fold_0").mkdir()
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in weights.items()}
    torch.save({"network_weights": wrapped, "trainer_name": "T"}, tmp_path / "fold_0/checkpoint_final.pth")
    model = model_of(in_channels=1)
    found = start_from(model, tmp_path)  # the model folder, as it is published
    assert {n.split(".")[0] for n in found.matched} == {"encoder"}
    assert all(not n.startswith("encoder.") for n in found.unmatched)
    assert found.unused["pos_embed"] == "of VoxTell's text side or decoder"
    assert found.notes[:2] == ["weights of VoxTell", "of its file fold_0/checkpoint_final.pth"]
    image = torch.randn(1, 1, 8, 16, 16)
    with torch.inference_mode():
        for a, b in zip(network.encoder(image), model.encoder(image), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


class Trap:
    """Would run a function of our choice where it is unpickled."""

    def __reduce__(self):
        return (open, ("trapped", "w"))


def test_what_could_run_code_is_not_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"network_weights": {}, "logging": Trap()}, "trap.pth")
    with pytest.raises(CheckpointError, match="could run code"):
        start_from(model_of(), tmp_path / "trap.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError):
        start_from(model_of(), tmp_path / "plain.pth")
    assert not (tmp_path / "trapped").exists()


def test_other_networks_and_damaged_files_are_refused(tmp_path):
    plain = PlainConvUNet(
        1, 2, [4, 8], nn.Conv3d, 3, [1, 2], 1, 2, 1, False, nn.InstanceNorm3d, {}, None, None, nn.ReLU, {}
    )
    torch.save({"network_weights": plain.state_dict()}, tmp_path / "plain.pth")
    with pytest.raises(CheckpointError, match="plain U-Net, plan with a ResEnc preset"):
        read_foreign(tmp_path / "plain.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="expected a dictionary"):
        read_foreign(tmp_path / "list.pth")
    whole = save_as_nnunet(nnunet_of(), tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        read_foreign(tmp_path / "cut.pth")
    torch.save({"network_weights": nnunet_of().state_dict()}, tmp_path / "wide.pth")
    with pytest.raises(CheckpointError, match="it is another model"):
        start_from(model_of(in_channels=3, features=(6, 10, 12)), tmp_path / "wide.pth")

"""The task on a tiny scene: two boxes that only the words tell apart, and one that is not there."""

from types import SimpleNamespace

import pytest
import torch

from vol3d.errors import ConfigError
from vol3d.model.encoder import EncoderConfig
from vol3d.model.text import TextConfig
from vol3d.model.vlm import ModelConfig, VisionLanguageModel
from vol3d.tasks.segment import SegmentConfig, SegmentTask


def scene() -> SimpleNamespace:
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 1, 16, 16, 16, generator=generator) * 0.1
    mask = torch.zeros(1, 3, 16, 16, 16, dtype=torch.uint8)
    mask[0, 0, 4:9, 4:9, 2:6] = 1
    mask[0, 1, 4:9, 4:9, 10:14] = 1
    image += mask.amax(1, keepdim=True)
    return SimpleNamespace(
        image_BCZYX=image,
        mask_BPZYX=mask,
        present_BP=torch.tensor([[1.0, 1.0, 0.0]]),
        known_BP=torch.ones(1, 3, dtype=torch.bool),
        tokens_BPTE=torch.randn(1, 3, 4, 12, generator=generator),
        token_mask_BPT=torch.ones(1, 3, 4, dtype=torch.bool),
        finding_BZYX=mask[:, 0] + 2 * mask[:, 1],
    )


@pytest.mark.parametrize("fusion", ["shared", "contextual"])
def test_learns_which_box_the_words_mean_and_that_one_is_absent(fusion: str) -> None:
    torch.manual_seed(0)
    strides = ((1, 1, 1), (2, 2, 2), (2, 2, 2))
    encoder = EncoderConfig(features=(8, 12, 16), blocks=(1, 1, 1), strides=strides, kernel_sizes=((3, 3, 3),) * 3)
    model = VisionLanguageModel(
        ModelConfig(fusion=fusion, width=16, in_channels=1, encoder=encoder, text=TextConfig(width=12))  # type: ignore[arg-type]
    )
    batch, task = scene(), SegmentTask(SegmentConfig())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(50):
        losses = task.training_forward(model, batch)
        optimizer.zero_grad()
        sum(v for k, v in losses.items() if k.endswith("_loss")).backward()
        optimizer.step()
    final = task.training_forward(model, batch)
    assert final["dice"] > 0.9
    assert final["presence_accuracy"] == 1
    answer = model(batch.image_BCZYX, batch.tokens_BPTE, batch.token_mask_BPT).logits[0] > 0
    assert not (answer[0, 0] & answer[0, 1]).any()
    assert not answer[0, 2].any()


def test_proposals_show_both_boxes_whatever_is_asked() -> None:
    torch.manual_seed(0)
    strides = ((1, 1, 1), (2, 2, 2), (2, 2, 2))
    encoder = EncoderConfig(features=(8, 12, 16), blocks=(1, 1, 1), strides=strides, kernel_sizes=((3, 3, 3),) * 3)
    model = VisionLanguageModel(
        ModelConfig(width=16, in_channels=1, encoder=encoder, text=TextConfig(width=12), proposals=True)
    )
    batch, task = scene(), SegmentTask(SegmentConfig(mask_weight=0, presence_weight=0, proposal_weight=2.0))
    first = task.training_forward(model, batch)["proposal_loss"].item()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(30):
        loss = task.training_forward(model, batch)["proposal_loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = model(batch.image_BCZYX, batch.tokens_BPTE, batch.token_mask_BPT).proposals
    assert [tuple(x.shape) for x in found] == [(1, 1, 16, 16, 16), (1, 1, 8, 8, 8), (1, 1, 4, 4, 4)]
    answer, truth = found[0][0, 0] > 0, batch.finding_BZYX[0] > 0
    assert 2 * (answer & truth).sum() / (answer.sum() + truth.sum()) > 0.9
    assert loss.item() < 0.2 * first


def test_weights_scale_the_losses() -> None:
    strides = ((1, 1, 1), (2, 2, 2), (2, 2, 2))
    encoder = EncoderConfig(features=(4, 4, 4), blocks=(1, 1, 1), strides=strides, kernel_sizes=((3, 3, 3),) * 3)
    torch.manual_seed(0)
    model = VisionLanguageModel(ModelConfig(width=8, in_channels=1, encoder=encoder, text=TextConfig(width=12)))
    one = SegmentTask(SegmentConfig(mask_weight=1, presence_weight=1)).training_forward(model, scene())
    two = SegmentTask(SegmentConfig(mask_weight=2, presence_weight=0.5)).training_forward(model, scene())
    assert sorted(one) == ["dice", "mask_loss", "presence_accuracy", "presence_loss"]
    torch.testing.assert_close(two["mask_loss"], 2 * one["mask_loss"])
    torch.testing.assert_close(two["presence_loss"], 0.5 * one["presence_loss"])
    with pytest.raises(ConfigError, match="at least 0"):
        SegmentConfig(presence_weight=-1)

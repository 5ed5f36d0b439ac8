"""The contrast: losses against numbers worked out by hand, and ranks against one rank."""

import json
import math
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vol3d.errors import ConfigError
from vol3d.model.grounding import Output
from vol3d.tasks.findings import (
    AlignConfig,
    FindingsConfig,
    FindingsTask,
    pair_loss,
    softmax_loss,
    watch_retrieval,
)

NAN = float("nan")


def test_pair_loss_by_hand() -> None:
    logit = torch.tensor([[0.0, 2.0, -1.0], [1.0, 0.0, 3.0]])
    target = torch.tensor([[1.0, 0.0, NAN], [NAN, 0.5, NAN]])
    known = math.log(2) + math.log(1 + math.exp(2)) + math.log(2)
    assert pair_loss(logit, target).item() == pytest.approx(known / 2)  # of the third text nothing is known


def test_pair_loss_is_siglips_where_all_is_known() -> None:
    logit = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    sign = 2 * torch.eye(4) - 1
    assert pair_loss(logit, torch.eye(4)).item() == pytest.approx(
        -torch.nn.functional.logsigmoid(sign * logit).sum().item() / 4, rel=1e-6
    )


def test_softmax_loss_by_hand() -> None:
    """Two organs; image 0 has a true and an untrue text on the first, image 1 only an unknown one there."""
    logit = torch.tensor([[1.0, 0.0, 2.0], [5.0, 1.0, 0.0]])
    target = torch.tensor([[1.0, 0.0, NAN], [NAN, 0.0, 1.0]])
    organ = torch.tensor([0, 0, 3])
    image = math.log(1 + math.exp(-1))  # the one question of an image with true and untrue answers
    text = 0.0  # text 0 has one known image, text 1 no true one, text 2 one
    assert softmax_loss(logit, target, organ).item() == pytest.approx((image + text) / 2)
    target = torch.tensor([[1.0, 1.0, NAN], [0.0, NAN, 1.0]])
    text = math.log(1 + math.exp(4))  # text 0: its image has 1.0, the other 5.0
    assert softmax_loss(logit, target, organ).item() == pytest.approx((0.0 + text) / 2)


def test_soft_targets_share_by_their_values() -> None:
    logit = torch.tensor([[0.0, 1.0, 3.0]])
    target = torch.tensor([[1.0, 0.5, 0.0]])
    log = torch.log_softmax(logit[0], 0)
    expected = -(2 / 3 * log[0] + 1 / 3 * log[1]).item()
    assert softmax_loss(logit, target, torch.zeros(3, dtype=torch.long)).item() == pytest.approx(expected / 2)


def test_nothing_known_gives_zero_and_no_nan_gradient() -> None:
    logit = torch.randn(2, 3, requires_grad=True)
    target = torch.full((2, 3), NAN)
    loss = pair_loss(logit, target) + softmax_loss(logit, target, torch.tensor([0, 1, 1]))
    loss.backward()
    assert loss.item() == 0
    assert not logit.grad.any()


def test_retrieval_and_its_chance_by_hand() -> None:
    similarity = torch.tensor([[0.9, 0.1, 0.5], [0.2, 0.3, 0.4]])
    target = torch.tensor([[1.0, 0.0, NAN], [0.0, 1.0, 0.0]])
    found = watch_retrieval(similarity, target, torch.zeros(3, dtype=torch.long))
    # images: 0 right (chance 1/2), 1 wrong (1/3); texts: 0 right (1/2), 1 right (1/2), 2 has no true image
    assert found["retrieval"].item() == pytest.approx(3 / 4)
    assert found["retrieval_chance"].item() == pytest.approx((1 / 2 + 1 / 3 + 1 / 2 + 1 / 2) / 4)


def test_without_alignment_it_is_the_segment_task() -> None:
    seen = []

    class Model(torch.nn.Module):
        def forward(self, *parts: torch.Tensor) -> Output:
            seen.append(len(parts))
            return Output([torch.zeros(1, 1, 2, 2, 2)], torch.zeros(1, 1))

    batch = SimpleNamespace(
        image_BCZYX=torch.zeros(1), tokens_BPTE=torch.zeros(1), token_mask_BPT=torch.zeros(1),
        mask_BPZYX=torch.zeros(1, 1, 2, 2, 2), known_BP=torch.ones(1, 1), present_BP=torch.zeros(1, 1),
    )  # fmt: skip
    found = FindingsTask(FindingsConfig()).training_forward(Model(), batch)
    assert sorted(found) == ["dice", "mask_loss", "presence_accuracy", "presence_loss"]
    assert seen == [3]


def test_refusals() -> None:
    with pytest.raises(ConfigError, match="one of them above"):
        AlignConfig(pair_weight=0, softmax_weight=0)
    with pytest.raises(ConfigError, match=r"within 0..1, found 2"):
        AlignConfig(normal_target=2)


def test_two_ranks_have_the_loss_and_the_gradients_of_one(tmp_path: Path) -> None:
    """Gradients averaged over ranks, as the engine does, against one rank with all four samples."""
    job = Path(__file__).with_name("contrast_job.py")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    started = [
        subprocess.Popen([sys.executable, str(job), str(r), str(world), str(port + world), str(tmp_path)])
        for world in (1, 2)
        for r in range(world)
    ]
    assert [p.wait(timeout=300) for p in started] == [0, 0, 0]
    one, two = (json.loads((tmp_path / f"{world}.json").read_text()) for world in (1, 2))
    assert one["loss"] == pytest.approx(two["loss"], abs=1e-5)
    assert one["retrieval"] == two["retrieval"]
    assert max(abs(g) for g in one["gradient"]) > 1e-3
    assert one["gradient"] == pytest.approx(two["gradient"], abs=1e-5)

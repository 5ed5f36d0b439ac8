"""Rates by hand, decay groups."""

import pytest
import torch
from torch import nn

from vol3d.errors import ConfigError
from vol3d.train.optim import OptimConfig, build_optimizer, learning_rate


def test_warmup_is_linear_and_meets_the_peak():
    config = OptimConfig(learning_rate=0.8, warmup_steps=4, schedule="constant")
    assert [learning_rate(config, s, 10) for s in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_cosine_by_hand():
    config = OptimConfig(learning_rate=1.0, final_share=0.1)
    assert learning_rate(config, 0, 100) == 1.0
    assert learning_rate(config, 50, 100) == pytest.approx(0.55)
    assert learning_rate(config, 100, 100) == pytest.approx(0.1)


def test_poly_is_nnunets():
    config = OptimConfig(learning_rate=1e-2, schedule="poly")
    assert learning_rate(config, 250, 1000) == pytest.approx(1e-2 * 0.75**0.9)
    assert learning_rate(config, 1000, 1000) == 0


def test_biases_and_norms_do_not_decay_under_adamw():
    model = nn.Sequential(nn.Conv3d(1, 2, 3), nn.InstanceNorm3d(2, affine=True))
    decayed, plain = build_optimizer(model, OptimConfig(weight_decay=0.1)).param_groups
    assert [tuple(p.shape) for p in decayed["params"]] == [(2, 1, 3, 3, 3)]
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert len(plain["params"]) == 3


def test_sgd_is_nesterov():
    optimizer = build_optimizer(nn.Linear(2, 2), OptimConfig(name="sgd", momentum=0.99))
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["nesterov"]
    assert optimizer.defaults["momentum"] == 0.99


def test_refusals():
    with pytest.raises(ConfigError, match="learning_rate > 0"):
        OptimConfig(learning_rate=0.0)
    with pytest.raises(ConfigError, match="every one frozen"):
        build_optimizer(nn.Linear(2, 2).requires_grad_(False), OptimConfig())

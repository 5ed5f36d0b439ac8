"""Muon: orthogonal updates of a known size, whatever that of the gradient; AdamW for what is no matrix."""

import pytest
import torch
from torch import nn

from vol3d.errors import ConfigError
from vol3d.train import ranks
from vol3d.train.engine import Engine, read_deepspeed_file
from vol3d.train.muon import Muon, orthogonal
from vol3d.train.optim import OptimConfig, build_optimizer


def config(**changes):
    return OptimConfig(name="muon", momentum=0.95, **{"weight_decay": 0.0, "learning_rate": 0.01, **changes})


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (16, 8, 3, 3, 3)])
def test_singular_values_come_near_one(shape):
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(shape, generator=generator)
    flat = gradient.flatten(1)
    u, _, v = torch.linalg.svd(flat, full_matrices=False)
    spread = (u * torch.logspace(0, -1.5, min(flat.shape))) @ v
    size = 0.2 * max(flat.shape) ** 0.5
    found = torch.linalg.svdvals(orthogonal(spread.reshape(shape)).flatten(1)) / size
    assert found.min() > 0.6
    assert found.max() < 1.3


def test_the_axes_stay_those_of_the_gradient():
    """A diagonal gradient gives a diagonal update with its signs."""
    update = orthogonal(torch.diag(torch.tensor([3.0, -2.0, 1.0, -0.5])))
    assert torch.allclose(update, torch.diag(torch.diagonal(update)), atol=1e-6)
    assert torch.diagonal(update).sign().tolist() == [1, -1, 1, -1]


def test_the_update_does_not_depend_on_the_size_of_the_gradient_and_is_as_large_as_adamws():
    gradient = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    update = orthogonal(gradient)
    assert torch.allclose(update, orthogonal(1e-4 * gradient), atol=1e-5)
    assert float(update.square().mean().sqrt()) == pytest.approx(0.2, rel=0.15)


def test_one_step_by_hand():
    """A first gradient g: momentum 0.05 g, Nesterov's look ahead 0.05 g + 0.95 * 0.05 g; only its direction counts."""
    layer = nn.Linear(16, 16, bias=False)
    before = layer.weight.detach().clone()
    gradient = torch.randn(16, 16, generator=torch.Generator().manual_seed(2))
    layer.weight.grad = gradient.clone()
    optimizer = build_optimizer(layer, config(weight_decay=0.5))
    optimizer.step()
    assert torch.allclose(layer.weight, before * (1 - 0.01 * 0.5) - 0.01 * orthogonal(gradient), atol=1e-6)
    assert torch.allclose(optimizer.state[layer.weight]["momentum_buffer"], 0.05 * gradient)


def test_what_is_no_matrix_moves_as_under_adamw():
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Conv3d(8, 16, 3), nn.InstanceNorm3d(16, affine=True), nn.Conv3d(16, 1, 1))]
    models.append(nn.Sequential(nn.Conv3d(8, 16, 3), nn.InstanceNorm3d(16, affine=True), nn.Conv3d(16, 1, 1)))
    models[1].load_state_dict(models[0].state_dict())
    settings = config(weight_decay=0.1)
    plain = OptimConfig(name="adamw", learning_rate=0.01, weight_decay=0.1)
    x = torch.randn(2, 8, 6, 6, 6)
    for model, chosen in zip(models, (settings, plain), strict=True):
        optimizer = build_optimizer(model, chosen)
        model(x).square().mean().backward()
        optimizer.step()
    first, second = (dict(model.named_parameters()) for model in models)
    same = {name for name in first if torch.equal(first[name], second[name])}
    assert same == {"0.bias", "1.weight", "1.bias", "2.weight", "2.bias"}


def test_embeddings_are_no_matrices_even_where_a_layer_shares_them():
    model = nn.Sequential(nn.Embedding(32, 16), nn.Linear(16, 16), nn.Linear(16, 32, bias=False))
    model[2].weight = model[0].weight
    orthogonal_group, rest, _ = build_optimizer(model, config()).param_groups
    assert [p is model[1].weight for p in orthogonal_group["params"]] == [True]
    assert [p is model[0].weight for p in rest["params"]] == [True]


def test_it_learns_and_its_state_is_by_parameter():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 8))
    x, y = torch.randn(64, 16), torch.randn(64, 8)
    optimizer = build_optimizer(model, config(learning_rate=0.05))
    assert isinstance(optimizer, Muon)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert set(optimizer.state[model[0].weight]) == {"momentum_buffer"}
    assert set(optimizer.state[model[0].bias]) == {"step", "exp_avg", "exp_avg_sq"}


def test_it_is_refused_where_ranks_hold_parts_of_matrices():
    ranks.join()
    model = nn.Linear(16, 16)
    with pytest.raises(ConfigError, match="zero0 with the optimizer muon"):
        Engine(
            model,
            lambda model, batch: {"x_loss": model(batch).sum()},
            build_optimizer(model, config()),
            deepspeed_file=read_deepspeed_file("zero2"),
            micro_batch=1,
        )

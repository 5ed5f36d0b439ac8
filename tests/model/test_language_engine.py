"""The language model under DeepSpeed: at every ZeRO stage what is frozen stays bit-identical and is not stored."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from vol3d.model.language import LanguageModel
from vol3d.train import ranks
from vol3d.train.engine import Engine, read_deepspeed_file
from vol3d.train.optim import OptimConfig, build_optimizer

_spec = importlib.util.spec_from_file_location("language_models", Path(__file__).with_name("language_models.py"))
assert _spec is not None
assert _spec.loader is not None
models = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(models)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    ranks.join()
    return models.save_base(tmp_path_factory.mktemp("llama"), "llama")


def engine_of(model: LanguageModel, stage: int, precision: str = "fp32") -> Engine:
    def forward(model: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        return {"report_loss": model.loss(*batch)}

    optimizer = build_optimizer(model, OptimConfig(learning_rate=1e-2))
    file = read_deepspeed_file(f"zero{stage}")
    return Engine(model, forward, optimizer, deepspeed_file=file, micro_batch=3, clip=1.0, precision=precision)  # type: ignore[arg-type]


def curve(model: LanguageModel, engine: Engine, steps: int = 3) -> list[float]:
    batch = (*models.text_batch(model), *models.images(3))
    return [engine.step([batch], 1e-2).loss for _ in range(steps)]


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_frozen_weights_are_bit_identical_after_engine_steps(llama: Path, stage: int) -> None:
    plain = models.open_gates(models.pretrained(llama))
    trained = [p for p in plain.parameters() if p.requires_grad]
    optimizer = build_optimizer(plain, OptimConfig(learning_rate=1e-2))
    expected = []
    for _ in range(3):
        loss = plain.train().loss(*models.text_batch(plain), *models.images(3))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        expected.append(loss.item())
    model = models.open_gates(models.pretrained(llama))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    engine = engine_of(model, stage)
    assert curve(model, engine) == pytest.approx(expected, abs=2e-4)
    stored = set(engine.weights())
    after = dict(model.named_parameters()) if stage < 3 else engine.weights()
    for name in before:
        assert torch.equal(after[name], before[name]) == (name in frozen), name
    assert stored == before.keys() - frozen if stage < 3 else stored >= before.keys()
    engine.close()


def test_bf16_with_recomputation_trains(llama: Path) -> None:
    model = models.pretrained(llama, activation_checkpointing=True)
    engine = engine_of(model, 2, "bf16")
    losses = curve(model, engine, 6)
    engine.close()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("kind", ["small", "llama"])
def test_an_engine_goes_on_from_its_files(llama: Path, kind: str, tmp_path: Path) -> None:
    def fresh() -> LanguageModel:
        return models.small(dropout=0.0) if kind == "small" else models.pretrained(llama)

    model = fresh()
    engine = engine_of(model, 2)
    curve(model, engine, 2)
    engine.save(tmp_path)
    expected = curve(model, engine, 1)
    engine.close()
    model = fresh()
    engine = engine_of(model, 2)
    engine.load(tmp_path)
    assert curve(model, engine, 1) == expected
    engine.close()

"""DeepSpeed on gloo: every ZeRO stage, one and two ranks, non-finite steps, safe shards."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vol3d.errors import CheckpointError, ConfigError, NonFiniteError
from vol3d.train import ranks
from vol3d.train.engine import Engine, read_deepspeed_file

JOB = Path(__file__).with_name("engine_job.py")
_spec = importlib.util.spec_from_file_location("engine_job", JOB)
job = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(job)


@pytest.fixture(scope="module")
def place():
    return ranks.join()


def plain_curve(steps=3, clip=1.0):
    """The same three updates in plain torch."""
    torch.manual_seed(0)
    model = job.Toy()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses, norms = [], []
    for step in range(steps):
        image_BCZYX = torch.stack([job.image_of(i) for i in range(step * 4, step * 4 + 4)])
        loss = job.loss_of(model, image_BCZYX)["square_loss"]
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), clip)))
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, norms


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_every_zero_stage_follows_plain_torch(place, stage, accumulation):
    losses, norms = plain_curve()
    found = job.curve(stage, place, accumulation=accumulation)
    assert found["loss"] == pytest.approx(losses, abs=1e-5)
    assert found["norm"] == pytest.approx(norms, rel=1e-4)


def test_clipping_takes_part_at_zero_0_and_2(place):
    # SGD moves by the gradient itself, so a tight clip shows in the weights
    def moved(stage, clip):
        engine = job.build(stage, place, clip=clip, optimizer=torch.optim.SGD)
        before = {k: v.clone() for k, v in engine.weights().items()}
        engine.step(job.batches_of(0, place, 1), 1.0)
        after = engine.weights()
        engine.close()
        return sum(float((after[k] - before[k]).pow(2).sum()) for k in before) ** 0.5

    for stage in (0, 2):
        assert moved(stage, 0.01) == pytest.approx(0.01, rel=1e-3)
        assert moved(stage, 0.0) > 0.1


@pytest.mark.parametrize("stage", [0, 2])
def test_bf16_keeps_fp32_weights_and_stays_near_fp32(place, stage):
    engine = job.build(stage, place, precision="bf16")
    seen = []
    engine.model.net[0].register_forward_hook(lambda m, i, output: seen.append(output.dtype))
    result = engine.step(job.batches_of(0, place, 1), 1e-2)
    assert seen == [torch.bfloat16]
    assert {v.dtype for v in engine.weights().values()} == {torch.float32}
    engine.close()
    assert result.loss == pytest.approx(plain_curve()[0][0], rel=0.02)
    assert result.figures["square_loss"] == pytest.approx(result.loss, rel=1e-6)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_nan_stops_before_the_update(place, stage):
    answer = job.poisoned(stage, place)
    assert "loss that is NaN or infinite on rank 0 (study-7)" in answer["error"]
    assert answer["same"]
    assert answer["n"] == 6


def test_a_gradient_that_overflows_under_a_finite_loss_stops(place):
    torch.manual_seed(0)
    model = job.Toy()

    def loss_of(model, image_BCZYX):
        return {"root_loss": (model(image_BCZYX).abs().mean() * 0).sqrt()}  # 0, with slope infinity

    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    engine = Engine(model, loss_of, optimizer, deepspeed_file=read_deepspeed_file("zero1"), micro_batch=4)
    before = {k: v.clone() for k, v in engine.weights().items()}
    with pytest.raises(NonFiniteError, match="a gradient that is NaN or infinite on rank 0"):
        engine.step(job.batches_of(0, place, 1), 1.0)
    assert all(torch.equal(before[k], v) for k, v in engine.weights().items())


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_saved_engine_goes_on_bitwise(place, stage, tmp_path):
    straight = job.curve(stage, place, steps=4)
    engine = job.build(stage, place)
    for step in range(2):
        engine.step(job.batches_of(step, place, 1), 1e-2)
    engine.save(tmp_path)
    engine.close()
    engine = job.build(stage, place)
    engine.load(tmp_path)
    losses = [engine.step(job.batches_of(step, place, 1), 1e-2).loss for step in (2, 3)]
    assert losses == straight["loss"][2:]
    assert {k: v.double().sum().item() for k, v in engine.weights().items()} == straight["weights"]
    engine.close()


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
@pytest.mark.parametrize("saved_at", [0, 1, 2, 3])
def test_another_zero_stage_goes_on(place, saved_at, optimizer, tmp_path):
    """Two ranks are in test_elastic.py. SGD without momentum keeps nothing of a parameter."""
    straight = job.curve(0, place, steps=4, optimizer=optimizer)
    engine = job.build(saved_at, place, optimizer=optimizer)
    for step in range(2):
        engine.step(job.batches_of(step, place, 1), 1e-2)
    engine.save(tmp_path)
    engine.close()
    for stage in range(4):
        engine = job.build(stage, place, optimizer=optimizer)
        engine.load(tmp_path)
        losses = [engine.step(job.batches_of(step, place, 1), 1e-2).loss for step in (2, 3)]
        assert losses == pytest.approx(straight["loss"][2:], abs=1e-6)
        engine.close()


def test_what_is_saved_are_full_tensors_by_name(place, tmp_path):
    engine = job.build(3, place)
    engine.step(job.batches_of(0, place, 1), 1e-2)
    engine.save(tmp_path)
    weights, moments = load_file(tmp_path / "weights.safetensors"), load_file(tmp_path / "optimizer.safetensors")
    assert {n: tuple(v.shape) for n, v in weights.items()} == {
        n: tuple(p.shape) for n, p in job.Toy().named_parameters()
    }
    assert set(moments) == {f"{key}/{name}" for key in ("exp_avg", "exp_avg_sq", "step") for name in weights}
    assert moments["step/net.0.weight"] == 1
    assert moments["exp_avg/net.0.weight"].shape == (4, 1, 3, 3, 3)


def test_checkpoints_of_another_model_or_cut_short_are_refused(place, tmp_path):
    engine = job.build(2, place)
    engine.step(job.batches_of(0, place, 1), 1e-2)
    engine.save(tmp_path)
    path = tmp_path / "weights.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="missing or damaged"):
        job.build(2, place).load(tmp_path)
    save_file({"net.0.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"net.0.weight of shape \(4, 1, 3, 3, 3\), found \(1,\), and 5 more"):
        job.build(2, place).load(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match="missing or damaged"):
        job.build(2, place).load(tmp_path)


def test_deepspeed_files(tmp_path):
    assert [read_deepspeed_file(f"zero{s}")["zero_optimization"]["stage"] for s in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="zero0, zero1"):
        read_deepspeed_file("zero4")
    (tmp_path / "own.json").write_text('{"gradient_clipping": 1.0}')
    with pytest.raises(ConfigError, match="gradient_clipping come from"):
        read_deepspeed_file(str(tmp_path / "own.json"))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def two_ranks(what, folder, stages):
    """As srun starts them, without SLURM."""
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": str(free_port()), "SLURM_STEP_NUM_TASKS": "2",
               "SLURM_STEP_NUM_NODES": "1", "SLURM_JOB_ID": "1"}  # fmt: skip
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"):
        environ.pop(name, None)
    command = [sys.executable, str(JOB), what, str(folder), stages]
    running = [
        subprocess.Popen(command, env={**environ, "SLURM_PROCID": str(r), "SLURM_LOCALID": str(r)}) for r in range(2)
    ]
    codes = [process.wait(timeout=200) for process in running]
    return codes, [json.loads((folder / f"rank{r}.json").read_text()) for r in range(2)]


def check_poisoned(answer):
    assert "on rank 1 (study-7)" in answer["error"]
    assert "rank 0 (" not in answer["error"]
    assert answer["same"]


def test_two_ranks_zero_2_have_the_loss_of_one_and_stop_together(place, tmp_path):
    codes, answers = two_ranks("curve,poisoned", tmp_path, "2")
    assert codes == [3, 3]
    assert [a["world"] for a in answers] == [2, 2]
    one = job.curve(2, place)
    for answer in answers:
        assert answer["curve2"]["loss"] == pytest.approx(one["loss"], abs=1e-6)
        assert answer["curve2"]["norm"] == pytest.approx(one["norm"], rel=1e-4)
        check_poisoned(answer["poisoned2"])


@pytest.mark.slow
def test_two_ranks_at_every_stage(place, tmp_path):
    codes, answers = two_ranks("curve,poisoned", tmp_path, "0,1,2,3")
    assert codes == [3, 3]
    one = plain_curve()[0]
    for stage in "0123":
        for answer in answers:
            assert answer[f"curve{stage}"]["loss"] == pytest.approx(one, abs=1e-5)
            check_poisoned(answer[f"poisoned{stage}"])


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_launchers(tmp_path, launcher):
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        environ.pop(name, None)
    port = str(free_port())
    start = {
        "torchrun": ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", port],
        "deepspeed": ["-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port", port, "--no_local_rank"],
    }[launcher]
    subprocess.run(
        [sys.executable, *start, str(JOB), "curve", str(tmp_path), "1"], env=environ, check=True, timeout=200
    )
    assert json.loads((tmp_path / "rank1.json").read_text())["world"] == 2

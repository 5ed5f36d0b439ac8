"""Run by test_engine.py, once per rank: a toy model through the engine; prints one JSON line on rank 0."""

import json
import sys
from pathlib import Path

import torch
from torch import nn

from vol3d.errors import NonFiniteError
from vol3d.train import ranks
from vol3d.train.engine import Engine, read_deepspeed_file

GLOBAL_BATCH = 4


class Toy(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv3d(1, 4, 3), nn.InstanceNorm3d(4, affine=True), nn.ReLU(), nn.Conv3d(4, 1, 3))

    def forward(self, image_BCZYX):
        return self.net(image_BCZYX)


def loss_of(model, image_BCZYX):
    error = model(image_BCZYX).float() - 1
    return {"square_loss": error.pow(2).mean(), "error": error.mean()}


def image_of(index):
    return torch.randn(1, 6, 6, 6, generator=torch.Generator().manual_seed(index))


def batches_of(step, place, accumulation, bad_index=None):
    share = GLOBAL_BATCH // place.world
    first = step * GLOBAL_BATCH + place.rank * share
    images = [image_of(i) * (float("nan") if i == bad_index else 1) for i in range(first, first + share)]
    return list(torch.stack(images).split(share // accumulation))


def build(stage, place, accumulation=1, precision="fp32", clip=1.0, optimizer=torch.optim.AdamW):
    torch.manual_seed(0)
    model = Toy()
    groups = [[p for p in model.parameters() if p.ndim > 1], [p for p in model.parameters() if p.ndim <= 1]]
    return Engine(
        model,
        loss_of,
        optimizer([{"params": group} for group in groups], lr=1e-2),
        deepspeed_file=read_deepspeed_file(f"zero{stage}"),
        micro_batch=GLOBAL_BATCH // place.world // accumulation,
        accumulation=accumulation,
        clip=clip,
        precision=precision,
    )


def curve(stage, place, steps=3, **settings):
    engine = build(stage, place, **settings)
    accumulation = settings.get("accumulation", 1)
    results = [engine.step(batches_of(s, place, accumulation), 1e-2) for s in range(steps)]
    weights = {k: v.double().sum().item() for k, v in engine.weights().items()}
    engine.close()
    return {"loss": [r.loss for r in results], "norm": [r.grad_norm for r in results], "weights": weights}


def poisoned(stage, place):
    """One bad sample of the second update, on the last rank."""
    engine = build(stage, place)
    engine.step(batches_of(0, place, 1), 1e-2)
    before = {k: v.clone() for k, v in engine.weights().items()}
    try:
        engine.step(batches_of(1, place, 1, bad_index=7), 1e-2, lambda batch: "study-7")
    except NonFiniteError as error:
        after = engine.weights()
        return {"error": str(error), "same": all(torch.equal(before[k], after[k]) for k in before), "n": len(before)}
    return {"error": None}


def save(stage, place):
    """Two updates, then a checkpoint named by ranks and stage."""
    engine = build(stage, place)
    for step in range(2):
        engine.step(batches_of(step, place, 1), 1e-2)
    engine.save(Path(sys.argv[2]) / f"saved-{place.world}-{stage}")
    ranks.barrier()
    engine.close()
    return {}


def load(stage, place):
    """Losses of the next two updates from every checkpoint in the folder."""
    return {folder.name: losses_after(folder, stage, place) for folder in sorted(Path(sys.argv[2]).glob("saved-*"))}


def losses_after(folder, stage, place):
    engine = build(stage, place)
    engine.load(folder)
    losses = [engine.step(batches_of(step, place, 1), 1e-2).loss for step in (2, 3)]
    engine.close()
    return losses


if __name__ == "__main__":
    place = ranks.join()
    what, folder, stages = sys.argv[1].split(","), Path(sys.argv[2]), [int(s) for s in sys.argv[3].split(",")]
    answer = {
        f"{w}{s}": {"curve": curve, "poisoned": poisoned, "save": save, "load": load}[w](s, place)
        for w in what
        for s in stages
    }
    (folder / f"rank{place.rank}.json").write_text(json.dumps({"world": place.world, **answer}))
    ranks.barrier()
    sys.exit(3 if any(a.get("error") for a in answer.values()) else 0)

"""Run by test_findings.py, once per rank: the contrast of four samples, shared among the ranks."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist

from vol3d.data.contrast import STUDY_CODE, TEXT_CODE
from vol3d.model.alignment import Alignment
from vol3d.tasks.findings import AlignConfig, contrast

SAMPLES, TEXTS, WIDTH, STATES = 4, 3, 8, 6


def codes() -> tuple[torch.Tensor, torch.Tensor]:
    """Every study owns its first text, shows everything, and its sole fact denies what every third text asserts."""
    text, study = (
        torch.zeros(SAMPLES, TEXTS, TEXT_CODE, dtype=torch.long),
        torch.zeros(SAMPLES, STUDY_CODE, dtype=torch.long),
    )
    text[..., 3:].unflatten(-1, (-1, 6))[..., 5] = -1
    facts = study[:, -128 * 6 :].unflatten(-1, (-1, 6))
    facts[..., 5] = -1
    text[..., 0] = 1 + torch.arange(SAMPLES * TEXTS).view(SAMPLES, TEXTS)
    text[..., 1] = torch.tensor([0, 1, 1])
    study[:, 0] = text[:, 0, 0]
    study[:, 1] = text[:, 1, 0]
    organs = (STUDY_CODE - 32 - 128 * 6) // 2
    study[:, 32 + organs : 32 + 2 * organs] = 1
    claim = text[:, :, 3:9]
    claim[:, 2] = torch.tensor([1, 0, 0, 1, 0, 1])
    claim[1:, 0] = torch.tensor([1, 0, 0, 1, 0, 1])
    facts[:, 0] = torch.tensor([1, 0, 0, 0, 0, 0])
    facts[2, 0, 5] = -1  # one study knows nothing
    return text, study


def run(rank: int, world: int) -> dict[str, object]:
    torch.manual_seed(0)
    head = Alignment((5, 5), STATES, WIDTH)
    features = [torch.randn(SAMPLES, 5, n, n, n) for n in (2, 3)]
    tokens, organ_tokens = torch.randn(SAMPLES, TEXTS, 4, STATES), torch.randn(24, 2, STATES)
    text, study = codes()
    share = SAMPLES // world
    mine = slice(rank * share, (rank + 1) * share)
    asked = SimpleNamespace(text_BSC=text[mine], study_BC=study[mine])
    found = head(
        [f[mine] for f in features], organ_tokens, torch.ones(24, 2, dtype=torch.bool),
        tokens[mine].flatten(0, 1), torch.ones(share * TEXTS, 4, dtype=torch.bool),
    )  # fmt: skip
    figures = contrast(found, asked, AlignConfig(pair_weight=1.0, softmax_weight=1.0))
    figures["contrast_loss"].backward()
    gradient = torch.cat([p.grad.flatten() for p in head.parameters()])
    dist.all_reduce(gradient)
    return {
        "loss": figures["contrast_loss"].item(),
        "retrieval": figures["retrieval"].item(),
        "gradient": (gradient / world).tolist(),
    }


if __name__ == "__main__":
    rank, world, port = (int(a) for a in sys.argv[1:4])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    answer = run(rank, world)
    if rank == 0:
        (Path(sys.argv[4]) / f"{world}.json").write_text(json.dumps(answer))
    dist.barrier()
    dist.destroy_process_group()

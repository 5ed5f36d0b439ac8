"""Run by test_elastic.py, once per rank: whole runs at every ZeRO stage, or every such run resumed halfway."""

import importlib.util
import shutil
import sys
from pathlib import Path

from vol3d.train import loop, ranks

_spec = importlib.util.spec_from_file_location("loop_job", Path(__file__).with_name("loop_job.py"))
job = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(job)

# Rounding differs with the number of ranks. eps: AdamW would turn that of tiny gradients into full steps;
# learning_rate: a unit that rounding puts on the other side of its kink moves the next loss by a twentieth of it.
SETTINGS = {"checkpoint_every": 3, "optim": {"learning_rate": 1e-3, "warmup_steps": 2, "eps": 1e-4}}


def run(stage, cache, out, resume):
    loop.train(job.config(deepspeed=f"zero{stage}", **SETTINGS), cache, out, resume=resume)
    ranks.barrier()


if __name__ == "__main__":
    what, world, cache, root = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    place = ranks.join()
    for stage in range(4):
        if what == "whole":
            run(stage, cache, root / f"{world}-{stage}", "no")
            continue
        for source in sorted(root.glob("[12]-[0123]")):
            out = root / f"{source.name}-to-{world}-{stage}"
            if place.rank == 0:
                shutil.copytree(source, out)
                shutil.rmtree(out / "checkpoints/step-000006")
            ranks.barrier()
            run(stage, cache, out, "auto")

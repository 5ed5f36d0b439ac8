"""The second phase of a run: what its grounding model sees in the training studies, and the reader it teaches."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from vol3d.cache import Cache
from vol3d.checkpoint import RUN_CHOICES, attach_reader, load_checkpoint
from vol3d.text.asked import asked_about
from vol3d.train import ranks
from vol3d.train.reading import readable, train_reader
from vol3d.train.run_config import ReadConfig, RunConfig
from vol3d.workflows.reading import take_looks

log = logging.getLogger("vol3d")

LOOKS, READER = "looks", "reader"
"""Folders of a run."""


def train_reading(out: Path, cache: Cache, config: RunConfig, read: ReadConfig, resume: Literal["auto", "no"]) -> None:
    """Looks at every training study with the run's preferred model, trains a reader and puts it beside that model.

    Every rank looks at its share. Looks are kept under RUN/looks, so a run that is stopped goes on where it was.

    Raises:
        Vol3dError: see `train_reader` and `take_looks`.
    """
    place = ranks.join()
    model = next(out / name for name in RUN_CHOICES if (out / name).is_dir())
    device = str(ranks.device())
    checkpoint = load_checkpoint(model, device)
    weights = str(checkpoint.provenance["weights_sha256"])
    looks = out / LOOKS / weights[:16]  # looks of other weights are no use to this reader
    studies = readable(cache, config.data.train_split)
    take_looks(
        checkpoint, cache, studies[place.rank :: place.world], read.model, looks, device=device,
        show_progress=place.rank == 0,
    )  # fmt: skip
    ranks.barrier()
    train_reader(
        read, cache, config.data.train_split, looks, out / READER, asked_about, seed=config.seed, resume=resume
    )
    if place.rank == 0:
        for name in RUN_CHOICES:
            folder = out / name
            if folder.is_dir() and load_checkpoint(folder).provenance["weights_sha256"] == weights:
                attach_reader(folder, out / READER / "last")
                log.info("%s: a reader stands beside it", folder)
    ranks.barrier()

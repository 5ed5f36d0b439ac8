"""One whole study asked 1, 8, 32 and 128 phrases: seconds, and peak memory of a process of its own for each.

    python -m benchmarks.segment_phrases RUN CACHE [--study ID] [--threads 2]

The phrases are drawn from the study's own and repeated with a number behind them where there are too few, so that no
two are the same. Loading the model and encoding the phrases is not timed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import resource
import time
from pathlib import Path

PHRASES = (1, 8, 32, 128)
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("cache", type=Path)
    parser.add_argument("--study", help="default: the first")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    spawn = multiprocessing.get_context("spawn")
    rows = []
    for count in PHRASES:
        with spawn.Pool(1) as pool:  # peak memory is that of a whole process
            rows.append(pool.apply(measure, (arguments, count)))
        print(json.dumps(rows[-1]), flush=True)
    first = rows[0]
    for row in rows[1:]:
        times = row["seconds"] / first["seconds"]
        added = (row["peak_bytes"] - first["peak_bytes"]) / row["voxels"] / (row["phrases"] - first["phrases"])
        print(f"{row['phrases']} phrases: {times:.2f} times one, {added:.2f} more bytes per voxel and phrase")


def measure(arguments: argparse.Namespace, count: int) -> dict[str, float]:
    """In a fresh process."""
    import torch

    from vol3d.cache import Cache
    from vol3d.checkpoint import load_checkpoint
    from vol3d.workflows.asking import Asker

    torch.set_num_threads(arguments.threads)
    cache = Cache(arguments.cache)
    entry = cache.entry(arguments.study or cache.study_ids[0])
    ask = Asker(load_checkpoint(arguments.run), "cpu")
    known = dict.fromkeys(p for mask in entry.masks for p in mask.phrases)
    numbered = (f"{p}{n or ''}" for n in itertools.count() for p in known)
    phrases = list(itertools.islice(numbered, count))
    ask(entry, phrases)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        ask(entry, phrases)
        seconds.append(time.perf_counter() - start)
    z, y, x = entry.grid.shape
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"phrases": count, "voxels": z * y * x, "seconds": min(seconds), "peak_bytes": peak}


if __name__ == "__main__":
    main()

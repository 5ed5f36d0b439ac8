"""Run by test_kills.py: preprocesses in children that are killed at random, forked so that none has to import again."""

import os
import random
import signal
import sys
import time
from pathlib import Path

from preprocessing.build_cache import preprocess
from vol3d.workflows.prepare import load_recipe

if __name__ == "__main__":
    manifest, config, cache, kills = Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    recipe, dice, killed = load_recipe(config), random.Random(0), 0
    while killed < kills:
        child = os.fork()
        if child == 0:
            preprocess(manifest, recipe, cache, show_progress=False)
            os._exit(0)
        time.sleep(dice.uniform(0.05, 1.5))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
        else:  # all was built: what is left to try is rebuilding it
            for entry in (cache / "studies").glob("*.zarr"):
                record = entry / "zarr.json"
                record.write_text(record.read_text().replace('"fingerprint": "', '"fingerprint": "stale-'))
    print(killed)

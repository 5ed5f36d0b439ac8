"""All speed benchmarks one after another, each a process of its own, and one table.

    python -m benchmarks.all --out out/bench [--only cache_read export]

At most half an hour on two idle cores. A script that fails leaves its old result and is named at the end.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import harness

SCRIPTS = ("startup", "cache_read", "preprocess", "export", "segment", "train_step", "report", "growth", "gpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/bench"))
    parser.add_argument("--results", type=Path, default=harness.RESULTS)
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=list(SCRIPTS))
    settings = parser.parse_args()
    failed = []
    for name in settings.only:
        start = time.monotonic()
        command = [sys.executable, "-m", f"benchmarks.{name}", "--out", str(settings.out)]
        environment = {"OMP_NUM_THREADS": "1", "VOL3D_SITE_KEY": "bench", **os.environ}
        ended = subprocess.run([*command, "--results", str(settings.results)], env=environment)
        print(f"{name}: {(time.monotonic() - start) / 60:.1f} minutes", flush=True)
        failed += [name] if ended.returncode else []
    print(harness.table(settings.results, SCRIPTS))
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()

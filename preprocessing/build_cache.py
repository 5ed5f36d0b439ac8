"""Manifest -> cache: parallel, sharded, resumable. A bad study is quarantined with its reason and the rest goes on."""

from __future__ import annotations

import json
import logging
import os
import shutil
import statistics
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

from threadpoolctl import threadpool_limits

from preprocessing.manifest import BadRow, Row, read_manifest
from preprocessing.study import build_entry, fingerprint
from preprocessing.transforms import PreprocessConfig
from vol3d.cache import Entry, entry_path, quarantined
from vol3d.cache_write import abandoned, create_cache, write_entry
from vol3d.config import digest, to_tree
from vol3d.errors import Vol3dError, unforeseen
from vol3d.files import locked, write_whole
from vol3d.processes import end_with
from vol3d.progress import progress

LATE_S = 600
"""Seconds after which a study that is being built is named."""

log = logging.getLogger("vol3d")


@dataclass
class Summary:
    """What a preprocessing run did."""

    built: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Already there with the same fingerprint."""
    quarantined: dict[str, str] = field(default_factory=dict)
    """Study id to reason."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of every study built."""

    def stragglers(self) -> dict[str, float]:
        """Studies that took more than ten times as long as half of them, and a minute: the slowest first."""
        if not self.seconds:
            return {}
        limit = max(10 * statistics.median(self.seconds.values()), 60.0)
        slow = {study: seconds for study, seconds in self.seconds.items() if seconds > limit}
        return dict(sorted(slow.items(), key=lambda item: -item[1]))


def preprocess(
    manifest: Path,
    config: PreprocessConfig,
    out: Path,
    *,
    workers: int = 1,
    shard: tuple[int, int] = (1, 1),
    assume_hu: bool = False,
    show_progress: bool = True,
) -> Summary:
    """Builds what is missing or stale of shard I of N (1-based; rows I-1, I-1+N, ... of the manifest).

    Raises:
        ManifestError, FingerprintError, ConfigError: nothing can be done at all. Faults of single studies are not
            raised: they are in the summary and in ``quarantine.jsonl``.
    """
    rows = list(read_manifest(manifest, shard))
    cache = create_cache(out, to_tree(config), digest(config))
    for leftover in abandoned(cache.root):
        shutil.rmtree(leftover, ignore_errors=True)
    summary = Summary()
    _amend_quarantine(cache.root, remove=[r.study_id for r in rows])
    good = [row for row in rows if isinstance(row, Row)]
    jobs = [Job(row, config, cache.root, assume_hu) for row in good]
    with progress("preprocess", len(rows), "studies", enabled=show_progress) as advance:
        for bad in (row for row in rows if isinstance(row, BadRow)):
            _note(summary, cache.root, Outcome(bad.study_id, "quarantined", bad.reason))
            advance()
        for outcome in _run(jobs, workers):
            _note(summary, cache.root, outcome)
            advance(note=f"{len(summary.quarantined)} quarantined" if summary.quarantined else "")
    try:
        cache.write_index()
    except (Vol3dError, OSError) as error:  # all entries are there: it only takes longer to start
        log.warning("no index was written: %s", error)
    return summary


@dataclass(frozen=True)
class Job:
    """One study to build."""

    row: Row
    config: PreprocessConfig
    root: Path
    assume_hu: bool


KILLED = "the worker process was killed while building it (out of memory?)"


@dataclass(frozen=True)
class Outcome:
    """How one study ended."""

    study_id: str
    state: Literal["built", "kept", "quarantined"]
    reason: str = ""
    seconds: float = 0.0


def build_one(job: Job) -> Outcome:
    """Builds one entry unless it is there and fresh; a fault of the study becomes its outcome."""
    study_id, start = job.row.study_id, time.monotonic()
    late = threading.Timer(LATE_S, log.warning, ("%s is still being built after %d minutes", study_id, LATE_S // 60))
    late.daemon = True
    late.start()
    try:
        wanted = fingerprint(job.row, job.config, assume_hu=job.assume_hu)
        path = entry_path(job.root, study_id)
        if path.exists() and _fingerprint_of(path) == wanted:
            return Outcome(study_id, "kept")
        write_entry(job.root, build_entry(job.row, job.config, assume_hu=job.assume_hu))
        return Outcome(study_id, "built", seconds=time.monotonic() - start)
    except (Vol3dError, OSError, MemoryError) as error:
        return Outcome(study_id, "quarantined", f"{type(error).__name__}: {error}")
    except Exception as error:  # one study that nobody foresaw must not end a hundred thousand others
        return Outcome(study_id, "quarantined", unforeseen(error))
    finally:
        late.cancel()


def _fingerprint_of(path: Path) -> str | None:
    try:
        return Entry(path).fingerprint
    except Vol3dError:
        return None


def _run(jobs: list[Job], workers: int) -> Iterator[Outcome]:
    """In this process for one worker; else in a pool that survives the death of a worker.

    A worker is one thread: BLAS threads that wait for each other on a busy machine made it forty times slower.
    """
    if workers <= 1:
        with threadpool_limits(1):
            yield from map(build_one, jobs)
        return
    pending = {job.row.study_id: job for job in jobs}
    while pending:
        for outcome in _pool(list(pending.values()), workers):
            del pending[outcome.study_id]
            yield outcome
        # A worker died (killed, out of memory). Studies are begun in this order, so it was one of the first that are
        # left: each of them in a pool of its own tells which, and the rest goes on together.
        for study_id in list(pending)[:workers]:
            yield next(_pool([pending.pop(study_id)], 1), Outcome(study_id, "quarantined", KILLED))


def _pool(jobs: Iterable[Job], workers: int) -> Iterator[Outcome]:
    """Outcomes as they come; stops silently at the first broken pool. Broken off, it waits for what is being built."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["preprocessing.study"])  # seconds of imports, once instead of once a worker
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(os.getpid(),)) as pool:
        futures: list[Future[Outcome]] = [pool.submit(build_one, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            return
        finally:  # a signal may come to this process alone; the pool would first build all that is left
            pool.shutdown(wait=False, cancel_futures=True)


def _begin(main: int) -> None:
    threadpool_limits(1)
    end_with(main)


def _note(summary: Summary, root: Path, outcome: Outcome) -> None:
    if outcome.state == "quarantined":
        summary.quarantined[outcome.study_id] = outcome.reason
        _amend_quarantine(root, add=[outcome])
    else:
        (summary.built if outcome.state == "built" else summary.kept).append(outcome.study_id)
        if outcome.state == "built":
            summary.seconds[outcome.study_id] = outcome.seconds


def _amend_quarantine(root: Path, remove: Iterable[str] = (), add: Iterable[Outcome] = ()) -> None:
    """Rewrites ``quarantine.jsonl`` under a lock, since shards share it."""
    path = root / "quarantine.jsonl"
    with locked(root / ".quarantine.lock"):
        gone = set(remove)
        kept = {study: reason for study, reason in quarantined(root).items() if study not in gone}
        kept |= {o.study_id: o.reason for o in add}
        if kept or path.exists():
            rows = (json.dumps({"study_id": study, "reason": reason}) for study, reason in kept.items())
            write_whole(path, "".join(row + "\n" for row in rows))

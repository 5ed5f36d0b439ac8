"""`vol3d index`: the tables of caches, several caches as one, and what of a manifest is not there yet."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vol3d.cache import Cache
from vol3d.cache_write import join_caches
from vol3d.errors import ConfigError, ManifestError

NAMED = 20


@dataclass
class Indexed:
    """What there is."""

    by_cache: dict[str, int]
    """Studies a root."""
    splits: dict[str, int]
    quarantined: dict[str, str]
    """Study id to reason."""
    unfinished: int = 0
    """Folders of writers that have not ended, or died on some host: a run on the same host removes them."""
    missing: dict[str, str] = field(default_factory=dict)
    """Studies of the manifest that are neither in a cache nor quarantined: their job has not ended, or was lost."""

    def lines(self) -> Iterator[str]:
        """For people."""
        for root, count in self.by_cache.items():
            yield f"{root}: {count} studies"
        yield "all: " + (", ".join(f"{n} {split}" for split, n in self.splits.items()) or "no study")
        if self.quarantined:
            kinds = Counter(reason.split(":")[0] for reason in self.quarantined.values())
            yield f"quarantined: {', '.join(f'{n} {kind}' for kind, n in kinds.most_common())}"
            for study, reason in list(self.quarantined.items())[:NAMED]:
                yield f"  {study}: {reason}"
        if self.unfinished:
            yield f"unfinished: {self.unfinished} hidden folders; unless preprocessing still runs, remove studies/.*~*"


def index(roots: Sequence[Path], *, out: Path | None = None, manifest: Path | None = None) -> Indexed:
    """Brings every cache's `index.parquet` up to date; with `out`, makes that folder all of them in one.

    Raises:
        CacheError, FingerprintError: one of them is no cache, or they do not go together.
        ConfigError: several caches and no folder to join them in.
        ManifestError: the manifest cannot be read.
    """
    if len(roots) > 1 and out is None:
        raise ConfigError(f"expected --out JOINED with several caches, found {len(roots)} caches and none")
    caches = [Cache(root) for root in roots]
    tables = {str(cache.root): len(cache.write_index()) for cache in caches}
    whole = join_caches(roots, out) if out is not None else Cache(roots[0])
    splits = Counter(split or "without split" for split in whole.table.column("split"))
    left = sum(1 for root in whole.roots for _ in (root / "studies").glob(".*~*~*~*"))
    done = Indexed(tables, dict(splits.most_common()), whole.quarantine(), left)
    if manifest is not None:
        there = {*whole.study_ids, *done.quarantined}
        away = [study for study in _studies_of(manifest) if study not in there]
        done.missing = dict.fromkeys(away, "neither built nor quarantined; preprocess its shard again")
    return done


def _studies_of(manifest: Path) -> list[str]:
    """Ids alone: their files are not looked for."""
    try:
        with Path(manifest).open(encoding="utf-8-sig", newline="\n") as file:
            return [str(json.loads(line)["study_id"]) for line in file if line.strip()]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"expected JSON lines with a study_id each in {manifest}, found {error!r}") from None

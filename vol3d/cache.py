"""The cache: one Zarr v3 group a study, the meeting place of preprocessing and model (`docs/cache-format.md`).

``<root>/studies/<study_id>.zarr`` is an entry (`vol3d.cache_entry`), ``<root>/index.parquet`` a row of each
(`vol3d.study_table`). A folder whose `cache.json` names ``parts`` is all these caches in one: roots on several file
systems, or one a shard of preprocessing.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from vol3d import study_table
from vol3d.cache_entry import SCHEMA, Entry, MaskRecord, check_study_id, level_grid
from vol3d.errors import CacheError, FingerprintError
from vol3d.study_table import StudyTable
from vol3d.types import Array

__all__ = [
    "SCHEMA", "Cache", "Entries", "Entry", "MaskRecord", "check_study_id", "entry_path", "level_grid", "quarantined",
]  # fmt: skip

MANY = 2000
"""Studies from which a cache without an index is worth a word."""

log = logging.getLogger("vol3d")


class Cache:
    """A folder of entries made by one recipe.

    Raises:
        CacheError: the folder is not a cache, or of another schema.
        FingerprintError: a part of it was made by another recipe.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        try:
            header = json.loads((self.root / "cache.json").read_text())
            schema = header["schema"]
        except (OSError, KeyError, TypeError, ValueError):
            raise CacheError(
                f"expected a cache at {self.root} (a folder with cache.json), found none; make one with "
                f"vol3d preprocess"
            ) from None
        if schema != SCHEMA:
            raise CacheError(f"expected cache schema {SCHEMA} at {self.root}, found {schema}")
        if not {"recipe", "recipe_digest"} <= set(header):
            raise CacheError(f"expected recipe and recipe_digest in {self.root / 'cache.json'}, found {list(header)}")
        self.recipe: dict[str, Any] = header["recipe"]
        self.recipe_digest: str = header["recipe_digest"]
        self.parts = tuple(Cache((self.root / part).resolve()) for part in header.get("parts", ()))
        for part in self.parts:
            if part.recipe_digest != self.recipe_digest:
                raise FingerprintError(
                    f"expected all parts of {self.root} to be of recipe {self.recipe_digest}, found "
                    f"{part.recipe_digest} at {part.root}"
                )
        self._rows: _Rows | None = None

    def __getstate__(self) -> dict[str, Any]:
        heavy = {"table", "study_ids", "stale", "_found"}
        return {name: value for name, value in self.__dict__.items() if name not in heavy}

    @property
    def roots(self) -> tuple[Path, ...]:
        """Folders in which entries lie: this one, or those of all parts."""
        return tuple(root for part in self.parts for root in part.roots) or (self.root,)

    @cached_property
    def study_ids(self) -> tuple[str, ...]:
        """All studies but the `stale`, sorted."""
        self._refuse_twice()
        own = (part.study_ids for part in self.parts)
        return tuple(sorted({s for ids in own for s in ids} if self.parts else self._found - self.stale.keys()))

    @cached_property
    def stale(self) -> dict[str, str]:
        """Entries whose study has been quarantined since, with the reason: their source has changed or gone."""
        if self.parts:
            return {study: reason for part in self.parts for study, reason in part.stale.items()}
        return {study: reason for study, reason in quarantined(self.root).items() if study in self._found}

    def quarantine(self) -> dict[str, str]:
        """Study id to reason, of every study that preprocessing could not use."""
        there = set(self.study_ids)
        found = {study: reason for root in self.roots for study, reason in quarantined(root).items()}
        return {study: reason for study, reason in found.items() if study not in there}

    @cached_property
    def _found(self) -> set[str]:
        return study_table.listed(self.root)

    def _refuse_twice(self) -> None:
        counts = Counter(study for part in self.parts for study in part.study_ids)
        if twice := sorted(study for study, n in counts.items() if n > 1):
            raise CacheError(
                f"expected every study in one part of {self.root}, found {len(twice)} in several ({twice[0]}, ..); "
                f"remove all but one entry of each"
            )

    @cached_property
    def table(self) -> StudyTable:
        """A row of every study in `study_ids`: of the index where it fits what is there, else of the entries.

        Raises:
            CacheError, FingerprintError: an entry is broken, or of another recipe.
        """
        own = [part.table for part in self.parts] or [self._table()]
        table, part_of_row = study_table.merged(own)
        for part in self.parts:  # what they know is in this table
            part.__dict__.pop("table", None)
            part._rows = None
        if table.study_ids != self.study_ids:
            raise CacheError(f"the studies of {self.root} changed while they were listed; start again")
        self._rows = _Rows(
            np.array(table.study_ids, dtype=np.bytes_), np.array(table.column("fingerprint"), np.bytes_), part_of_row
        )
        return table

    def _table(self) -> StudyTable:
        known = study_table.load(self.root / study_table.INDEX)
        if known is not None and set(known.study_ids) == self._found:
            return known.of(self.study_ids)
        if known is not None or len(self._found) > MANY:
            what = "none" if known is None else f"one of {len(known)}"
            log.warning(
                "expected an index of %d studies in %s, found %s: reading their records instead; `vol3d index %s` "
                "writes it", len(self._found), self.root, what, self.root,
            )  # fmt: skip
        return study_table.scan(self.root, self.study_ids, self._record, known)

    def write_index(self) -> StudyTable:
        """Brings `index.parquet` up to date, reading what changed; of all parts, where there are some.

        Raises:
            CacheError, FingerprintError: an entry is broken, or of another recipe.
        """
        if self.parts:
            for part in self.parts:
                part.write_index()
        else:
            study_table.rewrite(self.root, self._record)
        fresh = Cache(self.root)
        return fresh.table

    def _record(self, study_id: str) -> dict[str, Any]:
        return self._own(entry_path(self.root, study_id)).attributes

    def entry(self, study_id: str) -> Entry:
        """Opens one study.

        Raises:
            FingerprintError: the entry was made by another recipe than the cache's, or has been built again since the
                cache was opened.
        """
        row = self._rows.find(study_id) if self._rows is not None else None
        entry = self._own(self._path(study_id, row))
        if self._rows is not None and row is not None:
            expected, found = self._rows.fingerprints[row].decode(), entry.attributes.get("fingerprint", "")
            if expected != found:
                raise FingerprintError(
                    f"{study_id}: expected the entry {expected} of the index, found {found}: it was built again since; "
                    f"run vol3d index {self.root} and start again"
                )
        return entry

    def _own(self, path: Path) -> Entry:
        entry = Entry(path)
        found = entry.attributes.get("recipe_digest")
        if found != self.recipe_digest:
            raise FingerprintError(
                f"{entry.study_id}: expected an entry of recipe {self.recipe_digest}, found {found}; "
                f"run vol3d preprocess again"
            )
        return entry

    def _path(self, study_id: str, row: int | None) -> Path:
        if not self.parts:
            return entry_path(self.root, study_id)
        likely = self.parts if row is None or self._rows is None else (self.parts[self._rows.parts[row]],)
        paths = [part._path(study_id, None) for part in likely]
        return next((path for path in paths if path.exists()), paths[0])

    def select(self, split: str | None = None) -> list[str]:
        """Studies of one split, or all; sorted."""
        return list(self.table.of_split(split).study_ids)

    def entries(self, split: str | None = None) -> Entries:
        """The same, to be opened one after the other."""
        return Entries(self, self.select(split))

    def fingerprint(self) -> str:
        """Changes with any study, source file or step of the recipe; recorded with every run."""
        import hashlib

        rows = zip(self.table.study_ids, self.table.column("fingerprint"), strict=True)
        record = [self.recipe_digest, *(f"{study}:{fingerprint}" for study, fingerprint in rows)]
        return hashlib.sha256("\n".join(record).encode()).hexdigest()[:16]


class _Rows:
    """What has to be known of every study to open it, small enough to be sent to every reading process."""

    def __init__(self, study_ids: Array, fingerprints: Array, parts: Array) -> None:
        self.study_ids, self.fingerprints, self.parts = study_ids, fingerprints, parts

    def find(self, study_id: str) -> int | None:
        """The row of a study."""
        row = int(np.searchsorted(self.study_ids, study_id.encode()))
        return row if row < len(self.study_ids) and self.study_ids[row] == study_id.encode() else None


class Entries(Sequence[Entry]):
    """Entries that are opened when asked for, again each time: any number of studies takes no memory."""

    def __init__(self, cache: Cache, study_ids: Iterable[str]) -> None:
        self.cache, self.study_ids = cache, tuple(study_ids)

    def __len__(self) -> int:
        return len(self.study_ids)

    @overload
    def __getitem__(self, at: int) -> Entry: ...
    @overload
    def __getitem__(self, at: slice) -> Entries: ...
    def __getitem__(self, at: int | slice) -> Entry | Entries:
        if isinstance(at, slice):
            return Entries(self.cache, self.study_ids[at])
        return self.cache.entry(self.study_ids[at])


def quarantined(root: Path) -> dict[str, str]:
    """Study id to reason, of every study that preprocessing could not use.

    Raises:
        CacheError: ``quarantine.jsonl`` cannot be read.
    """
    path = Path(root) / "quarantine.jsonl"
    if not path.exists():
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        return {row["study_id"]: row["reason"] for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise CacheError(
            f"expected a study_id and a reason in every line of {path}, found {error!r}; remove that line, and run "
            f"vol3d preprocess again"
        ) from None


def entry_path(root: Path, study_id: str) -> Path:
    """Where a study lies or would lie."""
    return Path(root) / "studies" / f"{check_study_id(study_id)}.zarr"

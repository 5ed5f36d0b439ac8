"""`CACHE/index.parquet`: what a run has to know of every study before it starts, one row a study.

200,000 entries are 200,000 files to open; their rows are one. The file is a copy of what the entries' records say,
never a source of its own:

- who writes an entry sets it aside (`retire`), and whoever is done builds it anew from it, reading only what changed;
- a reader takes it only if it names the studies that are there (`vol3d.cache.Cache.table`), and every entry opened
  afterwards has to have the fingerprint that its row gives.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vol3d.files import locked, write_whole
from vol3d.types import Array

if TYPE_CHECKING:
    import pyarrow as pa

INDEX, RETIRED = "index.parquet", ".index.retired.parquet"
FORMAT = b"1"
_READERS = 16
"""Threads that read records: on a parallel file system waiting is most of it."""
_NUMBERS = re.compile(r"[\W_]*\d+")


def concept(name: str, label: str | None, finding_id: str | None) -> str:
    """What masks of different studies have in common: the label, or the name where there is none.

    Findings of a study are numbered ("lesion_2", "lesions_1_3"); a number is no concept, or the rarest would be asked
    about most. Structures keep theirs ("rib_left_5").
    """
    shared = label or name
    return _NUMBERS.sub("", shared) or shared if finding_id is not None else shared


def plain(text: str) -> str:
    """Two phrases are the same if they differ in case and spacing at most."""
    return " ".join(text.lower().split())


@dataclass(frozen=True, eq=False)
class StudyTable:
    """Rows sorted by study id."""

    rows: pa.Table

    def __len__(self) -> int:
        return int(self.rows.num_rows)

    @cached_property
    def study_ids(self) -> tuple[str, ...]:
        """All studies, sorted."""
        return tuple(self.column("study_id"))

    def column(self, name: str) -> list[Any]:
        """One value a study: study_id, fingerprint, split, patient_key, image, disputed, told, read, part."""
        return list(self.rows.column(name).to_pylist())

    def of(self, study_ids: Iterable[str]) -> StudyTable:
        """Only these studies."""
        wanted = set(study_ids)
        return self if wanted == set(self.study_ids) else self._where([s in wanted for s in self.study_ids])

    def of_split(self, split: str | None) -> StudyTable:
        """Only studies of one split; None: all."""
        return self if split is None else self._where([s == split for s in self.column("split")])

    def _where(self, keep: list[bool]) -> StudyTable:
        import pyarrow as pa

        return StudyTable(self.rows.filter(pa.array(keep, pa.bool_())))

    def masks(self) -> list[tuple[int, str, str | None, list[str]]]:
        """Every kind of mask once: in how many masks it occurs, concept, label, phrases."""
        return [(n, *json.loads(kind)) for kind, n in self._counted("masks").items()]

    def concepts(self) -> Counter[str]:
        """Number of masks of each concept."""
        found: Counter[str] = Counter()
        for n, name, _, _ in self.masks():
            found[name] += n
        return found

    def phrases(self) -> set[str]:
        """All phrases, present and absent."""
        return {p for _, _, _, phrases in self.masks() for p in phrases} | self._counted("absent").keys()

    def empty(self, name: str) -> list[bool]:
        """Whether a study has no ``masks``, or lists nothing as ``absent``."""
        import pyarrow.compute as pc

        return [n == 0 for n in pc.list_value_length(self.rows.column(name)).to_pylist()]

    def _counted(self, name: str) -> dict[str, int]:
        import pyarrow.compute as pc

        counted = pc.value_counts(pc.list_flatten(self.rows.column(name).combine_chunks()))
        return {pair["values"]: pair["counts"] for pair in counted.to_pylist()}


def row_of(record: dict[str, Any], size: int, changed_ns: int) -> dict[str, Any]:
    """The row of an entry, from its record and the size and time of its file."""
    masks = [m for m in record["masks"] if m["voxels"] > 0 and m["phrases"]]
    absent = list(dict.fromkeys(record.get("absent") or ()))
    stated = {plain(p) for m in masks for p in m["phrases"]}
    report, qa = record.get("report") or {}, record.get("qa") or ()
    return {
        "study_id": record["study_id"],
        "size": size,
        "changed_ns": changed_ns,
        "fingerprint": str(record.get("fingerprint", "")),
        "split": record.get("split"),
        "patient_key": str(record.get("patient_key") or ""),
        "image": "ct" if "ct" in record["images"] else "pet",
        "masks": [
            json.dumps([concept(m["name"], m.get("label"), m.get("finding_id")), m.get("label"), list(m["phrases"])])
            for m in masks
        ],
        "absent": absent,
        "disputed": next((p for p in absent if plain(p) in stated), None),
        "told": bool(report or record.get("labels") or record.get("findings")),
        "read": bool(report or qa),
    }


def scan(
    root: Path, study_ids: Sequence[str], read: Callable[[str], dict[str, Any]], known: StudyTable | None = None
) -> StudyTable:
    """Rows of these studies; a record is read only where `known` has none, or one of another size or time.

    Args:
        root: of the cache.
        study_ids: which.
        read: the record of a study.
        known: rows of an earlier time.
    """
    import pyarrow as pa

    def state_of(study_id: str) -> tuple[int, int]:
        try:
            status = os.stat(root / "studies" / f"{study_id}.zarr" / "zarr.json")
        except FileNotFoundError:  # reading it says what is wrong
            return -1, -1
        return status.st_size, status.st_mtime_ns

    kept: dict[str, int] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        states = dict(zip(study_ids, pool.map(state_of, study_ids, chunksize=64), strict=True))
        if known is not None:
            before = zip(known.study_ids, known.column("size"), known.column("changed_ns"), strict=True)
            kept = {s: i for i, (s, *state) in enumerate(before) if states.get(s) == tuple(state)}
        new = [s for s in study_ids if s not in kept]
        rows = list(pool.map(lambda s: row_of(read(s), *states[s]), new, chunksize=16))
    tables = [pa.Table.from_pylist(rows, schema=schema())]
    if known is not None:
        tables.append(known.rows.take(pa.array(list(kept.values()), pa.int64())))
    return StudyTable(pa.concat_tables(tables).unify_dictionaries().sort_by("study_id"))


def merged(tables: Sequence[StudyTable]) -> tuple[StudyTable, Array]:
    """All rows, sorted by study; and from which table each is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    origin_N = np.repeat(np.arange(len(tables), dtype=np.int16), [len(t) for t in tables])
    if len(tables) == 1:
        return tables[0], origin_N
    rows = pa.concat_tables([t.rows for t in tables]).unify_dictionaries()
    order = pc.sort_indices(rows.column("study_id"))
    return StudyTable(rows.take(order)), origin_N[order.to_numpy()]


def listed(root: Path) -> set[str]:
    """Ids of the entries there are, from one listing of the folder."""
    try:
        with os.scandir(root / "studies") as found:
            names = [entry.name for entry in found]
    except FileNotFoundError:
        return set()
    return {name.removesuffix(".zarr") for name in names if name.endswith(".zarr") and not name.startswith(".")}


def rewrite(root: Path, read: Callable[[str], dict[str, Any]]) -> None:
    """Writes the index of a cache anew, reading only the records that changed.

    Shards of one array that end together take turns. Where an entry appeared meanwhile the index is set aside again:
    whoever wrote that entry is not done, and writes the index when it is.
    """
    with locked(root / ".index.lock"):
        changed = (root / "studies").stat().st_mtime_ns
        save(scan(root, sorted(listed(root)), read, load(root / INDEX) or load(root / RETIRED)), root / INDEX)
        if (root / "studies").stat().st_mtime_ns == changed:
            (root / RETIRED).unlink(missing_ok=True)
        else:
            retire(root)


def schema() -> pa.Schema:
    """Columns of the file; texts that come back in many studies are kept once."""
    import pyarrow as pa

    text = pa.dictionary(pa.int32(), pa.string())
    return pa.schema(
        [
            ("study_id", pa.string()),
            ("size", pa.int64()),
            ("changed_ns", pa.int64()),
            ("fingerprint", pa.string()),
            ("split", text),
            ("patient_key", pa.string()),
            ("image", text),
            ("masks", pa.list_(text)),
            ("absent", pa.list_(text)),
            ("disputed", pa.string()),
            ("told", pa.bool_()),
            ("read", pa.bool_()),
        ],
        metadata={b"vol3d.index": FORMAT},
    )


def save(table: StudyTable, path: Path) -> None:
    """Writes the rows; the file appears whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table.rows, sink, compression="zstd")
    write_whole(path, sink.getvalue().to_pybytes())


def load(path: Path) -> StudyTable | None:
    """The rows of a file; None if there is none, or one that cannot be used."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return _load(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=128)
def _load(path: Path, *version: int) -> StudyTable | None:
    """Remembered: a run opens its cache in several places."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path)
    except (OSError, pa.ArrowException):
        return None
    if (rows.schema.metadata or {}).get(b"vol3d.index") != FORMAT or rows.schema.names != schema().names:
        return None
    return StudyTable(rows.cast(schema()))


def retire(root: Path) -> None:
    """Sets the index aside: an entry is about to change, or has. Call it before and after."""
    with suppress(FileNotFoundError):
        os.replace(root / INDEX, root / RETIRED)

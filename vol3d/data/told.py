"""What the words of many studies say, all together: every text that a run can ask or contrast with.

Reading a report takes tens of milliseconds, so a run over many reads them once, in all its cores, and keeps the texts
under the user's cache folder, by the studies' fingerprints and the code that reads. What a single study says is read
again from its entry when a sample is drawn from it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import vol3d.text
from vol3d.cache import Cache, Entry
from vol3d.data import statements as reading
from vol3d.data.statements import Knowledge, Section, read_knowledge
from vol3d.files import locked, user_cache, write_whole
from vol3d.processes import end_with

_STUDIES_PER_TASK = 64
_FORMAT = 2
"""Of the file that is kept."""

log = logging.getLogger("vol3d")


def knowledge_of(entry: Entry, *, statements: bool, contrast: bool) -> Knowledge:
    """What one study says."""
    masks = tuple(m for m in entry.masks if m.voxels > 0 and m.phrases)
    return read_knowledge(entry, masks, statements=statements, contrast=contrast)


def told(
    cache: Cache, study_ids: Sequence[str], *, statements: bool, contrast: bool
) -> tuple[Knowledge, frozenset[str]]:
    """All statements (as `present`), sections and decoys of the studies, each once, sorted, no facts; and the studies
    whose words say nothing.

    The first rank that comes reads the reports, and others wait for it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = user_cache() / "words"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_key(cache, study_ids, statements, contrast)}.parquet"
    with locked(path.with_suffix(".lock")):
        if not path.is_file():
            log.info("reading the words of %d studies, once", len(study_ids))
            found = _read_all(cache, study_ids, statements, contrast)
            sink = pa.BufferOutputStream()
            pq.write_table(_to_table(*found), sink, compression="zstd")
            write_whole(path, sink.getvalue().to_pybytes())
    return _from_rows(pq.read_table(path).to_pylist())


def _key(cache: Cache, study_ids: Sequence[str], statements: bool, contrast: bool) -> str:
    """Changes with the studies and with every line of code and word list that has a part in reading them."""
    known = hashlib.sha256(f"{_FORMAT} {statements} {contrast}".encode())
    for path in sorted(p for p in Path(vol3d.text.__file__).parent.rglob("*") if p.suffix in (".py", ".yaml")):
        known.update(path.read_bytes())
    known.update(Path(reading.__file__).read_bytes())
    table = cache.table.of(study_ids)
    for study, fingerprint in zip(table.study_ids, table.column("fingerprint"), strict=True):
        known.update(f"{study}:{fingerprint}\n".encode())
    return known.hexdigest()[:32]


def _read_all(
    cache: Cache, study_ids: Sequence[str], statements: bool, contrast: bool
) -> tuple[Knowledge, frozenset[str]]:
    tasks = [study_ids[i : i + _STUDIES_PER_TASK] for i in range(0, len(study_ids), _STUDIES_PER_TASK)]
    workers = min(len(os.sched_getaffinity(0)), len(tasks))
    context = get_context("forkserver")
    given = (os.getpid(), cache, statements, contrast)
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=given) as pool:
        parts, wordless = zip(*pool.map(_read_some, tasks), strict=True)
    return _together(parts), frozenset[str]().union(*wordless)


_given: tuple[Cache, bool, bool]
"""Of a reading process: sent to it once."""


def _begin(main: int, cache: Cache, statements: bool, contrast: bool) -> None:
    global _given
    end_with(main)
    _given = (cache, statements, contrast)


def _read_some(study_ids: Sequence[str]) -> tuple[Knowledge, set[str]]:
    cache, statements, contrast = _given
    of = {study: knowledge_of(cache.entry(study), statements=statements, contrast=contrast) for study in study_ids}
    return _together(list(of.values())), {study for study, known in of.items() if known.is_empty()}


def _together(parts: Sequence[Knowledge]) -> Knowledge:
    def each_once(sections: set[Section]) -> tuple[Section, ...]:
        return tuple(sorted(sections, key=lambda s: (s.text, s.organ or "", s.normal)))

    return Knowledge(
        present=tuple(sorted({t for known in parts for t in known.texts()})),
        sections=each_once({s for known in parts for s in known.sections}),
        decoys=each_once({s for known in parts for s in known.decoys}),
    )


def _to_table(known: Knowledge, wordless: frozenset[str]) -> object:
    import pyarrow as pa

    rows = [{"kind": "statement", "text": t, "organ": None, "normal": False} for t in known.present]
    for kind, sections in (("section", known.sections), ("decoy", known.decoys)):
        rows += [{"kind": kind, "text": s.text, "organ": s.organ, "normal": s.normal} for s in sections]
    rows += [{"kind": "wordless", "text": study, "organ": None, "normal": False} for study in sorted(wordless)]
    types = (pa.string(), pa.string(), pa.string(), pa.bool_())
    return pa.Table.from_pylist(rows, pa.schema(list(zip(("kind", "text", "organ", "normal"), types, strict=True))))


def _from_rows(rows: list[dict[str, object]]) -> tuple[Knowledge, frozenset[str]]:
    texts: dict[str, list[str]] = {"statement": [], "wordless": []}
    of: dict[str, list[Section]] = {"section": [], "decoy": []}
    for row in rows:
        kind, text, organ = str(row["kind"]), str(row["text"]), row["organ"]
        if kind in texts:
            texts[kind].append(text)
        else:
            of[kind].append(Section(text, None if organ is None else str(organ), bool(row["normal"])))
    known = Knowledge(present=tuple(texts["statement"]), sections=tuple(of["section"]), decoys=tuple(of["decoy"]))
    return known, frozenset(texts["wordless"])

"""Does a test study stand in the training set? The same patient, or the same scan under another name.

Everything is read from caches: `patient_key` is an HMAC, and messages name cache entries, never a patient. Keys of
caches made under different site keys cannot be compared; the near-duplicate search needs none.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from vol3d.cache import Cache, Entry, level_grid
from vol3d.errors import CacheError, Vol3dError
from vol3d.text import find_mentions
from vol3d.workflows.duplicates import COARSE_MM, FINE_MM, Detail, detail_of, similarities, similarity

SUSPECT, SAME_SCAN = 0.80, 0.83
"""Similarity on the coarse lattice from which a pair is looked at again, and on the fine one from which it counts as
one scan; what they miss and wrongly find is measured in `docs/how-to/evaluate-findings.md`."""
NAMED = 10
_log = logging.getLogger(__name__)


class LeakageError(Vol3dError):
    """Studies of different splits are of one patient, or one scan."""


@dataclass(frozen=True)
class Leak:
    """Two entries of different splits that must not be apart."""

    kind: Literal["same patient", "near-duplicate volume"]
    first: str
    """``cache-folder/study_id``."""
    first_split: str
    second: str
    second_split: str
    similarity: float = 1.0

    def __str__(self) -> str:
        measured = f", similarity {self.similarity:.2f}" if self.kind != "same patient" else ""
        return f"{self.first} ({self.first_split}) and {self.second} ({self.second_split}): {self.kind}{measured}"


@dataclass(frozen=True)
class LeakageReport:
    """What was looked at, and what was found."""

    entries: dict[str, int]
    """By split."""
    pairs: int
    """Pairs of volumes compared."""
    suspects: int
    """Those looked at again."""
    highest: float
    """The highest fine similarity of a pair that is no leak; NaN without one."""
    leaks: tuple[Leak, ...]


@dataclass(frozen=True, eq=False)
class _Item:
    name: str
    split: str
    patient: str
    cache: Cache
    study_id: str
    image: str

    @property
    def entry(self) -> Entry:
        return self.cache.entry(self.study_id)


def require_no_leakage(caches: Sequence[Path | str], *, near_duplicates: bool = True) -> LeakageReport:
    """The report, if there is no leak.

    Args:
        caches: folders; studies without a split take no part.
        near_duplicates: also compare volumes, every pair of different splits (about 20 ms for two torsos, so an hour
            for 1000 studies). Without it only patients are compared.

    Raises:
        LeakageError: a patient or a scan stands in two splits; the message names the entries.
    """
    report = find_leaks(caches, near_duplicates=near_duplicates)
    if report.leaks:
        more = len(report.leaks) - NAMED
        listed = "; ".join(str(leak) for leak in report.leaks[:NAMED]) + (f"; and {more} more" if more > 0 else "")
        raise LeakageError(
            f"expected no patient and no scan in more than one split, found {len(report.leaks)} pairs: {listed}. Give "
            f"all studies of a patient one `split` in the manifest, or take one study of the pair out, and preprocess "
            f"again"
        )
    return report


def find_leaks(caches: Sequence[Path | str], *, near_duplicates: bool = True) -> LeakageReport:
    """Every pair of entries of different splits that share a patient or a scan; see `require_no_leakage`."""
    items = _items(caches)
    leaks = _same_patient(items)
    pairs, fine = 0, list[float]()
    if near_duplicates:
        again, pairs, fine = _same_scan(items)
        leaks += again
    others = [s for s in fine if s < SAME_SCAN]
    splits = dict(sorted(Counter(i.split for i in items).items()))
    return LeakageReport(splits, pairs, len(fine), max(others, default=float("nan")), tuple(leaks))


def _items(caches: Sequence[Path | str]) -> list[_Item]:
    roots = [Path(c) for c in caches]
    names = [r.name for r in roots]
    if len(set(names)) < len(names):  # two folders called "cache": name them by their parents too
        names = ["/".join(r.resolve().parts[-2:]) for r in roots]
    items = []
    for root, name in zip(roots, names, strict=True):
        cache = Cache(root)
        columns = [cache.table.column(c) for c in ("study_id", "split", "patient_key", "image")]
        items += [_Item(f"{name}/{s}", split, p, cache, s, i) for s, split, p, i in zip(*columns, strict=True) if split]
    if not items:
        raise CacheError(f"expected studies with a split in {', '.join(map(str, roots))}, found none; set `split`")
    return items


def _same_patient(items: Sequence[_Item]) -> list[Leak]:
    by_patient: dict[str, list[_Item]] = defaultdict(list)
    for item in items:
        if item.patient:
            by_patient[item.patient].append(item)
    return [
        Leak("same patient", a.name, a.split, b.name, b.split)
        for own in by_patient.values()
        for a, b in itertools.combinations(own, 2)
        if a.split != b.split
    ]


def _same_scan(items: Sequence[_Item]) -> tuple[list[Leak], int, list[float]]:
    """CT against CT, and PET against PET where a study has no CT: leaks, pairs compared, similarities of suspects."""
    leaks: list[Leak] = []
    pairs, fine = 0, list[float]()
    closely = lru_cache(maxsize=64)(lambda item: _detail(item, FINE_MM))
    for image in ("ct", "pet"):
        by_split: dict[str, list[_Item]] = defaultdict(list)
        for item in items:
            if item.image == image:
                by_split[item.split].append(item)
        splits = sorted(by_split) if len(by_split) > 1 else []
        details = {s: [_detail(i, COARSE_MM) for i in by_split[s]] for s in splits}
        for one, two in itertools.combinations(splits, 2):
            _log.info("comparing %d %s with %d %s volumes", len(details[one]), one, len(details[two]), two)
            for i, j, found in similarities(details[one], details[two]):
                a, b = by_split[one][i], by_split[two][j]
                pairs += 1
                if found < SUSPECT or (a.patient and a.patient == b.patient):  # the same patient is a leak already
                    continue
                fine.append(similarity(closely(a), closely(b)))
                if fine[-1] >= SAME_SCAN:
                    leaks.append(Leak("near-duplicate volume", a.name, one, b.name, two, fine[-1]))
    return leaks, pairs, fine


def _detail(item: _Item, step_mm: float) -> Detail:
    """From the coarsest level that is still as fine as the lattice."""
    entry = item.entry
    level, last = 0, int(entry.attributes["levels"]) - 1
    while level < last and max(level_grid(entry.grid, level + 1).spacing_mm) <= step_mm:
        level += 1
    return detail_of(entry.read_level(item.image, level), step_mm)


Combination = tuple[str, str]
"""Organ and finding."""


@dataclass(frozen=True)
class Combinations:
    """Studies with each combination of organ and finding, by split."""

    by_split: dict[str, dict[Combination, int]]

    def unseen(self, test: str = "test", train: str = "train") -> dict[Combination, int]:
        """Combinations of `test` that `train` never shows, although it shows both their organ and their finding."""
        known = self.by_split.get(train, {})
        organs, findings = {o for o, _ in known}, {f for _, f in known}
        return {
            c: n
            for c, n in self.by_split.get(test, {}).items()
            if c not in known and c[0] in organs and c[1] in findings
        }


def combinations(
    records: Iterable[dict[str, Any]],
    combine: Callable[[dict[str, Any]], Iterable[Combination]] | None = None,
) -> Combinations:
    """Which organs occur with which findings.

    Args:
        records: manifest rows, or the attributes of cache entries.
        combine: combinations of one record; `combinations_of` by default.
    """
    counts: dict[str, Counter[Combination]] = defaultdict(Counter)
    for record in records:
        counts[str(record.get("split"))].update(set((combine or combinations_of)(record)))
    return Combinations({split: dict(sorted(own.items())) for split, own in sorted(counts.items())})


def combinations_of(record: dict[str, Any]) -> set[Combination]:
    """From structured findings that are present (density and uptake where given, else the name), or the report."""
    present = [f for f in record.get("findings") or () if f.get("present")]
    if record.get("findings"):
        return {(str(f["organ"]), what) for f in present if f.get("organ") for what in _kinds(f)}
    report = "\n".join(f"{name.upper()}: {text}" for name, text in (record.get("report") or {}).items())
    return {(m.organ, m.finding) for m in find_mentions(report) if m.organ and m.status == "present"}


def _kinds(finding: dict[str, Any]) -> list[str]:
    told = [str(finding[key]) for key in ("density", "uptake") if finding.get(key)]
    return told or [str(finding["name"])]


def holding(records: Iterable[dict[str, Any]], chosen: Iterable[Combination]) -> list[str]:
    """Study ids that show any of the combinations: what has to leave training so that they are unseen."""
    wanted = set(chosen)
    return [str(r["study_id"]) for r in records if wanted & combinations_of(r)]

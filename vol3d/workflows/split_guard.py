"""Before a cache is trained on or evaluated: no patient and no scan of it stands in two splits.

Patients are always compared. Volumes are, up to `MOST_PAIRS` pairs; that they are apart is remembered in the cache
(``compared.json``) until a study, a split or the comparison itself changes, so that it is paid for once.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections import Counter
from contextlib import suppress
from pathlib import Path

from vol3d.cache import Cache
from vol3d.errors import Vol3dError
from vol3d.files import write_whole
from vol3d.train import ranks
from vol3d.workflows.duplicates import COARSE_MM, FINE_MM
from vol3d.workflows.leakage import SAME_SCAN, SUSPECT, LeakageError, require_no_leakage
from vol3d.workflows.verify import MOST_PAIRS, PAIR_SECONDS

FILE = "compared.json"

log = logging.getLogger("vol3d")


def require_apart(root: Path) -> None:
    """Refuses a cache with leakage; says so where volumes were too many to be compared.

    Raises:
        LeakageError: a patient or a scan stands in two splits; the message names the entries.
        CacheError: no study has a split.
    """
    root = Path(root)
    require_no_leakage([root], near_duplicates=False)
    cache = Cache(root)
    pairs, state = pairs_of(cache), _state(cache)
    if not pairs or _remembered(root) == state:
        return
    if pairs > MOST_PAIRS:
        log.warning(
            "volumes of different splits were not compared: %d pairs take about %.0f minutes; "
            "vol3d verify %s --near-duplicates compares them", pairs, pairs * PAIR_SECONDS / 60, root,
        )  # fmt: skip
        return
    log.info("%s: comparing the volumes of different splits, %d pairs", root, pairs)
    require_no_leakage([root])
    with suppress(OSError):  # a cache that only its owner may write to is compared each time
        write_whole(root / FILE, json.dumps({"apart": state, "pairs": pairs}) + "\n")


def require_apart_on_all_ranks(root: Path, *, volumes: bool = True) -> None:
    """The same for a run: all ranks compare patients; volumes take a minute, so rank 0 compares them for all.

    Raises:
        LeakageError: on every rank.
    """
    require_no_leakage([root], near_duplicates=False)
    if not volumes:
        return
    found: Vol3dError | None = None
    if ranks.join().rank == 0:
        try:
            require_apart(root)
        except Vol3dError as error:
            found = error
    told = ranks.gather_text(str(found or ""))[0]
    if told:
        raise found or LeakageError(told)


def pairs_of(cache: Cache) -> int:
    """Pairs of volumes of different splits that `require_no_leakage` compares."""
    columns = zip(cache.table.column("image"), cache.table.column("split"), strict=True)
    sizes = Counter((image, split) for image, split in columns if split)
    return sum(a * b for (p, a), (q, b) in itertools.combinations(sizes.items(), 2) if p[0] == q[0])


def _state(cache: Cache) -> str:
    """Changes with anything that a comparison depends on."""
    rows = [cache.table.column(name) for name in ("study_id", "fingerprint", "split", "patient_key")]
    record = [cache.recipe_digest, [SUSPECT, SAME_SCAN, COARSE_MM, FINE_MM], rows]
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()[:32]


def _remembered(root: Path) -> str | None:
    try:
        return str(json.loads((root / FILE).read_text())["apart"])
    except (OSError, ValueError, KeyError, TypeError):
        return None

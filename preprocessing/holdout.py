"""Combinations of organ and trait kept out of training: what is left shows whether a model puts words together.

Every study that shows a held-out combination leaves training *and* validation, and with it all studies of its patient,
so that neither weights nor thresholds have seen one. The parts stay in training, each with other partners, else nothing
could be known of them: a combination whose organ or trait would vanish is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vol3d.errors import ManifestError

Combination = tuple[str, str]
"""Organ and trait, as in a row's `findings`: ("liver", "calcified"), ("lung", "non-avid")."""

TRAITS = ("density", "uptake", "size", "side")
KEY = "held_out"
"""Under `meta`: the combinations that were held out when the manifest was split; every row of the test set has it."""


@dataclass(frozen=True)
class HeldOut:
    """A manifest without some combinations in its training studies."""

    rows: list[dict[str, Any]]
    """All rows, in their order, with their new splits."""
    moved: dict[str, list[str]]
    """By old split, study ids that went to the test set."""
    remaining: dict[str, int]
    """Studies by split."""
    shown: dict[Combination, int]
    """Test studies that show each combination."""
    organ_left: dict[Combination, int]
    """Training studies that still show the organ, with other traits."""
    trait_left: dict[Combination, int]
    """Training studies that still show the trait, in other organs."""


def combinations_in(row: Mapping[str, Any]) -> set[Combination]:
    """What the present findings of a row show: organ with density, uptake, size and side, or with its name."""
    out: set[Combination] = set()
    for finding in row.get("findings") or ():
        if finding.get("present") and finding.get("organ"):
            told = [str(finding[key]) for key in TRAITS if finding.get(key)]
            out |= {(str(finding["organ"]), trait) for trait in told or [str(finding.get("name"))]}
    return out


def hold_out(rows: Iterable[Mapping[str, Any]], chosen: Sequence[Combination]) -> HeldOut:
    """Moves every patient with a study that shows one of `chosen` from train and val to test.

    Args:
        rows: manifest rows with structured `findings` and a `split`.
        chosen: combinations.

    Raises:
        ManifestError: a combination that no study shows, or whose organ or trait training would lose altogether.
    """
    given = [dict(row) for row in rows]
    wanted = list(dict.fromkeys((str(organ), str(trait)) for organ, trait in chosen))
    shown_by = [combinations_in(row) for row in given]
    known = set().union(*shown_by) if shown_by else set()
    unknown = [c for c in wanted if c not in known]
    if not wanted or unknown:
        raise ManifestError(
            f"expected combinations that some study shows, found {unknown or 'none'}; there are "
            f"{', '.join(f'{o} {t}' for o, t in sorted(known)) or 'none at all'}"
        )
    patients = {_patient(row) for row, own in zip(given, shown_by, strict=True) if own & set(wanted)}
    moved: dict[str, list[str]] = {}
    for row in given:
        if _patient(row) in patients and row.get("split") in ("train", "val"):
            moved.setdefault(row["split"], []).append(str(row["study_id"]))
            row["split"] = "test"
        if row.get("split") == "test":
            row["meta"] = {**(row.get("meta") or {}), KEY: [list(c) for c in wanted]}
    train = [own for row, own in zip(given, shown_by, strict=True) if row.get("split") == "train"]
    test = [own for row, own in zip(given, shown_by, strict=True) if row.get("split") == "test"]
    organ_left = {c: sum(any(o == c[0] for o, _ in own) for own in train) for c in wanted}
    trait_left = {c: sum(any(t == c[1] for _, t in own) for own in train) for c in wanted}
    lost = [c for c in wanted if not organ_left[c] or not trait_left[c]]
    if lost:
        raise ManifestError(
            f"expected training to keep the organ and the trait apart from each other, found none left of "
            f"{', '.join(f'{o} {t}' for o, t in lost)}; hold out fewer combinations, or add studies"
        )
    splits = [str(row.get("split")) for row in given]
    return HeldOut(
        given, moved, {s: splits.count(s) for s in sorted(set(splits))},
        {c: sum(c in own for own in test) for c in wanted}, organ_left, trait_left,
    )  # fmt: skip


def _patient(row: Mapping[str, Any]) -> str:
    return str(row.get("patient_id", row["study_id"]))

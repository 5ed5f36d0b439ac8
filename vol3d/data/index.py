"""What can be asked of each study, and how often, so that no concept drowns another.

A mask's concept is its label, or its name where it has none. Masks are drawn with a weight of one over the number of
masks of their concept, so that every concept is asked about equally often over the whole set, as far as the studies
that have it allow; where a study has both, masks of findings and of other structures share the questions by a fixed
fraction.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vol3d import study_table
from vol3d.cache import Cache, MaskRecord
from vol3d.data.phrases import swap_sides, wordings
from vol3d.data.statements import NOTHING, Knowledge
from vol3d.data.told import knowledge_of, told
from vol3d.errors import CacheError
from vol3d.study_table import StudyTable
from vol3d.types import Array

KEPT = 4000
"""Studies whose words a process keeps: in each some hundred kilobytes."""
_RECENT = 256
"""Records that a process keeps."""


@dataclass(frozen=True)
class StudyRecord:
    """The questions one study can answer; light enough to be sent to every worker."""

    study_id: str
    masks: tuple[MaskRecord, ...]
    """Masks with at least one voxel and one phrase."""
    weights: tuple[float, ...]
    """One a mask, see the module."""
    absent: tuple[str, ...]
    """Phrases that the study lists as not there."""
    knowledge: Knowledge = NOTHING
    """What report, labels and findings say, as far as the run asks for it."""

    def owners(self, phrase: str) -> tuple[MaskRecord, ...]:
        """Every mask that the phrase is said to describe; their union is its truth."""
        return tuple(m for m in self.masks if any(same_text(phrase, p) for p in m.phrases))

    def phrases(self) -> Iterable[str]:
        """All phrases, present and absent."""
        for mask in self.masks:
            yield from mask.phrases
        yield from self.absent


def same_text(one: str, other: str) -> bool:
    """True if two phrases differ in case and spacing at most."""
    return study_table.plain(one) == study_table.plain(other)


class Studies(Sequence[StudyRecord]):
    """Records of many studies, each made from its entry when asked for.

    Start-up reads the cache's table alone. With `statements` or `contrast` the words of all studies have to be known
    before the first patch: of up to `KEPT` studies they are read and kept, of more see `told`.

    Raises:
        CacheError: a study can answer nothing, or lists a phrase both as present and as absent.
    """

    def __init__(
        self, cache: Cache, study_ids: Sequence[str], *, statements: bool = False, contrast: bool = False
    ) -> None:
        self._cache, self._statements, self._contrast = cache, statements, contrast
        table = cache.table.of(study_ids)
        self.study_ids = tuple(study_ids)
        if unknown := set(study_ids) - set(table.study_ids):
            raise CacheError(f"expected studies of {cache.root}, found {len(unknown)} others ({min(unknown)}, ..)")
        self._refuse_disputed(table)
        self._weights = {name: 1 / count for name, count in table.concepts().items()}
        self._phrases: frozenset[str] = frozenset(table.phrases())
        self._recent: OrderedDict[int, StudyRecord] = OrderedDict()
        self._kept: tuple[StudyRecord, ...] | None = None
        self._told: Knowledge | None = None
        self._wordy = statements or contrast
        wordless = frozenset(study_ids)
        if self._wordy and len(self) <= KEPT:
            self._kept = tuple(self._make(study) for study in self.study_ids)
            wordless = frozenset(study.study_id for study in self._kept if study.knowledge.is_empty())
        elif self._wordy:
            self._told, wordless = told(cache, self.study_ids, statements=statements, contrast=contrast)
        self._refuse_silent(table, wordless)

    def __len__(self) -> int:
        return len(self.study_ids)

    def __getitem__(self, at: Any) -> Any:
        if self._kept is not None:
            return self._kept[at]
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        at = range(len(self))[at]
        if at not in self._recent:
            self._recent[at] = self._make(self.study_ids[at])
            while len(self._recent) > _RECENT:
                self._recent.popitem(last=False)
        self._recent.move_to_end(at)
        return self._recent[at]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_recent": OrderedDict(), "_phrases": frozenset(), "_told": None}

    def phrases(self) -> frozenset[str]:
        """All phrases of all studies, present and absent; none in a process that it was sent to."""
        return self._phrases

    def knowledge(self) -> Iterable[Knowledge]:
        """What the words of all studies say, where the run asks for it; none in a process that it was sent to."""
        return [self._told] if self._told is not None else [study.knowledge for study in self._kept or ()]

    def _make(self, study_id: str) -> StudyRecord:
        entry = self._cache.entry(study_id)
        masks = tuple(m for m in entry.masks if m.voxels > 0 and m.phrases)
        weights = tuple(self._weights[concept(m)] for m in masks)
        known = knowledge_of(entry, statements=self._statements, contrast=self._contrast) if self._wordy else NOTHING
        return StudyRecord(study_id, masks, weights, tuple(dict.fromkeys(entry.absent)), known)

    def _refuse_disputed(self, table: StudyTable) -> None:
        for study_id, phrase in zip(table.study_ids, table.column("disputed"), strict=True):
            if phrase is not None:
                raise CacheError(
                    f"{study_id}: {phrase!r} is listed both for a mask and as absent; correct the manifest"
                )

    def _refuse_silent(self, table: StudyTable, wordless: frozenset[str]) -> None:
        empty = zip(table.study_ids, table.empty("masks"), table.empty("absent"), strict=True)
        silent = next((s for s, no_masks, no_absent in empty if no_masks and no_absent and s in wordless), None)
        if silent is not None:
            also = ", labels or a report" if self._wordy else ""
            raise CacheError(
                f"{silent}: expected masks with phrases{also} or absent phrases to train on, found none; "
                f"leave the study out of the split"
            )


def concept(mask: MaskRecord) -> str:
    """What masks of different studies have in common."""
    return study_table.concept(mask.name, mask.label, mask.finding_id)


def draw_mask(rng: np.random.Generator, study: StudyRecord, candidates: Sequence[int], finding_fraction: float) -> int:
    """One of the candidate masks (positions in `study.masks`, at least one)."""
    group, value = rng.random(2)
    findings = [i for i in candidates if study.masks[i].finding_id is not None]
    others = [i for i in candidates if study.masks[i].finding_id is None]
    if findings and others:
        candidates = findings if group < finding_fraction else others
    steps = np.cumsum([study.weights[i] for i in candidates])
    return candidates[min(int(np.searchsorted(steps, value * steps[-1], side="right")), len(candidates) - 1)]


def all_texts(studies: Studies, *, wording: bool, swapped: bool) -> list[str]:
    """Every phrase and statement that sampling can ever draw, sorted: what the embedding bank has to hold.

    Statements are asked as they stand: a report's sentence is wording enough.
    """
    phrases: set[str] = set(studies.phrases())
    statements = {t for known in studies.knowledge() for t in known.texts()}
    if swapped:
        phrases, statements = (ts | {s for t in ts if (s := swap_sides(t)) is not None} for ts in (phrases, statements))
    return sorted({text for p in phrases for text in (wordings(p) if wording else (p,))} | statements)


def touches(points_N3: Array, start: Sequence[int], stop: Sequence[int]) -> bool:
    """True if any of the voxels lies in start <= index < stop."""
    return bool(((points_N3 >= np.array(start)) & (points_N3 < np.array(stop))).all(axis=1).any())


@dataclass(frozen=True)
class Question:
    """One phrase to ask and the masks that answer it; no masks: the study lists it as absent."""

    phrase: str
    masks: tuple[MaskRecord, ...]


def draw_statements(
    rng: np.random.Generator,
    known: Knowledge,
    total: int,
    absent_fraction: float,
    hard_fraction: float,
    fits: Callable[[str, bool], bool],
) -> list[tuple[str, bool] | None]:
    """`total` statements with whether they are true, no text twice; None where there is nothing more to ask.

    Args:
        rng: of this sample's statements.
        known: of the study.
        total: how many.
        absent_fraction: of them untrue ones, as far as there are both.
        hard_fraction: of the untrue ones those that are one detail away from the truth, as far as there are both.
        fits: whether a patch can answer a statement, true or untrue.
    """
    kinds = {"present": list(known.present), "absent": list(known.absent), "hard": list(known.hard)}
    out: list[tuple[str, bool] | None] = []
    while len(out) < total:
        untrue = "hard" if rng.random() < hard_fraction else "absent"
        first = untrue if rng.random() < absent_fraction else "present"
        others = [k for k in (untrue, "absent", "hard", "present") if k != first]
        drawn = next((d for kind in (first, *others) if (d := _draw(rng, kinds[kind], kind == "present", fits))), None)
        out.append(drawn)
        if drawn is None:
            break
    return out + [None] * (total - len(out))


def _draw(
    rng: np.random.Generator, texts: list[str], present: bool, fits: Callable[[str, bool], bool]
) -> tuple[str, bool] | None:
    """Takes texts out until one fits."""
    while texts:
        text = texts.pop(int(rng.integers(len(texts))))
        if fits(text, present):
            return text, present
    return None


def word_questions(
    rng: np.random.Generator,
    study: StudyRecord,
    asked: Sequence[int],
    n_absent: int,
    total: int,
    absent_fraction: float,
) -> list[Question | None]:
    """`total` questions in random order, no text twice; None where the study has nothing more to ask.

    First one about each mask in `asked`, then `n_absent` absent phrases; what is left is filled with other wordings of
    the same masks and further absences.
    """
    questions: list[Question | None] = []
    used: list[str] = []

    def ask(phrases: Sequence[str], present: bool) -> bool:
        free = [p for p in phrases if not any(same_text(p, u) for u in used)]
        if free:
            used.append(free[int(rng.integers(len(free)))])
            questions.append(Question(used[-1], study.owners(used[-1]) if present else ()))
        return bool(free)

    for i in asked:
        ask(study.masks[i].phrases, True)
    for _ in range(n_absent):
        ask(study.absent, False)
    turn = list(asked)
    while len(questions) < total:
        absent_first = rng.random() < absent_fraction
        if absent_first and ask(study.absent, False):
            continue
        while turn and not ask(study.masks[turn[0]].phrases, True):
            turn.pop(0)
        if turn:
            turn.append(turn.pop(0))
        elif not ask(study.absent, False):
            break
    questions += [None] * (total - len(questions))
    return [questions[i] for i in rng.permutation(total)]

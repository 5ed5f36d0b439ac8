"""Drafted sentences against the image: each is supported, not supported, contradicted, or cannot be checked.

What a sentence says is there is segmented; what it denies must be absent, and the place in view; its numbers are
measured in the masks that are exported with it. A sentence that states neither (technique, an operation, an opinion)
cannot be checked and is left out unless all sentences are asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from scipy.optimize import linear_sum_assignment

from vol3d.text.grounding import grounding_phrase
from vol3d.text.looks import denies_look
from vol3d.text.organs import SIDES
from vol3d.text.slots import slot_names
from vol3d.text.statements import Statement, loose_numbers, statements_of
from vol3d.text.things import families_in
from vol3d.text.uptake import needs_pet
from vol3d.workflows.appearances import appearance_of
from vol3d.workflows.drafts import Draft
from vol3d.workflows.evidence import Evidence, Part, body_sides
from vol3d.workflows.known import NEIGHBOURS, OPEN_ENDED, SIDED, Known
from vol3d.workflows.lesions import Lesion, Lesions
from vol3d.workflows.looks import Sorted, plain_phrase, sort_parts
from vol3d.workflows.slots_filled import CannotFill, Number, counted_anew, filled, shown, without_numbers

Status = Literal["supported", "not supported", "contradicted", "cannot be checked"]
_WORST: tuple[Status, ...] = ("contradicted", "not supported", "cannot be checked", "supported")
IMPRESSION = "impression"


@dataclass(frozen=True, kw_only=True)
class Grounded:
    """A sentence with its evidence."""

    draft: Draft
    text: str
    """To be printed; numbers filled in where it is supported."""
    status: Status
    reason: str
    organs: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    """What was asked of the image for it."""
    probability: float | None = None
    """That what it states is so; None where it cannot be checked."""
    lesions: tuple[Lesion, ...] = ()
    numbers: tuple[Number, ...] = ()
    """Every number of `text` in reading order; `Number.thing` counts `lesions`."""


@dataclass
class _Verdict:
    status: Status
    reason: str
    probability: float | None = None
    phrases: tuple[str, ...] = ()
    candidates: list[int] = field(default_factory=list)
    """Numbers of things that fit, best first."""
    several: bool = False
    partly: bool = False


def ground(drafts: Sequence[Draft], evidence: Evidence, known: Known, lesions: Lesions) -> list[Grounded]:
    """Checks every sentence, after one pass over the study for all that has to be asked."""
    stated = [_statements(draft, known) for draft in drafts]
    evidence.ask([p for draft, row in zip(drafts, stated, strict=True) for s in row for p in _asked(draft, s, known)])
    verdicts = [
        [_judge(draft, statement, evidence, known, lesions) for statement in row]
        for draft, row in zip(drafts, stated, strict=True)
    ]
    for block in (False, True):  # the impression says again what the findings say
        rows = [i for i, d in enumerate(drafts) if (d.section == IMPRESSION) == block]
        _assign([v for i in rows for v in verdicts[i] if v.candidates and not v.several])
    return [_settle(draft, row, found, lesions) for draft, row, found in zip(drafts, stated, verdicts, strict=True)]


def _statements(draft: Draft, known: Known) -> tuple[Statement, ...]:
    if draft.claim is None:
        return statements_of(draft.sentence, draft.section)
    parsed = next(iter(statements_of(draft.sentence, draft.section)))
    families = frozenset[str]().union(*(families_in(p) for p in draft.phrases))
    phrase = draft.phrases[0] if draft.claim == "present" else ""
    plain = replace(parsed, specific=frozenset(), stray=(), apart=False, start=0)  # the writer knows what it claims
    return (replace(plain, kind=draft.claim, phrase=phrase, families=families),)


def _asked(draft: Draft, statement: Statement, known: Known) -> list[str]:
    """Every phrase that judging the statement may need."""
    places = known.places(draft.sentence, statement.organs, statement.side) or []
    stated = [p for p in (statement.phrase, plain_phrase(statement.phrase, known)) if p]
    return [*places, *_phrases(draft, statement, known), *stated]


def _phrases(draft: Draft, statement: Statement, known: Known) -> list[str]:
    if statement.kind == "present":
        return [statement.phrase]
    if statement.kind != "absent":
        return []
    if draft.phrases:
        return list(draft.phrases)
    return known.denying(statement.families, statement.organs, statement.side, statement.specific)


def _judge(draft: Draft, statement: Statement, evidence: Evidence, known: Known, lesions: Lesions) -> _Verdict:
    if loose := loose_numbers(draft.sentence):
        return _Verdict("not supported", f"it holds numbers that no measurement fills: {', '.join(loose)}")
    if statement.stray:
        return _Verdict("cannot be checked", f"nothing tells what it means by {', '.join(statement.stray)}")
    if statement.apart:
        return _Verdict("cannot be checked", "it names several things at once; each needs a clause of its own")
    if "pet" not in evidence.entry.images and _of_uptake(draft, statement, known):
        return _Verdict("cannot be checked", "only a PET can show it, and the study has none")
    if statement.kind == "absent" and draft.claim is None and denies_look(draft.sentence):
        return _Verdict("cannot be checked", "it denies how a thing looks, not that it is there")
    places = known.places(draft.sentence, statement.organs, statement.side)
    match statement.kind:
        case "present":
            return _present(draft, statement, evidence, known, lesions, places)
        case "absent":
            return _absent(draft, statement, evidence, known, places)
        case "outside":
            return _outside(statement, evidence, places)
        case "partly":
            return _partly(evidence, places)
        case "change":
            return _Verdict("cannot be checked", "what has changed is stated by measurement, not by the writer")
    return _Verdict("cannot be checked", "it states nothing that a mask could show")


def _of_uptake(draft: Draft, statement: Statement, known: Known) -> bool:
    """Whether what is stated, or what would have to be asked for it, speaks of uptake; numbers are measured apart."""
    asked = _phrases(draft, statement, known)
    stated = grounding_phrase(draft.sentence) if statement.kind == "absent" and draft.claim is None else ""
    return any(needs_pet(text) for text in (*asked, stated))


def _present(
    draft: Draft, statement: Statement, evidence: Evidence, known: Known, lesions: Lesions, places: list[str] | None
) -> _Verdict:
    phrase = statement.phrase
    if phrase not in known.trained and not known.knows(statement.families, statement.organs, statement.specific):
        return _Verdict("cannot be checked", "the checkpoint was not trained on anything of the kind in this place")
    probability = evidence.probability(phrase)
    verdict = _Verdict("not supported", "", probability, (phrase,), several=statement.several)
    by_rule = draft.claim is not None  # a template: what it tells was measured
    found = Sorted(evidence.parts(phrase), []) if by_rule else sort_parts(phrase, None, evidence, known)
    parts = found.fitting
    if not parts and found.other:
        verdict.status, verdict.reason = "contradicted", _otherwise(found.other[0], evidence, known)
        return verdict
    if not parts:
        verdict.reason = (
            f"absent with probability {1 - probability:.2f}" if not evidence.likely(phrase) else "its mask is empty"
        )
        if places and not any(evidence.likely(p) for p in places):
            verdict.reason += f"; {' and '.join(places)} not in the field of view"
        return verdict
    side = body_sides(phrase) if statement.side in (*SIDES, "bilateral") else None
    sides = {evidence.side_of(p) for p in parts}
    if side in SIDES and side not in sides:
        verdict.status, verdict.reason = "contradicted", f"its mask lies on the {'/'.join(sides)} of the body's midline"
        return verdict
    if side in SIDES and not SIDED.intersection(statement.organs):
        clear = [p for p in parts if evidence.side_of(p) == side and not evidence.near_midline(p)]
        if not clear:
            verdict.status, verdict.reason = "cannot be checked", "its mask lies too near the midline to tell the side"
            return verdict
    if side == "bilateral" and len(sides) < 2:
        verdict.status, verdict.reason = "contradicted", f"its mask lies on the {'/'.join(sides)} side only"
        return verdict
    chosen = [p for p in parts if side not in SIDES or evidence.side_of(p) == side]
    if draft.at_mm is not None:
        meant = np.array(draft.at_mm)
        chosen = sorted(chosen, key=lambda p: float(np.linalg.norm(np.array(p.centroid_mm) - meant)))[:1]
    verdict.candidates = [n for n in dict.fromkeys(lesions.number_of(p) for p in chosen) if lesions.lesion(n)]
    if not verdict.candidates:
        verdict.reason = "its mask is smaller than a voxel of the source"
    elif statement.count is not None and statement.count != len(verdict.candidates):
        verdict.status = "contradicted"
        verdict.reason = f"it says {statement.count}, found {len(verdict.candidates)}"
        verdict.candidates = []
    else:
        verdict.status, verdict.reason = "supported", "segmented"
    return verdict


def _otherwise(part: Part, evidence: Evidence, known: Known) -> str:
    """What a thing looks like that was said to look otherwise."""
    looks = appearance_of(part, evidence, known)
    told = []
    if looks.density.words:
        beside = "" if looks.around_hu is None else f", {looks.around_hu:.0f} HU around it"
        told.append(f"{looks.density.words[0]} ({looks.hu:.0f} HU{beside})")
    if looks.uptake:
        beside = "" if looks.around_suv is None else f", {looks.around_suv:.1f} around it"
        told.append(f"{looks.uptake} (SUV {looks.suv:.1f}{beside})")
    return f"what was found is {' and '.join(told)}"


def _absent(draft: Draft, statement: Statement, evidence: Evidence, known: Known, places: list[str] | None) -> _Verdict:
    phrases = _phrases(draft, statement, known)
    if not phrases:
        return _Verdict("cannot be checked", "the checkpoint was not trained on what is denied, or not in this place")
    found = [p for p in phrases if evidence.present(p, statement.side)]
    probability = 1 - max(evidence.probability(p) for p in phrases)
    asked = tuple(phrases)
    if found and statement.phrase and not sort_parts(statement.phrase, statement.side, evidence, known).fitting:
        found, asked = [], (*asked, statement.phrase)  # something is there, but not what is denied
        probability = 1 - evidence.probability(statement.phrase)
    if found:
        return _Verdict("contradicted", f"found: {', '.join(found)}", probability, asked)
    if hidden := [p for p in phrases if evidence.likely(p) and not evidence.parts(p)]:
        reason = f"likely there, and no voxel of it found: {', '.join(hidden)}"
        return _Verdict("cannot be checked", reason, probability, asked)
    if statement.imaged or not statement.organs:
        return _Verdict("supported", "absent in the imaged part", probability, asked)
    if places is None:
        return _Verdict("cannot be checked", "nothing tells whether the place is in view", probability, asked)
    unseen = [p for p in places if not evidence.likely(p)]
    if unseen:
        return _Verdict("cannot be checked", f"not in the field of view: {', '.join(unseen)}", probability, asked)
    reaching = [p for p in places if evidence.cut_by_view(p)]
    if reaching and NEIGHBOURS.intersection(statement.organs):
        reason = f"{' and '.join(reaching)} not wholly in view, which would tell that the place is"
        return _Verdict("cannot be checked", reason, probability, asked)
    cut = bool(reaching or OPEN_ENDED.intersection(statement.organs))
    return _Verdict("supported", "absent, the place is in view", probability, asked, partly=cut)


def _outside(statement: Statement, evidence: Evidence, places: list[str] | None) -> _Verdict:
    if places is None:
        return _Verdict("cannot be checked", "the checkpoint was not trained on the structure")
    seen = [p for p in places if evidence.likely(p)]
    probability = 1 - max(evidence.probability(p) for p in places)
    if seen and NEIGHBOURS.intersection(statement.organs) and any(evidence.cut_by_view(p) for p in seen):
        return _Verdict("cannot be checked", f"{' and '.join(seen)} partly in view does not tell")
    if seen:
        return _Verdict("contradicted", f"in the field of view: {', '.join(seen)}", probability, tuple(places))
    return _Verdict("supported", "no part of it is seen", probability, tuple(places))


def _partly(evidence: Evidence, places: list[str] | None) -> _Verdict:
    if places is None:
        return _Verdict("cannot be checked", "the checkpoint was not trained on the structure")
    seen = [p for p in places if evidence.likely(p)]
    probability = max(evidence.probability(p) for p in places)
    if not seen:
        return _Verdict("contradicted", "no part of it is seen", probability, tuple(places))
    if len(seen) == len(places) and not any(evidence.cut_by_view(p) for p in seen):
        return _Verdict("contradicted", "it ends within the field of view", probability, tuple(places))
    return _Verdict("supported", "it reaches the end of the field of view", probability, tuple(places))


def _assign(verdicts: list[_Verdict]) -> None:
    """Gives each sentence about one thing a thing of its own: the largest that fits, so that none is told twice."""
    if not verdicts:
        return
    numbers = sorted({n for v in verdicts for n in v.candidates})
    missing = 1e3
    cost = np.full((len(verdicts), len(numbers)), missing)
    for i, verdict in enumerate(verdicts):
        for rank, number in enumerate(verdict.candidates):
            # of like sentences the first get one, and the first of them the largest
            cost[i, numbers.index(number)] = rank * (1 - 1e-4 * i) + 1e-2 * i
    rows, columns = linear_sum_assignment(cost)
    given = {int(i): int(j) for i, j in zip(rows, columns, strict=True) if cost[i, j] < missing}
    for i, verdict in enumerate(verdicts):
        if i in given:
            verdict.candidates = [numbers[given[i]]]
        else:
            verdict.status, verdict.candidates = "not supported", []
            verdict.reason = "what it names is described by another sentence, and there is no further one"


def _settle(draft: Draft, statements: tuple[Statement, ...], verdicts: list[_Verdict], lesions: Lesions) -> Grounded:
    """One status for the sentence, the worst of its parts; its text with numbers."""
    worst = min(verdicts, key=lambda v: _WORST.index(v.status))
    found = [lesions.lesion(n) for v in verdicts for n in v.candidates]
    used = tuple(lesion for lesion in found if lesion is not None)
    probabilities = [v.probability for v in verdicts if v.probability is not None]
    out = Grounded(
        draft=draft,
        text=shown(draft.sentence),
        status=worst.status,
        reason=worst.reason,
        organs=tuple(dict.fromkeys(o for s in statements for o in s.organs)),
        phrases=tuple(dict.fromkeys(p for v in verdicts for p in v.phrases)),
        probability=round(min(probabilities), 6) if probabilities and worst.status != "cannot be checked" else None,
        lesions=used if worst.status == "supported" else (),
    )
    if worst.status != "supported":
        return out
    text = draft.sentence
    if any(v.partly for v in verdicts):
        text = f"{text.rstrip().rstrip('.')} in the part shown."
    try:
        return replace(out, **_filled(text, statements, verdicts, lesions, used))
    except _NumbersOfNothing:
        return replace(out, status="not supported", reason="it gives numbers of nothing that is there", lesions=())
    except CannotFill as why:
        phrase = grounding_phrase(draft.sentence)
        if needs_pet(phrase):
            return replace(out, status="cannot be checked", reason=str(why), lesions=(), probability=None)
        return replace(out, text=without_numbers(phrase), reason=f"{out.reason}; told without numbers: {why}")


class _NumbersOfNothing(Exception):  # noqa: N818
    """A slot stands in a part that is about nothing that is there."""


def _filled(
    text: str, statements: Sequence[Statement], verdicts: Sequence[_Verdict], lesions: Lesions, used: Sequence[Lesion]
) -> dict[str, Any]:
    """Text and numbers of a sentence; every statement's slots are filled from its own things alone."""
    pieces: list[str] = []
    numbers: list[Number] = []
    at = 0
    for i, (statement, verdict) in enumerate(zip(statements, verdicts, strict=True)):
        stop = statements[i + 1].start if i + 1 < len(statements) else len(text)
        piece, at = text[at:stop], stop
        if slot_names(piece):
            mine = [lesion for n in verdict.candidates if (lesion := lesions.lesion(n)) is not None]
            if not mine:
                raise _NumbersOfNothing
            apart = verdict.several and (statement.side == "bilateral" or len(statement.organs) > 1)
            done = filled(counted_anew(piece), [f.measurement for f in mine], verdict.several, apart=apart)
            numbers += [replace(n, thing=used.index(mine[n.thing])) for n in done.numbers]
            piece = done.text
        pieces.append(piece)
    return {"text": "".join(pieces), "numbers": tuple(numbers)}

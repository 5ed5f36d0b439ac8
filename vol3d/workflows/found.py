"""Everything that a checkpoint finds in a study with the phrases it was trained on, each thing once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from vol3d.text.organs import SIDES
from vol3d.text.things import FOCAL, NODE
from vol3d.workflows.evidence import SAME_THING, Evidence, Part, shared_voxels
from vol3d.workflows.known import Known, Thing

TOUCHING = 0.05
"""Share of the smaller one from which on a part found without naming a place belongs to one that was found by place."""

LEAST_SHARE = 0.3
"""Of a thing that must lie in an organ for the organ to be named."""


@dataclass(frozen=True)
class Found:
    """A part and the phrase that says the most of it."""

    thing: Thing
    part: Part


def phrases_of(known: Known, images: Collection[str]) -> frozenset[str]:
    """What `things_found` asks of a study with these images."""
    return frozenset(t.phrase for t in known.shown_by(images))


def things_found(known: Known, evidence: Evidence) -> list[Found]:
    """Of one organ the phrase that names a side or a kind is believed, of several organs the likeliest.

    What phrases without a place find counts only where nothing else was found.
    """
    things = known.shown_by(evidence.entry.images)
    finer = {(t.organ, "side") for t in things if t.side in SIDES}
    finer |= {(t.organ, NODE) for t in things if t.kind == NODE}

    def rank(thing: Thing) -> tuple[bool, bool, float]:
        coarse = thing.side not in SIDES and (thing.organ, "side") in finer
        coarse = coarse or (thing.kind == FOCAL and (thing.organ, NODE) in finer)
        return thing.organ is None, coarse, -evidence.probability(thing.phrase)

    out: list[Found] = []
    for thing in sorted(things, key=rank):
        most = TOUCHING if thing.organ is None else SAME_THING
        for part in evidence.parts(thing.phrase, thing.side):
            if not overlaps(part, [f.part for f in out], most):
                out.append(Found(thing, part))
    return out


def overlaps(part: Part, others: list[Part], share: float = SAME_THING) -> bool:
    """Whether it shares that much of the smaller one with any of them."""
    return any(shared_voxels(part, other) >= share * min(part.voxels, other.voxels) for other in others)


def place_of(part: Part, known: Known, evidence: Evidence) -> tuple[float, str | None]:
    """How much of a part the trained phrases of one organ found, and that organ, sided phrases first; 0, None: none."""
    shares = [
        (shared_voxels(part, other) / part.voxels, thing.side in SIDES, thing.organ)
        for thing in known.plain
        if thing.organ is not None
        for other in evidence.parts(thing.phrase, thing.side)
    ]
    overlap, _, organ = max(shares, default=(0.0, False, ""))
    return (overlap, organ) if overlap >= LEAST_SHARE else (0.0, None)

"""Texts to contrast images with, and which text is true of which image.

Each sample brings section texts, and what is known of its study as numbers, so that every image of a batch can be
judged against every text of it, whatever rank they come from. A pair's target is 1 (the study's own text, or an
identical one), a configured value (both find nothing in the organ), 0 (what is known of the study makes the text
untrue) or nan: unknown, no loss. Another study's words for something are no negative by themselves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vol3d.data.cover import Cover
from vol3d.data.phrases import names_direction, swap_sides
from vol3d.data.statements import Knowledge, Section
from vol3d.text.claims import WIDTH, claims_of, encode, untrue
from vol3d.text.knowledge import ORGAN_NAMES
from vol3d.types import Array

ORGANS: tuple[str, ...] = tuple(ORGAN_NAMES)
"""Organ n of an encoded text is ``ORGANS[n - 1]``; 0 is the whole image."""

_CLAIMS, _FACTS, _OWN = 8, 128, 32
_MOST_TEXTS = 20_000
_TRIES = 8
TEXT_CODE = 3 + _CLAIMS * WIDTH
"""int64 numbers of a text: hash, organ (-1: no text), normal, claims."""
STUDY_CODE = _OWN + 2 * (1 + len(ORGANS)) + _FACTS * WIDTH
"""int64 numbers of an image: hashes of its own texts, per organ whether normal and whether shown, facts."""


@dataclass
class Contrast:
    """The contrast of one sample."""

    texts: tuple[str, ...]
    """S texts; "" where there is none."""
    text_SC: Tensor
    """int64, `TEXT_CODE` numbers a text."""
    study_C: Tensor
    """int64, `STUDY_CODE` numbers."""


def organ_number(organ: str | None) -> int:
    """0 for the whole image."""
    return 0 if organ is None else 1 + ORGANS.index(organ)


class TextPool:
    """Section texts of all training studies, by organ; of a great many an even sample."""

    def __init__(self, knowledge: Iterable[Knowledge]) -> None:
        found: dict[int, dict[str, Section]] = {}
        for known in knowledge:
            for section in known.sections:
                found.setdefault(organ_number(section.organ), {})[section.text] = section
        self._by_organ = {o: tuple(texts[t] for t in _evenly(sorted(texts))) for o, texts in sorted(found.items())}

    def draw(self, rng: np.random.Generator, organ: int) -> Section | None:
        """Any text on the organ; on any organ where there is none on this."""
        texts = self._by_organ.get(organ) or (
            self._by_organ[list(self._by_organ)[int(rng.integers(len(self._by_organ)))]] if self._by_organ else ()
        )
        return texts[int(rng.integers(len(texts)))] if texts else None


def _evenly(texts: list[str]) -> list[str]:
    return texts[:: -(-len(texts) // _MOST_TEXTS)] if texts else []


def draw_contrast(
    rng: np.random.Generator,
    count: int,
    known: Knowledge,
    pool: TextPool,
    cover: Cover,
    least: float,
    flips: Sequence[int],
) -> Contrast:
    """`count` texts for one patch: half its study's own, first on organs that the patch shows; half others.

    For each text of its own comes another on the same organ: one of its own with a detail changed, or another study's,
    preferably one that is known to be untrue here.

    Args:
        rng: of this sample's contrast.
        count: S.
        known: of the study.
        pool: of all studies.
        cover: what the patch shows.
        least: share of an organ from which it counts as shown.
        flips: mirrored axes. Own texts are mirrored with the patch; those for which that is not certain are left out.
    """
    own = [s for section in known.sections if (s := _moved(section, flips)) is not None]
    decoys = [s for section in known.decoys if (s := _moved(section, flips)) is not None]
    facts = [c for fact in known.facts if (c := fact.mirrored(2 in flips) if flips else fact) is not None]
    shown = {organ_number(o): cover.of(o) >= least for o in (None, *ORGANS)}
    order = [own[i] for i in rng.permutation(len(own))]
    order.sort(key=lambda s: not shown[organ_number(s.organ)])
    chosen: list[Section | None] = []
    for i in range(count):
        if i % 2 == 0 and i // 2 < len(order):
            chosen.append(order[i // 2])
            continue
        organ = organ_number(order[(i // 2) % len(order)].organ) if order else int(rng.integers(1 + len(ORGANS)))
        here = [d for d in decoys if organ_number(d.organ) == organ and d not in chosen]
        if here and rng.random() < 0.5:
            chosen.append(here[int(rng.integers(len(here)))])
            continue
        other = pool.draw(rng, organ)
        for _ in range(_TRIES):
            if other is None or untrue(other.text, facts):
                break
            other = pool.draw(rng, organ)
        chosen.append(other)
    chosen = [chosen[i] for i in rng.permutation(count)]
    normal = {organ_number(s.organ) for s in own if s.normal}
    study = np.concatenate(
        [
            np.resize(np.array([text_hash(s.text) for s in own][:_OWN] + [0] * _OWN, np.int64), _OWN),
            np.array([n in normal for n in range(1 + len(ORGANS))], np.int64),
            np.array([shown[n] for n in range(1 + len(ORGANS))], np.int64),
            encode(sorted(facts, key=lambda c: not c.present), _FACTS, ORGANS).ravel(),
        ]
    )
    codes = np.stack([_text_code(s) for s in chosen])
    return Contrast(tuple(s.text if s else "" for s in chosen), torch.from_numpy(codes), torch.from_numpy(study))


def mirrored_texts(sections: Iterable[Section]) -> set[str]:
    """Texts that a mirrored patch can carry beside the texts themselves."""
    return {s.text for section in sections if (s := _moved(section, (2,))) is not None}


def _moved(section: Section, flips: Sequence[int]) -> Section | None:
    if any(axis in flips and names_direction(section.text, axis) for axis in (0, 1)):
        return None
    text = swap_sides(section.text) if 2 in flips else section.text
    return None if text is None else Section(text, section.organ, section.normal)


def text_hash(text: str) -> int:
    """The same number for the same words, never 0."""
    digest = hashlib.sha256(" ".join(text.lower().split()).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True) or 1


def _text_code(section: Section | None) -> Array:
    if section is None:
        return np.array([0, -1, 0, *encode((), _CLAIMS, ORGANS).ravel()], np.int64)
    head = [text_hash(section.text), organ_number(section.organ), int(section.normal)]
    return np.array([*head, *encode(claims_of(section.text), _CLAIMS, ORGANS).ravel()], np.int64)


# -- which text is true of which image --------------------------------------------------------------------------------


def pair_targets(study_BC: Tensor, text_NC: Tensor, normal_target: float) -> Tensor:
    """float32 [B, N]: 1, `normal_target`, 0, or nan where it is unknown whether text n is true of image b.

    A finding, and that a study finds nothing, is a positive only where the patch shows the organ; what the study denies
    is a negative everywhere.
    """
    organs = 1 + len(ORGANS)
    own_BH, normal_BO, shown_BO, fact_BC = study_BC.split([_OWN, organs, organs, _FACTS * WIDTH], dim=1)
    hash_N, organ_N, text_normal_N = text_NC[:, 0], text_NC[:, 1].clamp(min=0), text_NC[:, 2].bool()
    shown_BN = shown_BO[:, organ_N].bool()
    same_BN = (own_BH[:, :, None] == hash_N).any(1)
    normal_BN = normal_BO[:, organ_N].bool() & text_normal_N
    denied, contradicted = zip(
        *(_refuted(f.view(-1, WIDTH), text_NC[:, 3:].reshape(len(text_NC), -1, WIDTH)) for f in fact_BC), strict=True
    )
    denied_BN, contradicted_BN = torch.stack(denied), torch.stack(contradicted)
    untrue_BN = denied_BN | (contradicted_BN & shown_BN)
    target_BN = torch.full(shown_BN.shape, float("nan"), device=study_BC.device)
    target_BN[normal_BN & shown_BN] = normal_target
    target_BN[same_BN & shown_BN] = 1.0
    target_BN[untrue_BN] = 0.0
    # a text that is the study's own and yet untrue by its facts: the sources disagree
    unknown_BN = (untrue_BN & same_BN) | (contradicted_BN & ~shown_BN & ~denied_BN) | (text_NC[:, 1] < 0)
    return target_BN.masked_fill(unknown_BN, float("nan"))


def _refuted(fact_MW: Tensor, text_NKW: Tensor) -> tuple[Tensor, Tensor]:
    """bool [N] each: the study denies what the text asserts; the study has what the text denies."""
    claim_CW = text_NKW.flatten(0, 1)
    owner_C = torch.arange(len(text_NKW), device=claim_CW.device).repeat_interleave(text_NKW.shape[1])
    out = []
    for said in (1, 0):
        facts, chosen = fact_MW[fact_MW[:, 5] == 1 - said], claim_CW[:, 5] == said
        pair = facts[:, None], claim_CW[chosen][None]
        hit_C = (_contains(*pair) if said else _contains(*pair[::-1])).any(0)
        out.append(torch.zeros(len(text_NKW), dtype=torch.bool, device=hit_C.device))
        out[-1][owner_C[chosen][hit_C]] = True
    return out[0], out[1]


def _contains(wide: Tensor, narrow: Tensor) -> Tensor:
    """`vol3d.text.claims.refutes`, in numbers."""
    found = (wide[..., :3] & ~narrow[..., :3]).eq(0).all(-1)
    for part in (3, 4):
        found &= (wide[..., part] == 0) | (wide[..., part] == narrow[..., part])
    return found


# -- batches ----------------------------------------------------------------------------------------------------------


@dataclass
class ContrastBatch:
    """B samples' texts, looked up."""

    tokens_BSTE: Tensor
    token_mask_BST: Tensor
    text_BSC: Tensor
    study_BC: Tensor
    organ_tokens_OTE: Tensor
    """Token states of the organs' names, by which an image is asked about each."""
    organ_mask_OT: Tensor
    texts: tuple[tuple[str, ...], ...]

    def map(self, change: Callable[[Tensor], Tensor]) -> ContrastBatch:
        """With every tensor changed."""
        changed: dict[str, Any] = {n: change(v) for n, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **changed)

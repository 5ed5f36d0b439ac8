"""Phrases under which the sentences of a phantom's report are looked for, with what is true of each.

A report is grounded by asking for the phrase of every sentence (`vol3d.text.grounding`); a model that was never asked
in those words cannot answer. A phrase means a `Query`, and stands for exactly the lesions which that query matches, so
two lesions that are alike share one mask for it. The same forms, with one trait changed, name what is not there: else
the form alone would say "present".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from preprocessing.phantom_lesions import PLACES, TWIN, Traits
from preprocessing.phantom_report import DENIED, Measured, impression_forms, lesion_forms
from preprocessing.phantom_text import Query
from vol3d.text.grounding import grounding_phrase

NEAR_MISSES, STRANGERS = 3, 2
"""Absent phrases a lesion and a study get at most."""


def phrases_of(traits: Traits) -> list[tuple[Query, str]]:
    """The phrase of every sentence that a report may write about such a lesion, with what it means; each once."""
    suv_max = 2.0 if traits.uptake else None
    shown = Measured(
        id="", traits=traits, diameter_mm=30.0, volume_ml=1.0, suv_max=suv_max, slice_number=9, z_mm=9.0
    )  # fmt: skip
    plain = Query(traits.place, traits.uptake, None, traits.density)
    sized = replace(plain, size=traits.size)
    found: dict[str, Query] = {}
    for sentence in (*lesion_forms(shown, "30 mm"), *impression_forms(shown)):
        phrase = grounding_phrase(sentence)
        found.setdefault(phrase, sized if traits.size in phrase.lower() else plain)
    return [(query, phrase) for phrase, query in found.items()]


def present_phrases(lesions: Sequence[Traits]) -> list[tuple[Query, str]]:
    """All that reports may say of these lesions, and the denials of places that are not free of them."""
    out = [pair for traits in lesions for pair in phrases_of(traits)]
    for place, denied in DENIED.items():
        if any(Query(place).matches(traits) for traits in lesions):
            out += [(Query(place), phrase) for phrase in denied]
    return list(dict.fromkeys(out))


def absent_phrases(
    rng: np.random.Generator, lesions: Sequence[Traits], ruled_out: Callable[[str], bool], with_pet: bool
) -> list[str]:
    """What reports would say of lesions that are not there: near misses of those that are, a few others, denials.

    `ruled_out` says of a place (as in `PLACE_WORDS`) that lesions in it are known.
    """
    near = [other for traits in lesions for other in _some(rng, _near_misses(traits), NEAR_MISSES)]
    strangers = [_stranger(rng, with_pet) for _ in range(STRANGERS)]
    out = []
    for traits in [*near, *strangers]:
        query = Query(traits.place, traits.uptake, None, traits.density)
        if ruled_out(traits.place) and not any(query.is_true_of(lesion) for lesion in lesions):
            forms = phrases_of(traits)
            out.append(forms[int(rng.integers(len(forms)))][1])
    for place, denied in DENIED.items():
        if ruled_out(place) and not any(Query(place).matches(traits) for traits in lesions):
            out += denied
    return list(dict.fromkeys(out))


def _near_misses(traits: Traits) -> list[Traits]:
    """Lesions that differ in one thing: side, uptake, density, organ."""
    out = []
    if traits.place in TWIN:
        out.append(replace(traits, place=TWIN[traits.place]))
    if traits.uptake is not None and traits.density != "isodense":
        out.append(replace(traits, uptake="avid" if traits.uptake == "non-avid" else "non-avid"))
    others = [d for d in PLACES[traits.place] if d != traits.density and (d != "isodense" or traits.uptake == "avid")]
    out += [replace(traits, density=d) for d in others[:2]]
    elsewhere = [p for p in PLACES if p not in (traits.place, TWIN.get(traits.place)) and traits.density in PLACES[p]]
    out += [replace(traits, place=p) for p in elsewhere[:3]]
    return out


def _stranger(rng: np.random.Generator, with_pet: bool) -> Traits:
    place = str(rng.choice(list(PLACES)))
    densities = [d for d in PLACES[place] if d != "isodense"]
    avid = rng.random() < 0.5
    return Traits(place, "medium", str(rng.choice(densities)), ("avid" if avid else "non-avid") if with_pet else None)


def _some(rng: np.random.Generator, items: Sequence[Traits], number: int) -> list[Traits]:
    return [items[i] for i in rng.permutation(len(items))[:number]]

"""Questions with true answers about a phantom study, for the manifest's `qa`.

Everything follows from the study's own record: what is there from its findings, what is not from its listed absences
(so a place that is only partly in view is asked nothing it cannot answer), what is out of view from its masks. A study
is always asked the same; `wording` changes the words alone, and the unseen ones are kept out of training.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from preprocessing.phantom_lesions import PLACES, TWIN, Traits
from preprocessing.phantom_text import FURTHER_NOUNS, ORGAN_WORDS, PLACE_WORDS, Query, all_queries, wordings
from vol3d.text.questions import NONE, NOT_IN_VIEW, QuestionKind, normalise

Wording = Literal["seen", "unseen"]
WORDINGS: tuple[Wording, ...] = get_args(Wording)

DIAMETER_TOLERANCE_MM = 6.0
"""Two voxels of the phantoms' CT."""
SUV_TOLERANCE = 0.1
VOLUME_TOLERANCE = 0.25
"""Of the volume."""
NO_SUCH = "There is no such lesion."

_MOST: dict[str, int] = {
    "yes": 3, "no": 3, "yes_no_outside": 1, "location": 2, "organ": 2, "side": 2, "side_both": 1, "side_absent": 1,
    "count": 2, "count_zero": 1, "diameter": 1, "suv": 1, "volume": 1, "size_absent": 1, "modality": 1, "open": 2,
    "open_clear": 1, "open_outside": 1,
}  # fmt: skip
"""Questions of each sort a study is asked at most."""

_ASK: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # seen, unseen
    "yes_no": (
        ("Is there {a}?", "Does the scan show {a}?", "Is {a} present?", "Can you see {a}?", "Is {a} visible?"),
        (
            "Does this examination reveal {a}?", "Any sign of {a}?", "Do you detect {a}?",
            "Please check whether the patient has {a}.",
        ),
    ),
    "location": (
        ("Where is the {p}?", "Where is the {p} located?", "In which part of the body is the {p}?"),
        ("Please give the anatomical site of the {p}.", "Whereabouts is the {p}?"),
    ),
    "organ": (
        ("Which organ holds the {p}?", "In which organ is the {p}?", "What organ contains the {p}?"),
        ("Which organ is affected by the {p}?", "Name the organ harbouring the {p}."),
    ),
    "side": (
        ("On which side is the {p}?", "Which side is the {p} on?", "Is the {p} left or right?"),
        (
            "What is the laterality of the {p}?", "Please specify the side affected by the {p}.",
            "Does the {p} involve the left or the right?",
        ),
    ),
    "count": (
        ("How many {s} are there?", "How many {s} does the scan show?", "What is the number of {s}?"),
        ("Please count the {s}.", "How many {s} do you see?", "How many separate {s} can be made out?"),
    ),
    "diameter": (
        ("How large is the {p}?", "What is the diameter of the {p}?", "What does the {p} measure?"),
        (
            "What size is the {p}?", "How many millimetres across is the {p}?",
            "Please provide the greatest dimension of the {p} on axial slices.",
        ),
    ),
    "suv": (
        ("What is the SUVmax of the {p}?", "How high is the SUVmax of the {p}?"),
        (
            "What SUVmax does the {p} reach?", "What is the SUV of the hottest voxel in the {p}?",
            "How intense is the uptake in the {p} (SUVmax)?",
        ),
    ),
    "volume": (
        ("What is the volume of the {p}?", "What volume does the {p} have?"),
        (
            "How many millilitres does the {p} occupy?", "Please estimate the volume of the {p} in cc.",
            "What is the volumetric size of the {p}?",
        ),
    ),
    "modality": (
        ("Which imaging modality is this?", "What kind of scan is this?", "Is this a CT or a PET/CT?"),
        (
            "What type of study am I looking at?",
            "Does this examination include a PET component, or is it CT only?",
        ),
    ),
    "open": (
        ("What is seen {w}?", "What do you find {w}?", "Describe what is {w}."),
        ("Please summarise the findings {w}.", "What abnormalities do you note {w}?", "Anything to report {w}?"),
    ),
}  # fmt: skip

_SIDED = {"lungs": ("pulmonary", "intrapulmonary"), "kidneys": ("renal", "intrarenal"),
          "soft tissue": ("paraspinal", "paravertebral")}  # fmt: skip
_UPTAKE = {None: ("", ""), "avid": ("FDG-avid ", "PET-positive "), "non-avid": ("non-avid ", "PET-negative ")}


@dataclass(frozen=True)
class _Item:
    """One question before it is put into words."""

    sort: str
    kind: QuestionKind
    ask: str
    words: Callable[[int, np.random.Generator], str]
    """What it is about, in seen (0) or unseen (1) words."""
    answer: str
    tolerance: float | None = None
    adversarial: bool = False


def questions_of(record: Mapping[str, Any], wording: Wording = "seen") -> list[dict[str, Any]]:
    """Rows ``{"q", "a", "type", "wording", "adversarial"?, "tolerance"?}`` for one study, about 20.

    `adversarial` ones take for granted, or ask for the twin of, something that is not there; `tolerance` is absolute in
    the unit of the answer.

    Args:
        record: a phantom's manifest row, or the attributes of its cache entry.
        wording: "seen" for training, "unseen" for the same questions in other words.
    """
    seed = zlib.crc32(str(record["study_id"]).encode())
    choice = np.random.default_rng([seed, 0])
    words = np.random.default_rng([seed, 1, wording == "unseen"])
    by_sort: dict[str, list[_Item]] = {}
    for item in Study(record).items():
        by_sort.setdefault(item.sort, []).append(item)
    rows = []
    for sort, most in _MOST.items():
        items = by_sort.get(sort, [])
        order = sorted(choice.permutation(len(items)), key=lambda i: not items[i].adversarial)[:most]
        rows += [_row(items[i], wording, words) for i in order]
    return rows


def _row(item: _Item, wording: Wording, rng: np.random.Generator) -> dict[str, Any]:
    unseen = int(wording == "unseen")
    what = item.words(unseen, rng)
    template = str(rng.choice(_ASK[item.ask][unseen]))
    article = "an" if what[:1].lower() in "aeiou" or what.startswith("FDG") else "a"
    row: dict[str, Any] = {
        "q": template.format(p=what, s=what, w=what, a=f"{article} {what}"), "a": item.answer, "type": item.kind,
        "wording": wording,
    }  # fmt: skip
    if item.adversarial:
        row["adversarial"] = True
    if item.tolerance is not None:
        row["tolerance"] = round(item.tolerance, 3)
    return row


class Study:
    """What is known of a study."""

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.pet = bool(record.get("pet")) or "pet" in record.get("images", ())
        self.found = [f for f in record["findings"] if f["present"]]
        self.traits = [Traits(_place(f), f["size"], f["density"], f["uptake"]) for f in self.found]
        self.absent = frozenset(record["absent"])
        labels = {mask.get("label") for mask in record["masks"]}
        self.outside = [
            place
            for place in ("lungs", "kidneys", "liver")
            if not any(t.replace(" ", "_") in labels or self.absent & {*ORGAN_WORDS[t][0]} for t in _tissues(place))
        ]
        queries = all_queries(self.pet)
        self.present = [q for q in queries if self.members(q)]
        self.denied = [q for q in queries if not self.members(q) and self.absent & {*wordings(q, 0)[0]}]

    def members(self, query: Query) -> list[int]:
        """Numbers of the lesions that a query means."""
        return [i for i, traits in enumerate(self.traits) if query.matches(traits)]

    def items(self) -> list[_Item]:
        """Everything that can be asked."""
        return [*self._yes_no(), *self._places(), *self._sides(), *self._counts(), *self._sizes(), *self._rest()]

    def _yes_no(self) -> list[_Item]:
        out = [_Item("yes", "yes_no", "yes_no", _phrase(q), "yes") for q in self.present if q.place != "anywhere"]
        out += [
            _Item("no", "yes_no", "yes_no", _phrase(q), "no", adversarial=self._near(q))
            for q in self.denied
            if q.place != "anywhere"
        ]
        return out + [
            _Item("yes_no_outside", "yes_no", "yes_no", _phrase(Query(place)), NOT_IN_VIEW) for place in self.outside
        ]

    def _near(self, query: Query) -> bool:
        """A lesion is there that differs from what is asked in one thing: its side, or its uptake or density."""
        twin = TWIN.get(query.place)
        swapped = Query(twin, query.uptake, query.size, query.density) if twin else None
        plain = Query(query.place) != query and bool(self.members(Query(query.place)))
        return plain or (swapped is not None and bool(self.members(swapped)))

    def _places(self) -> list[_Item]:
        out = []
        for query, i in self._single(_anywhere(self.traits)):
            place = self.traits[i].place
            out.append(_Item("location", "location", "location", _phrase(query), _where(place)))
            out.append(_Item("organ", "organ", "organ", _phrase(query), str(self.found[i]["organ"])))
        return out

    def _single(self, queries: Sequence[Query]) -> list[tuple[Query, int]]:
        """Queries that mean one lesion, and its number."""
        return [(q, m[0]) for q in queries if len(m := self.members(q)) == 1]

    def _sides(self) -> list[_Item]:
        out = []
        for place, adjectives in _SIDED.items():
            for uptake, before in _UPTAKE.items() if self.pet else [(None, _UPTAKE[None])]:
                query = Query(place, uptake)
                sides = {str(self.found[i]["side"]) for i in self.members(query)}
                words = _fixed(*(f"{b}{a} lesion" for b, a in zip(before, adjectives, strict=True)))
                if len(sides) == 2:
                    out.append(_Item("side_both", "side", "side", words, "both"))
                elif sides:
                    out.append(_Item("side", "side", "side", words, sides.pop()))
                elif query in self.denied:
                    out.append(_Item("side_absent", "side", "side", words, NO_SUCH, adversarial=True))
        return out

    def _counts(self) -> list[_Item]:
        out = []
        for query in [q for q in self.present + self.denied if q.size is None and q.density is None]:
            number = len(self.members(query))
            sort = "count" if number else "count_zero"
            out.append(_Item(sort, "count", "count", _phrase(query, plural=True), str(number)))
        return out

    def _sizes(self) -> list[_Item]:
        out = []
        for query, i in self._single([q for q in self.present if q.size is None]):
            numbers, words = self.found[i]["measurements"], _phrase(query)
            diameter, volume = numbers["diameter_mm"], numbers["volume_ml"]
            out.append(_Item("diameter", "size", "diameter", words, f"{diameter:.1f} mm", DIAMETER_TOLERANCE_MM))
            out.append(_Item("volume", "size", "volume", words, f"{volume:.1f} ml", VOLUME_TOLERANCE * volume))
            if "suv_max" in numbers:
                out.append(_Item("suv", "size", "suv", words, f"SUVmax {numbers['suv_max']:.1f}", SUV_TOLERANCE + 0.05))
        for query in [q for q in self.denied if q.place != "anywhere" and self._near(q)]:
            out.append(_Item("size_absent", "size", "diameter", _phrase(query), NO_SUCH, adversarial=True))
        return out

    def _rest(self) -> list[_Item]:
        out = [_Item("modality", "modality", "modality", _fixed("", ""), "PET/CT" if self.pet else "CT")]
        for place, words in PLACE_WORDS.items():
            where = _fixed(words.after[0], words.unseen_after[0])
            here = [self.found[i] for i in self.members(Query(place))]
            if place == "anywhere":
                continue
            if here:
                answer = " ".join(f"{f['name'][:1].upper()}{f['name'][1:]}." for f in here)
                if normalise(answer, "open") != NONE:
                    out.append(_Item("open", "open", "open", where, answer))
            elif Query(place) in self.denied:
                out.append(_Item("open_clear", "open", "open", where, f"No focal lesion {words.after[0]}."))
            elif place in self.outside:
                out.append(_Item("open_outside", "open", "open", where, f"{place.capitalize()} {NOT_IN_VIEW}."))
        return out


def _place(finding: Mapping[str, Any]) -> str:
    """ "lung", "left" is "left lung"; the soft tissue of one side is its paraspinal muscles."""
    organ, side = str(finding["organ"]), finding.get("side")
    if side is None:
        return organ
    return f"{side} {'paraspinal' if organ == 'soft tissue' else organ}"


def _tissues(place: str) -> Sequence[str]:
    return PLACE_WORDS[place].tissues


def _where(place: str) -> str:
    return PLACE_WORDS[place].after[0].removeprefix("in the ")


def _anywhere(traits: Sequence[Traits]) -> list[Query]:
    """Queries that name no place: the one lesion, the avid one, the large one, the calcified one."""
    plain = [Query("anywhere")] + [Query("anywhere", u) for u in ("avid", "non-avid")]
    sizes = [Query("anywhere", None, s) for s in sorted({t.size for t in traits})]
    return plain + sizes + [Query("anywhere", None, None, d) for d in sorted({d for p in PLACES for d in PLACES[p]})]


def _phrase(query: Query, plural: bool = False) -> Callable[[int, np.random.Generator], str]:
    def words(unseen: int, rng: np.random.Generator) -> str:
        vague = {"anywhere", *FURTHER_NOUNS}
        phrase = str(rng.choice([p for p in wordings(query, 1)[unseen] if not vague & {*p.split()}]))
        return _NOUN.sub(lambda m: _PLURAL[m.group()], phrase, count=1) if plural else phrase

    return words


_PLURAL = {"lesion": "lesions", "nodule": "nodules", "lymph node": "lymph nodes", "abnormality": "abnormalities"}
_NOUN = re.compile("|".join(_PLURAL))


def _fixed(seen: str, unseen: str) -> Callable[[int, np.random.Generator], str]:
    return lambda which, rng: unseen if which else seen

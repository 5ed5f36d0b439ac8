"""Wordings of the phantoms: what a structure or a set of lesions may be called, and what it may not.

A `Query` is a meaning (place, uptake, size, density); the lesions it matches in a study decide which mask its wordings
belong to, so a phrase is always true and never ambiguous there: "lesion in the right lung" stands for every lesion of
the right lung. Each meaning has seen wordings and unseen ones, which differ in at least one word and are kept out of
training.
"""

from __future__ import annotations

import functools
import itertools
import random
import zlib
from dataclasses import dataclass, replace

from preprocessing.phantom_lesions import PLACES, SIZES, Lesion, Traits

Words = tuple[str, ...]

_PAIRED_SEEN = ("{s} {n}", "the {s} {n}", "{n} on the {s}", "{s}-sided {n}", "{n}, {s} side", "patient's {s} {n}")
_PAIRED_UNSEEN = ("entire {s} {n}", "full extent of the {s} {n}", "the {s} {n} alone")


def _paired(noun: str, adjective: str) -> dict[str, tuple[Words, Words]]:
    return {
        f"{s} {noun}": (
            (*(t.format(s=s, n=noun) for t in _PAIRED_SEEN), f"{s} {adjective} parenchyma"),
            (*(t.format(s=s, n=noun) for t in _PAIRED_UNSEEN), f"{s} {adjective} tissue"),
        )
        for s in ("left", "right")
    }


ORGAN_WORDS: dict[str, tuple[Words, Words]] = {
    **_paired("lung", "pulmonary"),
    **_paired("kidney", "renal"),
    "lungs": (("lungs", "both lungs", "the lungs", "left and right lung"),
              ("both lung fields", "lung tissue bilaterally")),
    "kidneys": (
        ("kidneys", "both kidneys", "the kidneys", "left and right kidney"),
        ("bilateral kidneys", "the pair of kidneys"),
    ),
    "body": (
        ("body", "the body", "patient's body", "body outline", "contour of the body", "whole patient",
         "silhouette of the patient"),
        ("external contour of the patient", "everything within the skin surface"),
    ),
    "heart": (("heart", "the heart", "cardiac silhouette", "heart with chambers"),
              ("entire cardiac volume", "myocardium together with atria and ventricles")),
    "aorta": (("aorta", "the aorta", "thoracic and abdominal aorta", "aortic trunk"),
              ("full length of the aorta", "aorta from the root to the bifurcation")),
    "liver": (("liver", "the liver", "hepatic parenchyma", "whole liver"),
              ("entire liver", "both lobes of the liver")),
    "gallbladder": (
        ("gallbladder", "the gallbladder", "gall bladder", "gallbladder filled with bile", "biliary vesicle",
         "bile-filled sac"),
        ("gallbladder wall and lumen", "entire gallbladder"),
    ),
    "spleen": (("spleen", "the spleen", "splenic parenchyma", "whole spleen"),
               ("splenic tissue", "spleen in its entirety")),
    "stomach": (("stomach", "the stomach", "stomach with its contents"),
                ("gastric wall and lumen", "stomach including any food or fluid in it")),
    "bladder": (
        ("bladder", "urinary bladder", "the bladder", "the urinary bladder"),
        ("urine-filled bladder", "entire urinary bladder"),
    ),
    "spine": (("spine", "the spine", "vertebral column", "spinal column"), ("backbone", "all visible vertebrae")),
}  # fmt: skip
"""Seen and unseen wordings of every structure with a mask."""


@dataclass(frozen=True)
class PlaceWords:
    """How to say where a lesion is: adjectives before the noun, phrases after it; then the unseen ones."""

    tissues: Words
    adjectives: Words
    after: Words
    unseen_adjectives: Words
    unseen_after: Words
    nouns: Words = ("lesion", "focal lesion")


def _sided(s: str) -> dict[str, PlaceWords]:
    return {
        f"{s} lung": PlaceWords(
            (f"{s} lung",), (f"{s} lung", f"{s} pulmonary"), (f"in the {s} lung", f"of the {s} lung"),
            (f"{s} intrapulmonary", f"{s}-sided lung"), (f"in the {s} lung field", f"situated in the {s} lung"),
            ("lesion", "nodule")),
        f"{s} kidney": PlaceWords(
            (f"{s} kidney",), (f"{s} kidney", f"{s} renal"), (f"in the {s} kidney", f"of the {s} kidney"),
            (f"{s} intrarenal", f"{s}-sided kidney"),
            (f"in the {s} renal parenchyma", f"arising from the {s} kidney")),
        f"{s} paraspinal": PlaceWords(
            (f"{s} paraspinal",), (f"{s} paraspinal",),
            (f"in the {s} paraspinal muscles", f"in the soft tissues of the {s} back"),
            (f"{s} paravertebral", f"{s}-sided paravertebral"),
            (f"in the {s} paravertebral muscles", f"in the muscle to the {s} of the spine")),
    }  # fmt: skip


PLACE_WORDS: dict[str, PlaceWords] = {
    **_sided("left"),
    **_sided("right"),
    "lungs": PlaceWords(
        ("left lung", "right lung"), ("lung", "pulmonary"), ("in the lungs", "in either lung"),
        ("intrapulmonary",), ("in the pulmonary parenchyma", "in any lobe of the lungs"), ("lesion", "nodule")),
    "kidneys": PlaceWords(
        ("left kidney", "right kidney"), ("renal",), ("in the kidneys", "in either kidney"),
        ("intrarenal",), ("in the renal parenchyma", "in one or both kidneys")),
    "soft tissue": PlaceWords(
        ("left paraspinal", "right paraspinal"), ("soft tissue", "paraspinal"), ("in the paraspinal muscles",),
        ("paravertebral",), ("in the paravertebral muscles", "in the musculature flanking the spine")),
    "liver": PlaceWords(
        ("liver",), ("liver", "hepatic"), ("in the liver", "of the liver"),
        ("intrahepatic",), ("in the hepatic parenchyma", "in either lobe of the liver")),
    "spleen": PlaceWords(
        ("spleen",), ("spleen", "splenic"), ("in the spleen", "of the spleen"),
        ("intrasplenic",), ("in the splenic parenchyma", "located in the spleen")),
    "mediastinum": PlaceWords(
        ("mediastinum",), ("mediastinal",), ("in the mediastinum", "of the mediastinum"),
        ("intramediastinal",), ("in the mediastinal compartment", "in the space between the lungs"),
        ("lesion", "lymph node")),
    "spine": PlaceWords(
        ("spine",), ("spinal", "vertebral", "bone"), ("in the spine", "of the spine"),
        ("bony", "spinal column"), ("in the vertebral column", "in any of the vertebrae")),
    "anywhere": PlaceWords(tuple(PLACES), ("",), ("", "anywhere"), (),
        ("in the imaged volume", "on the current study")),
}  # fmt: skip

FURTHER_NOUNS = ("anomaly", "finding")
"""In phrases alone: a report or a question that says no more than this is of no particular finding."""

_UPTAKE: dict[str | None, tuple[Words, Words, Words, Words]] = {  # before, after, unseen before, unseen after
    None: (("",), ("",), (), ()),
    "avid": (
        ("FDG-avid", "hypermetabolic", "metabolically active"),
        ("with FDG uptake", "with increased FDG uptake"),
        ("PET-positive", "hot"),
        ("lighting up on PET", "with elevated glucose metabolism", "demonstrating increased radiotracer accumulation"),
    ),
    "non-avid": (
        ("non-avid", "non-FDG-avid", "metabolically inactive"),
        ("without FDG uptake", "without increased FDG uptake"),
        ("PET-negative", "non-hypermetabolic"),
        (
            "not lighting up on PET",
            "lacking abnormal radiotracer accumulation",
            "with only background-level metabolic activity",
        ),
    ),
}

_SYNONYMS: dict[str | None, tuple[Words, Words]] = {  # sizes and densities: seen, unseen
    None: (("",), ()),
    "small": (("small",), ("smallish", "small-volume")),
    "medium": (("medium-sized",), ("intermediate-sized", "average-sized")),
    "large": (("large",), ("sizeable", "voluminous")),
    "hypodense": (("hypodense", "low-attenuation"), ("hypoattenuating",)),
    "hyperdense": (("hyperdense", "high-attenuation"), ("hyperattenuating",)),
    "isodense": (("isodense",), ("equal-density",)),
    "calcified": (("calcified",), ("calcific",)),
    "solid": (("solid",), ("purely solid",)),
    "ground-glass": (("ground-glass",), ("hazy", "GGO-type")),
    "lytic": (("lytic",), ("lucent",)),
    "sclerotic": (("sclerotic",), ("osteoblastic",)),
}

_PLURAL = {"lesion": "lesions", "focal lesion": "focal lesions", "nodule": "nodules", "lymph node": "lymph nodes",
           "anomaly": "anomalies", "finding": "findings", "focal abnormality": "focal abnormalities"}  # fmt: skip


@dataclass(frozen=True)
class Query:
    """A meaning that wordings express: lesions of a place, narrowed by uptake, size or density."""

    place: str
    uptake: str | None = None
    size: str | None = None
    density: str | None = None

    def matches(self, traits: Traits) -> bool:
        """True if the lesion is one of those meant."""
        return (
            traits.place in PLACE_WORDS[self.place].tissues
            and self.uptake in (None, traits.uptake)
            and self.size in (None, traits.size)
            and self.density in (None, traits.density)
        )

    def is_true_of(self, traits: Traits) -> bool:
        """True if the words hold for the lesion, though others may be meant: calcium is hyperdense and solid too."""
        calcium = self.density in ("hyperdense", "solid") and traits.density == "calcified"
        return replace(self, density="calcified").matches(traits) if calcium else self.matches(traits)


def all_queries(with_pet: bool) -> list[Query]:
    """Every meaning the phantoms use, the general ones first."""
    uptakes = [None, "avid", "non-avid"] if with_pet else [None]
    plain = [Query(place, uptake) for place in PLACE_WORDS for uptake in uptakes]
    sized = [Query(place, None, size) for place in PLACE_WORDS if place != "anywhere" for size in SIZES]
    densities = {place: sorted({d for t in w.tissues for d in PLACES[t]}) for place, w in PLACE_WORDS.items()}
    dense = [Query(p, None, None, d) for p in PLACE_WORDS if p != "anywhere" for d in densities[p]]
    return plain + sized + dense


def group_by_lesions(queries: list[Query], lesions: list[Lesion]) -> dict[tuple[str, ...], list[Query]]:
    """Which queries mean which set of lesion ids; the empty set collects those that match none."""
    groups: dict[tuple[str, ...], list[Query]] = {}
    for query in queries:
        members = tuple(lesion.id for lesion in lesions if query.matches(lesion.traits))
        groups.setdefault(members, []).append(query)
    return groups


@functools.cache
def wordings(query: Query, number: int, limit: int = 10) -> tuple[Words, Words]:
    """Seen and unseen wordings of a query that matches `number` lesions, in an order fixed per query.

    One lesion is named in the singular; several, and none, in the plural and in the singular.
    """
    place = PLACE_WORDS[query.place]
    before, after, new_before, new_after = _UPTAKE[query.uptake]
    traits = [w for key in (query.size, query.density) for w in _SYNONYMS[key][0]]
    traits = [w for w in traits if w] or [""]
    new_traits = [w for key in (query.size, query.density) for w in _SYNONYMS[key][1]]
    nouns = place.nouns if query.place == "anywhere" else (*place.nouns, *FURTHER_NOUNS)
    seen = _compose(query, number, nouns, traits, (before, after), place.adjectives, place.after)
    every = _compose(
        query, number, (*place.nouns, "focal abnormality"), [*traits, *new_traits],
        ((*before, *new_before), (*after, *new_after)),
        (*place.adjectives, *place.unseen_adjectives), (*place.after, *place.unseen_after),
    )  # fmt: skip
    unseen = sorted(set(every) - set(seen))
    seen = sorted(set(seen))
    shuffle = random.Random(zlib.crc32(repr((query, number > 1)).encode()))
    shuffle.shuffle(seen)
    shuffle.shuffle(unseen)
    return tuple(seen[:limit]), tuple(unseen[: max(2, limit // 3)])


def _compose(
    query: Query, number: int, nouns: Words, traits: list[str], uptake: tuple[Words, Words], adjectives: Words,
    after: Words,
) -> list[str]:  # fmt: skip
    """All orders of the parts: "FDG-avid right lung nodule", "nodule in the right lung with FDG uptake", ..."""
    if number == 1:
        heads = list(nouns)
    elif query.place == "anywhere":
        heads = [f"{every}{_PLURAL[n]}" for n in nouns for every in ("", "all ")]
    else:
        heads = [_PLURAL[n] for n in nouns] + list(nouns)
    out = []
    for head, trait, (i, where) in itertools.product(heads, traits, enumerate((*adjectives, *after))):
        front, back = (where, "") if i < len(adjectives) else ("", where)
        for early in uptake[0]:
            out.append(_join(head, trait, early, front, back, ""))
        for late in uptake[1] if query.uptake else ():
            out.append(_join(head, trait, "", front, back, late))
    return out


def _join(head: str, trait: str, early: str, front: str, back: str, late: str) -> str:
    *leading, noun = head.split(
        " ", head.count("focal ") + head.count("all ")
    )  # "focal hepatic lesion": front goes inside
    every = [w for w in leading if w == "all"]
    focal = [w for w in leading if w == "focal"]
    return " ".join(w for w in (*every, trait, early, *focal, front, noun, back, late) if w)

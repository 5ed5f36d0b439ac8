"""The writer of a checkpoint without a language decoder: template sentences about the phrases it was trained on.

What is found is told with slots for its numbers; a place in view in which nothing is found is told as an absence; a
structure that is not seen is told to be out of view. All of it is checked again like any other writer's sentences.
"""

from __future__ import annotations

from collections.abc import Sequence

from vol3d.appearance import Appearance
from vol3d.cache import Entry
from vol3d.text.looks import density_of, plain_of, uptake_of
from vol3d.text.organs import SIDES
from vol3d.text.statements import SideWord
from vol3d.text.things import FOCAL, NODE
from vol3d.workflows.appearances import appearance_of
from vol3d.workflows.drafts import Context, Draft
from vol3d.workflows.evidence import Evidence, Evidences
from vol3d.workflows.found import Found, things_found
from vol3d.workflows.ground import IMPRESSION
from vol3d.workflows.known import WITNESSES, Known, Thing

_TITLES = {"lung": "lungs", "kidney": "kidneys", "bone": "bones", "soft_tissue": "soft tissues", "adrenal": "adrenals"}


class TemplateWriter:
    """A `Writer` by rule.

    Args:
        known: what the checkpoint can be asked for.
        evidences: shared with those who check the sentences, so that nothing is asked twice.
    """

    def __init__(self, known: Known, evidences: Evidences) -> None:
        self.known, self._evidences = known, evidences

    def write_report(self, entry: Entry, context: Context) -> list[Draft]:
        """Organ by organ, then the impression; organs alone where the checkpoint knows no findings."""
        known, evidence = self.known, self._evidences.of(entry)
        things = known.shown_by(entry.images)
        evidence.ask([*(t.phrase for t in things), *known.sites.values()])
        if not things:
            return [self._structure(site, entry) for site in known.sites.values() if evidence.present(site)]
        found = things_found(known, evidence)
        organs = sorted({t.organ for t in things}, key=_order)
        drafts: list[Draft] = []
        for organ in organs:
            here = [f for f in found if f.thing.organ == organ]
            drafts += [self._told(f, evidence, title(organ)) for f in here]
            if organ is not None or len(organs) == 1:
                drafts += self._rest(organ, {f.thing.side for f in here}, evidence)
        return drafts + self._impression(found, entry)

    def write_answers(self, entry: Entry, questions: Sequence[str], context: Context) -> list[str]:
        """Nothing: what rules and measurement can answer is answered without a writer (`vol3d.workflows.answer`)."""
        return [""] * len(questions)

    def _told(self, found: Found, evidence: Evidence, section: str) -> Draft:
        entry, looks = evidence.entry, appearance_of(found.part, evidence, self.known)
        series = "ct" if "ct" in entry.images else "pet"
        uptake = ", SUVmax <suv_max_1>" if "pet" in entry.images else ""
        sentence = (
            f"{_capital(described(found.thing, looks))}, longest diameter <size_1>, volume <volume_1>{uptake} "
            f"(largest on {series} slice <slice_1>, z = <z_1>)."
        )
        phrases = (found.thing.phrase,)
        return Draft(section, sentence, claim="present", phrases=phrases, at_mm=found.part.centroid_mm)

    def _structure(self, site: str, entry: Entry) -> Draft:
        series = "ct" if "ct" in entry.images else "pet"
        sentence = f"{_capital(site)}: volume <volume_1> ({series} slices <slice_1>)."
        return Draft("structures", sentence, claim="present", phrases=(site,))

    def _rest(self, organ: str | None, told: set[str | None], evidence: Evidence) -> list[Draft]:
        """What of an organ holds nothing, and what of it is out of view; side by side where phrases name sides."""
        things = [t for t in self.known.shown_by(evidence.entry.images) if t.organ == organ]
        sides = [s for s in SIDES if any(t.side == s for t in things)]
        whole = [t for t in things if t.side not in SIDES]
        section, organs = title(organ), () if organ is None else (organ,)
        drafts: list[Draft] = []
        clear: list[tuple[str, ...]] = []
        groups: list[SideWord] = [*sides] or [None]
        for side in groups:
            mine = tuple(t.phrase for t in things if t.side == side) or tuple(t.phrase for t in whole)
            places = self.known.places(mine[0], organs, side)
            unseen = [p for p in places or [] if not evidence.likely(p)]
            if unseen:
                drafts += [Draft(section, _not_seen(p, evidence), claim="outside", phrases=(p,)) for p in unseen]
            elif side not in told and not (None in told or "bilateral" in told):
                clear.append(mine)
        if clear:
            phrases = tuple(p for group in clear for p in group)
            words = [t.phrase for t in whole[:1]] if len(clear) == len(sides) and whole else list(phrases)
            imaged = "" if self.known.places(words[0], organs, None) else " in the imaged region"
            sentence = f"{', no '.join(f'{w}' for w in words)}{imaged}."
            drafts.insert(0, Draft(section, f"No {sentence}", claim="absent", phrases=phrases))
        return drafts

    def _impression(self, found: Sequence[Found], entry: Entry) -> list[Draft]:
        if not found:
            sentence = "None of the findings that are looked for is seen in the imaged region."
            phrases = tuple(t.phrase for t in self.known.shown_by(entry.images))
            return [Draft(IMPRESSION, sentence, claim="absent", phrases=phrases)]
        return [
            impression_of(
                f.thing.phrase,
                "pet" in entry.images,
                f.part.centroid_mm,
                told=named_as_seen(f.thing, appearance_of(f.part, self._evidences.of(entry), self.known)),
            )
            for f in sorted(found, key=lambda f: -f.part.voxels)
        ]


def impression_of(phrase: str, with_pet: bool, at_mm: tuple[float, float, float], told: str | None = None) -> Draft:
    """One line of an impression about the thing there, in the phrase's words or others."""
    uptake = ", SUVmax <suv_max_1>" if with_pet else ""
    return Draft(
        IMPRESSION, f"{_capital(told or phrase)}, <size_1>{uptake}.", claim="present", phrases=(phrase,), at_mm=at_mm
    )


def described(thing: Thing, looks: Appearance) -> str:
    """A lesion's or node's phrase with words for what was measured: "avid hypodense lesion in the liver".

    Words of the phrase itself that do not hold are left out; other findings are told as they are.
    """
    if not thing.families & {FOCAL, NODE}:
        return thing.phrase
    phrase = named_as_seen(thing, looks)
    words = [looks.uptake if uptake_of(phrase) is None else None, looks.word if density_of(phrase) is None else None]
    return " ".join([*(w for w in words if w), phrase])


def named_as_seen(thing: Thing, looks: Appearance) -> str:
    """The phrase, without its words on density and uptake where they were measured not to hold."""
    return plain_of(thing.phrase) if looks.fits(thing.phrase) is False else thing.phrase


def _not_seen(place: str, evidence: Evidence) -> str:
    why = "removed, or never there" if evidence.taken_out(place) else "out of the field of view or removed"
    return f"{_capital(place)} not seen: {why}."


def title(organ: str | None) -> str:
    """The section of an organ of vocabulary/places.yaml."""
    return "other" if organ is None else _TITLES.get(organ, organ.replace("_", " "))


def _order(organ: str | None) -> tuple[int, str]:
    names = list(WITNESSES)
    return (names.index(organ) if organ in names else len(names), organ or "~")


def _capital(phrase: str) -> str:
    return phrase[:1].upper() + phrase[1:]

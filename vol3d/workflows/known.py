"""What a checkpoint was trained to find, by the words of its phrases: things in places, and the places themselves."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property

from vol3d.checkpoint import Checkpoint
from vol3d.text.meaning import Meaning, is_of_many, meaning_of
from vol3d.text.mentions import laterality
from vol3d.text.organs import SIDES, names_the_whole, pair_named, structure_in, structures
from vol3d.text.plainly import plainly
from vol3d.text.reports import organs_in
from vol3d.text.statements import SideWord
from vol3d.text.things import FOCAL, NODE, families_in
from vol3d.text.uptake import needs_pet
from vol3d.workflows.size_words import SizeWords

WITNESSES: dict[str, tuple[str, ...]] = {
    "lung": ("lung", "lung_lower_lobe"), "pleura": ("lung",), "airways": ("lung", "trachea"), "pericardium": ("heart",),
    "coronary_arteries": ("heart",), "heart": ("heart",), "aorta": ("aorta",), "mediastinum": ("heart", "aorta"),
    "esophagus": ("esophagus",), "liver": ("liver",), "gallbladder": ("gallbladder",), "spleen": ("spleen",),
    "pancreas": ("pancreas",), "adrenal": ("adrenal_gland",), "kidney": ("kidney",), "bladder": ("bladder",),
    "bowel": ("stomach", "colon", "small_bowel"), "pelvis": ("bladder", "prostate"), "peritoneum": ("liver",),
    "bone": ("spine",), "soft_tissue": ("autochthon", "spine"),
}  # fmt: skip
"""Organ of a report -> structures (vocabulary/organs.yaml) of which the first that the checkpoint knows says whether
the organ is in view. The mediastinum has no mask of its own: where the whole heart is, it is."""

NEIGHBOURS = frozenset({"mediastinum", "esophagus", "peritoneum", "pelvis", "bowel"})
"""Organs whose witness is a neighbour or a part: only where it is seen whole is the organ known to be in view."""

OPEN_ENDED = frozenset({"bone", "soft_tissue", "aorta", "bowel", "peritoneum", "esophagus"})
"""Organs that no field of view holds as a whole: what is denied of them is denied of the part shown."""

_VAGUE = re.compile(r"\bfindings?\b", re.I)
"""In a trained phrase, which names what was drawn; in a report it may be anything."""

SIDED = frozenset({"lung", "pleura", "kidney", "adrenal", "breast", "axilla"})
"""Organs that come in pairs: what lies in one lies on its side, however near the midline."""


@dataclass(frozen=True)
class Thing:
    """A trained phrase that names a finding."""

    phrase: str
    families: frozenset[str]
    organ: str | None
    side: SideWord

    @property
    def kind(self) -> str:
        """The one family it is listed under."""
        return NODE if NODE in self.families else FOCAL if FOCAL in self.families else min(self.families)


class Known:
    """The things and the structures among a checkpoint's phrases.

    A phrase is a thing if it holds a finding of the vocabulary or a word such as "lesion" or "mass". Of the others,
    those that name a structure can say whether it is in view, and the rest are not used.
    """

    def __init__(self, phrases: Iterable[str], *, hears: bool = True, sizes: SizeWords | None = None) -> None:
        phrases = set(phrases)
        self.sizes: SizeWords = sizes or {}
        """What words for size mean to it."""
        self.hears = hears
        """False for a model that was trained to ignore its prompt: measurement must not help it either."""
        self.trained = frozenset(phrases)
        self.things: list[Thing] = []
        named: set[str] = set()
        for phrase in sorted(phrases):
            if families := families_in(phrase) | ({FOCAL} if _VAGUE.search(phrase) else frozenset()):
                organs = [organ for _, _, organ in organs_in(phrase)]
                self.things.append(Thing(phrase, families, organs[0] if organs else None, laterality(phrase)))
            else:
                named.add(phrase)
        self.sites: dict[str, str] = {}
        """Structure name to the phrase that asks for it."""
        for name, structure in structures().items():
            asked = [p for p in structure.phrases if p in named]
            if asked:
                self.sites[name] = asked[0]

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Known:
        """What the checkpoint's provenance lists."""
        hears = not checkpoint.model.config.text_ablation
        sizes = {word: (low, high) for word, (low, high) in checkpoint.provenance.get("size_words_mm", {}).items()}
        return cls(checkpoint.provenance.get("trained_phrases", []), hears=hears, sizes=sizes)

    @cached_property
    def plain(self) -> list[Thing]:
        """One phrase for each kind of thing and place, the one with the fewest words; sided places first."""
        return _plainest(self.things)

    def knows(
        self, families: frozenset[str], organs: tuple[str, ...] = (), specific: frozenset[str] = frozenset()
    ) -> bool:
        """Whether it was trained on anything of the kind, in one of the organs where some are named.

        Phrases without an organ count for any only if there are no others: a checkpoint that knows lesions of the liver
        and of the lungs has not learnt those of the bladder. Each of `specific` needs training of its own.
        """
        for wanted in _groups(families, specific):
            found = {t.organ for t in self.things if self._same(t, wanted)}
            if not found or (organs and found != {None} and found.isdisjoint(organs)):
                return False
        return True

    def denying(
        self,
        families: frozenset[str],
        organs: tuple[str, ...],
        side: SideWord,
        specific: frozenset[str] = frozenset(),
    ) -> list[str]:
        """The phrases that must all be absent for a denial to hold; [] if it cannot be checked.

        For an organ, only those that name it: "primary tumour" being absent says nothing of the liver. Every organ that
        is denied must have one, and so must each of `specific`: lesions that are absent say nothing of emphysema.
        """
        out: list[str] = []
        for wanted in _groups(families, specific):
            phrases = self._denying(wanted, organs, side)
            if not phrases:
                return []
            out += phrases
        return list(dict.fromkeys(out))

    def _denying(self, families: frozenset[str], organs: tuple[str, ...], side: SideWord) -> list[str]:
        found = [t for t in self.plain if self._same(t, families)]
        found = found or _plainest([t for t in self.things if self._same(t, families)])
        if not organs:
            return [t.phrase for t in found]
        out: list[str] = []
        for organ in organs:
            here = [t for t in found if t.organ == organ]
            wanted = {side} if side in SIDES else set(SIDES)
            sided = [t for t in here if t.side in wanted]
            if not here:
                return []
            out += [t.phrase for t in (sided if {t.side for t in sided} == wanted else here)]
        return out

    def shown_by(self, images: Collection[str]) -> list[Thing]:
        """`plain` without what only a PET can show, where there is none."""
        return [t for t in self.plain if "pet" in images or not needs_pet(t.phrase)]

    def in_own_words(self, phrase: str) -> str:
        """The phrase as training had it, where that is sure to mean the same: the trained phrase for a whole structure
        ("splenic tissue", "kidney located on the left") or for the same lesion ("abnormality in the paravertebral
        muscles" as "paraspinal lesion"), and "intrarenal" as "renal" where only the latter was trained.
        """
        phrase = phrase if phrase in self.trained else plainly(phrase)
        if phrase in self.trained:
            return phrase
        if (meaning := meaning_of(phrase)) is not None:
            own = self._by_meaning.get((meaning, is_of_many(phrase)))
            if own is not None:
                return own
            plain = self._by_meaning.get((meaning.plain, is_of_many(phrase)))
            if plain is not None:  # looks are measured: any word for them will do
                return " ".join([*(w for w in (meaning.uptake, meaning.density) if w), plain])
        structure = None if families_in(phrase) else structure_in(phrase)
        if structure is not None and structure.name in self.sites and names_the_whole(phrase, structure):
            return self.sites[structure.name]
        if (pair := pair_named(phrase)) is not None and pair in self._pairs:
            return self._pairs[pair]

        def known(match: re.Match[str]) -> str:
            whole, rest = match[0].lower(), match[1].lower()
            return match[1] if whole not in self.words and rest in self.words else match[0]

        return re.sub(r"\bintra-?(\w+)", known, phrase, flags=re.I)

    def place_of(self, phrase: str) -> str | None:
        """The place of a lesion as training named it, "in the left lung"; None where it named none like it."""
        meaning = meaning_of(phrase)
        if meaning is None or meaning.organ is None:
            return None
        wanted = (meaning.organ, meaning.structure, meaning.side)
        named = [p for m, p in self._lesions_in if (m.organ, m.structure, m.side) == wanted]
        return min(named, key=len).removeprefix("lesion ") if named else None

    @cached_property
    def _lesions_in(self) -> list[tuple[Meaning, str]]:
        named = [(meaning_of(p), p) for p in sorted(self.trained) if p.startswith("lesion in ")]
        return [(m, p) for m, p in named if m is not None and m == m.plain]

    @cached_property
    def _by_meaning(self) -> dict[tuple[Meaning, bool], str]:
        """By what it means, and whether that is said in the plural, the shortest of the trained phrases."""
        out: dict[tuple[Meaning, bool], str] = {}
        for phrase in sorted(self.trained, key=_plainness):
            if (meaning := meaning_of(phrase)) is not None:
                out.setdefault((meaning, is_of_many(phrase)), phrase)
        return out

    @cached_property
    def _pairs(self) -> dict[str, str]:
        """By structure that comes in pairs, the shortest of the trained phrases for both."""
        named = [(pair_named(p), p) for p in sorted(self.trained, key=_plainness, reverse=True)]
        return {pair: phrase for pair, phrase in named if pair is not None}

    @cached_property
    def words(self) -> frozenset[str]:
        """All words of the trained phrases, lower case."""
        return frozenset(word for phrase in self.trained for word in re.findall(r"[\w'-]+", phrase.lower()))

    def places(self, text: str, organs: tuple[str, ...], side: SideWord) -> list[str] | None:
        """Phrases that ask for the structures a text speaks of; None where the checkpoint knows none of them.

        A structure that the text names itself, else that of each organ, of both sides unless one is named.
        """
        structure = structure_in(text)
        if structure is not None and structure.name in self.sites:
            return [self.sites[structure.name]]
        out: list[str] = []
        for organ in organs:
            sides = [side] if side in SIDES else list(SIDES)
            for base in WITNESSES.get(organ, ()):
                names = [base] if base in self.sites else [f"{base}_{s}" for s in sides]
                if all(name in self.sites for name in names):
                    out += [self.sites[name] for name in names]
                    break
            else:
                return None
        return list(dict.fromkeys(out)) or None

    @staticmethod
    def _same(thing: Thing, families: frozenset[str]) -> bool:
        return not families or bool(thing.families & families)


def _groups(families: frozenset[str], specific: frozenset[str]) -> list[frozenset[str]]:
    """Kinds that one trained thing can answer for: all general ones together, each specific one alone."""
    general = families - specific
    return [*([general] if general or not specific else []), *(frozenset({name}) for name in sorted(specific))]


def _plainest(things: Iterable[Thing]) -> list[Thing]:
    best: dict[tuple[str, str | None, SideWord], Thing] = {}
    for thing in things:
        key = (thing.kind, thing.organ, thing.side if thing.side in SIDES else None)
        if key not in best or _plainness(thing.phrase) < _plainness(best[key].phrase):
            best[key] = thing
    return sorted(best.values(), key=lambda t: (t.organ is None, t.side in (None, "bilateral"), t.kind == FOCAL))


def _plainness(phrase: str) -> tuple[int, bool, bool, int, str]:
    words = phrase.split()
    return len(words), words[0] in ("all", "focal"), "lesion" not in words, len(phrase), phrase

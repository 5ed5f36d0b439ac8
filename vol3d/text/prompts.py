"""How a finding is asked for: a handful of wordings that say it is there, a few that say it is not.

`prompts_for` takes a name of the vocabulary or any words. Lesions of a place are worded from the place's names
(`vocabulary/prompts.yaml`), other findings by the texts that labels are trained with (`vol3d.text.knowledge`). Several
wordings answer more steadily than one, and how far they disagree says how much hangs on the words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from vol3d.config import from_tree, read_tree
from vol3d.errors import ConfigError
from vol3d.text.knowledge import finding_texts
from vol3d.text.labeler import finding_names
from vol3d.text.organs import SIDES, Side, side_of, structure_in, structures
from vol3d.text.uptake import needs_pet

_DENIAL = re.compile(r"(?:no|without|absence of|negative for|free of|there (?:is|are) no)\b", re.I)
_ARTICLE = re.compile(r"^(?:the|an?)\s", re.I)


@dataclass(frozen=True, kw_only=True)
class FindingPrompts:
    """One finding, in words."""

    name: str
    """snake_case where it is one of the vocabulary, else the words that were given."""
    positive: tuple[str, ...]
    """Wordings that are true if it is there, at least one."""
    negative: tuple[str, ...] = ()
    """Wordings that are true if it is not."""
    sites: tuple[str, ...] = ()
    """Structures (`vol3d.text.organs`): with none of them in view, an absence means nothing. Empty: not known."""
    statement: str = ""
    """The finding as a sentence of a report; the first positive wording by default."""

    def __post_init__(self) -> None:
        for kind in ("positive", "negative"):
            given = tuple(" ".join(p.split()) for p in getattr(self, kind))
            if not all(given) or len(set(given)) < len(given) or (kind == "positive" and not given):
                least = "at least one wording" if kind == "positive" else "wordings"
                raise ConfigError(
                    f"{self.name}: expected {least} under {kind}, none empty and none twice, found {list(given)}"
                )
            object.__setattr__(self, kind, given)
        if both := set(self.positive) & set(self.negative):
            raise ConfigError(f"{self.name}: expected a wording either positive or negative, found {min(both)!r} twice")
        for site in self.sites:
            if site not in structures():
                raise ConfigError(
                    f"{self.name}: expected structures of the vocabulary as sites, such as liver or kidney_left, found "
                    f"{site!r}"
                )
        if not self.statement:
            object.__setattr__(self, "statement", f"{self.positive[0][:1].upper()}{self.positive[0][1:]}.")

    @property
    def needs_pet(self) -> bool:
        """Only a PET can tell."""
        return needs_pet(" ".join((self.name.replace("_", " "), *self.positive)))

    @property
    def wordings(self) -> tuple[str, ...]:
        """All of them, positive first."""
        return (*self.positive, *self.negative)


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One finding of a prompts file."""

    positive: tuple[str, ...]
    negative: tuple[str, ...] = ()
    site: str | None = None


def prompts_for(finding: str) -> FindingPrompts:
    """Wordings of a finding: ``liver_lesion``, ``liver lesion``, ``left pleural effusion``, or any words.

    Raises:
        ConfigError: nothing is asked, or a denial ("no effusion"): it is the finding that is asked for.
    """
    words = _ARTICLE.sub("", " ".join(finding.replace("_", " ").split()))
    if not re.search(r"\w", words):
        raise ConfigError(f"expected the name of a finding, found {finding!r}")
    if _DENIAL.match(words):
        raise ConfigError(f"expected a finding to look for, found a denial, {words!r}; leave the denial out")
    table = vocabulary()
    if (name := _key(words)) in table:
        return table[name]
    side = side_of(words)
    if side is not None and (bare := _key(re.sub(rf"\b{side}(?:-sided)?\b", " ", words, flags=re.I))) in table:
        return _sided(table[bare], bare, side, words)
    return _free(words)


def read_prompts(path: Path) -> list[FindingPrompts]:
    """Findings of a file: one a line, or (``.yaml``, ``.yml``) each with its wordings.

    In YAML a finding is a key; its value is nothing (wordings of the vocabulary), a list of positive wordings, or
    ``{positive: [..], negative: [..], site: liver}``.

    Raises:
        ConfigError: no file, unreadable, empty, a finding twice, or a value of another form.
    """
    path = Path(path)
    if path.suffix.lower() in (".yaml", ".yml"):
        found = [_from_row(str(name), row, f"{path}: {name}") for name, row in read_tree(path).items()]
    else:
        found = [prompts_for(line) for line in _lines(path)]
    if not found:
        raise ConfigError(f"expected at least one finding in {path}, found none")
    return distinct(found)


def distinct(prompts: list[FindingPrompts]) -> list[FindingPrompts]:
    """The same findings.

    Raises:
        ConfigError: one is named twice.
    """
    names = [p.name for p in prompts]
    twice = [n for n in names if names.count(n) > 1]
    if twice:
        raise ConfigError(f"expected every finding once, found {twice[0]!r} {names.count(twice[0])} times")
    return prompts


@cache
def vocabulary() -> dict[str, FindingPrompts]:
    """Every finding that has wordings of its own, by name."""
    tree, places = _tree(), _tree()["places"]
    lesions = {f"{p}_lesion": p for p in places if p not in tree["places_of"].values()}
    lesions |= {f"fdg_avid_{name}": place for name, place in lesions.items()} | tree["places_of"]
    sites = {name: site for site, names in tree["sites"].items() for name in names}
    out = {name: _made(name, list(finding_texts(name)), sites.get(name)) for name in finding_names()}
    return out | {n: _lesion(n, places[place], n.startswith("fdg_avid_")) for n, place in lesions.items()}


@cache
def _tree() -> dict[str, Any]:
    return yaml.safe_load((files("vol3d.text") / "vocabulary" / "prompts.yaml").read_text())


def _made(name: str, positive: list[str], site: str | None) -> FindingPrompts:
    positive = list(dict.fromkeys(positive))
    denied = [p for p in positive if not p.startswith(("the ", "evidence of "))]
    negative = (f"no {denied[0]}", f"no evidence of {denied[0]}", f"without {denied[min(1, len(denied) - 1)]}")
    return FindingPrompts(name=name, positive=tuple(positive), negative=negative, sites=_sites_named(site))


def _lesion(name: str, place: dict[str, Any], avid: bool, side: Side | None = None) -> FindingPrompts:
    """ "liver lesion", "hepatic lesion", "lesion in the liver", "focal lesion in the liver", "focal hepatic lesion"."""
    before = f"{side} " if side else ""
    words = [before + w for w in place["words"]]
    where = place["sided"].format(side=side) if side else place["where"]
    if avid:
        phrases = [
            f"FDG-avid {words[0]} lesion", f"hypermetabolic {words[-1]} lesion", f"FDG-avid lesion {where}",
            f"{words[0]} lesion with increased FDG uptake",
        ]  # fmt: skip
    else:
        phrases = [*(f"{w} lesion" for w in words), f"lesion {where}", f"focal lesion {where}",
                   f"focal {words[-1]} lesion"]  # fmt: skip
    site = place.get("site")
    return _made(name, phrases, f"{site}_{side}" if side and f"{site}_{side}" in structures() else site)


def _sided(plain: FindingPrompts, base: str, side: Side, words: str) -> FindingPrompts:
    tree = _tree()
    place = tree["places_of"].get(base) or base.removeprefix("fdg_avid_").removesuffix("_lesion")
    if "sided" in tree["places"].get(place, {}):
        return _lesion(words.lower(), tree["places"][place], base.startswith("fdg_avid_"), side)
    first = plain.positive[0]
    phrases = [f"{side} {first}", f"{side}-sided {first}", f"{first} on the {side}"]
    sites = tuple(s for s in plain.sites if s.endswith(f"_{side}")) or plain.sites
    made = _made(words.lower(), phrases, None)
    return FindingPrompts(name=made.name, positive=made.positive, negative=made.negative, sites=sites)


def _free(words: str) -> FindingPrompts:
    """The words themselves, with an article, as evidence, and with the place behind the noun."""
    moved = _place_last(words)
    phrases = [words, f"the {words}", *([moved] if moved else []), f"evidence of {words}"]
    own = structure_in(words)
    sites = [own] if own else [structure_in(f"{side} {words}") for side in SIDES]
    made = _made(words, phrases, None)
    return FindingPrompts(
        name=words, positive=made.positive, negative=made.negative, sites=tuple(s.name for s in sites if s)
    )


def _place_last(words: str) -> str | None:
    """ "calcified hepatic lesion" -> "calcified lesion in the liver"; None where no adjective of a place is certain."""
    side = side_of(words)
    for place in _tree()["places"].values():
        where = place.get("sided", "").format(side=side) if side else place["where"]
        found = re.fullmatch(rf"(?P<head>.*?)\b(?:{'|'.join(place['words'])}) (?P<noun>\w+)", words, re.I)
        if found and where:
            head = re.sub(rf"\b{side}(?:-sided)?\b", " ", found["head"]) if side else found["head"]
            return " ".join(f"{head} {found['noun']} {where}".split())
    return None


def _sites_named(site: str | None) -> tuple[str, ...]:
    """A structure, or both of a pair that is named without its side."""
    if site is None:
        return ()
    pair = tuple(f"{site}_{side}" for side in SIDES)
    return pair if site not in structures() and pair[0] in structures() else (site,)


def _from_row(name: str, row: Any, where: str) -> FindingPrompts:
    if row is None:
        return prompts_for(name)
    if isinstance(row, list):
        row = {"positive": row}
    read = from_tree(_Row, row, where)
    sites = _sites_named(read.site) if read.site else prompts_for(name).sites
    return FindingPrompts(
        name=_key(name) if _key(name) in vocabulary() else name, positive=read.positive, negative=read.negative,
        sites=sites,
    )  # fmt: skip


def _key(words: str) -> str:
    return "_".join(re.findall(r"[a-z0-9]+", words.lower()))


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise ConfigError(f"expected a file of findings, one a line or as YAML, found nothing at {path}")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"expected findings in UTF-8, one a line, found other bytes in {path}: {error}") from None
    return [line for line in lines if line.strip()]

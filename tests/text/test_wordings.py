"""Questions and phrases written without sight of the rules, each with what it means (`wordings/`).

Kinds, organs, sides, densities and uptake must be read as they were meant. What is not understood is refused, so a
share of them may be; another meaning than the one meant would be answered, so none may be.
"""

import json
from collections import Counter
from pathlib import Path

import pytest

from preprocessing.phantom_text import ORGAN_WORDS
from vol3d.text.asked import asked_about
from vol3d.text.asked_numbers import numbers_asked
from vol3d.text.asked_words import asks_beyond, asks_for_change, leaves_out
from vol3d.text.meaning import meaning_of
from vol3d.text.plainly import plainly
from vol3d.text.questions import question_kind
from vol3d.workflows.known import Known

FILES = sorted((Path(__file__).parent / "wordings").glob("*.jsonl"))
PLACES = {"spine": "bone", "autochthon": "soft tissue", "soft_tissue": "soft tissue"}
KNOWN = Known(phrase for seen, _ in ORGAN_WORDS.values() for phrase in seen)


def read_phrase(phrase, row):
    """ "right", "refused" or what was read instead."""
    meaning = meaning_of(phrase)
    if meaning is None:
        return "refused"
    place = meaning.structure or meaning.organ
    read = {"organ": PLACES.get(place, place)}
    read |= {name: getattr(meaning, name) for name in ("side", "density", "uptake", "size")}
    return "right" if read == {name: row[name] for name in read} else str(read)


def read_question(question, row):
    kind = question_kind(question)
    if kind != row["kind"]:
        return "other kind"
    if kind == "modality":
        return "right"
    plain, phrase = plainly(question), asked_about(question)
    numbers = numbers_asked(plain)
    if phrase is None or asks_for_change(plain) or numbers.trouble:
        return "refused"
    figure = {"size": "diameter", None: "diameter"}.get(numbers.figure, numbers.figure)
    return read_phrase(phrase, row) if kind != "size" or figure == row["figure"] else f"another figure: {figure}"


def read_structure(structure, row):
    own = KNOWN.in_own_words(structure)
    named = [name for name, (seen, _) in ORGAN_WORDS.items() if own in seen]
    return "right" if named == [row["name"]] else str(named) if named else "refused"


READERS = {"q": read_question, "phrase": read_phrase, "structure": read_structure}


def test_there_are_wordings():
    assert FILES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize(("key", "least"), [("q", 0.85), ("phrase", 0.85), ("structure", 0.75)])
def test_words_of_strangers_are_understood_or_refused(path, key, least):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    read = {row[key]: READERS[key](row[key], row) for row in rows if key in row}
    count = Counter(read.values())
    assert count["right"] >= least * len(read), [text for text, outcome in read.items() if outcome != "right"]
    assert not {text: outcome for text, outcome in read.items() if outcome not in ("right", "refused", "other kind")}


@pytest.mark.parametrize(("name", "most"), [("traps_of_vendors", 0.04), ("traps_of_the_ward", 0.04)])
def test_traps_are_not_taken_for_the_simpler_question(name, most):
    """Questions that say more than a plain one: a part of an organ, beside it, a change, a judgement, another thing."""
    rows = [json.loads(line) for line in (Path(__file__).parent / f"{name}.jsonl").read_text().splitlines()]
    taken = []
    for row in rows:
        plain, phrase = plainly(row["q"]), asked_about(row["q"])
        refused = asks_beyond(plain) or leaves_out(plain) or asks_for_change(plain) or numbers_asked(plain).trouble
        if not refused and phrase is not None and meaning_of(phrase) is not None:
            taken.append(row["q"])
    assert len(taken) <= most * len(rows), taken  # SUVpeak, a mean diameter, a lobe are known where they are known


@pytest.mark.parametrize(
    ("trap", "plain"),
    [
        ("nodule of the subpleural lung", "nodule of the lung"),
        ("lung nodule near the aorta", "lung nodule"),
        ("lesion with Deauville 5 uptake", "lesion with uptake"),
    ],
)
def test_what_narrows_a_place_or_grades_uptake_has_no_meaning(trap, plain):
    assert meaning_of(plain) is not None
    assert meaning_of(trap) is None


def test_what_is_gone_needs_an_earlier_study_and_an_average_of_several_is_not_measured():
    assert asks_for_change("Are the avid spine lesions gone?")
    assert not asks_for_change("Is there a spot where the bone has gone extra thick?")
    assert numbers_asked("What is the average size of the right lung nodules?").trouble
    assert not numbers_asked("What is the average diameter of the right lung nodule?").trouble

from collections import Counter

import pytest

from preprocessing.phantom import generate_study
from preprocessing.phantom_pairs import pairs_of, presence_pairs
from preprocessing.phantom_questions import Study
from preprocessing.phantom_scan import PhantomOptions
from preprocessing.phantom_text import Query, all_queries, wordings
from vol3d.text.organs import side_of

OPTIONS = PhantomOptions(ct_spacing_mm=(9, 9), pet_spacing_mm=((9, 9, 9),), lesions=(2, 5))


@pytest.fixture(scope="module")
def rows() -> dict[str, dict]:
    studies = [generate_study(i, 6, options=OPTIONS).row for i in range(8)]
    return {row["study_id"]: row for row in studies}


def true_phrases(row):
    return {p for phrases in [m["phrases"] for m in row["masks"]] for p in phrases} | {
        p for phrases in row["meta"]["unseen_phrases"].values() for p in phrases
    }


def meanings(phrase: str) -> list[Query]:
    """Every query that a phrase is a wording of."""
    found = [q for q in all_queries(True) if any(phrase in w for w in wordings(q, 1))]
    assert found, phrase
    return found


def false_phrases(row):
    return {*row["absent"], *row["meta"]["unseen_absent"]}


@pytest.mark.parametrize("wording", ["seen", "unseen"])
def test_one_member_is_true_and_the_other_is_not(rows, wording):
    pairs = [p for row in rows.values() for p in pairs_of(row, wording)]
    assert set(Counter(p.kind for p in pairs)) == {"side", "organ", "size", "uptake", "density"}
    for pair in pairs:
        row = rows[pair.present_study]
        assert pair.present != pair.absent
        assert pair.present not in false_phrases(row)
        assert pair.absent not in true_phrases(row)
        lesions = Study(row).traits
        assert any(q.matches(t) for q in meanings(pair.present) for t in lesions), pair
        assert not any(q.matches(t) for q in meanings(pair.absent) for t in lesions), pair


def test_side_pairs_name_opposite_sides(rows):
    pairs = [p for row in rows.values() for p in pairs_of(row) if p.kind == "side"]
    assert len(pairs) >= 4
    for pair in pairs:
        assert {side_of(pair.present), side_of(pair.absent)} == {"left", "right"}


def test_presence_pairs_ask_two_studies_the_same(rows):
    pairs = presence_pairs(list(rows.values()))
    assert len(pairs) >= 8
    for pair in pairs:
        assert pair.present == pair.absent
        assert pair.present_study != pair.absent_study
        assert pair.absent not in true_phrases(rows[pair.absent_study])
        assert pair.present not in false_phrases(rows[pair.present_study])


def test_pairs_are_always_the_same(rows):
    row = next(iter(rows.values()))
    assert pairs_of(row) == pairs_of(dict(row))

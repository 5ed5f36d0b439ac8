import numpy as np
import pytest

from vol3d.metrics.probes import PairAnswer, QuestionAnswer, score_pairs, score_questions


def test_a_pair_is_right_only_if_both_members_are():
    answers = [
        PairAnswer("side", True, True, "a"), PairAnswer("side", True, False, "b"),
        PairAnswer("side", False, False, "c"), PairAnswer("presence", True, True, "a"),
    ]  # fmt: skip
    scores = score_pairs(answers, samples=50)
    assert list(scores) == ["presence", "side", "all"]
    assert scores["side"].both.value == pytest.approx(1 / 3)
    assert scores["side"].single.value == pytest.approx(0.5)
    assert scores["side"].one_only == pytest.approx(1 / 3)
    assert scores["all"].both.value == 0.5
    assert scores["all"].both.patients == 3


def test_always_yes_gets_no_pair():
    yes = score_pairs([PairAnswer("presence", True, False, str(i)) for i in range(10)], samples=20)
    assert (yes["all"].both.value, yes["all"].single.value, yes["all"].one_only) == (0, 0.5, 1)
    assert score_pairs([]) == {}


def test_questions_by_kind_with_the_majority_and_what_is_made_up():
    answers = [
        QuestionAnswer("yes_no", "yes", True, 1, "a"),
        QuestionAnswer("yes_no", "yes", False, 0, "b"),
        QuestionAnswer("yes_no", "no", True, 1, "b", adversarial=True),
        QuestionAnswer("side", "none", False, 0, "a", adversarial=True, made_up=True),
        QuestionAnswer("open", "nodule", False, 0.5, "c"),
    ]
    table = score_questions(answers, samples=50)
    assert list(table.by_kind) == ["open", "side", "yes_no", "all"]
    assert table.by_kind["yes_no"].right.value == pytest.approx(2 / 3)
    assert table.by_kind["yes_no"].majority == pytest.approx(2 / 3)
    assert table.by_kind["open"].score.value == 0.5
    assert table.by_kind["all"].right.value == pytest.approx(2 / 5)
    assert table.by_kind["all"].majority == pytest.approx((2 + 1 + 1) / 5)
    assert (table.adversarial_right.value, table.made_up.value) == (0.5, 0.5)
    assert np.isnan(score_questions([]).made_up.value)

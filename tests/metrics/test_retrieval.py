import numpy as np
import pytest

from vol3d.errors import Vol3dError
from vol3d.metrics.retrieval import both_ways, groups_of, ranks_of, retrieval

# the right text is first for image 0, second for image 1, third for image 2
SIMILARITY = np.array([[0.9, 0.1, 0.2], [0.6, 0.5, 0.1], [0.7, 0.6, 0.3]])


def test_recall_and_median_rank_by_hand():
    there = retrieval(SIMILARITY, ranks=(1, 2))
    assert there.recall[1].value == pytest.approx(1 / 3)
    assert there.recall[2].value == pytest.approx(2 / 3)
    assert there.median_rank == 2
    assert there.chance[1] == pytest.approx(1 / 3)
    assert (there.queries, there.candidates) == (3, 3)


def test_both_directions_differ():
    both = both_ways(SIMILARITY, ranks=(1,))
    assert both["image_to_text"].recall[1].value == pytest.approx(1 / 3)
    assert both["text_to_image"].recall[1].value == pytest.approx(2 / 3)  # columns: 0.9 first, 0.5 second, 0.3 first
    assert both["text_to_image"].median_rank == 1


def test_ties_count_against_the_model():
    blind = retrieval(np.zeros((4, 4)), ranks=(1,))
    assert blind.recall[1].value == 0
    assert blind.median_rank == 4
    assert ranks_of(np.array([[0.5, 0.5, 0.1]]), np.array([[True, False, False]])).tolist() == [2]


def test_identical_texts_are_right_for_each_other():
    groups = groups_of(["No focal lesion.", "no  focal lesion. ", "Nodule."])
    assert groups == [0, 0, 1]
    similarity = np.array([[0.1, 0.9, 0.5], [0.9, 0.1, 0.5], [0.0, 0.1, 0.2]])
    assert retrieval(similarity, ranks=(1,)).recall[1].value == pytest.approx(1 / 3)
    assert retrieval(similarity, groups, groups, ranks=(1,)).recall[1].value == 1
    assert retrieval(similarity, groups, groups, ranks=(1,)).chance[1] == pytest.approx((2 + 2 + 1) / 9)


def test_chance_agrees_with_random_orders():
    generator = np.random.default_rng(0)
    groups = [0, 0, 0, 1, 1, 2, 3, 4, 5, 6]
    drawn = [retrieval(generator.random((10, 10)), groups, groups, ranks=(3,), samples=1) for _ in range(800)]
    assert np.mean([d.recall[3].value for d in drawn]) == pytest.approx(drawn[0].chance[3], abs=0.02)


def test_a_k_that_is_no_choice_is_nan():
    assert np.isnan(retrieval(SIMILARITY, ranks=(3, 5)).recall[3].value)
    assert np.isnan(retrieval(SIMILARITY, ranks=(3, 5)).chance[5])


def test_intervals_are_by_patient():
    similarity = np.eye(6)
    similarity[3:] = 0
    wide = retrieval(similarity, patients_Q=["a"] * 3 + ["b"] * 3, ranks=(1,))
    assert wide.recall[1].patients == 2
    assert (wide.recall[1].low, wide.recall[1].high) == (0, 1)


def test_malformed_input_is_refused():
    with pytest.raises(Vol3dError, match="finite similarities, found 1"):
        retrieval(np.array([[np.nan, 0.0], [0.0, 1.0]]))
    with pytest.raises(Vol3dError, match="as many images as texts"):
        both_ways(np.zeros((2, 3)))
    with pytest.raises(Vol3dError, match="none for query 1"):
        retrieval(np.zeros((2, 2)), [0, 5], [0, 1])
    with pytest.raises(Vol3dError, match="a group for each row and column"):
        retrieval(np.zeros((2, 3)))

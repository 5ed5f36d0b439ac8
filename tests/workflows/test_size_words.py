"""Words for size mean what the training data meant by them, where it was consistent."""

import numpy as np

from vol3d.appearance import Appearance
from vol3d.workflows.size_words import boundaries, fit_size_words, judge_size


def test_boundaries_lie_in_the_gaps():
    found = {"small": [20, 22, 24, 25, 26], "medium": [31, 33, 35, 36, 40], "large": [46, 50, 51, 55, 60]}
    assert boundaries(found) == {"small": (0.0, 28.5), "medium": (28.5, 43.0), "large": (43.0, 1e6)}
    assert boundaries({**found, "medium": [33]}) == {"small": (0.0, 36.0), "large": (36.0, 1e6)}  # said too seldom


def test_words_that_are_not_used_consistently_mean_nothing():
    rng = np.random.default_rng(0)
    mixed = {word: list(rng.uniform(10, 60, 20)) for word in ("small", "large")}
    assert boundaries(mixed) == {}
    assert boundaries({"small": [10, 11, 12, 13, 14]}) == {}


def test_near_a_boundary_nothing_is_told():
    words = {"small": (0.0, 30.0), "large": (30.0, 1e6)}
    assert judge_size(20.0, words) == {"small": True, "large": False}
    assert judge_size(29.0, words) == {}
    assert judge_size(33.0, words) == {"small": False, "large": True}


def test_what_is_measured_is_held_against_the_words():
    seen = Appearance(diameter_mm=20.0, sizes={"small": True, "large": False})
    assert seen.fits("small lesion in the liver") is True
    assert seen.fits("large lesion in the liver") is False
    assert seen.fits("medium-sized lesion in the liver") is None
    assert seen.fits("large bowel lesion") is None


def test_phantoms_are_consistent(oracle_cache):
    """Their radii leave gaps between the words: diameters of 21 to 27, 31 to 40 and 43 to 58 mm."""
    entries = [oracle_cache.entry(study) for study in oracle_cache.study_ids]
    found = fit_size_words(entries * 4)  # the same lesions again: three studies hold too few
    assert set(found) >= {"medium"} or not found
    for word, (low, high) in found.items():
        span = {"small": (0, 31), "medium": (25, 46), "large": (38, 1e6)}[word]
        assert span[0] <= low < high <= span[1]

"""Which figure a question asks for."""

import pytest

from vol3d.text.figures import figure_in


@pytest.mark.parametrize(
    ("question", "figure"),
    [
        ("Give the maximum standardised uptake value of the liver lesion", "suv_max"),
        ("What is the mean standardized uptake value of the nodule", "suv_mean"),
        ("What is the peak SUV of the nodule", "suv_peak"),
        ("What size is the small-volume lesion", "size"),
        ("How many millilitres does the lesion occupy", "volume"),
    ],
)
def test_the_figure_that_is_asked_for(question, figure):
    assert figure_in(question) == figure

"""Limits, ranks and figures that questions name, by hand."""

import time

import pytest

from vol3d.text.asked import asked_about, asks_for_absence
from vol3d.text.asked_numbers import numbers_asked
from vol3d.text.asked_words import asks_for_change, unknown_words
from vol3d.text.figures import figure_in, not_measured
from vol3d.text.limits import Limit
from vol3d.text.questions import normalise, question_kind


@pytest.mark.parametrize(
    ("question", "limit", "phrase"),
    [
        ("Is the nodule larger than 10 mm?", Limit("size", "more", (10.0,)), "nodule"),
        (
            "Is there a nodule > 1.5 cm in the left lung?",
            Limit("size", "more", (15.0,), 1.0),
            "nodule in the left lung",
        ),
        (
            "Does the nodule in the left lung exceed 2 cm?",
            Limit("size", "more", (20.0,), 10.0),
            "nodule in the left lung",
        ),
        ("Does the nodule measure at least 8 mm?", Limit("size", "at least", (8.0,)), "nodule"),
        ("Is the nodule no larger than 8 mm?", Limit("size", "at most", (8.0,)), "nodule"),
        ("Is the nodule 8 mm or smaller?", Limit("size", "at most", (8.0,)), "nodule"),
        ("Is the nodule about 8 mm in diameter?", Limit("size", "about", (8.0,)), "nodule"),
        ("Is the nodule between 1 and 2 cm?", Limit("size", "between", (10.0, 20.0), 10.0), "nodule"),
        ("Is the lesion 3.4 cm long?", Limit("size", "exactly", (34.0,), 1.0), "lesion"),
        ("Is the node larger than 1 cm in short axis?", Limit("short", "more", (10.0,), 10.0), "node"),
        ("Is the short axis of the node below 10 mm?", Limit("short", "less", (10.0,)), "node"),
        ("Is the volume of the lesion above 20 cc?", Limit("volume", "more", (20.0,)), "lesion"),
        ("Is the SUVmax of the lesion above 2.5?", Limit("suv_max", "more", (2.5,), 0.1), "lesion"),
        ("Does the lesion have an SUVpeak of at least 4?", Limit("suv_peak", "at least", (4.0,)), "lesion"),
    ],
)
def test_limits_are_read_and_taken_out(question, limit, phrase):
    asked = numbers_asked(question)
    (found,) = asked.limits
    assert (found.figure, found.relation, found.values) == (limit.figure, limit.relation, limit.values)
    assert found.step == pytest.approx(limit.step)
    assert asked_about(question) == phrase
    assert not asked.trouble


@pytest.mark.parametrize(
    ("question", "relation", "number", "phrase"),
    [
        ("Are there more than 3 lesions in the liver?", "more", 3, "lesions in the liver"),
        ("Are there 3 or more lesions in the liver?", "at least", 3, "lesions in the liver"),
        ("Is there only one lesion in the liver?", "exactly", 1, "lesion in the liver"),
        ("Is the lesion in the liver solitary?", "exactly", 1, "lesion in the liver"),
        ("Are there fewer than two nodules?", "less", 2, "nodules"),
        ("Are there several nodules?", "at least", 2, "nodules"),
        ("Are there exactly two FDG-avid lesions in the liver?", "exactly", 2, "FDG-avid lesions in the liver"),
    ],
)
def test_counts(question, relation, number, phrase):
    count = numbers_asked(question).count
    assert (count.figure, count.relation, count.values) == (None, relation, (number,))
    assert asked_about(question) == phrase


def test_counts_and_limits_together():
    asked = numbers_asked("Are there more than 3 lesions with an SUVmax above 5 in the liver?")
    assert asked.count == Limit(None, "more", (3.0,))
    assert asked.limits == (Limit("suv_max", "more", (5.0,)),)
    assert asked.rest == "Are there lesions in the liver"


def test_values_keep_limits():
    assert Limit("size", "exactly", (30.0,), 10.0).holds(34.2)  # 3 cm
    assert not Limit("size", "exactly", (30.0,), 1.0).holds(34.2)  # 3.0 cm
    assert Limit("size", "about", (100.0,)).holds(90.0)
    assert not Limit("size", "about", (100.0,)).holds(89.0)
    assert not Limit("size", "more", (10.0,)).holds(10.0)
    assert Limit("size", "at least", (10.0,)).holds(10.0)
    assert Limit("size", "between", (10.0, 20.0)).holds(20.0)


@pytest.mark.parametrize(
    ("question", "rank", "phrase"),
    [
        ("What is the size of the largest lesion in the liver?", 0, "lesion in the liver"),
        ("What is the diameter of the second largest lesion in the liver?", 1, "lesion in the liver"),
        ("How large is the smallest of the lesions in the liver?", -1, "lesions in the liver"),
        ("Where is the second smallest nodule?", -2, "nodule"),
        ("What is the largest diameter of the lesion?", None, "lesion"),
    ],
)
def test_ranks(question, rank, phrase):
    assert numbers_asked(question).rank == rank
    assert asked_about(question) == phrase


@pytest.mark.parametrize(
    ("question", "figure", "missing"),
    [
        ("What is the short axis diameter of the nodule?", "short", None),
        ("What is the mean diameter of the nodule?", "mean", None),
        ("What is the TLG of the lesion?", "tlg", None),
        ("How high is the peak uptake of the lesion?", "suv_peak", None),
        ("On which slice is the lesion?", "slice", None),
        ("On which slice does the lesion end?", "last_slice", None),
        ("What is the craniocaudal length of the nodule?", "size", "the craniocaudal extent"),
        ("What is the mean density of the nodule?", None, "density in HU"),
        ("How many slices does the nodule span?", None, "the number of slices"),
        ("Where is the nodule without FDG uptake?", None, None),
        ("Which organ holds the lesion of soft-tissue density?", None, None),
        ("Which imaging modality is this?", None, None),
    ],
)
def test_figures(question, figure, missing):
    assert (figure_in(question), not_measured(question)) == (figure, missing)


@pytest.mark.parametrize(
    "question",
    ["What is the TLG of the lesion?", "On which slice is the lesion?", "What is the smallest lesion in the liver?",
     "What is the density in HU of the lesion?", "What is the short axis of the node?"],
)  # fmt: skip
def test_questions_for_a_figure_are_not_open(question):
    assert question_kind(question) == "size"


@pytest.mark.parametrize(
    ("question", "change"),
    [
        ("Is the nodule new?", True), ("Has the nodule grown?", True), ("Did the lesion shrink?", True),
        ("Is the nodule larger than in the previous study?", True), ("Is the lesion smaller than before?", True),
        ("Is the lesion smaller than 2 cm?", False), ("Are there enlarged lymph nodes?", False),
        ("Is there a lesion with increased FDG uptake?", False), ("What is the last slice of the lesion?", False),
    ],
)  # fmt: skip
def test_change_over_time(question, change):
    assert asks_for_change(question) is change


def test_words_nobody_taught():
    assert unknown_words("malignant nodule in the right lung") == ("malignant",)
    assert unknown_words("malignant nodule in the right lung", frozenset({"malignant"})) == ()
    assert unknown_words("nodule with cavitation") == ("cavitation",)
    for phrase in (
        "densely calcified nodule in the right lung", "metabolically inactive intrahepatic lesion", "left kidney",
        "metastases in the liver", "osteolytic focal bone lesion", "soft-tissue density lesion in a vertebral body",
    ):  # fmt: skip
        assert unknown_words(phrase) == ()


def test_refusals_and_restricted_absences_have_their_normal_forms():
    for kind in ("yes_no", "count", "side", "location", "size", "open"):
        assert normalise("That cannot be answered: no PET, and only a PET can show it.", kind) is None
        assert normalise("That cannot be measured: there is no PET to measure uptake on.", kind) is None
    assert normalise("No. That holds for the imaged part.", "yes_no") == "no"
    assert normalise("0 in the imaged part", "count") == "0"
    assert normalise("ct slice 29, z = 34.5 mm", "size") == "slice 29"


@pytest.mark.parametrize("start", ["Is the", "Is the largest", "How large is the", "Does the", "Which slices show the"])
def test_long_questions_are_read_at_once(start):
    question = f"{start} {'metabolically inactive hypoattenuating paraspinal soft-tissue density ' * 12}?"
    begin = time.perf_counter()
    asked_about(question), asks_for_absence(question), asks_for_change(question), numbers_asked(question)
    unknown_words(question)
    assert time.perf_counter() - begin < 5.0

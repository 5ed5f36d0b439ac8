"""What a reader learns to write, and the rows it is shown with it."""

import numpy as np
import pytest

from vol3d.data.looks import Look, load_look
from vol3d.data.readings import ReadingDataset, parts_of, rows_about, stacked
from vol3d.data.regions import DIAMETER_SCALE_MM, FACTS
from vol3d.data.report_texts import (
    CONTEXT_FIELDS,
    Probes,
    context_of,
    link,
    question_prompt,
    readings_of,
    report_sections,
    section_prompt,
    usual_sections,
    with_context,
    without_numbers,
)
from vol3d.errors import CacheError
from vol3d.text.slots import take_numbers

REPORT = {
    "findings": "Lungs: There is a 14 mm solid nodule in the left lung, SUVmax 4.2. "
    "It has grown since the prior study.\nLiver: No focal hepatic lesion.",
    "impression": "1. Nodule of the left lung (14 mm).",
    "indication": "Staging.",
}
PROBES = Probes(("liver", "left lung"), ("lesion in the liver", "lesion in the left lung"))


def row(diameter_mm=0.0, suv_max=0.0, volume=0.0):
    values = {"present": float(diameter_mm > 0), "diameter": diameter_mm / DIAMETER_SCALE_MM, "volume": volume,
              "suv_max": np.log1p(suv_max), "pet": 1.0, "ct": 1.0}  # fmt: skip
    return [values.get(name, 0.0) for name in FACTS] + [0.0] * 4


def look(study="a", asked=True):
    """No lesion of the liver, two of the left lung: 15 mm with SUVmax 4, and 30 mm with 9."""
    facts = np.array([row(150, 3), row(250, 2), row(), row(15, 4.0, 0.3), row(30, 9.0, 1.1)], np.float32)
    rows = {"solid nodule": facts[3:] + 100} if asked else {}
    probe = np.array([0, 1, 2, 3, 3])
    return Look(study, np.ones((3, 6), np.float32), np.zeros((3, 3), np.float32), probe, facts, rows)


def templates(sections):
    return {name: [s.template for s in told] for name, told in sections.items()}


def test_sections_follow_the_headings_without_numbers_or_priors():
    found = templates(report_sections(REPORT))
    assert found == {
        "lungs": ["There is a <size_1> solid nodule in the left lung, SUVmax <suv_max_1>."],
        "liver": ["No focal hepatic lesion."],
        "impression": ["Nodule of the left lung (<size_1>)."],
    }


def test_without_headings_the_organ_decides():
    text = "The lungs are clear. No pleural effusion. A cyst of 12 mm in the right kidney. It is simple."
    found = templates(report_sections({"findings": text}))
    assert found["lung"] == ["The lungs are clear."]
    assert found["kidney"] == ["A cyst of <size_1> in the right kidney.", "It is simple."]
    assert set(found) == {"lung", "pleura", "kidney"}


def test_usual_sections_keep_their_order_and_rare_ones_are_left_out():
    rare = {"findings": "Lungs: Clear.\nSpine: Intact.\nLiver: Normal."}
    assert usual_sections([REPORT, REPORT, rare]) == ("lungs", "liver", "impression")
    assert usual_sections([{}]) == ()


def test_readings_of_a_study(make_cache, make_study):
    data = make_study("a")
    data.attributes["report"] = REPORT
    data.attributes["qa"] = [
        {"q": "How large is the nodule?", "a": "14.2 mm", "type": "size"},
        {"q": "How big is it?", "a": "14.2 mm", "type": "size", "wording": "unseen"},
    ]
    found = readings_of(make_cache(data).entry("a"), look(), ("lungs", "liver", "impression"), PROBES)
    nodule = "There is a <size_1> solid nodule in the left lung, SUVmax <suv_max_1>."
    assert [(r.prompt, r.answer, r.row) for r in found] == [
        ("lungs finding:", nodule, 3),
        ("lungs:", "", None),
        ("liver:", "No focal hepatic lesion.", None),
        ("impression finding:", "Nodule of the left lung (<size_1>).", 3),
        ("impression:", "", None),
        ("size question: How large is the nodule? answer:", "<size_1>", None),
    ]
    assert found[0].context == (("indication", "Staging."),)
    assert section_prompt("liver", found[0].context) == "indication: Staging. liver:"


def test_the_prior_report_is_context_in_training(make_cache, make_study):
    data = make_study("a")
    data.attributes["report"] = REPORT
    data.attributes["prior"] = {"report": {"findings": "Nodule of 12 mm.", "impression": "Stable, SUVmax 7.3."}}
    found = readings_of(make_cache(data).entry("a"), look(), ("lungs", "liver"), PROBES)
    assert {r.context for r in found} == {
        (("indication", "Staging."), ("prior report", "Stable, SUVmax measured. Nodule of measured."))
    }
    told = "indication: Staging. prior report: Stable, SUVmax measured. Nodule of measured. liver:"
    assert section_prompt("liver", found[0].context) == told


def test_context_is_cut_and_a_report_gives_its_impression_first():
    text = (
        "INDICATION\nStaging.\n\nFINDINGS\nLungs: A nodule, 12.0 mm.\n\nIMPRESSION\n1. One nodule (12.0 mm).\n\n"
        "NOT ASSESSED\n- No PET: uptake was not measured.\n\nWritten by software.\n"
    )
    told = dict(context_of({"indication": "word " * 300, "comparison": None, "prior_report": text}))
    assert told == {
        "indication": " ".join(["word"] * CONTEXT_FIELDS["indication"]),
        "prior report": "1. One nodule (measured). Lungs: A nodule, measured.",
    }
    long = with_context(context_of(dict.fromkeys(CONTEXT_FIELDS, "word " * 300)))
    assert len(long.split()) == sum(CONTEXT_FIELDS.values()) + 4  # the names before them
    assert context_of({}) == ()


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("Known 14 mm nodule, SUVmax 7.3, slice 41.", "Known measured nodule, SUVmax measured, slice measured."),
        ("CT of 2020: 12 x 8 mm.", "CT of 2020: measured."),
        ("grew from 12 to 14 mm (+17%)", "grew from measured (measured)"),
        ("SUVmax 5.1 -> 7, before 4; 25 HU", "SUVmax measured -> measured, before measured; measured"),
        ("3 nodules, L3, 65-year-old, 12.05.2020", "3 nodules, L3, 65-year-old, 12.05.2020"),
        ("a <size_1> mass", "a measured mass"),
    ],
)
def test_measured_numbers_become_a_word_that_is_no_slot(told, expected):
    assert without_numbers(told) == expected == without_numbers(expected)


def test_a_question_is_asked_without_its_numbers():
    expected = "yes_no question: Is the measured nodule, SUVmax measured, in the liver? answer:"
    assert question_prompt("Is the 14 mm nodule, SUVmax 7.3, in the liver?") == expected


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (["A 14 mm nodule in the left lung.", "A 29 mm nodule in the left lung."], [3, 4]),
        (["A 29 mm nodule in the left lung.", "A 14 mm nodule in the left lung."], [4, 3]),
        (["A 14 mm nodule in the right lung."], []),  # another side
        (["A 14 mm lesion in the liver."], []),  # nothing was found there
        (["A 20 mm nodule in the left lung, SUVmax 8.8."], [4]),  # 20 mm is nearer to 15, its uptake is not
        (["A 70 mm mass in the left lung."], []),
        (["A 15 mm nodule in the left lung."] * 2, [3]),  # one row, one sentence
    ],
)
def test_sentences_are_linked_to_what_was_seen(told, expected):
    found = link([take_numbers(s) for s in told], look(), PROBES)
    assert [n for _, n in found] == expected


def test_parts_are_told_largest_first():
    assert parts_of(look(), "lungs", PROBES) == [4, 3]
    assert parts_of(look(), "impression", PROBES) == [4, 3]
    assert parts_of(look(), "liver", PROBES) == []


def test_a_row_alone_can_be_marked():
    assert rows_about(look(), "lungs", None, PROBES, 4).about_N.tolist() == [False] * 4 + [True]


@pytest.mark.parametrize(
    ("about", "marked"),
    [
        ("lungs", [False, True, False, True, True]),
        ("liver", [True, False, True, False, False]),
        ("impression", [False, False, True, True, True]),
        ("other", [False] * 5),
    ],
)
def test_rows_say_what_a_section_is_about(about, marked):
    assert rows_about(look(), about, None, PROBES).about_N.tolist() == marked


def test_rows_of_the_phrase_a_question_asks_about_stand_behind():
    rows = rows_about(look(), "How large is the solid nodule?", "solid nodule", PROBES)
    assert rows.probe_N.tolist() == [0, 1, 2, 3, 3, 4, 4]
    assert rows.facts_NF[5:].tolist() == (look().facts_NF[3:] + 100).tolist()
    assert rows.about_N.tolist() == [False] * 5 + [True] * 2
    unknown = rows_about(look(), "?", "something else", PROBES)
    assert len(unknown.probe_N) == 5


def test_a_look_comes_back_from_its_file(tmp_path):
    look().save(tmp_path)
    back = load_look(tmp_path, "a")
    assert back.asked.keys() == {"solid nodule"}
    for name in ("cell_VC", "place_V3", "probe_N", "facts_NF"):
        np.testing.assert_array_equal(getattr(back, name), getattr(look(), name))
    (tmp_path / "a.safetensors").write_bytes(b"short")
    with pytest.raises(CacheError, match="none that can be read"):
        load_look(tmp_path, "a")
    with pytest.raises(CacheError, match="expected what the model saw of b"):
        load_look(tmp_path, "b")


def dataset(folder, readings, **settings):
    more = {"facts_noise": 0.1, "blind_cells": 0.5, "context_share": 0.5, "seed": 3, **settings}
    return ReadingDataset(folder, readings, lambda question: "solid nodule", PROBES, np.full(23, 2.0), **more)


@pytest.fixture
def readings(make_cache, make_study, tmp_path):
    look().save(tmp_path / "looks")
    data = make_study("a")
    data.attributes["report"] = REPORT
    data.attributes["qa"] = [{"q": "How large is the nodule?", "a": "14.2 mm", "type": "size"}]
    return readings_of(make_cache(data).entry("a"), look(), ("lungs", "liver", "impression"), PROBES)


def test_a_sample_depends_on_seed_and_number_alone(readings, tmp_path):
    one, two = dataset(tmp_path / "looks", readings), dataset(tmp_path / "looks", readings)
    for index in (7, 3, 7):
        a, b = one[index], two[index]
        assert (a.prompt, a.answer) == (b.prompt, b.answer)
        np.testing.assert_array_equal(a.rows.facts_NF, b.rows.facts_NF)
    other = dataset(tmp_path / "looks", readings, seed=4)
    assert any(one[i].prompt != other[i].prompt for i in range(12))


def test_context_noise_and_blindness_are_drawn_as_often_as_asked(readings, tmp_path):
    samples = [dataset(tmp_path / "looks", readings)[i] for i in range(400)]
    assert np.mean([s.prompt.startswith("indication: Staging. ") for s in samples]) == pytest.approx(0.5, abs=0.08)
    assert np.mean([len(s.cell_VC) == 0 for s in samples]) == pytest.approx(0.5, abs=0.08)
    noise = np.concatenate([s.rows.facts_NF[:5] - look().facts_NF for s in samples])
    assert noise.std() == pytest.approx(0.2, rel=0.05)  # of facts that vary by 2
    plain = dataset(tmp_path / "looks", readings, facts_noise=0, blind_cells=0, context_share=0)
    assert {plain[i].prompt for i in range(60)} == {r.prompt for r in readings}


def test_studies_without_text_are_nothing_to_learn_from(tmp_path):
    with pytest.raises(CacheError, match="report or questions"):
        dataset(tmp_path, [])


def test_padding_is_marked():
    short, long = (
        rows_about(look(), "lungs", None, PROBES),
        rows_about(look(), "lungs", "solid nodule", PROBES),
    )
    seen = stacked([look().cell_VC, look().cell_VC[:0]], [look().place_V3, look().place_V3[:0]], [short, long])
    assert seen.row_mask_BN.sum(1).tolist() == [5, 7]
    assert seen.cell_mask_BV.sum(1).tolist() == [3, 0]
    assert seen.facts_BNF.shape == (2, 7, 23)

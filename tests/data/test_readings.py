"""What a reader learns to write, and the rows it is shown with it."""

import numpy as np
import pytest

from vol3d.data.looks import Look, load_look
from vol3d.data.readings import (
    ReadingDataset,
    readings_of,
    report_sections,
    rows_about,
    section_prompt,
    stacked,
    usual_sections,
)
from vol3d.errors import CacheError

REPORT = {
    "findings": "Lungs: There is a 14 mm solid nodule in the left lung, SUVmax 4.2. "
    "It has grown since the prior study.\nLiver: No focal hepatic lesion.",
    "impression": "1. Nodule of the left lung (14 mm).",
    "indication": "Staging.",
}
STRUCTURES, FINDINGS = ("liver", "left lung"), ("lesion in the liver", "lesion in the left lung")


def look(study="a", asked=True):
    facts = np.arange(20, dtype=np.float32).reshape(5, 4)
    rows = {"solid nodule": facts[:2] + 100} if asked else {}
    probe = np.array([0, 1, 2, 3, 3])  # two lesions of the left lung
    return Look(study, np.ones((3, 6), np.float32), np.zeros((3, 3), np.float32), probe, facts, rows)


def test_sections_follow_the_headings_without_numbers_or_priors():
    found = report_sections(REPORT)
    assert found == {
        "lungs": ["There is a <size_1> solid nodule in the left lung, SUVmax <suv_max_1>."],
        "liver": ["No focal hepatic lesion."],
        "impression": ["Nodule of the left lung (<size_1>)."],
    }


def test_without_headings_the_organ_decides():
    text = "The lungs are clear. No pleural effusion. A cyst of 12 mm in the right kidney. It is simple."
    found = report_sections({"findings": text})
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
    found = readings_of(make_cache(data).entry("a"), ("lungs", "liver", "impression"))
    assert [(r.prompt, r.answer) for r in found[1:]] == [
        ("liver:", "No focal hepatic lesion."),
        ("impression:", "Nodule of the left lung (<size_1>)."),
        ("size question: How large is the nodule? answer:", "<size_1>"),
    ]
    assert found[0].context == (("indication", "Staging."),)
    assert section_prompt("liver", found[0].context) == "indication: Staging. liver:"


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
    assert rows_about(look(), about, None, STRUCTURES, FINDINGS).about_N.tolist() == marked


def test_rows_of_the_phrase_a_question_asks_about_stand_behind():
    rows = rows_about(look(), "How large is the solid nodule?", "solid nodule", STRUCTURES, FINDINGS)
    assert rows.probe_N.tolist() == [0, 1, 2, 3, 3, 4, 4]
    assert rows.facts_NF[5:].tolist() == (look().facts_NF[:2] + 100).tolist()
    assert rows.about_N.tolist() == [False] * 5 + [True] * 2
    unknown = rows_about(look(), "?", "something else", STRUCTURES, FINDINGS)
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
    return ReadingDataset(folder, readings, lambda question: "solid nodule", STRUCTURES, FINDINGS, **more)


@pytest.fixture
def readings(make_cache, make_study, tmp_path):
    look().save(tmp_path / "looks")
    data = make_study("a")
    data.attributes["report"] = REPORT
    data.attributes["qa"] = [{"q": "How large is the nodule?", "a": "14.2 mm", "type": "size"}]
    return readings_of(make_cache(data).entry("a"), ("lungs", "liver", "impression"))


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
    assert noise.std() == pytest.approx(0.1, rel=0.05)
    plain = dataset(tmp_path / "looks", readings, facts_noise=0, blind_cells=0, context_share=0)
    assert {plain[i].prompt for i in range(60)} == {r.prompt for r in readings}


def test_studies_without_text_are_nothing_to_learn_from(tmp_path):
    with pytest.raises(CacheError, match="report or questions"):
        dataset(tmp_path, [])


def test_padding_is_marked():
    short, long = (
        rows_about(look(), "lungs", None, STRUCTURES, FINDINGS),
        rows_about(look(), "lungs", "solid nodule", STRUCTURES, FINDINGS),
    )
    seen = stacked([look().cell_VC, look().cell_VC[:0]], [look().place_V3, look().place_V3[:0]], [short, long])
    assert seen.row_mask_BN.sum(1).tolist() == [5, 7]
    assert seen.cell_mask_BV.sum(1).tolist() == [3, 0]
    assert seen.facts_BNF.shape == (2, 7, 4)

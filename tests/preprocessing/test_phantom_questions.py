import json
import re
from collections import Counter
from dataclasses import asdict

import pytest

from preprocessing.phantom import PhantomStudy, generate_study
from preprocessing.phantom_lesions import PLACES
from preprocessing.phantom_questions import NO_SUCH, questions_of
from preprocessing.phantom_scan import PhantomOptions
from vol3d.text.questions import KINDS, NOT_IN_VIEW, normalise, question_kind, score_answer

OPTIONS = PhantomOptions(ct_spacing_mm=(9, 9), pet_spacing_mm=((9, 9, 9),))


@pytest.fixture(scope="module")
def studies() -> list[PhantomStudy]:
    return [generate_study(i, 5, kind="mixed", options=OPTIONS) for i in range(16)]


def asked(studies: list[PhantomStudy], wording: str = "seen") -> list[tuple[PhantomStudy, dict]]:
    return [(s, q) for s in studies for q in questions_of(s.row, wording)]


def test_every_kind_is_asked_and_its_own_answer_is_right(studies):
    for wording in ("seen", "unseen"):
        rows = asked(studies, wording)
        assert {q["type"] for _, q in rows} == set(KINDS)
        for _, q in rows:
            assert question_kind(q["q"]) == q["type"], q
            assert score_answer(q["a"], q["a"], q["type"], q.get("tolerance")).right, q
            assert not re.search(r"\{|\}|  |anywhere", q["q"]), q
        assert 10 <= len(rows) / len(studies) <= 26


def test_a_study_is_always_asked_the_same_in_either_wording(studies):
    row = json.loads(json.dumps(studies[0].row))
    assert questions_of(row) == questions_of(studies[0].row)
    seen, unseen = questions_of(row), questions_of(row, "unseen")
    assert [(q["a"], q["type"]) for q in seen] == [(q["a"], q["type"]) for q in unseen]
    assert not {q["q"] for q in seen} & {q["q"] for q in unseen}


def test_no_unseen_question_is_ever_asked_in_training(studies):
    seen = {q["q"] for _, q in asked(studies)}
    assert not seen & {q["q"] for _, q in asked(studies, "unseen")}


def test_wordings_vary(studies):
    starts = Counter(" ".join(q["q"].split()[:2]) for _, q in asked(studies) if q["type"] == "yes_no")
    assert len(starts) >= 4


def test_counts_sides_and_numbers_agree_with_the_findings(studies):
    checked = Counter()
    for study, q in asked(studies):
        present = [f for f in study.row["findings"] if f["present"]]
        if q["type"] == "count":
            assert 0 <= int(q["a"]) <= len(present)
            whole = re.search(r"(?<!avid )(?<!inactive )(?<!active )\blesions in the (liver|spleen)(?! with)\b", q["q"])
            if whole:
                assert int(q["a"]) == sum(f["organ"] == whole[1] for f in present)
                checked["count"] += 1
        elif q["type"] == "size" and q["a"] != NO_SUCH:
            numbers = [f["measurements"] for f in present]
            values = {f"{m['diameter_mm']:.1f} mm" for m in numbers} | {f"{m['volume_ml']:.1f} ml" for m in numbers}
            assert q["a"] in values | {f"SUVmax {m['suv_max']:.1f}" for m in numbers if "suv_max" in m}
            assert q["tolerance"] > 0
            checked["size"] += 1
        elif q["type"] == "side" and q["a"] in ("left", "right"):
            organ = {"pulmonary": "lung", "renal": "kidney", "paraspinal": "soft tissue"}
            sides = [f["side"] for f in present for w, o in organ.items() if w in q["q"] and f["organ"] == o]
            assert q["a"] in sides
            checked["side"] += 1
    assert min(checked[k] for k in ("count", "size", "side")) >= 2, checked


def test_what_is_asked_for_in_vain_is_absent_by_the_record(studies):
    vain = [(s, q) for s, q in asked(studies) if q.get("adversarial")]
    assert len(vain) >= 2 * len(studies)
    for study, q in vain:
        assert normalise(q["a"], q["type"]) in ("no", "none", "0"), q
        for finding in study.row["findings"]:  # no lesion of just that place is denied
            place = f"{finding['side']} {finding['organ']}" if finding["side"] else finding["organ"]
            if finding["present"] and place in PLACES:
                bare = rf"(?:a|the) (?:focal )?(?:lesion|nodule) (?:in|of) the {place}(?: \w+)?\?$"
                assert not re.search(bare, q["q"]), (q, place)


def test_out_of_view_is_neither_yes_nor_no():
    chest = PhantomOptions(ct_spacing_mm=(9, 9), pet_spacing_mm=((9, 9, 9),), views=("chest",), orientation="plain")
    rows = [q for i in range(4) for q in questions_of(generate_study(i, 8, kind="ct", options=chest).row)]
    outside = [q for q in rows if normalise(q["a"], q["type"]) == NOT_IN_VIEW]
    assert {q["type"] for q in outside} == {"yes_no", "open"}
    assert all(re.search("kidney|renal", q["q"]) for q in outside)
    assert not any("SUV" in q["q"] or "avid" in q["q"] for q in rows)
    assert {q["a"] for q in rows if q["type"] == "modality"} == {"CT"}
    verdict = score_answer("yes", outside[0]["a"], outside[0]["type"])
    assert asdict(verdict)["made_up"]


def test_answers_are_not_all_alike(studies):
    for kind, most in {"yes_no": 0.6, "side": 0.6, "count": 0.6, "location": 0.6, "organ": 0.6}.items():
        answers = Counter(normalise(q["a"], kind) for _, q in asked(studies) if q["type"] == kind)
        assert max(answers.values()) / sum(answers.values()) <= most, (kind, answers)

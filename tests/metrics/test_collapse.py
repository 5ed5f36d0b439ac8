import math

import pytest

from vol3d.errors import Vol3dError
from vol3d.metrics.collapse import contribution, information, variety
from vol3d.metrics.report_claims import claims_of
from vol3d.metrics.report_findings import score_claims, truths_of


def test_variety_takes_numbers_out_first():
    table = variety(["Nodule of 12 mm. Clear liver.", "Nodule of 30 mm. Clear liver.", "Clear liver."])
    assert (table.reports, table.unique_reports, table.sentences, table.unique_sentences) == (3, 2, 5, 2)
    assert table.identical_share == table.most_common_share == pytest.approx(2 / 3)
    assert table.sentence_entropy_bits == pytest.approx(-(0.6 * math.log2(0.6) + 0.4 * math.log2(0.4)))
    assert table.report_entropy_bits == pytest.approx(-(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3)))
    assert table.words.identical_share == 0  # word for word, numbers and all


def test_one_report_for_everybody_has_no_entropy():
    table = variety(["All is well."] * 4)
    assert (table.unique_reports, table.report_entropy_bits, table.sentence_entropy_bits) == (1, 0, 0)
    assert table.words.self_bleu == pytest.approx(1)


def test_what_the_image_contributed_is_the_difference_to_other_patients(phantom_reports):
    rows = phantom_reports(40, seed=3)
    truths = [truths_of(r["findings"]) for r in rows]
    patients = [r["patient_id"] for r in rows]
    mine = [claims_of(r["text"]) for r in rows]
    seeing = contribution(mine, truths, patients, samples=100)
    assert seeing.own.value == 1
    assert seeing.shuffled.value < 0.6
    assert seeing.contributed.value == pytest.approx(1 - seeing.shuffled.value)
    assert seeing.contributed.low > 0.3
    told = information([score_claims(c, t) for c, t in zip(mine, truths, strict=True)])
    assert told.share == pytest.approx(1)
    assert told.shuffled < 0.2

    blind = [claims_of("Nodule in the left lung. Lesion in the liver. Lesion in the spine.")] * 40
    guess = contribution(blind, truths, patients, samples=100)
    assert guess.own.value > 0.3  # lesions are frequent, so that a text that looks at nothing is often right
    assert abs(guess.contributed.value) < 0.06
    assert information([score_claims(c, t) for c, t in zip(blind, truths, strict=True)]).share == pytest.approx(0)


def test_too_few_patients_are_refused():
    with pytest.raises(Vol3dError, match="at least two patients"):
        contribution([(), ()], [(), ()], ["a", "a"])

"""What a sentence claims, and when it claims nothing."""

import numpy as np
import pytest

from preprocessing.weak_labels_text import Claim, Refusal, claims, tracer_of


def only(sentence, **report):
    found = claims({"findings": sentence, **report})
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("sentence", "suv", "half", "slices", "series"),
    [
        ("Hypermetabolic soft tissue mass with SUVmax 7.9 (slice 23).", 7.9, 0.05, (23, 23), None),
        ("FDG-avid node in the left axilla, SUVmax of 12 on axial slice 104.", 12.0, 0.5, (104, 104), None),
        ("Left renal mass, SUV max 5,41 (ct slice 31).", 5.41, 0.005, (31, 31), "ct"),
        ("Liver metastasis with an SUV of 6.3 on PET images 30-34.", 6.3, 0.05, (30, 34), "pet"),
        ("Axillary node, SUVmax 5.4 (image 12), previously SUVmax 7.1.", 5.4, 0.05, (12, 12), None),
    ],
)  # fmt: skip
def test_a_sentence_gives_its_numbers_and_loses_them(sentence, suv, half, slices, series):
    claim = only(sentence)
    assert isinstance(claim, Claim)
    assert (claim.suv_max, claim.slices, claim.series) == (suv, slices, series)
    assert claim.half_unit == pytest.approx(half)
    assert not any(c.isdigit() for c in claim.phrase)
    assert "suv" not in claim.phrase.lower()


def test_place_side_tracer_and_z_are_read():
    claim = only(
        "Hypermetabolic nodule in the right lung, SUVmax 4.2 (ct slice 9, z = -31.5 mm).", technique="PSMA PET."
    )
    assert (claim.organ, claim.side, claim.z_mm) == ("lung", "right", -31.5)
    assert claim.tracer == "FDG"  # hypermetabolic is said of FDG alone; the technique stands behind the sentence
    assert only("Avid node, SUVmax 4.2 (slice 9).", technique="68Ga-PSMA-11 PET/CT.").tracer == "PSMA"
    assert tracer_of("DOTATATE scan") == "DOTA"
    assert tracer_of("CT of the chest") is None


def test_rounding_decides_what_matches():
    claim = only("Mass, SUVmax 7.9 (slice 23).")
    assert claim.matches(np.array([7.84, 7.851, 7.949, 7.96])).tolist() == [False, True, True, False]


@pytest.mark.parametrize(
    ("sentence", "reason"),
    [
        ("Physiological uptake in the bladder, SUVmax 25.4 (slice 9).", "no lesion"),
        ("Blood pool SUVmax 1.9 (slice 80).", "no lesion"),
        ("Solid nodule in the right lung without FDG uptake, SUVmax 1.1 (slice 31).", "without uptake"),
        ("Non-avid hepatic lesion, SUVmax 1.4 (slice 12).", "without uptake"),
        ("Mass in the left thigh, SUVmax 7.9.", "names no slice"),
        ("Nodes with SUVmax 3.1 (slice 10) and SUVmax 4.0 (slice 15).", "one SUVmax"),
        ("Nodes with SUVmax 3.1-4.0 on slice 10.", "a range"),
        ("Mass of SUVmax 3.1 on slice 10 and slice 40.", "one slice"),
        ("The node with SUVmax 3.1 (slice 10) has resolved.", "resolved"),
    ],
)
def test_what_is_no_claim_is_refused_with_its_reason(sentence, reason):
    refusal = only(sentence)
    assert isinstance(refusal, Refusal)
    assert reason in refusal.reason
    assert refusal.sentence in sentence


def test_only_findings_and_impression_that_state_an_suv_are_looked_at():
    report = {"findings": "No node. Mass, SUVmax 3.0 (slice 4).", "indication": "Mass with SUVmax 9.9 (slice 1).",
              "impression": "FDG-avid mass."}  # fmt: skip
    assert [c.sentence for c in claims(report)] == ["Mass, SUVmax 3.0 (slice 4)."]

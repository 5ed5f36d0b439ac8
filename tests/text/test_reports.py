import pytest

from vol3d.text.reports import organ_at, organs_in, place, sections, sentences


@pytest.mark.parametrize(
    "heading", ["FINDINGS:", "Findings:", "**Findings:**", "## Findings\n", "Findings -", "Report:"]
)
def test_headings_in_many_spellings(heading):
    text = f"CLINICAL HISTORY: cough.\nTECHNIQUE: 1.0 mm slices.\n{heading} No effusion.\nCONCLUSION: 1. Normal."
    assert sections(text) == {
        "indication": "cough.", "technique": "1.0 mm slices.", "findings": "No effusion.", "impression": "1. Normal.",
    }  # fmt: skip


def test_no_heading_is_all_findings():
    assert sections("Heart is normal. Findings are mild.") == {"findings": "Heart is normal. Findings are mild."}
    assert sections("") == {}


def test_text_before_the_impression_is_findings():
    assert sections("Emphysema. Impression: Emphysema.") == {"findings": "Emphysema.", "impression": "Emphysema."}


def test_a_comparison_line_does_not_swallow_a_report_without_headings():
    parts = sections("Comparison: CT dated 25.12.2019. The heart is large. Effusion is seen.")
    assert parts == {"comparison": "CT dated 25.12.2019.", "findings": "The heart is large. Effusion is seen."}


def test_parts_of_one_name_are_joined():
    assert sections("Findings: A.\nImpression: B.\nFindings: C.")["findings"] == "A.\nC."


def test_sentences_survive_decimals_abbreviations_and_questions_in_brackets():
    text = "A 3.5 mm nodule (granuloma?) is seen, approx. 4 cm from the hilum. "
    text += "Examination after i.v. contrast by Dr. Who. End."
    assert sentences(text) == [
        "A 3.5 mm nodule (granuloma?) is seen, approx. 4 cm from the hilum.",
        "Examination after i.v. contrast by Dr. Who.",
        "End.",
    ]


def test_lists_in_any_dress():
    expected = ["Emphysema.", "Cyst of 12 mm", "Nodule"]
    assert sentences("1. Emphysema.\n2. Cyst of 12 mm\n3. Nodule") == expected
    assert sentences("• Emphysema. • Cyst of 12 mm • Nodule") == expected
    assert sentences('"" Emphysema. "" Cyst of 12 mm ""Nodule') == expected
    assert sentences("1) Emphysema. 2) Cyst of 12 mm\n- Nodule") == expected
    assert sentences("1. 30 mm cyst.\n2. Nodule.") == ["30 mm cyst.", "Nodule."]


def test_a_full_stop_without_a_space_ends_a_sentence():
    assert sentences("Lungs are clear.Heart is normal. Wedge in T12.vertebra.") == [
        "Lungs are clear.", "Heart is normal.", "Wedge in T12.vertebra.",
    ]  # fmt: skip


def test_an_abbreviation_before_a_capital_ends_a_sentence():
    assert sentences("Operated lung ca. No nodule.") == ["Operated lung ca.", "No nodule."]


@pytest.mark.parametrize(
    ("text", "word", "organ"),
    [
        ("A nodule is seen in the left lobe of the liver.", "nodule", "liver"),
        ("A nodule is seen in the left lower lobe.", "nodule", "lung"),
        ("Thyroid nodule and a cyst in the right kidney.", "nodule", "thyroid"),
        ("Thyroid nodule and a cyst in the right kidney.", "cyst", "kidney"),
        ("In the lower lobe of the right lung, adjacent to the pleura, a nodule is seen.", "nodule", "lung"),
        ("A nodule is seen in the middle segment.", "nodule", "lung"),
        ("The patient was scanned.", "patient", None),
    ],
)
def test_organ_of_a_word(text, word, organ):
    start = text.index(word)
    assert organ_at(text, start, start + len(word)) == organ


def test_organ_is_carried_on_and_named_by_sub_headings():
    report = "FINDINGS:\nLungs: A nodule is seen. It measures 8 mm.\nSpine: No lesion.\nIMPRESSION: 1. Stable."
    assert [(p.section, p.organ) for p in place(report)] == [
        ("findings", "lung"), ("findings", "lung"), ("findings", "bone"), ("impression", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "organ"),
    [
        ("focus of uptake in the right iliac bone", "bone"),
        ("FDG-avid focus in the left iliac crest", "bone"),
        ("lesion in the left acetabulum", "bone"),
        ("node along the right iliac vessels", "peritoneum"),
    ],
)
def test_bones_of_the_pelvis_are_bones(text, organ):
    assert {name for _, _, name in organs_in(text)} == {organ}

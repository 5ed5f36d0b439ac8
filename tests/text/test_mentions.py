import pytest

from vol3d.text.mentions import laterality, quantities, references_to_prior, without_prior


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ("a 12 mm nodule", "size", (12.0,)),
        ("a 1.2 cm nodule", "size", (12.0,)),
        ("a 3,5 cm cyst", "size", (35.0,)),
        ("13x9.3 mm", "size", (13.0, 9.3)),
        ("4.5 x 3 x 2 cm", "size", (45.0, 30.0, 20.0)),
        ("12 \u00d7 8 mm", "size", (12.0, 8.0)),
        ("5 mm x 4 mm", "size", (5.0, 4.0)),
        ("1 cm x 8 mm", "size", (10.0, 8.0)),
        ("12-mm nodule", "size", (12.0,)),
        ("2.8 and 2 mm", "size", (2.8, 2.0)),
        ("a volume of 3.2 ml", "volume", (3.2,)),
        ("12 cc of fluid", "volume", (12.0,)),
        ("SUVmax 4.2", "suv_max", (4.2,)),
        ("SUV max of 4.2", "suv_max", (4.2,)),
        ("SUVmax: 11", "suv_max", (11.0,)),
        ("SUVmean = 2.0", "suv_mean", (2.0,)),
        ("SUVpeak 3.1", "suv_peak", (3.1,)),
        ("SUV 2.5", "suv", (2.5,)),
        ("(ct slice 31)", "slice", (31.0,)),
        ("image number 129", "slice", (129.0,)),
        ("(ima: 47)", "slice", (47.0,)),
        ("(5:259)", "slice", (259.0,)),
        ("z = -12.5 mm", "z", (-12.5,)),
        ("(mean 20 HU)", "hu", (20.0,)),
    ],
)
def test_one_quantity(text, kind, values):
    assert [(q.kind, q.values) for q in quantities(text)] == [(kind, values)]


def test_ranges_keep_both_ends():
    (size,) = quantities("nodules of 3-5 mm")
    assert (size.values, size.is_range) == ((3.0, 5.0), True)
    (slices,) = quantities("slices 30-34")
    assert (slices.values, slices.is_range) == ((30.0, 34.0), True)
    assert [q.is_range for q in quantities("12 x 8 mm")] == [False]


def test_numbers_that_are_no_quantities_are_left():
    assert quantities("T12, segment 4, dated 05.02.2018, 3 nodules, CO-RADS 5, the 6th rib") == []


def test_several_in_reading_order():
    found = quantities("Nodule of 9 mm (SUVmax 3.0, ct slice 12), before 7 mm.")
    assert [q.kind for q in found] == ["size", "suv_max", "slice", "size"]
    assert [q.values for q in found] == [(9.0,), (3.0,), (12.0,), (7.0,)]


@pytest.mark.parametrize(
    ("text", "side"),
    [
        ("nodule in the left lung", "left"),
        ("right-sided effusion", "right"),
        ("bilateral effusion", "bilateral"),
        ("left and right kidney", "bilateral"),
        ("both lungs", "bilateral"),
        ("liver cyst", None),
    ],
)
def test_laterality(text, side):
    assert laterality(text) == side


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("Compared to the previous examination, the nodule is stable.", {"compared", "stable"}),
        ("A newly developed effusion is seen.", {"new"}),
        ("The nodule has increased in size.", {"larger"}),
        ("The mass shows regression since May.", {"compared", "smaller"}),
        ("The effusion has resolved.", {"resolved"}),
        ("No significant change.", {"stable"}),
        ("A nodule with increased FDG uptake.", set()),
        ("A 5 mm nodule in the left lung.", set()),
    ],
)
def test_references_to_prior(text, changes):
    assert references_to_prior(text) == changes


def test_sentences_that_one_image_can_answer():
    assert list(without_prior(["Emphysema.", "Stable nodule.", "Cyst."])) == ["Emphysema.", "Cyst."]

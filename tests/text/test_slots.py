import pytest

from preprocessing.phantom import generate_study
from vol3d.text.slots import SlotError, fill, slot_names, take_numbers

SENTENCE = "There is a 12 x 8 mm nodule with SUVmax 4.2 (ct slice 31, z = -12.5 mm), and one of 0.9 cm."


def test_numbers_leave_and_come_back():
    slotted = take_numbers(SENTENCE)
    assert slotted.template == (
        "There is a <size_1> nodule with SUVmax <suv_max_1> (ct slice <slice_1>, z = <z_1>), and one of <size_2>."
    )
    assert slotted.values == {
        "size_1": (12.0, 8.0), "suv_max_1": (4.2,), "slice_1": (31.0,), "z_1": (-12.5,), "size_2": (9.0,),
    }  # fmt: skip
    assert slotted.original() == SENTENCE
    assert slot_names(slotted.template) == list(slotted.values)


def test_slots_take_measured_values():
    text = fill(take_numbers(SENTENCE).template, {
        "size_1": (10.04, 7), "suv_max_1": 3.96, "slice_1": (30, 34), "z_1": -9, "size_2": 8.25,
    })  # fmt: skip
    assert text == "There is a 10.0 x 7.0 mm nodule with SUVmax 4.0 (ct slice 30-34, z = -9.0 mm), and one of 8.2 mm."


def test_a_slot_without_a_value_is_refused():
    with pytest.raises(SlotError, match="no value for suv_max_1; given: size_1"):
        fill("<size_1>, <suv_max_1>", {"size_1": 3.0})


def test_slots_are_not_taken_twice():
    with pytest.raises(SlotError, match="already holds the slot <size_1>"):
        take_numbers("a <size_1> nodule of 3 mm")


@pytest.mark.parametrize("index", range(4))
def test_phantom_reports_keep_no_measured_number(index):
    study = generate_study(index, 5)
    text = study.row["report"]["findings"] + "\n" + study.row["report"]["impression"]
    slotted = take_numbers(text)
    assert slotted.original() == text
    for finding in study.row["findings"]:
        for name, value in finding["measurements"].items():
            if name == "suv_max":
                assert f" {value:.1f}" not in slotted.template
            elif name == "diameter_mm":
                assert f"{value:.0f} mm" not in slotted.template

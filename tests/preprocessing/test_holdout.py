import pytest

from preprocessing.holdout import combinations_in, hold_out
from vol3d.errors import ManifestError


def row(name: str, split: str, *shown: tuple[str, str], patient: str | None = None) -> dict:
    findings = [
        {"id": f"l{i}", "name": "lesion", "organ": organ, "density": density, "uptake": None, "present": True}
        for i, (organ, density) in enumerate(shown)
    ]
    findings.append({"id": "none", "name": "focal lesion", "organ": "spleen", "present": False})
    return {"study_id": name, "patient_id": patient or name, "split": split, "findings": findings, "meta": {"sex": "F"}}


ROWS = [
    row("a", "train", ("liver", "calcified")),
    row("b", "train", ("liver", "solid")),
    row("c", "train", ("lung", "calcified")),
    row("d", "val", ("liver", "calcified"), ("lung", "solid")),
    row("e", "test", ("liver", "solid")),
    row("f", "train", ("lung", "solid"), patient="a"),
]


def test_training_and_validation_never_see_what_is_held_out():
    held = hold_out(ROWS, [("liver", "calcified")])
    assert {r["study_id"]: r["split"] for r in held.rows} == {
        "a": "test", "b": "train", "c": "train", "d": "test", "e": "test", "f": "test",
    }  # fmt: skip
    assert held.moved == {"train": ["a", "f"], "val": ["d"]}  # the other study of patient a goes with it
    assert held.remaining == {"test": 4, "train": 2}
    assert held.shown == {("liver", "calcified"): 2}
    assert (held.organ_left, held.trait_left) == ({("liver", "calcified"): 1}, {("liver", "calcified"): 1})
    for r in held.rows:
        assert (r["split"] == "test") == (r["meta"].get("held_out") == [["liver", "calcified"]])
        assert r["meta"]["sex"] == "F"
    assert ROWS[0]["split"] == "train"
    assert "held_out" not in ROWS[0]["meta"]


def test_what_nobody_shows_is_refused():
    with pytest.raises(ManifestError, match=r"\('liver', 'lytic'\).*liver calcified"):
        hold_out(ROWS, [("liver", "lytic")])
    with pytest.raises(ManifestError, match="found none"):
        hold_out(ROWS, [])


def test_training_must_keep_the_parts():
    with pytest.raises(ManifestError, match="found none left of liver calcified"):
        hold_out([r for r in ROWS if r["study_id"] != "c"], [("liver", "calcified")])


def test_absent_findings_show_nothing_and_names_stand_in_for_traits():
    shown = {
        "findings": [{"organ": "pleura", "name": "effusion", "present": True}, {"organ": "lung", "present": False}]
    }
    assert combinations_in(shown) == {("pleura", "effusion")}


def test_phantoms_keep_enough_to_learn_from(phantom_rows):
    chosen = ("liver", "calcified")
    before = sum(chosen in combinations_in(r) and r["split"] != "test" for r in phantom_rows)
    held = hold_out(phantom_rows, [chosen])
    train = [r for r in held.rows if r["split"] == "train"]
    assert not any(chosen in combinations_in(r) for r in held.rows if r["split"] != "test")
    assert sum(map(len, held.moved.values())) == before > 0
    assert len(train) >= 6


@pytest.fixture(scope="module")
def phantom_rows():
    from preprocessing.phantom import generate_study
    from preprocessing.phantom_scan import PhantomOptions

    options = PhantomOptions(ct_spacing_mm=(9, 9), pet_spacing_mm=((9, 9, 9),))
    return [generate_study(i, 4, kind="ct", options=options).row for i in range(16)]

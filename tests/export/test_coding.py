"""A structure gets its code only if it is what the phrase names as a whole."""

import csv
import re
from importlib.resources import files

import pytest
from pydicom.sr._concepts_dict import concepts

from vol3d.export.coding import PRIVATE_SCHEME, codes_for, one_line
from vol3d.text.organs import structures


@pytest.mark.parametrize(
    ("phrase", "kind", "side"),
    [
        ("left kidney", "64033007", "Left"), ("Kidney on the RIGHT", "64033007", "Right"),
        ("kidney_left", "64033007", "Left"),
        ("the whole liver", "10200004", None), ("T12 vertebra", "23215003", None), ("rib_left_3", "25888004", "Left"),
        ("right lung", "39607008", "Right"), ("lung_middle_lobe_right", "72481006", None),
        ("urinary bladder", "89837001", None),
    ],
)  # fmt: skip
def test_structures(phrase, kind, side):
    found = codes_for(phrase)
    assert (found.category.meaning, found.kind.value, found.kind.scheme_designator) == (
        "Anatomical Structure",
        kind,
        "SCT",
    )
    assert (found.modifier.meaning if found.modifier else None) == side
    assert found.site is None


@pytest.mark.parametrize(
    ("phrase", "kind", "site", "side"),
    [
        ("FDG-avid nodule in the right lung", "Nodule", "Lung", "Right"),
        ("hepatic metastases", "Metastasis", "Liver", None),
        ("cyst of the left kidney", "Cyst", "Kidney", "Left"), ("tumour", "Neoplasm", None, None),
    ],
)  # fmt: skip
def test_lesions_keep_their_organ_as_a_site(phrase, kind, site, side):
    found = codes_for(phrase)
    assert (found.category.value, found.kind.meaning) == ("49755003", kind)
    assert (found.site.region.meaning if found.site else None) == site
    assert (found.site.modifier.meaning if found.site and found.site.modifier else None) == side


def test_anything_else_is_a_private_code_that_says_the_phrase():
    found = codes_for("thickened wall of the left kidney")
    assert found.kind.scheme_designator == PRIVATE_SCHEME
    assert found.kind.meaning == "thickened wall of the left kidney"
    assert len(found.kind.value) <= 16
    assert found.site.region.meaning == "Kidney"
    assert codes_for("Thickened  wall of the left kidney").kind.value == found.kind.value
    assert codes_for("thickened wall of the right kidney").kind.value != found.kind.value


def test_every_structure_with_one_class_has_a_code():
    missing = {s.name for s in structures().values() for p in s.phrases if codes_for(p).kind.scheme_designator != "SCT"}
    assert missing <= {"spine"}  # no SNOMED row of its own


def test_every_row_of_the_table_is_found_by_its_name():
    rows = list(csv.DictReader((files("vol3d.export") / "codes" / "structures.csv").read_text().splitlines()))
    assert len(rows) > 400
    for row in rows:
        assert codes_for(row["name"]).kind.value == row["type"], row["name"]


def test_one_line():
    assert one_line("a\\b\n c\x07d") == "a/b c d"
    assert one_line("x" * 65) == "x" * 61 + "..."
    assert one_line("é" * 32) == "é" * 32
    assert one_line("é" * 33) == "é" * 30 + "..."


def test_no_code_means_something_else_in_the_standard():
    """Against the meanings that the standard's context groups give a code, by the beginnings of their words."""
    known: dict[str, set[str]] = {}
    for meanings in concepts["SCT"].values():
        for value, (meaning, *_) in meanings.items():
            known.setdefault(value, set()).add(meaning.lower())

    def words(text):
        return {w[:4] for w in re.findall("[a-z0-9]+", text.lower())} - {"stru", "of", "body"}

    compared = 0
    for table, columns in (("structures.csv", ("type", "region")), ("findings.csv", ("type",))):
        rows = csv.DictReader((files("vol3d.export") / "codes" / table).read_text(encoding="utf-8").splitlines())
        for row in rows:
            for column in columns:
                if row[column] not in known:
                    continue
                said = words(row[f"{column}_meaning"])
                assert any(said & words(m) for m in known[row[column]]), row
                for side in ("left ", "right "):
                    sided = all(side in f"{m} " for m in known[row[column]])
                    assert not sided or side.strip() in row["name"].split("_"), row
                compared += 1
    assert compared > 100


def test_the_absence_of_a_lesion_is_not_coded_as_one():
    for phrase in ("liver without metastases", "no nodule in the left lung", "tumour free margin"):
        assert codes_for(phrase).kind.scheme_designator == PRIVATE_SCHEME

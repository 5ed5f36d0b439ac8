"""Wordings of findings: from the vocabulary, from words, from files."""

import pytest

from vol3d.errors import ConfigError
from vol3d.text import finding_names, label_findings
from vol3d.text.organs import structures
from vol3d.text.prompts import FindingPrompts, prompts_for, read_prompts, vocabulary


def test_every_finding_has_wordings_and_sites_that_exist():
    table = vocabulary()
    assert set(finding_names()) <= set(table)
    for name, prompts in table.items():
        assert prompts.name == name
        assert len(prompts.positive) >= 2
        assert len(prompts.negative) >= 2
        assert set(prompts.sites) <= set(structures())
    lesions = [n for n in finding_names() if n.endswith("_lesion")]
    read = {n: label_findings(f"There is a {table[n].positive[0]}.").get(n) for n in lesions}
    assert not [n for n, value in read.items() if value != 1]  # the labeler reads them as what they ask for


@pytest.mark.parametrize("asked", ["liver_lesion", "liver lesion", " The  Liver lesion "])
def test_a_name_in_any_spelling_is_the_finding(asked):
    assert prompts_for(asked) == FindingPrompts(
        name="liver_lesion",
        positive=("liver lesion", "hepatic lesion", "lesion in the liver", "focal lesion in the liver",
                  "focal hepatic lesion"),
        negative=("no liver lesion", "no evidence of liver lesion", "without hepatic lesion"),
        sites=("liver",),
        statement="Liver lesion.",
    )  # fmt: skip


def test_a_side_goes_into_every_wording_and_into_the_site():
    left = prompts_for("left lung lesion")
    assert left.positive[:3] == ("left lung lesion", "left pulmonary lesion", "lesion in the left lung")
    assert left.sites == ("lung_left",)
    assert prompts_for("lung lesion").sites == ("lung_left", "lung_right")
    fluid = prompts_for("right-sided pleural effusion")
    assert fluid.positive == (
        "right pleural effusion", "right-sided pleural effusion", "pleural effusion on the right",
    )  # fmt: skip
    assert fluid.sites == ("lung_right",)
    assert fluid.name == "right-sided pleural effusion"  # another question than pleural_effusion


def test_any_words_can_be_asked():
    cyst = prompts_for("calcified right renal cyst")
    assert cyst.positive == (
        "calcified right renal cyst", "the calcified right renal cyst", "calcified cyst in the right kidney",
        "evidence of calcified right renal cyst",
    )  # fmt: skip
    assert cyst.sites == ("kidney_right",)
    assert prompts_for("hyperdense kidney rim").sites == ("kidney_left", "kidney_right")
    assert prompts_for("tumour thrombus").sites == ()
    assert prompts_for("tumour thrombus").statement == "Tumour thrombus."


def test_only_a_pet_tells_uptake():
    asked = ("fdg_avid_liver_lesion", "hypermetabolic node", "non-avid lesion", "lesion with FDG uptake")
    assert all(prompts_for(a).needs_pet for a in asked)
    assert not prompts_for("liver_lesion").needs_pet


@pytest.mark.parametrize(
    ("asked", "message"),
    [("  ", "expected the name of a finding"), ("?", "name of a finding"), ("no pleural effusion", "found a denial"),
     ("absence of liver lesions", "leave the denial out")],
)  # fmt: skip
def test_what_is_no_finding_is_refused(asked, message):
    with pytest.raises(ConfigError, match=message):
        prompts_for(asked)


def test_a_file_of_lines(tmp_path):
    (tmp_path / "p.txt").write_text("liver_lesion\n\n  tumour thrombus \n")
    assert read_prompts(tmp_path / "p.txt") == [prompts_for("liver lesion"), prompts_for("tumour thrombus")]


def test_a_file_of_wordings(tmp_path):
    (tmp_path / "p.yaml").write_text(
        "spleen_lesion:\n"
        "liver lesion: [hepatic focus, focus in the liver]\n"
        "renal cyst: {positive: [cyst of a kidney], negative: [kidneys without cysts], site: kidney}\n"
    )
    spleen, liver, cyst = read_prompts(tmp_path / "p.yaml")
    assert spleen == prompts_for("spleen_lesion")
    assert (liver.name, liver.positive, liver.negative) == ("liver_lesion", ("hepatic focus", "focus in the liver"), ())
    assert liver.sites == ("liver",)
    assert cyst.sites == ("kidney_left", "kidney_right")
    assert cyst.wordings == ("cyst of a kidney", "kidneys without cysts")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.txt", "\n", "at least one finding"),
        ("p.txt", "liver lesion\nliver_lesion\n", "'liver_lesion' 2 times"),
        ("p.yaml", "liver_lesion: [a]\nliver_lesion: [b]\n", "stands twice"),
        ("p.yaml", "liver_lesion: {positiv: [a]}\n", "did you mean 'positive'"),
        ("p.yaml", "liver_lesion: {negative: [a]}\n", "missing key 'positive'"),
        ("p.yaml", "liver_lesion: []\n", "at least one wording under positive"),
        ("p.yaml", "liver_lesion: [a, a]\n", "none twice"),
        ("p.yaml", "liver_lesion: [no]\n", r"expected str, found False"),
        ("p.yaml", "liver_lesion: {positive: [a], negative: [a]}\n", "'a' twice"),
        ("p.yaml", "liver_lesion: {positive: [a], site: moon}\n", "found 'moon'"),
        ("p.yaml", "- liver\n", "expected a section"),
        ("q.txt", None, "found nothing at"),
        ("q.yaml", None, "found nothing at"),
    ],
)
def test_a_wrong_file_is_named(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_prompts(tmp_path / name)

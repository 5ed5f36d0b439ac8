"""`vol3d evaluate --language`: drafts at a level they can be right at, equivalent inputs, learned metrics, held out."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from vol3d.cache import Cache
from vol3d.text.slots import take_numbers
from vol3d.volume import Volume
from vol3d.workflows.drafts import Draft
from vol3d.workflows.equivalent_reports import even_sample, report_again
from vol3d.workflows.evaluate_consistency import stated
from vol3d.workflows.evaluate_drafts import UNSIZED, score_drafts
from vol3d.workflows.printed import printed_text
from vol3d.workflows.records import load_record
from vol3d.workflows.variants import CT_NOISE_HU, KINDS


@pytest.fixture(scope="module")
def entries(tiny):
    cache = Cache(tiny.cache)
    return [cache.entry(study) for study in cache.study_ids]


def drafts_of(entry):
    """Its own report as a writer drafts it: by section, slots for numbers."""
    out = [Draft("impression", take_numbers(entry.report["impression"]).template)]
    for line in entry.report["findings"].splitlines():
        section, _, told = line.partition(": ")
        out.append(Draft(section.lower(), take_numbers(told).template))
    return out


def test_the_true_report_with_slots_is_right_at_every_level_of_drafts(entries):
    drafts = [drafts_of(entry) for entry in entries]
    assert any("<size_1>" in d.sentence for own in drafts for d in own)
    table = score_drafts(entries, drafts, 20)
    assert "lesion" not in table  # of which size is a part
    assert {level: own["f1"]["value"] for level, own in table.items()} == dict.fromkeys(table, 1.0)
    assert table[UNSIZED]["f1"]["cases"] == len(entries)


@pytest.mark.parametrize(("word", "other"), [("right", "left"), ("solid", "calcified"), ("increased", "no increased")])
def test_a_draft_wrong_in_one_trait_is_wrong_without_sizes_too(entries, word, other):
    drafts = [[replace(d, sentence=d.sentence.replace(word, other)) for d in drafts_of(e)] for e in entries]
    found = score_drafts(entries, drafts, 20)[UNSIZED]
    assert found["f1"]["value"] < 1
    assert score_drafts(entries, [[] for _ in entries], 20)[UNSIZED]["recall"]["value"] == 0


def test_variants_go_the_whole_way_of_a_new_study(entries, tmp_path):
    entry, seen = entries[0], {}

    def write(changed, row, folder, context):
        seen[folder.parent.name] = {name: changed.read_level(name, 0) for name in changed.images}
        assert changed.study_id == row.study_id == folder.name == entry.study_id

    reporter = SimpleNamespace(checkpoint=SimpleNamespace(recipe=Cache(entry.path.parents[1]).recipe), write=write)
    folders = report_again(reporter, [entry], tmp_path, show_progress=False)
    assert set(seen) == set(folders) == set(KINDS)
    own = entry.read_level("ct", 0)
    turned = seen["orientation"]["ct"]
    assert turned.grid.same_as(own.grid, 1e-3)
    assert np.array_equal(turned.array_ZYX, own.array_ZYX)  # stored otherwise, and the same study
    noise = seen["noise"]["ct"].array_ZYX.astype(float) - own.array_ZYX
    assert np.std(noise[own.array_ZYX > -900]) == pytest.approx(CT_NOISE_HU, rel=0.1)
    shifted = seen["shift"]["ct"]
    assert not shifted.grid.same_as(own.grid, 0.5)
    moved = [np.roll(shifted.array_ZYX, step, axis) for axis in range(3) for step in (-1, 1)]
    right, *wrong = (alike(Volume(a, shifted.grid, "ct"), own) for a in (shifted.array_ZYX, *moved))
    assert right > max(0.95, *wrong)  # nothing moved in the world, not by a voxel


def alike(volume, other):
    """Correlation of two volumes where both are."""
    inside = volume.grid.covers(other.grid)
    return np.corrcoef(volume.resample_to(other.grid).array_ZYX[inside], other.array_ZYX[inside])[0, 1]


def test_an_even_sample_has_no_more_than_there_are():
    assert even_sample(list("abcdefg"), 3) == ["a", "d", "g"]
    assert even_sample(list("ab"), 5) == ["a", "b"]


@pytest.fixture(scope="module")
def evaluated(tiny, vol3d, tmp_path_factory):
    """The test study of the tiny run, one of its lesions of a combination that was held out."""
    folder = tmp_path_factory.mktemp("language")
    rows = [json.loads(line) for line in tiny.manifest.read_text().splitlines()]
    rows = [row for row in rows if row["split"] == "test"]
    shown = next(f for row in rows for f in row["findings"] if f["present"])
    for row in rows:
        row["meta"] = {**row.get("meta", {}), "held_out": [[shown["organ"], shown["density"]]]}
    manifest = tiny.manifest.parent / "held-out.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert vol3d("preprocess", manifest, "--config", tiny.config, "--out", folder / "cache") == 0
    scores = folder / "green.jsonl"
    scores.write_text("".join(json.dumps({"study_id": row["study_id"], "score": 0.25}) + "\n" for row in rows))
    more = ["--language", "--consistency", "9", "--learned", f"green={scores}", "--samples", "20"]
    assert vol3d("evaluate", tiny.run, folder / "cache", "--out", folder / "out", *more) == 0
    tables = {name: json.loads((folder / "out" / f"{name}.json").read_text()) for name in ("metrics", "language")}
    return SimpleNamespace(folder=folder, studies=[row["study_id"] for row in rows], **tables)


def test_reports_of_equivalent_inputs_are_in_the_summary(evaluated):
    table, headline = evaluated.language["consistency"], evaluated.language["headline"]
    assert set(table) == {"unchanged", *KINDS}
    for kind in KINDS:
        assert table[kind]["identical"]["cases"] == len(evaluated.studies)
        assert headline[f"consistency_{kind}_identical"] == table[kind]["identical"]["value"]
        folder = evaluated.folder / "out" / "reports-changed" / kind
        assert sorted(p.name for p in folder.iterdir()) == sorted(evaluated.studies)
        before, after = (stated_in(f, evaluated.studies) for f in (evaluated.folder / "out" / "reports", folder))
        shared = [len(a & b) / len(a | b) if a | b else 1.0 for a, b in zip(before, after, strict=True)]
        assert table[kind]["overlap"]["value"] == pytest.approx(np.mean(shared))
        assert table[kind]["identical"]["value"] == np.mean([a == b for a, b in zip(before, after, strict=True)])


def stated_in(folder, studies):
    return [set(stated(printed_text(load_record(folder / study)))) for study in studies]


def test_learned_and_unsized_scores_are_in_the_summary(evaluated):
    assert evaluated.language["headline"]["learned_green"] == 0.25
    assert evaluated.language["reports"]["learned"]["green"]["cases"] == len(evaluated.studies)
    assert f"reports_{UNSIZED}_f1" in evaluated.language["headline"]


def test_held_out_combinations_are_in_both_summaries(evaluated):
    masks = evaluated.metrics["unseen_combinations"]
    lesions = evaluated.metrics["probes"]["lesion"]
    assert 0 < masks["held_out_lesion_dice"]["cases"] < lesions
    assert masks["held_out_lesion_dice"]["cases"] + masks["other_lesion_dice"]["cases"] == lesions
    assert "held_out_lesion_dice" in evaluated.metrics["headline"]
    headline = evaluated.language["headline"]
    assert headline["unseen_combinations_lesions_found"] is not None
    assert headline["questions_answers_unseen_combinations"] is not None


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--consistency", "2"], "expected --language"),
        (["--learned", "green=x.jsonl"], "expected --language"),
        (["--language", "--learned", "green"], "NAME=PATH"),
        (["--language", "--learned", "a=x", "--learned", "a=y"], "each name once"),
        (["--language", "--learned", "green=nowhere.jsonl"], "JSON lines"),
        (["--language", "--learned", "green={folder}"], "trust_remote_code"),
        (["--language", "--learned", "ratescore={folder}"], "RaTE-NER-Deberta"),
    ],
)
def test_what_cannot_be_scored_is_said_before_anything_is_written(vol3d, tiny, tmp_path, capsys, more, message):
    more = [word.format(folder=tmp_path) for word in more]
    assert vol3d("evaluate", tiny.run, tiny.cache, "--out", tmp_path / "out", *more) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
